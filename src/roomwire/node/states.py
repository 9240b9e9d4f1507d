"""Full state refreshes: when a replay cannot be proven, the application's snapshot takes its place.

One snapshot of a room is made at a time, and all who ask while one is being made share the next. Its
position is read before the application computes its state, so that an event can stand in both, but
none can be in neither.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import anyio

from roomwire.core.closing import CloseCode, Closing
from roomwire.core.envelope import dump
from roomwire.core.notices import RoomState
from roomwire.core.positions import Position
from roomwire.node import journal
from roomwire.node.calling import invoke
from roomwire.node.scope import Scope

if TYPE_CHECKING:
    from roomwire.node.node import Node
    from roomwire.node.rooms import Freeze, Room

__all__ = ["States"]

logger = logging.getLogger("roomwire")


class _Ticket:
    """A snapshot that is being waited for."""

    __slots__ = ("done", "position", "state")

    def __init__(self) -> None:
        self.done = anyio.Event()
        self.position: Position | None = None
        self.state = b"null"


class States:
    """The snapshots of a node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._next: dict[Room, _Ticket] = {}
        self._running: set[Room] = set()

    async def take(self, room: Room) -> tuple[Position, bytes]:
        """The room's state as raw JSON (``null``: reload), and the position that it stands for."""
        ticket = self._next.setdefault(room, _Ticket())
        if room not in self._running:
            self._running.add(room)
            self._node.runtime.spawn(self._run, room)
        await ticket.done.wait()
        assert ticket.position is not None
        return ticket.position, ticket.state

    async def _run(self, room: Room) -> None:
        try:
            while (ticket := self._next.pop(room, None)) is not None:
                ticket.position = room.flushed if room.tail is None else room.tail.position
                ticket.state = await self._compute(room.name)
                ticket.done.set()
        finally:
            self._running.discard(room)

    async def _compute(self, room: str) -> bytes:
        node = self._node
        found = node.app.snapshots.match(room)
        if found is None:
            return b"null"
        hook, path = found
        try:
            with Scope(node), anyio.fail_after(node.limits.snapshot_timeout):
                state = dump(await invoke(node, hook, hook.bind(None, path)))
        except Exception as error:  # noqa: BLE001  the boundary of the application
            node.counts.snapshots_failed += 1
            journal.failed(None, hook.name, error)
            return b"null"
        if len(state) > node.limits.max_state_size:
            node.counts.snapshots_failed += 1
            logger.error(
                "%s returned %d bytes, more than limits.max_state_size; clients of %s have to reload",
                hook.name,
                len(state),
                room,
            )
            return b"null"
        node.counts.snapshots += 1
        return state

    async def refresh_room(self, room: Room, freeze: Freeze) -> None:
        """Give the members of a frozen room its state; what came meanwhile follows."""
        while room.frozen is freeze:
            position, state = await self.take(room)
            if room.frozen is not freeze:
                return  # it was reset once more, or closed
            if not freeze.overflowed:
                self._node.hub.thaw(room, RoomState(room.name, position, freeze.reason, state))
            elif freeze.retried:
                self._give_up(room)
            else:
                freeze.retried, freeze.overflowed = True, False

    def _give_up(self, room: Room) -> None:
        """More came for a frozen room than may wait, twice: its members come back later."""
        for membership in list(room.live):
            membership.connection._shut(Closing.of(CloseCode.NOT_RESUMABLE))
        room.clear()
        if room.tail is not None:
            room.moved(room.tail.position)
