"""The exchange: to whom a connection goes, and that none is lost where a worker ends or hangs. Real sockets."""

from __future__ import annotations

import asyncio
import resource
import socket
import struct
import sys
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from roomwire.cli._workers.exchange import Exchange, Line


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        listener.setblocking(False)
        yield listener


class Clients:
    """Connections to a listener; which worker has one is seen by its port."""

    def __init__(self, listener: socket.socket) -> None:
        self._address = listener.getsockname()
        self.sockets: list[socket.socket] = []

    def connect(self, count: int = 1) -> None:
        self.sockets += [socket.create_connection(self._address) for _ in range(count)]

    @property
    def ports(self) -> list[int]:
        return [sock.getsockname()[1] for sock in self.sockets]


@pytest.fixture
def clients(listening: socket.socket) -> Iterator[Clients]:
    made = Clients(listening)
    yield made
    for sock in made.sockets:
        sock.close()


class Hand:
    """A worker's end of a line: takes what is there, when told to."""

    def __init__(self) -> None:
        self.line = Line()
        self.far = self.line.far.dup()  # a worker has a copy of its own
        self.taken: list[socket.socket] = []

    async def take(self, count: int) -> list[int]:
        """Take so many; returns the ports of their clients."""
        ports: list[int] = []
        while len(ports) < count:
            try:
                _, (descriptor,), _, _ = socket.recv_fds(self.far, 1, 1)
            except BlockingIOError:
                await _readable(self.far)
                continue
            self.taken.append(socket.socket(fileno=descriptor))
            ports.append(self.taken[-1].getpeername()[1])
        return ports

    def say(self, taken: int, now_open: int) -> None:
        self.far.send(struct.pack("!QQ", taken, now_open))

    def close(self) -> None:
        for sock in (*self.taken, self.far):
            sock.close()


@pytest.fixture
def hands() -> Iterator[list[Hand]]:
    made = [Hand(), Hand()]
    yield made
    for hand in made:
        hand.close()
        hand.line.close()


@pytest.fixture
async def exchange(listening: socket.socket, hands: list[Hand], anyio_backend: str) -> AsyncIterator[Exchange]:
    made = Exchange([listening])
    yield made
    made.close()


async def _readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(sock, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(sock)


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110  what is waited for comes in a turn of this loop
        await asyncio.sleep(0)


pytestmark = pytest.mark.anyio


async def test_nothing_is_accepted_before_it_opens(exchange: Exchange, clients: Clients, hands: list[Hand]) -> None:
    exchange.add(hands[0].line)
    clients.connect()
    for _ in range(10):
        await asyncio.sleep(0)
    assert hands[0].line.load == 0
    exchange.open()
    assert await hands[0].take(1) == clients.ports


async def test_each_goes_to_who_has_the_fewest(exchange: Exchange, clients: Clients, hands: list[Hand]) -> None:
    for hand in hands:
        exchange.add(hand.line)
    exchange.open()
    clients.connect(8)
    assert sorted(await hands[0].take(4) + await hands[1].take(4)) == sorted(clients.ports)
    # Three of the second one's have ended: the next three are its own.
    hands[0].say(4, 4)
    hands[1].say(4, 1)
    await until(lambda: hands[0].line.load == 4)
    await until(lambda: hands[1].line.load == 1)
    clients.connect(3)
    assert await hands[1].take(3) == clients.ports[-3:]
    assert hands[0].line.load == hands[1].line.load == 4


async def test_a_report_in_pieces(exchange: Exchange, hands: list[Hand]) -> None:
    hand = hands[0]
    exchange.add(hand.line)
    for byte in struct.pack("!QQQQ", 0, 9, 0, 7):
        hand.far.send(bytes([byte]))
        await asyncio.sleep(0)
    await until(lambda: hand.line.load == 7)


async def test_a_worker_that_hangs_is_passed_over(exchange: Exchange, clients: Clients, hands: list[Hand]) -> None:
    """It gets what its line holds; all the others go to who takes them, and nobody waits for it."""
    for hand in hands:
        exchange.add(hand.line)
    exchange.open()
    clients.connect(100)
    await until(lambda: hands[0].line.full)
    held = hands[0].line.load
    assert 0 < held < 50
    others = await hands[1].take(100 - held)
    # It goes on: its own were kept.
    assert sorted(others + await hands[0].take(held)) == sorted(clients.ports)


async def test_where_all_hang_they_wait(exchange: Exchange, clients: Clients, hands: list[Hand]) -> None:
    exchange.add(hands[0].line)
    exchange.open()
    clients.connect(100)
    await until(lambda: hands[0].line.full)
    assert await hands[0].take(100) == clients.ports


async def test_what_a_worker_did_not_take_goes_to_another(
    exchange: Exchange, clients: Clients, hands: list[Hand]
) -> None:
    exchange.add(hands[0].line)
    exchange.open()
    clients.connect(100)
    await until(lambda: hands[0].line.full)
    taken = await hands[0].take(2)
    exchange.remove(hands[0].line)  # as when its process ended: now there is none
    exchange.add(hands[1].line)
    assert sorted(taken + await hands[1].take(98)) == sorted(clients.ports)


async def test_a_worker_that_says_that_it_takes_no_more(
    exchange: Exchange, clients: Clients, hands: list[Hand]
) -> None:
    """As one that was told to end by somebody else than its parent, and drains: nobody waits for that."""
    exchange.add(hands[0].line)
    exchange.open()
    clients.connect(5)
    taken = await hands[0].take(2)
    await until(lambda: hands[0].line.load == 5)
    exchange.add(hands[1].line)
    hands[0].far.shutdown(socket.SHUT_WR)
    assert sorted(taken + await hands[1].take(3)) == sorted(clients.ports)
    exchange.remove(hands[0].line)  # its process has ended, too


async def test_closed_with_connections_that_nobody_took(
    exchange: Exchange, clients: Clients, hands: list[Hand]
) -> None:
    """They end, as those in the queue of a socket that is closed."""
    exchange.add(hands[0].line)
    exchange.open()
    clients.connect(30)
    await until(lambda: hands[0].line.full)
    exchange.close()
    taken = hands[0].line
    assert taken.near.fileno() == taken.far.fileno() == -1
    sock = clients.sockets[0]
    sock.setblocking(False)
    await _readable(sock)
    assert sock.recv(1) == b""


async def test_without_a_descriptor_left_it_tries_again(
    exchange: Exchange,
    clients: Clients,
    hands: list[Hand],
    listening: socket.socket,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And says so once, not with each attempt."""
    monkeypatch.setattr("roomwire.cli._workers.exchange._EXHAUSTED_PAUSE", 0.0)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    exchange.add(hands[0].line)
    clients.connect()
    with socket.socket() as probe:
        lowest = probe.fileno()
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
    try:
        exchange.open()
        await until(lambda: caplog.records)
        for _ in range(100):  # an attempt in each turn or two
            await asyncio.sleep(0)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert caplog.messages == ["cannot accept connections now"]
    assert await hands[0].take(1) == clients.ports


TOO_MANY = """
import asyncio, encodings.idna, os, resource, socket
from roomwire.cli._workers import exchange

async def main():
    exchange._EXHAUSTED_PAUSE = 3600.0
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()):
        listener.setblocking(False)
        exchanged, tries = exchange.Exchange([listener]), []
        class Line(exchange.Line):
            def hand(self, connection):
                tries.append(self)
                super().hand(connection)
        lines = [Line(), Line()]
        for line in lines:
            exchanged.add(line)
        pairs = [socket.socketpair() for _ in range(8)]
        for near, _ in pairs:
            for _ in range(10):
                socket.send_fds(near, [b"x"], [0])
        resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60))
        exchanged.open()
        for _ in range(100):
            await asyncio.sleep(0)
        assert tries == lines, len(tries)

if os.getuid() == 0:  # for whom there is no such limit
    os.setgid(65534)
    os.setuid(65534)
asyncio.run(main())
"""


async def test_too_many_on_all_lines_are_waited_for_and_not_tried_in_every_turn() -> None:
    """unix(7), ETOOMANYREFS: what hangs of all processes of a user counts, and the lines look writable."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", TOO_MANY, stderr=asyncio.subprocess.PIPE)
    _, told = await process.communicate()
    assert process.returncode == 0, told.decode()
    assert told.decode().count("cannot accept connections now") == 1
