"""HTTP/1.1 on one port: the request head that comes, and whole responses that go, through h11 (RFC 9112).

Whatever comes over the port is read here: an upgrade, a health check, a static file. h11's objects live
no longer than one call.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import NoReturn

import h11

from roomwire.core.errors import HandshakeRefused, LocalError, Refusal
from roomwire.core.heads import Fields, read_upgrade
from roomwire.core.request import RequestHead

__all__ = ["RequestParser", "http_response", "refusal_response", "stream_response"]

# The host of a URI without its rarer characters, and a port (RFC 9110 section 7.2).
_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._~%\-]{0,255})(?::[0-9]{0,5})?")
_MAX_HOST = 255
# Without a user and a password (RFC 9110 section 4.2.4). What the host is made of is checked later.
_ABSOLUTE = re.compile(rb"[Hh][Tt][Tt][Pp][Ss]?://(?P<host>[^/?@#:][^/?@#]*)(?P<rest>[/?].*|)")
_BLANK_LINE = re.compile(rb"\n\r?\n")


def _refuse(detail: str, status: int = 400) -> NoReturn:
    raise HandshakeRefused(Refusal(status, "bad_request", detail))


class RequestParser:
    """Reads one request head.

    The bytes are only kept, and counted, until the head is complete; then it is parsed at once, by h11 or by
    `roomwire.core.heads`. So the cost of a head is bounded before it arises, however the bytes are cut.

    Args:
        max_head: bytes of the request line and all headers (431).
        max_headers: field lines (431).
        max_request_line: bytes (400: a client with a long resume cursor tries again without it).
        peer: where the request comes from, for the head.
        secure: whether it comes over TLS, for the head.

    Attributes:
        trailing: bytes that came behind the head.
        connection: what has read the head, for `roomwire.core.exchange.Exchange`; only then, and not of an upgrade to
            a WebSocket.
    """

    __slots__ = (
        "_buffer",
        "_fault",
        "_lines",
        "_max_head",
        "_max_headers",
        "_max_request_line",
        "_peer",
        "_secure",
        "_size",
        "connection",
        "trailing",
    )

    def __init__(
        self,
        max_head: int = 16_384,
        max_headers: int = 100,
        max_request_line: int = 8192,
        *,
        peer: str = "",
        secure: bool = False,
    ) -> None:
        self._max_head = max_head
        self._max_headers = max_headers
        self._max_request_line = max_request_line
        self._peer = peer
        self._secure = secure
        self._buffer = bytearray()
        self._lines = 0
        self._size = 0  # of the head, once it is complete
        self._fault: tuple[str, int] | None = None
        self.trailing = b""

    def receive(self, data: bytes) -> RequestHead | None:
        """Bytes came from the network.

        Returns:
            The head, once; None while it is not complete.

        Raises:
            HandshakeRefused: with the response to send, 400 or 431; nothing may be fed after it.
        """
        return self.parse() if self.collect(data) else None

    def collect(self, data: bytes) -> bool:
        """Bytes came from the network; they are kept, at next to no cost.

        Returns:
            Whether `parse` can say what they are: the head is complete, or can no longer become a correct one.
        """
        if self._fault is not None:
            return True
        buffer = self._buffer
        seen = len(buffer)
        buffer += data
        if self._size:
            return True
        # The blank line may lie across the seam of two pieces.
        blank = _BLANK_LINE.search(buffer, max(0, seen - 2), self._max_head)
        if blank is not None:
            self._size = blank.end()
        size = self._size or len(buffer)
        self._lines += buffer.count(b"\n", seen, size)
        self._fault = self._fault_of(size)
        if self._fault is not None:
            self._buffer = bytearray()  # it may wait for its turn to be refused
        return blank is not None or self._fault is not None

    def _fault_of(self, size: int) -> tuple[str, int] | None:
        """What is wrong with `size` bytes before they are parsed, and its status."""
        buffer = self._buffer
        # No method begins with a control character: a TLS hello is refused at once, not by the deadline.
        if buffer and buffer[0] <= ord(" "):
            return "not an HTTP request", 400
        # Two bytes for the line's end.
        line = self._max_request_line + 2
        if size >= line and buffer.find(b"\n", 0, line) < 0:
            return "the request line is too long", 400
        if size > self._max_head:
            return "the request head is too large", 431
        # The request line and the blank line are not headers.
        if self._lines > self._max_headers + 2:
            return "too many headers", 431
        return None

    def parse(self) -> RequestHead:
        """The head, once, after `collect` said so.

        Raises:
            HandshakeRefused: with the response to send, 400 or 431; nothing may be fed after it.
        """
        if self._fault is not None:
            _refuse(*self._fault)
        buffer, size = self._buffer, self._size
        head = bytes(buffer[:size])
        self.trailing = bytes(buffer[size:])
        self._buffer = bytearray()
        return self._parse(head)

    def _parse(self, data: bytes) -> RequestHead:
        upgrade = read_upgrade(data)
        if upgrade is None:
            return self._parse_any(data)
        target, headers = upgrade
        path, _, query = target.partition("?")
        head = RequestHead("GET", path, query, headers, self._peer, self._secure)
        _check_head(head)
        return head

    def _parse_any(self, data: bytes) -> RequestHead:
        parser = h11.Connection(h11.SERVER, max_incomplete_event_size=self._max_head)
        parser.receive_data(data)
        try:
            event = parser.next_event()
        except h11.RemoteProtocolError:
            # h11's text repeats the line that it refused, and that line may hold a token.
            event = h11.NEED_DATA
        if not isinstance(event, h11.Request):
            _refuse("not a correct HTTP request")
        target = event.target.decode("ascii")
        # As they came, and lowered here: h11's sequence of lowered names is dear to go through.
        headers = tuple([(name.lower(), value) for name, value in event.headers.raw_items()])
        if not target.startswith("/"):
            target, headers = _absolute(event, headers)
        path, _, query = target.partition("?")
        version = event.http_version.decode("ascii")
        head = RequestHead(event.method.decode("ascii"), path, query, headers, self._peer, self._secure, version)
        _check_head(head)
        self.connection = parser
        return head


def _absolute(event: h11.Request, headers: Fields) -> tuple[str, Fields]:
    """Path and query of a target in absolute form, and the headers with its host (RFC 9112 section 3.2.2).

    It is the target's host that counts. A client has to send the same in both (section 3.2), so a request in which
    they differ is refused: a proxy may have gone by the other one. The scheme is the connection's or a proxy's to say.
    """
    match = _ABSOLUTE.fullmatch(event.target)
    if match is None:
        _refuse("the request target must be a path, or an http URI")
    host, rest = match["host"].lower(), match["rest"]
    if event.method == b"OPTIONS" and not rest:
        _refuse("the server as a whole has no options")  # it is what a proxy writes as `*` (section 3.2.4)
    if not rest.startswith(b"/"):
        rest = b"/" + rest
    named = [value.lower() for name, value in headers if name == b"host"]
    if not named:  # of HTTP/1.0
        headers = (*headers, (b"host", host))
    elif named != [host]:
        _refuse("the Host header is not the request target's")
    return rest.decode("ascii"), headers


def _check_head(head: RequestHead) -> None:
    if head.version not in ("1.1", "1.0"):
        _refuse("HTTP/1.1 is spoken here")
    if head.version == "1.0" and head.header(b"upgrade") is not None:
        _refuse("an upgrade needs HTTP/1.1")
    host = head.header(b"host") or b""
    # Compared with the Origin later, so it is kept as it came, and is ASCII.
    if len(host) > _MAX_HOST or not _HOST.fullmatch(host):
        _refuse("the Host header is not valid")
    body = head.header(b"transfer-encoding") is not None or head.header(b"content-length") not in (None, b"0")
    if head.method == "GET" and body:
        # A body behind a GET is how requests are smuggled past a proxy (CWE-444).
        _refuse("a GET request has no body")


def refusal_response(refusal: Refusal, *, close: bool = True, head_only: bool = False) -> bytes:
    """The response to a request that is refused: ``{"error": CODE, "detail": TEXT}``.

    Args:
        refusal: what to say; its `cause` is not said.
        close: whether the connection ends after it.
        head_only: as `http_response`.

    Raises:
        LocalError: a header of the refusal is not correct.
    """
    body = json.dumps({"error": refusal.error, "detail": refusal.detail}).encode()
    return http_response(refusal.status, body, "application/json", refusal.headers, close=close, head_only=head_only)


def http_response(
    status: int,
    body: bytes,
    content_type: str,
    headers: Iterable[tuple[str, str]] = (),
    *,
    close: bool = True,
    head_only: bool = False,
    sized: bool = True,
) -> bytes:
    """A whole HTTP response.

    Args:
        status: 200 to 599, one that Python's ``http.HTTPStatus`` knows.
        body: its bytes.
        content_type: their type.
        headers: further headers; those of a ``Connection`` are joined with ``close``.
        close: whether the connection ends after it.
        head_only: whether the request was a HEAD, which is answered without the body (RFC 9110 section 9.3.2).
        sized: whether the length is said; without it the body ends with the connection.

    Raises:
        LocalError: h11 refuses a header, such as one with a line break in it.
    """
    lines = [("Content-Type", content_type)]
    if sized:
        lines.append(("Content-Length", str(len(body))))
    connection = ["close"] if close else []
    for name, value in headers:
        if name.lower() == "connection":
            connection.insert(0, value)
        else:
            lines.append((name, value))
    if connection:
        lines.append(("Connection", ", ".join(connection)))
    return _head(h11.Connection(h11.SERVER), status, lines) + (b"" if head_only else body)


def stream_response(version: str, headers: Iterable[tuple[str, str]]) -> bytes:
    """The head of a 200 whose body has no length yet: in chunks, or up to the end of the link for HTTP/1.0.

    Args:
        version: of the request's HTTP, ``"1.1"`` or ``"1.0"``.
        headers: all but those of the framing.

    Raises:
        LocalError: h11 refuses a header, such as one with a line break in it.
    """
    writer = h11.Connection(h11.SERVER)
    # h11 frames a response by the request that it answers.
    writer.receive_data(f"GET / HTTP/{version}\r\nHost: a\r\n\r\n".encode())
    writer.next_event()
    return _head(writer, 200, [*headers, ("Connection", "close")])


def _head(writer: h11.Connection, status: int, lines: list[tuple[str, str]]) -> bytes:
    try:
        head = writer.send(h11.Response(status_code=status, headers=lines, reason=HTTPStatus(status).phrase))
    except (h11.LocalProtocolError, UnicodeEncodeError) as error:
        raise LocalError(f"a header of the {status} response is not correct") from error
    return head or b""
