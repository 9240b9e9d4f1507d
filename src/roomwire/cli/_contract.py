"""What `roomwire asyncapi` and `roomwire types` share: the application, and where the document goes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from roomwire.app import App
from roomwire.cli._application import load_app
from roomwire.cli._options import load_config
from roomwire.cli._serve import export_env_file
from roomwire.config import Loaded
from roomwire.core.errors import ConfigError

__all__ = ["document_options", "give", "load"]

Command = TypeVar("Command", bound=Callable[..., Any])

_FILE = click.Path(path_type=Path, dir_okay=False)


def document_options(command: Command) -> Command:
    """Which application, and what to do with its document."""
    for option in (
        click.option("--config", type=_FILE, help="Configuration file.  [roomwire.toml, or pyproject.toml]"),
        click.option("--env-file", type=_FILE, help="Variables for the environment.  [.env]"),
        click.option("--check", type=_FILE, help="Write nothing; exit with 1 where this file differs."),
        click.option("-o", "--output", type=_FILE, help="Write it to this file."),
        click.option("--factory", is_flag=True, help="The attribute is a function that makes the application."),
        click.option(
            "--app-dir",
            type=click.Path(path_type=Path, exists=True, file_okay=False),
            default=Path(),
            help="Where the module is looked for first.  [.]",
        ),
        click.option("--app", metavar="MODULE:ATTRIBUTE", help="The application.  [app in the configuration]"),
    ):
        command = option(command)
    return command


def load(
    app: str | None, app_dir: Path, factory: bool, config: Path | None, env_file: Path | None
) -> tuple[App, Loaded]:
    """The application and its configuration."""
    loaded = load_config(config, env_file, {"app": app})
    export_env_file(loaded)
    return load_app(loaded.settings.app, app_dir=app_dir, factory=factory), loaded


def give(ctx: click.Context, text: str, output: Path | None, check: Path | None) -> None:
    """Print the document, write it, or hold a file to it."""
    if check is not None:
        if output is not None:
            raise ConfigError("--check writes nothing: leave out --output")
        if not check.is_file() or check.read_text(encoding="utf-8") != text:
            click.echo(f"{check} differs from what the application declares", err=True)
            ctx.exit(1)
        click.echo(f"{check} is what the application declares")
    elif output is not None:
        output.write_text(text, encoding="utf-8")
    else:
        click.echo(text, nl=False)
