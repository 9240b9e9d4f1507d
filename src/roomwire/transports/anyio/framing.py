"""How raw links join messages: WebSocket frames side by side, or a stream's events, the same bytes for every member.

A server's frames are unmasked (RFC 6455 section 5.1) and hence the same for all. Where permessage-deflate
was agreed on, no context is taken over, so a compressed frame is the same for all with one window size.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from roomwire.core.deflate import COMPRESS_FROM, MIN_WINDOW_BITS, Deflate, compress
from roomwire.core.frames import Opcode, binary_frame, build_frame, text_frame

__all__ = ["CHUNKED", "PLAIN", "UNFRAMED", "ChunkedFraming", "DeflateFraming", "PlainFraming", "framing_for"]

Message = str | bytes


class PlainFraming:
    """Without extensions."""

    def block(self, messages: Sequence[Message]) -> bytes:
        """The messages' frames."""
        if len(messages) == 1:
            message = messages[0]
            return text_frame(message) if isinstance(message, str) else binary_frame(message)
        return b"".join(map(_plain_frame, messages))

    def size(self, block: bytes) -> int:
        """Bytes of a block."""
        return len(block)


def _plain_frame(message: Message) -> bytes:
    return text_frame(message) if isinstance(message, str) else binary_frame(message)


class DeflateFraming(PlainFraming):
    """With permessage-deflate (RFC 7692): messages from 1 KiB on are compressed where that pays."""

    def __init__(self, window_bits: int) -> None:
        self._bits = window_bits

    def block(self, messages: Sequence[Message]) -> bytes:
        """The messages' frames."""
        return b"".join(map(self._frame, messages))

    def _frame(self, message: Message) -> bytes:
        payload = message.encode() if isinstance(message, str) else message
        if len(payload) < COMPRESS_FROM:
            return _plain_frame(message)
        compressed = compress(payload, self._bits)
        if len(compressed) >= len(payload):
            return _plain_frame(message)
        return build_frame(Opcode.TEXT if isinstance(message, str) else Opcode.BINARY, compressed, rsv1=True)


class UnframedFraming:
    """A response that ends with its link, for HTTP/1.0: no framing at all."""

    end = b""

    def block(self, messages: Sequence[Message]) -> bytes:
        """The messages' bytes."""
        return b"".join(message.encode() if isinstance(message, str) else message for message in messages)

    def size(self, block: bytes) -> int:
        """Bytes of a block."""
        return len(block)


class ChunkedFraming(UnframedFraming):
    """A response in chunks (RFC 9112 section 7.1): one for each block."""

    end = b"0\r\n\r\n"

    def block(self, messages: Sequence[Message]) -> bytes:
        """The messages as one chunk. Nothing where they are empty: a chunk of no bytes would be the last one."""
        data = super().block(messages)
        return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


PLAIN = PlainFraming()
CHUNKED = ChunkedFraming()
UNFRAMED = UnframedFraming()


@cache
def _deflating(window_bits: int) -> DeflateFraming:
    return DeflateFraming(window_bits)


def framing_for(deflate: Deflate | None) -> PlainFraming:
    """The shared framing of all links with this agreement."""
    if deflate is None or deflate.server_max_window_bits < MIN_WINDOW_BITS:
        return PLAIN
    return _deflating(deflate.server_max_window_bits)
