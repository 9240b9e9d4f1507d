"""What a client hands to its application, in order and each once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from roomwire.core.positions import Position

__all__ = [
    "Connected",
    "Disconnected",
    "Event",
    "InvalidEvent",
    "Item",
    "Joined",
    "MemberJoined",
    "MemberLeft",
    "MembersState",
    "Recovered",
    "Removed",
    "ServerError",
    "StateReset",
]


@dataclass(frozen=True, slots=True)
class Event:
    """An event of the application.

    Attributes:
        name: the event's name.
        data: the decoded JSON, or the bytes of a binary event; of an event whose declaration `connect` was given,
            what that makes of it, such as a model.
        room: the room that it was published in; None for one that was sent to this client alone.
        id: its event id, ``EPOCH:OFFSET``; None for an ephemeral one, which is never replayed.
        user: who published it, where the server says so.
    """

    name: str
    data: Any = None
    room: str | None = None
    id: str | None = None
    user: str | None = None


@dataclass(frozen=True, slots=True)
class InvalidEvent:
    """An event whose data is not what its declaration, which `connect` was given, says.

    Attributes:
        name: the event's name.
        data: the decoded JSON, or the bytes of a binary event.
        faults: where and what: each a path, such as ``author.name``, and a text.
        room, id, user: see `Event`.
    """

    name: str
    data: Any
    faults: Sequence[tuple[str, str]]
    room: str | None = None
    id: str | None = None
    user: str | None = None


@dataclass(frozen=True, slots=True)
class StateReset:
    """A room's full state; it replaces what was known of the room.

    Attributes:
        room: the room.
        reason: ``"requested"``, or why a replay could not be proven complete (docs/reference/protocol.md
            section 5.2), or ``"unproven"`` where the server did not say.
        state: what the application's snapshot gave; None: load it anew.
        position: what the state stands for; events after it follow. None where the server did not say.
    """

    room: str
    reason: str
    state: Any = None
    position: Position | None = None


@dataclass(frozen=True, slots=True)
class Recovered:
    """A room was resumed, and it is proven that nothing is missing: what was missed follows.

    Attributes:
        room: the room.
        position: where the replay ends, where the server says so.
    """

    room: str
    position: Position | None = None


@dataclass(frozen=True, slots=True)
class Joined:
    """The server put this client into a room."""

    room: str


@dataclass(frozen=True, slots=True)
class Removed:
    """This client is no longer in a room.

    Attributes:
        room: the room.
        reason: the application's, or ``"forbidden"`` and the like where the room was not joined again
            after a break.
    """

    room: str
    reason: str


@dataclass(frozen=True, slots=True)
class MembersState:
    """Who is in a room, by user, each with its info; replaces what was known."""

    room: str
    members: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class MemberJoined:
    """A user came into a room, or its info changed."""

    room: str
    user: str
    info: Any = None


@dataclass(frozen=True, slots=True)
class MemberLeft:
    """A user is gone from a room."""

    room: str
    user: str
    info: Any = None


@dataclass(frozen=True, slots=True)
class ServerError:
    """An error that answers no request: that of a message sent by `Client.notify`."""

    code: str
    message: str = ""
    details: Any = None


@dataclass(frozen=True, slots=True)
class Connected:
    """A link is up and its rooms are resumed. Only with ``link_events``.

    Attributes:
        session: the server's name for the connection.
        user: who the server takes this client for.
    """

    session: str
    user: str


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The link broke, or an attempt failed; another one follows. Only with ``link_events``.

    Attributes:
        code: the close code; 1006 where the link broke without one.
        reason: the close reason, possibly empty.
        retry_in: seconds until the next attempt.
    """

    code: int
    reason: str
    retry_in: float


Item: TypeAlias = (
    Event
    | InvalidEvent
    | StateReset
    | Recovered
    | Joined
    | Removed
    | MembersState
    | MemberJoined
    | MemberLeft
    | ServerError
    | Connected
    | Disconnected
)
