"""Work grows with the length of what comes, and not with its square: counted, never timed.

The instructions that Python carries out are counted for an input and for one of twice its size. What a C function
does by itself is not seen that way, so each is also given an input so long that the square of it would never end.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

import pytest

from roomwire.auth.origin import OriginPolicy
from roomwire.auth.tokens import find_token
from roomwire.core import envelope
from roomwire.core.deflate import Deflate, compress, negotiate_deflate
from roomwire.core.errors import RoomwireError
from roomwire.core.frames import Opcode, Role, build_frame
from roomwire.core.handshake import check_upgrade, choose_subprotocol
from roomwire.core.heads import read_upgrade
from roomwire.core.http import RequestParser
from roomwire.core.positions import is_room_name, parse_cursor
from roomwire.core.publication import read_body
from roomwire.core.request import RequestHead
from roomwire.core.websocket import WebSocket
from tests.server.raw import frame, request

Read = Callable[[Any], object]
UNLIMITED = 1 << 40
RATIO = 2.5


def instructions(read: Read, data: Any) -> int:
    """Instructions of Python that reading takes."""
    count = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal count
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        if event == "opcode":
            count += 1
        return trace

    before = sys.gettrace()
    gc.disable()  # what it would finalize meanwhile is what other tests have left
    sys.settrace(trace)
    try:
        quietly(read, data)
    finally:
        sys.settrace(before)
        gc.enable()
    return count


def quietly(read: Read, data: Any) -> None:
    with suppress(RoomwireError):
        read(data)


def head(*headers: tuple[bytes, bytes], query: str = "") -> RequestHead:
    return RequestHead("GET", "/ws", query, [(b"host", b"a"), *headers])


def parse_head(data: bytes) -> object:
    return RequestParser(max_head=UNLIMITED, max_headers=UNLIMITED, max_request_line=UNLIMITED).receive(data)


def parse_head_in_pieces(data: bytes) -> None:
    parser = RequestParser(max_head=UNLIMITED, max_headers=UNLIMITED, max_request_line=UNLIMITED)
    for start in range(0, len(data), 64):
        parser.receive(data[start : start + 64])


def machine(data: bytes) -> WebSocket:
    made = WebSocket(
        Role.SERVER, max_message_size=UNLIMITED, max_fragments=UNLIMITED, deflate=Deflate("permessage-deflate")
    )
    made.receive(data)
    return made


def in_pieces(data: bytes) -> None:
    made = WebSocket(Role.SERVER, max_message_size=UNLIMITED, max_fragments=UNLIMITED)
    for start in range(0, len(data), 100):
        made.receive(data[start : start + 100])


def deflated(size: int) -> bytes:
    packed = compress(bytes(range(256)) * (size // 256 + 1))
    masked = bytearray(build_frame(Opcode.BINARY, packed, rsv1=True))
    length = 2 if len(packed) < 126 else 4 if len(packed) < 65_536 else 10
    masked[1] |= 0x80
    return bytes(masked[:length]) + bytes(4) + packed


# Each: what reads it, an input of n parts, n for the count, n for the very long one.
CASES: dict[str, tuple[Read, Callable[[int], Any], int, int]] = {
    # --- the head
    "a long header": (parse_head, lambda n: request("/ws", "X: " + "a" * n), 2000, 1 << 22),
    "many headers": (parse_head, lambda n: request("/ws", *["X: y"] * n), 100, 20_000),
    "many headers in pieces": (parse_head_in_pieces, lambda n: request("/ws", *["X: y"] * n), 100, 20_000),
    "a line without an end": (parse_head, lambda n: b"GET /" + b"a" * n, 2000, 1 << 22),
    "blank lines that are none": (parse_head, lambda n: b"GET / HTTP/1.1\r\n" + b"\n\r " * n, 500, 1 << 20),
    "a long Host": (parse_head, lambda n: b"GET / HTTP/1.1\r\nHost: " + b"a." * n + b"\r\n\r\n", 1000, 1 << 21),
    "a Host of colons": (parse_head, lambda n: b"GET / HTTP/1.1\r\nHost: [" + b":" * n + b"\r\n\r\n", 1000, 1 << 21),
    "an upgrade with a long value": (read_upgrade, lambda n: request("/ws", "X: " + "a " * n), 1000, 1 << 21),
    "an upgrade with blanks at an end": (read_upgrade, lambda n: request("/ws", "X: a" + " " * n), 1000, 1 << 21),
    "an upgrade with a long name": (read_upgrade, lambda n: request("/ws", "X" * n), 1000, 1 << 21),
    "an upgrade of many lines": (read_upgrade, lambda n: request("/ws", *["X: y"] * n), 100, 20_000),
    "an upgrade with a long target": (
        read_upgrade,
        lambda n: request("/" + "a" * n, version="HTTP/1.0"),
        1000,
        1 << 21,
    ),
    "Upgrade": (check_upgrade, lambda n: head((b"upgrade", b"," * n)), 1000, 1 << 20),
    "Connection": (
        check_upgrade,
        lambda n: head((b"upgrade", b"websocket"), (b"connection", b"a ," * n)),
        1000,
        1 << 20,
    ),
    "Sec-WebSocket-Key": (
        check_upgrade,
        lambda n: head(
            (b"upgrade", b"websocket"),
            (b"connection", b"upgrade"),
            (b"sec-websocket-version", b"13"),
            (b"sec-websocket-key", b"A" * n),
        ),
        1000,
        1 << 22,
    ),
    "Sec-WebSocket-Protocol": (lambda n: choose_subprotocol(n, ["roomwire.v1"]), lambda n: ["a"] * n, 1000, 1 << 20),
    "extensions": (negotiate_deflate, lambda n: [b"permessage-deflate; x, " * n], 200, 1 << 16),
    "blanks in extensions": (negotiate_deflate, lambda n: [b"a;" + b" \t" * n + b"="], 1000, 1 << 21),
    "a quoted value": (negotiate_deflate, lambda n: [b'a; b="' + b"c" * n], 1000, 1 << 21),
    "Origin": (OriginPolicy().check, lambda n: head((b"origin", b"https://" + b"a." * n)), 1000, 1 << 21),
    "a token": (find_token, lambda n: head((b"authorization", b"Bearer " + b"a." * n)), 1000, 1 << 22),
    "a query": (lambda h: h.query_values("token"), lambda n: head(query="a=%41&" * n), 200, 1 << 17),
    "a cursor": (
        lambda text: parse_cursor(text, UNLIMITED),
        lambda n: ",".join(f"r{number}@e:1" for number in range(n)),
        200,
        1 << 17,
    ),
    "a cursor of one room": (lambda text: parse_cursor(text, 100), lambda n: "%41" * n + "@e:1", 200, 1 << 20),
    "a room": (is_room_name, lambda n: "é" * n, 1000, 1 << 22),
    # --- frames
    "small frames": (machine, lambda n: frame(Opcode.TEXT, b"x") * n, 200, 1 << 17),
    "pings": (machine, lambda n: frame(Opcode.PING) * n, 100, 1 << 15),
    "empty fragments": (
        machine,
        lambda n: frame(Opcode.TEXT, b"", fin=False) + frame(Opcode.CONTINUATION, b"", fin=False) * n,
        100,
        1 << 15,
    ),
    "a long frame": (machine, lambda n: frame(Opcode.BINARY, bytes(n)), 2000, 1 << 24),
    "a long frame in pieces": (in_pieces, lambda n: frame(Opcode.BINARY, bytes(n)), 4000, 1 << 21),
    "fragments in pieces": (
        in_pieces,
        lambda n: frame(Opcode.TEXT, b"x" * 30, fin=False) + frame(Opcode.CONTINUATION, b"x" * 30, fin=False) * n,
        100,
        1 << 14,
    ),
    "a compressed frame": (machine, deflated, 4000, 1 << 24),
    # --- messages
    "nesting": (envelope.parse, lambda n: '{"event":"a","data":' + "[" * n, 200, 1 << 21),
    "digits": (envelope.parse, lambda n: '{"event":"a","data":' + "9" * n + "}", 200, 1 << 21),
    "strings": (envelope.parse, lambda n: '{"event":"a","data":[' + '"\\"",' * n + "1]}", 200, 1 << 20),
    "surrogates": (envelope.parse, lambda n: '{"event":"a","data":"' + "\\ud83d\\ude00" * n + '"}', 200, 1 << 18),
    "blanks": (envelope.parse, lambda n: "{" + " " * n + '"event"' + " " * n + ":1", 200, 1 << 21),
    "a binary header": (
        envelope.parse_binary,
        lambda n: (8).to_bytes(4, "big") + b'{"event"' + bytes(n),
        200,
        1 << 24,
    ),
    "a body": (
        lambda data: read_body("r", data, None),
        lambda n: b"\1\0\x0b" + b'{"e":"told"}'[:11] + b"x" * n,
        200,
        1 << 24,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_twice_the_input_is_twice_the_work(name: str) -> None:
    read, make, size, _ = CASES[name]
    quietly(read, make(size))  # caches are filled
    once, twice = instructions(read, make(size)), instructions(read, make(2 * size))
    assert once > 0
    assert twice / once < RATIO


@pytest.mark.parametrize("name", CASES)
def test_an_input_whose_square_would_never_end_ends(name: str) -> None:
    read, make, _, size = CASES[name]
    quietly(read, make(size))


def test_what_grows_with_the_square_is_found() -> None:
    def square(text: str) -> int:
        return sum(1 for _ in text for _ in text)

    assert instructions(square, "x" * 200) / instructions(square, "x" * 100) > RATIO
