"""Fan-out and echo over real sockets: roomwire, servers on other libraries, and the floor, in turns."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.comparison import FLOOR, Results, cases, compare


@pytest.mark.timeout(1800)
@pytest.mark.benchmark(group="over sockets: one round of all servers (their figures are in the table below)")
@pytest.mark.parametrize("number", range(4), ids=["fan-out", "fan-out, 16 outstanding", "echo", "echo without id"])
def test_servers(benchmark: BenchmarkFixture, request: pytest.FixtureRequest, results: Results, number: int) -> None:
    options = request.config.getoption
    case = cases(options("--members"), options("--seconds"))[number]

    def play_round() -> None:
        for server in case.servers():
            figures = compare(case, server)
            assert figures.opened.connections == case.workload.connections
            assert figures.traffic is not None
            assert figures.traffic.deliveries > 0
            results.add(case.title, server, figures)

    benchmark.pedantic(play_round, rounds=options("--rounds"), iterations=1)
    benchmark.extra_info["server_cpu_us"] = {
        server: results.median(case.title, server, lambda figures: figures.delivery_us) for server in case.servers()
    }
    assert benchmark.extra_info["server_cpu_us"][FLOOR] is not None
