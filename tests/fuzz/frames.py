"""The WebSocket machine: any frames in any pieces, in both roles, with and without compression.

An input is two bytes that choose the role, the extension and what this side does meanwhile, and then the wire.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage
from wsproto.extensions import Extension

from roomwire.core.deflate import Deflate, compress
from roomwire.core.frames import unmask
from roomwire.core.guards import BoundedDeflate
from roomwire.core.websocket import Closed, Received, Role, State, WebSocket
from tests.fuzz.harness import digest
from tests.fuzz.mutation import mutate, noise, pieces, text_noise

__all__ = ["make_frames", "open_frames"]

MAX_MESSAGE = 2000
MAX_FRAGMENTS = 12
MAX_PONGS = 16
"""Pings of one read that are answered."""

CLIENT, DEFLATE, ACTS, CLOSES = 1, 2, 4, 8

_AGREED = Deflate("permessage-deflate")
_CODES = (0, 999, 1000, 1001, 1003, 1004, 1005, 1006, 1007, 1011, 1014, 1015, 1016, 2999, 3000, 4999, 5000, 65535)
_SIZES = (0, 1, 125, 126, 127, 1023, 1024, MAX_MESSAGE - 1, MAX_MESSAGE, MAX_MESSAGE + 1, 65_535, 65_536, 1 << 62)


# --- inputs


def make_frames(rng: random.Random) -> bytes:
    """An input: mostly frames that are correct, or nearly so."""
    options = rng.randrange(16)
    wire = b"".join(_item(rng, options) for _ in range(rng.randrange(1, 8)))
    if rng.random() < 0.3:
        wire = mutate(rng, wire)
    return bytes((options, rng.randrange(256))) + wire


def _item(rng: random.Random, options: int) -> bytes:
    kind = rng.random()
    masked = not options & CLIENT
    if kind < 0.35:
        return _frame(rng, rng.choice((1, 2)), _payload(rng), masked)
    if kind < 0.50:
        return _fragmented(rng, _payload(rng), masked, rsv=0)
    if kind < 0.65 and options & DEFLATE:
        packed = compress(rng.choice((_payload(rng), bytes(rng.choice((MAX_MESSAGE, 100_000))))))
        return _fragmented(rng, packed, masked, rsv=0x40)
    if kind < 0.75:
        return _frame(rng, rng.choice((9, 9, 10)), noise(rng, 125), masked)
    if kind < 0.78:
        reason = text_noise(rng).encode()[: rng.choice((0, 10, 123, 130))]
        return _frame(rng, 8, rng.choice((b"", b"\x03", rng.choice(_CODES).to_bytes(2, "big") + reason)), masked)
    if kind < 0.85:
        return _wrong(rng, masked)
    if kind < 0.92:
        return mutate(rng, _frame(rng, rng.choice((0, 1, 2, 8, 9, 10)), _payload(rng), masked))
    return noise(rng, 200)


def _payload(rng: random.Random) -> bytes:
    return rng.choice((
        lambda: text_noise(rng).encode(),
        lambda: noise(rng, 300),
        lambda: b"t" * rng.choice((125, 126, 127, 1024, MAX_MESSAGE - 1, MAX_MESSAGE, MAX_MESSAGE + 1)),
        lambda: '{"event":"é😀"}'.encode(),
    ))()  # fmt: skip


def _frame(
    rng: random.Random, opcode: int, payload: bytes, masked: bool, *, fin: bool = True, rsv: int = 0,
    declared: int | None = None, width: int | None = None,
) -> bytes:  # fmt: skip
    length = len(payload) if declared is None else declared
    if width is None:
        width = 0 if length < 126 else 2 if length < 65_536 else 8
    head = bytes((fin << 7 | rsv | opcode, masked << 7 | {0: length & 0x7F, 2: 126, 8: 127}[width]))
    head += (length % (1 << 8 * width)).to_bytes(width, "big")
    if not masked:
        return head + payload
    key = rng.choice((bytes(4), rng.randbytes(4)))
    return head + key + unmask(payload, key)


def _fragmented(rng: random.Random, payload: bytes, masked: bool, rsv: int) -> bytes:
    count = rng.choice((1, 2, 3, MAX_FRAGMENTS, MAX_FRAGMENTS + 1))
    cuts = sorted(rng.randrange(len(payload) + 1) for _ in range(count - 1))
    edges = [0, *cuts, len(payload)]
    opcode = rng.choice((1, 2))
    wire = b""
    for number in range(count):
        part = payload[edges[number] : edges[number + 1]]
        first, last = number == 0, number == count - 1
        wire += _frame(rng, opcode if first else 0, part, masked, fin=last, rsv=rsv if first else 0)
        if not last and rng.random() < 0.3:
            wire += _frame(rng, rng.choice((9, 10)), b"between", masked)
    return wire


def _wrong(rng: random.Random, masked: bool) -> bytes:
    """A frame that breaks a rule, or may do so."""
    return _frame(
        rng,
        rng.randrange(16),
        _payload(rng) if rng.random() < 0.5 else noise(rng, 130),
        masked if rng.random() < 0.8 else not masked,
        fin=rng.random() < 0.5,
        rsv=rng.choice((0, 0x10, 0x20, 0x40)),
        declared=rng.choice((None, *_SIZES)),
        width=rng.choice((None, 2, 8)),
    )


# --- what must hold


class _Peer:
    """wsproto as the other end: what we send are frames that it can read, and nothing follows a close."""

    def __init__(self, role: Role, deflate: bool) -> None:
        # Our server's peer is a client.
        side = ConnectionType.CLIENT if role is Role.SERVER else ConnectionType.SERVER
        extensions: list[Extension] = [BoundedDeflate(1 << 20)] if deflate else []
        self.connection = Connection(side, extensions)
        self.ended = False
        self.pongs = 0

    def receive(self, data: bytes) -> None:
        if not data:
            return
        assert not self.ended, f"{data!r} follows a close frame"
        self.connection.receive_data(data)
        for event in self.connection.events():
            assert isinstance(event, TextMessage | BytesMessage | Ping | Pong | CloseConnection), event
            assert not self.ended, f"{event} follows a close frame"
            self.pongs += isinstance(event, Pong)
            if isinstance(event, CloseConnection):
                assert self.connection.state is ConnectionState.REMOTE_CLOSING, f"it cannot be read: {event}"
                self.ended = True


class _Run:
    """One input against one machine."""

    def __init__(self, options: int, *, short: bool) -> None:
        self.short = short
        self.role = Role.CLIENT if options & CLIENT else Role.SERVER
        deflate = bool(options & DEFLATE)
        self.machine = WebSocket(
            self.role,
            max_message_size=MAX_MESSAGE,
            max_fragments=MAX_FRAGMENTS,
            deflate=_AGREED if deflate else None,
            mask_source=lambda size: b"\x37\xfa\x21\x3d"[:size],
        )
        self.peer = _Peer(self.role, deflate)
        self.received: list[Received] = []
        self.closed = False

    def feed(self, data: bytes) -> None:
        machine, frames = self.machine, self.machine.frames_received
        # As the shells do it: the short way where it takes all, else the whole machine.
        simple = machine.receive_messages(data) if self.short else None
        received: list[Received] = machine.receive(data) if simple is None else [*simple]
        self.check(received)
        assert machine.frames_received >= frames
        assert not (self.closed and machine.mid_message)
        before = self.peer.pongs
        self.peer.receive(machine.data_to_send())
        assert self.peer.pongs - before <= MAX_PONGS
        assert machine.data_to_send() == b""
        if machine._assembler is not None:
            assert len(machine._assembler._message or b"") <= MAX_MESSAGE

    def check(self, received: list[Received]) -> None:
        assert not (received and self.closed), "after Closed nothing comes"
        for item in received:
            assert not self.closed, "Closed is the last"
            if isinstance(item, str | bytes):
                size = len(item.encode()) if isinstance(item, str) else len(item)
                assert size <= MAX_MESSAGE, f"a message of {size} bytes"
            self.closed = isinstance(item, Closed)
        assert self.closed is (self.machine.state is State.CLOSED)
        self.received += received

    def act(self, rng: random.Random, options: int) -> None:
        """This side sends something."""
        machine = self.machine
        kind = rng.randrange(12 if options & CLOSES else 8)
        if kind < 2:
            self.peer.receive(machine.ping(noise(rng, 125)))
        elif kind < 4:
            self.peer.receive(machine.encode(rng.choice((text_noise(rng), "t" * 3000, noise(rng, 3000)))))
        elif kind > 9:
            self.peer.receive(machine.close(rng.choice((1000, 1001, 4001)), text_noise(rng, 200)))

    def end(self) -> None:
        closed = self.closed
        received = self.machine.receive_eof()
        assert [type(item) for item in received] == ([] if closed else [Closed])
        self.check(received)
        assert self.machine.receive(b"\x81\x80\0\0\0\0") == []
        assert self.machine.encode("x") == self.machine.ping() == self.machine.close(1000) == b""
        assert self.machine.data_to_send() == b""


def _read(data: bytes) -> bool:
    if len(data) < 2:
        return False
    options, wire = data[0], data[2:]
    rng = random.Random(digest(data[:2]) ^ len(data))
    run = _Run(options, short=True)
    for piece in pieces(rng, wire):
        run.feed(piece)
        if options & ACTS:
            run.act(rng, options)
    if not options & ACTS:
        # However the bytes are cut, the same comes out of them.
        whole = _Run(options, short=False)
        whole.feed(wire)
        assert whole.received == run.received
        assert whole.machine.frames_received == run.machine.frames_received
    run.end()
    return not any(isinstance(item, Closed) and item.code in (1002, 1007, 1009) for item in run.received)


@contextmanager
def open_frames() -> Iterator[Callable[[bytes], bool]]:
    """Accepted is what the machine did not have to end with an error."""
    yield _read
