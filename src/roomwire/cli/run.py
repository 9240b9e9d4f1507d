"""``roomwire run``: serve."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from roomwire.cli._application import load_app
from roomwire.cli._logging import set_up_logging
from roomwire.cli._options import load_config, server_options, warn
from roomwire.cli._reload import supervise
from roomwire.cli._serve import export_env_file, serve_until_done

__all__ = ["command"]


@click.command("run")
@click.argument("app", required=False, metavar="[MODULE:ATTRIBUTE]")
@server_options
@click.option("--reload", is_flag=True, help="Start anew when a file changes.")
@click.pass_context
def command(
    ctx: click.Context,
    /,
    *,
    config: Path | None,
    env_file: Path | None,
    factory: bool,
    app_dir: Path,
    reload: bool,
    fd: int | None,
    **flags: object,
) -> None:
    """Serve an application.

    Settings come from flags, the environment (ROOMWIRE_SERVER__PORT), .env and roomwire.toml, in this
    order. The first Ctrl-C or SIGTERM drains: every client is told when to come back. The second one
    ends at once.
    """
    if reload:
        arguments = [argument for argument in sys.argv[1:] if argument != "--reload"]
        ctx.exit(supervise(arguments, [app_dir], descriptor=fd))
    loaded = load_config(config, env_file, {"fd": fd, **flags})
    warn(loaded)
    export_env_file(loaded)
    set_up_logging(loaded.settings.logging)
    app = load_app(loaded.settings.app, app_dir=app_dir, factory=factory)

    def announce(addresses: Sequence[str]) -> None:
        for address in addresses:
            click.echo(f"roomwire serves {loaded.settings.app} on {address}{loaded.settings.server.path}", err=True)

    serve_until_done(app, loaded, on_ready=announce)
