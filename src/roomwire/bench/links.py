"""The generator's own WebSocket client, as two protocols of asyncio: one until a connection is ready, and one after.

The second is the hot path: for each read it walks over the frames, looks for the marker, and tells the tally. There
is no task, no queue and no object for a message.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Mapping
from time import monotonic_ns
from typing import cast

from roomwire.bench.target import STAMP_DIGITS, BenchFailed, Expect, Message, Send, Target, fill, masked
from roomwire.core.frames import Opcode
from roomwire.core.handshake import accept_token

__all__ = ["Member", "Opening", "Tally"]

_NONCE = b"AAAAAAAAAAAAAAAAAAAAAA=="
_ACCEPT = accept_token(_NONCE).lower()
_SHOWN = 200
_RESET = struct.pack("ii", 1, 0)


class Tally:
    """What is counted over all connections.

    Args:
        marker: what a delivery holds right before its stamp.

    Attributes:
        arrivals: of each read that had deliveries, the time and the stamps in it, nanoseconds; set a new list to
            begin anew.
        block: the latest read that was whole frames and deliveries alone; a fan-out brings the same bytes to all.
        stamps: those in `block`.
        delivered: called with the connection and the number of deliveries of one read.
        stray: the latest message that was no delivery, cut.
        lost: why the first connection ended that we did not end; empty while none has.
        closing: whether we end them.
    """

    __slots__ = ("arrivals", "block", "closing", "delivered", "lost", "marker", "stamps", "stray")

    def __init__(self, marker: bytes) -> None:
        self.marker = marker
        self.arrivals: list[tuple[int, list[int]]] = []
        self.block = b""
        self.stamps: list[int] = []
        self.delivered: Callable[[Member, int], None] = lambda member, hits: None
        self.stray = b""
        self.lost = ""
        self.closing = False

    def latencies(self) -> list[int]:
        """Of all arrivals, ascending, nanoseconds."""
        return sorted(now - stamp for now, stamps in self.arrivals for stamp in stamps)


def _frame_at(data: bytes, start: int) -> tuple[int, int] | None:
    """Where the payload of the server's frame at `start` begins and ends; None where it is not whole."""
    end = len(data)
    if end - start < 2:
        return None
    length = data[start + 1]
    payload = start + 2
    if length > 125:
        payload += 2 if length == 126 else 8
        if payload > end:
            return None
        length = int.from_bytes(data[start + 2 : payload], "big")
    stop = payload + length
    return None if stop > end else (payload, stop)


class Member(asyncio.Protocol):
    """A connection that is ready."""

    __slots__ = ("_answers", "_message", "_rest", "_tally", "_transport")

    def __init__(
        self, transport: asyncio.Transport, message: Message, tally: Tally, answers: Mapping[bytes, bytes]
    ) -> None:
        self._transport = transport
        self._message = message
        self._tally = tally
        self._answers = answers
        self._rest = b""

    def send(self, stamp: int) -> None:
        """Send the message, with this time in it."""
        self._transport.write(self._message.frame(stamp))

    def abort(self) -> None:
        """End the connection without a handshake."""
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Count the deliveries in it."""
        tally = self._tally
        if self._rest:
            data = self._rest + data
            self._rest = b""
        # The bytes that another member has just got need no second look: a generator that is slower than the server
        # measures itself.
        stamps = tally.stamps if data == tally.block else self._read(data)
        if stamps:
            tally.arrivals.append((monotonic_ns(), stamps))
            tally.delivered(self, len(stamps))

    def _read(self, data: bytes) -> list[int]:
        """The stamps of the deliveries in it."""
        tally = self._tally
        marker = tally.marker
        stamps: list[int] = []
        start = frames = 0
        while (frame := _frame_at(data, start)) is not None:
            payload, stop = frame
            frames += 1
            if data[start] & 0x0F > Opcode.BINARY:
                self._control(data[start] & 0x0F, data[payload:stop])
            elif (found := data.find(marker, payload, stop)) >= 0:
                found += len(marker)
                stamps.append(int(data[found : found + STAMP_DIGITS], 16))
            elif (answer := self._answers.get(data[payload:stop])) is not None:
                self._transport.write(answer)
            else:
                tally.stray = data[payload : min(stop, payload + _SHOWN)]
            start = stop
        self._rest = data[start:]
        if frames == len(stamps) and not self._rest:
            tally.block, tally.stamps = data, stamps
        return stamps

    def _control(self, opcode: int, payload: bytes) -> None:
        if opcode == Opcode.PING:
            self._transport.write(masked(Opcode.PONG, payload))
        elif opcode == Opcode.CLOSE:
            code = int.from_bytes(payload[:2], "big")
            self._lost(f"the server closed a connection: {code} {payload[2:].decode(errors='replace')}".rstrip())
            self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        """Told to the tally, unless we ended it."""
        self._lost(f"a connection broke: {error or 'the server ended it'}")

    def _lost(self, why: str) -> None:
        if not self._tally.closing and not self._tally.lost:
            self._tally.lost = why


class Opening(asyncio.Protocol):
    """A connection until its steps are through.

    Args:
        target: the server.
        index: the connection's number.
        size: bytes of its messages.
        tally: what it counts into afterwards.
        ready: gets the member, or the failure.
    """

    def __init__(self, target: Target, index: int, size: int, tally: Tally, ready: asyncio.Future[Member]) -> None:
        self._target = target
        self._index = index
        self._token = target.token_of(index)
        self._size = size
        self._tally = tally
        self._ready = ready
        self._data = b""
        self._upgraded = False
        self._steps = list(target.steps)
        self._stray = b""
        self._answers = {said.encode(): masked(Opcode.TEXT, text.encode()) for said, text in target.answers.items()}
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the upgrade."""
        self._transport = link = cast(asyncio.Transport, transport)
        sock = link.get_extra_info("socket")
        if sock is not None:
            # Reset at the end: thousands of ports would stay in TIME_WAIT otherwise.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        target = self._target
        fields = [
            f"GET {fill(target.path, self._index, self._token)} HTTP/1.1",
            f"Host: {target.host}:{target.port}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Version: 13",
            f"Sec-WebSocket-Key: {_NONCE.decode()}",
            *(f"{name}: {fill(value, self._index, self._token)}" for name, value in target.headers),
        ]
        link.write(("\r\n".join(fields) + "\r\n\r\n").encode())

    def data_received(self, data: bytes) -> None:
        """The answer to the upgrade, then what the steps wait for."""
        self._data += data
        if not self._upgraded and not self._upgrade():
            return
        self._walk()
        while self._steps and (frame := _frame_at(self._data, 0)) is not None:
            payload, stop = frame
            self._take(self._data[0] & 0x0F, self._data[payload:stop])
            self._data = self._data[stop:]
            self._walk()

    def _upgrade(self) -> bool:
        head, separator, rest = self._data.partition(b"\r\n\r\n")
        if not separator:
            return False
        status, *fields = head.split(b"\r\n")
        if status.split(b" ")[1:2] != [b"101"]:
            self._fail(f"the upgrade was refused: {status.decode(errors='replace')} {rest[:_SHOWN].decode('latin-1')}")
            return False
        if b"sec-websocket-accept: " + _ACCEPT not in (line.lower() for line in fields):
            self._fail("the server's 101 does not answer our key")
            return False
        self._upgraded = True
        self._data = rest
        return True

    def _take(self, opcode: int, payload: bytes) -> None:
        assert self._transport is not None
        step = self._steps[0]
        if opcode == Opcode.PING:
            self._transport.write(masked(Opcode.PONG, payload))
        elif opcode == Opcode.CLOSE:
            self._fail(f"the server closed with {int.from_bytes(payload[:2], 'big')}")
        elif (answer := self._answers.get(payload)) is not None:
            self._transport.write(answer)
        elif isinstance(step, Expect) and step.text.encode() in payload:
            del self._steps[0]
        else:
            self._stray = payload[:_SHOWN]

    def _walk(self) -> None:
        """Take the steps that wait for nothing, and become a member behind the last one."""
        assert self._transport is not None
        while self._steps and isinstance(step := self._steps[0], Send):
            del self._steps[0]
            text = fill(step.text, self._index, self._token, f"{monotonic_ns():016x}")
            self._transport.write(masked(Opcode.TEXT, text.encode()))
        if self._steps or self._ready.done():
            return
        message = Message(self._target.message, self._size, self._index, self._token)
        member = Member(self._transport, message, self._tally, self._answers)
        self._transport.set_protocol(member)
        if self._data:
            member.data_received(self._data)
        self._ready.set_result(member)

    def _fail(self, why: str) -> None:
        assert self._transport is not None
        self._transport.abort()
        if not self._ready.done():
            self._ready.set_exception(BenchFailed(f"connection {self._index}: {why}"))

    def connection_lost(self, error: Exception | None) -> None:
        """It ended too early."""
        waiting = f"; it waited for {self._steps[0]}" if self._upgraded and self._steps else ""
        stray = f", and the last message was {self._stray.decode(errors='replace')}" if self._stray else ""
        if not self._ready.done():
            why = error or "the server ended it"
            self._ready.set_exception(BenchFailed(f"connection {self._index} broke: {why}{waiting}{stray}"))
