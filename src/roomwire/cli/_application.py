"""The application that an import string names, and where its modules are."""

from __future__ import annotations

import sys
from pathlib import Path

from roomwire.app import App
from roomwire.core.errors import ConfigError
from roomwire.importing import import_object, told

__all__ = ["directory_of", "load_app", "put_on_path", "told"]


def load_app(target: str | None, *, app_dir: Path, factory: bool = False) -> App:
    """The application that an import string names.

    Args:
        target: ``"module:attribute"``, or None where nothing names one.
        app_dir: where the module is looked for first.
        factory: whether the attribute is a function that makes it.

    Raises:
        ConfigError: with the part of the string that failed, and why.
    """
    if target is None:
        raise ConfigError("no application: name it as module:attribute, such as chat:app, or set app in roomwire.toml")
    put_on_path(app_dir)
    found = import_object("app", target, folder=app_dir.resolve(), wanted=lambda value: isinstance(value, App))
    attribute = target.partition(":")[2]
    if factory:
        if not callable(found) or isinstance(found, App):
            raise ConfigError(f'app "{target}": {attribute} is no function: leave out --factory')
        try:
            found = found()
        except Exception as error:
            raise ConfigError(f'app "{target}": calling {attribute} failed: {told(error)}') from error
    if not isinstance(found, App):
        hint = ": add --factory where it makes the application" if callable(found) and not factory else ""
        raise ConfigError(f'app "{target}": {attribute} is a {type(found).__name__}, not a roomwire.App{hint}')
    return found


def put_on_path(app_dir: Path) -> None:
    """Look for modules of the application, its adapters included, in this folder first."""
    directory = str(app_dir.resolve())
    if sys.path[:1] != [directory]:
        sys.path.insert(0, directory)


def directory_of(target: str) -> Path | None:
    """The folder of an application's module, once it is imported."""
    file = getattr(sys.modules.get(target.partition(":")[0]), "__file__", None)
    return Path(file).parent if file else None
