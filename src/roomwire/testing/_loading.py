"""The application under test, by its import string."""

from __future__ import annotations

import importlib
from pathlib import Path

from roomwire.app import App
from roomwire.core.errors import ConfigError
from roomwire.importing import attribute_of, no_module

__all__ = ["load_app"]

__tracebackhide__ = True  # pytest shows the application's own lines


def load_app(target: str, folder: Path) -> App:
    """Import ``module:attribute``. What the module raises is raised as it is, with its traceback.

    Args:
        target: the import string.
        folder: where its module is looked for first, for errors.

    Raises:
        ConfigError: the string has another form, the module does not exist, or the attribute is no application.
    """
    module_name, separator, attribute = target.partition(":")
    if not separator or not module_name or not attribute:
        raise ConfigError(f'roomwire_app: expected "module:attribute", such as "chat:app", found "{target}"')
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name + ".").startswith(error.name + "."):
            raise
        raise no_module("roomwire_app", target, error.name, folder) from None
    except SystemExit as error:  # pytest would take it for its own
        raise ConfigError(f'roomwire_app "{target}": importing {module_name} ended with SystemExit: {error}') from None
    found = attribute_of(module, "roomwire_app", target, lambda value: isinstance(value, App))
    if not isinstance(found, App):
        raise ConfigError(
            f'roomwire_app "{target}": {attribute} is a {type(found).__name__}, not a roomwire.App; where a function'
            " makes it, override the fixture roomwire_app"
        )
    return found
