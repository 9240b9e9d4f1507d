"""What who joins a room without a position is sent at once (``latest``): the newest event of each key.

A node has it of the rooms that it is subscribed to: of what came since then, and, from the first such join on, of what
the history had before. It stands for the tail's position, always, so that what follows on it is what comes live.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import anyio

from roomwire.core.conflation import LATEST_BYTES, LATEST_KEYS, Latest
from roomwire.core.errors import Unavailable
from roomwire.core.policy import RoomPolicy
from roomwire.core.positions import Position
from roomwire.core.publication import Publication
from roomwire.core.tail import Need, Page, RoomTail
from roomwire.node.turns import messages_of, publications_of

if TYPE_CHECKING:
    from roomwire.node.node import Node
    from roomwire.node.rooms import Kind, Membership, Room
    from roomwire.protocols.contract import Message, WireProtocol

__all__ = ["Newest", "fill"]

logger = logging.getLogger("roomwire")

_PAGE = 128
_TRIES = 3


class Newest:
    """Of one room.

    Attributes:
        latest: the publications.
        lock: held while the history is read.
    """

    __slots__ = ("_blocks", "_excluded", "_messages", "_policy", "_values", "_version", "latest", "lock")

    def __init__(self, policy: RoomPolicy) -> None:
        self._policy = policy
        self.latest = self.empty()
        self.lock = anyio.Lock()
        self._values: list[Publication] = []
        self._version = 0
        self._excluded: set[str] = set()
        self._blocks: dict[Kind, Any] = {}
        self._messages: dict[WireProtocol, dict[Publication, list[Message]]] = {}

    def empty(self) -> Latest:
        """One for what is read."""
        return Latest(self._policy.conflate_key, ttl=self._policy.history_ttl)

    def take(self, publication: Publication, now: float) -> None:
        """The tail passed it on."""
        dropped = self.latest.dropped
        self.latest.take(publication, now)
        if self.latest.dropped and not dropped:
            logger.warning(
                "a room with latest has more keys than are kept: who joins is sent no more than the last",
                extra={"roomwire": {"room": publication.room, "keys": LATEST_KEYS, "bytes": LATEST_BYTES}},
            )

    def clear(self) -> None:
        """The room was reset."""
        self.latest.clear()

    def before(self, now: float) -> Position | None:
        """The position before the oldest of them; None where there is none."""
        values = self._now(now)
        position = values[0].position if values else None
        return None if position is None else Position(position.epoch, position.offset - 1)

    def write(self, membership: Membership, now: float) -> None:
        """Write them to a member that is about to go live."""
        connection, tail, values = membership.connection, membership.room.tail, self._now(now)
        if connection.client in self._excluded:
            values = [p for p in values if not p.excludes(connection.user, connection.client)]
        # Its position was said to be before the oldest one.
        stands_at = values[-1].position if values else None
        membership.behind = bool(self._values) and tail is not None and stands_at != tail.position
        kind, link = connection._kind, connection._link
        if not values or kind is None or link is None or connection._closing is not None:
            return
        if len(values) < len(self._values):
            block = kind[1].block(self._encode(values, kind[0]))
        else:
            block = self._blocks.get(kind)
            if block is None:
                block = self._blocks[kind] = kind[1].block(self._encode(values, kind[0]))
        link.write(block, len(values), counted=False)

    def _now(self, now: float) -> list[Publication]:
        values = self.latest.values(now)
        if self.latest.version != self._version:
            self._version, self._values = self.latest.version, values
            self._excluded = {p.exclude for p in values if p.exclude is not None}
            self._blocks.clear()
            known = dict.fromkeys(values)
            for protocol, messages in self._messages.items():
                self._messages[protocol] = {p: found for p, found in messages.items() if p in known}
        return self._values

    def _encode(self, values: list[Publication], protocol: WireProtocol) -> list[Message]:
        """Their messages; what was encoded for another one who joined is not again."""
        known = self._messages.setdefault(protocol, {})
        messages: list[Message] = []
        for publication in values:
            found = known.get(publication)
            if found is None:
                found = known[publication] = messages_of((publication,), protocol)
            messages += found
        return messages


async def fill(node: Node, room: Room, newest: Newest) -> None:
    """Read what the history of a room has, where that was not done yet.

    Raises:
        Unavailable: it cannot be read now.
    """
    async with newest.lock:
        for _ in range(_TRIES):
            tail = room.tail
            if newest.latest.filled or room.frozen is not None or tail is None:
                return
            if tail.need is not Need.NONE:
                await node.hub.healing.recover(room)
                continue
            life = tail.life
            found = await _Reading(node, room, tail, newest.empty()).run()
            # What came while it was read was taken when the tail passed it on.
            if found is not None and room.tail is tail and tail.life == life and room.frozen is None:
                newest.latest.fill(found)
                return
    raise Unavailable("the newest events of the room cannot be read now", stored=False)


class _Reading:
    """One reading of a history from its oldest event on.

    Nobody knows where that is, and a read that begins before it gives nothing. So it is searched for: whether a read
    that begins at an offset can be proven is asked at some of them.
    """

    def __init__(self, node: Node, room: Room, tail: RoomTail, found: Latest) -> None:
        self._node = node
        self._room = room
        self._tail = tail
        self._epoch, self._top = tail.position
        self._found = found

    async def run(self) -> Latest | None:
        """What was found up to where the tail stood; None where the stream is another one than the tail's."""
        since, step = await self._oldest(), 1
        while since < self._top:
            page = await self._page(since, _PAGE)
            if page is None:
                return None
            if page.reason is not None:
                # The oldest ones went meanwhile. A room where that goes on must not be chased for ever.
                since, step = since + step, 2 * step
                continue
            entries = [entry for entry in page.entries if entry.offset <= self._top]
            for publication in publications_of(self._room.name, entries, self._epoch):
                self._found.take(publication, self._node.runtime.now())
            since = entries[-1].offset if page.more and entries else self._top
        return self._found

    async def _oldest(self) -> int:
        """The lowest offset from which on the history can be proven, or the top."""
        if await self._is_proven(0):
            return 0
        low, high, step = 0, self._top, self._room.policy.history_size
        # As far as the history reaches where the room's offsets are consecutive; and further, where they are not.
        while high - step > low:
            if not await self._is_proven(self._top - step):
                low = self._top - step
                break
            high, step = self._top - step, 2 * step
        while high - low > 1:
            middle = (low + high) // 2
            if await self._is_proven(middle):
                high = middle
            else:
                low = middle
        return high

    async def _is_proven(self, offset: int) -> bool:
        page = await self._page(offset, 1)
        return page is not None and page.reason is None

    async def _page(self, offset: int, limit: int) -> Page | None:
        """A read; None where it is of another stream, which the tail is told."""
        since = Position(self._epoch, offset)
        page = await self._node.backplane.history(self._room.name, since, limit)
        if page.top.epoch == self._epoch and page.reason != "fork":
            return page
        if self._room.tail is self._tail:
            self._node.hub.pass_on(self._room, self._tail.feed(page, since))
        return None
