"""Drain: the orderly end of a node. Asked first, cancelled only where asking did not help.

Not ready, accept no more, tell every client to come back at a moment of its own, close in slices, wait
until all are gone or the time is up, abort what is left.
"""

from __future__ import annotations

import logging
import math
import random
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

from roomwire.core.closing import CloseCode, Closing
from roomwire.core.errors import Refusal

if TYPE_CHECKING:
    from roomwire.node.node import Node

__all__ = ["Drain"]

logger = logging.getLogger("roomwire")

_SLICE = 200
"""Closes between two looks at the loop."""
_FAREWELL = 2.0
"""Seconds that slots, presence and the application's hooks have when a node is cancelled; a shutdown, at least."""


class Drain:
    """Ends a node.

    Args:
        node: the node.
        timeout: seconds until what is left is aborted.
        spread: seconds over which the clients come back.
    """

    def __init__(self, node: Node, timeout: float, spread: float) -> None:
        self._node = node
        self._timeout = timeout
        self._spread = spread
        self._deadline = math.inf
        self._empty = anyio.Event()
        self.began = False

    def retry_after(self) -> float:
        """A moment for one client to come back."""
        return round(random.uniform(0.0, self._spread), 2)  # noqa: S311  spreads load, hides nothing

    def remaining(self) -> float:
        """Seconds that the application behind the node has to shut down: what is left of the drain, or a little."""
        return max(_FAREWELL, self._deadline - anyio.current_time())

    def noticed_end(self) -> None:
        """A connection is gone."""
        if self.began and not self._node.connections:
            self._empty.set()

    def refusal(self) -> Refusal:
        """What a client is told that comes during a drain."""
        seconds = str(max(1, round(self.retry_after())))
        return Refusal(503, "unavailable", "the server is shutting down", (("Retry-After", seconds),))

    async def run(self) -> None:
        """Drain; afterwards the transport's `serve` returns. Nothing where it began already."""
        if self.began:
            return
        self.began = True
        node = self._node
        logger.info("draining", extra={"roomwire": {"event": "drain", "connections": len(node.connections)}})
        self._deadline = anyio.current_time() + self._timeout
        with anyio.CancelScope(deadline=self._deadline):
            await node.transport.stop_accepting()
            await node.hub.release()
            for count, connection in enumerate(list(node.connections.values()), start=1):
                connection._shut(Closing.of(CloseCode.RESTART, self.retry_after()))
                if count % _SLICE == 0:
                    await anyio.lowlevel.checkpoint()
            await node.admissions.finished()
            if node.connections:
                await self._empty.wait()
            await node.workers.finished()
            if node.api is not None:
                await node.api.finished()
            if node.fallback is not None:
                await node.fallback.finished()
            await node.farewells.finished()
        await node.transport.aclose()

    async def end(self) -> None:
        """The transport has ended, or is being cancelled: nothing may stay behind."""
        if not self.began:
            self.began = True
            self._deadline = anyio.current_time() + self._timeout
        await self._node.transport.aclose()
        if self._node.fallback is not None:
            # Its connections are cut: the application hears of it before it is cancelled.
            with anyio.move_on_after(_FAREWELL):
                await self._node.fallback.finished()
        if self._node.farewells:
            with anyio.move_on_after(_FAREWELL):
                await self._node.farewells.finished()
