"""Time that stands still until a test moves it, for `roomwire.client.connect`."""

from __future__ import annotations

import anyio
import anyio.lowlevel

__all__ = ["VirtualTiming"]


class VirtualTiming:
    """A `roomwire.client.Timing`. The jitter is the whole bound, so waits are 1, 2, 4 seconds and so on."""

    def __init__(self) -> None:
        self._now = 1000.0
        self._waits: dict[anyio.CancelScope, float] = {}

    def now(self) -> float:
        return self._now

    def random(self) -> float:
        return 1.0

    async def wait(self, event: anyio.Event, deadline: float) -> None:
        if deadline <= self._now:
            await anyio.lowlevel.checkpoint()
            return
        with anyio.CancelScope() as scope:
            self._waits[scope] = deadline
            try:
                await event.wait()
            finally:
                del self._waits[scope]

    def advance(self, seconds: float) -> None:
        """Let time pass; whose deadline has come runs on."""
        self._now += seconds
        for scope, deadline in self._waits.items():
            if deadline <= self._now:
                scope.cancel()
