"""Whether bytes move: a reader that takes none, and a message that trickles in."""

from __future__ import annotations

from roomwire.core.limits import Limits

__all__ = ["ReadFloor", "WriteStall"]


class WriteStall:
    """Watches bytes that the transport holds: not one taken in ``limits.write_timeout`` is a stall.

    Args:
        limits: the limits.
        now: monotonic seconds.
        held: bytes that the transport holds.
    """

    __slots__ = ("_held", "_timeout", "deadline")

    def __init__(self, limits: Limits, now: float, held: int) -> None:
        self._timeout = limits.write_timeout
        self._held = held
        self.deadline = now + self._timeout

    def is_stuck(self, now: float, held: int) -> bool:
        """Whether nothing moved up to the deadline; else it moves on."""
        if now < self.deadline:
            return False
        if held >= self._held:
            return True
        self._held = held
        self.deadline = now + self._timeout
        return False


class ReadFloor:
    """Watches an incomplete message: below ``limits.min_byte_rate``, after the grace, it is cut off.

    Args:
        limits: the limits.
        now: monotonic seconds.
        size: bytes that came so far.
    """

    __slots__ = ("_began", "_grace", "_rate", "_size", "deadline")

    def __init__(self, limits: Limits, now: float, size: int) -> None:
        self._began = now
        self._grace = limits.byte_rate_grace
        self._rate = limits.min_byte_rate
        self._size = size
        self.deadline = now + self._grace

    def add(self, size: int) -> None:
        """More bytes of the message came."""
        self._size += size

    def is_too_slow(self, now: float) -> bool:
        """Whether the message comes too slowly; else the deadline moves on."""
        if now < self.deadline:
            return False
        if self._size < (now - self._began) * self._rate:
            return True
        self.deadline = now + self._grace
        return False
