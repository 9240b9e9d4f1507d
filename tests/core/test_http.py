"""Request heads in, whole responses out (RFC 9110, RFC 9112)."""

from __future__ import annotations

import itertools
import json

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from roomwire.core.errors import HandshakeRefused, LocalError, Refusal
from roomwire.core.http import RequestParser, http_response, refusal_response, stream_response
from roomwire.core.request import RequestHead

HOST = b"Host: localhost:8000\r\n"
GET = b"GET /ws?token=SECRET HTTP/1.1\r\n" + HOST + b"\r\n"


def head_of(data: bytes) -> RequestHead:
    head = RequestParser().receive(data)
    assert head is not None
    return head


def refusal_of(data: bytes, parser: RequestParser | None = None) -> Refusal:
    with pytest.raises(HandshakeRefused) as caught:
        (parser or RequestParser()).receive(data)
    assert caught.value.refusal.error == "bad_request"
    return caught.value.refusal


class TestReading:
    def test_the_head_as_it_was_sent(self) -> None:
        parser = RequestParser(peer="127.0.0.1:5", secure=True)
        data = b"GET /a%20b/c?x=1?2&y= HTTP/1.1\r\nHOST: Example.org\r\nX-One:  a b \r\nx-one: c\r\n\r\n"
        head = parser.receive(data + b"rest")
        headers = ((b"host", b"Example.org"), (b"x-one", b"a b"), (b"x-one", b"c"))
        assert head == RequestHead("GET", "/a%20b/c", "x=1?2&y=", headers, "127.0.0.1:5", True)
        assert parser.trailing == b"rest"

    def test_byte_by_byte(self) -> None:
        parser = RequestParser()
        assert [parser.receive(GET[index : index + 1]) for index in range(len(GET) - 1)] == [None] * (len(GET) - 1)
        assert parser.receive(GET[-1:]) == head_of(GET)
        assert parser.trailing == b""

    @given(st.lists(st.integers(0, len(GET) + 4), max_size=6))
    def test_any_split_with_bytes_behind_it(self, cuts: list[int]) -> None:
        parser = RequestParser()
        data = GET + b"more"
        edges = [0, *sorted(cuts), len(data)]
        whole = None
        behind = b""
        for start, stop in itertools.pairwise(edges):
            if whole is None:
                whole = parser.receive(data[start:stop])
                behind = parser.trailing
            else:
                behind += data[start:stop]
        assert whole == head_of(GET)
        assert behind == b"more"

    @pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS"])
    def test_any_method(self, method: str) -> None:
        head = head_of(f"{method} /healthz HTTP/1.1\r\n".encode() + HOST + b"Content-Length: 0\r\n\r\n")
        assert (head.method, head.path, head.query) == (method, "/healthz", "")

    @pytest.mark.parametrize(
        ("target", "path", "query"),
        [
            ("http://Example.org:8000/a%20b?c=d", "/a%20b", "c=d"),
            ("HTTPS://example.ORG:8000/", "/", ""),
            ("http://example.org:8000", "/", ""),
            ("http://example.org:8000?c=http://other", "/", "c=http://other"),
            ("http://example.org:8000//other/", "//other/", ""),
        ],
    )
    def test_a_target_in_absolute_form(self, target: str, path: str, query: str) -> None:
        head = head_of(f"GET {target} HTTP/1.1\r\nHost: example.org:8000\r\n\r\n".encode())
        assert (head.path, head.query, head.header(b"host")) == (path, query, b"example.org:8000")
        assert not head.secure  # whatever it says

    def test_a_target_in_absolute_form_is_the_host_where_there_is_none(self) -> None:
        assert head_of(b"GET http://[::1]:80/a HTTP/1.0\r\n\r\n").header(b"host") == b"[::1]:80"

    @pytest.mark.parametrize(
        ("target", "host"),
        [
            ("http://a/", "b"),
            ("http://a/", "a:80"),
            ("http://a:80/", "a"),
            ("http://a/", ""),
            ("http:///", ""),
            ("http://:80/", ":80"),
            ("http://u@a/", "a"),
            ("http://u@a/", "u@a"),
            ("http://a,b/", "a,b"),
            ("http://a#/", "a"),
            ("http:/a", "a"),
            ("ws://a/", "a"),
            ("a", "a"),
            ("*", "a"),
        ],
    )
    def test_a_target_that_is_not_the_hosts(self, target: str, host: str) -> None:
        assert refusal_of(f"GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()).status == 400

    @pytest.mark.parametrize("target", ["*", "http://a"])
    def test_options_of_the_server_as_a_whole(self, target: str) -> None:
        assert refusal_of(f"OPTIONS {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode()).status == 400
        assert head_of(b"OPTIONS http://a/ HTTP/1.1\r\nHost: a\r\n\r\n").path == "/"

    def test_a_post_with_a_body_is_for_others_to_answer(self) -> None:
        parser = RequestParser()
        head = parser.receive(b"POST /x HTTP/1.1\r\n" + HOST + b"Content-Length: 4\r\n\r\nbody")
        assert head is not None
        assert parser.trailing == b"body"

    def test_http_1_0_health_checks(self) -> None:
        assert head_of(b"GET /healthz HTTP/1.0\r\n\r\n").path == "/healthz"

    def test_bare_line_feeds_as_h11_reads_them(self) -> None:
        assert head_of(b"GET / HTTP/1.1\nHost: a\n\n").header(b"host") == b"a"

    def test_no_token_in_its_repr(self) -> None:
        assert "SECRET" not in repr(head_of(GET))


class TestRefusedRequests:
    @pytest.mark.parametrize(
        "data",
        [
            b"\x16\x03\x01\x02",  # a TLS hello
            b"\r\n",
            b" GET / HTTP/1.1\r\n\r\n",
            b"GET /\r\n\r\n",
            b"GET / HTTP/1.1\r\n\r\n",  # no Host
            b"GET  / HTTP/1.1\r\n" + HOST + b"\r\n",
            b"GET / HTTP/2.0\r\n" + HOST + b"\r\n",
            b"GET / HTTP/0.9\r\n" + HOST + b"\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"GET /\x00 HTTP/1.1\r\n" + HOST + b"\r\n",
            b"GET /\xc3\xa9 HTTP/1.1\r\n" + HOST + b"\r\n",
            b"GET http://localhost/ws HTTP/1.1\r\n" + HOST + b"\r\n",
            b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n",
            b"GET / HTTP/1.1\r\n" + HOST + b"no colon\r\n\r\n",
            b"GET / HTTP/1.1\r\n" + HOST + b"space : before\r\n\r\n",
            b"GET / HTTP/1.1\r\n" + HOST + b"x: a\x00b\r\n\r\n",
            b"GET / HTTP/1.1\r\n folded: first\r\n" + HOST + b"\r\n",
            b"GET / HTTP/1.0\r\nUpgrade: websocket\r\n\r\n",
        ],
    )
    def test_not_correct_http_is_400(self, data: bytes) -> None:
        assert refusal_of(data).status == 400

    @pytest.mark.parametrize(
        "host",
        [
            b"a" * 256,
            b"[::1",
            b"::1",
            b"user@host",
            b"host/path",
            b"host?x",
            b"two hosts",
            b"a,b",
            b"host:port",
            b"host:123456",
            "hôst".encode(),
            "hôst".encode("latin-1"),
            b"[::g]",
        ],
    )
    def test_a_bad_host_is_400_b13(self, host: bytes) -> None:
        assert refusal_of(b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n").status == 400

    def test_two_hosts_are_400_b13(self) -> None:
        assert refusal_of(b"GET / HTTP/1.1\r\n" + HOST + HOST + b"\r\n").status == 400

    @pytest.mark.parametrize(
        "host", [b"", b"a", b"a" * 255, b"Example.ORG:443", b"127.0.0.1", b"[::1]:80", b"xn--hst-sna.example", b"a_b"]
    )
    def test_a_good_host_is_kept_as_it_came_b13(self, host: bytes) -> None:
        assert head_of(b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n").header(b"host") == host

    @pytest.mark.parametrize(
        "headers",
        [
            b"Content-Length: 1\r\n",
            b"Content-Length: 00\r\n",
            b"Content-Length: -1\r\n",
            b"Content-Length: 0\r\nContent-Length: 1\r\n",
            b"Transfer-Encoding: chunked\r\n",
            b"Transfer-Encoding: identity\r\n",
            b"Transfer-Encoding: chunked\r\nContent-Length: 0\r\n",
        ],
    )
    def test_a_get_with_a_body_is_400_b24(self, headers: bytes) -> None:
        assert refusal_of(b"GET / HTTP/1.1\r\n" + HOST + headers + b"\r\n").status == 400

    def test_a_get_that_says_it_has_none_passes_b24(self) -> None:
        assert head_of(b"GET / HTTP/1.1\r\n" + HOST + b"Content-Length: 0\r\n\r\n").path == "/"

    def test_the_text_repeats_nothing_of_the_request(self) -> None:
        with pytest.raises(HandshakeRefused) as caught:
            RequestParser().receive(b"GET /?token=SECRET HTTP/1.1 SECRET\r\nSECRET\r\n\r\n")
        assert "SECRET" not in repr(caught.value) + repr(caught.value.refusal)
        assert caught.value.__cause__ is None


class TestLimitsB22:
    def test_the_head(self) -> None:
        def request(size: int) -> bytes:
            frame = b"GET / HTTP/1.1\r\n" + HOST + b"x: \r\n\r\n"
            return frame.replace(b"x: ", b"x: " + b"y" * (size - len(frame)))

        for size in (16_383, 16_384):
            assert head_of(request(size)).path == "/"
            assert head_of(request(size) + bytes(100_000)).path == "/"
        for data in (
            request(16_385),
            request(16_385)[:-1] + b"z",
            request(40_000),
            b"G / HTTP/1.1\r\nx:" + b"y" * 16_384,
        ):
            assert refusal_of(data).status == 431
        parser = RequestParser()
        assert parser.receive(request(16_385)[:16_384]) is None
        assert refusal_of(b"y", parser).status == 431

    def test_the_request_line(self) -> None:
        def line(size: int) -> bytes:
            return b"GET /" + b"a" * (size - 14) + b" HTTP/1.1"

        assert len(head_of(line(8192) + b"\r\n" + HOST + b"\r\n").path) == 8192 - 13
        assert refusal_of(line(8193) + b"\r\n" + HOST + b"\r\n").status == 400
        parser = RequestParser()
        assert parser.receive(line(8192) + b"\r") is None
        assert refusal_of(b"x" * 8194).status == 400

    def test_the_number_of_headers(self) -> None:
        def request(count: int) -> bytes:
            return b"GET / HTTP/1.1\r\n" + HOST + b"x: y\r\n" * (count - 1) + b"\r\n"

        assert len(head_of(request(100) + b"\n" * 500).headers) == 100
        assert refusal_of(request(101)).status == 431
        assert refusal_of(request(5000)[:-2]).status == 431
        parser = RequestParser(max_headers=2)
        whole = [parser.receive(request(2)[index : index + 1]) for index in range(len(request(2)))]
        assert whole[-1] is not None

    def test_of_ones_own(self) -> None:
        parser = RequestParser(max_head=60, max_headers=1, max_request_line=20)
        assert parser.receive(b"GET /12345 HTTP/1.1\r\nHost: a\r\n\r\n") is not None


VALID = (
    b"GET /ws?client=abcdefgh HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def outcome(blocks: list[bytes]) -> int | None:
    """The status of the refusal; 200 for a head, None where it is not complete."""
    parser = RequestParser()
    try:
        return 200 if any(parser.receive(block) for block in blocks) else None
    except HandshakeRefused as error:
        return error.refusal.status


class TestAnyBytes:
    @given(st.lists(st.binary(max_size=50), max_size=5))
    @example([b"\n"])
    @example([b"GET / HTTP/1.1\n\r\n"])
    def test_only_a_refusal_leaves(self, blocks: list[bytes]) -> None:
        assert outcome(blocks) in (None, 200, 400, 431)

    @given(st.integers(0, len(VALID) - 1), st.binary(max_size=3), st.integers(0, 3))
    def test_nor_from_a_request_that_was_tampered_with(self, at: int, inserted: bytes, removed: int) -> None:
        data = VALID[:at] + inserted + VALID[at + removed :]
        assert outcome([data]) in (None, 200, 400, 431)


def read(response: bytes, method: str = "GET") -> tuple[h11.Response, bytes]:
    """What an HTTP client makes of it."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
    client.send(h11.EndOfMessage())
    client.receive_data(response)
    head = client.next_event()
    assert isinstance(head, h11.Response)
    body = b""
    while not isinstance(event := client.next_event(), h11.EndOfMessage):
        assert isinstance(event, h11.Data)
        body += event.data
    return head, body


class TestResponses:
    def test_whole(self) -> None:
        head, body = read(http_response(200, b"{}", "application/json", [("Cache-Control", "no-store")]))
        assert (head.status_code, head.reason, body) == (200, b"OK", b"{}")
        assert dict(head.headers) == {
            b"content-type": b"application/json",
            b"content-length": b"2",
            b"cache-control": b"no-store",
            b"connection": b"close",
        }

    def test_kept_alive(self) -> None:
        head, _ = read(http_response(200, b"", "text/plain", close=False))
        assert b"connection" not in dict(head.headers)

    def test_to_a_head_request_has_no_body(self) -> None:
        head, body = read(http_response(200, b"12345", "text/plain", head_only=True), "HEAD")
        assert dict(head.headers)[b"content-length"] == b"5"
        assert body == b""

    @pytest.mark.parametrize(
        "headers",
        [[("X-A", "a\r\nInjected: b")], [("X-A\r\nInjected", "b")], [("X-A", "a\x00")], [("X-A", "é")], [("", "a")]],
    )
    def test_a_header_cannot_carry_another_one_b21(self, headers: list[tuple[str, str]]) -> None:
        with pytest.raises(LocalError, match="header"):
            http_response(200, b"", "text/plain", headers)
        with pytest.raises(LocalError, match="header"):
            refusal_response(Refusal(403, "forbidden", "no", tuple(headers)))

    @pytest.mark.parametrize(
        ("refusal", "headers"),
        [
            (Refusal(400, "bad_request", "bad cursor"), {}),
            (Refusal(401, "unauthorized", "no", (("WWW-Authenticate", "Bearer"),)), {b"www-authenticate": b"Bearer"}),
            (Refusal(403, "forbidden", 'a "quoted" détail', cause="the log's"), {}),
            (Refusal(404, "not_found", "no"), {}),
            (Refusal(429, "too_many_connections", "no", (("Retry-After", "5"),)), {b"retry-after": b"5"}),
            (Refusal(431, "bad_request", "no"), {}),
            (Refusal(503, "unavailable", "no", (("Retry-After", "5"),)), {b"retry-after": b"5"}),
        ],
    )
    def test_refusals(self, refusal: Refusal, headers: dict[bytes, bytes]) -> None:
        head, body = read(refusal_response(refusal))
        assert head.status_code == refusal.status
        assert json.loads(body) == {"error": refusal.error, "detail": refusal.detail}
        length = str(len(body)).encode()
        fixed = {b"content-type": b"application/json", b"content-length": length, b"connection": b"close"}
        assert dict(head.headers) == fixed | headers

    def test_a_refusal_that_keeps_the_connection(self) -> None:
        head, _ = read(refusal_response(Refusal(404, "not_found", "no"), close=False))
        assert b"connection" not in dict(head.headers)


class TestAResponseThatGoesOn:
    def test_in_chunks(self) -> None:
        head = stream_response("1.1", [("Content-Type", "text/event-stream"), ("Vary", "Origin")])
        lines = head.decode().split("\r\n")
        assert lines[0] == "HTTP/1.1 200 OK"
        assert {"Content-Type: text/event-stream", "Vary: Origin", "Transfer-Encoding: chunked"} <= set(lines)
        assert head.endswith(b"\r\n\r\n") and b"Content-Length" not in head

    def test_up_to_the_end_of_the_link_for_http_1_0(self) -> None:
        head = stream_response("1.0", [])
        assert b"Transfer-Encoding" not in head and b"Connection: close" in head

    def test_a_header_that_is_not_correct(self) -> None:
        with pytest.raises(LocalError):
            stream_response("1.1", [("Vary", "a\r\nb: c")])

    def test_a_head_of_one_says_no_length(self) -> None:
        assert b"Content-Length" not in http_response(200, b"", "text/event-stream", head_only=True, sized=False)

    @pytest.mark.parametrize("version", ["1.0", "1.1"])
    def test_the_head_of_a_request_says_its_version(self, version: str) -> None:
        head = RequestParser().receive(f"GET /sse HTTP/{version}\r\nHost: a\r\n\r\n".encode())
        assert head is not None and head.version == version
