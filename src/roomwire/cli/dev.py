"""``roomwire dev``: serve for development."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import click

from roomwire.cli._application import directory_of, load_app
from roomwire.cli._demo import USERS, TokenMaker, demo_pages, fresh_secret, token_maker
from roomwire.cli._logging import set_up_logging
from roomwire.cli._options import load_config, one_process, server_options, warn
from roomwire.cli._reload import can_reload, supervise
from roomwire.cli._serve import export_env_file, refuse_hosted, serve_until_done
from roomwire.config import Loaded
from roomwire.core.errors import ConfigError

__all__ = ["command"]

# Nobody waits for a development server: its clients come back at once.
_HASTE = {"drain_timeout": 3.0, "reconnect_spread": 0.5}
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


@click.command("dev")
@click.argument("app", required=False, metavar="[MODULE:ATTRIBUTE]")
@server_options
@click.option(
    "--reload/--no-reload", default=None, help="Start anew when a file changes.  [where watchfiles is installed]"
)
@click.option("--no-banner", is_flag=True, hidden=True)
@click.pass_context
def command(
    ctx: click.Context,
    /,
    *,
    config: Path | None,
    env_file: Path | None,
    factory: bool,
    app_dir: Path,
    reload: bool | None,
    no_banner: bool,
    fd: int | None,
    **flags: object,
) -> None:
    """Serve an application for development.

    As `run`, and besides: it starts anew when a file changes (not for a debugger: --no-reload), it serves
    the index.html beside the application as its page, and it has tokens for two users at hand. A secret
    that the configuration takes from the environment, and that is not set, is made up.
    """
    one_process(flags, "roomwire dev")
    if reload or (reload is None and can_reload()):
        arguments = [argument for argument in sys.argv[1:] if argument != "--reload"]
        ctx.exit(supervise([*arguments, "--no-reload"], [app_dir], descriptor=fd))
    loaded = _load(config, env_file, {**_HASTE, "fd": fd, **flags, "workers": 1})
    refuse_hosted(loaded)
    warn(loaded)
    if loaded.settings.server.host not in _LOOPBACK:
        raise ConfigError(
            f"{loaded.where('server', 'host')}: `roomwire dev` hands out tokens, so it serves this machine only:"
            " use 127.0.0.1, or `roomwire run`"
        )
    export_env_file(loaded)
    _export_secret(loaded)
    set_up_logging(loaded.settings.logging)
    app = load_app(loaded.settings.app, app_dir=app_dir, factory=factory)
    make_token = token_maker(loaded.settings)
    pages = demo_pages(directory_of(loaded.settings.app or ""), make_token)

    def announce(addresses: Sequence[str]) -> None:
        if not no_banner:
            _banner(loaded, addresses, pages, make_token)

    serve_until_done(app, loaded, on_ready=announce, pages=pages)


def _load(config: Path | None, env_file: Path | None, flags: Mapping[str, object]) -> Loaded:
    """The configuration; where it says nothing of authentication, JWTs with a secret of this run."""
    secret = fresh_secret()
    loaded = load_config(config, env_file, flags, fallbacks={"auth.options.secret": secret})
    auth = loaded.settings.auth
    if auth.type == "jwt" and not auth.options:
        options = {"algorithms": ["HS256"], "secret": secret}
        settings = loaded.settings.model_copy(update={"auth": auth.model_copy(update={"options": options})})
        return replace(loaded, settings=settings)
    return loaded


def _export_secret(loaded: Loaded) -> None:
    """The secret that is made up, for the application, which may verify tokens of its own routes by it."""
    _, _, name = loaded.origin("auth", "options", "secret").reference.partition("env:")
    secret = loaded.settings.auth.options.get("secret")
    if name and isinstance(secret, str):
        os.environ.setdefault(name, secret)


def _banner(
    loaded: Loaded, addresses: Sequence[str], pages: Mapping[str, object], make_token: TokenMaker | None
) -> None:
    socket = addresses[0] + loaded.settings.server.path
    has_page = "/" in pages or loaded.settings.server.fallback is not None
    lines = [("socket", socket)]
    if socket.startswith("ws"):
        site = "http" + addresses[0].removeprefix("ws") + "/"
        if has_page:
            lines.append(("page", site))
            if "/demo/tokens" in pages:
                lines += [(name, f"{site}?user={user}") for user, name in USERS.items()]
    if make_token is not None and not has_page:
        lines += [(f"token of {name}", make_token(user)) for user, name in USERS.items()]
    click.echo(err=True)
    click.secho(f"  roomwire dev: {loaded.settings.app}", bold=True, err=True)
    click.echo(err=True)
    width = max(len(label) for label, _ in lines)
    for label, value in lines:
        click.echo(f"  {label:<{width}}  {value}", err=True)
    click.echo("\n  Ctrl-C drains and ends.\n", err=True)
