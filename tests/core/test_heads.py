"""The fast lane for the head of an upgrade reads what h11 reads, or nothing."""

from __future__ import annotations

import h11
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from roomwire.core.heads import Fields, read_upgrade
from roomwire.core.http import RequestParser

KEY = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
USUAL = (
    b"Host: example.com",
    b"Upgrade: websocket",
    b"Connection: Upgrade",
    b"Sec-WebSocket-Version: 13",
    KEY,
)

CHROMIUM = (
    b"Host: 127.0.0.1:9956",
    b"Connection: Upgrade",
    b"Pragma: no-cache",
    b"Cache-Control: no-cache",
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156.0.0.0",
    b"Upgrade: websocket",
    b"Origin: http://127.0.0.1:9956",
    b"Sec-WebSocket-Version: 13",
    b"Accept-Encoding: gzip, deflate, br, zstd",
    b"Accept-Language: en-US,en;q=0.9",
    KEY,
    b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",
    b"Sec-WebSocket-Protocol: roomwire.v1",
)
WEBSOCKETS = (
    *USUAL,
    b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",
    b"Authorization: Bearer x.y.z",
    b"User-Agent: Python/3.11 websockets/17.4",
)
AIOHTTP = (*USUAL, b"Accept: */*", b"Accept-Encoding: gzip, deflate", b"User-Agent: Python/3.11 aiohttp/3.14.5")
NGINX = (b"Upgrade: websocket", b"Connection: upgrade", b"Host: app", b"X-Forwarded-For: 10.0.0.1, ::1", *USUAL[3:])


def head(*lines: bytes, first: bytes = b"GET /ws?client=abcdefgh HTTP/1.1") -> bytes:
    return b"\r\n".join((first, *lines, b"", b""))


def read_by_h11(data: bytes) -> tuple[str, Fields] | None:
    """Target and fields, where h11 takes `data` as one whole request."""
    parser = h11.Connection(h11.SERVER)
    parser.receive_data(data)
    try:
        event = parser.next_event()
    except h11.RemoteProtocolError:
        return None
    if not isinstance(event, h11.Request) or parser.trailing_data[0]:
        return None
    assert (event.method, event.http_version) == (b"GET", b"1.1")
    return event.target.decode("ascii"), tuple((name.lower(), value) for name, value in event.headers.raw_items())


@pytest.mark.parametrize("lines", [USUAL, CHROMIUM, WEBSOCKETS, AIOHTTP, NGINX])
def test_what_clients_and_proxies_send_is_read_as_h11_reads_it(lines: tuple[bytes, ...]) -> None:
    data = head(*lines)
    found = read_upgrade(data)
    assert found is not None
    assert found == read_by_h11(data)
    assert RequestParser().receive(data) == RequestParser()._parse_any(data)


@pytest.mark.parametrize(
    "line",
    [
        b"X-Empty:",
        b"X-Empty: ",
        b"X-Close:up",
        b"X-Colons: a:b::c",
        b"x!#$%&'*+-.^_`|~: punctuation",
        b"X-Case: KEPT",
        b"Upgrade-Insecure-Requests: 1",
    ],
)
def test_a_rarer_line_is_read_as_h11_reads_it(line: bytes) -> None:
    data = head(*USUAL, line)
    assert read_upgrade(data) is not None
    assert read_upgrade(data) == read_by_h11(data)


@pytest.mark.parametrize(
    "data",
    [
        head(*USUAL, first=b"POST /ws HTTP/1.1"),
        head(*USUAL, first=b"get /ws HTTP/1.1"),
        head(*USUAL, first=b"GET /ws HTTP/1.0"),
        head(*USUAL, first=b"GET  /ws HTTP/1.1"),
        head(*USUAL, first=b"GET /w s HTTP/1.1"),
        head(*USUAL, first=b"GET http://example.com/ws HTTP/1.1"),
        head(*USUAL, first=b"GET * HTTP/1.1"),
        head(*USUAL, first="GET /é HTTP/1.1".encode()),
        head(*USUAL, first=b"GET /\x00 HTTP/1.1"),
        b"\r\n" + head(*USUAL),
        head(*USUAL).replace(b"\r\n", b"\n"),
        head(*USUAL).replace(b"\r\n", b"\n", 1),
        head(*USUAL)[:-2] + b"\n",
        head(*USUAL) + b"more",
        head(*USUAL)[:-2],
        head(*USUAL)[:-1],
        head(*USUAL[1:]),
        head(*USUAL, b"host: example.com"),
        head(*USUAL, b"Upgrade: websocket"),
        head(b"Host: a", b"Connection: Upgrade"),
        head(b"Host: a", b"Upgrade: h2c"),
        head(b"Host: a", b"Upgrade: websocket, h2c"),
        head(*USUAL, b"Content-Length: 0"),
        head(*USUAL, b"content-length: 5"),
        head(*USUAL, b"Transfer-Encoding: chunked"),
        head(*USUAL, b" folded: onto the line before"),
        head(*USUAL, b"\tfolded"),
        head(*USUAL, b"X-Space : before the colon"),
        head(*USUAL, b": no name"),
        head(*USUAL, b"no colon"),
        head(*USUAL, b"X-Trailing: blank "),
        head(*USUAL, b"X-Two:  blanks"),
        head(*USUAL, b"X-Tab:\tvalue"),
        head(*USUAL, b"X-Tab: a\tb"),
        head(*USUAL, b"X-Nul: a\x00b"),
        head(*USUAL, b"X-Delete: a\x7fb"),
        head(*USUAL, b"X-Cr: a\rb"),
        head(*USUAL, b"X-Lf: a\nb"),
        head(*USUAL, "X-Latin: é".encode("latin-1")),
        head(*USUAL, "X-É: value".encode()),
        b"",
        b"\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
def test_everything_else_is_left_to_h11(data: bytes) -> None:
    assert read_upgrade(data) is None


NAMES = st.sampled_from([b"Host", b"host", b"Upgrade", b"Connection", b"Content-Length", b"Transfer-Encoding", b"X-1"])
VALUES = st.one_of(
    st.sampled_from([b"websocket", b"WebSocket", b"h2c", b"example.com", b"0", b"5", b"chunked", b""]),
    st.binary(max_size=12),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20).map(str.encode),
)
LINES = st.one_of(
    st.sampled_from(USUAL),
    st.builds(
        lambda name, gap, value, end: name + gap + value + end,
        NAMES,
        st.sampled_from([b": ", b":", b" : ", b":  ", b":\t", b""]),
        VALUES,
        st.sampled_from([b"", b" ", b"\t"]),
    ),
)


@settings(max_examples=1500)
@given(st.lists(LINES, max_size=5), st.lists(st.tuples(st.integers(0, 300), st.binary(max_size=2)), max_size=2))
@example([], [])
@example([], [(4, b"")])
def test_whatever_comes_it_reads_what_h11_reads(lines: list[bytes], edits: list[tuple[int, bytes]]) -> None:
    data = head(*USUAL, *lines)
    for at, piece in edits:
        data = data[:at] + piece + data[at + len(piece) or at + 1 :]
    found = read_upgrade(data)
    if found is not None:
        assert found == read_by_h11(data)
