"""The body of a request, through h11 (RFC 9112 sections 6 and 7), for the few requests that may have one."""

from __future__ import annotations

import h11

from roomwire.core.errors import HandshakeRefused, Refusal
from roomwire.core.request import RequestHead

__all__ = ["CONTINUE", "BodyReader"]

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

_FRAMING = (b"content-length", b"transfer-encoding", b"expect")
_MAX_CHUNKS = 1024
"""Chunks of a body. Each costs the same, however small it is: bodies of one-byte chunks would be dear."""
_MAX_LINE = 4096
"""Bytes of a chunk's head, or of all trailer fields."""


class BodyReader:
    """Reads the body of one request; what follows on it is not looked at.

    Args:
        head: the request's head, as `RequestParser` gave it.
        max_size: bytes of the body, chunks' heads not counted.

    Attributes:
        awaits_continue: whether the client sends its body only when it is told to (RFC 9110 section 10.1.1).

    Raises:
        HandshakeRefused: 400 where the head frames no body correctly, 413 where it announces a larger one.
    """

    __slots__ = ("_body", "_chunks", "_h11", "_max_size", "awaits_continue")

    def __init__(self, head: RequestHead, max_size: int) -> None:
        self._max_size = max_size
        self._body = bytearray()
        self._chunks = 0
        announced = head.header(b"content-length")
        if announced is not None and head.header(b"transfer-encoding") is not None:
            # Two lengths are how requests are smuggled past a proxy (CWE-444, RFC 9112 section 6.3).
            raise _wrong()
        if announced is not None and (len(announced) > 12 or int(announced) > max_size):
            raise _too_large(max_size)
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=_MAX_LINE)
        fields = [(name, value) for name, value in head.headers if name in _FRAMING]
        lines = [b"POST / HTTP/1.1", b"Host: a", *(b": ".join(field) for field in fields), b"", b""]
        self._h11.receive_data(b"\r\n".join(lines))
        self._h11.next_event()
        self.awaits_continue = self._h11.they_are_waiting_for_100_continue

    def receive(self, data: bytes) -> bytes | None:
        """Bytes came from the network, or none yet.

        Returns:
            The whole body, once; None while it is not complete.

        Raises:
            HandshakeRefused: 400 or 413; nothing may be fed after it.
        """
        if data:  # to h11 no bytes mean the end
            self._h11.receive_data(data)
        try:
            while True:
                event = self._h11.next_event()
                if isinstance(event, h11.Data):
                    self._take(event)
                elif isinstance(event, h11.EndOfMessage):
                    return bytes(self._body)
                else:
                    return None
        except h11.RemoteProtocolError:
            raise _wrong() from None

    def _take(self, event: h11.Data) -> None:
        self._body += event.data
        self._chunks += event.chunk_start
        if len(self._body) > self._max_size:
            raise _too_large(self._max_size)
        if self._chunks > _MAX_CHUNKS:
            raise HandshakeRefused(Refusal(413, "too_large", f"a body has at most {_MAX_CHUNKS} chunks"))


def _wrong() -> HandshakeRefused:
    return HandshakeRefused(Refusal(400, "bad_request", "not a correct HTTP body"))


def _too_large(max_size: int) -> HandshakeRefused:
    return HandshakeRefused(Refusal(413, "too_large", f"a body has at most {max_size} bytes"))
