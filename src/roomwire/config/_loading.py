"""Layers merged by precedence, references resolved, names checked, the whole validated."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

from pydantic import ValidationError

from roomwire.config._keys import is_secret_name, known_keys, variable_of
from roomwire.config._showing import ShownSetting, shown_settings
from roomwire.config._sources import (
    CONFIG_VARIABLE,
    Layer,
    Origin,
    absence,
    environment_layer,
    file_layer,
    find_file,
    flag_layer,
    from_text,
    origin_of,
    read_env,
    resolve_path,
)
from roomwire.config.problems import Path, Problem, config_error, explain, format_key
from roomwire.config.settings import Settings

__all__ = ["Loaded", "load"]

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_MAX_FILE = 1_048_576
# The command line reads these itself.
_OWN = frozenset({CONFIG_VARIABLE, "ROOMWIRE_TOKEN"})


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration and where it comes from.

    Attributes:
        settings: validated.
        source: the configuration file, or None where there is none.
        warnings: what is probably a mistake, for whoever started us to print.
        origins: where each key that is not at its default was set.
        env_file: the variables of ``.env``. They are not put into this process's environment.
        absence: where no file was found, a text that says where it was looked for; for errors.
    """

    settings: Settings
    source: FilePath | None
    warnings: list[str] = field(default_factory=list)
    origins: Mapping[Path, Origin] = field(default_factory=dict)
    env_file: Mapping[str, str] = field(default_factory=dict, repr=False)
    absence: str = ""

    def origin(self, *path: str) -> Origin:
        """Where a key's value comes from; ``source`` is ``"default"`` where nothing sets it."""
        found = origin_of(self.origins, path)
        return Origin("default", format_key(path)) if found is None else found[0]

    def where(self, *path: str) -> str:
        """A key with its source, as errors name it."""
        return _where(self.origins, path)

    def hidden(self, *path: str) -> str | None:
        """What to say instead of a key's value, where the value must not be shown."""
        return _hidden(self.origins, path)

    def shown(self, secret: Callable[[Path], bool] = is_secret_name) -> list[ShownSetting]:
        """Every setting with its source. Secrets are replaced, as are values of ``env:`` and ``file:``."""
        return shown_settings(self.settings, self.origins, secret)


def load(
    path: FilePath | None = None,
    *,
    environ: Mapping[str, str],
    overrides: Mapping[str, object] | None = None,
    cwd: FilePath,
    env_file: FilePath | None = None,
    fallbacks: Mapping[str, str] | None = None,
    without: Collection[str] = (),
) -> Loaded:
    """Read the configuration: flag, then environment, ``.env``, file, default; the first that sets a key wins.

    Args:
        path: the configuration file; otherwise ``$ROOMWIRE_CONFIG``, ``roomwire.toml``, or the table
            ``[tool.roomwire]`` of ``pyproject.toml``, in `cwd`.
        environ: the environment.
        overrides: flags by dotted key, such as ``{"server.port": 9000}``; None is not given.
        cwd: the working directory.
        env_file: instead of the ``.env`` beside the configuration file.
        fallbacks: by dotted key, what to take where the key's ``env:`` names a variable that is not set.
        without: sections that nobody will ask for: they are left at their defaults, and their secrets unread.

    Raises:
        ConfigError: with every problem that was found: where it is, what was expected and found.
    """
    source = find_file(path, environ, cwd)
    directory = cwd if source is None else source.parent
    file = Layer(directory=cwd) if source is None else file_layer(source)
    env_name, env_values = read_env(env_file, directory, cwd)
    variables = {**env_values, **environ}
    flags = flag_layer(overrides or {})

    problems: list[Problem] = []
    warnings: list[str] = []
    exempt = _OWN | _referenced([file, flags], variables)
    layers = [
        file,
        environment_layer(env_values, env_name, exempt, problems, warnings),
        environment_layer(environ, "environment", exempt, problems, warnings),
        flags,
    ]
    for layer in layers:
        for key in [key for key in layer.values if key[0] in without]:
            del layer.values[key]
    values, origins = _merge(layers, _with_fallbacks(file, variables, fallbacks or {}), directory, problems, warnings)
    settings = _validate(values, origins, problems)
    return Loaded(settings, source, warnings, origins, env_values, absence(cwd) if source is None else "")


def _referenced(layers: list[Layer], variables: Mapping[str, str]) -> frozenset[str]:
    texts = [text for layer in layers for value in layer.values.values() for text in _strings(value)]
    texts += [text for name, text in variables.items() if name.upper().startswith("ROOMWIRE_")]
    return frozenset(text.removeprefix("env:") for text in texts if text.startswith("env:"))


def _with_fallbacks(layer: Layer, variables: Mapping[str, str], fallbacks: Mapping[str, str]) -> Mapping[str, str]:
    missing = {}
    for dotted, value in fallbacks.items():
        reference = layer.values.get(tuple(dotted.split(".")))
        if isinstance(reference, str) and reference.startswith("env:"):
            missing[reference.removeprefix("env:")] = value
    return {**missing, **variables}


def _strings(value: Any) -> list[str]:
    match value:
        case str():
            return [value]
        case list():
            return [text for item in value for text in _strings(item)]
        case dict():
            return [text for item in value.values() for text in _strings(item)]
    return []


# --- merging


def _merge(
    layers: list[Layer], variables: Mapping[str, str], directory: FilePath, problems: list[Problem], warnings: list[str]
) -> tuple[dict[Path, Any], dict[Path, Origin]]:
    """Later layers win. A table that one layer gives as a whole replaces the keys of earlier ones."""
    values: dict[Path, Any] = {}
    origins: dict[Path, Origin] = {}
    for layer in layers:
        _drop_foreign_options(layer, values, origins, warnings)
        for path, raw in layer.values.items():
            for key in [key for key in values if _covers(path, key)]:
                del values[key], origins[key]
            value, reference, fault = _resolve(raw, variables, directory)
            origin = layer.origins[path]
            if fault:
                problems.append(Problem(str(origin), fault))
                continue
            if reference:
                origin = Origin(origin.source, origin.name, reference)
                value = from_text(path, value) if isinstance(value, str) else value
            values[path] = resolve_path(path, value, layer.directory)
            origins[path] = origin
    return values, origins


def _covers(path: Path, key: Path) -> bool:
    shared = min(len(path), len(key))
    return path[:shared] == key[:shared]


def _drop_foreign_options(
    layer: Layer, values: dict[Path, Any], origins: dict[Path, Origin], warnings: list[str]
) -> None:
    """A flag or variable that names another adapter leaves the options of the first one behind."""
    for section in ("backplane", "auth"):
        key = (section, "type")
        wanted, present = layer.values.get(key), values.get(key)
        stale = [path for path in values if path[:2] == (section, "options")]
        if wanted is None or wanted == present or not stale:
            continue
        warnings.append(
            f"{origins[stale[0]].source}: {section}.options is left out,"
            f" since {layer.origins[key]} chooses {json.dumps(wanted)}"
        )
        for path in stale:
            del values[path], origins[path]


def _resolve(value: Any, variables: Mapping[str, str], directory: FilePath) -> tuple[Any, str, str]:
    """The value, the reference that it came from, and what is wrong with the reference."""
    match value:
        case str() if value.startswith("env:"):
            name = value.removeprefix("env:")
            if not _VARIABLE.fullmatch(name):
                return None, value, "expected env: and the name of an environment variable, such as env:REDIS_URL"
            if name not in variables:
                return None, value, f"the environment variable {name} is not set"
            return variables[name], value, _text_fault(variables[name])
        case str() if value.startswith("file:"):
            return _read_file(value, directory)
        case str():
            return value, "", _text_fault(value)
        case list():
            return _resolve_all(value, list(enumerate(value)), variables, directory)
        case dict():
            return _resolve_all(value, list(value.items()), variables, directory)
    return value, "", ""


def _text_fault(text: str) -> str:
    # Python spells what it cannot decode of the environment as lone surrogates (PEP 383).
    return "" if text.isascii() or not _SURROGATE.search(text) else "its value is not UTF-8"


def _resolve_all(
    container: Any, items: list[tuple[Any, Any]], variables: Mapping[str, str], directory: FilePath
) -> tuple[Any, str, str]:
    resolved, reference = container.copy(), ""
    for key, item in items:
        resolved[key], one, fault = _resolve(item, variables, directory)
        if fault:
            return None, one, fault
        reference = reference or one
    return resolved, reference, ""


def _read_file(reference: str, directory: FilePath) -> tuple[Any, str, str]:
    path = directory / reference.removeprefix("file:")
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_FILE + 1)
        if len(content) > _MAX_FILE:
            return None, reference, f"the file {path} is larger than {_MAX_FILE} bytes"
        # The line end that editors and `echo` add is no part of a secret.
        return content.decode().removesuffix("\n").removesuffix("\r"), reference, ""
    except OSError as error:
        return None, reference, f"the file {path} cannot be read: {error.strerror}"
    except UnicodeDecodeError:
        return None, reference, f"the file {path} is not UTF-8"
    except ValueError:
        return None, reference, "expected file: and a path, without a null character"


# --- validating


def _validate(values: Mapping[Path, Any], origins: Mapping[Path, Origin], problems: list[Problem]) -> Settings:
    def where(path: Path) -> str:
        return _where(origins, path)

    def hidden(path: Path) -> str | None:
        return _hidden(origins, path)

    # As JSON, since pydantic's strict mode takes a dataclass from a mapping there alone. Dates become text.
    document = json.dumps(_tree(values), default=str)
    try:
        settings = Settings.model_validate_json(document, strict=True)
    except ValidationError as error:
        problems += explain(error, where=where, known=known_keys, hidden=hidden)
        raise config_error(problems) from None
    if problems:
        raise config_error(problems)
    return settings


def _where(origins: Mapping[Path, Origin], path: Path) -> str:
    found = origin_of(origins, path)
    if found is None:
        return _missing_at(path, origins)
    origin, rest = found
    return str(origin) + ("." + format_key(rest) if rest else "")


def _missing_at(path: Path, origins: Mapping[Path, Origin]) -> str:
    """A key that nothing sets, in the file that its neighbours are in."""
    for key, origin in origins.items():
        if key[0] == path[0] and origin.source.endswith(".toml"):
            return f"{origin.source}: {format_key(path)}"
    return f"{format_key(path)} (or {variable_of(path)})" if len(path) > 1 and path[0] != "rooms" else format_key(path)


def _tree(values: Mapping[Path, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, value in values.items():
        table = tree
        for part in path[:-1]:
            table = table.setdefault(part, {})
        table[path[-1]] = value
    return tree


def _hidden(origins: Mapping[Path, Origin], path: Path) -> str | None:
    found = origin_of(origins, path)
    if found is not None and found[0].reference:
        return f"the value of {found[0].reference}, which is not shown"
    return "a value that is not shown" if is_secret_name(path) else None
