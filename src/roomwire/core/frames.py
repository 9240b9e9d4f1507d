"""Frames on the wire: building them, and the fast lane that reads the simplest ones (RFC 6455 section 5).

Nothing here has state. A server's frames are not masked and hence the same for every recipient, so
one frame is built for a message and its bytes are written to all.

The fast lane takes whole frames that need no state at all: FIN, text or binary, no reserved bit,
masked as the sender's role demands, of minimal length encoding and within the size limit. What it
does not take, every error included, it leaves where it was, for the state machine that reads anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum
from struct import Struct
from typing import Protocol, TypeAlias

from roomwire.core.errors import LocalError

__all__ = [
    "MAX_CONTROL_PAYLOAD",
    "MAX_HEADER",
    "PING",
    "Closed",
    "Opcode",
    "Ping",
    "Pong",
    "Received",
    "Role",
    "binary_frame",
    "build_frame",
    "build_masked_frame",
    "frame_size",
    "take_simple_frames",
    "text_frame",
    "unmask",
]

MAX_CONTROL_PAYLOAD = 125
"""Bytes of a ping, pong or close (RFC 6455 section 5.5)."""
MAX_HEADER = 14
"""Bytes of the longest frame header: two, the 64-bit length, the masking key."""

_MASK = 0x80
_TEXT = 0x81
_BINARY = 0x82
_from_bytes = int.from_bytes
_LONG = Struct(">BBH").pack


class Role(Enum):
    """Which side of the connection this is: a client masks what it sends, a server does not."""

    SERVER = "server"
    CLIENT = "client"


# An enum's member is dear to look up by its class, and this one is asked for at every read.
_SERVER = Role.SERVER


class Opcode(IntEnum):
    """RFC 6455 section 5.2."""

    CONTINUATION = 0x0
    TEXT = 0x1
    BINARY = 0x2
    CLOSE = 0x8
    PING = 0x9
    PONG = 0xA


@dataclass(frozen=True, slots=True)
class Ping:
    """A ping came; its pong is made without the caller."""

    payload: bytes = b""


@dataclass(frozen=True, slots=True)
class Pong:
    """A pong came."""

    payload: bytes = b""


@dataclass(frozen=True, slots=True)
class Closed:
    """The WebSocket has ended; nothing follows.

    Attributes:
        code: the close code (RFC 6455 section 7.1.5); 1005 where the peer's close frame had none, 1006 where
            the link broke without one.
        reason: the close reason, possibly empty.
        by_peer: whether the peer's close frame was the first one.
    """

    code: int
    reason: str
    by_peer: bool


Received: TypeAlias = str | bytes | Ping | Pong | Closed
"""A text message, a binary message, or a control frame."""


def _header(first: int, length: int, mask: int = 0) -> bytes:
    if length < 126:
        return bytes((first, mask | length))
    if length < 0x10000:
        return _LONG(first, mask | 126, length)
    return bytes((first, mask | 127)) + length.to_bytes(8, "big")


_SHORT_TEXT = [_header(_TEXT, length) for length in range(126)]


def build_frame(opcode: Opcode, payload: bytes, *, fin: bool = True, rsv1: bool = False) -> bytes:
    """A server's frame (RFC 6455 section 5.2).

    Args:
        opcode: what it is.
        payload: its bytes, already compressed where `rsv1` is set.
        fin: whether it is the last frame of its message.
        rsv1: whether it begins a compressed message (RFC 7692 section 6).
    """
    return _header(fin << 7 | rsv1 << 6 | opcode, len(payload)) + payload


def build_masked_frame(opcode: Opcode, payload: bytes, key: bytes, *, rsv1: bool = False) -> bytes:
    """A client's whole frame, masked with the four bytes of `key` (RFC 6455 section 5.3)."""
    return _header(0x80 | rsv1 << 6 | opcode, len(payload), _MASK) + key + unmask(payload, key)


def text_frame(payload: str | bytes) -> bytes:
    """A server's text message; bytes must be UTF-8.

    Raises:
        LocalError: the text holds a lone surrogate and hence has no UTF-8.
    """
    if isinstance(payload, str):
        try:
            payload = payload.encode()
        except UnicodeEncodeError:
            raise LocalError("a text message cannot hold a lone surrogate") from None
    length = len(payload)
    return (_SHORT_TEXT[length] if length < 126 else _header(_TEXT, length)) + payload


def binary_frame(payload: bytes) -> bytes:
    """A server's binary message."""
    return _header(_BINARY, len(payload)) + payload


PING = build_frame(Opcode.PING, b"")
"""A server's empty ping."""


_XOR = [bytes(byte ^ key for byte in range(256)) for key in range(256)]
# From here on four table look-ups over strides beat the arithmetic of one long integer.
_LONG_PAYLOAD = 600


def unmask(payload: bytes, key: bytes) -> bytes:
    """XOR with the repeated 4-byte key, which masks as well as unmasks (RFC 6455 section 5.3)."""
    size = len(payload)
    if size < _LONG_PAYLOAD:
        mask = (key * ((size + 3) >> 2))[:size]
        return (_from_bytes(payload, "little") ^ _from_bytes(mask, "little")).to_bytes(size, "little")
    octets = bytearray(payload)
    for offset in range(4):
        octets[offset::4] = octets[offset::4].translate(_XOR[key[offset]])
    return bytes(octets)


class _Messages(Protocol):
    """Where messages go: a list of them, or of whatever is received."""

    def append(self, message: str | bytes, /) -> None: ...


def take_simple_frames(data: bytes, start: int, limit: int, received: _Messages, role: Role) -> int:
    """The fast lane: read whole simple data frames from `start` on, and append their messages.

    Args:
        data: bytes from the network, with a frame's first byte at `start`.
        start: an offset into `data`.
        limit: the largest payload to take, bytes.
        received: where the messages go.
        role: the reader's role; a server takes masked frames only, a client unmasked ones only.

    Returns:
        The offset of the first byte that was not taken: the end of `data`, or where a frame begins
        that is incomplete, not simple, or wrong.
    """
    mask_bit, key_size = (_MASK, 4) if role is _SERVER else (0, 0)
    smallest = 2 + key_size
    end = len(data)
    while end - start >= smallest:
        first = data[start]
        length = data[start + 1] ^ mask_bit
        # Over 127: the mask bit is not as the role demands.
        if (first != _TEXT and first != _BINARY) or length > 127:
            break
        payload_at = start + smallest
        if length > 125:
            width = 2 if length == 126 else 8
            length = _from_bytes(data[start + 2 : start + 2 + width], "big")
            # RFC 6455 section 5.2: the minimal number of bytes MUST be used. A length cut short by the
            # end of the data fails here or below, since its frame cannot be whole.
            if length < (126 if width == 2 else 0x10000):
                break
            payload_at += width
        stop = payload_at + length
        if length > limit or stop > end:
            break
        payload = data[payload_at:stop]
        if key_size:
            key = data[payload_at - 4 : payload_at]
            if length < _LONG_PAYLOAD:  # as in `unmask`, without the call
                mask = (key * ((length + 3) >> 2))[:length]
                payload = (_from_bytes(payload, "little") ^ _from_bytes(mask, "little")).to_bytes(length, "little")
            else:
                payload = unmask(payload, key)
        if first == _TEXT:
            try:
                received.append(payload.decode())
            except UnicodeDecodeError:
                break
        else:
            received.append(payload)
        start = stop
    return start


def frame_size(head: bytes) -> int:
    """Bytes of the whole frame that begins with `head`; 0 where its header is not complete yet.

    Args:
        head: the first bytes of a frame, `MAX_HEADER` of them at most are looked at.
    """
    if len(head) < 2:
        return 0
    length = head[1] & 0x7F
    size = 2
    if length > 125:
        width = 2 if length == 126 else 8
        length = _from_bytes(head[2 : 2 + width], "big")
        size += width
    if head[1] & _MASK:
        size += 4
    return size + length if len(head) >= size else 0
