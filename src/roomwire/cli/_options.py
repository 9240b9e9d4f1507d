"""Options that several commands share, and the way from them to a loaded configuration."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from roomwire.config import Loaded, load
from roomwire.core.errors import ConfigError

__all__ = ["as_json", "config_options", "load_config", "one_process", "server_options", "warn"]

Command = TypeVar("Command", bound=Callable[..., Any])

_FILE = click.Path(path_type=Path)

_SERVER_OPTIONS = (
    click.option("--host", help="Address to bind.  [127.0.0.1]"),
    click.option("--port", type=int, help="Port to bind; 0 for any free one.  [8000]"),
    click.option("--uds", metavar="PATH", help="Bind a Unix socket instead."),
    click.option("--fd", type=int, help="Take over an open socket instead."),
    click.option("--workers", type=int, help="Processes.  [1]"),
    click.option("--transport", help="Transport to serve with.  [anyio]"),
    click.option("--backplane", help="Backplane that joins the nodes.  [memory]"),
    click.option("--node", metavar="NAME", help="This node's name in the cluster."),
    click.option("--log-level", metavar="LEVEL", help="debug, info, warning, error or critical.  [info]"),
    click.option("--log-format", metavar="FORMAT", help="text or json.  [text]"),
    click.option("--proxy-headers/--no-proxy-headers", default=None, help="Believe X-Forwarded-For and -Proto."),
    click.option("--forwarded-allow-ips", metavar="LIST", help="From these proxies; comma-separated, or *."),
    click.option("--ssl-certfile", metavar="FILE", help="Certificate chain, PEM."),
    click.option("--ssl-keyfile", metavar="FILE", help="Its private key, PEM."),
    click.option("--backlog", type=int, help="Connections that the kernel queues.  [2048]"),
    click.option("--factory", is_flag=True, help="The attribute is a function that makes the application."),
    click.option(
        "--app-dir",
        type=click.Path(path_type=Path, exists=True, file_okay=False),
        default=Path(),
        help="Where the module is looked for first.  [.]",
    ),
)

_CONFIG_OPTIONS = (
    click.option("--config", type=_FILE, help="Configuration file.  [roomwire.toml, or pyproject.toml]"),
    click.option("--env-file", type=_FILE, help="Variables for the environment.  [.env]"),
)

as_json = click.option("--json", "as_json", is_flag=True, help="JSON instead of a table.")

_KEYS = {
    "app": "app",
    "backplane": "backplane.type",
    "log_level": "logging.level",
    "log_format": "logging.format",
}


def _apply(options: tuple[Callable[[Command], Command], ...], command: Command) -> Command:
    for option in reversed(options):
        command = option(command)
    return command


def config_options(command: Command) -> Command:
    """``--config`` and ``--env-file``."""
    return _apply(_CONFIG_OPTIONS, command)


def server_options(command: Command) -> Command:
    """What a server can be started with, in uvicorn's spelling where it has one."""
    return _apply((*_SERVER_OPTIONS, *_CONFIG_OPTIONS), command)


def load_config(
    config: Path | None,
    env_file: Path | None,
    flags: Mapping[str, object] | None = None,
    *,
    fallbacks: Mapping[str, str] | None = None,
) -> Loaded:
    """The configuration, from flags by the name of their parameter and everything below them."""
    overrides = {_KEYS.get(name, f"server.{name}"): value for name, value in (flags or {}).items()}
    return load(
        config,
        environ=os.environ,
        overrides=overrides,
        cwd=Path.cwd(),
        env_file=env_file,
        fallbacks=fallbacks,
    )


def one_process(flags: Mapping[str, object], what: str) -> None:
    """Refuse the flag ``--workers`` where there is one process; what the configuration says of it is left out.

    Raises:
        ConfigError: several were asked for.
    """
    if flags["workers"] not in (None, 1):
        raise ConfigError(f"--workers: {what} serves in one process: leave out --workers, or use `roomwire run`")


def warn(loaded: Loaded) -> None:
    """Print what `load` found odd."""
    for warning in loaded.warnings:
        click.secho(f"Warning: {warning}", err=True, fg="yellow")
