"""How a WebSocket ends (RFC 6455 section 7), and that nothing is written after a close frame."""

from __future__ import annotations

import math
import socket
import struct
from collections.abc import Sequence

import pytest

from roomwire.core.closing import REASONS, CloseCode, Closing
from roomwire.core.frames import Opcode, build_masked_frame
from roomwire.core.limits import Limits
from roomwire.testing.clock import VirtualClock
from roomwire.transports.anyio.carrier import Carrier, Phase
from roomwire.transports.contract import Message
from tests.server.echoing import EchoServer, echo_server
from tests.server.live import Shell
from tests.server.raw import RawLink, connect, frame, request
from tests.tools.echo_server import EchoReceiver

MASK = b"\1\2\3\4"
LIMITS = Limits(max_message_size=1000, close_timeout=5.0)


def close_payload(code: int, reason: str = "") -> bytes:
    return struct.pack("!H", code) + reason.encode()


def only_carrier(server: EchoServer) -> Carrier:
    (carrier,) = server.transport.carriers
    return carrier


def opened(server: EchoServer) -> RawLink:
    """A client whose handshake is done."""
    link = connect(server.port, request("/"))
    link.upgraded()
    return link


# --- the peer begins


@pytest.mark.parametrize("code", [1000, 1001, 3000, 4999])
def test_the_peers_close_is_echoed_and_tcp_is_closed_by_us(shell: Shell, code: int) -> None:
    with echo_server(shell) as server, opened(server) as link:
        link.send_frame(Opcode.CLOSE, close_payload(code, "bye"))
        assert link.frame() == (Opcode.CLOSE, close_payload(code))
        # Our end comes before the client's: the server closes first (RFC 6455 section 7.1.1).
        assert link.frame() is None
        server.until(lambda: server.receiver().ended)
        assert server.receiver().ended == (code, "bye", True)
        link.close()
        server.until(lambda: not server.transport.carriers)


def test_a_close_without_a_code_is_echoed_without_one(shell: Shell) -> None:
    with echo_server(shell) as server, opened(server) as link:
        link.send_frame(Opcode.CLOSE)
        assert link.frame() == (Opcode.CLOSE, b"")
        assert link.frame() is None
        server.until(lambda: server.receiver().ended)
        assert server.receiver().ended == (1005, "", True)


def test_what_comes_after_the_peers_close_is_not_read(shell: Shell) -> None:
    with echo_server(shell) as server, opened(server) as link:
        link.send(frame(Opcode.CLOSE, close_payload(1000)) + frame(Opcode.TEXT, b"late"))
        assert list(link.frames()) == [(Opcode.CLOSE, close_payload(1000))]


def test_what_a_message_before_the_peers_close_brings_about_goes_out_before_ours(shell: Shell) -> None:
    """The echo of a close is a close frame too: nothing follows it (RFC 6455 section 5.5.1)."""
    with echo_server(shell) as server, opened(server) as link:
        link.send(frame(Opcode.TEXT, b"in time") + frame(Opcode.PING, b"p") + frame(Opcode.CLOSE, close_payload(1000)))
        expected = [(Opcode.TEXT, b"in time"), (Opcode.PONG, b"p"), (Opcode.CLOSE, close_payload(1000))]
        assert list(link.frames()) == expected


class AnswersLate(EchoReceiver):
    """Writes after the end was told to it, too."""

    def lost(self, code: int, reason: str, *, by_peer: bool, cause: BaseException | None = None) -> None:
        super().lost(code, reason, by_peer=by_peer, cause=cause)
        self.received(["late"], 1, 4)


def test_and_what_comes_later_does_not_go_out(shell: Shell) -> None:
    with echo_server(shell, make_receiver=AnswersLate) as server, opened(server) as link:
        link.send(frame(Opcode.TEXT, b"in time") + frame(Opcode.CLOSE, close_payload(1000)))
        assert list(link.frames()) == [(Opcode.TEXT, b"in time"), (Opcode.CLOSE, close_payload(1000))]


class ClosesAtAMessage(EchoReceiver):
    """Begins a close of its own with each message."""

    def received(self, messages: Sequence[Message], frames: int, size: int) -> None:
        super().received(messages, frames, size)
        for _ in messages:
            self.close(CloseCode.RATE_LIMITED)


def test_two_closes_in_one_block_are_one_close_frame(shell: Shell) -> None:
    """The peer's close was read with the message that made us begin ours."""
    with echo_server(shell, make_receiver=ClosesAtAMessage) as server, opened(server) as link:
        link.send(frame(Opcode.TEXT, b"x") + frame(Opcode.CLOSE, close_payload(1000)))
        assert list(link.frames()) == [(Opcode.TEXT, b"x"), (Opcode.CLOSE, close_payload(1000))]
        server.until(lambda: server.receiver().ended)
        assert server.receiver().ended == (1000, "", True)


@pytest.mark.parametrize("broken", [b"\xc1\x80\0\0\0\0", b"\x83\x80\0\0\0\0"])
def test_a_message_before_a_fault_is_answered_before_the_close(shell: Shell, broken: bytes) -> None:
    with echo_server(shell) as server, opened(server) as link:
        link.send(frame(Opcode.TEXT, b"in time") + broken)
        assert list(link.frames()) == [(Opcode.TEXT, b"in time"), (Opcode.CLOSE, close_payload(1002, "protocol error"))]


# --- the peer breaks the protocol

FAULTS: dict[str, tuple[bytes, int]] = {
    "unmasked": (b"\x81\x01x", 1002),
    "a reserved bit": (bytes([0xC1]) + frame(Opcode.TEXT, b"x")[1:], 1002),
    "a reserved opcode": (bytes([0x83]) + frame(Opcode.TEXT, b"x")[1:], 1002),
    "a fragmented ping": (frame(Opcode.PING, b"x", fin=False), 1002),
    "a continuation of nothing": (frame(Opcode.CONTINUATION, b"x"), 1002),
    "a new message within another": (frame(Opcode.TEXT, b"x", fin=False) + frame(Opcode.TEXT, b"y"), 1002),
    "a close with half a code": (frame(Opcode.CLOSE, b"\x03"), 1002),
    "a close code that may not be sent": (frame(Opcode.CLOSE, close_payload(1005)), 1002),
    "a close reason that is not UTF-8": (frame(Opcode.CLOSE, close_payload(1000) + b"\xff"), 1007),
    "text that is not UTF-8": (frame(Opcode.TEXT, b"\xff"), 1007),
    "a message over the limit": (frame(Opcode.BINARY, b"x" * 1001), 1009),
    "fragments over the limit": (
        frame(Opcode.BINARY, b"x" * 600, fin=False) + frame(Opcode.CONTINUATION, b"x" * 401),
        1009,
    ),
    "a header that declares 2^62 bytes": (b"\x82\xff" + (2**62).to_bytes(8, "big") + MASK, 1009),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_peer_is_answered_with_its_code(shell: Shell, fault: str) -> None:
    data, code = FAULTS[fault]
    with echo_server(shell, limits=LIMITS) as server, opened(server) as link:
        link.send(data + frame(Opcode.TEXT, b"never read"))
        assert link.close_frame()[0] == code
        server.until(lambda: server.receiver().ended)
        assert server.receiver().ended == (code, REASONS[code], False)


@pytest.mark.parametrize("fault", ["unmasked", "text that is not UTF-8", "a message over the limit"])
def test_the_close_frame_arrives_though_the_peer_keeps_sending(shell: Shell, fault: str) -> None:
    """Closing a socket with unread bytes would send an RST, which takes the close frame with it."""
    data, code = FAULTS[fault]
    with echo_server(shell, limits=LIMITS, clock=VirtualClock()) as server, opened(server) as link:
        link.send(data)
        server.until(lambda: only_carrier(server).phase is Phase.ENDING)
        for _ in range(50):
            link.send(b"\xaa" * 65_536)
        assert link.close_frame()[0] == code
        link.close()
        server.until(lambda: not server.transport.carriers)


def test_a_peer_that_never_stops_sending_is_cut_after_a_while(shell: Shell) -> None:
    clock = VirtualClock()
    with echo_server(shell, limits=LIMITS, clock=clock) as server, opened(server) as link:
        link.send(FAULTS["unmasked"][0])
        server.until(lambda: only_carrier(server).phase is Phase.ENDING)
        server.advance(1.5)
        server.until(lambda: not server.transport.carriers)
        # More than the kernel takes: an end that is not one would let it wait.
        with pytest.raises(ConnectionError):
            link.send(b"\xaa" * 50_000_000)


# --- we begin


def close_from_here(server: EchoServer, code: CloseCode = CloseCode.RESTART) -> None:
    link = server.receiver().link
    assert link is not None
    server.call(link.close, Closing.of(code))


def test_our_close_waits_for_the_peers(shell: Shell) -> None:
    with echo_server(shell) as server, opened(server) as link:
        server.until(lambda: server.host.receivers and server.receiver().link)
        close_from_here(server)
        assert link.frame() == (Opcode.CLOSE, close_payload(1012, "restart"))
        assert server.call(lambda: only_carrier(server).phase) is Phase.CLOSING
        link.send_frame(Opcode.CLOSE, close_payload(1012))
        assert link.frame() is None
        server.until(lambda: server.receiver().ended)
        assert server.receiver().ended == (1012, "", False)


def test_without_an_answer_the_link_is_cut_at_the_close_timeout(shell: Shell) -> None:
    clock = VirtualClock()
    with echo_server(shell, limits=LIMITS, clock=clock) as server, opened(server) as link:
        server.until(lambda: server.host.receivers and server.receiver().link)
        close_from_here(server)
        assert link.frame() == (Opcode.CLOSE, close_payload(1012, "restart"))
        server.advance(4.5)
        assert server.call(lambda: len(server.transport.carriers)) == 1
        server.advance(1.0)
        assert link.frame() is None
        server.until(lambda: server.receiver().ended)
        assert server.receiver().ended == (1006, "", False)


def test_what_comes_before_the_peers_answer_is_dropped(shell: Shell) -> None:
    """No echo, no pong, no second close frame: ours was the last."""
    with echo_server(shell) as server, opened(server) as link:
        server.until(lambda: server.host.receivers and server.receiver().link)
        close_from_here(server)
        link.send(frame(Opcode.TEXT, b"late") + frame(Opcode.PING, b"p") + frame(Opcode.CLOSE, close_payload(1012)))
        assert list(link.frames()) == [(Opcode.CLOSE, close_payload(1012, "restart"))]


def test_nothing_is_written_after_our_close_whoever_writes(shell: Shell) -> None:
    """Frames that a room shares go to the link as bytes: the link itself has to hold them back."""
    with echo_server(shell) as server, opened(server) as link:
        server.until(lambda: server.host.receivers and server.receiver().link)

        def write_around_a_close() -> None:
            out = server.receiver().link
            assert out is not None
            block = out.framing.block(["shared"])
            out.write(block, 1)
            out.close(Closing.of(CloseCode.RESTART))
            out.write(block, 1)
            out.write(block, 1, counted=False)
            out.ping()
            out.close(Closing.of(CloseCode.INTERNAL_ERROR))

        server.call(write_around_a_close)
        link.send_frame(Opcode.CLOSE, close_payload(1012))
        assert list(link.frames()) == [(Opcode.TEXT, b"shared"), (Opcode.CLOSE, close_payload(1012, "restart"))]


def test_nor_where_the_close_frame_itself_waits_for_the_kernel(shell: Shell) -> None:
    with echo_server(shell) as server, opened(server) as link:
        server.until(lambda: server.host.receivers and server.receiver().link)
        big = b"x" * 20_000_000

        def write_around_a_close() -> None:
            out = server.receiver().link
            assert out is not None
            out.write(out.framing.block([big]), 1)
            out.write(out.framing.block(["queued"]), 1)
            out.close(Closing.of(CloseCode.RESTART))
            out.write(out.framing.block(["after"]), 1)
            out.ping()

        server.call(write_around_a_close)
        link.send_frame(Opcode.CLOSE, close_payload(1012))  # the answer comes before the question went out
        expected = [(Opcode.BINARY, big), (Opcode.TEXT, b"queued"), (Opcode.CLOSE, close_payload(1012, "restart"))]
        assert list(link.frames()) == expected


class ClosesAtOnce(EchoReceiver):
    """Closes within `opened`."""

    def opened(self, link: object) -> None:
        super().opened(link)  # type: ignore[arg-type]
        assert self.link is not None
        self.link.write(self.link.framing.block(["welcome"]), 1)
        self.link.close(Closing.of(CloseCode.TRY_LATER))
        self.link.write(self.link.framing.block(["after"]), 1)


def test_a_close_in_the_same_breath_as_the_101(shell: Shell) -> None:
    with echo_server(shell, make_receiver=ClosesAtOnce) as server, opened(server) as link:
        link.send_frame(Opcode.CLOSE, close_payload(1013))
        frames = list(link.frames())
        assert frames == [(Opcode.TEXT, b"welcome"), (Opcode.CLOSE, close_payload(1013, "try again later"))]


# --- the link breaks


def test_a_half_close_without_a_close_frame_is_the_end(shell: Shell) -> None:
    with echo_server(shell) as server, opened(server) as link:
        link.send_frame(Opcode.TEXT, b"hello")
        assert link.frame() == (Opcode.TEXT, b"hello")
        link.half_close()
        assert link.frame() is None
        server.until(lambda: server.receiver().ended)
        assert server.receiver().ended == (1006, "", False)


def test_a_half_close_behind_a_close_frame_is_in_order(shell: Shell) -> None:
    with echo_server(shell) as server, opened(server) as link:
        link.send_frame(Opcode.CLOSE, close_payload(1000))
        link.half_close()
        assert list(link.frames()) == [(Opcode.CLOSE, close_payload(1000))]
        server.until(lambda: server.receiver().ended)
        assert server.receiver().ended == (1000, "", True)


def test_a_reset_while_open(shell: Shell) -> None:
    with echo_server(shell) as server:
        link = opened(server)
        server.until(lambda: server.host.receivers and server.receiver().link)
        link.reset()
        server.until(lambda: server.receiver().ended)
        assert server.receiver().ended == (1006, "", False)
        server.until(lambda: not server.transport.carriers)


def test_a_reset_while_closing(shell: Shell) -> None:
    with echo_server(shell) as server:
        link = opened(server)
        server.until(lambda: server.host.receivers and server.receiver().link)
        close_from_here(server)
        link.reset()
        server.until(lambda: server.receiver().ended)
        assert server.receiver().ended == (1006, "", False)
        server.until(lambda: not server.transport.carriers)


def test_a_reset_while_ending(shell: Shell) -> None:
    with echo_server(shell) as server:
        link = opened(server)
        link.send_frame(Opcode.CLOSE, close_payload(1000))
        server.until(lambda: server.receiver().ended)
        link.reset()
        server.until(lambda: not server.transport.carriers)
        assert server.receiver().ended == (1000, "", True)


def test_a_reset_while_bytes_are_held(shell: Shell) -> None:
    with echo_server(shell) as server:
        link = opened(server)
        server.until(lambda: server.host.receivers and server.receiver().link)
        out = server.receiver().link
        assert out is not None
        server.call(lambda: out.write(out.framing.block([b"x" * 20_000_000]), 1, counted=False))
        server.until(lambda: only_carrier(server)._blocked)
        link.reset()
        server.until(lambda: server.receiver().ended)
        assert server.receiver().ended == (1006, "", False)
        server.until(lambda: not server.transport.carriers)


def test_a_socket_that_refuses_an_option_is_closed_and_leaves_nothing_behind(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """macOS says so of a socket that was reset while it waited; here the option is one that no kernel knows."""
    clock = VirtualClock()
    with echo_server(shell, limits=LIMITS, clock=clock) as server:
        with monkeypatch.context() as patch:
            patch.setattr(socket, "TCP_NODELAY", 0x7FFF)
            with connect(server.port) as link:
                assert link.read_to_end() == b""
        # What is armed for a socket that is gone would speak to whoever has its descriptor next.
        assert server.call(server.host.wheel.next_time) == math.inf
        assert server.transport.door._inside == set()
        with opened(server):
            pass


# --- faults of ours


class Faulty(EchoReceiver):
    """Fails where the test says."""

    def opened(self, link: object) -> None:
        super().opened(link)  # type: ignore[arg-type]
        self.fault("opened")

    def received(self, messages: Sequence[Message], frames: int, size: int) -> None:
        for message in messages:
            self.fault(str(message))
        super().received(messages, frames, size)

    def lost(self, code: int, reason: str, *, by_peer: bool, cause: BaseException | None = None) -> None:
        super().lost(code, reason, by_peer=by_peer, cause=cause)
        self.fault("lost")

    def next_deadline(self) -> float:
        return self.due

    def poll(self, now: float) -> None:
        self.due = float("inf")
        self.fault("poll")

    def failed(self) -> None:
        self.fault("failed")
        super().failed()

    places: tuple[str, ...] = ()
    due = float("inf")

    def fault(self, place: str) -> None:
        if place in self.places:
            raise RuntimeError(f"a fault in {place}")


def faulty(*places: str, due: float = float("inf")) -> type[Faulty]:
    return type("FaultyHere", (Faulty,), {"places": places, "due": due})


def test_a_fault_in_a_connections_code_closes_it_with_1011_and_no_other(
    shell: Shell, caplog: pytest.LogCaptureFixture
) -> None:
    with echo_server(shell, make_receiver=faulty("boom")) as server, opened(server) as link, opened(server) as other:
        link.send_frame(Opcode.TEXT, b"boom")
        assert link.frame() == (Opcode.CLOSE, close_payload(1011, "internal error"))
        link.send_frame(Opcode.CLOSE, close_payload(1011))
        assert link.frame() is None
        other.send_frame(Opcode.TEXT, b"still here")
        assert other.frame() == (Opcode.TEXT, b"still here")
    assert [record.getMessage() for record in caplog.records if record.name == "roomwire"] == ["a connection failed"]


def test_a_fault_in_the_boundary_itself_cuts_the_link(shell: Shell) -> None:
    with echo_server(shell, make_receiver=faulty("boom", "failed", "lost")) as server, opened(server) as link:
        link.send_frame(Opcode.TEXT, b"boom")
        assert link.frame() is None
        server.until(lambda: not server.transport.carriers)
        with opened(server) as other:
            other.send_frame(Opcode.TEXT, b"still here")
            assert other.frame() == (Opcode.TEXT, b"still here")


def test_a_fault_while_opening_closes_with_1011(shell: Shell) -> None:
    with echo_server(shell, make_receiver=faulty("opened")) as server, opened(server) as link:
        link.send_frame(Opcode.CLOSE, close_payload(1011))
        assert list(link.frames()) == [(Opcode.CLOSE, close_payload(1011, "internal error"))]


def test_a_fault_at_a_deadline_closes_with_1011(shell: Shell) -> None:
    clock = VirtualClock()
    receiver = faulty("poll", due=1060.0)
    with echo_server(shell, make_receiver=receiver, clock=clock) as server, opened(server) as link:
        server.until(lambda: server.host.receivers and server.receiver().link)
        server.advance(61.0)
        link.send_frame(Opcode.CLOSE, close_payload(1011))
        assert list(link.frames()) == [(Opcode.CLOSE, close_payload(1011, "internal error"))]


# --- frames in any cut


def test_messages_are_read_whatever_the_cut(shell: Shell) -> None:
    messages = [b"", b"a", b"b" * 125, b"c" * 126, b"d" * 65_535, b"e" * 65_536]
    data = b"".join(build_masked_frame(Opcode.BINARY, message, MASK) for message in messages)
    with echo_server(shell) as server:
        for size in (1, 7, 1000, 16_384, 16_385, len(data)):
            with opened(server) as link:
                limit = 700 if size == 1 else len(data)
                for start in range(0, limit, size):
                    link.send(data[start : start + size])
                link.send(data[limit:])
                assert [link.frame() for _ in messages] == [(Opcode.BINARY, message) for message in messages]
