"""A viewer of a conflated room that reads slowly: the kernel holds little for it, so that it soon gets the newest.

What the kernel has taken, nobody can replace. By itself it takes megabytes (``net.ipv4.tcp_wmem``), and wants a third
of them to be read before it takes more, which is longer than ``limits.write_timeout`` for who reads little.
"""

from __future__ import annotations

import array
import fcntl
import socket
import ssl
import sys
import termios
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from roomwire.core.limits import Limits
from roomwire.core.policy import RoomPolicy
from roomwire.node.conflated import UNREAD, ConflatedRoom
from roomwire.testing.clock import VirtualClock
from roomwire.transports.anyio.accepting import UNSENT, keep_little_unsent
from roomwire.transports.anyio.carrier import Carrier
from tests.server.conftest import Serve
from tests.server.live import LiveServer, Shell
from tests.server.raw import RawLink
from tests.server.test_backpressure import link_to
from tests.server.test_listeners import unix_link
from tests.server.test_tls import authority, ours, secure_link, theirs
from tests.server.watching import carriers, only_carrier, until

__all__ = ["authority", "ours", "theirs"]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux alone has a bound that a write keeps to")

ROOM, PLAIN = "chat:general", "chat:plain"
ROOMS = {PLAIN: RoomPolicy(), "chat:*": RoomPolicy(conflate_rate=1000)}
LIMITS = Limits(heartbeat_interval=1000, heartbeat_timeout=3000)
VALUE = 8_000
"""Bytes of one value. Of this size two wait before a member is passed over."""
MANY = 60
"""Values that a kernel takes by itself, and to spare: 480 KB."""
SMALL = 4096
"""Bytes that the client's kernel is asked to take; it doubles them."""


def unsent(carrier: Carrier) -> int:
    """Bytes that the kernel has for the peer and has not sent (SIOCOUTQNSD)."""
    return _asked(carrier, 0x894B)


def under_way(carrier: Carrier) -> int:
    """Bytes that the kernel has for the peer, those included that are sent and not acknowledged (SIOCOUTQ)."""
    return _asked(carrier, termios.TIOCOUTQ)


def _asked(carrier: Carrier, what: int) -> int:
    number = array.array("i", [0])
    fcntl.ioctl(carrier._fd, what, number)
    return number[0]


def bound_of(carrier: Carrier) -> int:
    """What the kernel is told to hold unsent; 0 where it was told nothing."""
    sock: Any = carrier.socket_options()
    bound: int = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT)
    return bound


class Board:
    """The room, and what is shown in it: a count."""

    def __init__(self, server: LiveServer) -> None:
        self.server = server
        room = server.node.hub.rooms[ROOM]
        assert isinstance(room, ConflatedRoom)
        self.room = room
        self.count = 0

    def show(self) -> None:
        """The next value, which has gone out, or has passed over who does not keep up, when this returns."""
        self.count += 1
        clock = self.server.node.clock
        if isinstance(clock, VirtualClock):
            self.server.call(clock.advance, 0.001)
        self.server.publish(1, ROOM, {"n": self.count, "pad": "x" * VALUE})
        until(self.server, lambda: not self.room._waiting.waiting and not self.room._turns)

    def show_until_passed_over(self, most: int = MANY) -> None:
        while not self.room.apart and self.count < most:
            self.show()


@contextmanager
def board_of(server: LiveServer, *users: str) -> Iterator[tuple[Board, list[RawLink]]]:
    """The room, with members whose kernels take little, and who read only when told to."""
    with ExitStack() as stack:
        links = [stack.enter_context(link_to(server, user, buffer=SMALL)) for user in users]
        for link in links:
            link.event("session.welcome")
        until(server, lambda: ROOM in server.node.hub.rooms and len(server.node.hub.rooms[ROOM].live) == len(users))
        yield Board(server), links


def test_who_reads_nothing_is_soon_passed_over_and_then_gets_the_newest(shell: Shell, serve: Serve) -> None:
    server = serve(shell, rooms=ROOMS, limits=LIMITS)
    with board_of(server, "slow") as (board, (link,)):
        carrier = only_carrier(server)
        assert bound_of(carrier) == UNSENT
        board.show_until_passed_over()
        assert board.count < 10
        # A write that begins below the bound may end above it.
        assert UNSENT <= unsent(carrier) <= under_way(carrier) < UNSENT + 3 * VALUE
        assert UNREAD < server.call(carrier.queued) < UNREAD + 2 * VALUE
        while board.count < MANY:
            board.show()
        assert len(board.room.apart) == 1
        shown = [link.event("told")["data"]["n"]]
        while shown[-1] < MANY:
            shown.append(link.event("told")["data"]["n"])
        # What was held, in order, and then the newest.
        held = shown[:-1]
        assert held == list(range(1, len(held) + 1))
        assert len(held) < 10


def test_who_reads_a_little_is_not_closed(shell: Shell, serve: Serve) -> None:
    server = serve(shell, rooms=ROOMS, limits=LIMITS, clock=VirtualClock())
    with board_of(server, "slow", "asleep") as (board, (slow, _)):
        by_user = {server.node.connections_of(user)[0]._link: user for user in ("slow", "asleep")}
        (carrier,) = [carrier for carrier in carriers(server) if by_user[carrier] == "slow"]
        board.show_until_passed_over()
        while board.count < MANY:
            board.show()
        server.advance(LIMITS.write_timeout / 2)
        held = server.call(carrier._held)
        for _ in range(5):
            assert slow.event("told")["data"]["n"] < 10
        # Some of a block, or the whole, whose successor has a time of its own from here on.
        until(server, lambda: carrier._held() != held)
        server.advance(LIMITS.write_timeout / 2 + 0.25)
        # It took something, and the other one nothing.
        assert server.node.connections_of("slow")
        assert not server.node.connections_of("asleep")


def test_other_rooms_have_it_as_before(shell: Shell, serve: Serve) -> None:
    server = serve(shell, rooms=ROOMS)
    ann = server.connect("nobody")
    assert ann.request("room.join", room=PLAIN)["event"] == "ack"
    assert bound_of(only_carrier(server)) == 0
    assert ann.request("room.join", room=ROOM)["event"] == "ack"
    until(server, lambda: server.node.hub.rooms[ROOM].live)
    assert bound_of(only_carrier(server)) == UNSENT


def test_under_tls(shell: Shell, serve: Serve, ours: ssl.SSLContext, theirs: ssl.SSLContext) -> None:
    server = serve(shell, rooms=ROOMS, listen={"ssl": ours})
    with secure_link(server.port, theirs, server.upgrade_request()) as link:
        link.upgraded()
        link.event("session.welcome")
        until(server, lambda: server.node.hub.rooms[ROOM].live)
        assert bound_of(only_carrier(server)) == UNSENT


def test_a_unix_socket_has_no_such_thing(shell: Shell, serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "roomwire.sock"
    server = serve(shell, rooms=ROOMS, listen={"uds": str(path)})
    with unix_link(path) as link:
        link.send(server.upgrade_request())
        link.upgraded()
        link.event("session.welcome")
        until(server, lambda: server.node.hub.rooms[ROOM].live)
        Board(server).show()
        assert link.event("told")["data"]["n"] == 1


def test_a_socket_that_is_gone_is_no_fault() -> None:
    sock = socket.create_server(("127.0.0.1", 0))
    sock.close()
    keep_little_unsent(sock)
