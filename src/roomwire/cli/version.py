"""``roomwire version``."""

from __future__ import annotations

import importlib.metadata
import platform

import click

from roomwire.cli._options import as_json
from roomwire.cli._output import print_json

__all__ = ["command"]

_PARTS = ("anyio", "wsproto", "h11", "pydantic", "pyjwt", "uvloop", "watchfiles")


@click.command("version")
@as_json
def command(*, as_json: bool) -> None:
    """Show the version, and those of what it stands on."""
    versions = {name: _version(name) for name in ("roomwire", *_PARTS)}
    versions["python"] = platform.python_version()
    if as_json:
        print_json(versions)
        return
    click.echo(f"roomwire {versions.pop('roomwire')}")
    for name, version in versions.items():
        click.echo(f"  {name} {version or '(not installed)'}")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
