"""Just enough of RFC 6455 for a client in a test, independent of what it tests."""

from __future__ import annotations

__all__ = ["frame_at", "masked"]


def frame_at(data: bytes, start: int) -> tuple[int, int] | None:
    """Where the payload of the server's frame at `start` begins and ends; None where it is not whole."""
    size = len(data) - start
    if size < 2:
        return None
    length, payload = data[start + 1], start + 2
    if length > 125:
        payload += 2 if length == 126 else 8
        if payload > len(data):
            return None
        length = int.from_bytes(data[start + 2 : payload], "big")
    stop = payload + length
    return None if stop > len(data) else (payload, stop)


def masked(opcode: int, payload: bytes) -> bytes:
    """A client's frame; the mask is of zeros, which RFC 6455 forbids to browsers alone."""
    size = len(payload)
    if size < 126:
        head = bytes((0x80 | opcode, 0x80 | size))
    elif size < 65536:
        head = bytes((0x80 | opcode, 0xFE)) + size.to_bytes(2, "big")
    else:
        head = bytes((0x80 | opcode, 0xFF)) + size.to_bytes(8, "big")
    return head + b"\0\0\0\0" + payload
