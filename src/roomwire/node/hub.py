"""The hub: this node's rooms, what the backplane delivers to them, and the turns of the fan-out.

It is the backplane's `Sink`. A delivery goes through its room's tail, which puts it in order and says
when something is missing; then the hub reads the history once for the room, or, where the past cannot
be trusted any more, has every member's state made anew.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

import anyio

from roomwire.core.errors import Unavailable
from roomwire.core.positions import Position
from roomwire.core.publication import InvalidBody, read_body
from roomwire.core.tail import Entry, Need, RoomTail
from roomwire.node.rooms import Room

if TYPE_CHECKING:
    from roomwire.node.node import Node

__all__ = ["Hub"]

logger = logging.getLogger("roomwire.backplane")

WRITES_PER_TURN = 512
"""Writes of a fan-out between two looks at the loop: about 5 ms at 10 us each."""
RECOVER_PAGE = 500
CHECK_AFTER = 10.0
"""Seconds of silence after which a room's position is compared with the store's."""
CHECK_BATCH = 500


class Hub:
    """The rooms of a node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.rooms: dict[str, Room] = {}
        self._dirty: deque[Room] = deque()
        self._flush_asked = False
        self.up = True
        self.dropped = 0
        """Bodies that could not be read."""

    # --- rooms come and go

    async def open(self, name: str) -> Room:
        """The room, subscribed. Every call that returns is matched by one of `close`.

        Raises:
            Unavailable: the backplane could not subscribe.
        """
        room = self.rooms.get(name)
        if room is None:
            room = self.rooms[name] = Room(name, self._node.policy_of(name))
        room.users += 1
        if room.tail is None:
            try:
                await self._subscribe(room)
            except BaseException:
                self.close(room)
                raise
        return room

    async def _subscribe(self, room: Room) -> None:
        async with room.lock:
            if room.tail is None:
                position = await self._node.backplane.subscribe(room.name)
                room.tail = RoomTail(position, ring_events=room.policy.history_size)
                room.tail.heard(self._node.runtime.now(), room.jitter)
                room.flushed = position

    def close(self, room: Room) -> None:
        """The counterpart of `open`: the last one out ends the subscription."""
        room.users -= 1
        if room.users == 0:
            self._node.runtime.spawn(self._unsubscribe, room)

    async def _unsubscribe(self, room: Room) -> None:
        async with room.lock:
            if room.users:
                return
            subscribed, room.tail = room.tail is not None, None
            if self.rooms.get(room.name) is room:
                del self.rooms[room.name]
            if subscribed:
                try:
                    await self._node.backplane.unsubscribe(room.name)
                except Unavailable:
                    logger.warning("a room could not be unsubscribed", extra={"roomwire": {"room": room.name}})

    # --- the sink

    def deliver(self, room: str, epoch: str, previous: int, offset: int, body: bytes) -> None:
        """See `roomwire.backplanes.contract.Sink`."""
        found = self.rooms.get(room)
        if found is None or found.tail is None:
            return
        found.tail.heard(self._node.runtime.now(), found.jitter)
        self.pass_on(found, found.tail.receive(epoch, previous, offset, body))

    def ephemeral(self, room: str, body: bytes) -> None:
        """See `roomwire.backplanes.contract.Sink`."""
        found = self.rooms.get(room)
        if found is not None and found.tail is not None:
            self.pass_on(found, found.tail.ephemeral(body))

    def interrupted(self, rooms: Collection[str] | None) -> None:
        """See `roomwire.backplanes.contract.Sink`."""
        names = list(self.rooms) if rooms is None else rooms
        for name in names:
            room = self.rooms.get(name)
            if room is not None and room.tail is not None:
                room.tail.interrupted()
                self._heal(room)
        self._node.presence.interrupted(names)

    def changed(self, room: str) -> None:
        """See `roomwire.backplanes.contract.Sink`."""
        self._node.presence.changed(room)

    def available(self, up: bool) -> None:
        """See `roomwire.backplanes.contract.Sink`."""
        if up != self.up:
            self.up = up
            logger.log(logging.INFO if up else logging.ERROR, "backplane is %s", "up" if up else "down")

    def told(self, body: bytes) -> None:
        """See `roomwire.backplanes.contract.Sink`."""
        self._node.control.told(body)

    # --- from a tail to the members

    def pass_on(self, room: Room, entries: Iterable[Entry]) -> None:
        """Entries that the tail let through, in order; then whatever the tail needs."""
        self._pass(room, entries)
        if room.tail is not None and room.tail.need is not Need.NONE:
            self._heal(room)

    def _pass(self, room: Room, entries: Iterable[Entry]) -> None:
        assert room.tail is not None
        epoch = room.tail.position.epoch
        some = False
        for entry in entries:
            some = True
            if entry.ephemeral:
                self._accept(room, entry.body, None)
                continue
            self._accept(room, entry.body, Position(epoch, entry.offset))
            for membership in room.buffering:
                if membership.replay is not None:
                    membership.replay.live(entry)
        if room.frozen and room.overfull:
            self._node.states.give_up(room)
        if some:
            self._mark(room)

    def settle(self, room: Room) -> None:
        """Bring all that was accepted to the members now, so that one position is true for all of them."""
        while room.has_work:
            room.flush(WRITES_PER_TURN)

    def _accept(self, room: Room, body: bytes, position: Position | None) -> None:
        try:
            room.accept(read_body(room.name, body, position))
        except InvalidBody as error:
            self.dropped += 1
            if self.dropped == 1:
                logger.error("a body from the backplane was dropped: %s", error)

    def _mark(self, room: Room) -> None:
        if room.has_work and room not in self._dirty:
            self._dirty.append(room)
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
            room = self._dirty.popleft()
            if room.has_work:
                budget -= max(1, room.flush(budget))
                if room.has_work:
                    self._dirty.append(room)
        if self._dirty and not self._flush_asked:
            self._flush_asked = True
            self._node.runtime.call_soon(self._flush)

    def thaw(self, room: Room) -> None:
        """The room's members have their state: what came meanwhile goes out."""
        room.frozen = False
        self._mark(room)

    # --- when something is missing

    def _heal(self, room: Room) -> None:
        if room.recovery is None:
            room.recovery = anyio.Event()
            self._node.runtime.spawn(self._recover, room)

    async def recover(self, room: Room) -> None:
        """Do what the room's tail needs, or wait for whoever does.

        Raises:
            Unavailable: it cannot be done now.
        """
        self._heal(room)
        while room.recovery is not None:
            await room.recovery.wait()
        if room.tail is None or room.tail.need is not Need.NONE:
            raise Unavailable("the room's history cannot be read now")

    async def _recover(self, room: Room) -> None:
        """Read what is missing; single flight for a room. What the store cannot give now is asked for later."""
        assert room.recovery is not None
        try:
            while room.tail is not None and room.tail.need is not Need.NONE:
                tail = room.tail
                since = tail.begin()
                if tail.need is Need.RESET:
                    await self._reset(room, tail)
                else:
                    page = await self._node.backplane.history(room.name, since, RECOVER_PAGE)
                    if room.tail is tail:
                        self._pass(room, tail.recovered(page, since))
        except Unavailable:
            # The doubt stays, and the next check of positions tries again.
            if room.tail is not None:
                room.tail.interrupted()
            logger.warning("a room's history cannot be read now", extra={"roomwire": {"room": room.name}})
        finally:
            done, room.recovery = room.recovery, None
            done.set()

    async def _reset(self, room: Room, tail: RoomTail) -> None:
        """The past cannot be trusted: all members get a new state, and what follows on it."""
        reason = tail.reason
        top = (await self._node.backplane.history(room.name, None, 0)).top
        if room.tail is not tail:
            return
        members = list(room.live)
        room.drop_turns()
        room.frozen = True
        room.flushed = top
        self._pass(room, tail.reset(top))
        logger.warning("a room was reset", extra={"roomwire": {"room": room.name, "reason": reason}})
        self._node.runtime.spawn(self._node.states.refresh_room, room, members, reason)

    async def check_positions(self) -> None:
        """Compare silent rooms with the store: an event that was lost may have had no successor."""
        now = self._node.runtime.now()
        due = [room for room in self.rooms.values() if room.tail is not None and room.tail.check_due(now)]
        for start in range(0, len(due), CHECK_BATCH):
            batch = due[start : start + CHECK_BATCH]
            await self._check(batch, now)

    async def _check(self, rooms: Sequence[Room], now: float) -> None:
        tops = await self._node.backplane.positions([room.name for room in rooms])
        for room in rooms:
            if room.tail is not None and room.name in tops:
                room.tail.heard(now, room.jitter)
                room.tail.compare(tops[room.name])
                if room.tail.need is not Need.NONE:
                    self._heal(room)
