"""Everything about time and chance that the client does, as one seam: a test puts its own in."""

from __future__ import annotations

import math
import random
import time
from typing import Protocol

import anyio

__all__ = ["SystemTiming", "Timing"]


class Timing(Protocol):
    """A clock, a way to wait by it, and a source of chance."""

    def now(self) -> float:
        """Monotonic seconds."""
        ...

    def random(self) -> float:
        """A number from 0 to 1, for the jitter of waits; nothing secret is made of it."""
        ...

    async def wait(self, event: anyio.Event, deadline: float) -> None:
        """Return once `event` is set or the clock shows `deadline`, whichever comes first.

        Args:
            event: what may come sooner.
            deadline: monotonic seconds as of `now`; ``math.inf`` for never.
        """
        ...


class SystemTiming:
    """The time of this machine."""

    def now(self) -> float:
        """See `Timing.now`."""
        return time.monotonic()

    def random(self) -> float:
        """See `Timing.random`."""
        return random.random()  # noqa: S311  jitter

    async def wait(self, event: anyio.Event, deadline: float) -> None:
        """See `Timing.wait`."""
        delay = None if deadline == math.inf else max(0.0, deadline - self.now())
        with anyio.move_on_after(delay):
            await event.wait()
