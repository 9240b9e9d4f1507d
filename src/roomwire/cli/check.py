"""``roomwire check``: everything that `run` would load, and what a reviewer would say of it."""

from __future__ import annotations

from pathlib import Path

import click

from roomwire.cli._advice import Advice, advice
from roomwire.cli._application import load_app
from roomwire.cli._options import as_json, load_config, server_options
from roomwire.cli._output import print_json
from roomwire.cli._serve import export_env_file
from roomwire.serving import build_node

__all__ = ["command"]


@click.command("check")
@click.argument("app", required=False, metavar="[MODULE:ATTRIBUTE]")
@server_options
@click.option("--strict", is_flag=True, help="Exit with 1 where there is a warning.")
@as_json
@click.pass_context
def command(
    ctx: click.Context,
    /,
    *,
    config: Path | None,
    env_file: Path | None,
    factory: bool,
    app_dir: Path,
    strict: bool,
    as_json: bool,
    **flags: object,
) -> None:
    """Load configuration, application and adapters as `run` would, and warn of what is unsafe.

    Nothing is connected to and nothing is bound.
    """
    loaded = load_config(config, env_file, flags)
    export_env_file(loaded)
    app = load_app(loaded.settings.app, app_dir=app_dir, factory=factory)
    build_node(app, loaded.settings, loaded=loaded)
    warnings = advice(loaded)
    if as_json:
        odd = [{"key": None, "warning": text, "change": None} for text in loaded.warnings]
        unsafe = [{"key": item.key, "warning": item.text, "change": _change(item)} for item in warnings]
        print_json({"app": loaded.settings.app, "warnings": odd + unsafe})
    else:
        _tell(loaded.source, loaded.settings.app, loaded.warnings, warnings)
    if strict and (warnings or loaded.warnings):
        ctx.exit(1)


def _tell(source: Path | None, app: str | None, odd: list[str], unsafe: list[Advice]) -> None:
    click.echo(f"{app}: application and adapters load")
    click.echo(f"{source.name if source else 'no configuration file'}: correct")
    for text in odd:
        click.secho(f"warning: {text}", fg="yellow")
    for item in unsafe:
        click.secho(f"warning: {item.key}: {item.text}", fg="yellow")
        click.echo(f"         {_change(item)}")
    count = len(odd) + len(unsafe)
    click.echo("no warnings" if not count else f"{count} warning{'s' if count > 1 else ''}")


def _change(item: Advice) -> str:
    return f"{item.change} (set by {item.instead})" if item.instead else item.change
