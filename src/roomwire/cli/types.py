"""``roomwire types``: what the application declares, as types of a client's language."""

from __future__ import annotations

from pathlib import Path

import click

from roomwire.cli._contract import document_options, give, load
from roomwire.contract.model import contract_of
from roomwire.contract.typescript import typescript

__all__ = ["command"]


@click.command("types")
@click.option("--lang", type=click.Choice(["ts"]), default="ts", help="The language.  [ts]")
@document_options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    *,
    lang: str,
    app: str | None,
    app_dir: Path,
    factory: bool,
    output: Path | None,
    check: Path | None,
    config: Path | None,
    env_file: Path | None,
) -> None:
    """Write types of the application's handlers and events, for the JavaScript client in TypeScript.

    The same declarations give the same text, so that it can be kept in a repository, and held to them by --check.
    """
    declared, _ = load(app, app_dir, factory, config, env_file)
    give(ctx, typescript(contract_of(declared)), output, check)
