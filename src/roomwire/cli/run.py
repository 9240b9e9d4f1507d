"""``roomwire run``: serve."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from roomwire.cli._application import load_app
from roomwire.cli._logging import set_up_logging
from roomwire.cli._options import load_config, one_process, server_options, warn
from roomwire.cli._reload import supervise
from roomwire.cli._serve import export_env_file, refuse_hosted, serve_until_done
from roomwire.cli._workers.role import Worker
from roomwire.cli._workers.serving import serve_with_workers
from roomwire.config import Loaded

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
    ends at once. With several workers SIGHUP starts one after the other anew.
    """
    if reload:
        one_process(flags, "--reload")
        arguments = [argument for argument in sys.argv[1:] if argument != "--reload"]
        ctx.exit(supervise([*arguments[:1], "--workers", "1", *arguments[1:]], [app_dir], descriptor=fd))
    loaded = load_config(config, env_file, {"fd": fd, **flags})
    refuse_hosted(loaded)
    worker = ctx.find_object(Worker)
    if worker is not None:
        _work(worker, worker.configured(loaded), app_dir, factory)
        return
    warn(loaded)
    set_up_logging(loaded.settings.logging)
    workers = loaded.settings.server.workers

    def announce(addresses: Sequence[str]) -> None:
        suffix = f" with {workers} workers" if workers > 1 else ""
        for address in addresses:
            url = f"{address}{loaded.settings.server.path}"
            click.echo(f"roomwire serves {loaded.settings.app} on {url}{suffix}", err=True)

    if workers > 1:
        # Each worker reads the .env for itself, as it is when it starts: what we exported would go before it.
        serve_with_workers(sys.argv[1:], loaded.settings, on_ready=announce)
        return
    export_env_file(loaded)
    app = load_app(loaded.settings.app, app_dir=app_dir, factory=factory)
    serve_until_done(app, loaded, on_ready=announce)


def _work(worker: Worker, loaded: Loaded, app_dir: Path, factory: bool) -> None:
    export_env_file(loaded)
    set_up_logging(loaded.settings.logging, worker=worker.number)
    app = load_app(loaded.settings.app, app_dir=app_dir, factory=factory)
    serve_until_done(app, loaded, on_ready=lambda _: worker.tell_ready(), handover=worker.handover)
