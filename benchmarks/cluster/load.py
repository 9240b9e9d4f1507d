"""The load on a cluster: a publisher on one node, subscribers on another, and what each process spends.

The connections, their reading and the pace of the messages are those of `roomwire.bench`. Every delivery that a message
owes is waited for; one that is missing, or a connection that ends, makes the run fail.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import monotonic_ns

from roomwire.bench.figures import percentile
from roomwire.bench.links import Member, Opening, Tally
from roomwire.bench.pace import Pace, Rate, Window
from roomwire.bench.processes import Processes, allow_open_files
from roomwire.bench.target import BenchFailed, Target

__all__ = ["Cluster", "Figures", "Flow", "Plan", "load"]

PATIENCE = 30.0
"""Seconds for a connection to become ready, and for the first message to reach all."""
SILENCE = 10.0
"""Seconds without a delivery, after which the run has failed."""
_CONCURRENCY = 32
_PROBE = 0.5
_LOOK = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """What is loaded.

    Attributes:
        publisher: node A, and how to talk to it; its `Target.pids` are those of the node.
        subscribers: the same of node B.
        store: process id of what joins them.
    """

    publisher: Target
    subscribers: Target
    store: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much of it.

    Attributes:
        subscribers: connections to node B.
        size: bytes of a message to node A.
        seconds: how long messages are outstanding, one and then several.
        rate: messages a second, where latency is measured.
        rated: how many of these.
        window: messages outstanding, where throughput is.
    """

    subscribers: int = 500
    size: int = 128
    seconds: float = 3.0
    rate: float = 10.0
    rated: int = 100
    window: int = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """What was counted while messages flowed.

    Attributes:
        messages: that were sent.
        deliveries: that came of them.
        seconds: how long it took.
        node_a: seconds of CPU time of node A, user and system.
        node_b: the same of node B.
        store: the same of the store.
        own: the same of this generator.
        p50: median latency of a delivery, seconds.
        p99: the 99th percentile.
    """

    messages: int
    deliveries: int
    seconds: float
    node_a: float
    node_b: float
    store: float
    own: float
    p50: float
    p99: float

    @property
    def delivery_us(self) -> float:
        """Microseconds of both nodes' CPU time for a delivery."""
        return (self.node_a + self.node_b) / self.deliveries * 1e6

    @property
    def rate(self) -> float:
        """Deliveries a second."""
        return self.deliveries / self.seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """The three workloads.

    Attributes:
        single: the next message goes when all have the one before.
        paced: so many messages a second.
        packed: several outstanding.
    """

    single: Flow
    paced: Flow
    packed: Flow


async def load(cluster: Cluster, plan: Plan) -> Figures:
    """Connect all, and run the three workloads one after the other.

    Raises:
        BenchFailed: a connection was refused or ended, or a delivery is missing.
    """
    allow_open_files(plan.subscribers + 1)
    crowd = _Crowd(cluster, plan)
    try:
        await crowd.gather()
        publisher, count = [crowd.publisher], plan.subscribers

        def window(size: int) -> Pace:
            return Window(publisher, count, None, size=size)

        # What is compiled when it has run often is compiled by then.
        await crowd.flow(window(plan.window), plan.seconds / 2)
        return Figures(
            single=await crowd.flow(window(1), plan.seconds),
            paced=await crowd.flow(Rate(publisher, count, plan.rated, per_second=plan.rate), None),
            packed=await crowd.flow(window(plan.window), plan.seconds),
        )
    finally:
        await crowd.leave()


class _Crowd:
    def __init__(self, cluster: Cluster, plan: Plan) -> None:
        self._cluster = cluster
        self._plan = plan
        self._tally = Tally(cluster.subscribers.marker)
        self._members: list[Member] = []
        self.publisher: Member

    async def gather(self) -> None:
        """Connect all, and send messages until one has reached everybody: then the nodes know of each other."""
        self.publisher = await self._connect(self._cluster.publisher, 0)
        indexes = iter(range(self._plan.subscribers))
        async with asyncio.TaskGroup() as tasks:
            for _ in range(_CONCURRENCY):
                tasks.create_task(self._connect_some(indexes))
        deadline = time.monotonic() + PATIENCE
        while not await self._probe():
            self._check()
            if time.monotonic() > deadline:
                raise BenchFailed(f"no message reached all {self._plan.subscribers} subscribers in {PATIENCE:g} s")

    async def _connect_some(self, indexes: Iterator[int]) -> None:
        for index in indexes:
            self._members.append(await self._connect(self._cluster.subscribers, index))

    async def _connect(self, target: Target, index: int) -> Member:
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[Member] = loop.create_future()
        try:
            async with asyncio.timeout(PATIENCE):
                await loop.create_connection(
                    lambda: Opening(target, index, self._plan.size, self._tally, ready), target.host, target.port
                )
                return await ready
        except TimeoutError as error:
            raise BenchFailed(f"connection {index}: not ready within {PATIENCE:g} s") from error
        except OSError as error:
            raise BenchFailed(f"connection {index}: {error}") from error

    async def _probe(self) -> bool:
        """Whether a message reaches all. Links keep their order, so those before it are then here, or lost for good."""
        stamp = monotonic_ns()
        reached = asyncio.Event()
        self._tally.arrivals = []

        def delivered(member: Member, hits: int) -> None:
            if sum(stamps.count(stamp) for _, stamps in self._tally.arrivals) == len(self._members):
                reached.set()

        self._tally.delivered = delivered
        self.publisher.send(stamp)
        try:
            await asyncio.wait_for(reached.wait(), _PROBE)
        except TimeoutError:
            return False
        return True

    async def flow(self, pace: Pace, seconds: float | None) -> Flow:
        """Send for so long, or up to the limit of the pace, and wait for all that is owed."""
        tally = self._tally
        tally.arrivals = []
        tally.delivered = pace.delivered
        target, cluster = self._cluster.subscribers, self._cluster
        processes = [Processes(cluster.publisher.pids), Processes(target.pids), Processes((cluster.store,))]
        before = [each.cpu() for each in processes]
        own, begin = time.process_time(), time.monotonic()
        pace.start()
        try:
            if seconds is not None:
                await self._until(pace, lambda: time.monotonic() >= begin + seconds)
                pace.stop()
            await self._until(pace, lambda: pace.sent == pace.limit and pace.deliveries >= pace.sent * pace.fan_out)
        finally:
            pace.stop()
        last = max(now for now, _ in tally.arrivals) / 1e9
        node_a, node_b, store = (each.cpu() - spent for each, spent in zip(processes, before, strict=True))
        latencies = tally.latencies()
        return Flow(
            messages=pace.sent,
            deliveries=pace.deliveries,
            seconds=last - begin,
            node_a=node_a,
            node_b=node_b,
            store=store,
            own=time.process_time() - own,
            p50=percentile(latencies, 0.5) / 1e9,
            p99=percentile(latencies, 0.99) / 1e9,
        )

    async def _until(self, pace: Pace, done: Callable[[], bool]) -> None:
        count, since = pace.deliveries, time.monotonic()
        while not done():
            await asyncio.sleep(_LOOK)
            self._check()
            now = time.monotonic()
            if pace.deliveries != count:
                count, since = pace.deliveries, now
            elif now - since > SILENCE:
                raise BenchFailed(f"no delivery for {SILENCE:g} s: {count} of {pace.sent * pace.fan_out} came")

    def _check(self) -> None:
        if self._tally.lost:
            raise BenchFailed(self._tally.lost)

    async def leave(self) -> None:
        self._tally.closing = True
        for member in self._members:
            member.abort()
        if hasattr(self, "publisher"):
            self.publisher.abort()
        await asyncio.sleep(0)  # the loop closes the sockets in its next turn
