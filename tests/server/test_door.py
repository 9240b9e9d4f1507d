"""The door: how many handshakes at once, from where, and in which turns of the loop."""

from __future__ import annotations

import logging
import os
import resource
import socket
import threading
from collections.abc import Callable

import pytest

from roomwire.core.limits import Limits
from roomwire.testing.clock import VirtualClock
from roomwire.transports.anyio.carrier import Carrier
from roomwire.transports.anyio.door import HANDSHAKES_PER_TURN, Door
from tests.server.conftest import Serve
from tests.server.live import SHELLS, LiveServer, Shell, make_token
from tests.server.raw import TIMEOUT, RawLink, connect, exchange, request
from tests.server.watching import carriers, transport_of, until


class Turns:
    """A loop whose turns the test makes."""

    def __init__(self) -> None:
        self.callbacks: list[Callable[[], None]] = []

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.callbacks.append(callback)

    def now(self) -> float:
        return 0.0

    def spawn(self, function: object, *arguments: object) -> Callable[[], object]:
        raise AssertionError("the door needs no task")

    def turn(self) -> None:
        callbacks, self.callbacks = self.callbacks, []
        for callback in callbacks:
            callback()


class Guest:
    def __init__(self, address: str = "192.0.2.1") -> None:
        self.address = address
        self.entered = False

    def enter(self) -> None:
        self.entered = True


def test_a_few_enter_in_a_turn_and_the_others_wait_for_theirs() -> None:
    turns = Turns()
    door = Door(Limits(max_pending_per_ip=1000), turns)
    guests = [Guest() for _ in range(100)]
    for guest in guests:
        assert door.has_place(guest)
        guest.entered = door.knock(guest)
    counts = [sum(guest.entered for guest in guests)]
    while turns.callbacks:
        turns.turn()
        counts.append(sum(guest.entered for guest in guests))
    assert counts[:4] == [HANDSHAKES_PER_TURN * n for n in (1, 2, 3, 4)]
    assert counts[-1] == 100
    # In the order of their coming, whoever came in between.
    assert turns.callbacks == [], "the door asks for no turn when nobody comes"


def test_a_newcomer_does_not_overtake_who_waits() -> None:
    turns = Turns()
    door = Door(Limits(max_pending_per_ip=1000), turns)
    order: list[int] = []

    class Numbered(Guest):
        def __init__(self, number: int) -> None:
            super().__init__()
            self.number = number

        def enter(self) -> None:
            order.append(self.number)

    for number in range(60):
        guest = Numbered(number)
        assert door.has_place(guest)
        if door.knock(guest):
            order.append(number)
        if number == 40:
            turns.turn()
    while turns.callbacks:
        turns.turn()
    assert order == list(range(60))


def test_who_left_while_waiting_takes_no_turn() -> None:
    turns = Turns()
    door = Door(Limits(max_pending_per_ip=1000), turns)
    guests = [Guest() for _ in range(3 * HANDSHAKES_PER_TURN)]
    for guest in guests:
        assert door.has_place(guest)
        guest.entered = door.knock(guest)
    for guest in guests[HANDSHAKES_PER_TURN : 2 * HANDSHAKES_PER_TURN]:
        door.leave(guest)
    turns.turn()
    assert [guest.entered for guest in guests[2 * HANDSHAKES_PER_TURN :]] == [True] * HANDSHAKES_PER_TURN
    assert not any(guest.entered for guest in guests[HANDSHAKES_PER_TURN : 2 * HANDSHAKES_PER_TURN])


def test_places_are_counted_in_all_and_by_address() -> None:
    door = Door(Limits(max_pending_handshakes=5, max_pending_per_ip=2), Turns())
    first, second, third = Guest(), Guest(), Guest()
    assert [door.has_place(guest) for guest in (first, second, third)] == [True, True, False]
    assert [door.has_place(Guest("192.0.2.2")) for _ in range(3)] == [True, True, False]
    # An empty address, such as a Unix socket's, counts towards the total alone.
    assert [door.has_place(Guest("")) for _ in range(3)] == [True, False, False]
    door.leave(third)  # never had a place
    assert not door.has_place(third)
    door.leave(first)
    door.leave(first)
    assert door.has_place(third)
    assert not door.has_place(first)


def test_a_visitor_of_a_proxy_is_counted_by_its_own_address() -> None:
    door = Door(Limits(max_pending_handshakes=10, max_pending_per_ip=1), Turns())
    first, second, other = Guest(""), Guest(""), Guest("")
    assert all(door.has_place(guest) for guest in (first, second, other))
    assert door.readdress(first, "198.51.100.1")
    assert not door.readdress(second, "198.51.100.1")
    assert door.readdress(other, "198.51.100.2")
    for guest in (first, second, other):
        door.leave(guest)
    assert door._by_address == {}


# --- over sockets


@pytest.fixture
def many_files() -> None:
    """1,000 clients and their servers' ends in one process need descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 4096:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))


def test_1000_connects_in_one_turn_are_let_in_a_few_at_a_time_and_all_served(
    shell: Shell, serve: Serve, many_files: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered = [0]
    next_turn, knock, enter = Door._next_turn, Door.knock, Carrier.enter

    def count_turn(door: Door) -> None:
        entered.append(0)
        next_turn(door)

    def count_knock(door: Door, visitor: Carrier) -> bool:
        at_once = knock(door, visitor)
        entered[-1] += at_once
        return at_once

    def count_enter(carrier: Carrier) -> None:
        entered[-1] += 1
        enter(carrier)

    monkeypatch.setattr(Door, "_next_turn", count_turn)
    monkeypatch.setattr(Door, "knock", count_knock)
    monkeypatch.setattr(Carrier, "enter", count_enter)
    server = serve(shell, limits=Limits(max_pending_per_ip=1000, connections_per_user=1000))
    head = request("/ws", f"Authorization: Bearer {make_token('nobody')}")

    def connect_all() -> list[RawLink]:
        # On the server's own loop: it sees none of them before it sees all.
        return [connect(server.port, head) for _ in range(1000)]

    links = server.call(connect_all)
    for link in links:
        link.upgraded()
        assert link.event("session.welcome")["data"]["user"] == "nobody"
    assert server.call(lambda: len(server.node.connections)) == 1000
    assert sum(entered) == 1000
    assert max(entered) <= HANDSHAKES_PER_TURN
    for link in links:
        link.close()
    until(server, lambda: not server.node.connections)
    assert transport_of(server).door._inside == set()


def pending(server: LiveServer, count: int) -> list[RawLink]:
    """Clients that have sent nothing yet."""
    links = [connect(server.port) for _ in range(count)]
    until(server, lambda: len(transport_of(server).door._inside) == count)
    return links


@pytest.mark.parametrize("limits", [Limits(max_pending_per_ip=3), Limits(max_pending_handshakes=3)])
def test_503_at_the_door_for_who_finds_no_place(shell: Shell, serve: Serve, limits: Limits) -> None:
    server = serve(shell, limits=limits)
    silent = pending(server, 3)
    head = request("/ws", f"Authorization: Bearer {make_token('ann')}")
    response = exchange(server.port, head)
    assert (response.status, response.json["error"]) == (503, "unavailable")
    assert response.header("retry-after") == "5"
    # One of them goes, or is done: there is a place again.
    silent.pop().close()
    until(server, lambda: len(transport_of(server).door._inside) == 2)
    with connect(server.port, head) as link:
        link.upgraded()
        silent[0].send(head.replace(b"GET /ws", b"GET /ws?client=tab-000002"))
        silent[0].upgraded()
        until(server, lambda: len(transport_of(server).door._inside) == 1)
        with connect(server.port, request("/nowhere")) as refused:
            assert refused.response().status == 404
    for link in silent:
        link.close()


def test_silent_sockets_make_place_at_the_deadline(shell: Shell, serve: Serve) -> None:
    clock = VirtualClock()
    server = serve(shell, clock=clock, limits=Limits(max_pending_per_ip=3, handshake_timeout=10.0))
    silent = pending(server, 3)
    server.advance(10.5)
    for link in silent:
        assert link.response().status == 408
        link.close()
    until(server, lambda: not carriers(server))
    with connect(server.port, request("/ws", f"Authorization: Bearer {make_token('ann')}")) as link:
        link.upgraded()


def test_who_never_reads_its_503_is_cut(shell: Shell, serve: Serve) -> None:
    clock = VirtualClock()
    server = serve(shell, clock=clock, limits=Limits(max_pending_per_ip=1, handshake_timeout=300.0))
    (held,) = pending(server, 1)
    turned_away = [connect(server.port) for _ in range(5)]
    until(server, lambda: len(carriers(server)) == 6)
    server.advance(1.5)
    until(server, lambda: len(carriers(server)) == 1)
    for link in [held, *turned_away]:
        link.close()


@pytest.mark.parametrize("name", ["portable-asyncio", "portable-trio"])
def test_without_a_descriptor_left_it_waits_and_goes_on(
    serve: Serve, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """asyncio's own accept, of the callback shell, does the same for itself."""
    server = serve(SHELLS[name])
    head = request("/ws", f"Authorization: Bearer {make_token('ann')}")
    exhausted = threading.Event()

    class Notice(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if getattr(record, "roomwire", {}).get("event") == "exhausted":
                exhausted.set()

    notice = Notice()
    logging.getLogger("roomwire").addHandler(notice)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    sock = socket.socket()
    sock.settimeout(TIMEOUT)
    lowest_free = os.dup(sock.fileno())
    os.close(lowest_free)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
        sock.connect(("127.0.0.1", server.port))
        assert exhausted.wait(TIMEOUT)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        logging.getLogger("roomwire").removeHandler(notice)
    with RawLink(sock) as link:
        link.send(head)
        link.upgraded()
        assert link.event("session.welcome")["data"]["user"] == "ann"
