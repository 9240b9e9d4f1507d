"""The keys that exist, read off the models, so that a name is written down once."""

from __future__ import annotations

import dataclasses
import re
import types
from collections.abc import Collection, Mapping
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel

from roomwire.config.problems import Path
from roomwire.config.settings import Settings
from roomwire.core.policy import RoomPolicy

__all__ = [
    "PATH_KEYS",
    "PREFIX",
    "is_free",
    "is_secret_name",
    "key_of_variable",
    "known_keys",
    "type_at",
    "variable_of",
]

PREFIX = "ROOMWIRE_"
_SEPARATOR = "__"

PATH_KEYS: frozenset[Path] = frozenset({("server", "ssl_certfile"), ("server", "ssl_keyfile"), ("server", "uds")})
"""Where a relative path in a file is meant from that file."""

_SECRET_NAME = re.compile(r"secret|passw|token|credential|(?:^|_)(?:key|pin|auth)$|private_key|api_key")

_FREE: frozenset[Path] = frozenset({("backplane", "options"), ("auth", "options")})


def _fields(model: Any) -> dict[str, Any]:
    if dataclasses.is_dataclass(model):
        return get_type_hints(model)
    return {name: field.annotation for name, field in model.model_fields.items()}


def _is_table(annotation: object) -> bool:
    return isinstance(annotation, type) and (issubclass(annotation, BaseModel) or dataclasses.is_dataclass(annotation))


_ROOT: Mapping[str, Any] = _fields(Settings)
_SECTIONS: Mapping[str, dict[str, Any]] = {
    name: _fields(annotation) for name, annotation in _ROOT.items() if _is_table(annotation)
}
_POLICY = _fields(RoomPolicy)


def is_free(path: Path) -> bool:
    """Whether the key stands in a table whose keys are an adapter's own."""
    return len(path) > 2 and path[:2] in _FREE


def is_secret_name(path: Path) -> bool:
    """Whether a key sounds like a secret. Only options of adapters and passwords are asked: limits have no secrets."""
    if path[:2] == ("api", "keys"):
        return True
    name = path[-1]
    if path == ("metrics", "token"):
        return True
    return (is_free(path) or "password" in name) and not name.startswith("public") and bool(_SECRET_NAME.search(name))


def known_keys(path: Path) -> Collection[str]:
    """The keys that the table at `path` may have."""
    if not path:
        return _ROOT.keys()
    if path[0] == "rooms" and len(path) == 2:
        return _POLICY.keys()
    return _SECTIONS.get(path[0], {}).keys() if len(path) == 1 else ()


def type_at(path: Path) -> Any:
    """What a key's value is, without its bounds and without ``None``; None where it is not known."""
    annotation: Any = None
    if len(path) == 1:
        annotation = _ROOT.get(path[0])
    elif len(path) == 2:
        annotation = _SECTIONS.get(path[0], {}).get(path[1])
    elif path[0] == "rooms" and len(path) == 3:
        annotation = _POLICY.get(path[2])
    return _bare(annotation)


def _bare(annotation: Any) -> Any:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _bare(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return _bare(next(member for member in get_args(annotation) if member is not type(None)))
    return origin or annotation


def variable_of(path: Path) -> str:
    """The environment variable of a key."""
    return PREFIX + _SEPARATOR.join(path).upper()


def key_of_variable(name: str) -> Path | None:
    """The key that a variable's name spells, known or not; None where it spells none."""
    parts = tuple(name.removeprefix(PREFIX).lower().split(_SEPARATOR))
    if not name.startswith(PREFIX) or not all(parts):
        return None
    return (
        parts if len(parts) > 1 or (parts[0] in _ROOT and parts[0] not in _SECTIONS and parts[0] != "rooms") else None
    )
