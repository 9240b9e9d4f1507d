"""When messages are sent: so many outstanding, so many a second, or each connection its own.

A pace is told of every delivery, and answers with the next message.
"""

from __future__ import annotations

import asyncio
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from time import monotonic_ns

from roomwire.bench.links import Member

__all__ = ["Pace", "Pipeline", "Rate", "Window"]


class Pace(ABC):
    """What all paces count.

    Args:
        members: the connections.
        fan_out: deliveries that one message makes.
        limit: messages after which nothing more is sent; None: never.

    Attributes:
        sent: messages.
        deliveries: of these.
        done: set when all deliveries of `limit` messages have come.
    """

    def __init__(self, members: Sequence[Member], fan_out: int, limit: int | None) -> None:
        self.members = members
        self.fan_out = fan_out
        self.limit = limit
        self.sent = 0
        self.deliveries = 0
        self.done = asyncio.Event()
        self._stamp = 0

    @abstractmethod
    def start(self) -> None:
        """Send what needs no delivery before it."""

    @abstractmethod
    def delivered(self, member: Member, hits: int) -> None:
        """So many deliveries came on a connection."""

    def stop(self) -> None:
        """Send nothing more."""
        self.limit = self.sent

    def _send(self, member: Member, stamp: int = 0) -> None:
        if self.limit is not None and self.sent >= self.limit:
            return
        # It serves as the message's id too, so no two are equal.
        self._stamp = max(stamp or monotonic_ns(), self._stamp + 1)
        self.sent += 1
        member.send(self._stamp)

    def _is_complete(self) -> bool:
        return self.limit is not None and self.deliveries >= self.limit * self.fan_out


class Window(Pace):
    """The first connection publishes, with at most `size` messages outstanding.

    One is done when `fan_out` deliveries came, of whichever message.
    """

    def __init__(self, members: Sequence[Member], fan_out: int, limit: int | None, *, size: int) -> None:
        super().__init__(members, fan_out, limit)
        self._size = size
        self._goal: float = 0
        self._loop = asyncio.get_running_loop()

    def start(self) -> None:
        """Fill the window."""
        self._refill()

    def delivered(self, member: Member, hits: int) -> None:
        """Refill the window once a message is done."""
        self.deliveries += hits
        if self.deliveries >= self._goal:
            # What one turn of the loop finds done is sent anew together, as by publishers who see it at one time.
            self._goal = math.inf
            self._loop.call_soon(self._refill)

    def _refill(self) -> None:
        if self._is_complete():
            self.done.set()
        done = self.deliveries // self.fan_out
        while self.sent - done < self._size and (self.limit is None or self.sent < self.limit):
            self._send(self.members[0])
        self._goal = (done + 1) * self.fan_out


class Rate(Pace):
    """The first connection publishes so many messages a second, stamped with the time at which they were due.

    A server that falls behind shows it in the latencies, since nothing waits for it.
    """

    def __init__(self, members: Sequence[Member], fan_out: int, limit: int | None, *, per_second: float) -> None:
        super().__init__(members, fan_out, limit)
        self._gap = round(1e9 / per_second)
        self._due = 0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin now."""
        self._due = monotonic_ns()
        self._tick()

    def _tick(self) -> None:
        now = monotonic_ns()
        while self._due <= now and (self.limit is None or self.sent < self.limit):
            self._send(self.members[0], self._due)
            self._due += self._gap
        if self.limit is None or self.sent < self.limit:
            self._timer = asyncio.get_running_loop().call_later((self._due - now) / 1e9, self._tick)

    def delivered(self, member: Member, hits: int) -> None:
        """Count them."""
        self.deliveries += hits
        if self._is_complete():
            self.done.set()

    def stop(self) -> None:
        """Send nothing more."""
        super().stop()
        if self._timer is not None:
            self._timer.cancel()


class Pipeline(Pace):
    """Each connection sends to itself, with `size` messages outstanding."""

    def __init__(self, members: Sequence[Member], limit: int | None, *, size: int) -> None:
        super().__init__(members, 1, limit)
        self._size = size

    def start(self) -> None:
        """Every connection sends its first messages."""
        for member in self.members:
            for _ in range(self._size):
                self._send(member)

    def delivered(self, member: Member, hits: int) -> None:
        """The next one, for each that came back."""
        self.deliveries += hits
        for _ in range(hits):
            self._send(member)
        if self._is_complete():
            self.done.set()
