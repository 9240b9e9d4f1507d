"""Two nodes: roomwire on Redis and NATS, socket.io and python-socketio on Redis, in turns; and one publish alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from tests.servers import NatsServer, RedisServer, Server

from benchmarks.cluster.comparison import ClusterResults
from benchmarks.cluster.load import Plan
from benchmarks.cluster.publishing import PUBLISHERS, cost_of
from benchmarks.cluster.stacks import STACKS, play
from benchmarks.machine import pinned, processors
from roomwire.bench.load import run_loop

PUBLISHES = 2000
TOGETHER = 64


@pytest.mark.timeout(1800)
@pytest.mark.benchmark(group="two nodes: one round of all stacks (their figures are in the tables below)")
def test_stacks(benchmark: BenchmarkFixture, request: pytest.FixtureRequest, cluster_results: ClusterResults) -> None:
    options = request.config.getoption
    plan = Plan(subscribers=options("--subscribers"), seconds=options("--seconds") * 2)

    def play_round() -> None:
        for name, stack in STACKS.items():
            figures = play(stack, plan)
            for flow in (figures.single, figures.paced, figures.packed):
                assert flow.deliveries == flow.messages * plan.subscribers > 0
            cluster_results.stacks.add(name, figures)

    benchmark.pedantic(play_round, rounds=options("--rounds"), iterations=1)
    benchmark.extra_info["server_cpu_us"] = {
        name: cluster_results.stacks.median(name, lambda figures: figures.single.delivery_us) for name in STACKS
    }


@pytest.fixture
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[type[Server], Server]]:
    _, other = processors()
    with ExitStack() as stack, pinned(other):
        yield {kind: stack.enter_context(kind(tmp_path_factory.mktemp("store"))) for kind in (RedisServer, NatsServer)}


@pytest.mark.timeout(600)
@pytest.mark.benchmark(group="one publish: one round of all (their figures are in the tables below)")
def test_publishing(
    benchmark: BenchmarkFixture,
    request: pytest.FixtureRequest,
    cluster_results: ClusterResults,
    stores: dict[type[Server], Server],
) -> None:
    own, _ = processors()

    def play_round() -> None:
        for name, publisher in PUBLISHERS.items():
            store = stores[publisher.store]
            with pinned(own):
                cost = run_loop(cost_of(publisher, store.url, store.pid, publishes=PUBLISHES, together=TOGETHER))
            cluster_results.publishers.add(name, cost)

    benchmark.pedantic(play_round, rounds=request.config.getoption("--rounds"), iterations=1)
    benchmark.extra_info["client_cpu_us"] = {
        name: cluster_results.publishers.median(name, lambda cost: cost.client * 1e6) for name in PUBLISHERS
    }
