"""Farewells: what is owed to others when a connection ends, in whatever number they end.

Its slot is released and its rooms are told when the close begins, the application hears of it when the
link has ended. A drain waits for all of it: a slot that nobody released would refuse its user
elsewhere, and a hook must not run after the lifespan has closed what it needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from roomwire.backplanes.contract import Holder
from roomwire.core.errors import Unavailable
from roomwire.node import journal
from roomwire.node.calling import invoke
from roomwire.node.chores import Chores
from roomwire.node.scope import Scope

if TYPE_CHECKING:
    from roomwire.node.connection import Connection
    from roomwire.node.node import Node
    from roomwire.node.rooms import Room

__all__ = ["Farewells"]

_WIDTH = 64
"""Connections whose ends are seen to at one time."""


class _Departure:
    """A connection whose close began, and the rooms that it was in."""

    __slots__ = ("connection", "rooms")

    def __init__(self, connection: Connection, rooms: Sequence[Room]) -> None:
        self.connection = connection
        self.rooms = rooms


class Farewells:
    """The ends of a node's connections."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._departures: Chores[_Departure] = Chores(node, self._depart, _WIDTH)
        self._goodbyes: Chores[Connection] = Chores(node, self._say_goodbye, _WIDTH)

    def __len__(self) -> int:
        return len(self._departures) + len(self._goodbyes)

    def departed(self, connection: Connection, rooms: Sequence[Room]) -> None:
        """A close begins, or the link broke: the slot is free, and `rooms` were left."""
        self._departures.add(_Departure(connection, rooms))

    def left(self, connection: Connection, room: Room) -> None:
        """A connection left one room and stays."""
        if room.policy.presence:
            self._departures.add(_Departure(connection, (room,)))

    def ended(self, connection: Connection) -> None:
        """The link of a connection that was open has ended."""
        if self._node.app.disconnect_hook is not None:
            self._goodbyes.add(connection)

    async def finished(self) -> None:
        """Wait until all is done."""
        while self:
            await self._departures.finished()
            await self._goodbyes.finished()

    async def _depart(self, departure: _Departure) -> None:
        connection = departure.connection
        if connection._closing is not None:
            holder = Holder(connection.client, connection.id, self._node.name)
            try:
                await self._node.backplane.release(connection.user, holder)
            except Unavailable:
                return  # its leases expire
        # The client that took this one's place is about to enter its rooms.
        least_grace = self._node.limits.handshake_timeout if connection._moved else 0.0
        await self._node.presence.leave(connection, departure.rooms, least_grace)

    async def _say_goodbye(self, connection: Connection) -> None:
        hook = self._node.app.disconnect_hook
        assert hook is not None
        try:
            with Scope(self._node, connection):
                await invoke(self._node, hook, hook.bind(connection, {}))
        except Exception as error:  # noqa: BLE001  the boundary of the application
            journal.failed(connection, hook.name, error)
