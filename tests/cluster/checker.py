"""The offline check: from the logs of all clients to what was lost, doubled, reordered or not reported.

A client's log of a room falls into stretches. A stretch begins at a position that the client was given without a
past (the first welcome, or the position of a ``room.state``) and goes on, over any number of resumes, for as long
as the server says that nothing is missing. Within a stretch every event that anybody knows of has to be there,
once and in order. Between two stretches there has to be a ``room.state`` whose reason was told before; it has to
hold every acknowledged event up to its position. In the end every client has to be where its room is.

    lost        an event that the stretch passes over, or that a state should hold and does not
    doubled     an offset that came twice in a stretch; a message that was published twice in one life of the room
    reordered   an offset below the one before it, or a publisher's events in another order than they were sent
    forked      two events at one position
    misacked    an acknowledgement that names the position of another event, or differs from one before it
    unreported  a break that nobody told the client of: events of another life of the room, a place that was lost, a
                state that was announced and did not come, a client that stayed behind for good
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from roomwire.core.positions import Position
from tests.cluster.records import Acked, Event, Given, Left, Log, Moved, State

__all__ = ["Findings", "check"]

_SHOWN = 20
Content = tuple[str, int]


@dataclass
class Findings:
    """The counts, and the first few cases in words.

    Attributes:
        events: deliveries that were looked at.
        acked: messages that were acknowledged.
        resets: states that took the place of a replay, by reason.
        recovered: resumes that were proven.
    """

    lost: int = 0
    doubled: int = 0
    reordered: int = 0
    forked: int = 0
    misacked: int = 0
    unreported: int = 0
    events: int = 0
    acked: int = 0
    recovered: int = 0
    resets: Counter[str] = field(default_factory=Counter)
    cases: list[str] = field(default_factory=list)

    @property
    def faults(self) -> int:
        """All that must not be."""
        return self.lost + self.doubled + self.reordered + self.forked + self.misacked + self.unreported

    def note(self, kind: str, where: str, what: str, count: int = 1) -> None:
        """Count a fault."""
        setattr(self, kind, getattr(self, kind) + count)
        if len(self.cases) < _SHOWN:
            self.cases.append(f"{kind}: {where}: {what}")


class _Truth:
    """All that anybody knows of one room: its events by epoch and offset."""

    def __init__(self) -> None:
        self.events: dict[str, dict[int, Content]] = {}
        self.offsets: dict[str, list[int]] = {}
        self.acked: dict[Content, Position] = {}
        self.before: dict[str, set[str]] = {}  # of each epoch those that some client has seen before it

    def add(self, epoch: str, offset: int, content: Content) -> bool:
        """An event; False where another one is known to be there."""
        return self.events.setdefault(epoch, {}).setdefault(offset, content) == content

    def seal(self) -> None:
        # Before is what is before something that is before.
        for epochs in self.before.values():
            todo = list(epochs)
            while todo:
                further = self.before.get(todo.pop(), set()) - epochs
                epochs |= further
                todo += further
        self.offsets = {epoch: sorted(events) for epoch, events in self.events.items()}

    def between(self, epoch: str, after: int, to: int) -> list[int]:
        """The offsets after one and up to another."""
        offsets = self.offsets.get(epoch, [])
        return offsets[bisect_right(offsets, after) : bisect_right(offsets, to)]


class _Stretch:
    """A part of one client's log of one room without a told break."""

    def __init__(self, base: Position) -> None:
        self.epoch = base.epoch
        self.base = self.top = base.offset
        self.seen: list[int] = []


class _Reader:
    """Walks through one client's log."""

    def __init__(self, log: Log, findings: Findings, truths: Mapping[str, _Truth]) -> None:
        self.log = log
        self.findings = findings
        self.truths = truths
        self.current: dict[str, _Stretch] = {}
        self.announced: dict[str, str] = {}

    def run(self, finals: Mapping[str, Position]) -> None:
        for record in self.log.records:
            match record:
                case Event():
                    self.event(record)
                case Given():
                    self.given(record)
                case State():
                    self.state(record)
                case Moved():
                    self.moved(record)
                case Left():
                    self.end(record.room)
        for room, stretch in list(self.current.items()):
            final = finals.get(room)
            announced = self.announced.pop(room, None)
            if not self.log.ended and announced is not None:
                self.note("unreported", room, f"a state was announced ({announced}) and did not come")
            elif (
                not self.log.ended
                and final is not None
                and (stretch.epoch != final.epoch or stretch.top < final.offset)
            ):
                at = f"{stretch.epoch}:{stretch.top}"
                self.note("unreported", room, f"it stayed behind at {at}, the room is at {final}")
            self.end(room)

    def note(self, kind: str, room: str, what: str, count: int = 1) -> None:
        self.findings.note(kind, f"{self.log.client} in {room}", what, count)

    def event(self, event: Event) -> None:
        self.findings.events += 1
        stretch = self.current.get(event.room)
        if stretch is None:
            self.note("unreported", event.room, f"{event} in a room that it was not told to be in")
            self.begin(event.room, Position(event.epoch, event.offset))
        elif event.room in self.announced or event.epoch != stretch.epoch:
            why = self.announced.get(event.room, "another epoch")
            self.note("unreported", event.room, f"{event} instead of a state ({why})")
            self.begin(event.room, Position(event.epoch, event.offset))
        elif event.offset > stretch.top:
            stretch.top = event.offset
            stretch.seen.append(event.offset)
        elif event.offset in stretch.seen[-4096:]:
            self.note("doubled", event.room, f"{event} came twice")
        else:
            self.note("reordered", event.room, f"{event} came behind {stretch.top}")
            stretch.seen.insert(bisect_left(stretch.seen, event.offset), event.offset)

    def given(self, given: Given) -> None:
        stretch = self.current.get(given.room)
        if given.recovered:
            self.findings.recovered += 1
            self.announced.pop(given.room, None)  # it was announced on a link before, and is not needed after all
            if stretch is None or (given.position is not None and given.position.epoch != stretch.epoch):
                self.note("unreported", given.room, f"{given} without a position that it could follow on")
        elif given.recovered is False:
            self.announced[given.room] = given.reason or "no reason"
            if stretch is None and given.position is not None:
                self.begin(given.room, given.position)
        elif stretch is not None:
            self.note("unreported", given.room, f"its place was lost: {given}")
        if given.recovered is None and given.position is not None:
            self.begin(given.room, given.position)

    def state(self, state: State) -> None:
        announced = self.announced.pop(state.room, None)
        if state.reason != "requested":
            self.findings.resets[announced or state.reason] += 1
        self.begin(state.room, state.position)
        truth = self.truths.get(state.room)
        if state.content is None or truth is None:
            return
        epoch, offset = state.position
        earlier = truth.before.get(epoch, set())
        for (by, n), position in truth.acked.items():
            is_in = position.epoch in earlier or (position.epoch == epoch and position.offset <= offset)
            if is_in and state.content.get(by, 0) < n:
                self.note("lost", state.room, f"{by} {n} at {position} is not in the state at {state.position}")

    def moved(self, moved: Moved) -> None:
        stretch = self.current.get(moved.room)
        if stretch is not None and moved.room not in self.announced and moved.position.epoch == stretch.epoch:
            stretch.top = max(stretch.top, moved.position.offset)

    def begin(self, room: str, base: Position) -> None:
        self.announced.pop(room, None)
        self.end(room)
        self.current[room] = _Stretch(base)

    def end(self, room: str) -> None:
        """A stretch is over: is all of it there?"""
        stretch = self.current.pop(room, None)
        truth = self.truths.get(room)
        if stretch is None or truth is None:
            return
        expected = truth.between(stretch.epoch, stretch.base, stretch.top)
        if expected != stretch.seen:
            missing = sorted(set(expected).difference(stretch.seen))
            if missing:
                what = f"offsets {missing[:5]} of ({stretch.base}, {stretch.top}] of {stretch.epoch}"
                self.note("lost", room, what, len(missing))


def _known(logs: Iterable[Log], findings: Findings) -> dict[str, _Truth]:
    """What happened, as far as anybody was told."""
    truths: dict[str, _Truth] = {}
    acks: list[tuple[str, Acked]] = [(log.client, acked) for log in logs for acked in log.acked]
    for client, (room, by, n, position, _) in sorted(acks, key=lambda one: one[1].at):
        truth = truths.setdefault(room, _Truth())
        before = truth.acked.setdefault((by, n), position)
        if before != position:
            findings.note("misacked", client, f"{by} {n} in {room} at {position}, and before at {before}")
        elif not truth.add(position.epoch, position.offset, (by, n)):
            known = truth.events[position.epoch][position.offset]
            findings.note("misacked", client, f"{by} {n} at {position} of {room}, where {known} was acknowledged")
    findings.acked = sum(len(truth.acked) for truth in truths.values())
    seen: set[Event] = set()
    for log in logs:
        seen.update(record for record in log.records if isinstance(record, Event))
    for event in seen:
        truth = truths.setdefault(event.room, _Truth())
        if not truth.add(event.epoch, event.offset, (event.by, event.n)):
            known = truth.events[event.epoch][event.offset]
            findings.note("forked", event.room, f"{event}, where {known} is known to be")
    for log in logs:
        _note_lives(log, truths)
    for truth in truths.values():
        truth.seal()
    return truths


def _note_lives(log: Log, truths: Mapping[str, _Truth]) -> None:
    """Which lives of its rooms a client has seen, one after the other.

    Acknowledgements do not tell: one of a life that is over may come late, since it was remembered.
    """
    lives: dict[str, list[str]] = {}
    for record in log.records:
        if isinstance(record, Event):
            epoch = record.epoch
        elif isinstance(record, Given | State | Moved) and record.position is not None:
            epoch = record.position.epoch
        else:
            continue
        seen = lives.setdefault(record.room, [])
        if epoch not in seen and record.room in truths:
            truths[record.room].before.setdefault(epoch, set()).update(seen)
            seen.append(epoch)


def _published(room: str, truth: _Truth, findings: Findings) -> None:
    """Each message is there once, and a publisher's messages in their order."""
    for epoch, offsets in truth.offsets.items():
        last: dict[str, int] = {}
        known: dict[Content, int] = {}
        for offset in offsets:
            by, n = content = truth.events[epoch][offset]
            if content in known:
                findings.note("doubled", room, f"{by} {n} was published at {known[content]} and {offset} of {epoch}")
            elif n < last.get(by, 0):
                findings.note("reordered", room, f"{by} {n} at {offset} of {epoch} behind {last[by]}")
            known.setdefault(content, offset)
            last[by] = max(last.get(by, 0), n)


def check(logs: Iterable[Log], finals: Mapping[str, Position] | None = None) -> Findings:
    """Judge a run.

    Args:
        logs: of all clients, of publishers too.
        finals: of each room the position of an event that was acknowledged when all faults were over: every
            client whose log has not ended has to have come to it.
    """
    logs = list(logs)
    findings = Findings()
    truths = _known(logs, findings)
    for room, truth in truths.items():
        _published(room, truth, findings)
    for log in logs:
        _Reader(log, findings, truths).run(finals or {})
    return findings
