"""Ways into rooms: what is being decided about a connection, and what the application orders meanwhile.

From the moment at which somebody is asked whether a connection may enter a room until it is in there, the
loop turns many times. An order to take it out, given in between, finds no membership; the answer that was
given may be older than the order. So it is noted on every way that has begun, and holds there. A way that
begins after the order is not concerned by it: orders for a connection are carried out in their order.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from roomwire.node.scope import Scope

if TYPE_CHECKING:
    from roomwire.node.connection import Connection
    from roomwire.node.node import Node

__all__ = ["Deciding", "Way", "begin", "end", "later", "reserve", "revoke"]


class Way:
    """A way of one connection into rooms: a handshake, a ``session.resume``, a join, an order of the application's.

    Attributes:
        auto: the rooms that the connect hook returned; it is their authorisation.
        wants_state: whether a state of these is to come.
        is_later: whether it waits for the first ``session.resume`` (``last_event_id=later``).
        rooms: those being entered; they count towards ``limits.rooms``.
        revoked: those that the application took the connection out of since the way began.
    """

    __slots__ = ("auto", "is_later", "revoked", "rooms", "wants_state")

    def __init__(self) -> None:
        self.auto: Collection[str] = ()
        self.wants_state = False
        self.is_later = False
        self.rooms: set[str] = set()
        self.revoked: set[str] = set()


def begin(connection: Connection) -> Way:
    """A way begins; `end` is its counterpart, but for a connection that is lost."""
    way = Way()
    connection._ways = (*connection._ways, way)
    return way


def end(connection: Connection, way: Way) -> None:
    """It is over: from now on the memberships say where the connection is."""
    connection._ways = tuple(other for other in connection._ways if other is not way)


def later(connection: Connection) -> Way | None:
    """The way that waits for the first ``session.resume``; it does so no more."""
    for way in connection._ways:
        if way.is_later:
            way.is_later = False
            return way
    return None


def reserve(connection: Connection, way: Way, room: str, limit: int) -> bool:
    """Count a room that is about to be entered; False where the connection would be in more than `limit`."""
    rooms = set(connection._memberships).union(*(other.rooms for other in connection._ways))
    if room not in rooms and len(rooms) >= limit:
        return False
    way.rooms.add(room)
    return True


def revoke(connection: Connection, room: str) -> None:
    """The application takes the connection out of a room: nothing that was decided before lets it in."""
    for way in connection._ways:
        way.revoked.add(room)
    if connection._wanted is not None and room in connection._wanted:
        connection._wanted.remove(room)


class Deciding(Scope):
    """The application is deciding about a connection: in the connect hook, or in the policy of a room.

    What is ordered there about the connection's user is meant for the user's other connections, such as
    "be here alone". About this one the answer decides.

    Args:
        node: see `Scope`.
        connection: the one that is decided about.
        room: whose policy is asked; None for the connect hook.
    """

    __slots__ = ("_answered", "_room")

    def __init__(self, node: Node, connection: Connection, room: str | None = None) -> None:
        super().__init__(node, connection)
        self._room = room
        self._answered = False

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        self._answered = True  # tasks that were started in there have this scope for good
        super().__exit__(kind, error, traceback)

    def decides(self, room: str | None = None) -> bool:
        """Whether its answer is still to come, about the whole connection or about `room`."""
        return not self._answered and self._room in (None, room)
