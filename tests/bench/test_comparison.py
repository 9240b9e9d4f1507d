"""What `make bench` compares: the servers do what they are said to do, and the table says what came out."""

from __future__ import annotations

import pytest
from benchmarks.comparison import FLOOR, SERVERS, Case, Results, compare

from roomwire.bench.figures import Figures, Opened, Traffic
from roomwire.bench.load import Echo, Fanout
from roomwire.bench.native import ECHO, ECHO_WITHOUT_ID, SAY


# picows is installed by `make bench` alone.
@pytest.mark.parametrize("server", [name for name in SERVERS if name != "picows"])
def test_each_server_does_its_part(server: str) -> None:
    fanout = compare(Case("fan-out", Fanout(connections=3, messages=5), SAY), server)
    assert fanout.traffic is not None
    assert (fanout.traffic.messages, fanout.traffic.deliveries) == (5, 15)
    echo = compare(Case("echo", Echo(connections=3, messages=6, size=300), ECHO), server)
    assert echo.traffic is not None
    assert echo.traffic.deliveries == 6


def test_a_message_without_id_is_for_those_who_have_ids() -> None:
    case = Case("echo", Echo(connections=1), ECHO_WITHOUT_ID)
    assert case.servers() == [FLOOR, "roomwire", "roomwire without uvloop"]


def figures(delivery: float, accept: float, p50: float) -> Figures:
    """Of 10 connections and 100 deliveries; CPU in microseconds for each."""
    opened = Opened(connections=10, seconds=1.0, cpu=accept * 10e-6, memory=10 * 2048)
    traffic = Traffic(
        messages=10, deliveries=100, seconds=1.0, cpu=delivery * 100e-6, own_cpu=0.1, p50=p50, p99=2 * p50
    )
    return Figures(opened=opened, traffic=traffic)


class TestTheTable:
    def test_medians_and_ratios(self) -> None:
        results = Results()
        for delivery in (4.0, 5.0, 90.0):
            results.add("fan-out", FLOOR, figures(delivery, 20, 0.001))
            results.add("fan-out", "roomwire", figures(delivery * 1.2, 300, 0.002))
        costs, latencies = results.tables()
        rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in costs.splitlines()]
        assert rows[0] == ["server CPU, floor = 1", "fan-out", "accept", "KiB for a connection"]
        assert rows[2:] == [
            ["floor", "1.00", "1.00", "2.00"],
            ["roomwire", "1.20", "15.0", "2.00"],
            ["floor, microseconds", "5.00", "20.0", ""],
        ]
        assert "| roomwire " in latencies
        assert "2.00 / 4.00" in latencies

    def test_what_was_not_measured_is_left_empty(self) -> None:
        results = Results()
        results.add("fan-out", FLOOR, figures(5, 20, 0.001))
        results.add("echo", FLOOR, figures(5, 20, 0.001))
        results.add("fan-out", "aiohttp", figures(10, 20, 0.001))
        costs, _ = results.tables()
        (row,) = [row for row in costs.splitlines() if row.startswith("| aiohttp")]
        assert [cell.strip() for cell in row.strip("|").split("|")] == ["aiohttp", "2.00", "", "1.00", "2.00"]

    def test_no_run_has_no_table(self) -> None:
        assert Results().tables() == []
