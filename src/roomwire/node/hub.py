"""The hub: this node's rooms, what the backplane delivers to them, and the turns of the fan-out.

It is the backplane's `Sink`. A delivery goes through its room's tail, which puts it in order and says
when something is missing; healing the tail is `roomwire.node.healing`'s.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

from roomwire.core.errors import Unavailable
from roomwire.core.notices import Notice, RoomState
from roomwire.core.orders import ORDERS
from roomwire.core.positions import Position
from roomwire.core.publication import InvalidBody, read_body
from roomwire.core.tail import Entry, Need, RoomTail
from roomwire.node.chores import Chores
from roomwire.node.conflated import ConflatedRoom
from roomwire.node.healing import Healing
from roomwire.node.newest import Newest
from roomwire.node.rooms import Membership, Room

if TYPE_CHECKING:
    from collections.abc import Iterator

    from roomwire.node.node import Node

__all__ = ["Hub"]

logger = logging.getLogger("roomwire.backplane")

WRITES_PER_TURN = 512
"""Writes to members between two looks at the loop: about 5 ms at 10 us each. Large ones count as several."""
_UNSUBSCRIBES = 64
"""Rooms being closed at one time; a backplane joins those of a moment into one command."""


class Hub:
    """The rooms of a node.

    Attributes:
        rooms: by name, those with members, those being entered and those being closed.
        up: whether the backplane can be reached.
        dropped: bodies that could not be read.
        closing: rooms that nobody uses any more.
        orders: the stream of orders to all nodes: a room without members, which is none of `rooms`.
        healing: reads what is missing.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self.rooms: dict[str, Room] = {}
        self._dirty: dict[Room, None] = {}
        self._flush_asked = False
        self.up = True
        self.dropped = 0
        self.closing: Chores[Room] = Chores(node, self._unsubscribe, _UNSUBSCRIBES)
        self.healing = Healing(node, self)
        self.orders = Room(ORDERS, node.policy_of(ORDERS))

    # --- rooms come and go

    async def follow_orders(self) -> None:
        """Hear of the orders to all nodes, from now on.

        Raises:
            Unavailable: the backplane could not subscribe.
        """
        await self._subscribe(self.orders)

    def streams(self) -> Iterator[Room]:
        """Whatever this node follows."""
        yield self.orders
        yield from self.rooms.values()

    async def open(self, name: str) -> Room:
        """The room, subscribed. Every call that returns is matched by one of `close`.

        Raises:
            Unavailable: the backplane could not subscribe.
        """
        room = self.rooms.get(name)
        if room is None:
            room = self.rooms[name] = self._make(name)
        room.users += 1
        if room.tail is None:
            try:
                await self._subscribe(room)
            except BaseException:
                self.close(room)
                raise
        return room

    def _make(self, name: str) -> Room:
        node, policy = self._node, self._node.policy_of(name)
        room = (
            ConflatedRoom(name, policy, node.limits, node.runtime.now, self._wake_later)
            if policy.conflates
            else Room(name, policy)
        )
        room.newest = Newest(policy) if policy.latest else None
        return room

    def _wake_later(self, room: ConflatedRoom, delay: float) -> None:
        self._node.runtime.spawn(self._wake, room, delay)

    async def _wake(self, room: ConflatedRoom, delay: float) -> None:
        await anyio.sleep(delay)
        room.woke()
        self._mark(room)

    async def _subscribe(self, room: Room) -> None:
        async with room.lock:
            if room.tail is None:
                room.early = None
                asked = self._node.runtime.now()
                position = await self._node.backplane.subscribe(room.name)
                policy = room.policy
                tail = room.tail = RoomTail(
                    position, asked, ring_events=policy.history_size, ring_ttl=policy.history_ttl
                )
                tail.heard(self._node.runtime.now(), room.jitter)
                room.flushed = position
                early = room.early
                if early is not None and (early.epoch != position.epoch or early.offset > position.offset):
                    # It follows on the answer, and came before there was a tail to keep it.
                    tail.interrupted()
                    self.healing.heal(room)

    def close(self, room: Room) -> None:
        """The counterpart of `open`: the last one out ends the subscription."""
        room.users -= 1
        if room.users == 0:
            self.closing.add(room)

    async def _unsubscribe(self, room: Room) -> None:
        """End the subscription. Whoever comes meanwhile waits for the lock, and subscribes again."""
        async with room.lock:
            if room.users:
                return
            tail, room.tail = room.tail, None
            room.clear()
            room.told = room.roster = None
            if tail is not None:
                try:
                    await self._node.backplane.unsubscribe(room.name)
                except Unavailable:
                    logger.warning("a room could not be unsubscribed", extra={"roomwire": {"room": room.name}})
            # It may have been closed again meanwhile, and be here for the second time.
            if self.rooms.get(room.name) is room and room.users == 0:
                del self.rooms[room.name]

    def stands_at(self, name: str) -> Position | None:
        """Where this node stands in a room; None where it is not subscribed."""
        room = self.rooms.get(name)
        return None if room is None or room.tail is None else room.tail.position

    # --- the sink

    def deliver(self, room: str, epoch: str, previous: int, offset: int, body: bytes) -> None:
        """See `roomwire.backplanes.contract.Sink`."""
        found = self.rooms.get(room)
        if found is None:
            if room != ORDERS:
                return
            found = self.orders
        self._node.counts.delivered += 1
        if found.tail is None:
            found.early = Position(epoch, offset)
            return
        with self._boundary():
            now = self._node.runtime.now()
            found.tail.heard(now, found.jitter)
            self.pass_on(found, found.tail.receive(epoch, previous, offset, body, now))

    def ephemeral(self, room: str, body: bytes) -> None:
        """See `roomwire.backplanes.contract.Sink`."""
        found = self.rooms.get(room)
        # Before there is a tail nobody is live in the room, and it is for those who are.
        if found is not None and found.tail is not None:
            self._node.counts.delivered_ephemeral += 1
            with self._boundary():
                self.pass_on(found, found.tail.ephemeral(body))

    def interrupted(self, rooms: Collection[str] | None) -> None:
        """See `roomwire.backplanes.contract.Sink`."""
        self._node.counts.interruptions += 1
        with self._boundary():
            found = [self.rooms[name] for name in (self.rooms if rooms is None else rooms) if name in self.rooms]
            self.healing.doubt(found if rooms is not None and ORDERS not in rooms else [self.orders, *found])
            self._node.presence.interrupted(found)

    def changed(self, room: str) -> None:
        """See `roomwire.backplanes.contract.Sink`."""
        with self._boundary():
            self._node.presence.changed(room)

    def available(self, up: bool) -> None:
        """See `roomwire.backplanes.contract.Sink`."""
        if up != self.up:
            self.up = up
            self._node.counts.outages += not up
            logger.log(logging.INFO if up else logging.ERROR, "backplane is %s", "up" if up else "down")
            if up:
                self._node.upkeep.refresh_soon()

    def told(self, body: bytes) -> None:
        """See `roomwire.backplanes.contract.Sink`."""
        with self._boundary():
            self._node.control.told(body)

    @contextmanager
    def _boundary(self) -> Iterator[None]:
        """A fault of ours must not end the backplane's reader, nor become that of whoever published."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  the boundary of the node's callbacks
            self._node.fault(error, "sink")

    # --- from a tail to the members

    def pass_on(self, room: Room, entries: Iterable[Entry]) -> None:
        """Entries that the tail let through, in order; then whatever the tail needs."""
        self.accept(room, entries)
        if room.tail is not None and room.tail.need is not Need.NONE:
            self.healing.heal(room)

    def accept(self, room: Room, entries: Iterable[Entry]) -> None:
        """Entries that the tail let through, in order."""
        tail = room.tail
        assert tail is not None
        epoch = tail.position.epoch
        for entry in entries:
            if entry.ephemeral:
                self._accept(room, entry.body, None)
                continue
            self._accept(room, entry.body, Position(epoch, entry.offset))
            for membership in room.buffering:
                if membership.replay is not None:
                    membership.replay.live(entry)
        room.moved(tail.position)
        self._mark(room)

    def _accept(self, room: Room, body: bytes, position: Position | None) -> None:
        if room is self.orders:
            self._node.control.told(body)
            return
        try:
            publication = read_body(room.name, body, position)
        except InvalidBody as error:
            self.dropped += 1
            if self.dropped == 1:
                logger.error("a body from the backplane was dropped: %s", error)
            return
        if room.newest is not None:
            room.newest.take(publication, self._node.runtime.now())
        room.accept(publication)

    # --- the fan-out

    def _mark(self, room: Room) -> None:
        if room.has_work:
            self._dirty[room] = None
            self._ask_flush()

    def _ask_flush(self) -> None:
        if self._dirty and not self._flush_asked:
            self._flush_asked = True
            self._node.runtime.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_asked = False
        self.flush_now()

    def flush_now(self) -> None:
        """Bring what was accepted to the members, as much as fits into a turn of the loop."""
        budget = WRITES_PER_TURN
        while self._dirty and budget > 0:
            room = next(iter(self._dirty))
            del self._dirty[room]
            if room.has_work:
                meter = self._node.meter
                budget -= max(1, room.flush(budget) if meter is None else meter.flush(room, budget))
                if room.has_work:
                    self._dirty[room] = None
        self._ask_flush()

    async def release(self) -> None:
        """Bring to the members what waits for a later time: the node is about to end."""
        rooms = [room for room in self.rooms.values() if room.release()]
        for room in rooms:
            self._mark(room)
        while any(room.has_work for room in rooms):
            await anyio.lowlevel.checkpoint()

    def tell(
        self, room: Room, members: list[Membership], notices: Sequence[Notice], then: Callable[[], None] | None = None
    ) -> None:
        """Tell members of a room the same notices, encoded once for each kind; see `Room.tell`."""
        room.tell(members, notices, then)
        self._mark(room)

    def thaw(self, room: Room, state: RoomState) -> None:
        """The room's members get their state, and then what follows on it."""
        room.thaw(state)
        self._mark(room)
