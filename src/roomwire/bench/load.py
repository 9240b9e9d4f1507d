"""The load generator: opens connections to a target, runs a workload on them, and gives the figures.

It is asyncio callbacks on one core. The server is seen from outside alone: what comes back, and what its process
costs. A connection that the server ends, or deliveries that stop coming, make the run fail: figures of a broken run
are none.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.util
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from roomwire.bench.figures import Figures, Opened, Traffic, percentile
from roomwire.bench.links import Member, Opening, Tally
from roomwire.bench.pace import Pace, Pipeline, Rate, Window
from roomwire.bench.processes import Processes, allow_open_files
from roomwire.bench.target import BenchFailed, Message, Target

__all__ = ["Connect", "Echo", "Fanout", "Idle", "Report", "Workload", "measure", "run_loop"]

START_TIMEOUT = 30.0
"""Seconds for the server to answer the first connection."""
READY_TIMEOUT = 30.0
"""Seconds for a connection to become ready."""
SILENCE = 10.0
"""Seconds without a delivery, after which the run has failed."""

_LOOK = 0.25
# 127.0.0.1, .2 and so on take so many each: the kernel has 28,000 ports for one address and one server.
_PORTS_OF_AN_ADDRESS = 15_000

Report = Callable[[str, float], None]
"""Called with what is being done, and the share of it that is done, 0 to 1."""

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Opening:
    connections: int
    concurrency: int = 64
    """Handshakes at one time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Connect(_Opening):
    """Open the connections, and no more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Idle(_Opening):
    """Hold them without a message for `hold` seconds, then look at the memory."""

    hold: float = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Flow(_Opening):
    size: int = 128
    """Bytes of a message to the server, with everything that is around its content."""
    seconds: float = 3.0
    warmup: float = 0.5
    """Seconds that are not counted."""
    messages: int | None = None
    """Send just so many, all counted, in place of `seconds` and `warmup`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fanout(_Flow):
    """One connection publishes, all get it: `window` messages outstanding, or `rate` a second."""

    window: int = 1
    rate: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Echo(_Flow):
    """Each connection sends and gets its reply, with `pipeline` messages outstanding."""

    pipeline: int = 1


Workload = Fanout | Echo | Connect | Idle


def run_loop(main: Coroutine[Any, Any, Result]) -> Result:
    """Run on uvloop where it is installed, else on asyncio's own loop. Ctrl-C cancels, and raises KeyboardInterrupt."""
    uvloop = importlib.import_module("uvloop") if importlib.util.find_spec("uvloop") is not None else None
    with asyncio.Runner(loop_factory=uvloop.new_event_loop if uvloop is not None else None) as runner:
        return runner.run(main)


async def measure(target: Target, workload: Workload, report: Report = lambda what, share: None) -> Figures:
    """Run a workload.

    Args:
        target: the server, which may still be starting.
        workload: what to do.
        report: told of the progress.

    Raises:
        BenchFailed: a connection was refused or ended, or deliveries stopped coming.
        LocalError: a template is wrong, or so many connections cannot be opened.
    """
    allow_open_files(workload.connections)
    load = _Load(target, workload, report)
    async with load.running():
        opened = await load.open()
        if isinstance(workload, Fanout | Echo):
            return Figures(opened=opened, traffic=await load.flow(workload))
        return Figures(opened=opened)


class _Load:
    def __init__(self, target: Target, workload: Workload, report: Report) -> None:
        self._target = target
        self._workload = workload
        self._report = report
        self._size = workload.size if isinstance(workload, Fanout | Echo) else 0
        self._tally = Tally(target.marker)
        self._members: list[Member] = []
        Message(target.message, self._size, 0, "")  # a wrong template shows before anything is opened

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        try:
            yield
        finally:
            self._tally.closing = True
            for member in self._members:
                member.abort()
            await asyncio.sleep(0)  # the loop closes the sockets in its next turn

    # --- opening

    async def open(self) -> Opened:
        """Open all connections, and hold them where that is asked for."""
        workload = self._workload
        self._report("waiting for the server", 0.0)
        await self._first()
        server = Processes(self._target.pids)
        cpu, memory = (server.cpu(), server.memory()) if server.known else (0.0, 0)
        begin = time.monotonic()
        await self._open_all()
        seconds = time.monotonic() - begin
        spent = server.cpu() - cpu if server.known else None
        if isinstance(workload, Idle):
            await self._pass("holding them", workload.hold)
        self._check()
        return Opened(
            connections=workload.connections,
            seconds=seconds,
            cpu=spent,
            memory=server.memory() - memory if server.known else None,
        )

    async def _first(self) -> None:
        """One connection that is not counted: the server is up, and has imported what it imports late."""
        tally = Tally(self._target.marker)
        tally.closing = True
        member = await self._connect(0, tally, START_TIMEOUT)
        member.abort()

    async def _open_all(self) -> None:
        total = self._workload.connections
        indexes = iter(range(total))

        async def work() -> None:
            for index in indexes:
                self._members.append(await self._connect(index, self._tally, READY_TIMEOUT))
                self._report(f"opening {total} connections", len(self._members) / total)

        tasks = [asyncio.ensure_future(work()) for _ in range(min(self._workload.concurrency, total))]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _connect(self, index: int, tally: Tally, timeout: float) -> Member:
        loop = asyncio.get_running_loop()
        target = self._target
        ready: asyncio.Future[Member] = loop.create_future()
        local = (f"127.0.0.{1 + index // _PORTS_OF_AN_ADDRESS}", 0) if target.host == "127.0.0.1" else None
        transport: asyncio.BaseTransport | None = None
        try:
            async with asyncio.timeout(timeout):
                transport, _ = await loop.create_connection(
                    lambda: Opening(target, index, self._size, tally, ready),
                    target.host,
                    target.port,
                    ssl=target.tls,
                    local_addr=local,
                )
                return await ready
        except TimeoutError as error:
            raise BenchFailed(f"connection {index}: not ready within {timeout:g} s") from error
        except OSError as error:
            raise BenchFailed(f"connection {index}: {error}") from error
        finally:
            if transport is not None and not _has_result(ready):
                cast(asyncio.Transport, transport).abort()
            if ready.done() and not ready.cancelled():
                ready.exception()  # it is told by whoever waited for it

    # --- messages

    async def flow(self, workload: Fanout | Echo) -> Traffic:
        """Send, and count what comes."""
        pace = _pace(workload, self._members)
        self._tally.delivered = pace.delivered
        server = Processes(self._target.pids)
        counted = workload.messages is None
        try:
            if counted:
                pace.start()
                await self._pass("warming up", workload.warmup, pace)
            self._tally.arrivals = []
            sent, deliveries = pace.sent, pace.deliveries
            cpu, own = server.cpu(), time.process_time()
            begin = time.monotonic()
            if counted:
                await self._pass("measuring", workload.seconds, pace)
            else:
                pace.start()
                await self._until_done(pace)
            seconds = time.monotonic() - begin
            spent = server.cpu() - cpu if server.known else None
            own = time.process_time() - own
        finally:
            pace.stop()
        latencies = self._tally.latencies()
        return Traffic(
            messages=pace.sent - sent,
            deliveries=pace.deliveries - deliveries,
            seconds=seconds,
            cpu=spent,
            own_cpu=own,
            p50=percentile(latencies, 0.5) / 1e9,
            p99=percentile(latencies, 0.99) / 1e9,
        )

    async def _pass(self, what: str, seconds: float, pace: Pace | None = None) -> None:
        begin = time.monotonic()
        watch = _Silence(pace, self._tally)
        while (left := begin + seconds - time.monotonic()) > 0:
            self._report(what, 1 - left / seconds)
            await asyncio.sleep(min(left, _LOOK))
            self._check()
            watch.look()
        self._report(what, 1.0)

    async def _until_done(self, pace: Pace) -> None:
        assert pace.limit is not None
        watch = _Silence(pace, self._tally)
        while not pace.done.is_set():
            self._report("measuring", pace.deliveries / (pace.limit * pace.fan_out))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(pace.done.wait(), _LOOK)
            self._check()
            watch.look()
        self._report("measuring", 1.0)

    def _check(self) -> None:
        if self._tally.lost:
            raise BenchFailed(self._tally.lost)


class _Silence:
    """Notices that no deliveries come any more."""

    def __init__(self, pace: Pace | None, tally: Tally) -> None:
        self._pace = pace
        self._tally = tally
        self._count = -1
        self._since = 0.0

    def look(self) -> None:
        if self._pace is None:
            return
        now = time.monotonic()
        if self._pace.deliveries != self._count:
            self._count, self._since = self._pace.deliveries, now
        elif now - self._since > SILENCE and self._count < self._pace.sent * self._pace.fan_out:
            stray = self._tally.stray.decode(errors="replace") or "none"
            raise BenchFailed(
                f"no delivery for {SILENCE:g} s: {self._count} of {self._pace.sent * self._pace.fan_out} came;"
                f" the last message that was none: {stray}"
            )


def _has_result(future: asyncio.Future[Member]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None


def _pace(workload: Fanout | Echo, members: list[Member]) -> Pace:
    if isinstance(workload, Echo):
        return Pipeline(members, workload.messages, size=workload.pipeline)
    if workload.rate is not None:
        return Rate(members, len(members), workload.messages, per_second=workload.rate)
    return Window(members, len(members), workload.messages, size=workload.window)
