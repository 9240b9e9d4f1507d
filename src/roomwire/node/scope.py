"""What is being handled now: the context in which `App.publish` and its kin act.

A handler that runs again after its node died must not publish twice, so its n-th publish to a room has
a key that is made of the message's. Hooks and the lifespan have a node, and no message.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

import anyio

from roomwire.core.errors import LocalError
from roomwire.core.idempotency import publish_key

if TYPE_CHECKING:
    from roomwire.node.connection import Connection
    from roomwire.node.node import Node

__all__ = ["Scope", "Stray", "current"]


class Stray(LocalError):
    """The application's code let a cancellation out that nobody had asked of this task."""


class Scope:
    """A node, and the connection and message that it is handling, if any.

    The application's code runs `with` it. What comes out of that is an `Exception`, or the end of the
    task. asyncio tells no difference between a task that is cancelled and one that awaits something
    cancelled; taken for the former, the latter would end a connection's worker for good without a word,
    so it becomes `Stray`.

    Args:
        node: what the code acts on.
        connection: whose message or hook it is.
        message: the key of the idempotent message that is being handled.
    """

    __slots__ = ("_counts", "_token", "connection", "message", "node")

    def __init__(self, node: Node, connection: Connection | None = None, message: str | None = None) -> None:
        self.node = node
        self.connection = connection
        self.message = message
        self._counts: dict[str, int] | None = None

    def __enter__(self) -> None:
        self._token = current.set(self)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        current.reset(self._token)
        if kind is None or not issubclass(kind, anyio.get_cancelled_exc_class()):
            return
        if not self.node.runtime.is_cancelled():
            raise Stray("it awaited something that was cancelled") from error

    def next_publish_key(self, room: str) -> str | None:
        """The key of the next publish to `room`; None where no idempotent message is being handled."""
        if self.message is None:
            return None
        if self._counts is None:
            self._counts = {}
        number = self._counts[room] = self._counts.get(room, 0) + 1
        return publish_key(self.message, room, number)


current: ContextVar[Scope] = ContextVar("roomwire_scope")
