"""What clients log: the promises are judged by nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from roomwire.core.positions import Position

__all__ = ["Acked", "Event", "Given", "Left", "Log", "Moved", "Present", "Record", "State"]


class Event(NamedTuple):
    """An event of the application, as it came."""

    room: str
    epoch: str
    offset: int
    by: str
    n: int


class Given(NamedTuple):
    """What a welcome or a reply said of a room. `recovered` is None where no position was sent."""

    room: str
    position: Position | None
    recovered: bool | None
    reason: str | None


class State(NamedTuple):
    """A full state: for each publisher the number of the last event in it; None for "reload"."""

    room: str
    position: Position
    reason: str
    content: dict[str, int] | None


class Moved(NamedTuple):
    """A heartbeat said that the position moved on without an event for this client."""

    room: str
    position: Position


class Left(NamedTuple):
    """The client is in the room no more, and was told so, or wanted it."""

    room: str


class Present(NamedTuple):
    """``presence.join`` or ``presence.leave``."""

    room: str
    user: str
    here: bool


Record = Event | Given | State | Moved | Left | Present


class Acked(NamedTuple):
    """A message was acknowledged with the position of its event, at a time on the clock of all clients."""

    room: str
    by: str
    n: int
    position: Position
    at: float = 0.0


@dataclass(eq=False)
class Log:
    """All that one client saw, in order.

    Attributes:
        client: who.
        records: what it was told.
        acked: replies to its own messages.
        ended: whether it was told to go, so that it need not have all in the end.
    """

    client: str
    records: list[Record] = field(default_factory=list)
    acked: list[Acked] = field(default_factory=list)
    ended: bool = False
