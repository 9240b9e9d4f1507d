"""What `make bench` compares over two nodes: all deliveries come from the other node, at a cost that is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from benchmarks.cluster import load as loading
from benchmarks.cluster.comparison import ClusterResults
from benchmarks.cluster.load import Cluster, Figures, Flow, Plan, load
from benchmarks.cluster.publishing import PUBLISHERS, Cost, cost_of
from benchmarks.cluster.stacks import OURS, STACKS, play
from benchmarks.cluster.versions import versions

from roomwire.bench.load import run_loop
from roomwire.bench.target import BenchFailed, Expect, Target
from roomwire.core.positions import Position
from tests.bench.test_load import chat
from tests.servers import NatsServer, RedisServer

PLAN = Plan(subscribers=4, seconds=0.1, rate=50, rated=5, window=3)


# socket.io is installed by `make bench` alone; python-socketio speaks the same protocol.
@pytest.mark.parametrize("name", [OURS, "python-socketio, Redis manager"])
def test_each_pair_of_nodes_delivers(name: str) -> None:
    figures = play(STACKS[name], PLAN)
    for flow in (figures.single, figures.paced, figures.packed):
        assert flow.deliveries == flow.messages * PLAN.subscribers > 0
        assert 0 < flow.p50 <= flow.p99
        # The publisher's node has no other connection, and it is the one that reads and publishes.
        assert min(flow.node_a, flow.node_b, flow.store) > 0
    assert figures.paced.messages == PLAN.rated


class TestWhatIsNoFigure:
    """On a server of others, which is both nodes, and is told of as the store too."""

    def run(self, subscribers: Callable[[Target], Target]) -> None:
        async def main() -> None:
            async with chat() as target:
                cluster = Cluster(publisher=target, subscribers=subscribers(target), store=target.pids[0])
                await load(cluster, Plan(subscribers=2))

        run_loop(main())

    def test_a_message_that_does_not_reach_all(self, monkeypatch: pytest.MonkeyPatch) -> None:
        connect = loading._Crowd._connect_some

        async def connect_some(crowd: loading._Crowd, indexes: Iterator[int]) -> None:
            await connect(crowd, indexes)
            # Each connection has begun by now, with the usual patience.
            monkeypatch.setattr(loading, "PATIENCE", 0.2)

        monkeypatch.setattr(loading._Crowd, "_connect_some", connect_some)
        monkeypatch.setattr(loading, "_PROBE", 0.1)
        with pytest.raises(BenchFailed, match=r"no message reached all 2 subscribers in 0\.2 s"):
            self.run(lambda target: replace(target, path="/echo"))

    def test_a_connection_that_is_not_ready(self, monkeypatch: pytest.MonkeyPatch) -> None:
        connect = loading._Crowd._connect_some

        async def connect_some(crowd: loading._Crowd, indexes: Iterator[int]) -> None:
            # The publisher is connected.
            monkeypatch.setattr(loading, "PATIENCE", 0.2)
            await connect(crowd, indexes)

        monkeypatch.setattr(loading._Crowd, "_connect_some", connect_some)
        with pytest.raises(ExceptionGroup) as failed:
            self.run(lambda target: replace(target, steps=(Expect("something else"),)))
        assert failed.group_contains(BenchFailed, match=r"connection 0: not ready within 0\.2 s")


@pytest.mark.parametrize("name", list(PUBLISHERS))
def test_a_publish_is_accounted_for(name: str, redis_server: RedisServer, nats_server: NatsServer) -> None:
    publisher = PUBLISHERS[name]
    store = redis_server if publisher.store is RedisServer else nats_server
    cost = run_loop(cost_of(publisher, store.url, store.pid, publishes=20, together=4))
    assert min(cost.client, cost.store, cost.client_together, cost.store_together, cost.rate) > 0
    assert 0 < cost.p50 <= cost.p99


@pytest.mark.parametrize("name", ["Redis: roomwire, with a key", "NATS: roomwire, with a key"])
def test_a_second_round_is_no_copy_of_the_first(name: str, redis_server: RedisServer, nats_server: NatsServer) -> None:
    publisher = PUBLISHERS[name]
    store = redis_server if publisher.store is RedisServer else nats_server

    async def once() -> Position:
        async with publisher.opened(store.url) as publish:
            position: Position = await publish()
            return position

    first, second = run_loop(once()), run_loop(once())
    assert second.epoch == first.epoch
    assert second.offset > first.offset


def flow(cpu: float, p50: float) -> Flow:
    """Of 10 messages to 100, in a second; node B has nine tenths of the CPU, given in microseconds a delivery."""
    spent = cpu * 1e-3
    return Flow(
        messages=10,
        deliveries=1000,
        seconds=1.0,
        node_a=spent / 10,
        node_b=spent * 9 / 10,
        store=0.0005,
        own=0.1,
        p50=p50,
        p99=3 * p50,
    )


def cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines()]


class TestTheTables:
    def test_medians_and_ratios(self) -> None:
        results = ClusterResults()
        for cpu in (4.0, 5.0, 80.0):
            results.stacks.add(OURS, Figures(single=flow(cpu, 1), paced=flow(cpu, 0.01), packed=flow(cpu / 4, 1)))
            other = Figures(single=flow(2.2 * cpu, 1), paced=flow(cpu, 0.04), packed=flow(2 * cpu, 1))
            results.stacks.add("socket.io, Redis adapter", other)
        ratios, absolute = results.tables()
        assert [row[0] for row in cells(ratios)[2:]] == [OURS, "socket.io, Redis adapter"]
        assert cells(ratios)[2][1:] == ["1.00"] * 5
        assert cells(ratios)[3][1:] == ["2.20", "8.00", "1.00", "4.00", "4.00"]
        assert cells(absolute)[2] == [OURS, "4.50", "50.0", "50.0", "1,000", "10.0", "30.0"]

    def test_publishes(self) -> None:
        results = ClusterResults()
        cost = Cost(
            client=75e-6, store=45e-6, p50=1e-4, p99=1e-3, client_together=4e-5, store_together=2e-5, rate=9999.6
        )
        results.publishers.add("Redis: roomwire", cost)
        (table,) = results.tables()
        assert cells(table)[2] == ["Redis: roomwire", "75.0", "45.0", "100", "1,000", "40.0", "20.0", "10,000"]

    def test_no_run_has_no_table(self) -> None:
        assert ClusterResults().tables() == []

    def test_versions_are_told(self) -> None:
        told = list(versions())
        assert any(each.startswith("python-socketio 5.") for each in told)
        assert any(each.startswith("redis ") and "v=" in each for each in told)
