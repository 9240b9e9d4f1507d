"""The envelope: one flat JSON object for a message (docs/reference/protocol.md section 2).

Reading is strict RFC 8259 and decodes the text once. ``data`` is handed on as raw JSON beside its
decoded form, so that a handler's model validates the text itself, and writing splices raw JSON in:
nothing is ever encoded twice.

A message as our own clients write it costs one regular expression and one C scan of its ``data``;
any other, and every error, goes to a scan of the object field by field, which alone decides what is
refused and why. All of it is linear in the length of the text.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import NoReturn

from pydantic_core import to_json

from roomwire.core.errors import InvalidMessage
from roomwire.core.events import is_event_name
from roomwire.core.positions import is_room_name

__all__ = [
    "BINARY_HEADER_MAX",
    "MAX_DEPTH",
    "MAX_DIGITS",
    "Envelope",
    "dump",
    "encode",
    "encode_binary",
    "is_message_id",
    "parse",
    "parse_binary",
    "quote",
    "read_common",
]

MAX_DEPTH = 64
"""Levels of nesting, the envelope's own object included."""
MAX_DIGITS = 32
"""Digits of one number, those of its fraction and its exponent included."""
BINARY_HEADER_MAX = 4096
"""Bytes of a binary message's JSON object."""

_FIELDS = frozenset({"event", "data", "id", "room"})
_ID = re.compile(r"[ -~]{1,64}", re.ASCII)

# Event, room, id and data in the order of our own clients, or the id before the room, with at most one blank
# after a colon or a comma. No string that it takes holds an escape, so that each is its own value.
_COMMON_HEAD = re.compile(
    r'\{"event": ?"([A-Za-z0-9._:\-]{1,128})"'
    r'(?:, ?"id": ?"([ !#-\[\]-~]{1,64})")?'
    r'(?:, ?"room": ?"([^"\\\x00-\x1f\x7f-\x9f]{1,128})")?'
    r'(?:, ?"id": ?"([ !#-\[\]-~]{1,64})")?'
    r'(?:, ?"data": ?|(\})\Z)'
)
_SPACE = r"[ \t\n\r]*"
_OPEN = re.compile(rf"{_SPACE}\{{{_SPACE}(\}}{_SPACE}\Z)?")
_COLON = re.compile(rf"{_SPACE}:{_SPACE}")
_AFTER_VALUE = re.compile(rf"{_SPACE}(?:(,){_SPACE}|\}}{_SPACE}\Z)")

_STRINGS_AND_THE_REST = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[^"\[\]{}]+', re.DOTALL)
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
# An escape that stands for a character: of one letter, of four digits, or a pair of surrogates.
_WHOLE_ESCAPE = re.compile(r"\\(?:[^u]|u(?![dD][89a-fA-F])....|u[dD][89abAB]..\\u[dD][c-fC-F]..)")

_PLAIN = re.compile(r'[^"\\\x00-\x1f]*')

_NOT_JSON = "not JSON as RFC 8259 has it"
_TOO_DEEP = f"nested deeper than {MAX_DEPTH} levels"
_SURROGATE_ALONE = "a lone surrogate"


class _Refused(Exception):
    """A rule is broken; says which. Never leaves this module."""


def _refuse_constant(name: str) -> NoReturn:
    raise _Refused(f"{name} is not JSON")


# The decoder calls these for each number, before it is converted: the time of `int` grows with the
# square of its digits.
def _integer(text: str) -> int:
    if len(text) > MAX_DIGITS:
        _check_digits(text)
    return int(text)


def _fraction(text: str) -> float:
    if len(text) > MAX_DIGITS:
        _check_digits(text)
    return float(text)


def _check_digits(number: str) -> None:
    # All that is not a digit: two signs, a point and an e.
    if len(number) > MAX_DIGITS + 4 or sum(map(str.isdigit, number)) > MAX_DIGITS:
        raise _Refused(f"a number of more than {MAX_DIGITS} digits")


_decoder = json.JSONDecoder(parse_int=_integer, parse_float=_fraction, parse_constant=_refuse_constant)
_decode = _decoder.raw_decode
# `raw_decode` without its error's text: StopIteration where no value begins.
_scan_once = _decoder.scan_once  # type: ignore[attr-defined]  # typeshed does not list it


@dataclass(slots=True)
class Envelope:
    """One message.

    Attributes:
        event: its name.
        room: the room that it concerns, if any.
        id: the sender's id, if it asks for a reply.
        data: ``data`` as raw JSON text, or the payload of a binary message. ``"null"`` where absent.
        value: ``data`` decoded; for a binary message the payload itself.
    """

    event: str
    room: str | None = None
    id: str | None = None
    data: str | bytes = "null"
    value: object = None

    @property
    def binary(self) -> bool:
        """Whether it came in a binary frame."""
        return isinstance(self.data, bytes)


def is_message_id(value: object) -> bool:
    """Whether `value` is printable ASCII of 1 to 64 characters."""
    return isinstance(value, str) and _ID.fullmatch(value) is not None


def parse(text: str) -> Envelope:
    """Read a text frame's message.

    Raises:
        InvalidMessage: with the message's ``id``, where there is a usable one.
    """
    common = read_common(text)
    return _parse_any(text, binary=False) if common is None else Envelope(*common)


def read_common(text: str) -> tuple[str, str | None, str | None, str, object] | None:
    """A message as our own clients write it: the fields of its `Envelope`. None for any other, be it correct or not."""
    head = _COMMON_HEAD.match(text)
    if head is None:
        return None
    event, early_id, room, id_, end_of_object = head.groups()
    if room is not None and not room.isascii() and not is_room_name(room):
        return None
    if early_id is not None:
        if id_ is not None:
            return None  # twice
        id_ = early_id
    if end_of_object:
        return event, room, id_, "null", None
    start = head.end()
    try:
        value, end = _scan_once(text, start)
        _check_text(text)
    except (StopIteration, _Refused, ValueError, RecursionError):
        return None
    if text[end:] != "}":
        return None
    return event, room, id_, text[start:end], value


def _parse_any(text: str, *, binary: bool) -> Envelope:
    fields: dict[str, object] = {}
    try:
        data = _scan(text, fields)
        _check_text(text)
        event, room, id_ = _checked(fields)
        if binary and "data" in fields:
            raise _Refused("the header of a binary message has no data")
        return Envelope(event, room, id_, data, fields.get("data"))
    except _Refused as error:
        fault = str(error)
    except RecursionError:
        fault = _TOO_DEEP
    except ValueError:
        fault = _NOT_JSON
    raise InvalidMessage(fault, _usable_id(text, fields))


def _scan(text: str, fields: dict[str, object]) -> str:
    """Fill `fields` from the object in `text`; returns the raw JSON of ``data``."""
    data = "null"
    opened = _OPEN.match(text)
    if opened is None:
        raise _Refused("a message is one JSON object")
    position = -1 if opened[1] else opened.end()
    while position >= 0:
        name, end = _decode(text, position)
        colon = _COLON.match(text, end) if isinstance(name, str) else None
        if colon is None:
            raise _Refused(_NOT_JSON)
        if name not in _FIELDS:
            raise _Refused("an unknown field; a message has event, data, id and room")
        if name in fields:
            raise _Refused(f"the field {name} stands there twice")
        start = colon.end()
        fields[name], end = _decode(text, start)
        if name == "data":
            data = text[start:end]
        after = _AFTER_VALUE.match(text, end)
        if after is None:
            raise _Refused(_NOT_JSON)
        position = after.end() if after[1] else -1
    return data


def _check_text(text: str) -> None:
    """The rules that hold for a message as a whole, which is known to be JSON.

    What breaks them is rare and dear to prove, so it is looked for only where a cheap test says that
    it may be there.
    """
    if text.count("[") + text.count("{") > MAX_DEPTH and _depth(text) > MAX_DEPTH:
        raise _Refused(_TOO_DEEP)
    if "\\u" in text and _SURROGATE.search(text) and "\\" in _WHOLE_ESCAPE.sub("", text):
        raise _Refused(_SURROGATE_ALONE)
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise _Refused(_SURROGATE_ALONE) from None


def _depth(text: str) -> int:
    depth = deepest = 0
    for bracket in _STRINGS_AND_THE_REST.sub("", text):
        if bracket in "[{":
            depth += 1
            deepest = max(deepest, depth)
        else:
            depth -= 1
    return deepest


def _checked(fields: dict[str, object]) -> tuple[str, str | None, str | None]:
    """Event, room and id, once they are what they have to be."""
    event, room, id_ = fields.get("event"), fields.get("room"), fields.get("id")
    if not isinstance(event, str) or not is_event_name(event):
        raise _Refused("event is required: 1 to 128 characters of A-Z a-z 0-9 . _ : -")
    if "id" in fields and not is_message_id(id_):
        raise _Refused("id is printable ASCII of 1 to 64 characters")
    if "room" in fields and not is_room_name(room):
        raise _Refused("room is 1 to 128 bytes of UTF-8 without control characters")
    return event, room, id_  # type: ignore[return-value]  # just checked


def _usable_id(text: str, fields: dict[str, object]) -> str | None:
    """The id of a message that is refused; also one that stands after the fault, where JSON allows."""
    id_ = fields.get("id")
    if "id" not in fields:
        try:
            id_ = json.loads(text)["id"]
        except (ValueError, LookupError, TypeError, RecursionError):
            return None
    return id_ if isinstance(id_, str) and is_message_id(id_) else None


def parse_binary(payload: bytes) -> Envelope:
    """Read a binary frame's message: header length (4 bytes, big-endian), header, payload.

    Raises:
        InvalidMessage: as `parse` does.
    """
    size = int.from_bytes(payload[:4], "big")
    if len(payload) < 4 or not 1 <= size <= BINARY_HEADER_MAX or len(payload) < 4 + size:
        raise InvalidMessage(f"a binary message begins with a 4-byte header length of 1 to {BINARY_HEADER_MAX}")
    try:
        header = payload[4 : 4 + size].decode()
    except UnicodeDecodeError:
        raise InvalidMessage("the header of a binary message is UTF-8") from None
    envelope = _parse_any(header, binary=True)
    envelope.data = envelope.value = payload[4 + size :]
    return envelope


def dump(value: object) -> bytes:
    """A value as JSON: whatever pydantic can serialise. NaN and the infinities become ``null``.

    Raises:
        ValueError: it cannot be serialised (`pydantic_core.PydanticSerializationError` is one).
    """
    return to_json(value, inf_nan_mode="null")


def quote(text: str) -> bytes:
    """A string as a JSON string.

    Raises:
        ValueError: it holds a lone surrogate.
    """
    if _PLAIN.fullmatch(text):
        return b'"' + text.encode() + b'"'
    return to_json(text)


def encode(
    event: str, *, room: str | None = None, id: str | None = None, user: str | None = None, data: bytes | None = None
) -> bytes:
    """A text frame's payload. `event` is trusted to be a name, and `data` to be JSON; neither is looked at."""
    parts = [b'{"event":"', event.encode(), b'"']
    _append_fields(parts, room, id, user)
    if data is not None:
        parts += (b',"data":', data)
    parts.append(b"}")
    return b"".join(parts)


def encode_binary(
    event: str, payload: bytes, *, room: str | None = None, id: str | None = None, user: str | None = None
) -> bytes:
    """A binary frame's payload.

    Raises:
        ValueError: the header would be longer than `BINARY_HEADER_MAX` bytes.
    """
    header = encode(event, room=room, id=id, user=user)
    if len(header) > BINARY_HEADER_MAX:
        raise ValueError(f"the header of a binary message is at most {BINARY_HEADER_MAX} bytes")
    return b"".join((len(header).to_bytes(4, "big"), header, payload))


def _append_fields(parts: list[bytes], room: str | None, id_: str | None, user: str | None) -> None:
    if room is not None:
        parts += (b',"room":', quote(room))
    if id_ is not None:
        parts += (b',"id":', quote(id_))
    if user is not None:
        parts += (b',"user":', quote(user))
