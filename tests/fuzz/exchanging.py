"""A request to the fallback: how its body is framed, what it leaves for the next one, and what answers it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from roomwire.core.exchange import HIGH_WATER, Exchange
from roomwire.core.http import RequestParser
from tests.fuzz.mutation import mutator

__all__ = ["make_exchange", "open_exchange"]

_HEAD = b"POST /orders?a=b HTTP/1.1\r\nHost: a\r\n"
_NEXT = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
_EXCHANGES: Sequence[bytes] = (
    _HEAD + b"Content-Length: 5\r\n\r\nhello" + _NEXT,
    _HEAD
    + b"Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n2\r\nhe\r\n3;a=b\r\nllo\r\n0\r\nX: y\r\n\r\n"
    + _NEXT,
    b"HEAD /x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"OPTIONS /x HTTP/1.1\r\nHost: a\r\nConnection: close, upgrade\r\nUpgrade: h2c\r\n\r\n",
    _HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 70 + b"0\r\n\r\n",
)
make_exchange = mutator(_EXCHANGES, 100)
_MOST = 100

Seen = tuple[bytes, bool, bytes]


@contextmanager
def open_exchange() -> Iterator[Callable[[bytes], bool]]:
    """The same comes out however it is cut, within its bound; and a response can be made whatever came."""

    def run(data: bytes, step: int) -> Seen | None:
        parser = RequestParser()
        head = parser.receive(data)
        if head is None:
            return None
        exchange = Exchange(head, parser.connection, _MOST)
        rest, body = parser.trailing, b""
        for at in range(0, len(rest), step):
            exchange.receive(rest[at : at + step])
            assert len(exchange._body) <= HIGH_WATER + len(rest)
            body += exchange.take()
        while exchange.has_body or exchange.crumbs:
            body += exchange.take()
        complete, trailing = exchange.complete, exchange.trailing if exchange.complete else b""
        exchange.proceed()
        response = exchange.start(200, [(b"content-type", b"text/plain")])
        response += exchange.send(b"a", more=True) + exchange.send(b"b", more=False)
        assert response.startswith(b"HTTP/1.1 200 OK\r\n")
        assert not (exchange.keeps_connection and not (exchange.bounded and complete))
        return body, complete, trailing

    def read(data: bytes) -> bool:
        seen = run(data, len(data) + 1)
        assert run(data, 1) == seen
        assert seen is None or len(seen[0]) <= _MOST
        return seen is not None and seen[1]

    yield read
