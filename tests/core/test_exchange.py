"""One HTTP exchange: what comes is framed in one way only, and what goes tells its end."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roomwire.core.errors import HandshakeRefused, LocalError
from roomwire.core.exchange import HIGH_WATER, Exchange
from roomwire.core.http import RequestParser

POST = b"POST /x HTTP/1.1\r\nHost: a\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
NEXT = b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n"
TEXT = [(b"content-type", b"text/plain")]


def exchange_of(data: bytes, max_body: int = 0) -> Exchange:
    parser = RequestParser()
    head = parser.receive(data)
    assert head is not None
    exchange = Exchange(head, parser.connection, max_body)
    exchange.receive(parser.trailing)
    return exchange


def get(version: str = "1.1", method: str = "GET", *lines: str) -> Exchange:
    head = "\r\n".join([f"{method} / HTTP/{version}", "Host: a", *lines])
    return exchange_of(head.encode() + b"\r\n\r\n")


def chunks(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def all_of(exchange: Exchange) -> bytes:
    """Take until there is nothing more."""
    body = exchange.take()
    while exchange.has_body or exchange.crumbs:
        body += exchange.take()
    return body


def seen(response: bytes, method: str = "GET", *, eof: bool = False) -> tuple[h11.Response, bytes]:
    """What a client makes of a response that has to be whole."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
    client.send(h11.EndOfMessage())
    client.receive_data(response)
    if eof:
        client.receive_data(b"")
    head = client.next_event()
    assert isinstance(head, h11.Response)
    body = b""
    while isinstance(event := client.next_event(), h11.Data):
        body += event.data
    assert isinstance(event, h11.EndOfMessage), event
    return head, body


class TestTheBody:
    @pytest.mark.parametrize(
        ("fields", "data"), [(b"Content-Length: 5\r\n\r\n", b"hello"), (CHUNKED, chunks(b"he", b"llo"))]
    )
    @pytest.mark.parametrize("step", [1, 3, 1000])
    def test_however_it_is_cut_it_is_the_same_and_the_next_request_is_left(
        self, fields: bytes, data: bytes, step: int
    ) -> None:
        exchange = exchange_of(POST + fields)
        whole, body = data + NEXT, b""
        for at in range(0, len(whole), step):
            exchange.receive(whole[at : at + step])
            body += exchange.take()
        assert (body, exchange.complete, exchange.trailing) == (b"hello", True, NEXT)

    def test_without_one_it_is_complete_at_once(self) -> None:
        for exchange in (get(), exchange_of(POST + b"\r\n"), exchange_of(POST + b"Content-Length: 0\r\n\r\n")):
            assert (exchange.complete, exchange.wants_more, exchange.take()) == (True, False, b"")

    def test_nothing_is_read_while_enough_waits(self) -> None:
        exchange = exchange_of(POST + b"Content-Length: %d\r\n\r\n" % (2 * HIGH_WATER))
        exchange.receive(b"x" * (HIGH_WATER - 1))
        assert exchange.wants_more
        exchange.receive(b"x")
        assert not exchange.wants_more
        assert len(exchange.take()) == HIGH_WATER
        assert exchange.wants_more

    def test_crumbs_are_parsed_a_few_at_a_time(self) -> None:
        """Each `take` looks at 64 chunks more; what they cost does not come at once."""
        exchange = exchange_of(POST + CHUNKED)
        exchange.receive(chunks(*[b"x"] * 200) + NEXT)
        sizes = []
        while exchange.has_body:
            assert not exchange.wants_more
            sizes.append(len(exchange.take()))
        assert sizes == [64, 64, 64, 8]
        assert (exchange.complete, exchange.crumbs, exchange.trailing) == (True, False, NEXT)

    def test_up_to_its_bound_and_not_one_byte_more(self) -> None:
        data = b"x" * 100
        for fields, body in ((b"Content-Length: 100\r\n\r\n", data), (CHUNKED, chunks(data))):
            assert all_of(exchange_of(POST + fields + body, 100)) == data
        with pytest.raises(HandshakeRefused) as announced:
            exchange_of(POST + b"Content-Length: 101\r\n\r\n", 100)
        with pytest.raises(HandshakeRefused) as came:
            exchange_of(POST + CHUNKED + chunks(data, b"x"), 100)
        with pytest.raises(HandshakeRefused) as endless:
            exchange_of(POST + b"Content-Length: 9999999999999999999\r\n\r\n")
        assert {error.value.refusal.status for error in (announced, came, endless)} == {413}

    def test_a_client_that_waits_is_told_once_and_not_behind_the_response(self) -> None:
        fields = b"Content-Length: 2\r\nExpect: 100-continue\r\n\r\n"
        exchange = exchange_of(POST + fields)
        assert exchange.awaits_continue
        assert exchange.proceed() == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert (exchange.proceed(), exchange.awaits_continue) == (b"", False)
        other = exchange_of(POST + fields)
        other.start(401, [])
        assert other.proceed() == b""


SMUGGLED = {
    "two framings": b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two framings, the other way": b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
    "two lengths": b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nhello",
    "a list of two lengths": b"Content-Length: 4, 5\r\n\r\nhello",
    "a length with a sign": b"Content-Length: +5\r\n\r\nhello",
    "a hexadecimal length": b"Content-Length: 0x5\r\n\r\nhello",
    "a length below zero": b"Content-Length: -5\r\n\r\nhello",
    "an empty length": b"Content-Length:\r\n\r\nhello",
    "a coding that is not chunked": b"Transfer-Encoding: gzip\r\n\r\nhello",
    "a coding within chunks": b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked twice": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked and another": b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "a hidden coding": b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "a blank before the colon": b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "a chunk's size with a sign": CHUNKED + b"+5\r\nhello\r\n0\r\n\r\n",
    "a chunk's size with 0x": CHUNKED + b"0x5\r\nhello\r\n0\r\n\r\n",
    "a chunk's head that ends in LF": CHUNKED + b"5\nhello\r\n0\r\n\r\n",
    "a chunk that ends in LF": CHUNKED + b"5\r\nhello\n0\r\n\r\n",
    "a chunk with more than it says": CHUNKED + b"4\r\nhello\r\n0\r\n\r\n",
    "a chunk of 2^80 bytes": CHUNKED + b"f" * 21 + b"\r\n",
    "a bare CR": b"X: a\rContent-Length: 5\r\n\r\nhello",
    "a NUL": b"X: a\x00\r\nContent-Length: 5\r\n\r\nhello",
}


class TestWhatCouldBeReadInTwoWays:
    @pytest.mark.parametrize("fields", SMUGGLED.values(), ids=list(SMUGGLED))
    def test_is_refused(self, fields: bytes) -> None:
        with pytest.raises(HandshakeRefused) as refused:
            all_of(exchange_of(POST + fields))
        assert refused.value.refusal.status == 400

    def test_http_1_0_has_no_chunks(self) -> None:
        with pytest.raises(HandshakeRefused):
            exchange_of(b"POST / HTTP/1.0\r\n" + CHUNKED)

    def test_this_is_no_proxy(self) -> None:
        with pytest.raises(HandshakeRefused):
            get("1.1", "CONNECT")

    def test_a_folded_line_is_one_line(self) -> None:
        """As RFC 9112 section 5.2 has it; nothing of it is left to be read in another way."""
        exchange = exchange_of(POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n" + chunks(b"hello"))
        assert all_of(exchange) == b"hello"


class TestTheResponse:
    def test_with_a_length(self) -> None:
        exchange = get()
        data = exchange.start(200, [*TEXT, (b"content-length", b"5")]) + exchange.send(b"hello", more=False)
        head, body = seen(data)
        assert (head.status_code, head.reason, body) == (200, b"OK", b"hello")
        assert exchange.keeps_connection
        assert exchange.bounded

    def test_in_chunks(self) -> None:
        exchange = get()
        data = exchange.start(200, [*TEXT, (b"Transfer-Encoding", b"gzip")])
        data += exchange.send(b"he", more=True) + exchange.send(b"", more=True) + exchange.send(b"llo", more=False)
        assert seen(data)[1] == b"hello"
        assert data.count(b"ransfer-") == 1
        assert exchange.keeps_connection

    def test_to_http_1_0_it_ends_with_the_connection(self) -> None:
        exchange = get("1.0")
        data = exchange.start(200, TEXT) + exchange.send(b"hello", more=False)
        assert b"chunked" not in data
        assert seen(data, eof=True)[1] == b"hello"
        assert not exchange.keeps_connection
        assert not exchange.bounded

    @pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 304), ("GET", 204)])
    def test_some_have_no_body_whatever_is_sent(self, method: str, status: int) -> None:
        exchange = get("1.1", method)
        data = exchange.start(status, [(b"content-length", b"5")])
        data += exchange.send(b"hel", more=True) + exchange.send(b"lo", more=False)
        head, body = seen(data, method)
        assert (head.status_code, body) == (status, b"")
        assert (b"content-length", b"5") in head.headers or status == 204
        assert data.endswith(b"\r\n\r\n")
        assert exchange.keeps_connection
        assert exchange.bounded

    @pytest.mark.parametrize("pieces", [[b"hell"], [b"hello!"], [b"hel", b"lo!"], [b""]])
    def test_a_wrong_length_is_the_applications_error(self, pieces: list[bytes]) -> None:
        exchange = get()
        exchange.start(200, [(b"content-length", b"5")])
        with pytest.raises(LocalError):
            for number, piece in enumerate(pieces, start=1):
                exchange.send(piece, more=number < len(pieces))
        assert not exchange.finished
        assert not exchange.keeps_connection

    @pytest.mark.parametrize(
        ("status", "headers"),
        [
            (200, [(b"x", b"a\r\nset-cookie: b")]),
            (200, [(b"x y", b"a")]),
            (200, [("x", "a")]),
            (200, [(b"content-length", b"many")]),
            (200, [(b"content-length", b"1"), (b"content-length", b"2")]),
            (101, []),
            (99, []),
            ("200", []),
        ],
    )
    def test_what_is_not_correct_is_the_applications_error(
        self, status: int, headers: list[tuple[bytes, bytes]]
    ) -> None:
        with pytest.raises(LocalError):
            get().start(status, headers)

    def test_out_of_order(self) -> None:
        exchange = get()
        with pytest.raises(LocalError):
            exchange.send(b"x", more=True)
        ended = get()
        ended.start(200, [])
        ended.send(b"", more=False)
        with pytest.raises(LocalError):
            ended.send(b"x", more=False)


class TestTheConnection:
    @pytest.mark.parametrize(
        ("version", "lines", "headers", "kept"),
        [
            ("1.1", [], [], True),
            ("1.1", ["Connection: close"], [], False),
            ("1.1", ["Connection: Close, TE"], [], False),
            ("1.1", [], [(b"connection", b"close")], False),
            ("1.0", [], [], False),
            ("1.0", ["Connection: keep-alive"], [], False),
        ],
    )
    def test_is_kept_where_nobody_wants_it_closed(
        self, version: str, lines: list[str], headers: list[tuple[bytes, bytes]], kept: bool
    ) -> None:
        exchange = get(version, "GET", *lines)
        data = exchange.start(200, [*headers, (b"content-length", b"0")]) + exchange.send(b"", more=False)
        assert exchange.keeps_connection is kept
        assert (b"connection: close" in data.lower()) is not kept

    def test_is_not_kept_with_a_body_that_was_not_read(self) -> None:
        exchange = exchange_of(POST + b"Content-Length: 5\r\n\r\nhe")
        exchange.start(413, [(b"content-length", b"0")])
        exchange.send(b"", more=False)
        assert not exchange.keeps_connection

    def test_is_closed_where_we_say_so(self) -> None:
        exchange = get()
        exchange.close_after()
        data = exchange.start(200, [(b"connection", b"keep-alive"), (b"content-length", b"0")])
        exchange.send(b"", more=False)
        assert dict(seen(data)[0].headers)[b"connection"] == b"close"
        assert not exchange.keeps_connection


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=100), st.integers(1, 70), st.booleans())
def test_any_chunks_in_any_pieces(pieces: list[bytes], step: int, greedy: bool) -> None:
    exchange = exchange_of(POST + CHUNKED)
    data, body = chunks(*pieces) + NEXT, b""
    for at in range(0, len(data), step):
        exchange.receive(data[at : at + step])
        if greedy:
            body += exchange.take()
    body += all_of(exchange)
    assert (body, exchange.complete, exchange.trailing) == (b"".join(pieces), True, NEXT)
