"""Where settings come from: a file, ``.env``, the environment and flags, each as a layer of values."""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

from dotenv import dotenv_values

from roomwire.config._keys import PATH_KEYS, PREFIX, is_free, key_of_variable, known_keys, type_at, variable_of
from roomwire.config.problems import Path, Problem, format_key
from roomwire.core.errors import ConfigError

__all__ = [
    "CONFIG_VARIABLE",
    "Layer",
    "Origin",
    "absence",
    "environment_layer",
    "file_layer",
    "find_file",
    "flag_layer",
    "read_env",
]

CONFIG_VARIABLE = "ROOMWIRE_CONFIG"
"""The path of the configuration file, where no flag gives it."""

_FLAGS = {
    ("app",): "APP",
    ("logging", "level"): "--log-level",
    ("logging", "format"): "--log-format",
    ("backplane", "type"): "--backplane",
}


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a setting's value comes from.

    Attributes:
        source: ``"roomwire.toml"``, ``"environment"``, ``".env"``, ``"flag"`` or ``"default"``.
        name: how the setting is spelled there: a key, a variable or a flag.
        reference: the ``env:NAME`` or ``file:PATH`` that gave the value, or ``""``.
    """

    source: str
    name: str
    reference: str = ""

    def __str__(self) -> str:
        return self.name if self.source == "flag" else f"{self.source}: {self.name}"


def origin_of(origins: Mapping[Path, Origin], path: Path) -> tuple[Origin, Path] | None:
    """Where a key, or the table around it, was set; and the rest of the key within that."""
    for length in range(len(path), 0, -1):
        if (origin := origins.get(path[:length])) is not None:
            return origin, path[length:]
    return None


@dataclass(slots=True)
class Layer:
    """One source's values by key, in the order of the source.

    Attributes:
        values: by key; a value is a TOML value, or text where `textual`.
        origins: by key.
        directory: what relative paths are meant from; None: the working directory.
        textual: whether the values are text, to be read by the type of their key.
    """

    values: dict[Path, Any] = field(default_factory=dict, repr=False)
    origins: dict[Path, Origin] = field(default_factory=dict)
    directory: FilePath | None = None
    textual: bool = False

    def put(self, path: Path, value: Any, origin: Origin) -> None:
        """Set one key; text becomes what the key's type wants, where it can."""
        self.values[path] = from_text(path, value) if self.textual and isinstance(value, str) else value
        self.origins[path] = origin


# --- the file


def find_file(path: FilePath | None, environ: Mapping[str, str], cwd: FilePath) -> FilePath | None:
    """The configuration file: the one asked for, else the first of the usual ones in `cwd`.

    Raises:
        ConfigError: the one asked for is not there.
    """
    asked = path if path is not None else environ.get(CONFIG_VARIABLE)
    if asked:
        found = cwd / asked
        if not found.is_file():
            by = "" if path is not None else f"{CONFIG_VARIABLE}: "
            raise ConfigError(f"{by}there is no configuration file {asked}")
        return found
    if (cwd / "roomwire.toml").is_file():
        return cwd / "roomwire.toml"
    pyproject = cwd / "pyproject.toml"
    return pyproject if pyproject.is_file() and _table_of(pyproject) is not None else None


def absence(cwd: FilePath) -> str:
    """That `find_file` found none, for errors."""
    beside = ", and no [tool.roomwire] in its pyproject.toml" if (cwd / "pyproject.toml").is_file() else ""
    return f"there is no roomwire.toml in {cwd}{beside}"


def file_layer(path: FilePath) -> Layer:
    """The values of a TOML file.

    Raises:
        ConfigError: it cannot be read, or has no ``[tool.roomwire]`` where it is a pyproject.toml.
    """
    table = _table_of(path)
    if table is None:
        raise ConfigError(f"{path.name}: there is no table [tool.roomwire]")
    prefix = "tool.roomwire." if path.name == "pyproject.toml" else ""
    layer = Layer(directory=path.parent)
    for key, value in _leaves(table):
        layer.put(key, value, Origin(path.name, prefix + format_key(key)))
    return layer


def _table_of(path: FilePath) -> dict[str, Any] | None:
    try:
        document: Any = tomllib.loads(path.read_text("utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path.name}: not correct TOML: {error}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path.name}: not UTF-8: {error.reason} at byte {error.start}") from None
    except OSError as error:
        raise ConfigError(f"{path.name}: cannot be read: {error.strerror}") from None
    if path.name != "pyproject.toml":
        return document  # type: ignore[no-any-return]  # tomllib gives Any
    tool = document.get("tool", {})
    table = tool.get("roomwire") if isinstance(tool, dict) else None
    return table if isinstance(table, dict) else None


def _leaves(table: Mapping[str, Any], path: Path = ()) -> Iterator[tuple[Path, Any]]:
    for key, value in table.items():
        at = (*path, key)
        # An empty table is a value of its own: a room's policy that changes nothing.
        if isinstance(value, dict) and value:
            yield from _leaves(value, at)
        else:
            yield at, value


# --- the environment


def read_env(path: FilePath | None, directory: FilePath, cwd: FilePath) -> tuple[str, dict[str, str]]:
    """The variables of a ``.env`` file, and the file's name. Without a path: of the one in `directory`, if any.

    Raises:
        ConfigError: the one asked for is not there, or cannot be read.
    """
    found = directory / ".env" if path is None else cwd / path
    if not found.is_file():
        if path is not None:
            raise ConfigError(f"--env-file: there is no file {path}")
        return ".env", {}
    try:
        # Not interpolated: a dollar sign in a password is a dollar sign.
        values = dotenv_values(found, interpolate=False, encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{found.name}: cannot be read: {error}") from None
    return found.name, {name: value for name, value in values.items() if value is not None}


def environment_layer(
    environ: Mapping[str, str], source: str, exempt: frozenset[str], problems: list[Problem], warnings: list[str]
) -> Layer:
    """The settings among the variables; names that are none become problems or warnings.

    Args:
        environ: the variables.
        source: ``"environment"`` or the name of a file.
        exempt: names that something else reads.
        problems: gets the names that were meant for a setting.
        warnings: gets the others that begin like ours.
    """
    layer = Layer(textual=True)
    for name in sorted(environ):
        if not name.upper().startswith(PREFIX) or name in exempt:
            continue
        path = key_of_variable(name)
        if path is None:
            warnings.append(f"{source}: {name} is set and nothing reads it{_nearest_variable(name)}")
        elif is_free(path) or (type_at(path) is not None and path[0] != "rooms"):
            layer.put(path, environ[name], Origin(source, name))
        else:
            problems.append(Problem(f"{source}: {name}", _unknown_variable(name, path)))
    return layer


def _unknown_variable(name: str, path: Path) -> str:
    section, *rest = path
    if section == "rooms":
        return "policies of rooms stand in the configuration file only"
    if not known_keys((section,)):
        return f'there is no section "{section}"{_nearest_variable(name)}'
    if len(rest) > 1:
        return f'"{section}" has no tables of that name'
    return f'"{section}" has no such key{_nearest_variable(name, section)}'


def _nearest_variable(name: str, *sections: str) -> str:
    tables = sections or tuple(known_keys(()))
    variables = [variable_of((table, key)) for table in tables for key in known_keys((table,))]
    # Without the prefix, which all of them share.
    names = {variable.removeprefix(PREFIX): variable for variable in variables}
    match = difflib.get_close_matches(name.upper().removeprefix(PREFIX), names, n=1, cutoff=0.75)
    return f"; did you mean {names[match[0]]}?" if match else ""


# --- flags


def flag_layer(overrides: Mapping[str, object]) -> Layer:
    """Settings by dotted key, such as ``{"server.port": 9000}``; None is no setting."""
    layer = Layer(textual=True)
    for dotted, value in overrides.items():
        if value is not None:
            path = tuple(dotted.split("."))
            layer.put(path, value, Origin("flag", _FLAGS.get(path, "--" + path[-1].replace("_", "-"))))
    return layer


# --- text


def from_text(path: Path, text: str) -> Any:
    """Text as the type of its key; unchanged where it cannot be, so that validation says what was expected."""
    wanted = type_at(path)
    try:
        if wanted is bool:
            return _BOOLEANS.get(text.lower(), text)
        if wanted is int:
            return int(text)
        if wanted is float:
            return float(text)
        if wanted is list and not text.lstrip().startswith("["):
            return [item.strip() for item in text.split(",") if item.strip()]
        if wanted in (list, dict) or (is_free(path) and text.lstrip().startswith(("[", "{"))):
            return json.loads(text)
    except ValueError:
        pass
    return text


_BOOLEANS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


def resolve_path(path: Path, value: Any, directory: FilePath | None) -> Any:
    """A relative path of a file, as seen from anywhere."""
    if path in PATH_KEYS and directory is not None and isinstance(value, str) and value:
        return str(directory / value)
    return value
