"""The join or resume of one client in one room, proven complete or said not to be.

The owner subscribes the room first, then makes a `Replay` and counts the client as *buffering*: all
that the tail passes on goes to `Replay.live` too. From then on it does what `Replay.step` says::

    while not isinstance(step := replay.step(now), Finished):
        try:
            if isinstance(step, RecoverTail):
                await recover(room)                  # or wait for the recovery that runs
            else:
                page = await history(room, step.since, step.limit)
                pass_on(room, tail.feed(page, step.since))    # the tail first
                replay.page(page)
        except Unavailable:
            replay.unavailable()
    # no await from here on: queue the outcome's replay, count the client as live

An outcome with a reason is followed by the whole state instead (``room.state``). The client stays
buffering; the owner takes a snapshot, notes the tail's position *before* the application computes
it (so that an event may be in the state twice, but never in neither), and what came meanwhile follows::

    replay.begin_reset(position)
    state = await snapshot(room)
    entries = replay.finish_reset(now)               # None: once more, unless replay.hopeless: 4005

A live client that asks for the state gets it on the same way. It goes on getting its events meanwhile,
and those that follow on the state's position once more, since the state replaces what they made of it.

A client that is live sits exactly at the tail's position, always; so a position for each member
need not be kept. Excluded clients are no exception: what they do not get moves them on all the same.
Times are monotonic seconds. See docs/reference/protocol.md sections 4 and 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from roomwire.core.positions import Position
from roomwire.core.tail import Entry, Need, Page, RoomTail

__all__ = [
    "BUFFER_BYTES",
    "BUFFER_EVENTS",
    "PAGE_EVENTS",
    "Budget",
    "Finished",
    "Outcome",
    "ReadHistory",
    "RecoverTail",
    "Replay",
    "Step",
]

BUFFER_EVENTS = 256
"""Publications that wait for one joining client in one room."""
BUFFER_BYTES = 1_048_576
"""The same in bytes of bodies."""
PAGE_EVENTS = 128
"""Publications of one read: at the largest event size 16 MiB, which is what a read can take at worst."""
_TRIES = 3


class Budget:
    """What the replays and join buffers of one connection may hold together, over all its rooms.

    Args:
        events: publications.
        bytes: bytes of their bodies.
    """

    __slots__ = ("bytes", "events")

    def __init__(self, events: int = 1000, bytes: int = 4_194_304) -> None:
        self.events = events
        self.bytes = bytes

    def take(self, events: int, size: int) -> bool:
        """Take `events` of `size` bytes together; False, and nothing taken, where too little is left."""
        if events > self.events or size > self.bytes:
            return False
        self.events -= events
        self.bytes -= size
        return True

    def give(self, events: int, size: int) -> None:
        """Give back what was taken."""
        self.events += events
        self.bytes += size


class ReadHistory(NamedTuple):
    """Read at most `limit` publications after `since`; feed the page to the tail, then to `Replay.page`."""

    since: Position
    limit: int


class RecoverTail(NamedTuple):
    """Do what the tail needs, or wait for whoever does."""


class Outcome(NamedTuple):
    """How a join or resume ended.

    Attributes:
        position: where the client stands now; ``None`` where the history cannot be read.
        recovered: whether all after its position was proven; ``None`` where it gave none.
        reason: why a ``room.state`` follows: one of docs/reference/protocol.md section 5, or
            ``"requested"``. ``None``: the replay follows, then live events.
        replay: what came after its position, in order. Never ephemeral events.
    """

    position: Position | None
    recovered: bool | None
    reason: str | None = None
    replay: tuple[Entry, ...] = ()


class Finished(NamedTuple):
    """Act on the outcome in this turn of the loop: it is true of this moment."""

    outcome: Outcome


Step = ReadHistory | RecoverTail | Finished


class Replay:
    """See the module's text.

    Args:
        tail: the room's tail, subscribed or about to be.
        since: the client's position, ``None`` where it has none.
        budget: of its connection.
        wants_state: it asks for the whole state, where nothing is replayed to it.
        keep_history: whether the room keeps any.

    Attributes:
        hopeless: the second reset in a row failed as well; close the connection with 4005.
    """

    __slots__ = (
        "_asked",
        "_budget",
        "_buffer",
        "_buffered",
        "_entries",
        "_failed_resets",
        "_keep_history",
        "_life",
        "_reached",
        "_reads",
        "_reason",
        "_reset_from",
        "_since",
        "_spent",
        "_tail",
        "_wants_state",
        "hopeless",
    )

    def __init__(
        self,
        tail: RoomTail,
        since: Position | None,
        budget: Budget,
        *,
        wants_state: bool = False,
        keep_history: bool = True,
    ) -> None:
        self._tail = tail
        self._since = since
        self._budget = budget
        self._wants_state = wants_state
        self._keep_history = keep_history
        self._life = tail.life
        self._reached = since  # all up to here is in _entries
        self._entries: list[Entry] = []
        self._spent = 0  # bytes of _entries
        self._buffer: list[Entry] = []
        self._buffered = 0  # bytes of _buffer
        self._reads = 0
        self._asked = 0  # recoveries of the tail
        self._reason: str | None = None
        self._reset_from: Position | None = None
        self._failed_resets = 0
        self.hopeless = False

    @classmethod
    def resetting(cls, tail: RoomTail, budget: Budget) -> Replay:
        """For a member that is live: ready for `live` and `begin_reset`."""
        return cls(tail, None, budget)

    # --- the live events meanwhile

    def live(self, entry: Entry) -> None:
        """The tail passed `entry` on while the client was buffering."""
        self._follow_tail()
        # A client that is not live yet gets no ephemeral event.
        if entry.ephemeral:
            return
        size = len(entry.body)
        fits = len(self._buffer) < BUFFER_EVENTS and self._buffered + size <= BUFFER_BYTES
        if fits and self._budget.take(1, size):
            self._buffer.append(entry)
            self._buffered += size
            return
        # The hole that this makes is noticed wherever the buffer would have been needed.
        self._drop_buffer()
        if self._since is not None and self._reason is None:
            self._reason = "too_far"

    # --- the replay

    def step(self, now: float) -> Step:
        """What to do next. A finished one may be asked again, after an await: its outcome moves on with the tail."""
        tail = self._tail
        self._follow_tail()
        if self._reason is not None:
            return self._refuse(self._reason)
        if tail.need in (Need.START, Need.RESET):
            return self._recover_tail()
        reached = self._reached
        if reached is None:
            return Finished(Outcome(tail.position, None, "requested" if self._wants_state else None))
        if reached.epoch != tail.position.epoch:
            # One of the two is out of date. The store knows which, and the tail doubts once it was read.
            return self._recover_tail() if tail.need is Need.RECOVER else self._read(reached)
        ahead = reached.offset > tail.position.offset
        if not self._asked and (ahead or tail.need is Need.RECOVER):
            # The tail is behind or in doubt. One read for it serves all who come back just now.
            tail.interrupted()
            return self._recover_tail()
        if ahead:
            return self._refuse("fork")
        rest = self._rest(reached, now)
        if rest is None:
            return self._read(reached)
        self._drop_buffer()
        if not self._add(rest):
            return self._refuse("too_far")
        self._reached = tail.position
        return Finished(Outcome(tail.position, True, None, tuple(self._entries)))

    def page(self, page: Page) -> None:
        """What `ReadHistory` asked for, after it was fed to the tail."""
        since = self._reached
        if since is None or self._reason is not None:
            return
        self._reads += not page.more
        reason = page.reason
        if reason is None and page.top.epoch != since.epoch:
            reason = "epoch"
        elif reason is None and page.top.offset < since.offset:
            reason = "fork"
        if reason is not None:
            self._reason = reason
            return
        self._reached = Position(since.epoch, page.entries[-1].offset if page.more else page.top.offset)
        self._drop_covered(self._reached)
        if not self._add(page.entries):
            self._reason = "too_far"

    def unavailable(self) -> None:
        """The history could not be read."""
        self.demand("unavailable")

    def demand(self, reason: str) -> None:
        """The client needs the whole state, whatever is proven."""
        self._reason = self._reason or reason

    # --- the reset

    def begin_reset(self, position: Position) -> None:
        """A snapshot is being made that has all events up to `position`, and may have later ones."""
        self._follow_tail()
        self._reset_from = position

    def finish_reset(self, now: float) -> Sequence[Entry] | None:
        """What follows on the snapshot, in order: queue the state and these, and count the client as live.

        Returns:
            ``None`` where that cannot be had: more came than can wait, or the room was reset in the
            meantime. Take another snapshot, unless `hopeless`.
        """
        self._follow_tail()
        position, self._reset_from = self._reset_from, None
        startable = position is not None and self._tail.need not in (Need.START, Need.RESET)
        entries = self._rest(position, now) if position is not None and startable else None
        self.release()
        if entries is None or not self._add(entries):
            self._failed_resets += 1
            self.hopeless = self._failed_resets > 1
            return None
        return entries

    def release(self) -> None:
        """Give everything back to the budget: the replay was written, or the client is gone."""
        self._drop_buffer()
        self._budget.give(len(self._entries), self._spent)
        self._entries = []
        self._spent = 0

    # --- inside

    def _follow_tail(self) -> None:
        """Where the tail started anew, what it passed on before is worth nothing any more."""
        if self._tail.life == self._life:
            return
        self._life = self._tail.life
        self._drop_buffer()
        self._reset_from = None
        if self._tail.reason == "fork" and self._since is not None:
            # The pages read so far, and the client's own position, may be of the branch that is gone.
            self._reason = self._reason or "fork"

    def _rest(self, position: Position, now: float) -> list[Entry] | None:
        """All from `position` to the tail's own: from the ring, or else the buffer and the ring."""
        rest = self._tail.since(position, now)
        if rest is not None or position.epoch != self._tail.position.epoch:
            return rest
        offset = position.offset
        buffered: list[Entry] = []
        for entry in self._buffer:
            if entry.previous > offset:
                return None
            if entry.offset > offset:
                buffered.append(entry)
                offset = entry.offset
        rest = self._tail.since(Position(position.epoch, offset), now)
        return None if rest is None else buffered + rest

    def _read(self, since: Position) -> Step:
        if not self._keep_history:
            return self._refuse("no_history")
        if self._reads >= _TRIES:
            return self._refuse("unavailable")
        # One more than it may have, so that the page after the last one it may have is seen.
        return ReadHistory(since, min(PAGE_EVENTS, self._budget.events + 1))

    def _recover_tail(self) -> Step:
        if self._asked >= _TRIES:
            return self._refuse("unavailable")
        self._asked += 1
        return RecoverTail()

    def _refuse(self, reason: str) -> Finished:
        self._reason = reason
        self.release()
        position = None if reason == "unavailable" else self._tail.position
        return Finished(Outcome(position, None if self._since is None else False, reason))

    def _add(self, entries: Sequence[Entry]) -> bool:
        """Charge and keep; False where the budget does not allow it."""
        size = sum(len(entry.body) for entry in entries)
        if not self._budget.take(len(entries), size):
            return False
        self._entries += entries
        self._spent += size
        return True

    def _drop_buffer(self) -> None:
        self._budget.give(len(self._buffer), self._buffered)
        self._buffer = []
        self._buffered = 0

    def _drop_covered(self, reached: Position) -> None:
        """What a page has need not wait in the buffer as well."""
        if reached.epoch != self._tail.position.epoch:
            return
        waiting = [entry for entry in self._buffer if entry.offset > reached.offset]
        kept = sum(len(entry.body) for entry in waiting)
        self._budget.give(len(self._buffer) - len(waiting), self._buffered - kept)
        self._buffer, self._buffered = waiting, kept
