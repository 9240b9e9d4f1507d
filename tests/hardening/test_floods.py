"""Floods at the rate of the line: how much of them is even looked at, and that others are served meanwhile."""

from __future__ import annotations

from contextlib import suppress

import pytest

from roomwire.core.assembly import FrameAssembler
from roomwire.core.frames import Opcode, Received
from roomwire.core.limits import Limits
from roomwire.testing.clock import VirtualClock
from tests.server.conftest import Serve
from tests.server.live import LiveServer, Shell
from tests.server.raw import RawLink, connect, frame

LIMITS = Limits()
# What a look at the rates may come too late by: the smallest frames of one read's slice, 6 bytes each.
SLICE = 16_384 // 6 + 1

PING, PONG = frame(Opcode.PING), frame(Opcode.PONG)
EMPTY_TEXT, HEARTBEAT = frame(Opcode.TEXT), frame(Opcode.TEXT, b'{"event":"presence.heartbeat"}')
FRAGMENT = frame(Opcode.CONTINUATION, b"", fin=False)


def attacker(server: LiveServer) -> RawLink:
    link = connect(server.port, server.upgrade_request("nobody"))
    link.upgraded()
    link.event("session.welcome")
    return link


@pytest.mark.parametrize(
    ("flood", "codes"),
    [
        (PING * 40_000, {4004}),
        (PONG * 40_000, {4004}),
        (HEARTBEAT * 40_000, {4004}),
        (EMPTY_TEXT * 40_000, {4004, 1008}),
        (frame(Opcode.TEXT, b"", fin=False) + FRAGMENT * 40_000, {1009}),
    ],
    ids=["pings", "pongs", "messages", "empty messages", "fragments"],
)
def test_a_flood_ends_its_connection_before_it_costs_much(
    shell: Shell, serve: Serve, flood: bytes, codes: set[int]
) -> None:
    server = serve(shell, clock=VirtualClock())
    ann = server.connect("ann")
    with attacker(server) as link:
        (connection,) = server.node.connections_of("nobody")
        link.send(flood[:200_000])
        pongs = code_of_close = 0
        for opcode, payload in link.frames():
            pongs += opcode is Opcode.PONG
            if opcode is Opcode.CLOSE:
                code_of_close = int.from_bytes(payload[:2], "big")
                break
        assert code_of_close in codes
        # Of 40,000 frames hardly more than a burst came to the codec, and fewer were answered.
        assert connection._received <= LIMITS.frame_burst + SLICE
        assert pongs <= (LIMITS.frame_burst + SLICE) // 16
        assert ann.request("whoami")["event"] == "ack"


def test_what_a_flooder_sends_on_is_not_read(shell: Shell, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our close is out for its flood: the frames behind it are dropped as bytes, not parsed one by one."""
    parsed = 0
    feed = FrameAssembler.feed

    def counted(self: FrameAssembler, data: bytes, start: int, received: list[Received]) -> int:
        nonlocal parsed
        parsed += 1
        return feed(self, data, start, received)

    monkeypatch.setattr(FrameAssembler, "feed", counted)
    server = serve(shell, clock=VirtualClock())
    ann = server.connect("ann")
    with attacker(server) as link:
        link.sock.settimeout(1)
        with suppress(OSError):
            for _ in range(50):
                link.send(PONG * 20_000)
        assert ann.request("whoami")["event"] == "ack"
    assert parsed <= LIMITS.frame_burst + 2 * SLICE


def test_a_steady_stream_of_pings_is_answered_and_is_no_flood(shell: Shell, serve: Serve) -> None:
    server = serve(shell, clock=VirtualClock())
    with attacker(server) as link:
        for _ in range(20):
            for number in range(100):
                link.send_frame(Opcode.PING, b"%d" % number)
                assert link.frame() == (Opcode.PONG, b"%d" % number)
            server.advance(1)


def test_joins_and_leaves_count_as_messages(shell: Shell, serve: Serve) -> None:
    """How fast a client can make rooms is bounded by its rate of messages."""
    server = serve(shell, clock=VirtualClock())
    ann = server.connect("ann")
    outcomes = []
    for number in range(200):
        outcomes.append(ann.request("room.join", room=f"chat:n{number}", id=f"j{number}")["event"])
        outcomes.append(ann.request("room.leave", room=f"chat:n{number}", id=f"l{number}")["event"])
    assert outcomes.count("ack") == LIMITS.message_burst


def test_a_handshake_that_is_refused_takes_no_slot_and_runs_no_handler(serve: Serve) -> None:
    server = serve()
    for _ in range(100):
        with connect(server.port, server.upgrade_request("ann", "client=bad!")) as link:
            assert link.response().status == 400
    assert server.connect("ann").request("whoami")["event"] == "ack"
