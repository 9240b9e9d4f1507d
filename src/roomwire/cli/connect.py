"""``roomwire connect``: talk to a server from the terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import anyio
import click

from roomwire.cli._demo import token_maker
from roomwire.cli._options import config_options, load_config
from roomwire.cli._terminal import HELP, Conversation, read_lines
from roomwire.client import connect
from roomwire.client.headers import bearer
from roomwire.config import Settings
from roomwire.core.errors import ConfigError, ConnectionClosed, LocalError, RoomwireError

__all__ = ["command"]

TOKEN_VARIABLE = "ROOMWIRE_TOKEN"  # noqa: S105  its name

Token = str | Callable[[], str] | None


@click.command("connect", epilog="\b\nLines:\n" + "\n".join("  " + line for line in HELP.splitlines()))
@click.argument("url", required=False)
@click.option("--user", help="Connect as this user, with a token made by the local configuration.")
@click.option("--room", "rooms", multiple=True, help="Join it; may be repeated. The last one is the current one.")
@click.option("--listen", is_flag=True, help="Print what comes and read no lines.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")
@config_options
def command(
    *,
    url: str | None,
    user: str | None,
    rooms: tuple[str, ...],
    listen: bool,
    as_json: bool,
    config: Path | None,
    env_file: Path | None,
) -> None:
    """Connect to URL (default: the address in the configuration) and talk.

    The token is taken from the environment variable ROOMWIRE_TOKEN; a command line is for everybody to see.
    It ends with the input, /quit or Ctrl-C.
    """
    settings = load_config(config, env_file).settings if url is None or user is not None else None
    target, uds = (url, None) if url is not None or settings is None else _address(settings)
    talk = partial(_talk, str(target), uds, _token(user, settings), rooms, listen=listen, as_json=as_json)
    try:
        anyio.run(talk)
    except KeyboardInterrupt:
        click.echo(err=True)
    except ConnectionClosed as error:
        raise click.ClickException(str(error)) from error


def _address(settings: Settings) -> tuple[str, str | None]:
    server = settings.server
    scheme = "ws" if server.ssl_certfile is None else "wss"
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(server.host, server.host)  # noqa: S104  where it listens
    if ":" in host:
        host = f"[{host}]"
    return f"{scheme}://{host}:{server.port}{server.path}", server.uds


def _token(user: str | None, settings: Settings | None) -> Token:
    if user is None or settings is None:
        return _token_of_the_environment()
    make = token_maker(settings)
    if make is None:
        raise ConfigError(f"--user: the configuration is not enough to make a token with; set {TOKEN_VARIABLE}")
    return partial(make, user)


def _token_of_the_environment() -> str | None:
    token = os.environ.get(TOKEN_VARIABLE)
    if token is not None:
        try:
            bearer(token)
        except LocalError as error:
            raise ConfigError(f"{TOKEN_VARIABLE}: {error}") from None
    return token


async def _talk(
    url: str, uds: str | None, token: Token, rooms: tuple[str, ...], *, listen: bool, as_json: bool
) -> None:
    async with connect(url, token=token, uds=uds, state=True, link_events=True) as client:
        conversation = Conversation(client, rooms[-1] if rooms else None, as_json=as_json)
        click.echo(f"connected as {client.user}", err=True)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(conversation.listen)
                for room in rooms:
                    await conversation.say(f"/join {room}")
                if listen:
                    await anyio.sleep_forever()
                async for line in read_lines(sys.stdin.fileno()):
                    if not await conversation.say(line):
                        break
                tasks.cancel_scope.cancel()
        except* RoomwireError as group:
            raise group.exceptions[0] from None
