"""The effective settings, each with its source, and none with a secret."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, SecretStr

from roomwire.config._sources import Origin, origin_of
from roomwire.config.problems import Path, format_key, redact_url
from roomwire.config.settings import Settings

__all__ = ["ShownSetting", "shown_settings"]

HIDDEN = "***"


@dataclass(frozen=True, slots=True)
class ShownSetting:
    """A setting as it may be shown to anybody.

    Attributes:
        key: dotted.
        value: a JSON value; ``"***"`` for a secret, ``"env:NAME (set)"`` for one from elsewhere.
        source: where it was set, or ``"default"``.
    """

    key: str
    value: object
    source: str


def shown_settings(
    settings: Settings, origins: Mapping[Path, Origin], secret: Callable[[Path], bool]
) -> list[ShownSetting]:
    """Every setting in the order of the sections."""
    shown = []
    for path, value in _walk(settings):
        found = origin_of(origins, path)
        if found is None:
            text = "(made at the start)" if path == ("server", "node") else _safe(value)
            shown.append(ShownSetting(format_key(path), text, "default"))
            continue
        origin = found[0]
        text = f"{origin.reference} (set)" if origin.reference else HIDDEN if secret(path) else _safe(value)
        shown.append(ShownSetting(format_key(path), text, str(origin)))
    return shown


def _walk(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    items: Mapping[str, Any] | None = None
    if isinstance(value, BaseModel):
        items = {name: getattr(value, name) for name in type(value).model_fields}
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        items = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    elif isinstance(value, dict):
        items = value
    if items is None:
        yield path, value
        return
    for name, item in items.items():
        yield from _walk(item, (*path, name))


def _safe(value: Any) -> Any:
    match value:
        case SecretStr():
            return HIDDEN
        case str():
            return redact_url(value)
        case list():
            return [_safe(item) for item in value]
    return value
