"""What is the same on every host, and what is not: rows of docs/reference/transports.md that one connection shows."""

from __future__ import annotations

import logging
import socket
import struct
from collections.abc import Iterator

import pytest

from roomwire.core.limits import Limits
from roomwire.core.policy import RoomPolicy
from roomwire.testing.clock import VirtualClock
from roomwire.transports.asgi import AsgiTransport
from tests.asgi.support import COLUMNS, says
from tests.server.chat import make_app
from tests.server.live import ASGI_HOSTS, SHELLS, Client, LiveServer, live_server
from tests.server.watching import until

SERVERS = {
    "anyio": SHELLS["callback-asyncio"],
    **{name.removeprefix("asgi-"): host for name, host in ASGI_HOSTS.items()},
}
LIMITS = Limits(connections_per_user=1000, message_burst=1000, max_message_size=10_000)


@pytest.fixture(scope="module", params=COLUMNS)
def column(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def server(column: str) -> Iterator[LiveServer]:
    """One for each column, on a clock that the tests move on."""
    options = {"rooms": {"chat:*": RoomPolicy()}, "limits": LIMITS, "clock": VirtualClock()}
    with live_server(make_app(), SERVERS[column], **options) as server:
        yield server


def end_of(server: LiveServer, client: Client, caplog: pytest.LogCaptureFixture) -> dict[str, object]:
    """What is logged of a connection's end."""

    def ends() -> list[dict[str, object]]:
        fields = [vars(record)["roomwire"] for record in caplog.records if record.getMessage() == "disconnect"]
        return [field for field in fields if field["connection"] == client.welcome["session"]]

    until(server, ends)
    (fields,) = ends()
    return fields


def settle(server: LiveServer) -> None:
    """Wait until hosts have taken all that was sent: a minute must not pass in the middle of a `send`."""
    transport = server.node.transport
    if isinstance(transport, AsgiTransport):
        until(server, lambda: not any(link._writing for link in transport._links))


def test_a_close_of_the_clients(server: LiveServer, column: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "roomwire"):
        client = server.connect()
        client.connection.close(4321, "mine")
        fields = end_of(server, client, caplog)
    seen = {(4321, "mine"): "code and reason", (4321, ""): "code", (1006, ""): "1006"}
    assert seen[int(str(fields["code"])), str(fields.get("reason", ""))] == says("a client's close is seen as", column)


def test_a_link_that_breaks(server: LiveServer, column: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "roomwire"):
        client = server.connect()
        sock = client.connection.socket
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.shutdown(socket.SHUT_RDWR)
        fields = end_of(server, client, caplog)
    assert str(int(str(fields["code"]))) == says("a broken link is seen as", column)


def test_a_close_of_ours_has_its_code_and_its_reason(server: LiveServer, column: str) -> None:
    client = server.connect("shut")
    server.act(server.node.app.disconnect, "shut", code=4605, reason="grüße")
    assert client.receive_until("session.closing")["data"]["code"] == 4605
    assert client.closed() == (4605, "grüße")
    assert says("our close has its code and reason", column) == "yes"


def test_what_is_too_large(server: LiveServer, column: str) -> None:
    client = server.connect()
    client.connection.send("x" * 10_000)
    assert client.receive()["data"]["code"] == "invalid"  # it is read
    client.connection.send("x" * 10_001)
    assert client.closed() == (1009, "message too big")
    assert says("more than `max_message_size`", column) == "1009"


def test_pings_are_answered_and_are_a_sign_of_life_or_not(server: LiveServer, column: str) -> None:
    client = server.connect("quiet")
    settle(server)
    server.advance(60)
    assert client.connection.ping().wait(10)
    settle(server)
    server.advance(60)
    alive = bool(server.node.connections_of("quiet"))
    if alive:
        client.close()
    else:
        assert client.closed() == (4001, "heartbeat missed")
    assert ("yes" if alive else "no") == says("pings and pongs are a sign of life", column)


def test_deflate_is_agreed_on_or_not(server: LiveServer, column: str) -> None:
    client = server.connect(compression="deflate")
    agreed = bool(client.connection.protocol.extensions)
    assert says("compresses, unless it is told not to", column).startswith("yes" if agreed else "no")


def test_binary_messages_and_many_at_once(server: LiveServer) -> None:
    ann, bob = server.connect("ann"), server.connect("bob")
    ids = server.publish(200)
    for client in (ann, bob):
        assert [client.receive_until("told")["id"] for _ in range(200)] == ids


def test_the_loop_of_its_own(column: str) -> None:
    backends = {"trio": "trio" in column or column == "anyio", "asyncio": column != "hypercorn-trio"}
    found = ", ".join(backend for backend in ("asyncio", "trio") if backends[backend])
    assert says("runs on", column) == found
