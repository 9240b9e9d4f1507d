"""What the application gives for the request of the handshake: its headers, and the token. Neither's value is shown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from roomwire.core.errors import LocalError

__all__ = ["Headers", "bearer", "checked_headers"]

Headers: TypeAlias = Mapping[str, str] | Sequence[tuple[str, str]]
"""Names and values; a name that comes twice needs pairs."""

# RFC 9110 sections 5.1 and 5.5. What is not ASCII is obsolete in a value, and servers differ in how they read it.
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"(?:[!-~](?:[ \t!-~]*[!-~])?)?")
# The handshake's own (RFC 6455 section 4.1), and those that announce a body, which it has not.
_OWN = frozenset({"connection", "content-length", "host", "transfer-encoding", "upgrade"})
_OWN_PREFIX = "sec-websocket-"


def checked_headers(headers: object) -> tuple[tuple[str, str], ...]:
    """The application's headers as pairs.

    Raises:
        LocalError: they are neither a mapping nor pairs of text, or one of them cannot be sent. It names the header.
    """
    items = headers.items() if isinstance(headers, Mapping) else headers
    if not isinstance(items, Iterable) or isinstance(items, str | bytes):
        raise _unexpected(headers)
    return tuple(_checked(item) for item in items)


def bearer(token: object) -> tuple[str, str]:
    """The header that carries a token (RFC 6750 section 2.1).

    Raises:
        LocalError: it is no text, empty, or no header can carry it.
    """
    if not isinstance(token, str):
        raise LocalError(f"the token is of type {type(token).__name__}, not str")
    if not token:
        raise LocalError("the token is empty")
    if not _VALUE.fullmatch(token):
        raise LocalError("the token has a character that no header can carry (a newline at its end?)")
    return "Authorization", f"Bearer {token}"


def _checked(item: object) -> tuple[str, str]:
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise _unexpected(item)
    name, value = item
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise LocalError(f"headers: {name!r} is no header's name")
    if name.lower() in _OWN or name.lower().startswith(_OWN_PREFIX):
        raise LocalError(f"headers: {name} is for the client alone to set")
    if not isinstance(value, str):
        raise LocalError(f"headers: the value of {name} is of type {type(value).__name__}, not str")
    if not _VALUE.fullmatch(value):
        raise LocalError(f"headers: the value of {name} has a character that no header can carry")
    return name, value


def _unexpected(found: object) -> LocalError:
    return LocalError(f"headers: expected a mapping, or pairs of names and values, found {type(found).__name__}")
