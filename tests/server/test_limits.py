"""Every limit of a connection, at the limit and one beyond it."""

from __future__ import annotations

import json
import os
import zlib
from contextlib import suppress
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from roomwire.core.frames import Opcode, build_masked_frame
from roomwire.core.limits import Limits
from roomwire.core.websocket import WebSocket
from roomwire.testing.clock import VirtualClock
from tests.server.chat import Log
from tests.server.conftest import Serve
from tests.server.live import UNHURRIED, LiveServer, Shell, make_token
from tests.server.raw import RawLink, connect, frame
from tests.server.watching import until

SIZE = 65_536


EMPTY = json.dumps({"event": "size", "id": "s1", "data": ""})


def text_of(size: int) -> str:
    """A message of exactly `size` bytes whose reply is the length of its data."""
    return EMPTY.replace('""', '"' + "x" * (size - len(EMPTY)) + '"')


def binary_of(size: int) -> bytes:
    header = b'{"event":"echo.bytes","id":"s1"}'
    return len(header).to_bytes(4, "big") + header + bytes(size - 4 - len(header))


def fragments(message: str, count: int) -> list[str]:
    """A message in `count` fragments, the last ones empty if need be."""
    step = -(-len(message) // count)
    return [message[start : start + step] for start in range(0, step * count, step)]


def upgraded(server: LiveServer, *headers: str, user: str = "ann") -> RawLink:
    """A client below any library, which has read its welcome."""
    link = connect(server.port, server.upgrade_request(user, "", *headers))
    link.upgraded()
    link.event("session.welcome")
    return link


def closed(link: RawLink) -> tuple[int, str]:
    """The server's close, which is answered."""
    payload = next(payload for opcode, payload in link.frames() if opcode is Opcode.CLOSE)
    link.send_frame(Opcode.CLOSE, payload[:2])
    return int.from_bytes(payload[:2], "big"), payload[2:].decode()


# --- sizes


@pytest.mark.wire
def test_a_text_message_of_the_largest_size_and_one_byte_more(server: LiveServer) -> None:
    ann = server.connect("ann")
    ann.connection.send(text_of(SIZE))
    assert ann.receive_until("ack", id="s1")["data"] == SIZE - len(EMPTY)
    ann.connection.send(text_of(SIZE + 1))
    assert ann.closed() == (1009, "message too big")


@pytest.mark.wire
def test_bytes_are_counted_and_not_characters(server: LiveServer) -> None:
    ann = server.connect("ann")
    ann.connection.send(json.dumps({"event": "size", "data": "é" * 40_000}, ensure_ascii=False))
    assert ann.closed()[0] == 1009


@pytest.mark.wire
def test_a_binary_message_of_the_largest_size_and_one_byte_more(server: LiveServer) -> None:
    ann = server.connect("ann")
    ann.connection.send(binary_of(SIZE))
    assert ann.receive_until("ack", id="s1")
    ann.connection.send(binary_of(SIZE + 1))
    assert ann.closed()[0] == 1009


@pytest.mark.wire
def test_a_fragmented_message_of_the_largest_size_and_one_byte_more(server: LiveServer) -> None:
    ann = server.connect("ann")
    ann.connection.send(fragments(text_of(SIZE), 7))
    assert ann.receive_until("ack", id="s1")
    with suppress(ConnectionClosed):  # the header of the last fragment is refused while it is still being sent
        ann.connection.send(fragments(text_of(SIZE + 1), 7))
    assert ann.closed()[0] == 1009


def test_a_compressed_message_of_the_largest_size_and_one_byte_more(shell: Shell, serve: Serve) -> None:
    ann = serve(shell, listen={"compression": True}).connect("ann", compression="deflate")
    assert ann.connection.protocol.extensions
    ann.connection.send(text_of(SIZE))
    assert ann.receive_until("ack", id="s1")
    with suppress(ConnectionClosed):
        ann.connection.send(text_of(SIZE + 1))
    assert ann.closed()[0] == 1009


def test_1024_fragments_and_one_more(server: LiveServer) -> None:
    with upgraded(server) as link:
        link.send(in_frames(text_of(2000), 1024))
        assert link.event("ack")["id"] == "s1"
    with upgraded(server) as link:  # a connection of its own: two such messages at once pass the rate
        link.send(in_frames(text_of(2000), 1025))
        assert closed(link)[0] == 1009


def in_frames(message: str, count: int) -> bytes:
    """A message as `count` frames, empty ones at the end."""
    payload = message.encode()
    pieces = [payload, *[b""] * (count - 1)]
    frames = []
    for number, piece in enumerate(pieces):
        frame = bytearray(build_masked_frame(Opcode.CONTINUATION if number else Opcode.TEXT, piece, os.urandom(4)))
        if number < count - 1:
            frame[0] &= 0x7F
        frames.append(bytes(frame))
    return b"".join(frames)


def test_a_compression_bomb_is_not_inflated(shell: Shell, serve: Serve) -> None:
    server = serve(shell, listen={"compression": True})
    squeezer = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = b"".join(squeezer.compress(bytes(1 << 20)) for _ in range(64)) + squeezer.flush(zlib.Z_SYNC_FLUSH)
    assert 60_000 < len(bomb) < 70_000
    with upgraded(server, "Sec-WebSocket-Extensions: permessage-deflate") as link:
        link.send(build_masked_frame(Opcode.TEXT, bomb[:-4], os.urandom(4), rsv1=True))
        assert closed(link) == (1009, "message too big")


def test_half_a_frame_and_a_reset_leave_nothing(server: LiveServer) -> None:
    ann = server.connect("eve")
    with upgraded(server) as link:
        link.send(build_masked_frame(Opcode.TEXT, bytes(60_000), os.urandom(4))[:30_000])
        until(server, lambda: any(c.user == "ann" for c in server.node.connections.values()))
        link.reset()
        until(server, lambda: len(server.node.connections) == 1)
        assert ann.request("whoami")["event"] == "ack"


# --- time


@pytest.mark.wire
def test_a_silent_client_is_dead_after_90_seconds_and_not_before(server_on_clock: LiveServer) -> None:
    server = server_on_clock
    with upgraded(server) as link:
        for seconds in (30, 30, 29.75):
            server.advance(seconds)
        assert len(server.node.connections) == 1
        server.advance(0.25)
        assert link.event("session.closing")["data"] == {
            "code": 4001,
            "reason": "heartbeat missed",
            "reconnect": True,
            "retry_after": 0.0,
        }
        assert closed(link) == (4001, "heartbeat missed")


@pytest.mark.wire
def test_any_frame_is_a_sign_of_life(server_on_clock: LiveServer) -> None:
    server = server_on_clock
    with upgraded(server) as link:
        text = b'{"event":"presence.heartbeat"}'
        for opcode, payload in ((Opcode.PONG, b""), (Opcode.PING, b"x"), (Opcode.TEXT, text)):
            server.advance(80)
            link.send_frame(opcode, payload)
            link.send_frame(Opcode.TEXT, b'{"event":"whoami","id":"w"}')
            link.event("ack")
        server.advance(80)
        assert len(server.node.connections) == 1


def test_a_heartbeat_and_a_ping_come_every_30_seconds(server_on_clock: LiveServer) -> None:
    server = server_on_clock
    with upgraded(server, user="nobody") as link:
        for _ in range(3):
            server.advance(29.75)
            link.send_frame(Opcode.TEXT, b'{"event":"presence.heartbeat","id":"h"}')
            before = []
            while (found := link.frame()) and b'"ack"' not in found[1]:
                before.append(found)
            assert not [f for f in before if b"heartbeat" in f[1] or f[0] is Opcode.PING]
            server.advance(0.25)
            opcodes = [link.frame(), link.frame()]
            assert opcodes == [(Opcode.PING, b""), (Opcode.TEXT, b'{"event":"heartbeat","data":{}}')]


@pytest.mark.wire
def test_a_token_that_expires_closes_the_connection_and_says_so_first(server_on_clock: LiveServer) -> None:
    server = server_on_clock
    # What is left of it when it is looked at is a matter of the wall clock.
    ann = server.connect("ann", token=make_token("ann", ttl=80))
    server.advance(40)
    assert ann.request("whoami")["event"] == "ack"
    server.advance(40)
    assert ann.receive_until("session.closing")["data"] == {
        "code": 4003,
        "reason": "token expired",
        "reconnect": True,
        "retry_after": 0.0,
    }
    assert ann.closed() == (4003, "token expired")


def test_idle_is_who_sends_nothing_of_the_application(serve: Serve) -> None:
    server = serve(clock=VirtualClock(), limits=Limits(idle_timeout=60))
    ann = server.connect("ann")
    server.advance(50)
    ann.request("whoami")
    server.advance(50)
    ann.request("presence.heartbeat")
    server.advance(9.75)
    assert ann.request("session.rooms")["event"] == "ack"
    server.advance(0.25)
    assert ann.closed() == (4504, "idle")


# --- rates


@pytest.mark.wire
def test_too_many_messages_are_answered_and_the_connection_goes_on(server_on_clock: LiveServer) -> None:
    server = server_on_clock
    ann = server.connect("ann")
    for number in range(101):
        ann.send("add", [number, 1], id=f"a{number}")
    replies: dict[str, Any] = {}
    while len(replies) < 101:
        message = ann.receive()
        if message["event"] in ("ack", "error"):
            replies[message["id"]] = message["data"]
    assert replies.pop("a100") == {"code": "rate_limited", "message": "too many messages, slow down"}
    assert replies == {f"a{number}": number + 1 for number in range(100)}
    server.advance(1)
    assert ann.request("add", [1, 2])["data"] == 3


def test_a_flood_of_frames_ends_the_connection(server_on_clock: LiveServer) -> None:
    with upgraded(server_on_clock) as link:
        link.send(build_masked_frame(Opcode.PONG, b"", bytes(4)) * 1201)
        assert link.event("session.closing")["data"]["code"] == 4004
        assert closed(link) == (4004, "rate limit")


def test_a_flood_of_bytes_ends_the_connection(serve: Serve) -> None:
    server = serve(clock=VirtualClock(), limits=Limits(byte_burst=200_000))
    ann = server.connect("ann")
    with suppress(ConnectionClosed):
        for _ in range(1000):
            ann.connection.send(text_of(60_000))
    assert ann.closed()[0] == 4004


@pytest.mark.wire
def test_21_messages_that_cannot_be_read_within_a_minute(server_on_clock: LiveServer) -> None:
    server = server_on_clock
    ann = server.connect("ann")
    for _ in range(20):
        ann.connection.send("no JSON")
        assert ann.receive_until("error")["data"]["code"] == "invalid"
    server.advance(59)
    ann.connection.send("no JSON")
    assert ann.closed() == (1008, "too many errors")


def test_after_a_minute_errors_are_forgotten(serve: Serve) -> None:
    server = serve(clock=VirtualClock())
    ann = server.connect("ann")
    for _ in range(3):
        for _ in range(20):
            ann.connection.send("no JSON")
            ann.receive_until("error")
        server.advance(60)
    assert ann.request("whoami")["event"] == "ack"


# --- slow handlers


def log_of(server: LiveServer) -> Log:
    log = server.node.app.log  # type: ignore[attr-defined]
    assert isinstance(log, Log)
    return log


@pytest.mark.wire
def test_a_handler_that_blocks_pauses_its_own_connection_alone(shell: Shell, serve: Serve) -> None:
    server = serve(shell, limits=UNHURRIED)
    log = log_of(server)
    ann, bob = server.connect("ann"), server.connect("bob")
    ann.send("wait", id="w")
    for number in range(200):
        ann.send("add", [number, 0], id=f"a{number}")
    (connection,) = server.node.connections_of("ann")
    until(server, lambda: connection._paused)
    assert len(connection._inbox or ()) <= 64 + 200
    assert bob.request("add", [1, 2])["data"] == 3
    server.call(log.release.set)
    assert ann.receive_until("ack", id="w")["data"] == "done"
    # In order, each once.
    assert [ann.receive_until("ack")["data"] for _ in range(200)] == list(range(200))


def test_what_waits_in_the_inbox_is_bounded_by_what_one_read_brings(serve: Serve) -> None:
    server = serve(limits=UNHURRIED)
    with upgraded(server) as link:
        link.send_text("wait", id="w")
        until(server, lambda: log_of(server).handled)
        (connection,) = server.node.connections_of("ann")
        messages = build_masked_frame(Opcode.TEXT, text_of(1000).encode(), bytes(4)) * 64
        link.sock.setblocking(False)
        is_paused = False
        while not is_paused:
            with suppress(BlockingIOError):
                while True:  # until the kernel's buffers are full
                    messages = messages[link.sock.send(messages) :] or messages
            # If nobody read any more before they were, they stay so.
            is_paused = connection._paused
            until(server, lambda: connection._paused)
        assert len(connection._inbox or ()) < 64 + 262_144 // 1000 + 1
        server.call(log_of(server).release.set)


@pytest.mark.wire
def test_a_handler_that_blocks_for_too_long_costs_its_connection(shell: Shell, serve: Serve) -> None:
    server = serve(shell, clock=VirtualClock(), limits=Limits(inbox_messages=2))
    log = log_of(server)
    ann, bob = server.connect("ann"), server.connect("bob")
    for number in range(4):
        ann.send("wait", id=f"w{number}")
    (connection,) = server.node.connections_of("ann")
    until(server, lambda: connection._paused)
    server.advance(59.75)
    assert connection.is_open
    # Silence says nothing meanwhile: the pause has a deadline of its own.
    server.advance(0.25)
    assert ann.receive_until("session.closing")["data"]["code"] == 1013
    assert bob.request("whoami")["event"] == "ack"
    server.call(log.release.set)
    assert ann.closed() == (1013, "try again later")


def test_the_pause_is_noticed_in_time_whatever_the_other_deadlines(serve: Serve) -> None:
    limits = Limits(inbox_messages=2, heartbeat_interval=1000, heartbeat_timeout=3000, max_read_pause=10)
    server = serve(clock=VirtualClock(), limits=limits)
    ann = server.connect("ann")
    for number in range(4):
        ann.send("wait", id=f"w{number}")
    (connection,) = server.node.connections_of("ann")
    until(server, lambda: connection._paused)
    server.advance(10.25)
    server.call(log_of(server).release.set)
    assert ann.closed()[0] == 1013


def test_a_slow_handler_is_logged_by_name(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    server = serve(clock=VirtualClock())
    ann = server.connect("ann")
    ann.send("wait", id="w")
    until(server, lambda: log_of(server).handled)
    server.advance(1.5)
    server.call(log_of(server).release.set)
    ann.receive_until("ack", id="w")
    (record,) = [record for record in caplog.records if record.getMessage() == "slow handler"]
    fields: Any = record.roomwire  # type: ignore[attr-defined]
    assert fields["handler"].endswith("wait")
    assert fields["duration"] == 1.5
    assert fields["kind"] == "async def"
    assert fields["hint"] == "if it does not await, it holds up everybody: make it a def"


@pytest.mark.parametrize("opcode", [Opcode.TEXT, Opcode.PING, Opcode.PONG])
def test_a_flood_is_not_read_on_behind_the_close_that_answers_it(shell: Shell, serve: Serve, opcode: Opcode) -> None:
    server = serve(shell, limits=Limits(frame_burst=50, max_fragments=50, close_timeout=1.0))
    with RawLink(server.raw(server.upgrade_request("evil"))) as link:
        link.upgraded()
        (carrier,) = server.node.transport.carriers  # type: ignore[attr-defined]
        websocket: WebSocket = carrier._ws
        with suppress(OSError):  # the server may cut the link while we send
            link.send(frame(opcode) * 100_000)
        with suppress(OSError):
            link.read_to_end()
    # The burst, and what came in the same piece of at most 4 KiB; and once more while the close is under way.
    assert websocket.frames_received < 2 * (50 + 50 + 4096 // 6 + 1)
