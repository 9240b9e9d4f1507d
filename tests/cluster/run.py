"""Rows, and one run of a row on a cluster: its clients, its faults, and what came of it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import uvloop

from tests.cluster.checker import Findings
from tests.cluster.cluster import BACKPLANES, Backplane, Cluster
from tests.cluster.crowd import Crowd, percentile

__all__ = ["ROWS", "Report", "Row", "Run", "perform", "row"]

T = TypeVar("T")


class Run:
    """What a row works with.

    Attributes:
        cluster: the nodes and their store.
        crowd: the clients.
        chance: for whatever the row leaves to chance.
        long: whether it has the sizes of the promises, and not those of the test suite.
        expected: reasons for which a reset may be told here.
        resets: how many clients are to be told one, in all; None where that depends.
        figures: what it is worth to know, by name.
        misses: what did not come up to the promise, besides the checker's findings.
        slow: what took longer than promised.
        findings: what the check found, where the row has called it itself.
    """

    def __init__(self, cluster: Cluster, name: str, *, long: bool) -> None:
        self.cluster = cluster
        self.name = name
        self.long = long
        self.chance = cluster.chance(name)
        pace = {"backoff": 1.0, "patience": 60.0} if long else {"backoff": 0.25, "patience": 1.0}
        self.crowd = Crowd(cluster.ports, cluster.chance(f"{name} clients"), **pace)
        self.expected: set[str] = set()
        self.resets: int | None = None
        self.figures: dict[str, str] = {}
        self.misses: list[str] = []
        self.slow: list[str] = []
        self.findings: Findings | None = None

    def size(self, short: T, long: T) -> T:
        """One of two sizes."""
        return long if self.long else short

    def rooms(self, count: int, kind: str = "big") -> list[str]:
        """Rooms of this run alone."""
        return [f"{kind}:{self.name}-{self.cluster.seed}-{number}" for number in range(count)]

    def expect(self, holds: bool, what: str) -> None:
        """Note what does not hold."""
        if not holds:
            self.misses.append(what)

    def expect_within(self, seconds: float, bound: float, what: str) -> None:
        """A figure with a bound; only a long run on a quiet machine is judged by it."""
        self.figures[what] = f"{seconds:.2f} s"
        if not seconds <= bound:
            self.slow.append(f"{what}: {seconds:.2f} s, the bound is {bound:g} s")

    def populate(self, members: int, rooms: Sequence[str], rate: float, *, publishers: int = 0) -> None:
        """Members spread over rooms, a tenth as many products' own clients, and publishers with `rate` in all."""
        publishers = max(publishers, len(rooms))
        for number in range(members):
            self.crowd.member(f"{self.name}-m{number:04}", [rooms[number % len(rooms)]])
        for number in range(publishers):
            self.crowd.publisher(f"{self.name}-p{number:04}", rooms[number % len(rooms)], rate / publishers)

    def use_products(self, count: int, rooms: Sequence[str]) -> None:
        """Clients of the product itself, through a balancer over the nodes that are up."""

        def target() -> int:
            up = [node.port for node in self.cluster.nodes if node.up] or self.cluster.ports()
            return self.chance.choice(up)

        port = self.cluster.open_link(target).port
        for number in range(count):
            self.crowd.product(f"{self.name}-c{number:04}", [rooms[number % len(rooms)]], port)

    async def start(self) -> None:
        """All are connected, and the publishers begin."""
        await self.crowd.all_live()
        self.crowd.publish()
        await self.crowd.until(lambda: all(p.told > 1 for p in self.crowd.publishers), "all publish")

    def relieve(self) -> None:
        """In a short run, publishers that have nothing under way take over.

        A message whose answer was lost is nobody's until its lease of 15 s ends, and holds up those behind it.
        """
        if self.long:
            return
        for room in dict.fromkeys(publisher.room for publisher in self.crowd.publishers):
            number = len(self.crowd.publishers)
            publisher = self.crowd.publisher(f"{self.name}-r{number:04}", room, 30.0)
            self.crowd.task(publisher.run())

    async def blocking(self, function: Callable[[], T]) -> T:
        """Call what blocks, while the clients go on."""
        return await asyncio.to_thread(function)

    async def events(self, count: int) -> None:
        """Let so many more events be acknowledged: load goes on for that long."""
        goal = self.acked + count
        await self.crowd.until(lambda: self.acked >= goal, f"{count} more events are acknowledged")

    async def until_readiness(self, status: int, patience: float = 40.0) -> float:
        """Wait until every node answers so on ``/readyz``; returns how many seconds that took."""
        began = time.monotonic()
        for node in self.cluster.nodes:
            while (found := await self.blocking(node.status)) != status:
                if time.monotonic() - began > patience:
                    self.misses.append(f"{node.name} answers {found} on /readyz, and not {status}")
                    return time.monotonic() - began
                await asyncio.sleep(0.05)
        return time.monotonic() - began

    @property
    def acked(self) -> int:
        """Events acknowledged so far."""
        return sum(len(log.acked) for log in self.crowd.logs)


RowFunction = Callable[[Run], Awaitable[None]]


@dataclass(frozen=True)
class Row:
    """One row: a fault, and what has to hold."""

    name: str
    what: str
    function: RowFunction
    backplanes: Sequence[Backplane]
    long_only: bool = False

    @property
    def kind(self) -> str:
        """Whose fault it is: a node's, a client's or the store's."""
        module = self.function.__module__.rpartition("rows_")[2]
        return module if module in ("nodes", "clients") else "store"


@dataclass
class Report:
    """What came of a run."""

    row: str
    backplane: str
    seed: int
    findings: Findings
    figures: dict[str, str]
    misses: list[str]
    slow: list[str]
    seconds: float
    tracebacks: list[str] = field(default_factory=list)

    @property
    def faults(self) -> list[str]:
        """All that must not be; wall-clock bounds are not among it."""
        faults = list(self.misses)
        if self.findings.faults:
            faults += self.findings.cases
        return faults + [f"a node logged a traceback: {text}" for text in self.tracebacks]


ROWS: dict[str, Row] = {}


def row(
    name: str, what: str, *, on: Sequence[Backplane] = BACKPLANES, long_only: bool = False
) -> Callable[[RowFunction], RowFunction]:
    """Declare a row."""

    def declare(function: RowFunction) -> RowFunction:
        ROWS[name] = Row(name, what, function, on, long_only)
        return function

    return declare


def perform(chosen: Row, cluster: Cluster, *, long: bool) -> Report:
    """Run a row on a cluster, which is whole again afterwards."""
    cluster.new_tracebacks()

    async def main() -> tuple[Run, Findings]:
        run = Run(cluster, chosen.name, long=long)
        try:
            try:
                await chosen.function(run)
                return run, run.findings or run.crowd.judge(await run.crowd.settle())
            except Exception as error:  # noqa: BLE001  a row that cannot be finished is a fault like others
                run.misses.append(f"it was not finished: {error!r}")
                return run, run.crowd.judge({})
        finally:
            run.crowd.end()
            await run.crowd.gone()

    began = time.monotonic()
    try:
        run, findings = uvloop.run(main())
    finally:
        cluster.mend()
    told = Counter({reason: count for reason, count in findings.resets.items() if reason not in run.expected})
    run.expect(not told, f"resets that need not be: {dict(told)}")
    run.expect(run.resets in (None, findings.resets.total()), f"{run.resets} resets expected: {findings.resets}")
    _figures(run)
    return Report(
        chosen.name,
        cluster.backplane,
        cluster.seed,
        findings,
        run.figures,
        run.misses,
        run.slow,
        time.monotonic() - began,
        cluster.new_tracebacks(),
    )


def _figures(run: Run) -> None:
    for name, label in (("resumed", "resume"), ("replayed", "replay")):
        times = run.crowd.times(name)
        if times and name not in run.figures:
            p50, p95, p99 = (percentile(times, share) for share in (0.5, 0.95, 0.99))
            run.figures[label] = f"{p50:.2f}/{p95:.2f}/{p99:.2f} s"
