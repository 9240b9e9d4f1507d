"""The application under test, by its import string."""

from __future__ import annotations

import importlib

from roomwire.app import App
from roomwire.core.errors import ConfigError

__all__ = ["load_app"]

__tracebackhide__ = True  # pytest shows the application's own lines


def load_app(target: str) -> App:
    """Import ``module:attribute``. What the module raises is raised as it is, with its traceback.

    Raises:
        ConfigError: the string has another form, the module does not exist, or the attribute is no application.
    """
    module_name, separator, attribute = target.partition(":")
    if not separator or not module_name or not attribute:
        raise ConfigError(f'roomwire_app: expected "module:attribute", such as "chat:app", found "{target}"')
    try:
        found = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name + ".").startswith(error.name + "."):
            raise
        raise ConfigError(f'roomwire_app "{target}": no module {error.name}; is its folder in sys.path?') from None
    except SystemExit as error:  # pytest would take it for its own
        raise ConfigError(f'roomwire_app "{target}": importing {module_name} ended with SystemExit: {error}') from None
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ConfigError(f'roomwire_app "{target}": the module {module_name} has no attribute {part}')
        found = getattr(found, part)
    if not isinstance(found, App):
        raise ConfigError(
            f'roomwire_app "{target}": {attribute} is a {type(found).__name__}, not a roomwire.App; where a function'
            " makes it, override the fixture roomwire_app"
        )
    return found
