"""What a session tells one client, whatever its wire protocol: the input of a codec's `send`.

A publication is no notice: it is encoded once for all members, by the codec's `broadcast`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from roomwire.core.closing import Closing
from roomwire.core.positions import Position

__all__ = [
    "Beat",
    "ClosingSoon",
    "Failed",
    "JoinReply",
    "JoinedRoom",
    "MemberJoined",
    "MemberLeft",
    "MembersReply",
    "MembersState",
    "Notice",
    "Person",
    "RemovedFromRoom",
    "Reply",
    "ResumeReply",
    "RoomState",
    "RoomStatus",
    "RoomsReply",
    "Roster",
    "Sent",
    "Welcome",
]


@dataclass(slots=True)
class RoomStatus:
    """How a join or a resume ended for one room.

    Attributes:
        position: the client's position from now on; None where the room was not joined or its
            history cannot be read now.
        recovered: None without a cursor, True when the replay is proven complete, else False.
        reason: why not (docs/reference/protocol.md section 5).
        awaits_state: whether a state follows, be it asked for or not: nothing up to `position` is there before it.
    """

    position: Position | None
    recovered: bool | None = None
    reason: str | None = None
    awaits_state: bool = False


@dataclass(slots=True)
class Person:
    """A user as the members of a room see it; `info` is raw JSON."""

    user: str
    info: bytes = b"null"


class Roster(list[Person]):
    """The members of a room, listed once for many who ask.

    Attributes:
        encoded: what a wire protocol made of the whole list, by the protocol's name; each keeps its own.
    """

    __slots__ = ("encoded",)

    def __init__(self, people: Iterable[Person] = ()) -> None:
        super().__init__(people)
        self.encoded: dict[str, bytes] = {}


@dataclass(slots=True)
class Welcome:
    """The first notice of every connection; `retry_after` is for a client that is told nothing else of its end."""

    session: str
    client: str
    user: str
    heartbeat_interval: float
    heartbeat_timeout: float
    max_message_size: int
    max_event_size: int
    idempotency_window: float
    rooms: Mapping[str, RoomStatus]
    retry_after: float = 0.0


@dataclass(slots=True)
class Sent:
    """An event of the application's to this client alone; `data` is raw JSON, or bytes where it is `binary`."""

    event: str
    room: str | None
    data: bytes
    binary: bool = False


@dataclass(slots=True)
class Reply:
    """The answer to a command; `data` is raw JSON."""

    ref: str
    data: bytes = b"null"


@dataclass(slots=True)
class JoinReply:
    """The answer to `Join`."""

    ref: str
    status: RoomStatus


@dataclass(slots=True)
class ResumeReply:
    """The answer to `Resume`."""

    ref: str
    rooms: Mapping[str, RoomStatus]


@dataclass(slots=True)
class MembersReply:
    """The answer to `ListMembers`, one entry for each user."""

    ref: str
    members: Sequence[Person]


@dataclass(slots=True)
class RoomsReply:
    """The answer to `ListRooms`; no position where a room's state is still awaited."""

    ref: str
    positions: Mapping[str, Position | None]


@dataclass(slots=True)
class Failed:
    """A command's failure; `details` is any JSON value, `message` a text for people and never a library's."""

    ref: str | None
    code: str
    message: str
    details: object = None


@dataclass(slots=True)
class RoomState:
    """A full state refresh; `state` is raw JSON."""

    room: str
    position: Position
    reason: str
    state: bytes = b"null"


@dataclass(slots=True)
class JoinedRoom:
    """Put in by the server after the welcome."""

    room: str
    status: RoomStatus


@dataclass(slots=True)
class RemovedFromRoom:
    """Taken out by the server."""

    room: str
    reason: str


@dataclass(slots=True)
class MembersState:
    """The whole list of a room's members."""

    room: str
    members: Sequence[Person]


@dataclass(slots=True)
class MemberJoined:
    """A user's first connection in a room."""

    room: str
    person: Person


@dataclass(slots=True)
class MemberLeft:
    """A user's last connection in a room is gone."""

    room: str
    person: Person


@dataclass(slots=True)
class Beat:
    """The server is alive; positions that moved on without an event for this client."""

    positions: Mapping[str, Position] = field(default_factory=dict)


@dataclass(slots=True)
class ClosingSoon:
    """The server is about to close."""

    closing: Closing
    positions: Mapping[str, Position] = field(default_factory=dict)


Notice = (
    Welcome
    | Sent
    | Reply
    | JoinReply
    | ResumeReply
    | MembersReply
    | RoomsReply
    | Failed
    | RoomState
    | JoinedRoom
    | RemovedFromRoom
    | MembersState
    | MemberJoined
    | MemberLeft
    | Beat
    | ClosingSoon
)
