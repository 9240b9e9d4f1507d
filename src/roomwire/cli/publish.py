"""``roomwire publish``: an event from the command line, over the backplane that the nodes have."""

from __future__ import annotations

import json
import sys
from functools import partial
from math import isinf
from pathlib import Path

import anyio
import click

from roomwire.cli._application import put_on_path
from roomwire.cli._options import as_json, config_options
from roomwire.cli._output import print_json
from roomwire.core.envelope import dump
from roomwire.core.errors import LocalError
from roomwire.core.publication import Publication
from roomwire.publisher import AsyncPublisher, Draft, PublishFailed

__all__ = ["command"]


@click.command("publish")
@click.argument("room")
@click.argument("event")
@click.argument("data", required=False, default="null")
@click.option("--key", help="Makes it idempotent: a second publish with the key returns the first.")
@click.option("--exclude", metavar="CLIENT", help="The client id that does not get it.")
@click.option("--user", help="Who publishes it. With --exclude: whose client is left out.")
@click.option("--ephemeral", is_flag=True, help="For those who are live now; it is not stored.")
@config_options
@as_json
def command(
    *,
    room: str,
    event: str,
    data: str,
    key: str | None,
    exclude: str | None,
    user: str | None,
    ephemeral: bool,
    config: Path | None,
    env_file: Path | None,
    as_json: bool,
) -> None:
    """Publish EVENT to all members of ROOM, on all nodes, over the backplane of the configuration.

    DATA is JSON (null by default); with - it is read from stdin. No node has to run here. Printed is the
    id of the event, once it is stored. Where it fails (exit code 1), the error names the key to try again with.
    """
    value = _read(sys.stdin.buffer.read() if data == "-" else data)
    draft = Draft(room, event, value, key, exclude, user, history=not ephemeral)
    put_on_path(Path())
    publisher = AsyncPublisher.from_config(config, env_file=env_file)
    try:
        publication = anyio.run(partial(_publish, publisher, draft))
    except PublishFailed as error:
        state = "it may have been stored" if error.stored is None else "it was not stored"
        retry = f"; try again with --key {error.key}" if error.key is not None else ""
        raise click.ClickException(f"{error}: {state}{retry}") from error
    if as_json:
        print_json({"room": publication.room, "event": publication.event, "id": publication.id})
    elif publication.id is not None:
        click.echo(publication.id)


def _read(text: str | bytes) -> object:
    try:
        value: object = json.loads(text, parse_constant=_refuse, parse_float=_finite)
        dump(value)  # a lone surrogate cannot be
        return value
    except (ValueError, RecursionError) as error:
        raise LocalError(f"DATA is not JSON: {error}") from None


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if isinf(value):  # it would be published as null
        raise ValueError(f"{text[:20]} is beyond what a double holds")
    return value


async def _publish(publisher: AsyncPublisher, draft: Draft) -> Publication:
    async with publisher:
        return await publisher.publish(
            draft.room,
            draft.event,
            draft.data,
            key=draft.key,
            exclude=draft.exclude,
            user=draft.user,
            history=draft.history,
        )
