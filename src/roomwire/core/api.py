"""The publish API over HTTP: what a request says, and what is answered (docs/how-to/publish.md).

A body is one event, or a list of events. JSON is as strict as in the protocol's messages.

    field         value
    room, event   required
    data          any JSON value; null where it is left out
    data_base64   instead of data: the bytes of a binary event
    key           printable ASCII, 1 to 255 characters: makes it idempotent
    exclude       the client id that does not get it; with user, that user's client
    user          who publishes it
    history       false for an ephemeral event
"""

from __future__ import annotations

import binascii
import json
import re
from base64 import b64decode
from dataclasses import dataclass
from math import isinf
from typing import Any, NoReturn

from roomwire.core.envelope import MAX_DEPTH, MAX_DIGITS
from roomwire.core.errors import RemoteError
from roomwire.core.identity import is_user

__all__ = ["Fault", "InvalidRequest", "Posted", "is_key", "read_request"]

_KEY = re.compile(r"[ -~]{1,255}", re.ASCII)
_FIELDS = frozenset({"room", "event", "data", "data_base64", "key", "exclude", "user", "history"})
_TEXTS = ("room", "event", "data_base64", "key", "exclude", "user")


class InvalidRequest(RemoteError):
    """A body is no correct request as a whole. Its text may be shown."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Why an event was not published.

    Attributes:
        status: the HTTP status of a request for it alone.
        error: the machine-readable code.
        detail: a text for people.
    """

    status: int
    error: str
    detail: str


@dataclass(frozen=True, slots=True)
class Posted:
    """One event of a request; room, event and client are still to be checked for their form."""

    room: str
    event: str
    data: object = None
    key: str | None = None
    exclude: str | None = None
    user: str | None = None
    history: bool = True


class _Refused(Exception):
    """A rule is broken; says which. Never leaves this module."""


def is_key(text: str) -> bool:
    """Whether it is printable ASCII of 1 to 255 characters."""
    return _KEY.fullmatch(text) is not None


def read_request(body: bytes, max_batch: int) -> Posted | Fault | list[Posted | Fault]:
    """One event, or a list of events; each read on its own.

    Raises:
        InvalidRequest: the body is not JSON, neither an object nor a list, or lists too many events.
    """
    value = _decode(body)
    if isinstance(value, dict):
        return _read(value)
    if not isinstance(value, list):
        raise InvalidRequest("expected an event as a JSON object, or a list of events")
    if not 1 <= len(value) <= max_batch:
        raise InvalidRequest(f"expected a list of 1 to {max_batch} events, found {len(value)}")
    return [_read(item) for item in value]


def _read(item: Any) -> Posted | Fault:
    try:
        return _checked(item)
    except _Refused as refused:
        return Fault(400, "invalid", str(refused))


def _checked(item: Any) -> Posted:
    if not isinstance(item, dict):
        raise _Refused("an event is a JSON object")
    if not item.keys() <= _FIELDS:
        raise _Refused("an unknown field; an event has room, event, data or data_base64, key, exclude, user, history")
    for name in ("room", "event"):
        if name not in item:
            raise _Refused(f"{name} is required")
    for name in _TEXTS:
        if name in item and not isinstance(item[name], str):
            raise _Refused(f"{name} is a string")
    fields = {name: item[name] for name in ("room", "event", "key", "exclude", "user", "history") if name in item}
    if "key" in fields and not is_key(fields["key"]):
        raise _Refused("key is printable ASCII of 1 to 255 characters")
    if "user" in fields and not is_user(fields["user"]):
        raise _Refused("user is 1 to 255 characters, none of them a control character")
    if not isinstance(fields.get("history", True), bool):
        raise _Refused("history is true or false")
    return Posted(data=_data(item), **fields)


def _data(item: dict[str, Any]) -> object:
    if "data_base64" not in item:
        if _depth(item.get("data")) > MAX_DEPTH:
            raise _Refused(f"data is nested deeper than {MAX_DEPTH} levels")
        return item.get("data")
    if "data" in item:
        raise _Refused("data and data_base64 exclude each other")
    try:
        return b64decode(item["data_base64"], validate=True)
    except (binascii.Error, ValueError):
        raise _Refused("data_base64 is not base64 (RFC 4648 section 4)") from None


def _depth(value: object) -> int:
    depth, level = 0, [value]
    while level:
        depth += 1
        containers = [item for item in level if isinstance(item, dict | list)]
        level = [child for item in containers for child in (item.values() if isinstance(item, dict) else item)]
    return depth


# --- JSON


def _decode(body: bytes) -> Any:
    try:
        text = body.decode()
        if "\\u" in text or not text.isascii():
            return _without_surrogates(_DECODER.decode(text))
        return _DECODER.decode(text)
    except _Refused as refused:
        raise InvalidRequest(str(refused)) from None
    except RecursionError:
        raise InvalidRequest("nested too deeply") from None
    except ValueError:
        raise InvalidRequest("not JSON as RFC 8259 has it") from None


def _without_surrogates(value: Any) -> Any:
    # The check of the whole is the cheapest: what is written must be UTF-8.
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise _Refused("a lone surrogate") from None
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _Refused("a field stands there twice")
    return found


def _number(text: str) -> str:
    # Before it is converted: the time of `int` grows with the square of its digits.
    if len(text) > MAX_DIGITS and sum(map(str.isdigit, text)) > MAX_DIGITS:
        raise _Refused(f"a number of more than {MAX_DIGITS} digits")
    return text


def _fraction(text: str) -> float:
    value = float(_number(text))
    if isinf(value):
        raise _Refused("a number beyond what a double holds")
    return value


def _constant(name: str) -> NoReturn:
    raise _Refused(f"{name} is not JSON")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_once,
    parse_int=lambda text: int(_number(text)),
    parse_float=_fraction,
    parse_constant=_constant,
)
