"""What a warning is, and words that several of them need."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

from roomwire.config import format_key

__all__ = ["Advice", "is_loopback", "size", "url_of"]


class Advice(NamedTuple):
    """One warning.

    Attributes:
        path: the setting, from the root of the configuration.
        text: what may happen.
        change: the line that changes it.
        instead: where the setting is overridden, and the line has to be changed there; empty for the file.
    """

    path: tuple[str, ...]
    text: str
    change: str
    instead: str = ""

    @property
    def key(self) -> str:
        """The setting as TOML would write it."""
        return format_key(self.path)


def is_loopback(host: str) -> bool:
    """Whether a host, without its port, is this machine for sure."""
    return host in ("::1", "localhost") or host.endswith(".localhost") or host.startswith("127.")


def url_of(value: object) -> SplitResult | None:
    """A URL with a host, or None."""
    try:
        parts = urlsplit(value) if isinstance(value, str) and "://" in value else None
        return parts if parts is not None and parts.hostname else None
    except ValueError:
        return None


def size(count: float) -> str:
    """Bytes for people: ``51.6 MiB``."""
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:,.1f} GiB"
