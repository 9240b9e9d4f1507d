"""Import strings: ``module:attribute``, and what to say when one leads nowhere."""

from __future__ import annotations

import importlib
import inspect
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from roomwire.config import Loaded, Settings, nearest
from roomwire.core.errors import ConfigError

__all__ = ["attribute_of", "import_object", "load_fallback", "no_module", "told"]


def import_object(
    key: str, target: str, *, folder: Path | None = None, wanted: Callable[[Any], bool] = lambda found: True
) -> Any:
    """What an import string names.

    Args:
        key: the setting's, for errors.
        target: ``"module:attribute"``.
        folder: where its module is looked for first, for errors; the module search path is the caller's to set.
        wanted: which values of the module may have been meant, where the attribute is missing.

    Raises:
        ConfigError: with the part of the string that failed, and why.
    """
    module_name, separator, attribute = target.partition(":")
    if not separator or not module_name or not attribute:
        example = "chat:app" if key == "app" else "main:app"
        raise ConfigError(f'{key}: expected "module:attribute", such as "{example}", found "{target}"')
    return attribute_of(_module(key, target, module_name, folder), key, target, wanted)


def attribute_of(module: ModuleType, key: str, target: str, wanted: Callable[[Any], bool] = lambda found: True) -> Any:
    """What an import string names in its module.

    Raises:
        ConfigError: it has no such attribute; with the name that was probably meant.
    """
    module_name, _, attribute = target.partition(":")
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            names = [name for name, value in vars(module).items() if wanted(value)]
            hint = nearest(part, names) if found is module else ""
            raise ConfigError(f'{key} "{target}": the module {module_name} has no attribute {part}{hint}')
        found = getattr(found, part)
    return found


def no_module(key: str, target: str, missing: str, folder: Path | None) -> ConfigError:
    """The error for a module that is not there, with the one that was probably meant."""
    directory = folder if folder is not None else Path(sys.path[0] or ".").resolve()
    modules = [path.stem for path in directory.glob("*.py")]
    hint = nearest(missing, modules) if "." not in missing else ""
    return ConfigError(f'{key} "{target}": there is no module {missing} in {directory}{hint}')


def _module(key: str, target: str, name: str, folder: Path | None) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if name != missing and not name.startswith(missing + "."):
            raise ConfigError(f'{key} "{target}": importing {name} failed: {told(error)}') from error
        raise no_module(key, target, missing, folder) from error
    except Exception as error:
        raise ConfigError(f'{key} "{target}": importing {name} failed: {told(error)}') from error


def told(error: BaseException) -> str:
    """An exception of the application's, with the line that raised it."""
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg} ({error.filename}, line {error.lineno})"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_foreign(frame.filename)]
    where = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{where}"


def _is_foreign(filename: str) -> bool:
    return not filename.startswith("<") and Path(__file__).parent not in Path(filename).parents


def load_fallback(settings: Settings, loaded: Loaded | None = None) -> Any:
    """The ASGI application of ``server.fallback``.

    Raises:
        ConfigError: it cannot be imported, or is no ASGI 3 application.
    """
    target = settings.server.fallback
    assert target is not None
    key = "server.fallback" if loaded is None else loaded.where("server", "fallback")
    found = import_object(key, target, wanted=lambda value: _takes_a_request(value) is True)
    takes = _takes_a_request(found)
    if takes:
        return found
    what = target.partition(":")[2]
    if takes is None:
        raise ConfigError(f'{key} "{target}": {what} is a {type(found).__name__}, which cannot be called')
    raise ConfigError(
        f'{key} "{target}": {what} does not take scope, receive and send, so it is no ASGI 3 application: name the'
        " application itself, not what makes it; one of WSGI has to be wrapped"
    )


def _takes_a_request(found: object) -> bool | None:
    """Whether it can be called with scope, receive and send; None where it cannot be called at all."""
    if not callable(found):
        return None
    if inspect.isclass(found):
        return False
    try:
        inspect.signature(found).bind(None, None, None)
    except TypeError:
        return False
    except ValueError:
        return True  # one that has no signature, such as a built-in
    return True
