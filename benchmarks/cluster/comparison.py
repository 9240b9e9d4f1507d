"""Rounds in turns, and the tables of what came out: medians, and ratios to roomwire on Redis."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from benchmarks.cluster.load import Figures
from benchmarks.cluster.publishing import PUBLISHERS, Cost
from benchmarks.cluster.stacks import OURS, STACKS
from benchmarks.tables import markdown, shown

__all__ = ["ClusterResults", "Rounds"]

Round = TypeVar("Round")


@dataclass(slots=True)
class Rounds(Generic[Round]):
    """What was measured, round by round, under the names of who was measured."""

    all: dict[str, list[Round]] = field(default_factory=dict)

    def add(self, name: str, found: Round) -> None:
        """One more round."""
        self.all.setdefault(name, []).append(found)

    def median(self, name: str, value: Callable[[Round], float]) -> float | None:
        """Of the rounds; None where nothing was measured."""
        rounds = self.all.get(name)
        return statistics.median(map(value, rounds)) if rounds else None

    def names(self, order: Mapping[str, object]) -> list[str]:
        """Those who were measured."""
        return [name for name in order if name in self.all]


@dataclass(slots=True)
class ClusterResults:
    """All rounds of a run."""

    stacks: Rounds[Figures] = field(default_factory=Rounds)
    publishers: Rounds[Cost] = field(default_factory=Rounds)

    def tables(self) -> list[str]:
        """Markdown; none where nothing was measured."""
        found = []
        if self.stacks.all:
            found += [self._ratios(), self._absolute()]
        if self.publishers.all:
            found.append(self._publishing())
        return found

    def _ratios(self) -> str:
        values: dict[str, Callable[[Figures], float]] = {
            "server CPU for a delivery, 1 outstanding": lambda found: found.single.delivery_us,
            "16 outstanding": lambda found: found.packed.delivery_us,
            "deliveries a second, 16 outstanding": lambda found: found.packed.rate,
            "latency at 10 a second, median": lambda found: found.paced.p50,
            "99th percentile": lambda found: found.paced.p99,
        }
        rows = [[name, *(self._ratio(name, value) for value in values.values())] for name in self.stacks.names(STACKS)]
        return markdown([f"{OURS} = 1", *values], rows)

    def _ratio(self, name: str, value: Callable[[Figures], float]) -> str:
        found, ours = self.stacks.median(name, value), self.stacks.median(OURS, value)
        return shown(found / ours) if found is not None and ours else ""

    def _absolute(self) -> str:
        values: dict[str, Callable[[Figures], float]] = {
            "node B, µs a delivery": lambda found: found.single.node_b / found.single.deliveries * 1e6,
            "node A, µs a message": lambda found: found.single.node_a / found.single.messages * 1e6,
            "store, µs a message": lambda found: found.single.store / found.single.messages * 1e6,
            "deliveries a second, 16 outstanding": lambda found: found.packed.rate,
            "ms at 10 a second, median": lambda found: found.paced.p50 * 1e3,
            "99th percentile": lambda found: found.paced.p99 * 1e3,
        }
        rows = [
            [name, *(shown(self.stacks.median(name, value)) for value in values.values())]
            for name in self.stacks.names(STACKS)
        ]
        return markdown(["1 outstanding where nothing else is said", *values], rows)

    def _publishing(self) -> str:
        values: dict[str, Callable[[Cost], float]] = {
            "client CPU, µs": lambda cost: cost.client * 1e6,
            "store CPU, µs": lambda cost: cost.store * 1e6,
            "median, µs": lambda cost: cost.p50 * 1e6,
            "99th percentile": lambda cost: cost.p99 * 1e6,
            "64 at a time: client CPU": lambda cost: cost.client_together * 1e6,
            "store CPU": lambda cost: cost.store_together * 1e6,
            "a second": lambda cost: cost.rate,
        }
        rows = [
            [name, *(shown(self.publishers.median(name, value)) for value in values.values())]
            for name in self.publishers.names(PUBLISHERS)
        ]
        return markdown(["one publish", *values], rows)
