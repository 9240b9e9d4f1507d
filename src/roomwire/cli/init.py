"""``roomwire init``: a new project from a template."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import click

from roomwire.core.errors import ConfigError

__all__ = ["command"]

# A template's application is the example of that name: in the sources its files are links to it.
_TEMPLATES = Path(__file__).with_name("templates")
_SUFFIX = ".template"
_SECRET = "@SECRET@"  # noqa: S105  what is replaced by one


@click.command("init")
@click.argument("template", type=click.Choice(["chat", "dashboard"]))
@click.argument("directory", required=False, type=click.Path(path_type=Path, file_okay=False))
def command(*, template: str, directory: Path | None) -> None:
    """Make a new project from TEMPLATE in DIRECTORY (default: the template's name).

    Nothing that is there already is written over.
    """
    target = directory or Path(template)
    files = dict(_files_of(template))
    taken = sorted(str(name) for name in files if (target / name).exists())
    if taken:
        raise ConfigError(f"{target} has {', '.join(taken)} already: choose another directory, or move them away")
    for name, content in files.items():
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        # It holds the secret, and the umask may let others read.
        path.touch(mode=0o600 if name.name == ".env" else 0o666)
        path.write_bytes(content)
    click.echo(f"{target}: {', '.join(sorted(map(str, files)))}")
    click.echo("\nnext:\n")
    for line in (f"cd {target}", "pip install -r requirements.txt", "pytest", "roomwire dev"):
        click.echo(f"  {line}")


def _files_of(template: str) -> Iterator[tuple[Path, bytes]]:
    """The files of a new project by their name in it, with a secret of its own."""
    secret = secrets.token_urlsafe(48)
    root = _TEMPLATES / template
    for path in sorted(root.rglob("*" + _SUFFIX)):
        yield path.relative_to(root).with_suffix(""), path.read_bytes().replace(_SECRET.encode(), secret.encode())
