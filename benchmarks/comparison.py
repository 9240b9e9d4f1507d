"""The servers that are compared, how each is talked to, and the table of what came out.

All are loaded by the same generator in the same run, in turns: round by round, each with a fresh server process. The
servers have one processor and the generator another, where there are two.
"""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from roomwire.auth.jwt import JwtOptions, issue
from roomwire.bench.figures import Figures
from roomwire.bench.load import Echo, Fanout, measure, run_loop
from roomwire.bench.native import ECHO, ECHO_WITHOUT_ID, SAY, SECRET_VARIABLE, native_target, user_of
from roomwire.bench.server import ServerProcess
from roomwire.bench.target import BenchFailed, Expect, Target

__all__ = ["FLOOR", "SERVERS", "Case", "Results", "compare"]

ROOT = Path(__file__).parents[1]
FLOOR = "floor"
SECRET = "not-a-secret-since-it-guards-a-benchmark-alone"

_ROOMWIRE = ["run", "--config", "roomwire.toml", "--fd", "{fd}", "--log-level", "warning"]
_MESSAGE = '{"id":"$stamp","content":"@@$stamp$pad"}'

SERVERS: Mapping[str, list[str]] = {
    FLOOR: ["-m", "benchmarks.peers.floor", "{fd}"],
    "roomwire": ["-m", "roomwire.cli", *_ROOMWIRE],
    "roomwire without uvloop": [str(ROOT / "benchmarks" / "server" / "on_asyncio.py"), *_ROOMWIRE],
    "picows": ["-m", "benchmarks.peers.on_picows", "{fd}"],
    "aiohttp": ["-m", "benchmarks.peers.on_aiohttp", "{fd}"],
    "websockets": ["-m", "benchmarks.peers.on_websockets", "{fd}"],
}


@dataclass(frozen=True, slots=True)
class Case:
    """A column of the table.

    Attributes:
        title: what it is.
        workload: what the generator does.
        native: roomwire's message.
    """

    title: str
    workload: Fanout | Echo
    native: str

    def servers(self) -> list[str]:
        """A message without an id is roomwire's own affair."""
        return list(SERVERS) if self.native != ECHO_WITHOUT_ID else [FLOOR, "roomwire", "roomwire without uvloop"]


def cases(members: int, seconds: float) -> list[Case]:
    """The workloads."""
    fanout = Fanout(connections=members, seconds=seconds)
    echo = Echo(connections=50, seconds=seconds)
    return [
        Case(f"fan-out, {members:,} members, 1 outstanding", fanout, SAY),
        Case(f"fan-out, {members:,} members, 16 outstanding", replace(fanout, window=16), SAY),
        Case("echo, 50 connections", echo, ECHO),
        Case("echo without id", echo, ECHO_WITHOUT_ID),
    ]


def compare(case: Case, name: str) -> Figures:
    """One measurement: a fresh server, and the workload on it."""
    ours = name.startswith("roomwire")
    own, other = _processors()
    environment = os.environ | {SECRET_VARIABLE: SECRET, "PYTHONPATH": str(ROOT)}
    folder = ROOT / "benchmarks" / "server" if ours else ROOT
    command = [sys.executable, *SERVERS[name]]
    with ServerProcess(command, environment=environment, folder=folder, cpus=other) as server, _pinned(own):
        if ours:
            tokens = _tokens(case.workload.connections)
            pids = (server.pid,)
            target = native_target(server.host, server.port, "/ws", message=case.native, tokens=tokens, pids=pids)
        else:
            path = "/echo" if isinstance(case.workload, Echo) else "/room"
            steps = (Expect("welcome"),)
            target = Target(server.host, server.port, _MESSAGE, path, steps, pids=(server.pid,))
        try:
            return run_loop(measure(target, case.workload))
        except BenchFailed as error:
            raise server.explain(error) from error


def _tokens(count: int) -> list[str]:
    options = JwtOptions.model_validate({"algorithms": ["HS256"], "secret": SECRET})
    return [issue(options, user_of(index), ttl=3600) for index in range(count)]


def _processors() -> tuple[set[int], set[int]]:
    """One for the generator and one for the servers; all for both where there is one, or none can be chosen."""
    if not hasattr(os, "sched_getaffinity"):
        return set(), set()
    first, *rest = sorted(os.sched_getaffinity(0))
    return ({rest[-1]}, {first}) if rest else ({first}, {first})


@contextmanager
def _pinned(processors: set[int]) -> Iterator[None]:
    if not processors:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, processors)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


Value = Callable[[Figures], float | None]


@dataclass(slots=True)
class Results:
    """All rounds of all cases, and the tables of their medians."""

    rounds: dict[tuple[str, str], list[Figures]] = field(default_factory=dict)

    def add(self, case: str, server: str, figures: Figures) -> None:
        """One more round."""
        self.rounds.setdefault((case, server), []).append(figures)

    def median(self, case: str, server: str, value: Value) -> float | None:
        """Of the rounds; None where nothing was measured."""
        values = [value(figures) for figures in self.rounds.get((case, server), [])]
        known = [number for number in values if number is not None]
        return statistics.median(known) if known else None

    def tables(self) -> list[str]:
        """Markdown: server CPU and memory, then latencies."""
        titles = list(dict.fromkeys(case for case, _ in self.rounds))
        servers = [name for name in SERVERS if any(server == name for _, server in self.rounds)]
        if not titles:
            return []
        costs: list[tuple[str, str, Value, bool]] = [
            (title, title, lambda figures: figures.delivery_us, True) for title in titles
        ]
        costs.append(("accept", titles[0], lambda figures: figures.accept_us, True))
        costs.append(("KiB for a connection", titles[0], lambda figures: figures.memory_kib, False))
        heading = ["server CPU, floor = 1", *(name for name, *_ in costs)]
        rows = [[name, *(self._cost(name, case, value, ratio) for _, case, value, ratio in costs)] for name in servers]
        floors = ["floor, microseconds"]
        floors += [_number(self.median(case, FLOOR, value)) if ratio else "" for _, case, value, ratio in costs]
        latencies = [[name, *(self._latency(name, title) for title in titles)] for name in servers]
        return [
            _markdown(heading, [*rows, floors]),
            _markdown(["latency, median / 99th percentile, milliseconds", *titles], latencies),
        ]

    def _cost(self, server: str, case: str, value: Value, ratio: bool) -> str:
        found, floor = self.median(case, server, value), self.median(case, FLOOR, value)
        if not ratio or found is None:
            return _number(found)
        return _number(found / floor) if floor else ""

    def _latency(self, server: str, case: str) -> str:
        middle = self.median(case, server, lambda figures: figures.traffic.p50 * 1e3 if figures.traffic else None)
        high = self.median(case, server, lambda figures: figures.traffic.p99 * 1e3 if figures.traffic else None)
        return "" if middle is None else f"{_number(middle)} / {_number(high)}"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def _markdown(heading: list[str], rows: list[list[str]]) -> str:
    widths = [max(len(row[column]) for row in [heading, *rows]) for column in range(len(heading))]
    table = [heading, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in table
    )
