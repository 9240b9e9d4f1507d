"""What is counted of connections, messages and fan-out: by doing the real thing, on both shells."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import anyio
import pytest
from websockets.exceptions import InvalidStatus

from tests.server.live import Client, LiveServer, Shell
from tests.server.raw import exchange
from tests.server.scraping import BOTH, LIMITS, ROOM, Scrape, ask, ended, log_of, measured_server
from tests.server.test_backpressure import TINY, link_to, narrow_down
from tests.server.watching import until


@pytest.fixture(params=BOTH, ids=lambda shell: shell.name)
def server(request: pytest.FixtureRequest) -> Iterator[LiveServer]:
    shell: Shell = request.param
    with measured_server(shell, limits=LIMITS) as server:
        yield server


# --- connections


def test_a_connection_is_counted_while_it_is_open_and_when_it_has_ended(server: LiveServer) -> None:
    before = Scrape(server)
    ann, bob = server.connect("ann"), server.connect("bob")
    during = Scrape(server)
    assert (during("connections"), during("rooms"), during("memberships")) == (2, 1, 2)
    assert during("presence_leases") == 2
    grown = during.since(before)
    assert grown["connections_opened_total"] == grown["handshake_seconds_count"] == 2
    ann.close()
    bob.send("close", 4107)
    assert bob.closed() == (4107, "bye")
    ended(server, "ann")
    ended(server, "bob")
    after = Scrape(server)
    assert (after("connections"), after("memberships"), after("presence_leases")) == (0, 0, 0)
    assert after("connections_opened_total") == 2
    assert after("connections_closed_total", code=1000, by="peer") == 1
    assert after("connections_closed_total", code="application", by="server") == 1


@pytest.mark.parametrize(("code", "label"), [(1001, "1001"), (4002, "4002"), (4777, "other"), (4650, "application")])
def test_a_peer_s_own_codes_are_told_apart_from_ours(server: LiveServer, code: int, label: str) -> None:
    ann = server.connect("ann")
    ann.connection.close(code, "bye")
    ended(server, "ann")
    after = Scrape(server)
    assert after("connections_closed_total", code=label, by="peer") == 1
    assert after("slow_closes_total") == 0


def test_a_link_that_breaks_is_1006(server: LiveServer) -> None:
    link = link_to(server, "ann")
    link.event("session.welcome")
    link.reset()
    ended(server, "ann")
    assert Scrape(server)("connections_closed_total", code=1006, by="link") == 1


def test_refusals_by_status_and_error(server: LiveServer) -> None:
    before = Scrape(server)
    for user, token in (("ann", "no token"), ("banned", None)):
        with pytest.raises(InvalidStatus):
            server.connect(user, token=token)
    guests = [server.connect("many") for _ in range(2)]
    with pytest.raises(InvalidStatus):
        server.connect("many")
    assert ask(server.port, path="/wp-login.php").status == 404
    assert exchange(server.port, b"\x16\x03\x01 no HTTP\r\n\r\n").status == 400
    assert ask(server.port, path="/ws").status == 426
    grown = Scrape(server).since(before)
    assert {name: value for name, value in grown.items() if name.startswith("refusals")} == {
        "refusals_total{error=unauthorized,status=401}": 1,
        "refusals_total{error=forbidden,status=403}": 1,
        "refusals_total{error=too_many_connections,status=429}": 1,
        "refusals_total{error=not_found,status=404}": 1,
        "refusals_total{error=bad_request,status=400}": 1,
        "refusals_total{error=upgrade_required,status=426}": 1,
    }
    assert len(guests) == 2


def test_handshakes_that_are_pending(server: LiveServer) -> None:
    gate = anyio.Event()

    async def wait(connection: object) -> None:
        await gate.wait()

    log_of(server).admitted = wait
    with server.raw(server.upgrade_request("ann")), socket.create_connection(("127.0.0.1", server.port)):
        until(server, lambda: server.node.admissions.pending == 1)
        until(server, lambda: server.node.transport.pending == 2)  # type: ignore[attr-defined]
        during = Scrape(server)
        # With the scrape itself.
        assert (during("handshakes_pending"), during("handshakes_deciding")) == (3, 1)
        server.call(gate.set)
        until(server, lambda: server.node.admissions.pending == 0)
    assert Scrape(server)("handshakes_deciding") == 0


# --- messages, rooms, fan-out


def test_a_message_and_what_becomes_of_it(server: LiveServer) -> None:
    ann = server.connect("ann")
    ann.receive_until("presence.state")
    bob = server.connect("bob")
    bob.receive_until("presence.state")
    ann.receive_until("presence.join")
    ann.request("whoami")
    before = Scrape(server)
    ann.request("message.send", {"content": "hello"}, room=ROOM)
    bob.receive_until("message.new")
    after = Scrape(server)
    grown = after.since(before)
    assert grown["messages_received_total"] == grown["requests_total{outcome=ok}"] == 1
    assert grown["messages_sent_total"] == 2  # the ack, and bob's
    assert grown["handler_seconds_count{event=message.send}"] == 1
    assert grown["publications_total{kind=stored}"] == grown["backplane_received_total{kind=stored}"] == 1
    assert grown["backplane_lag_seconds_count"] == 1
    assert grown["deliveries_total"] == 2  # ann, who is excluded, is a member
    assert grown["fanout_seconds_count"] == 1
    assert {grown[f"backplane_operation_seconds_count{{operation={name}}}"] for name in ("reserve", "remember")} == {1}
    assert grown["received_bytes_total"] > len('{"event":"message.send"}')
    assert grown["sent_bytes_total"] > 100


def test_bytes_to_clients_are_those_that_came(server: LiveServer) -> None:
    before = Scrape(server)
    with link_to(server, "nobody") as link:
        link.event("session.welcome")
        sent = Scrape(server).since(before)["sent_bytes_total"]
        link.send_text("size", id="1", data="x" * 1000)
        link.event("ack")
        grown = Scrape(server).since(before)
    assert grown["sent_bytes_total"] - sent == len('..{"event":"ack","id":"1","data":1000}')
    assert 1000 < grown["received_bytes_total"] < 1100


def test_ephemeral_events_are_told_apart(server: LiveServer) -> None:
    ann, bob = server.connect("ann"), server.connect("bob")
    before = Scrape(server)
    ann.send("typing", room=ROOM)
    bob.receive_until("typing")
    grown = Scrape(server).since(before)
    assert grown["publications_total{kind=ephemeral}"] == grown["backplane_received_total{kind=ephemeral}"] == 1
    assert "publications_total{kind=stored}" not in grown


def test_requests_by_outcome(server: LiveServer) -> None:
    ann = server.connect("ann")
    before = Scrape(server)
    ann.request("refuse")
    ann.request("crash")
    ann.request("add", "no numbers")
    ann.request("nobody.handles.this")
    ann.request("message.send", {"content": "x"}, room="chat:elsewhere")
    ann.request("room.join", room="chat:secret")
    ann.request("room.join", room="chat:other")
    ann.request("session.rooms")
    ann.send("refuse")  # nobody asks for a reply
    ann.connection.send("{no json")
    ann.request("session.resume", {"rooms": {ROOM: "a:1"}})
    grown = Scrape(server).since(before)
    assert {name: value for name, value in grown.items() if name.startswith("requests")} == {
        "requests_total{outcome=application}": 2,
        "requests_total{outcome=internal}": 1,
        "requests_total{outcome=invalid}": 2,
        "requests_total{outcome=unknown_event}": 1,
        "requests_total{outcome=not_joined}": 1,
        "requests_total{outcome=forbidden}": 1,
        "requests_total{outcome=conflict}": 1,
        "requests_total{outcome=ok}": 2,
    }


def test_messages_above_the_rate_are_counted_though_no_handler_sees_them(server: LiveServer) -> None:
    ann = server.connect("nobody")
    burst = LIMITS.message_burst
    for _ in range(burst + 5):
        ann.send("echo")
    while ann.receive()["event"] != "error":
        pass
    until(server, lambda: sum(c._received for c in server.node.connections.values()) == burst + 5)
    until(server, lambda: server.node.counts.handled == burst)
    after = Scrape(server)
    assert (after("requests_total", outcome="rate_limited"), after("requests_total", outcome="ok")) == (5, burst)
    assert after("handler_seconds_count", event="echo") == burst


def test_what_waits_for_a_slow_reader_and_its_end(server: LiveServer) -> None:
    narrow_down(server)
    with link_to(server, "stalled", buffer=TINY) as stalled:
        stalled.event("session.welcome")
        until(server, lambda: server.node.hub.rooms[ROOM].live)
        assert (Scrape(server)("outbox_bytes"), Scrape(server)("slow_readers")) == (0, 0)
        (connection,) = server.node.connections.values()
        link = connection._link
        assert link is not None
        while server.call(link.queued) < 50_000:  # what the kernels take is much less
            server.publish(1, data="x" * 5000)
        during = Scrape(server)
        assert 30_000 < during("outbox_bytes") <= LIMITS.outbox_bytes
        assert during("slow_readers") == 1
        while server.node.connections_of("stalled"):
            server.publish(1, data="x" * 5000)
    ended(server, "stalled")
    after = Scrape(server)
    assert after("slow_closes_total") == after("connections_closed_total", code=4002, by="server") == 1
    assert (after("outbox_bytes"), after("slow_readers")) == (0, 0)


def test_messages_are_counted_once_each_over_the_end_of_their_connection(server: LiveServer) -> None:
    clients: list[Client] = []
    for number in range(4):
        client = server.connect(f"user-{number}")
        for _ in range(3):
            client.request("whoami")
        clients.append(client)
        if number % 2:
            client.close()
            ended(server, f"user-{number}")
        assert Scrape(server)("messages_received_total") == 3 * (number + 1)
