"""Bytes out: in order and whole, however little the kernel takes; bounded, whoever does not read."""

from __future__ import annotations

import random
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack

import anyio
import anyio.lowlevel
import pytest
import trustme

from roomwire.core.closing import CloseCode
from roomwire.core.frames import Opcode
from roomwire.core.limits import Limits
from roomwire.testing.clock import VirtualClock
from roomwire.transports.anyio.carrier import Carrier, Phase
from roomwire.transports.contract import Message
from tests.server.echoing import EchoServer, echo_server
from tests.server.live import Shell
from tests.server.raw import TIMEOUT, RawLink, connect, frame, request
from tests.tools.echo_server import RAISED, EchoReceiver

MEGABYTES = 4
TINY = 4096


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    """A listening socket whose connections have the least of buffers."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, TINY)
        yield sock


def narrow_link(server: EchoServer, wrap: Callable[[socket.socket], socket.socket] = lambda sock: sock) -> RawLink:
    """A client that takes little at a time."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, TINY)
    sock.settimeout(TIMEOUT)
    sock.connect(("127.0.0.1", server.port))
    link = RawLink(wrap(sock))
    link.send(request("/"))
    link.upgraded()
    return link


def pieces_of(seed: int) -> list[bytes]:
    """4 MB in pieces of random sizes, from one byte to 200 KB."""
    source = random.Random(seed)
    pieces, size = [], 0
    while size < MEGABYTES * 1_000_000:
        piece = source.randbytes(source.choice([1, 100, source.randrange(5000), source.randrange(200_000)]))
        pieces.append(piece)
        size += len(piece)
    return pieces


def write_in_turns(server: EchoServer, pieces: Sequence[bytes], seed: int) -> None:
    """Write as a node does: some blocks in one turn of the loop, then turns without any."""
    source = random.Random(seed)
    link = server.receiver().link
    assert isinstance(link, Carrier)
    block = link.framing.block

    async def write() -> None:
        for piece in pieces:
            if source.random() < 0.5:
                link.write_soon(block([piece]), 1)
            else:
                link.write(block([piece]), 1, counted=False)
            if source.random() < 0.3:
                await anyio.lowlevel.checkpoint()

    server.host.runtime.spawn(write)


@pytest.mark.parametrize("seed", [1, 2])
def test_4_mb_in_random_pieces_arrive_in_order(shell: Shell, listening: socket.socket, seed: int) -> None:
    pieces = pieces_of(seed)
    with echo_server(shell, listen={"fd": listening.fileno()}) as server, narrow_link(server) as link:
        server.call(write_in_turns, server, pieces, seed)
        for number, piece in enumerate(pieces):
            assert link.frame() == (Opcode.BINARY, piece), number
        # Nothing is held any more: the next message goes straight to the socket again.
        link.send_frame(Opcode.BINARY, b"last")
        assert link.frame() == (Opcode.BINARY, b"last")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def test_under_tls_too(shell: Shell, listening: socket.socket, authority: trustme.CA) -> None:
    pieces = pieces_of(3)
    ours, theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(ours)
    authority.configure_trust(theirs)
    with (
        echo_server(shell, listen={"fd": listening.fileno(), "ssl": ours}) as server,
        narrow_link(server, lambda sock: theirs.wrap_socket(sock, server_hostname="localhost")) as link,
    ):
        server.call(write_in_turns, server, pieces, 3)
        for number, piece in enumerate(pieces):
            assert link.frame() == (Opcode.BINARY, piece), number
        link.send_frame(Opcode.BINARY, b"last")
        assert link.frame() == (Opcode.BINARY, b"last")


def test_echo_in_both_directions_at_once(shell: Shell, listening: socket.socket) -> None:
    """While what goes out waits, what comes in is read, and the other way round."""
    with echo_server(shell, listen={"fd": listening.fileno()}) as server, narrow_link(server) as link:
        messages = [bytes([number]) * 30_000 for number in range(100)]
        data = b"".join(frame(Opcode.BINARY, message) for message in messages)
        sending = threading.Thread(target=link.send, args=(data,))
        sending.start()
        assert [link.frame() for _ in messages] == [(Opcode.BINARY, message) for message in messages]
        sending.join(TIMEOUT)


# --- a peer that does not read


class Flood(EchoReceiver):
    """Sends what it is asked for: a message of so many bytes for each number that comes."""

    def received(self, messages: Sequence[Message], frames: int, size: int) -> None:
        assert self.link is not None
        for message in messages:
            count, length = map(int, str(message).split())
            block = self.link.framing.block([b"x" * length])
            for _ in range(count):
                self.link.write(block, 1)


SMALL = Limits(outbox_bytes=100_000, outbox_messages=50, write_timeout=30.0, close_timeout=5.0)


def only_carrier(server: EchoServer) -> Carrier:
    (carrier,) = server.transport.carriers
    return carrier


@pytest.mark.parametrize("wanted", ["60 5000", "100000 1"], ids=["bytes", "messages"])
def test_a_peer_that_does_not_read_is_closed_with_4002(shell: Shell, listening: socket.socket, wanted: str) -> None:
    clock = VirtualClock()  # stands still: what is left can be read
    with (
        echo_server(shell, make_receiver=Flood, limits=SMALL, listen={"fd": listening.fileno()}, clock=clock) as server,
        narrow_link(server) as link,
    ):
        while server.call(lambda: only_carrier(server).phase) is Phase.OPEN:
            link.send_frame(Opcode.TEXT, wanted.encode())
        # What waited was dropped, and the close frame still comes, behind whole frames.
        closing = next(payload for opcode, payload in link.frames() if opcode is Opcode.CLOSE)
        assert closing == (4002).to_bytes(2, "big") + b"too slow"
        link.send_frame(Opcode.CLOSE, closing[:2])
        assert link.frame() is None
        server.until(lambda: server.receiver().ended)
        assert server.receiver().ended == (4002, "", False)


def test_a_peer_that_takes_nothing_for_the_write_timeout_is_closed_with_4002(
    shell: Shell, listening: socket.socket
) -> None:
    clock = VirtualClock()
    with (
        echo_server(shell, make_receiver=Flood, limits=SMALL, listen={"fd": listening.fileno()}, clock=clock) as server,
        narrow_link(server) as link,
    ):
        link.send_frame(Opcode.TEXT, b"1 4000000")  # one block: held by the shell, so it counts towards no limit
        server.until(lambda: only_carrier(server)._blocked)
        server.advance(29.0)
        assert server.call(lambda: only_carrier(server).phase) is Phase.OPEN
        held = server.call(lambda: only_carrier(server)._held())
        while server.call(lambda: only_carrier(server)._held()) == held:
            link.sock.recv(65_536)
        phase, held = server.call(wait, server, clock, 2.0)  # it took some: another 30 s
        assert phase is Phase.OPEN
        while phase is Phase.OPEN:
            before = held
            phase, held = server.call(wait, server, clock, 31.0)
            # What is on its way to a peer arrives when the kernels like.
            assert (phase is Phase.OPEN) is (held < before)
        server.advance(5.5)  # it does not read the close frame either
        server.until(lambda: not server.transport.carriers)
        assert server.receiver().ended == (1006, "", False)


def test_a_link_that_is_cut_when_it_takes_bytes_again_ends_once(
    shell: Shell, listening: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where its peer was gone by then. asyncio ends it as well, and logs an error where it was ended already."""
    with (
        echo_server(shell, make_receiver=Flood, listen={"fd": listening.fileno()}) as server,
        narrow_link(server) as link,
    ):
        link.send_frame(Opcode.TEXT, b"100 5000")
        server.until(lambda: only_carrier(server)._blocked)
        monkeypatch.setattr(Carrier, "_emptied", Carrier.abort)
        link.read_to_end()
        server.until(lambda: not server.transport.carriers)
        assert server.receiver().ended is not None


def wait(server: EchoServer, clock: VirtualClock, seconds: float) -> tuple[Phase, int]:
    """On the loop: move the clock; how the link then is, and what is held in that moment."""
    clock.advance(seconds)
    server.host.wheel.advance(clock())
    carrier = only_carrier(server)
    return carrier.phase, carrier._held()


def test_a_slow_peer_that_reads_is_waited_for(shell: Shell, listening: socket.socket) -> None:
    """4 MB at 100 KB in each write timeout: it is slow, and it is not stuck."""
    clock = VirtualClock()
    with (
        echo_server(shell, make_receiver=Flood, limits=SMALL, listen={"fd": listening.fileno()}, clock=clock) as server,
        narrow_link(server) as link,
    ):
        link.send_frame(Opcode.TEXT, b"1 4000000")
        server.until(lambda: only_carrier(server)._blocked)
        left = 4_000_010
        while left > 100_000:
            left -= len(link.read(100_000))  # which is more than the kernels hold: the server has written some of it
            server.advance(31.0)
        left -= len(link.read(left))
        assert left == 0
        assert server.call(lambda: only_carrier(server).phase) is Phase.OPEN
        link.send_frame(Opcode.TEXT, b"1 1")
        assert link.frame() == (Opcode.BINARY, b"x")


def test_pongs_count_as_what_waits(shell: Shell, listening: socket.socket) -> None:
    """Who floods with pings and reads nothing does not fill our memory with pongs."""
    with (
        echo_server(shell, make_receiver=Flood, limits=SMALL, listen={"fd": listening.fileno()}) as server,
        narrow_link(server) as link,
    ):
        link.send_frame(Opcode.TEXT, b"1 1000000")
        server.until(lambda: only_carrier(server)._blocked)
        ping = frame(Opcode.PING, b"p" * 125)
        while server.call(lambda: only_carrier(server).phase) is Phase.OPEN:
            link.send(ping)
        outbox = server.call(lambda: only_carrier(server)._outbox)
        assert outbox is None or outbox.bytes <= SMALL.outbox_bytes


# --- a message that trickles in


def assert_cut_off(server: EchoServer, link: RawLink) -> None:
    """Closed with 4004; a peer in the midst of a frame cannot answer, and is cut when its time is up."""
    assert link.frame() == (Opcode.CLOSE, (4004).to_bytes(2, "big") + b"rate limit")
    server.advance(5.5)
    assert link.frame() is None


def test_a_message_below_the_byte_rate_is_closed_with_4004(shell: Shell) -> None:
    clock = VirtualClock()
    limits = Limits(min_byte_rate=1024.0, byte_rate_grace=10.0)
    with echo_server(shell, limits=limits, clock=clock) as server, connect(server.port, request("/")) as link:
        link.upgraded()
        whole = frame(Opcode.BINARY, b"x" * 60_000)
        link.send(whole[:20_000])
        server.until(lambda: (floor := only_carrier(server)._floor) is not None and floor._size == 20_000)
        server.advance(10.5)  # 2 KB/s so far
        assert server.call(lambda: only_carrier(server).phase) is Phase.OPEN
        link.send(whole[20_000:20_001])
        server.advance(10.5)
        assert_cut_off(server, link)


def test_the_byte_rate_does_not_count_while_reading_is_paused(shell: Shell) -> None:
    clock = VirtualClock()
    limits = Limits(min_byte_rate=1024.0, byte_rate_grace=10.0)
    with echo_server(shell, limits=limits, clock=clock) as server, connect(server.port, request("/")) as link:
        link.upgraded()
        whole = frame(Opcode.BINARY, b"x" * 60_000)
        link.send(whole[:100])
        server.until(lambda: only_carrier(server)._floor)
        server.call(lambda: only_carrier(server).pause_reading())
        server.advance(100.0)
        assert server.call(lambda: only_carrier(server).phase) is Phase.OPEN
        server.call(lambda: only_carrier(server).resume_reading())
        server.advance(9.0)
        link.send(whole[100:])
        assert link.frame() == (Opcode.BINARY, b"x" * 60_000)
        # And from the resume on it counts again.
        link.send(whole[:100])
        server.until(lambda: only_carrier(server)._floor)
        server.call(lambda: only_carrier(server).pause_reading())
        server.call(lambda: only_carrier(server).resume_reading())
        server.advance(10.5)
        assert_cut_off(server, link)


def test_a_write_to_a_peer_that_is_gone_is_told_once_and_not_in_the_write(shell: Shell) -> None:
    """The fan-out goes on, and the receiver hears of the end when the link is lost."""
    with echo_server(shell, limits=RAISED) as server:
        link = connect(server.port, request("/"))
        link.upgraded()
        server.until(lambda: server.transport.carriers and only_carrier(server).phase is Phase.OPEN)

        def write_to_the_dead() -> list[object]:
            # The reset is in the kernel before the loop has looked at the socket again.
            link.reset()
            receiver = server.receiver()
            assert receiver.link is not None
            block = receiver.link.framing.block(["hello"])
            for _ in range(3):
                receiver.link.write(block, 1)
            return [receiver.ended]

        assert server.call(write_to_the_dead) == [None]
        server.until(lambda: server.receiver().ended)
        assert server.receiver().ended == (CloseCode.ABNORMAL, "", False)
        server.until(lambda: not server.transport.carriers)


def test_a_link_that_ended_writes_to_nobody_elses_socket(shell: Shell) -> None:
    """The kernel gives the descriptor of a closed socket to the next one: a link that is kept must not use it."""
    with echo_server(shell) as server:
        with ExitStack() as stack:
            links: list[RawLink] = []

            def open_some(count: int) -> None:
                for _ in range(count):
                    links.append(stack.enter_context(connect(server.port, request("/"))))
                    links[-1].upgraded()

            open_some(8)
            carriers = server.transport.carriers
            server.until(lambda: [carrier.phase for carrier in carriers] == [Phase.OPEN] * 8)
            stale = server.call(lambda: list(carriers))
            numbers = server.call(lambda: {carrier._fd for carrier in stale})
            server.call(lambda: [carrier.abort() for carrier in stale])
            server.until(lambda: not carriers)
            # Our own ends of the old ones keep their numbers. Of the server's, ours of the new ones get some.
            open_some(20)
            given = server.call(lambda: {carrier._fd for carrier in carriers})
            for carrier in stale:
                server.call(carrier.write, carrier.framing.block(["for the dead"]), 1)
                server.call(carrier.ping)
            for link in links[8:]:
                link.send_frame(Opcode.TEXT, b"mine")
                assert link.frame() == (Opcode.TEXT, b"mine")
        assert numbers & given, "no number was given again: the test proves nothing"
