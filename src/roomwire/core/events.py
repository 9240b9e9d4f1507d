"""The native protocol's names: its subprotocol, the form of events' names, and those that belong to it."""

from __future__ import annotations

import re

from roomwire.core.errors import LocalError

__all__ = ["RESERVED_EVENTS", "RESERVED_PREFIXES", "SUBPROTOCOL", "check_event_name", "is_event_name", "is_reserved"]

SUBPROTOCOL = "roomwire.v1"

RESERVED_PREFIXES = ("room.", "session.", "presence.")
RESERVED_EVENTS = frozenset({"ack", "error", "heartbeat"})

_NAME = re.compile(r"[A-Za-z0-9._:\-]{1,128}", re.ASCII)


def is_event_name(name: str) -> bool:
    """Whether `name` is 1 to 128 characters of ``A-Z a-z 0-9 . _ : -``."""
    return _NAME.fullmatch(name) is not None


def is_reserved(name: str) -> bool:
    """Whether the name belongs to the protocol, so that an application cannot use it."""
    return name in RESERVED_EVENTS or name.startswith(RESERVED_PREFIXES)


def check_event_name(name: str) -> None:
    """Refuse a name that an application cannot use.

    Raises:
        LocalError: it is reserved, or has another form.
    """
    if not is_event_name(name):
        raise LocalError(f"{name!r} is no event name: 1 to 128 characters of A-Z a-z 0-9 . _ : -")
    if is_reserved(name):
        raise LocalError(f"{name!r} belongs to the protocol: choose another name")
