"""Healing: what a node does where events of a room may be missing.

Whatever casts doubt on a room's tail, one read at a time decides about it: the history is read once for
all members, or, where the past cannot be trusted any more, all of them get a new state. Doubt about
many rooms at once, such as after the link to the store broke, begins with one look at all their
positions: most have missed nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import anyio

from roomwire.core.errors import Unavailable
from roomwire.core.positions import Position
from roomwire.core.tail import Need, Page, RoomTail
from roomwire.node.chores import Chores

if TYPE_CHECKING:
    from roomwire.node.hub import Hub
    from roomwire.node.node import Node
    from roomwire.node.rooms import Room

__all__ = ["Healing"]

logger = logging.getLogger("roomwire.backplane")

RECOVER_PAGE = 128
"""Publications of one read of the history: at the largest event size 16 MiB."""
CHECK_BATCH = 500
"""Rooms whose positions are read in one round trip."""
_RECOVERIES = 32
"""Rooms whose history is read at one time."""


class Healing:
    """Brings tails up to their streams."""

    def __init__(self, node: Node, hub: Hub) -> None:
        self._node = node
        self._hub = hub
        self._recoveries: Chores[Room] = Chores(node, self._recover, _RECOVERIES)
        self._doubtful: Chores[None] = Chores(node, self._check_doubtful, 1)

    # --- one room

    def heal(self, room: Room) -> None:
        """Do what the room's tail needs, soon."""
        if room.recovery is None:
            room.recovery = anyio.Event()
            self._recoveries.add(room)

    async def recover(self, room: Room) -> None:
        """Do what the room's tail needs, or wait for whoever does.

        Raises:
            Unavailable: it cannot be done now.
        """
        self.heal(room)
        while room.recovery is not None:
            await room.recovery.wait()
        if room.tail is None or room.tail.need is not Need.NONE:
            raise Unavailable("the room's history cannot be read now")

    async def _recover(self, room: Room) -> None:
        """Read what is missing. What the store cannot give now is asked for later."""
        assert room.recovery is not None
        counts, found = self._node.counts, False
        counts.doubts += 1
        try:
            while (tail := room.tail) is not None and tail.need is not Need.NONE:
                since = tail.begin(self._node.runtime.now())
                if tail.need is Need.RESET:
                    await self._reset(room, tail)
                    continue
                page = await self._node.backplane.history(room.name, since, RECOVER_PAGE)
                if room.tail is tail:
                    missed = tail.recovered(page, since)
                    found = found or bool(missed)
                    self._hub.accept(room, missed)
            counts.healed += found
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
        asked = self._node.runtime.now()
        top = (await self._node.backplane.history(room.name, None, 0)).top
        if room.tail is not tail:
            return
        if room is self._hub.orders:
            self._hub.accept(room, tail.reset(top, asked))
            logger.error("orders to this node may have been lost (%s): disconnect, add or remove again", reason)
            return
        freeze = room.freeze(reason)
        self._hub.accept(room, tail.reset(top, asked))
        self._node.counts.reset(reason)
        logger.warning("a room was reset", extra={"roomwire": {"room": room.name, "reason": reason}})
        self._node.runtime.spawn(self._node.states.refresh_room, room, freeze)

    # --- many rooms

    def doubt(self, rooms: Iterable[Room]) -> None:
        """Something may have been missed in these rooms."""
        for room in rooms:
            if room.tail is not None:
                room.tail.interrupted()
        self._doubtful.add(None)

    async def _check_doubtful(self, _: None) -> None:
        rooms = [room for room in self._hub.streams() if room.tail and room.tail.need is not Need.NONE]
        try:
            await self._compare(rooms)
        except Unavailable:
            # They are not heard of meanwhile, so that the check of silent rooms takes them up.
            logger.warning("positions cannot be read now", extra={"roomwire": {"rooms": len(rooms)}})

    async def check_positions(self) -> None:
        """Compare silent rooms with the store: an event that was lost may have had no successor.

        Raises:
            Unavailable: the positions cannot be read now.
        """
        now = self._node.runtime.now()
        await self._compare([room for room in self._hub.streams() if room.tail and room.tail.check_due(now)])

    async def _compare(self, rooms: Sequence[Room]) -> None:
        for start in range(0, len(rooms), CHECK_BATCH):
            now = self._node.runtime.now()
            looks = [_Look(room, now) for room in rooms[start : start + CHECK_BATCH] if room.tail and not room.recovery]
            try:
                tops = await self._node.backplane.positions([look.room.name for look in looks])
            except Unavailable:
                for look in looks:
                    look.take_back()
                raise
            self._node.counts.checks += len(looks)
            now = self._node.runtime.now()
            for look in looks:
                self._judge(look, tops.get(look.room.name), now)

    def _judge(self, look: _Look, top: Position | None, now: float) -> None:
        room, tail = look.room, look.tail
        if room.tail is not tail:
            return
        tail.heard(now, room.jitter)
        self._node.counts.differed += top is not None and top != tail.position
        if top is not None and top == look.since == tail.position and room.recovery is None:
            # What was in doubt is answered by an empty page after the tail's own position.
            self._hub.accept(room, tail.recovered(Page(top), look.since))
        else:
            look.take_back()
            if top is not None:
                tail.compare(top)
        if tail.need is not Need.NONE:
            self.heal(room)


class _Look:
    """One tail in a comparison; it counts as a read of its history, of nothing but the top."""

    __slots__ = ("_doubted", "room", "since", "tail")

    def __init__(self, room: Room, now: float) -> None:
        assert room.tail is not None
        self.room = room
        self.tail = room.tail
        self._doubted = room.tail.need is Need.RECOVER
        self.since = room.tail.begin(now)

    def take_back(self) -> None:
        """The look said nothing: what was in doubt before it still is."""
        if self._doubted:
            self.tail.interrupted()
