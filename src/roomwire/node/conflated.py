"""A room whose members get the newest of each key, at most so many times a second (``conflate_rate``).

What is published waits in the room (`roomwire.core.conflation`), and is no turn yet. The first publication after a
quiet time goes out in the next turn of the loop; from then on the next block is cut an interval later, by the room's
one timer, which runs only while something waits. The block has the newest of each key and is encoded once for each
kind: what was replaced never was.

All members get a block, but some stand **apart**: who went live while something waited has a part of it by its
replay, and who does not keep up is passed over, as long as more than a little of what it was sent before waits in its
outbox. It gets the newest of everything that it missed once it has read that, so that it is not sent what is out of
date, nor closed for being slow. For each of them the room knows the mark and the position; the others stand at
`Room.flushed`.

What waits is bounded: a room that has more in different keys than fits into a block sends it ahead of time, and one
that keeps too much for those who were passed over puts it into their outboxes, where the usual limits hold.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple

from roomwire.core.conflation import Conflation, Item
from roomwire.core.limits import Limits
from roomwire.core.notices import RoomState
from roomwire.core.policy import RoomPolicy
from roomwire.core.positions import Position
from roomwire.core.publication import Publication
from roomwire.core.replay import BUFFER_BYTES, BUFFER_EVENTS
from roomwire.node.rooms import BLOCK_BYTES, Freeze, Membership, Room
from roomwire.node.turns import Turn, encode, write_each

if TYPE_CHECKING:
    from roomwire.node.rooms import Kind
    from roomwire.transports.contract import Link

__all__ = ["BLOCK_EVENTS", "UNREAD", "Block", "ConflatedRoom"]

BLOCK_EVENTS = 1000
"""Publications of different keys in one block, and those that are kept for members who were passed over."""
UNREAD = 16_384
"""Bytes that may wait for a member that is sent the next block: on a host that writes later, some always do."""
_TICK = 0.001
"""Seconds that the timer runs at least: the difference of two times may be too small to be slept."""


class Mark(NamedTuple):
    """Where a member stands that stands apart."""

    number: int
    position: Position


class Block(Turn):
    """The newest of each key, for members in step and for those apart.

    Args:
        room: the room.
        members: of this moment.
        items: what somebody lacks, in order.
        begin: the mark of the members in step.
        forced: whether those who do not keep up get it all the same.
        replaced: how many publications waited for it, and were replaced by later ones.

    Attributes:
        replaced: the same; 0 once it was counted.
        passed: members that were passed over by what is new in it, and not counted yet.
    """

    __slots__ = (
        "_begin",
        "_cuts",
        "_excluded",
        "_forced",
        "_heavy",
        "_marks",
        "_publications",
        "_room",
        "_start",
        "end",
        "passed",
        "replaced",
    )

    def __init__(
        self,
        room: ConflatedRoom,
        members: list[Membership],
        items: Sequence[Item],
        begin: int,
        *,
        forced: bool,
        replaced: int,
    ) -> None:
        self._room = room
        self._publications = [item.publication for item in items]
        self._marks = [item.mark for item in items]
        self._begin = begin
        self._start = bisect_right(self._marks, begin)
        fresh = self._publications[self._start :]
        super().__init__(members, last=next((p for p in reversed(fresh) if p.position is not None), None))
        self.weigh(sum(len(p.data) for p in fresh))
        self._excluded = {p.exclude for p in self._publications if p.exclude is not None}
        self._forced = forced
        self._heavy = room.is_heavy(self._publications)
        self._cuts: dict[tuple[Kind, int], Any] = {}
        self.end = self._marks[-1] if self._marks else begin
        """The mark of who has it."""
        self.replaced = replaced
        self.passed = 0

    @property
    def publications(self) -> int:
        """See `Turn`."""
        return len(self._publications) - self._start

    @property
    def size(self) -> int:
        """See `Turn`."""
        sizes = [kind[1].size(block) for (kind, start), block in self._cuts.items() if start == self._start]
        return sum(sizes) // (len(sizes) or 1)

    def write(self, batch: Sequence[Membership]) -> None:
        """See `Turn`."""
        apart = self._room.apart
        groups: dict[tuple[Kind, int], list[Link]] = {}
        for membership in batch:
            link, kind = membership.link, membership.kind
            if link is None or kind is None:
                continue
            mark = apart.get(membership) if apart else None
            start = self._start if mark is None else bisect_right(self._marks, mark.number)
            if start < len(self._publications) and not self._forced and self._is_behind(link.queued()):
                if mark is None:
                    apart[membership] = Mark(self._begin, self._room.flushed)
                self.passed += bool(self.publications)
                continue
            if mark is not None:
                del apart[membership]
                membership.behind = True  # what it was last sent may be older than where it stands now
            if self._excluded and membership.connection.client in self._excluded:
                self._write_partly(membership, start)
            elif start < len(self._publications):
                groups.setdefault((kind, start), []).append(link)
        for (kind, start), links in groups.items():
            write_each(links, self._block_for(kind, start), len(self._publications) - start)

    def _block_for(self, kind: Kind, start: int) -> Any:
        block = self._cuts.get((kind, start))
        if block is None:
            block = self._cuts[kind, start] = encode(self._publications[start:], kind)
        return block

    def _is_behind(self, waiting: int) -> bool:
        return waiting > self._room.unread or (waiting > 0 and self._heavy)

    def _write_partly(self, membership: Membership, start: int) -> None:
        """Write what a member is not excluded from."""
        user, client = membership.connection.user, membership.connection.client
        publications = [p for p in self._publications[start:] if not p.excludes(user, client)]
        if self.last is not None and self.last.excludes(user, client):
            membership.behind = True
        kind, link = membership.kind, membership.link
        if publications and link is not None and kind is not None:
            link.write(encode(publications, kind), len(publications))

    def finished(self) -> None:
        """See `Turn`."""
        self._room.finished(self)


class ConflatedRoom(Room):
    """See the module's text.

    Args:
        name: its name.
        policy: its policy.
        limits: the node's.
        clock: monotonic seconds.
        later: calls a function after so many seconds; it has `ConflatedRoom.woke` called and looks at the room.

    Attributes:
        apart: the members that do not stand at `flushed`.
        unread: bytes that may wait for a member that is sent the next block.
    """

    __slots__ = ("_clock", "_due", "_later", "_limits", "_look", "_sleeps", "_waiting", "apart", "unread")

    def __init__(
        self,
        name: str,
        policy: RoomPolicy,
        limits: Limits,
        clock: Callable[[], float],
        later: Callable[[ConflatedRoom, float], object],
    ) -> None:
        super().__init__(name, policy)
        self._limits = limits
        self._clock = clock
        self._later = later
        self._waiting = Conflation(policy.conflate_key)
        self._due = 0.0  # when the next block may go out
        self._look = 0.0  # when those who were passed over are looked at without one
        self._sleeps = False  # whether the timer runs
        self.apart: dict[Membership, Mark] = {}
        self.unread = min(UNREAD, limits.outbox_bytes // 4)

    @property
    def _interval(self) -> float:
        assert self.policy.conflate_rate
        return 1 / self.policy.conflate_rate

    def is_heavy(self, publications: Sequence[Publication]) -> bool:
        """Whether so much would not fit into an outbox that is half full."""
        size = sum(len(p.data) for p in publications)
        return 2 * len(publications) > self._limits.outbox_messages or 2 * size > self._limits.outbox_bytes

    # --- what waits

    def accept(self, publication: Publication) -> None:
        """See `Room`."""
        waiting, freeze = self._waiting, self.frozen
        waiting.take(publication)
        if freeze is not None:
            if waiting.waiting > BUFFER_EVENTS or waiting.waiting_bytes > BUFFER_BYTES:
                freeze.overflowed = True
                waiting.clear()
        elif waiting.waiting >= BLOCK_EVENTS or waiting.waiting_bytes >= BLOCK_BYTES:
            self.release()
        else:
            self._sleep()

    @property
    def _is_due(self) -> bool:
        """Whether a block is to be cut now."""
        if self.frozen is not None:
            return False
        return self._clock() >= self._wakes_at

    @property
    def _wakes_at(self) -> float:
        """When something is to be done; infinity where nothing is."""
        if self._waiting.waiting:
            return self._due
        return self._look if self.apart else inf

    @property
    def has_work(self) -> bool:
        """See `Room`."""
        return bool(self._turns) or self._is_due

    @property
    def is_settled(self) -> bool:
        """See `Room`."""
        return not self.apart and super().is_settled

    def seal(self) -> None:
        """Cut a block where one is due. What is not waits, whatever is told meanwhile."""
        if self._is_due:
            self._cut()

    def release(self) -> bool:
        """See `Room`."""
        waits = self._waiting.waiting > 0 and self.frozen is None
        if waits:
            self._cut()
        return waits

    def _cut(self) -> None:
        waiting, begin, replaced = self._waiting, self._waiting.sent, self._waiting.replaced
        now = self._clock()
        self._look = now + self._interval
        if waiting.waiting:
            self._due = self._look
            members = list(self.live)
        else:
            members = list(self.apart)
        forced = waiting.kept >= BLOCK_EVENTS or waiting.kept_bytes >= BLOCK_BYTES
        self._turns.append(Block(self, members, waiting.cut(), begin, forced=forced, replaced=replaced))

    def finished(self, block: Block) -> None:
        """A block was written to all, or they were passed over."""
        self._waiting.forget(min((mark.number for mark in self.apart.values()), default=block.end))
        self._sleep()

    # --- the timer

    def _sleep(self) -> None:
        """Have the timer run, where something waits for a later time."""
        if self._sleeps or self.frozen is not None:
            return
        at = self._wakes_at
        if at == inf:
            return
        rest = at - self._clock()
        if rest > 0:
            self._sleeps = True
            self._later(self, max(rest, _TICK))

    def woke(self) -> None:
        """The timer has run out, or a little before its time."""
        self._sleeps = False
        self._sleep()

    # --- members

    def admit(self, membership: Membership) -> None:
        """See `Room`."""
        self.live[membership] = None
        self._set_apart(membership)
        keep_fresh = getattr(membership.link, "keep_fresh", None)
        if keep_fresh is not None:  # see `roomwire.transports.contract.FreshLink`
            keep_fresh()

    def part(self, membership: Membership) -> None:
        """See `Room`."""
        super().part(membership)
        self.apart.pop(membership, None)

    def skip(self, membership: Membership) -> None:
        """See `Room`."""
        for turn in self._turns:
            if turn.moves:
                turn.skip(membership)
        self.apart.pop(membership, None)
        self._set_apart(membership)

    def _set_apart(self, membership: Membership) -> None:
        """It has what waits."""
        if self._waiting.waiting and self.frozen is None:
            assert self.tail is not None
            self.apart[membership] = Mark(self._waiting.head, self.tail.position)

    # --- positions and resets

    def position_of(self, membership: Membership) -> Position | None:
        """See `Room`."""
        mark = self.apart.get(membership)
        return super().position_of(membership) if mark is None else mark.position

    def moved(self, position: Position) -> None:
        """See `Room`."""
        if not self._waiting.waiting:
            super().moved(position)

    def freeze(self, reason: str) -> Freeze:
        """See `Room`."""
        self._forget()
        return super().freeze(reason)

    def thaw(self, state: RoomState) -> None:
        """See `Room`."""
        super().thaw(state)
        self._waiting.follow(state.position.offset)
        self._sleep()

    def clear(self) -> None:
        """See `Room`."""
        self._forget()
        super().clear()

    def _forget(self) -> None:
        self._waiting.clear()
        self.apart.clear()
