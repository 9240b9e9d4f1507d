"""The envelope: one flat JSON object for a message (docs/reference/protocol.md section 2).

Reading is strict RFC 8259 and scans the text once. ``data`` is handed on as raw JSON beside its
decoded form, so that a handler's model validates the text itself, and writing splices raw JSON in:
nothing is ever encoded twice.

The common message costs one regular expression per field and one C scan of ``data``. What is rare
and dear to check (deep nesting, long numbers, escaped surrogates) is looked for only where a cheap
test says that it may be there.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import NoReturn

from pydantic_core import to_json

from roomwire.core.errors import InvalidMessage
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
]

MAX_DEPTH = 64
"""Levels of nesting, the envelope's own object included."""
MAX_DIGITS = 32
BINARY_HEADER_MAX = 4096

_SPACE = r"[ \t\n\r]*"
_OPEN = re.compile(rf"{_SPACE}\{{{_SPACE}")
# A field's name, and its value where that is a string without escapes.
_FIELD = re.compile(rf'"(event|data|id|room)"{_SPACE}:{_SPACE}(?:"([^"\\\x00-\x1f]*)")?')
_NEXT = re.compile(rf"{_SPACE}(?:,{_SPACE}|(\}}){_SPACE})")
_EVENT = re.compile(r"[A-Za-z0-9._:\-]{1,128}", re.ASCII)
_ID = re.compile(r"[ -~]{1,64}", re.ASCII)
_STRINGS = re.compile(r'"(?:[^"\\]|\\.)*"')
_LONG_NUMBER = re.compile(r"[0-9.eE+\-]{%d}" % (MAX_DIGITS + 1))
_DIGITS = re.compile(r"[0-9.eE+\-]+")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_NOT_JSON = "not JSON as RFC 8259 has it"
_PLAIN = re.compile(r'[^"\\\x00-\x1f]*')


class _NotJson(Exception):
    """Raised inside the scan; never leaves this module."""


def _refuse_constant(name: str) -> NoReturn:
    raise _NotJson(f"{name} is not JSON")


_decode = json.JSONDecoder(parse_constant=_refuse_constant).raw_decode


@dataclass(slots=True)
class Envelope:
    """One message.

    Attributes:
        event: its name.
        room: the room that it concerns, if any.
        id: the sender's id (a request), or the event's id.
        data: ``data`` as raw JSON text, or the payload of a binary message. ``"null"`` where absent.
        value: ``data`` decoded; for a binary message the payload itself.
        user: on events from a server, who published it.
    """

    event: str
    room: str | None = None
    id: str | None = None
    data: str | bytes = "null"
    value: object = None
    user: str | None = None

    @property
    def binary(self) -> bool:
        """Whether it came as, or goes into, a binary frame."""
        return isinstance(self.data, bytes)


def is_message_id(value: object) -> bool:
    """Whether `value` is printable ASCII of 1 to 64 characters."""
    return isinstance(value, str) and _ID.fullmatch(value) is not None


def parse(text: str) -> Envelope:
    """Read a text frame's message.

    Raises:
        InvalidMessage: with the message's ``id``, where there is a usable one.
    """
    fields: dict[str, object] = {}
    try:
        raw = _scan(text, fields)
        _check_costly(text)
        return _checked(fields, raw)
    except _NotJson as error:
        raise InvalidMessage(str(error), _usable_id(fields)) from None
    except (ValueError, RecursionError):
        # ValueError: JSONDecodeError, or an integer beyond int()'s own limit of digits.
        raise InvalidMessage(_NOT_JSON, _usable_id(fields)) from None


def _scan(text: str, fields: dict[str, object]) -> str:
    """Fill `fields` from the object in `text`; returns the raw JSON of ``data``."""
    raw = "null"
    match = _OPEN.match(text)
    if match is None:
        raise _NotJson("a message is one JSON object")
    position = match.end()
    while True:
        field = _FIELD.match(text, position)
        if field is None:
            raise _NotJson(_why_no_field(text, position))
        name = field[1]
        if name in fields:
            raise _NotJson(f"the field {name} stands there twice")
        value: object = field[2]
        end = field.end()
        if value is None:
            value, end = _decode(text, end)
        if name == "data":
            raw = text[field.end() if field[2] is None else field.start(2) - 1 : end]
        fields[name] = value
        after = _NEXT.match(text, end)
        if after is None:
            raise _NotJson(_NOT_JSON)
        position = after.end()
        if after[1]:
            break
    if position != len(text):
        raise _NotJson("something follows the JSON object")
    return raw


def _why_no_field(text: str, position: int) -> str:
    if text.startswith("}", position):
        return "a message needs an event"
    name, _ = _decode(text, position)
    return "an unknown field; a message has event, data, id and room" if isinstance(name, str) else _NOT_JSON


def _check_costly(text: str) -> None:
    if text.count("[") + text.count("{") > MAX_DEPTH and _depth(text) > MAX_DEPTH:
        raise _NotJson(f"nested deeper than {MAX_DEPTH} levels")
    if len(text) > MAX_DIGITS and _LONG_NUMBER.search(text):
        for number in _DIGITS.findall(_STRINGS.sub('""', text)):
            if sum(map(str.isdigit, number)) > MAX_DIGITS:
                raise _NotJson(f"a number of more than {MAX_DIGITS} digits")
    if "\\u" in text and _SURROGATE.search(text):
        try:
            json.dumps(json.loads(text), ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise _NotJson("a lone surrogate") from None


def _depth(text: str) -> int:
    depth = deepest = 0
    for character in _STRINGS.sub("", text):
        if character in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in "]}":
            depth -= 1
    return deepest


def _usable_id(fields: dict[str, object]) -> str | None:
    value = fields.get("id")
    return value if isinstance(value, str) and _ID.fullmatch(value) else None


def _checked(fields: dict[str, object], raw: str) -> Envelope:
    event, room, id_ = fields.get("event"), fields.get("room"), fields.get("id")
    if not isinstance(event, str) or _EVENT.fullmatch(event) is None:
        raise _NotJson("event is required: 1 to 128 characters of A-Z a-z 0-9 . _ : -")
    if "id" in fields and not (isinstance(id_, str) and _ID.fullmatch(id_)):
        raise _NotJson("id is printable ASCII of 1 to 64 characters")
    if "room" in fields and not is_room_name(room):
        raise _NotJson("room is 1 to 128 bytes of UTF-8 without control characters")
    return Envelope(event, room, id_, raw, fields.get("data"))  # type: ignore[arg-type]  # just checked


def parse_binary(payload: bytes) -> Envelope:
    """Read a binary frame's message: header length (4 bytes, big-endian), header, payload.

    Raises:
        InvalidMessage: as `parse` does.
    """
    size = int.from_bytes(payload[:4], "big")
    if len(payload) < 4 or not 1 <= size <= BINARY_HEADER_MAX or len(payload) < 4 + size:
        raise InvalidMessage(f"a binary message begins with a 4-byte header length of 1 to {BINARY_HEADER_MAX}")
    try:
        text = payload[4 : 4 + size].decode()
    except UnicodeDecodeError:
        raise InvalidMessage("the header of a binary message is UTF-8") from None
    fields: dict[str, object] = {}
    try:
        _scan(text, fields)
        _check_costly(text)
        if "data" in fields:
            raise _NotJson("the header of a binary message has no data")
        envelope = _checked(fields, "null")
    except _NotJson as error:
        raise InvalidMessage(str(error), _usable_id(fields)) from None
    except (ValueError, RecursionError):
        raise InvalidMessage(_NOT_JSON, _usable_id(fields)) from None
    envelope.data = envelope.value = bytes(payload[4 + size :])
    return envelope


def dump(value: object) -> bytes:
    """A value as JSON: whatever pydantic can serialise. NaN and the infinities become ``null``.

    Raises:
        ValueError: it cannot be serialised (pydantic's error is one).
    """
    return to_json(value, inf_nan_mode="null")


def quote(text: str) -> bytes:
    """A string as a JSON string."""
    if _PLAIN.fullmatch(text):
        return b'"' + text.encode() + b'"'
    return to_json(text)


def encode(
    event: str, *, room: str | None = None, id: str | None = None, user: str | None = None, data: bytes | None = None
) -> bytes:
    """A text frame's payload. `event` is trusted to be a name; `data` is raw JSON."""
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
        ValueError: the header would be longer than 4,096 bytes.
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
