"""Guards on wsproto's extension hooks: what it does not limit, these do before a byte is kept.

wsproto passes each frame through its extensions: the header as soon as it is parsed, then the payload as it
arrives, then the end of the frame. Both guards are such extensions and use the public hooks alone.

`SizeGuard` is offered to no peer. It refuses a frame by its header, so that a declared length of
2**62 bytes costs nothing, and counts the fragments of a message, empty ones included.

`BoundedDeflate` is permessage-deflate (RFC 7692) for what comes in. It inflates at most one byte more than the
limit, leaves the state of a message alone while control frames pass between its fragments, and takes
messages that end in a final block. No inflater outlives its message: `roomwire.core.deflate` never
negotiates context takeover.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from wsproto.extensions import Extension
from wsproto.frame_protocol import CloseReason, FrameDecoder, FrameProtocol, Opcode, RsvBits

if TYPE_CHECKING:
    from zlib import _Decompress

__all__ = ["BoundedDeflate", "SizeGuard"]

_NONE = RsvBits(False, False, False)
_RSV1 = RsvBits(True, False, False)
# What the sender takes off each message, and the receiver puts back (RFC 7692 section 7.2.2).
_TAIL = b"\x00\x00\xff\xff"


class SizeGuard(Extension):
    """Limits the bytes and the fragments of one incoming message (close 1009).

    Args:
        max_message_size: bytes; for a compressed message these are checked after inflation, and on the
            wire it may take an eighth more, since what cannot be compressed grows a little.
        max_fragments: frames of one message, empty ones included.
    """

    name = "x-size-guard"

    def __init__(self, max_message_size: int, max_fragments: int) -> None:
        self._max_message_size = max_message_size
        self._max_fragments = max_fragments
        self._fragments = 0
        self._bytes = 0
        self._frame_bytes = 0
        self._limit = max_message_size
        self._control = False

    def enabled(self) -> bool:  # noqa: D102 - documented by wsproto
        return True

    def offer(self) -> bool:  # noqa: D102
        return False

    def frame_inbound_header(  # noqa: D102
        self, proto: FrameDecoder | FrameProtocol, opcode: Opcode, rsv: RsvBits, payload_length: int
    ) -> CloseReason | RsvBits:
        # This may run several times for a frame whose header comes in pieces: nothing is counted here.
        self._control = opcode.iscontrol()
        if self._control:
            return _NONE
        # wsproto looks at this only when the payload has been inflated (RFC 6455 section 5.4).
        if (opcode is Opcode.CONTINUATION) != (self._fragments > 0):
            return CloseReason.PROTOCOL_ERROR
        if self._fragments == 0:
            slack = (self._max_message_size >> 3) + 64 if rsv.rsv1 else 0
            self._limit = self._max_message_size + slack
        if self._bytes + payload_length > self._limit or self._fragments >= self._max_fragments:
            return CloseReason.MESSAGE_TOO_BIG
        self._frame_bytes = payload_length
        return _NONE

    def frame_inbound_complete(self, proto: FrameDecoder | FrameProtocol, fin: bool) -> None:  # noqa: D102
        if self._control:
            return
        if fin:
            self._fragments = self._bytes = 0
        else:
            self._fragments += 1
            self._bytes += self._frame_bytes


class BoundedDeflate(Extension):
    """Inflates incoming messages up to a limit (close 1009); bad data is 1007.

    It has the largest window, whatever the peer agreed to compress with: a larger one is always right,
    and zlib would notice a breach or not by how the bytes were cut.

    Args:
        max_message_size: bytes of one message after inflation.
    """

    name = "permessage-deflate"

    def __init__(self, max_message_size: int) -> None:
        self._max_message_size = max_message_size
        self._left = max_message_size
        self._control = False
        self._inflater: _Decompress | None = None

    def enabled(self) -> bool:  # noqa: D102 - documented by wsproto
        return True

    def offer(self) -> bool:  # noqa: D102
        return False

    def frame_inbound_header(  # noqa: D102
        self, proto: FrameDecoder | FrameProtocol, opcode: Opcode, rsv: RsvBits, payload_length: int
    ) -> CloseReason | RsvBits:
        self._control = opcode.iscontrol()
        # RSV1 stands on a message's first frame only; anywhere else it is a protocol error,
        # which wsproto finds since no extension claims the bit (RFC 7692 section 6).
        if self._control or opcode is Opcode.CONTINUATION:
            return _NONE
        if rsv.rsv1:
            self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)
            self._left = self._max_message_size
        return _RSV1

    def frame_inbound_payload_data(  # noqa: D102
        self, proto: FrameDecoder | FrameProtocol, data: bytes
    ) -> bytes | CloseReason:
        if self._control or self._inflater is None:
            return data
        return self._inflate(self._inflater, data)

    def frame_inbound_complete(  # noqa: D102
        self, proto: FrameDecoder | FrameProtocol, fin: bool
    ) -> bytes | CloseReason | None:
        inflater = self._inflater
        if self._control or inflater is None or not fin:
            return None
        self._inflater = None
        return b"" if inflater.eof else self._inflate(inflater, _TAIL)

    def _inflate(self, inflater: _Decompress, data: bytes) -> bytes | CloseReason:
        try:
            # One byte more than is allowed: the limit itself passes, and what is beyond it shows.
            output = inflater.decompress(data, self._left + 1)
        except zlib.error:
            return CloseReason.INVALID_FRAME_PAYLOAD_DATA
        self._left -= len(output)
        if self._left < 0:
            return CloseReason.MESSAGE_TOO_BIG
        # A message may end in a final block and the byte that its padding takes (RFC 7692 section 7.2.3.5).
        # More would be dropped without a word by zlib, and a new inflater for each final block
        # would be work without a bound.
        if inflater.unused_data not in (b"", b"\x00"):
            return CloseReason.INVALID_FRAME_PAYLOAD_DATA
        return output
