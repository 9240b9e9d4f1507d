"""2,000 sockets that say nothing, or next to nothing: others come in, and the idle ones go at their time."""

from __future__ import annotations

import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from roomwire.core.limits import Limits
from roomwire.testing.clock import VirtualClock
from tests.server.conftest import Serve
from tests.server.live import TIMEOUT, LiveServer, Shell, make_token
from tests.server.raw import RawLink, request
from tests.server.watching import carriers, transport_of, until

IDLE = 2000
PER_ADDRESS = Limits().max_pending_per_ip
PENDING = Limits().max_pending_handshakes


@pytest.fixture(autouse=True)
def many_descriptors() -> Iterator[None]:
    """As many as the system gives: both ends of each link are in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def connect_from(address: str, server: LiveServer, data: bytes = b"") -> RawLink:
    """A connection from one of the addresses of the loopback network."""
    link = RawLink(socket.create_connection(("127.0.0.1", server.port), TIMEOUT, source_address=(address, 0)))
    link.send(data)
    return link


def hold(server: LiveServer, stack: ExitStack, count: int, address_of: Callable[[int], str]) -> list[RawLink]:
    """`count` idle sockets, each with the beginning of a request."""
    links = []
    for number in range(count):
        links.append(stack.enter_context(connect_from(address_of(number), server, b"GET /ws HT"[: number % 10])))
        if number % 50 == 49:  # the kernel's queue of new connections is bounded, too
            server.call(lambda: None)
    return links


def newcomer(server: LiveServer, address: str) -> int:
    """The status that a client gets now."""
    head = request("/ws", f"Authorization: Bearer {make_token('ann')}")
    with connect_from(address, server, head) as link:
        return int(link.read(12)[9:])


def test_2000_idle_sockets_of_one_address_keep_nobody_else_out(shell: Shell, serve: Serve) -> None:
    server = serve(shell, clock=VirtualClock())
    ann = server.connect("ann")
    with ExitStack() as stack:
        links = hold(server, stack, IDLE, lambda number: "127.0.0.2")
        door = transport_of(server).door
        until(server, lambda: len(carriers(server)) == IDLE + 1)
        assert len(door._inside) == PER_ADDRESS
        # Those beyond the limit of their address were told so, and are gone after a moment.
        server.advance(1.5)
        until(server, lambda: len(carriers(server)) == PER_ADDRESS + 1)
        assert newcomer(server, "127.0.0.3") == 101
        assert newcomer(server, "127.0.0.2") == 503
        assert ann.request("whoami")["event"] == "ack"
        # One byte more does not put the end off: it counts from the accept.
        server.advance(8.0)
        assert len(door._inside) == PER_ADDRESS
        for link in links[:PER_ADDRESS]:
            link.send(b"T")
        server.advance(1.0)
        until(server, lambda: not door._inside)
        server.advance(1.5)
        until(server, lambda: len(carriers(server)) == 1)
        assert newcomer(server, "127.0.0.2") == 101
    assert ann.request("whoami")["event"] == "ack"


def test_2000_idle_sockets_of_many_addresses_hold_the_door_until_their_time_and_no_longer(
    shell: Shell, serve: Serve
) -> None:
    server = serve(shell, clock=VirtualClock())
    ann = server.connect("ann")
    with ExitStack() as stack:
        hold(server, stack, IDLE, lambda number: f"127.0.1.{number % 20 + 1}")
        door = transport_of(server).door
        until(server, lambda: len(carriers(server)) == IDLE + 1)
        assert len(door._inside) == PENDING
        # Nobody new: the door is a bound, and it is full. Who is in does not notice.
        assert newcomer(server, "127.0.0.3") == 503
        assert ann.request("whoami")["event"] == "ack"
        server.advance(10.5)
        until(server, lambda: not door._inside)
        assert newcomer(server, "127.0.0.3") == 101
    assert ann.request("whoami")["event"] == "ack"


def test_400_silent_clients_behind_their_handshake_are_closed_at_the_heartbeats_timeout(
    shell: Shell, serve: Serve
) -> None:
    server = serve(shell, clock=VirtualClock(), limits=Limits(connections_per_user=IDLE))
    with ExitStack() as stack:
        head = server.upgrade_request("nobody")
        for number in range(400):
            stack.enter_context(connect_from("127.0.0.2", server, head)).upgraded()
            if number == 200:
                server.advance(30)

        def still_open() -> int:
            return sum(connection.is_open for connection in server.node.connections.values())

        assert server.call(still_open) == 400
        server.advance(89.75 - 30)
        assert server.call(still_open) == 400
        server.advance(0.25)
        assert server.call(still_open) == 199
        server.advance(30)
        assert server.call(still_open) == 0
        # Nor do they answer our close.
        server.advance(5.25)
        until(server, lambda: not (server.node.connections or carriers(server)))
