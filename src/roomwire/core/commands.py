"""What a client asks for, whatever its wire protocol: the output of a codec's `receive`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from roomwire.core.positions import Position

__all__ = [
    "Call",
    "Command",
    "Heartbeat",
    "Invalid",
    "Join",
    "Leave",
    "ListMembers",
    "ListRooms",
    "Resume",
]


@dataclass(slots=True)
class Call:
    """An application's message.

    Attributes:
        event: its name.
        room: the room that it concerns, if any.
        ref: what the reply has to bear; None where none is wanted.
        data: raw JSON text, or bytes from a binary frame.
    """

    event: str
    room: str | None
    ref: str | None
    data: str | bytes


@dataclass(slots=True)
class Join:
    """Enter a room, perhaps resuming after `since`, perhaps asking for its state."""

    room: str
    ref: str
    since: Position | None = None
    state: bool = False


@dataclass(slots=True)
class Leave:
    """Leave a room."""

    room: str
    ref: str | None


@dataclass(slots=True)
class ListMembers:
    """Who is in a room."""

    room: str
    ref: str


@dataclass(slots=True)
class ListRooms:
    """The rooms of this connection."""

    ref: str


@dataclass(slots=True)
class Resume:
    """The cursor that was too long for the handshake."""

    rooms: Mapping[str, Position]
    ref: str


@dataclass(slots=True)
class Heartbeat:
    """A sign of life."""

    ref: str | None


@dataclass(slots=True)
class Invalid:
    """A message that could not be read; it is answered, and counts towards ``limits.max_errors``."""

    message: str
    ref: str | None


Command = Call | Join | Leave | ListMembers | ListRooms | Resume | Heartbeat | Invalid
