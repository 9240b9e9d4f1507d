"""Messages on the wire, from the client's side: reading is tolerant, writing is strict.

A client ignores fields and events that it does not know (docs/reference/protocol.md section 2), so a
newer server can say more. What is no envelope at all, though, ends the connection with 1002.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from roomwire.core.closing import CloseCode
from roomwire.core.envelope import BINARY_HEADER_MAX, dump, encode, encode_binary
from roomwire.core.errors import InvalidCursor, LocalError, ProtocolViolation
from roomwire.core.events import check_event_name
from roomwire.core.positions import Position, is_room_name

__all__ = [
    "Incoming",
    "Payload",
    "Status",
    "bad_message",
    "check_room",
    "control",
    "fields_of",
    "message",
    "position_of",
    "positions_of",
    "read",
    "seconds_of",
    "status_of",
    "statuses_of",
    "text_of",
]

Payload = str | bytes
"""A text message, or a binary one."""


@dataclass(frozen=True, slots=True)
class Incoming:
    """A message of the server; `data` is decoded JSON, or bytes."""

    event: str
    data: Any = None
    room: str | None = None
    id: str | None = None
    user: str | None = None


@dataclass(frozen=True, slots=True)
class Status:
    """How a join or a resume ended for one room (docs/reference/protocol.md section 5.2)."""

    position: Position | None = None
    recovered: bool | None = None
    reason: str | None = None


def bad_message(what: str) -> ProtocolViolation:
    """The error of a message that breaks the protocol."""
    return ProtocolViolation(CloseCode.PROTOCOL_ERROR, what)


# --- reading -----------------------------------------------------------------------------------


def read(payload: Payload) -> Incoming:
    """Read one message.

    Raises:
        ProtocolViolation: it is no envelope.
    """
    if isinstance(payload, str):
        fields = _object(payload)
        data = fields.get("data")
    else:
        size = int.from_bytes(payload[:4], "big")
        if not 1 <= size <= BINARY_HEADER_MAX or len(payload) < 4 + size:
            raise bad_message("a binary message without a correct header")
        try:
            fields = _object(payload[4 : 4 + size].decode())
        except UnicodeDecodeError:
            raise bad_message("a binary message whose header is not UTF-8") from None
        data = payload[4 + size :]
    event = fields.get("event")
    if not isinstance(event, str):
        raise bad_message("a message without an event")
    room = fields.get("room")
    if room is not None:
        _check_name(room)
    return Incoming(event, data, room, text_of(fields, "id"), text_of(fields, "user"))


def _check_name(room: object) -> None:
    if not is_room_name(room):
        raise bad_message("a message with a room that is no room's name")


def _object(text: str) -> Mapping[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise bad_message("a message that is not JSON") from None
    if not isinstance(value, dict):
        raise bad_message("a message that is not a JSON object")
    return value


def text_of(fields: Mapping[str, Any], name: str) -> str | None:
    """A field that is a string where it is there."""
    value = fields.get(name)
    if value is not None and not isinstance(value, str):
        raise bad_message(f"{name} is not a string")
    return value


def fields_of(value: object) -> Mapping[str, Any]:
    """An object's fields; nothing where the object is missing."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise bad_message("the data of a protocol event is not an object")
    return value


def seconds_of(fields: Mapping[str, Any], name: str, default: float) -> float:
    """A number of seconds or bytes; `default` where it is missing or not a useful number."""
    value = fields.get(name)
    useful = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e9
    return float(value) if useful else default  # type: ignore[arg-type]  # just checked


def position_of(value: object) -> Position:
    """A position, ``EPOCH:OFFSET``."""
    try:
        return Position.parse(value if isinstance(value, str) else "")
    except InvalidCursor as error:
        raise bad_message(str(error)) from None


def positions_of(value: object) -> dict[str, Position]:
    """Positions by room."""
    return {room: position_of(position) for room, position in _by_room(value).items()}


def status_of(value: object) -> Status:
    """One room's outcome."""
    fields = fields_of(value)
    position = fields.get("position")
    recovered = fields.get("recovered")
    return Status(
        None if position is None else position_of(position),
        recovered if isinstance(recovered, bool) else None,
        text_of(fields, "reason"),
    )


def statuses_of(value: object) -> dict[str, Status]:
    """Outcomes by room."""
    return {room: status_of(status) for room, status in _by_room(value).items()}


def _by_room(value: object) -> Mapping[str, Any]:
    fields = fields_of(value)
    for room in fields:
        _check_name(room)
    return fields


# --- writing -----------------------------------------------------------------------------------


def control(event: str, *, id: str | None = None, room: str | None = None, data: object = None) -> str:
    """A message of the protocol's own."""
    return encode(event, id=id, room=room, data=None if data is None else dump(data)).decode()


def check_room(room: str) -> None:
    """Refuse what cannot be a room's name.

    Raises:
        LocalError: it is not 1 to 128 bytes of UTF-8 without control characters.
    """
    if not is_room_name(room):
        raise LocalError("a room is 1 to 128 bytes of UTF-8 without control characters")


def message(event: str, data: object, *, id: str | None = None, room: str | None = None) -> Payload:
    """A message of the application: text for JSON and for pydantic models, binary for bytes.

    Raises:
        LocalError: the event's name, the room or the data cannot be sent.
    """
    check_event_name(event)
    if room is not None:
        check_room(room)
    if isinstance(data, bytes | bytearray | memoryview):
        return encode_binary(event, bytes(data), id=id, room=room)
    try:
        encoded = dump(data)
    except ValueError as error:
        raise LocalError(f"the data of {event} is not JSON: {type(error).__name__}") from error
    return encode(event, id=id, room=room, data=encoded).decode()
