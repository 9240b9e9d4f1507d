"""What is counted of replays, healing, the backplane and the node: by doing the real thing, on both shells."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import version
from typing import Any

import pytest

from roomwire.backplanes.contract import HistoryPolicy
from roomwire.backplanes.memory import MemoryBackplane, MemoryHub
from roomwire.core.errors import Unavailable
from roomwire.core.publication import write_body
from roomwire.testing.backplane import Recorder
from tests.server.live import LiveServer, Shell
from tests.server.scraping import BOTH, LIMITS, ROOM, Scrape, ask, log_of, measured_server
from tests.server.test_resume import query
from tests.server.watching import until


@pytest.fixture(params=BOTH, ids=lambda shell: shell.name)
def server(request: pytest.FixtureRequest) -> Iterator[LiveServer]:
    shell: Shell = request.param
    with measured_server(shell, limits=LIMITS) as server:
        yield server


def hub_of(server: LiveServer) -> MemoryHub:
    hub: MemoryHub = server.node.backplane.hub  # type: ignore[attr-defined]
    return hub


def link_of(server: LiveServer) -> Any:
    """The backplane's link to its store, to be cut and healed."""
    return server.node.backplane


def publish_elsewhere(server: LiveServer, count: int) -> None:
    """Publish on another node of the same store."""

    async def run() -> None:
        other = MemoryBackplane(hub=hub_of(server))
        await other.start(Recorder(), "elsewhere")
        for number in range(count):
            await other.publish(ROOM, write_body("told", str(number).encode()), key=None, policy=HistoryPolicy())
        await other.aclose()

    server.call(run)


# --- replay and healing


def came_back(server: LiveServer, position: str) -> dict[str, float]:
    before = Scrape(server)
    back = server.connect("back", query=query({ROOM: position}))
    back.events_before("whoami")
    return Scrape(server).since(before)


def test_replays_by_outcome_and_reason(server: LiveServer) -> None:
    first, *_ = server.publish(4)
    grown = came_back(server, first)
    assert (grown["reconnects_total"], grown["replayed_events_total"]) == (1, 3)
    assert grown["replays_total{outcome=replayed,reason=}"] == 1
    epoch = first.partition(":")[0]
    for position, reason in ((f"{epoch}:99", "fork"), ("another:1", "epoch")):
        back = server.connect(f"back-{reason}", query=query({ROOM: position}))
        back.receive_until("room.state")
        back.request("whoami")
        after = Scrape(server)
        assert after("replays_total", outcome="state", reason=reason) == 1
    assert after("snapshots_total", outcome="made") == 2
    assert after("reconnects_total") == 3


def test_a_state_that_is_asked_for_and_one_that_fails(server: LiveServer) -> None:
    async def fails(channel: str) -> object:
        raise RuntimeError("the database is gone")

    log_of(server).snapshot = fails
    ann = server.connect("ann", query="state=1")
    ann.receive_until("room.state")
    ann.request("whoami")
    after = Scrape(server)
    assert after("replays_total", outcome="state", reason="requested") == 1
    assert (after("snapshots_total", outcome="failed"), after("snapshots_total", outcome="made")) == (1, 0)
    assert after("reconnects_total") == 0


def test_a_lost_link_is_an_outage_an_interruption_and_a_gap_that_is_healed(server: LiveServer) -> None:
    ann = server.connect("ann")
    server.publish(1)
    ann.receive_until("told")
    before = Scrape(server)
    server.call(link_of(server).cut)
    publish_elsewhere(server, 3)
    down = Scrape(server)
    assert (down("backplane_up"), down("ready")) == (0, 0)
    assert ask(server.port, path="/readyz").json == {"status": "backplane unavailable"}
    with pytest.raises(Unavailable):
        server.publish(1)
    server.call(link_of(server).heal)
    for _ in range(3):
        ann.receive_until("told")
    until(server, lambda: server.node.hub.rooms[ROOM].recovery is None)
    after = Scrape(server)
    grown = after.since(before)
    assert (after("backplane_up"), after("ready")) == (1, 1)
    assert grown["backplane_outages_total"] == grown["backplane_interruptions_total"] == 1
    assert grown["backplane_errors_total{operation=publish}"] == 1
    assert grown["position_checks_total{result=differed}"] == 1
    assert grown["history_doubts_total"] == grown["gaps_total{outcome=healed}"] == 1
    assert not [name for name in grown if name.startswith("room_resets") or "outcome=reset" in name]
    assert "backplane_lag_seconds_count" not in grown  # it was never delivered


def test_a_store_that_was_lost_is_a_reset_with_its_reason(server: LiveServer) -> None:
    ann = server.connect("ann")
    server.publish(2)
    server.call(hub_of(server).lose)
    with suppress(Unavailable):
        server.publish(1)
    assert ann.receive_until("room.state")["data"]["reason"] == "epoch"
    after = Scrape(server)
    assert after("room_resets_total", reason="epoch") == after("gaps_total", outcome="reset") == 1
    assert after("gaps_total", outcome="healed") == 0


def test_positions_of_silent_rooms_are_checked(server: LiveServer) -> None:
    server.connect("ann")
    before = Scrape(server)
    server.advance(15)
    until(server, lambda: server.node.counts.checks)
    grown = Scrape(server).since(before)
    assert grown["position_checks_total{result=same}"] == 2  # of the room, and of the orders
    assert grown["backplane_operation_seconds_count{operation=positions}"] == 1


# --- the backplane


def test_a_retry_of_a_publication_is_not_waited_for(server: LiveServer) -> None:
    """A key that is known sends nothing: the next publication of the room is followed all the same."""
    server.connect("ann")
    before = Scrape(server)
    for _ in range(2):
        server.act(server.node.app.publish, ROOM, "told", key="once")
        server.call(server.node.clock.advance, 1.0)  # type: ignore[attr-defined]
    server.publish(3)  # at one moment, of which one is followed
    grown = Scrape(server).since(before)
    assert grown["backplane_operation_seconds_count{operation=publish}"] == 5
    assert grown["backplane_received_total{kind=stored}"] == 4
    assert grown["backplane_lag_seconds_count"] == 2


def test_what_cannot_be_read_is_counted(server: LiveServer) -> None:
    server.connect("ann")

    async def write() -> None:
        backplane = server.node.backplane
        await backplane.publish(ROOM, b"no body of ours", key=None, policy=HistoryPolicy())
        await backplane.tell(None, b"no order of ours")

    server.call(write)
    until(server, lambda: server.node.control.dropped)
    after = Scrape(server)
    assert after("backplane_dropped_total", kind="publication") == 1
    assert after("backplane_dropped_total", kind="order") == 1


# --- the node


def test_a_loop_that_is_late(server: LiveServer) -> None:
    until(server, lambda: server.node.meter is not None and server.node.meter.lag.count)
    server.call(server.node.clock.advance, 5.0)  # type: ignore[attr-defined]
    until(server, lambda: server.node.upkeep.lag > 1 or server.node.meter.lag.sum > 1)  # type: ignore[union-attr]
    assert Scrape(server)("loop_delay_seconds_sum") == pytest.approx(4.75)


def test_the_node_and_its_process_are_named(server: LiveServer) -> None:
    found = Scrape(server)
    assert found("node_info", node="node-1") == found("build_info", version=version("roomwire")) == 1
    names = {name for name, _ in found.series}
    assert {"process_resident_memory_bytes", "process_open_fds", "python_info"} <= names
