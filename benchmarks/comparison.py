"""The servers that are compared, how each is talked to, and the table of what came out.

All are loaded by the same generator in the same run, in turns: round by round, each with a fresh server process. The
servers have one processor and the generator another, where there are two.
"""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from benchmarks.machine import ROOT, SECRET, pinned, processors, tokens_of
from benchmarks.tables import markdown, shown
from roomwire.bench.figures import Figures
from roomwire.bench.load import Echo, Fanout, measure, run_loop
from roomwire.bench.native import ECHO, ECHO_WITHOUT_ID, SAY, SECRET_VARIABLE, native_target, user_of
from roomwire.bench.server import ServerProcess
from roomwire.bench.target import BenchFailed, Expect, Target

__all__ = ["FLOOR", "SERVERS", "Case", "Results", "compare"]

FLOOR = "floor"

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
    own, other = processors()
    environment = os.environ | {SECRET_VARIABLE: SECRET, "PYTHONPATH": str(ROOT)}
    folder = ROOT / "benchmarks" / "server" if ours else ROOT
    command = [sys.executable, *SERVERS[name]]
    with ServerProcess(command, environment=environment, folder=folder, cpus=other) as server, pinned(own):
        if ours:
            tokens = tokens_of(user_of(index) for index in range(case.workload.connections))
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
        floors += [shown(self.median(case, FLOOR, value)) if ratio else "" for _, case, value, ratio in costs]
        latencies = [[name, *(self._latency(name, title) for title in titles)] for name in servers]
        return [
            markdown(heading, [*rows, floors]),
            markdown(["latency, median / 99th percentile, milliseconds", *titles], latencies),
        ]

    def _cost(self, server: str, case: str, value: Value, ratio: bool) -> str:
        found, floor = self.median(case, server, value), self.median(case, FLOOR, value)
        if not ratio or found is None:
            return shown(found)
        return shown(found / floor) if floor else ""

    def _latency(self, server: str, case: str) -> str:
        middle = self.median(case, server, lambda figures: figures.traffic.p50 * 1e3 if figures.traffic else None)
        high = self.median(case, server, lambda figures: figures.traffic.p99 * 1e3 if figures.traffic else None)
        return "" if middle is None else f"{shown(middle)} / {shown(high)}"
