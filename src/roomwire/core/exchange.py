"""One HTTP/1.1 exchange through h11 (RFC 9112): the body that comes, the response that goes, and what is left.

The request's head is `RequestParser`'s, which has checked it; the exchange goes on where that stopped. h11 frames the
response, too.

A body is parsed only as far as it is taken: at most `HIGH_WATER` bytes wait, and at most `_CHUNKS` chunks are looked
at for one call, since a chunk costs the same however small it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus

import h11

from roomwire.core.errors import HandshakeRefused, LocalError, Refusal
from roomwire.core.request import RequestHead

__all__ = ["HIGH_WATER", "Exchange"]

HIGH_WATER = 65_536
"""Bytes of a body that wait; beyond them nothing is read (uvicorn: 64 KiB)."""

_CHUNKS = 64
_CLOSE = (b"connection", b"close")

_REASONS = {status.value: status.phrase for status in HTTPStatus}
_UNSENT = (204, 304)


class Exchange:
    """One request's body and its response.

    Args:
        head: the request's head, as `RequestParser` gave it.
        connection: that parser's, which has read the head and nothing more.
        max_body: bytes of the body, chunks' heads not counted; 0: any number.

    Attributes:
        complete: whether the whole request was read.
        started: whether the head of the response was made.
        finished: whether the response is whole.
        bounded: whether the response tells its end, and does not end with the connection.

    Raises:
        HandshakeRefused: 400 where the head frames no body correctly, 413 where it announces a larger one.
    """

    __slots__ = (
        "_body",
        "_closing",
        "_h11",
        "_has_no_body",
        "_max_body",
        "_size",
        "_stuck",
        "bounded",
        "complete",
        "finished",
        "started",
    )

    def __init__(self, head: RequestHead, connection: h11.Connection, max_body: int = 0) -> None:
        self._max_body = max_body
        self._body = bytearray()
        self._size = 0
        self._stuck = False
        self._closing = False
        self._has_no_body = head.method == "HEAD"
        self.complete = self.started = self.finished = False
        self.bounded = True
        _check_framing(head, max_body)
        self._h11 = connection
        self._pull()

    # --- what comes

    @property
    def awaits_continue(self) -> bool:
        """Whether the client sends its body only when it is told to (RFC 9110 section 10.1.1)."""
        return not self.complete and self._h11.they_are_waiting_for_100_continue

    @property
    def wants_more(self) -> bool:
        """Whether bytes of the body are to be read from the network now."""
        return not (self.complete or self._stuck) and len(self._body) < HIGH_WATER

    @property
    def has_body(self) -> bool:
        """Whether a part of the body waits to be taken."""
        return bool(self._body)

    @property
    def crumbs(self) -> bool:
        """Whether bytes came that are not looked at yet: take what there is, and again in a later turn of the loop."""
        return self._stuck

    @property
    def trailing(self) -> bytes:
        """What came behind the request; only where it is `complete`."""
        return self._h11.trailing_data[0]

    def receive(self, data: bytes) -> None:
        """Bytes came from the network; none are no end.

        Raises:
            HandshakeRefused: 400 or 413; nothing may be fed or taken after it.
        """
        if data:
            self._h11.receive_data(data)
            if not (self.complete or self._stuck):
                self._pull()

    def take(self) -> bytes:
        """The part of the body that is there, possibly empty; what it made room for is parsed then.

        Raises:
            HandshakeRefused: as `receive`.
        """
        body = bytes(self._body)
        self._body.clear()
        if self._stuck:
            self._pull()
        return body

    def _pull(self) -> None:
        self._stuck = False
        try:
            for _ in range(_CHUNKS):
                event = self._h11.next_event()
                if isinstance(event, h11.Data):
                    self._grow(event.data)
                    if len(self._body) >= HIGH_WATER:
                        break
                elif isinstance(event, h11.EndOfMessage):
                    self.complete = True
                    return
                else:
                    return
        except h11.RemoteProtocolError:
            raise HandshakeRefused(Refusal(400, "bad_request", "not a correct HTTP body")) from None
        self._stuck = True

    def _grow(self, data: bytes | bytearray) -> None:
        self._body += data
        self._size += len(data)
        if self._max_body and self._size > self._max_body:
            raise _too_large(self._max_body)

    # --- what goes

    def proceed(self) -> bytes:
        """``100 Continue``, where the client awaits it and there is no response yet; else nothing."""
        if self.started or not self.awaits_continue:
            return b""
        return self._h11.send(h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue")) or b""

    def close_after(self) -> None:
        """The connection is not kept, whatever both sides say; before `start`."""
        self._closing = True

    def start(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        """The head of the response. A ``Transfer-Encoding`` is ours to say, so one that is given is left out.

        Raises:
            LocalError: it is not correct, or was made already.
        """
        dropped = (b"transfer-encoding", b"content-length") if status == 204 else (b"transfer-encoding",)
        try:
            lines = [(bytes(name), bytes(value)) for name, value in headers if bytes(name).lower() not in dropped]
            if self._closing:
                lines = [line for line in lines if line[0].lower() != b"connection"] + [_CLOSE]
            response = h11.Response(status_code=status, headers=lines, reason=_REASONS.get(status, ""))
        except (h11.LocalProtocolError, TypeError, ValueError) as error:
            raise LocalError(f"not a correct HTTP response: {error}") from error
        data = self._send(response)
        self.started = True
        self._has_no_body = self._has_no_body or status in _UNSENT
        # What neither has a length nor comes in chunks ends with the connection.
        self.bounded = self._has_no_body or any(
            line.lower().startswith((b"content-length:", b"transfer-encoding:")) for line in data.split(b"\r\n")
        )
        return data

    def send(self, data: bytes, *, more: bool) -> bytes:
        """A part of the response's body, framed; the last one where there is no `more`.

        A response that has no body, such as one to a HEAD, sends none, whatever it is given.

        Raises:
            LocalError: it does not fit the ``Content-Length``, or comes before the start or after the end.
        """
        framed = b"" if self._has_no_body and self.started else self._send(h11.Data(data=data))
        if not more:
            framed += self._send(h11.EndOfMessage())
            self.finished = True
        return framed

    def part(self, head: bytes) -> bytes:
        """The response's head, with word of it where the connection will not be kept because of an unread request.

        Only where the response is `finished` and its head is not out yet: before that the request may become complete.
        """
        if self.complete or self._h11.our_state is not h11.DONE:
            return head
        self._closing = True
        return head[:-2] + b"Connection: close\r\n\r\n"

    def _send(self, event: h11.Event) -> bytes:
        try:
            return self._h11.send(event) or b""
        except h11.LocalProtocolError as error:
            raise LocalError(f"not a correct HTTP response: {error}") from error

    @property
    def keeps_connection(self) -> bool:
        """Whether the next request may come on this connection: both sides are done, and neither wants it closed."""
        states = self._h11.our_state, self._h11.their_state
        return states == (h11.DONE, h11.DONE) and not self._closing


def _check_framing(head: RequestHead, max_body: int) -> None:
    announced, coding = head.header(b"content-length"), head.header(b"transfer-encoding")
    if coding is not None and (announced is not None or head.version == "1.0"):
        # Two lengths, or one that HTTP/1.0 does not know, are how requests are smuggled past a proxy (CWE-444, RFC
        # 9112 sections 6.1 and 6.3).
        raise HandshakeRefused(Refusal(400, "bad_request", "not a correct HTTP body"))
    if head.method == "CONNECT":
        raise HandshakeRefused(Refusal(400, "bad_request", "this is no proxy"))
    if announced is not None and (len(announced) > 18 or (max_body and int(announced) > max_body)):
        raise _too_large(max_body)


def _too_large(max_size: int) -> HandshakeRefused:
    if not max_size:
        return HandshakeRefused(Refusal(413, "too_large", "a body's length has at most 18 digits"))
    return HandshakeRefused(Refusal(413, "too_large", f"a body has at most {max_size} bytes"))
