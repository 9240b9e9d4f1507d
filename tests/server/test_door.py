"""The door: how many handshakes at once, from where, and in which turns of the loop."""

from __future__ import annotations

import gc
import logging
import os
import resource
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from itertools import cycle

import pytest

from roomwire.core.frames import Opcode
from roomwire.core.limits import Limits
from roomwire.testing.clock import VirtualClock
from roomwire.transports.anyio.carrier import Carrier
from roomwire.transports.anyio.door import HANDSHAKES_PER_TURN, Door
from tests.server.conftest import Serve
from tests.server.live import SHELLS, LiveServer, Shell, make_token
from tests.server.raw import TIMEOUT, RawLink, connect, exchange, frame, request
from tests.server.watching import carriers, counts_by_turn, transport_of, until


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


def test_a_fault_with_one_does_not_keep_the_others_waiting() -> None:
    turns = Turns()
    door = Door(Limits(max_pending_per_ip=1000), turns)

    class Broken(Guest):
        def enter(self) -> None:
            raise RuntimeError("planted")

    guests = [Guest() for _ in range(HANDSHAKES_PER_TURN)]
    guests += [Broken(), *(Guest() for _ in range(3))]
    for guest in guests:
        assert door.has_place(guest)
        guest.entered = door.knock(guest)
    with pytest.raises(RuntimeError, match="planted"):
        turns.turn()
    turns.turn()
    assert [guest.entered for guest in guests] == [True] * HANDSHAKES_PER_TURN + [False] + [True] * 3


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


@pytest.fixture
def dealt_with(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many requests were refused or handed to the node, in each turn of the door."""
    counts = counts_by_turn(monkeypatch, HANDSHAKES_PER_TURN)

    def count(function: Callable[..., None]) -> Callable[..., None]:
        def counted(*arguments: object) -> None:
            counts[-1] += 1
            function(*arguments)

        return counted

    monkeypatch.setattr(Carrier, "wait_for_decision", count(Carrier.wait_for_decision))
    monkeypatch.setattr(Carrier, "refuse", count(Carrier.refuse))
    return counts


@pytest.mark.parametrize("here", [False, True], ids=["who connects", "who is connected"])
def test_1000_that_ask_in_one_turn_are_let_in_a_few_at_a_time_and_all_served(
    shell: Shell, serve: Serve, many_files: None, dealt_with: list[int], here: bool
) -> None:
    # The clock stands: a busy machine may take longer for a thousand than one handshake has.
    limits = Limits(max_pending_per_ip=1000, connections_per_user=1000)
    server = serve(shell, clock=VirtualClock(), limits=limits)
    head = request("/ws", f"Authorization: Bearer {make_token('nobody')}")
    links = pending(server, 1000) if here else []

    def ask() -> None:
        # On the server's own loop: it sees none of them before it sees all.
        links.extend(connect(server.port) for _ in range(1000 - len(links)))
        for link in links:
            link.send(head)

    server.call(ask)
    for link in links:
        link.upgraded()
        assert link.event("session.welcome")["data"]["user"] == "nobody"
    assert server.call(lambda: len(server.node.connections)) == 1000
    assert sum(dealt_with) == 1000
    assert max(dealt_with) <= HANDSHAKES_PER_TURN
    for link in links:
        link.close()
    until(server, lambda: not server.node.connections)
    assert transport_of(server).door._inside == set()


REFUSED = [
    (b"\x16\x03\x01", 400),  # of a TLS hello
    (b"GET /" + b"a" * 9000, 400),
    (b"GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n", 404),
]


def test_refusals_have_their_turn_too(shell: Shell, serve: Serve, dealt_with: list[int]) -> None:
    """What is no request costs its answer and a line of the log."""
    server = serve(shell, limits=Limits(max_pending_per_ip=1000))
    links = pending(server, 200)

    def ask() -> None:
        for link, (data, _) in zip(links, cycle(REFUSED), strict=False):
            link.send(data)

    server.call(ask)
    for link, (_, status) in zip(links, cycle(REFUSED), strict=False):
        assert link.response().status == status
        link.close()
    assert sum(dealt_with) == 200
    assert max(dealt_with) <= HANDSHAKES_PER_TURN
    until(server, lambda: not carriers(server))


def test_one_that_leaves_while_it_waits_is_gone_and_the_others_are_served(shell: Shell, serve: Serve) -> None:
    server = serve(shell, limits=Limits(max_pending_per_ip=1000, connections_per_user=1000))
    head = request("/ws", f"Authorization: Bearer {make_token('nobody')}")
    links = pending(server, 10 * HANDSHAKES_PER_TURN)

    def ask() -> None:
        for link in links:
            link.send(head)
        for link in links[1::2]:
            link.reset()

    server.call(ask)
    for link in links[::2]:
        link.upgraded()
        assert link.event("session.welcome")["data"]["user"] == "nobody"
    until(server, lambda: len(server.node.connections) == len(links) / 2)
    for link in links[::2]:
        link.close()
    until(server, lambda: not server.node.connections)
    assert transport_of(server).door._inside == set()


def test_what_comes_while_it_waits_is_kept(shell: Shell, serve: Serve) -> None:
    """A frame that is sent ahead of the answer: behind the head in one piece, or while the socket waits."""
    server = serve(shell, limits=Limits(max_pending_per_ip=1000, connections_per_user=1000))
    head = request("/ws", f"Authorization: Bearer {make_token('nobody')}")
    early = frame(Opcode.PING, b"early")
    links = pending(server, 4 * HANDSHAKES_PER_TURN)

    def ask() -> None:
        for link in links[::2]:
            link.send(head + early)
        for link in links[1::2]:
            link.send(head)

    server.call(ask)
    for link in links[1::2]:
        link.send(early)
    for link in links:
        link.upgraded()
        assert link.event("session.welcome")["data"]["user"] == "nobody"
        assert link.frame() == (Opcode.PONG, b"early")
        link.close()


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


def test_who_has_asked_in_time_and_had_no_turn_is_told_to_come_again(
    shell: Shell, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = VirtualClock()
    server = serve(shell, clock=clock)
    monkeypatch.setattr(Door, "knock", lambda *_: False)
    with connect(server.port, request("/ws")) as link, connect(server.port, b"GET / HTTP/1.1\r\n") as slow:
        until(server, lambda: sorted(carrier._opening.waits for carrier in carriers(server)) == [False, True])  # type: ignore[union-attr]
        server.advance(10.5)
        response = link.response()
        assert (response.status, response.header("retry-after")) == (503, "5")
        assert slow.response().status == 408


def test_of_what_is_no_request_nothing_is_kept_while_it_waits(
    shell: Shell, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(shell)
    monkeypatch.setattr(Door, "knock", lambda *_: False)
    with connect(server.port, b"\x16" * 100_000) as link:
        until(server, lambda: [carrier._opening.waits for carrier in carriers(server)] == [True])  # type: ignore[union-attr]
        (carrier,) = carriers(server)
        assert not carrier._opening._parser._buffer  # type: ignore[union-attr]
        link.reset()


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
    gc.collect()  # else what earlier tests left might be closed, and its descriptors free, in the midst of this
    taken = [os.dup(sock.fileno())]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (taken[0], hard))
        os.close(taken.pop())
        with suppress(OSError):  # lower ones that are free all the same
            while True:
                taken.append(os.dup(sock.fileno()))
        sock.connect(("127.0.0.1", server.port))
        assert exhausted.wait(TIMEOUT)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        logging.getLogger("roomwire").removeHandler(notice)
        for number in taken:
            os.close(number)
    with RawLink(sock) as link:
        link.send(head)
        link.upgraded()
        assert link.event("session.welcome")["data"]["user"] == "ann"
