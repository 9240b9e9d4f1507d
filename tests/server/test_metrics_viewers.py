"""What is counted of viewers: event streams beside WebSockets, and rooms that conflate; on both shells."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from roomwire.core.policy import RoomPolicy
from roomwire.node import hub
from roomwire.node.conflated import ConflatedRoom
from tests.server.conftest import ROOMS
from tests.server.live import Client, LiveServer, Shell
from tests.server.scraping import BOTH, LIMITS, ROOM, Scrape, ended, measured_server
from tests.server.streaming import Viewers
from tests.server.test_backpressure import TINY, link_to, narrow_down
from tests.server.watching import until

FAST = {"chat:*": RoomPolicy(conflate_rate=1000.0, conflate_key="k")}
"""Blocks as fast as the timer goes: the tests wait for what comes, and not for time."""


@pytest.fixture(params=BOTH, ids=lambda shell: shell.name)
def shell(request: pytest.FixtureRequest) -> Shell:
    found: Shell = request.param
    return found


class TestStreams:
    @pytest.fixture
    def server(self, shell: Shell) -> Iterator[LiveServer]:
        with measured_server(shell, limits=LIMITS, rooms=ROOMS) as server:
            yield server

    def test_are_told_apart_from_sockets(self, server: LiveServer) -> None:
        server.connect("ann")
        before = Scrape(server)
        assert (before("connections"), before("streams"), before("streams_opened_total")) == (1, 0, 0)
        with Viewers(server) as stays:
            with Viewers(server) as goes:
                stays.view(user="eve").until("session.welcome")
                goes.view(user="bob").until("session.welcome")
                during = Scrape(server)
                assert (during("connections"), during("streams")) == (3, 2)
                grown = during.since(before)
                assert grown["streams_opened_total"] == grown["connections_opened_total"] == 2
            ended(server, "bob")
            after = Scrape(server)
            assert (after("connections"), after("streams"), after("streams_opened_total")) == (2, 1, 2)
        ended(server, "eve")
        after = Scrape(server)
        assert (after("connections"), after("streams"), after("streams_opened_total")) == (1, 0, 2)

    def test_what_is_no_stream_is_not_counted(self, server: LiveServer) -> None:
        with Viewers(server) as viewers:
            assert viewers.ask(method="HEAD").status == 200
            assert viewers.ask(token="").status == 401
            assert viewers.ask("room=nowhere:here").status == 403
            asks = {"Access-Control-Request-Method": "GET", "Origin": f"http://127.0.0.1:{server.port}"}
            assert viewers.ask(method="OPTIONS", headers=asks).status == 204
        after = Scrape(server)
        assert (after("streams"), after("streams_opened_total"), after("connections_opened_total")) == (0, 0, 0)


class TestConflation:
    @pytest.fixture
    def server(self, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> Iterator[LiveServer]:
        monkeypatch.setattr(hub, "WRITES_PER_TURN", 1)  # an update goes out in as many slices as there are members
        with measured_server(shell, limits=LIMITS, rooms=FAST, clock=time.monotonic) as server:
            narrow_down(server)
            yield server

    def test_what_is_replaced_is_counted_once_and_what_is_sent_is_not(self, server: LiveServer) -> None:
        ann, bob = server.connect("ann"), server.connect("bob")
        before, received = Scrape(server), 0
        for _ in range(3):
            last = publish(server, 30, "x")
            received += told_until(ann, last)
            told_until(bob, last)
        grown = Scrape(server).since(before)
        assert received < 90
        assert grown["replaced_events_total"] == 90 - received
        assert grown["deliveries_total"] == 2 * received
        assert "passed_over_total" not in grown
        # The room ends, and its counts do not.
        ann.close()
        bob.close()
        until(server, lambda: ROOM not in server.node.hub.rooms)
        assert Scrape(server)("replaced_events_total") == 90 - received

    def test_a_room_that_does_not_conflate_has_neither(self, shell: Shell) -> None:
        with measured_server(shell, limits=LIMITS, rooms=ROOMS) as server:
            ann = server.connect("ann")
            told_until(ann, publish(server, 30, "x"))
            after = Scrape(server)
        assert (after("replaced_events_total"), after("passed_over_total"), after("deliveries_total")) == (0, 0, 30)

    def test_who_does_not_read_is_passed_over_with_each_update_and_not_between(self, server: LiveServer) -> None:
        with link_to(server, "stalled", buffer=TINY) as stalled:
            stalled.event("session.welcome")
            ann = server.connect("ann")
            until(server, lambda: len(server.node.hub.rooms[ROOM].live) == 2)
            link = server.node.connections_of("stalled")[0]._link
            assert link is not None
            # What the kernels take comes first, and they may take some more later: much more than that has to be held.
            rounds = 0
            while not server.call(link.queued):
                told_until(ann, publish(server, 1, "x" * 5000))
                rounds += 1
            for _ in range(2):
                assert Scrape(server)("passed_over_total") == 0
                told_until(ann, publish(server, 1, "x" * 40_000))
                rounds += 1
            before = Scrape(server)
            assert (before("passed_over_total"), before("deliveries_total")) == (1, 2 * rounds - 1)
            for _ in range(5):
                told_until(ann, publish(server, 1, "x" * 5000))
            looks(server, 3)
            grown = Scrape(server).since(before)
            assert (grown["passed_over_total"], grown["deliveries_total"]) == (5, 5)
            assert "replaced_events_total" not in grown  # ann had them
            last = publish(server, 1, "y")
            told_until(ann, last)
            while stalled.event("told")["id"] != last:
                pass
            before = Scrape(server)
            for _ in range(3):
                last = publish(server, 1, "z")
                told_until(ann, last)
                assert stalled.event("told")["id"] == last
            grown = Scrape(server).since(before)
            assert "passed_over_total" not in grown
            assert grown["deliveries_total"] == 6


def looks(server: LiveServer, count: int) -> None:
    """The room looks so many times at who was passed over, with nothing new to send."""
    room = server.node.hub.rooms[ROOM]
    assert isinstance(room, ConflatedRoom)
    for _ in range(count):
        before = room._look
        until(server, lambda: room._look > before)  # noqa: B023  called within the turn


def publish(server: LiveServer, count: int, value: str) -> str:
    """So many events of three keys at most, in one turn of the loop; returns the id of the last."""

    async def run() -> str:
        for number in range(count):
            published = await server.node.app.publish(ROOM, "told", {"k": number % 3, "v": value})
        return published.id or ""

    id_: str = server.act(run)
    return id_


def told_until(client: Client, last: str) -> int:
    """How many events came, up to that one."""
    count = 1
    while client.receive_until("told")["id"] != last:
        count += 1
    return count
