"""One block to many sockets by the ring: whole and in order for each, whatever becomes of the others."""

from __future__ import annotations

import errno
import logging
import random
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import anyio
import anyio.lowlevel
import pytest

from roomwire.core.closing import CloseCode, Closing
from roomwire.core.frames import Opcode
from roomwire.core.limits import Limits
from roomwire.transports.anyio import ring
from roomwire.transports.anyio.carrier import Carrier, Phase
from roomwire.transports.anyio.ring import SendRing
from roomwire.transports.anyio.spreading import FEW
from tests.server.conftest import Serve
from tests.server.echoing import EchoServer, echo_server
from tests.server.live import SHELLS, Shell
from tests.server.raw import RawLink, connect, request
from tests.server.test_writes import listening, narrow_link
from tests.server.watching import transport_of

__all__ = ["listening"]

MEMBERS = 12
SMALL = Limits(outbox_bytes=100_000, outbox_messages=50, write_timeout=300.0, close_timeout=300.0)


@pytest.fixture(autouse=True)
def granted() -> None:
    try:
        SendRing().close()
    except OSError as error:
        pytest.skip(f"the kernel grants no ring: {error}")


class Crowd:
    """Clients of one server, each with its carrier."""

    def __init__(self, server: EchoServer, links: list[RawLink]) -> None:
        self.server = server
        self.links = links
        self.carriers = [self._carrier(number) for number in range(len(links))]
        server.transport.spreader.few = 1

    def _carrier(self, number: int) -> Carrier:
        link = self.server.receiver(number).link
        assert isinstance(link, Carrier)
        return link

    def spread(self, payload: bytes, *, counted: bool = True) -> None:
        """On the server's loop: one message to all."""
        carriers = self.carriers
        carriers[0].spread(carriers, carriers[0].framing.block([payload]), 1, counted=counted)

    def used_ring(self) -> bool:
        return self.server.transport.spreader._ring is not None


def crowd_of(server: EchoServer, stack: ExitStack, *, narrow: bool = False) -> Crowd:
    links = []
    for number in range(MEMBERS):
        # One after the other, so that receivers are in the order of the links.
        link = narrow_link(server) if narrow else connect(server.port, request("/"))
        if not narrow:
            link.upgraded()
        links.append(stack.enter_context(link))
        server.until(lambda: len(server.host.receivers) == number + 1 and server.receiver().link)  # noqa: B023
    return Crowd(server, links)


@pytest.fixture
def crowd(shell: Shell) -> Iterator[Crowd]:
    with echo_server(shell, limits=SMALL) as server, ExitStack() as stack:
        yield crowd_of(server, stack)


def test_pieces_of_all_sizes_arrive_whole_and_in_order_though_the_peers_take_little(
    shell: Shell, listening: socket.socket
) -> None:
    source = random.Random(5)
    rounds = [
        # The first one finds nothing before it, and goes by the ring.
        [source.randbytes(source.choice(sizes)) for sizes in ([1, 5000, 60_000], *[[1, 100, 5000, 60_000, 70_000]] * 6)]
        for _ in range(12)
    ]
    with echo_server(shell, listen={"fd": listening.fileno()}) as server, ExitStack() as stack:
        crowd = crowd_of(server, stack, narrow=True)

        async def write(pieces: list[bytes]) -> None:
            for piece in pieces:
                crowd.spread(piece, counted=False)
                if source.random() < 0.3:
                    await anyio.lowlevel.checkpoint()

        for pieces in rounds:
            server.call(server.host.runtime.spawn, write, pieces)
            for link in crowd.links:
                assert [link.frame() for _ in pieces] == [(Opcode.BINARY, piece) for piece in pieces]
            server.until(lambda: not any(carrier.queued() for carrier in crowd.carriers))
        assert crowd.used_ring()
        assert [carrier.sent for carrier in crowd.carriers] == [len(rounds) * len(rounds[0])] * MEMBERS
        # Nothing waits any more: the next one goes straight to the sockets.
        server.call(crowd.spread, b"last")
        assert [link.frame() for link in crowd.links] == [(Opcode.BINARY, b"last")] * MEMBERS


def test_who_does_not_read_is_closed_with_4002_and_the_others_get_all(crowd: Crowd) -> None:
    slow, others = crowd.links[3], crowd.links[:3] + crowd.links[4:]
    payload, sent = b"x" * 20_000, 0
    while crowd.server.call(lambda: crowd.carriers[3].phase) is Phase.OPEN:
        crowd.server.call(crowd.spread, payload)
        sent += 1
        for link in others:
            assert link.frame() == (Opcode.BINARY, payload)
    # What waited was dropped, and what did go out are whole frames, with the close behind them.
    read = 0
    while (found := slow.frame()) == (Opcode.BINARY, payload):
        read += 1
    assert found == (Opcode.CLOSE, (4002).to_bytes(2, "big") + b"too slow")
    assert 0 < read < sent
    assert crowd.used_ring()


def test_a_peer_that_is_gone_costs_the_others_nothing(crowd: Crowd) -> None:
    def reset_and_spread() -> None:
        crowd.links[5].reset()
        crowd.spread(b"one")
        crowd.spread(b"two")

    crowd.server.call(reset_and_spread)
    crowd.server.until(lambda: crowd.server.receiver(5).ended)
    assert crowd.server.receiver(5).ended == (1006, "", False)
    crowd.server.call(crowd.spread, b"three")
    for link in crowd.links[:5] + crowd.links[6:]:
        assert [link.frame() for _ in range(3)] == [(Opcode.BINARY, text) for text in (b"one", b"two", b"three")]


def test_nothing_follows_a_close_frame(crowd: Crowd) -> None:
    def close_and_spread() -> None:
        crowd.carriers[2].close(Closing.of(CloseCode.REMOVED))
        crowd.spread(b"behind it")

    crowd.server.call(close_and_spread)
    crowd.links[2].send_frame(Opcode.CLOSE, CloseCode.REMOVED.to_bytes(2, "big"))
    assert crowd.links[2].close_frame() == (CloseCode.REMOVED, "removed by the application")
    assert crowd.carriers[2].sent == 0
    assert crowd.links[3].frame() == (Opcode.BINARY, b"behind it")


def test_a_link_that_is_being_opened_gets_it_behind_its_first_words(crowd: Crowd) -> None:
    def spread_meanwhile() -> None:
        carrier = crowd.carriers[6]
        carrier._cork = [carrier.framing.block([b"welcome"])]
        crowd.spread(b"one")
        carrier._uncork()
        crowd.spread(b"two")

    crowd.server.call(spread_meanwhile)
    assert [crowd.links[6].frame() for _ in range(3)] == [
        (Opcode.BINARY, text) for text in (b"welcome", b"one", b"two")
    ]
    assert [crowd.links[7].frame() for _ in range(2)] == [(Opcode.BINARY, text) for text in (b"one", b"two")]


def test_a_kernel_without_memory_is_as_if_no_socket_took_anything(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    crowd.server.call(crowd.spread, b"one")
    granted = crowd.server.transport.spreader._ring
    assert granted is not None
    call = granted._call

    def refuse(number: int, fd: int, count: int, *rest: int) -> int:
        return call(number, fd, 0, 0, *rest[1:]) if count else call(number, fd, count, *rest)

    def spread_while_refused() -> None:
        monkeypatch.setattr(granted, "_call", refuse)
        crowd.spread(b"two")
        monkeypatch.undo()

    crowd.server.call(spread_while_refused)
    crowd.server.call(crowd.spread, b"three")
    for link in crowd.links:
        assert [link.frame() for _ in range(3)] == [(Opcode.BINARY, text) for text in (b"one", b"two", b"three")]


class FaultError(Exception):
    """Of ours."""


def break_the_ring(crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
    ring = crowd.server.transport.spreader._make_ring()
    assert ring is not None
    call = ring._call

    def raise_behind_it(*arguments: int) -> int:
        call(*arguments)
        raise FaultError

    monkeypatch.setattr(ring, "_call", raise_behind_it)


def break_a_link(crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
    carriers = crowd.carriers
    hand_over = type(carriers[0])._hand_over

    def raise_for_one(carrier: Carrier, data: bytes) -> None:
        if carrier is carriers[4]:
            raise FaultError
        hand_over(carrier, data)

    monkeypatch.setattr(type(carriers[0]), "_hand_over", raise_for_one)


@pytest.mark.parametrize("fault", [break_the_ring, break_a_link])
def test_a_fan_out_that_is_cut_short_ends_the_links_of_which_nobody_knows_what_they_have(
    shell: Shell,
    listening: socket.socket,
    monkeypatch: pytest.MonkeyPatch,
    fault: Callable[[Crowd, pytest.MonkeyPatch], None],
) -> None:
    """A frame behind a part of another would be read as the rest of it."""
    with echo_server(shell, listen={"fd": listening.fileno()}) as server, ExitStack() as stack:
        crowd = crowd_of(server, stack, narrow=True)
        fault(crowd, monkeypatch)

        def spread_twice() -> bytes:
            with pytest.raises(FaultError):
                crowd.spread(b"x" * 60_000)
            monkeypatch.undo()
            crowd.spread(b"more")
            return bytes(crowd.carriers[0].framing.block([b"x" * 60_000]))

        frame = server.call(spread_twice)
        for link in crowd.links:
            assert frame.startswith(link.read_to_end())
        assert not crowd.used_ring()


# --- whole servers


def hears(serve: Serve, shell: Shell) -> SendRing | None:
    """A server whose room hears what one of its members says; returns the ring that it did so with."""
    server = serve(shell)
    ann, *others = (server.connect(name) for name in ("ann", "bob", "eve"))
    sent = ann.request("message.send", {"content": "hello"}, room="chat:general")["data"]["id"]
    for other in others:
        assert other.receive_until("message.new")["id"] == sent
    return transport_of(server).spreader._ring


def test_a_room_is_written_to_by_the_ring_unless_the_configuration_says_otherwise(serve: Serve, shell: Shell) -> None:
    assert (hears(serve, shell) is not None) is shell.io_uring


def test_a_kernel_that_grants_no_ring_costs_nothing_but_a_line_of_the_log(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "roomwire")

    def refuse() -> object:
        raise PermissionError(errno.EPERM, "refused")

    monkeypatch.setattr(ring, "_system_call", refuse)
    assert hears(serve, SHELLS["callback-uvloop"]) is None
    told = [record.roomwire for record in caplog.records if getattr(record, "roomwire", {}).get("event") == "no_ring"]  # type: ignore[attr-defined]
    assert told == [{"event": "no_ring", "error": "refused"}]


def test_few_members_are_written_to_one_by_one(serve: Serve) -> None:
    server = serve(SHELLS["callback-uvloop"])
    spreader = transport_of(server).spreader
    spreader.few = FEW
    ann, bob = (server.connect(name) for name in ("ann", "bob"))
    ann.request("message.send", {"content": "hello"}, room="chat:general")
    bob.receive_until("message.new")
    assert spreader._ring is None
