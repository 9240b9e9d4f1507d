"""Upkeep: what a node does again and again. One task, which also notices when the loop is late."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import anyio

from roomwire.backplanes.contract import Holder
from roomwire.core.closing import CloseCode, Closing
from roomwire.core.errors import Unavailable
from roomwire.node.presence import member_of
from roomwire.node.replies import LEASE

if TYPE_CHECKING:
    from roomwire.node.node import Node

__all__ = ["Upkeep"]

logger = logging.getLogger("roomwire.backplane")

TICK = 0.25
CHECK_EVERY = 1.0
RENEW_EVERY = LEASE / 3
REFRESH_EVERY = 20.0
"""Leases last 55 s: one lost refresh does no harm, and a dead node's members are gone within 90 s."""
REFRESH_AGAIN = 2.0
"""Seconds after which a refresh that failed is tried again: presence is in doubt until it succeeds."""
SWEEP_EVERY = 30.0


class Upkeep:
    """The recurring work of a node.

    Attributes:
        lag: by how many seconds the loop was late, lately.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self.lag = 0.0
        self._jobs: list[tuple[float, Callable[[], Awaitable[None]]]] = [
            (CHECK_EVERY, node.hub.healing.check_positions),
            (RENEW_EVERY, node.replies.renew),
            (REFRESH_EVERY, self._refresh),
            (SWEEP_EVERY, self._sweep),
        ]
        self._due: list[float] = []
        self._busy: set[int] = set()

    async def run(self) -> None:
        """Until the node has ended."""
        runtime = self._node.runtime
        self._due = [runtime.now() + interval for interval, _ in self._jobs]
        while self._node.serving:
            expected = runtime.now() + TICK
            await anyio.sleep(TICK)
            now = runtime.now()
            self.lag = max(0.0, now - expected)
            if self._node.meter is not None:
                self._node.meter.lag.observe(self.lag)
            self.tick(now)

    def refresh_soon(self) -> None:
        """The store is back: leases that could not be refreshed meanwhile may have lapsed."""
        for index, (_, job) in enumerate(self._jobs):
            if job == self._refresh and self._due:
                self._due[index] = 0.0

    def tick(self, now: float) -> None:
        """Do what is due."""
        self._node.wheel.advance(now)
        self._node.presence.tick(now)
        for index, (interval, job) in enumerate(self._jobs):
            # A job that still runs, such as against a store that does not answer, is not begun again.
            if now >= self._due[index] and index not in self._busy:
                self._due[index] = now + interval
                self._busy.add(index)
                self._node.runtime.spawn(self._do, index, job)

    async def _do(self, index: int, job: Callable[[], Awaitable[None]]) -> None:
        try:
            await job()
        except Unavailable:
            logger.warning("%s: the backplane is unavailable", getattr(job, "__name__", "upkeep"))
            if job == self._refresh:
                self._due[index] = min(self._due[index], self._node.runtime.now() + REFRESH_AGAIN)
        finally:
            self._busy.discard(index)

    async def _refresh(self) -> None:
        node = self._node
        connections = [connection for connection in node.connections.values() if connection.is_open]
        slots = [(c.user, Holder(c.client, c.id, node.name)) for c in connections]
        memberships = node.presence.memberships()
        leases = [(membership.room.name, member_of(membership.connection)) for membership in memberships]
        lost = await node.backplane.refresh(leases, slots, limit=node.limits.connections_per_user)
        evicting = node.limits.on_connection_limit == "evict"
        for slot in lost:
            connection = node.connections.get(slot.holder.connection)
            if connection is not None:
                # It was told so before, in a message that was lost. With a code that lets it come back it
                # would take the slot from the connection that took it from it, and so on.
                code = CloseCode.REPLACED if slot.replaced or evicting else CloseCode.RATE_LIMITED
                connection._shut(Closing.of(code), moved=slot.replaced)
        # What was given up while the refresh was under way may have been made anew by it.
        for connection in connections:
            if connection._closing is not None:
                node.farewells.departed(connection, ())
        for membership in memberships:
            if membership.left:
                node.farewells.left(membership.connection, membership.room)

    async def _sweep(self) -> None:
        self._node.presence.sweep()
