"""What is being handled now: the context in which `App.publish` and its kin act.

A handler that runs again after its node died must not publish twice, so its n-th publish to a room has
a key that is made of the message's. Hooks and the lifespan have a node, and no message.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

from roomwire.core.idempotency import publish_key

if TYPE_CHECKING:
    from roomwire.node.connection import Connection
    from roomwire.node.node import Node

__all__ = ["Scope", "current"]


class Scope:
    """A node, and the connection and message that it is handling, if any."""

    __slots__ = ("_counts", "connection", "message", "node")

    def __init__(self, node: Node, connection: Connection | None = None, message: str | None = None) -> None:
        self.node = node
        self.connection = connection
        self.message = message
        self._counts: dict[str, int] | None = None

    def next_publish_key(self, room: str) -> str | None:
        """The key of the next publish to `room`; None where no idempotent message is being handled."""
        if self.message is None:
            return None
        if self._counts is None:
            self._counts = {}
        number = self._counts[room] = self._counts.get(room, 0) + 1
        return publish_key(self.message, room, number)


current: ContextVar[Scope] = ContextVar("roomwire_scope")
