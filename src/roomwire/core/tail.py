"""The room tail: the order, the gaps and the duplicates of one room, on one node.

A store numbers the events of a room, and the live link between the nodes may lose, repeat or reorder
them. The tail stands between that link and the local members: what it passes on is each event once,
in order, without a hole, or a reason why that cannot be had. One tail serves all members of a room.

For a delivery ``(epoch, previous, offset)`` at a tail that has passed on all up to ``last``:

    epoch differs                    hold it, recover
    previous <= last < offset        pass it on
    previous > last                  hold it, recover: something between is missing
    offset <= last                   drop it, if the ring holds the same event there, or cannot know
                                     any more; another event there: the store went back, reset

Whatever casts doubt (an interruption, a position check that differs) leads to a read of the history,
and only such a read decides: a hint may be older than what the tail knows by now. The owner's loop,
of which one runs at a time for a room (``history`` is the backplane's)::

    while tail.need is not Need.NONE:
        since = tail.begin(now)
        if tail.need is Need.RESET:
            passed = tail.reset((await history(room, None, 0)).top, now)   # and room.state to all members
        else:
            passed = tail.recovered(await history(room, since, 128), since)

A read that fails is taken back with `RoomTail.interrupted`.

The ring proves a resume only with what the store would still have, so its entries end with the room's
history TTL. A delivery is as old as its coming. What was read from the history, or waited for something
else to come, may be older than that; it counts as old as the event before it, and an entry that ends
too early costs no more than a read.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from enum import Enum
from math import inf
from typing import NamedTuple

from roomwire.core.positions import Position

__all__ = [
    "HELD_BYTES",
    "HELD_EVENTS",
    "RING_BYTES",
    "RING_EVENTS",
    "SILENCE",
    "Entry",
    "Need",
    "Page",
    "RoomTail",
]

RING_EVENTS = 128
"""Publications kept for resumes: a reconnect within seconds asks for a handful."""
RING_BYTES = 262_144
"""Bytes of bodies kept for the same."""
HELD_EVENTS = 256
"""Deliveries that may wait for a missing one; what comes beyond is read from the history."""
HELD_BYTES = 1_048_576
"""Bytes of bodies that may wait."""
SILENCE = 10.0
"""Seconds without a delivery after which the position is compared with the store's."""

_UNNUMBERED = -1


class Entry(NamedTuple):
    """One publication of a room.

    `previous` is the offset of the room's publication before this one, which makes contiguity
    provable where offsets are not consecutive.
    """

    previous: int
    offset: int
    body: bytes

    @property
    def ephemeral(self) -> bool:
        """Whether it has no number: it is not kept, never replayed, and moves no position."""
        return self.offset < 0


class Page(NamedTuple):
    """A read of a room's history.

    With `reason` ``None`` the entries follow without a hole on the position asked for, as far as
    they go. Else there are none, and `reason` is ``"epoch"``, ``"fork"``, ``"too_old"`` or
    ``"no_history"`` (docs/reference/protocol.md section 5).
    """

    top: Position
    entries: Sequence[Entry] = ()
    reason: str | None = None

    @property
    def more(self) -> bool:
        """Whether the entries end below the top, so that another page follows."""
        return bool(self.entries) and self.entries[-1].offset < self.top.offset


class Need(Enum):
    """What a tail needs from its owner."""

    NONE = "none"
    START = "start"
    """It was never told where the room stands: subscribe, then `RoomTail.reset`."""
    RECOVER = "recover"
    """Something may be missing: `RoomTail.begin`, read the history, `RoomTail.recovered`."""
    RESET = "reset"
    """Something is missing for good: `RoomTail.begin`, read the top, `RoomTail.reset`."""


class _Held(NamedTuple):
    read: int  # how many reads had begun when it came
    epoch: str
    entry: Entry


class RoomTail:
    """See the module's text. A tail that passes nothing on holds no container at all.

    Args:
        position: where the room stands, ``None`` where that is not known yet: deliveries are held.
        now: monotonic seconds, when `position` was known.
        ring_events: publications to keep for resumes; no more than the room's history size, so that
            a resume cannot depend on the node that it meets.
        ring_ttl: seconds to keep them for; no more than the room's history TTL, for the same reason.

    Attributes:
        reason: why the tail is, or lately was, to be reset: ``"epoch"``, ``"fork"``, ``"too_old"``
            or ``"no_history"``; empty where it never was.
        life: grows with each `reset`.
        dropped: deliveries that found no place to wait. Numbered ones are read again.
    """

    __slots__ = (
        "_broken",
        "_check_at",
        "_doubt",
        "_epoch",
        "_floor",
        "_fresh",
        "_held",
        "_held_bytes",
        "_last",
        "_later",
        "_read_at",
        "_reads",
        "_ring",
        "_ring_bytes",
        "_ring_events",
        "_ring_ttl",
        "dropped",
        "life",
        "reason",
    )

    def __init__(
        self,
        position: Position | None = None,
        now: float = 0.0,
        *,
        ring_events: int = RING_EVENTS,
        ring_ttl: float = inf,
    ) -> None:
        self._epoch, self._last = position or ("", 0)
        self._floor = self._last  # the ring proves what came after this offset
        self._fresh = now  # no event after the last one is older than this
        self._ring: deque[tuple[float, Entry]] | None = None  # with the time from which it counts
        self._ring_events = min(ring_events, RING_EVENTS)
        self._ring_ttl = ring_ttl
        self._ring_bytes = 0
        self._held: list[_Held] | None = None
        self._held_bytes = 0
        self._later: list[bytes] | None = None  # ephemeral bodies, for after what is held
        self._reads = 0
        self._read_at = now  # when the last of them began
        self._doubt = False
        self._broken = False
        self._check_at = 0.0
        self.reason = ""
        self.life = 0
        self.dropped = 0

    @property
    def position(self) -> Position:
        """All up to here was passed on."""
        return Position(self._epoch, self._last)

    @property
    def need(self) -> Need:
        """What the owner has to do next."""
        if self._broken:
            return Need.RESET
        if not self._epoch:
            return Need.START
        return Need.RECOVER if self._doubt or self._held else Need.NONE

    # --- the live link

    def receive(self, epoch: str, previous: int, offset: int, body: bytes, now: float) -> Sequence[Entry]:
        """A delivery at `now`, monotonic seconds; returns what may be passed on now, in order."""
        if epoch == self._epoch and not self._broken:
            if previous <= self._last < offset:
                entry = Entry(previous, offset, body)
                if not self._held:
                    self._fresh = now
                self._append(entry)
                return [entry, *self._drain(), *self._release()] if self._held else (entry,)
            if offset <= self._last and not self._contradicts(offset, body):
                return ()
        self._hold(epoch, Entry(previous, offset, body))
        return ()

    def ephemeral(self, body: bytes) -> Sequence[Entry]:
        """An event without number; it goes after what is held, as it came after it."""
        if not (self._held or self._broken):
            return (Entry(_UNNUMBERED, _UNNUMBERED, body),) if self._epoch else ()
        if self._later is None:
            self._later = []
        if self._has_room(body):
            self._later.append(body)
            self._held_bytes += len(body)
        else:
            self.dropped += 1
        return ()

    def interrupted(self) -> None:
        """Deliveries may have been lost, or a read failed."""
        self._doubt = True

    def compare(self, top: Position) -> None:
        """The position check: `top` is where the store stands, or stood a moment ago."""
        if top != (self._epoch, self._last):
            self._doubt = True

    # --- reads of the history

    def begin(self, now: float) -> Position:
        """A read begins at `now`, of what follows on the returned position.

        What was held before it and is not found by it does not exist; what comes from now on may
        ask for another read.
        """
        self._reads += 1
        self._read_at = now
        self._doubt = False
        return self.position

    def recovered(self, page: Page, since: Position) -> Sequence[Entry]:
        """The page read after `begin` returned `since`; returns what may be passed on now, in order.

        The tail may need more afterwards: another page, or a reset.
        """
        if self._broken or since.epoch != self._epoch:
            return ()
        reason = page.reason
        if page.top.epoch != self._epoch:
            reason = "epoch"
        elif reason is None and page.top.offset < since.offset:
            reason = "fork"
        if reason is not None:
            self._break(reason)
            return ()
        self._doubt |= page.more
        passed = self._accept(page)
        if not (page.more or self._broken):
            self._fresh = max(self._fresh, self._read_at)  # whatever follows was not there to be read
            self._keep([held for held in self._held or () if held.read >= self._reads])
        return [*passed, *self._release()]

    def feed(self, page: Page, since: Position | None) -> Sequence[Entry]:
        """A page that was read for a joining member, after its position `since`.

        Fed before the member is given a position from it, so that the tail is never behind a
        member, and later live copies die here. It proves nothing against the tail, only for it:
        `since` is what a client claimed, and the page may be older than what the tail knows.
        """
        if self._broken or not self._epoch:
            return ()
        joins_on = since is not None and since.epoch == self._epoch and since.offset <= self._last
        if page.top.epoch == self._epoch and page.reason is None and joins_on:
            return [*self._accept(page), *self._release()]
        if page.top.epoch != self._epoch or page.top.offset > self._last or (page.reason == "fork" and joins_on):
            self._doubt = True
        return ()

    def reset(self, position: Position, now: float) -> Sequence[Entry]:
        """Start, or start anew, at `position`, known at `now`; returns what may be passed on after it, in order."""
        self._epoch, self._last = position
        self._fresh = now
        self._floor = self._last
        self._ring = None
        self._ring_bytes = 0
        self._broken = False
        self.life += 1
        return [*self._drain(), *self._release()]

    def since(self, position: Position, now: float) -> list[Entry] | None:
        """All publications after `position` up to the tail's own, or ``None``: the ring cannot prove it at `now`."""
        self._trim(now)
        if self._broken or position.epoch != self._epoch or not self._floor <= position.offset <= self._last:
            return None
        entries: list[Entry] = []
        for _, entry in reversed(self._ring or ()):
            if entry.offset <= position.offset:
                break
            entries.append(entry)
        entries.reverse()
        return entries

    # --- time

    def heard(self, now: float, jitter: float = 1.0) -> None:
        """Something came, or a check was made, at `now`; the next check is due `jitter` times `SILENCE` later.

        Args:
            now: monotonic seconds.
            jitter: near 1, and different for each room, so that checks do not come in step.
        """
        self._check_at = now + SILENCE * jitter

    def check_due(self, now: float) -> bool:
        """Whether nothing was heard for so long that the position is to be compared."""
        return now >= self._check_at

    # --- inside

    def _append(self, entry: Entry) -> None:
        self._last = entry.offset
        if not self._ring_events:
            self._floor = entry.offset
            return
        ring = self._ring
        if ring is None:
            ring = self._ring = deque()
        ring.append((self._fresh, entry))
        self._ring_bytes += len(entry.body)
        if len(ring) > self._ring_events or self._ring_bytes > RING_BYTES or ring[0][0] + self._ring_ttl <= self._fresh:
            self._trim(self._fresh)

    def _trim(self, now: float) -> None:
        """Drop what the ring does not keep any longer."""
        ring, ttl = self._ring, self._ring_ttl
        while ring and (len(ring) > self._ring_events or self._ring_bytes > RING_BYTES or ring[0][0] + ttl <= now):
            _, entry = ring.popleft()
            self._floor = entry.offset
            self._ring_bytes -= len(entry.body)

    def _contradicts(self, offset: int, body: bytes) -> bool:
        """Whether the ring knows better than that `body` is at `offset`; then the store went back in time."""
        if offset <= self._floor:
            return False
        known = next((entry.body for _, entry in reversed(self._ring or ()) if entry.offset == offset), None)
        if known == body:
            return False
        self._break("fork")
        return True

    def _break(self, reason: str) -> None:
        self._broken = True
        self.reason = reason

    def _accept(self, page: Page) -> list[Entry]:
        """Pass on what a page proves, then what was waiting for it."""
        passed: list[Entry] = []
        for entry in page.entries:
            if entry.offset > self._last:
                self._append(entry)
                passed.append(entry)
            elif self._contradicts(entry.offset, entry.body):
                return passed
        # A top above the last event: the offsets between belong to other rooms, or are gone for all.
        if not page.more and page.top.offset > self._last:
            self._last = page.top.offset
        return passed + self._drain()

    def _has_room(self, body: bytes) -> bool:
        waiting = len(self._held or ()) + len(self._later or ())
        return waiting < HELD_EVENTS and self._held_bytes + len(body) <= HELD_BYTES

    def _hold(self, epoch: str, entry: Entry) -> None:
        if not self._has_room(entry.body):
            self.dropped += 1
            self._doubt = True
            return
        if self._held is None:
            self._held = []
        self._held.append(_Held(self._reads, epoch, entry))
        self._held_bytes += len(entry.body)

    def _keep(self, held: list[_Held]) -> None:
        self._held = held or None
        self._held_bytes = sum(len(one.entry.body) for one in held) + sum(map(len, self._later or ()))

    def _drain(self) -> list[Entry]:
        """Take from the held what follows on the last one."""
        passed: list[Entry] = []
        waiting: list[_Held] = []
        for held in sorted(self._held or (), key=lambda one: one.entry.offset):
            entry = held.entry
            if held.epoch != self._epoch or self._broken or entry.previous > self._last:
                waiting.append(held)
            elif entry.offset > self._last:
                self._append(entry)
                passed.append(entry)
            elif self._contradicts(entry.offset, entry.body):
                waiting.append(held)
        self._keep(waiting)
        return passed

    def _release(self) -> list[Entry]:
        """The ephemeral events that waited, once nothing is held any more."""
        if self._held or self._broken or not self._later:
            return []
        later, self._later = self._later, None
        self._held_bytes = 0
        return [Entry(_UNNUMBERED, _UNNUMBERED, body) for body in later]
