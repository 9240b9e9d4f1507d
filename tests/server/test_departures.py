"""Thousands of links that end in one moment do not hold up those that stay: a few are told of in each turn."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from roomwire.core.limits import Limits
from roomwire.transports.anyio import transport
from roomwire.transports.anyio.carrier import Carrier, Phase
from tests.server.conftest import Serve
from tests.server.echoing import echo_server
from tests.server.live import Shell
from tests.server.raw import RawLink, connect, request
from tests.server.watching import carriers, counts_by_turn, until

MANY, FEW = 60, 7


def reset_all(links: list[RawLink]) -> None:
    """On the server's own loop: it sees none of them before it sees all."""
    for link in links:
        link.reset()


@pytest.fixture
def departed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many were told of in each turn."""
    counts = counts_by_turn(monkeypatch, FEW)
    depart = Carrier.depart

    def count_departure(carrier: Carrier) -> None:
        counts[-1] += 1
        depart(carrier)

    monkeypatch.setattr(transport, "DEPARTURES_PER_TURN", FEW)
    monkeypatch.setattr(Carrier, "depart", count_departure)
    return counts


def test_a_few_are_told_of_in_a_turn_and_each_once(shell: Shell, departed: list[int]) -> None:
    with echo_server(shell) as server, ExitStack() as stack:
        links = [stack.enter_context(connect(server.port, request("/"))) for _ in range(MANY)]
        for link in links:
            link.upgraded()
        server.call(reset_all, links)
        server.until(lambda: not server.transport.carriers)
        assert [server.receiver(number).ended for number in range(MANY)] == [(1006, "", False)] * MANY
        assert sum(departed) == MANY
        assert max(departed) <= FEW


def test_nothing_goes_out_on_a_link_that_waits_to_be_told_of(shell: Shell) -> None:
    with echo_server(shell) as server, ExitStack() as stack:
        links = [stack.enter_context(connect(server.port, request("/"))) for _ in range(3)]
        for link in links:
            link.upgraded()
        turnstile = server.transport.departures
        turnstile._per_turn = 0  # nobody's turn comes
        server.call(reset_all, links)
        server.until(lambda: all(carrier.phase is Phase.CLOSED for carrier in server.transport.carriers))

        def write_to_all() -> list[int]:
            for carrier in server.transport.carriers:
                carrier.write(carrier.framing.block([b"late"]), 1)
                carrier.write_soon(carrier.framing.block([b"late"]), 1)
                carrier.ping()
            return [carrier.sent for carrier in server.transport.carriers]

        assert server.call(write_to_all) == [0, 0, 0]
        assert [server.receiver(number).ended for number in range(3)] == [None] * 3
        turnstile._per_turn = FEW
        server.until(lambda: not server.transport.carriers)
        assert [server.receiver(number).ended for number in range(3)] == [(1006, "", False)] * 3


def test_their_places_and_rooms_are_free_in_the_end(shell: Shell, serve: Serve, departed: list[int]) -> None:
    server = serve(shell, limits=Limits(connections_per_user=1))
    for _ in range(2):
        clients = [server.connect(f"user-{number}") for number in range(20)]
        for client in clients:
            client.connection.socket.close()
        until(server, lambda: not (server.node.connections or server.node.farewells))
    assert not carriers(server)
    until(server, lambda: not server.node.hub.rooms)
