"""Import strings: ``module:attribute``, and what to say when one leads nowhere."""

from __future__ import annotations

import importlib
import sys
import traceback
from pathlib import Path
from typing import Any

from roomwire.app import App
from roomwire.config import nearest
from roomwire.core.errors import ConfigError

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
    module_name, separator, attribute = target.partition(":")
    if not separator or not module_name or not attribute:
        raise ConfigError(f'app: expected "module:attribute", such as "chat:app", found "{target}"')
    found = _attribute(_module(target, module_name, app_dir), target, module_name, attribute)
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


def _module(target: str, name: str, app_dir: Path) -> Any:
    put_on_path(app_dir)
    directory = str(app_dir.resolve())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if name != missing and not name.startswith(missing + "."):
            raise ConfigError(f'app "{target}": importing {name} failed: {told(error)}') from error
        modules = [path.stem for path in Path(directory).glob("*.py")]
        hint = nearest(missing, modules) if "." not in missing else ""
        raise ConfigError(f'app "{target}": there is no module {missing} in {directory}{hint}') from error
    except Exception as error:
        raise ConfigError(f'app "{target}": importing {name} failed: {told(error)}') from error


def _attribute(module: Any, target: str, module_name: str, attribute: str) -> Any:
    found = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            apps = [name for name, value in vars(module).items() if isinstance(value, App)]
            hint = nearest(part, apps) if found is module else ""
            raise ConfigError(f'app "{target}": the module {module_name} has no attribute {part}{hint}')
        found = getattr(found, part)
    return found


def told(error: BaseException) -> str:
    """An exception of the application's, with the line that raised it."""
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg} ({error.filename}, line {error.lineno})"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_foreign(frame.filename)]
    where = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{where}"


def _is_foreign(filename: str) -> bool:
    return not filename.startswith("<") and Path(__file__).parents[1] not in Path(filename).parents
