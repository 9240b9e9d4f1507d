"""What a hostile client can make a server hold: bombs, messages that never end, readers that do not read.

The server has a process of its own, so that what is measured is its memory and nobody else's.
"""

from __future__ import annotations

import os
import socket
import zlib

import pytest

from roomwire.core.frames import Opcode, build_masked_frame
from tests.hardening.processes import MIB, attacked
from tests.server.raw import RawLink, frame

MAX_MESSAGE = 65_536
BACKENDS = ("asyncio", "uvloop", "trio")
ROOMS = {"chat:*": {"history_size": 0, "presence": True, "leave_grace": 0}}
UNLIMITED = {"bytes_per_second": 1e9, "byte_burst": 10**9, "messages_per_second": 1e6, "message_burst": 10**6}


def bomb_of(size: int) -> bytes:
    """A message that inflates to `size` bytes, about a thousandth of that long."""
    squeezer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = b"".join(squeezer.compress(bytes(MIB)) for _ in range(size // MIB))
    return packed + squeezer.flush(zlib.Z_SYNC_FLUSH)[:-4]


@pytest.mark.parametrize("backend", BACKENDS)
def test_100_bombs_at_once_cost_less_than_50_mb(backend: str) -> None:
    """100 messages of 64 MiB in 64 KiB each: 6.25 GiB, if they were inflated."""
    data = build_masked_frame(Opcode.BINARY, bomb_of(64 * MIB), os.urandom(4), rsv1=True)
    with attacked(backend, server={"compression": True}) as victim:
        other = victim.open("witness")
        links = [victim.open(f"bomber-{n}", "Sec-WebSocket-Extensions: permessage-deflate") for n in range(100)]
        before = victim.memory()
        for link in links:
            link.send(data[:40])  # all of them are in the middle of it at one time
        assert victim.serves(other)
        for link in links:
            link.send(data[40:])
        assert {link.close_frame() for link in links} == {(1009, "message too big")}
        assert victim.serves(other)
        assert victim.memory("VmHWM") - before < 50_000_000


@pytest.mark.parametrize("backend", BACKENDS)
def test_messages_that_never_end_cost_no_more_than_their_bound(backend: str) -> None:
    """Each connection is one byte short of the largest message, in nearly the most fragments."""
    data = frame(Opcode.TEXT, b"x" * (MAX_MESSAGE - 1000), fin=False)
    data += frame(Opcode.CONTINUATION, b"y", fin=False) * 999
    count = 60
    with attacked(backend) as victim:
        other = victim.open("witness")
        links = [victim.open(f"user-{number}") for number in range(count)]
        before = victim.memory()
        for link in links:
            link.send(data)
            # All of it is read once the ping behind it is answered.
            link.send_frame(Opcode.PING, b"read?")
        for link in links:
            assert next(payload for opcode, payload in link.frames() if opcode is Opcode.PONG) == b"read?"
        assert victim.serves(other)
        # The assembled part and the whole, the read buffer, the state of the protocol.
        bound = 2 * MAX_MESSAGE + 65_536 + 16_384
        assert MAX_MESSAGE // 2 < (victim.memory() - before) / count < bound


@pytest.mark.parametrize("backend", BACKENDS)
def test_readers_that_do_not_read_cost_no_more_than_their_queue(backend: str) -> None:
    """Each may have a queue of 1 MiB, and the rest of a block that the kernel took in part."""
    size = 60_000
    with attacked(backend, rooms=ROOMS, limits=UNLIMITED) as victim:
        writer = victim.open("writer")
        stalled = [victim.open(f"stalled-{number}") for number in range(50)]
        for link in stalled:
            link.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)  # the kernel keeps little for it
        before = victim.memory()
        # More than the kernel's buffers, of 4 MiB at the most, and the queue hold together.
        order = {"data": "x" * size, "exclude": True, "history": False, "times": 4}
        for number in range(50):
            writer.send_text("publish", id=f"p{number}", room="chat:general", data=order)
            assert victim.serves(writer)
        assert victim.memory("VmHWM") - before < 50 * (MIB + 4 * size)
        assert members_of(writer) == ["writer"]


def members_of(link: RawLink) -> list[str]:
    """Who is in the room, a member says."""
    link.send_text("room.members", id="members", room="chat:general")
    while (ack := link.event("ack"))["id"] != "members":
        pass
    return [member["user"] for member in ack["data"]["members"]]


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_published_in_one_turn_is_bounded_for_each_reader_too(backend: str) -> None:
    """400 events of 60 KB in one turn of the loop: 24 MB, of which no stalled reader may hold more than its queue."""
    with attacked(backend, rooms=ROOMS, limits=UNLIMITED) as victim:
        writer = victim.open("writer")
        for number in range(20):
            link = victim.open(f"stalled-{number}")
            link.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        before = victim.memory()
        order = {"data": "x" * 60_000, "exclude": True, "history": False, "times": 400}
        writer.send_text("publish", id="p", room="chat:general", data=order)
        assert victim.serves(writer)
        # The events themselves, and for each reader its queue of 1 MiB at the most.
        assert victim.memory("VmHWM") - before < (24 + 20) * MIB
