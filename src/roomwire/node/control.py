"""Control messages between nodes: what has to happen to connections wherever they are.

A message is one version byte and a JSON object with a fixed schema. What cannot be read is counted,
logged once and dropped: a backplane is no trusted channel.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from roomwire.core.closing import CloseCode, Closing, is_sendable
from roomwire.core.errors import RoomwireError
from roomwire.node import journal

if TYPE_CHECKING:
    from roomwire.node.connection import Connection
    from roomwire.node.node import Node

__all__ = ["Add", "Control", "Disconnect", "Evict", "Remove"]

logger = logging.getLogger("roomwire.backplane")

VERSION = b"\x01"


class _Order(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Disconnect(_Order):
    """Close the connections of a user; with `client`, of that client alone."""

    do: Literal["disconnect"] = "disconnect"
    user: str
    code: int = CloseCode.REMOVED.value
    reason: str = ""
    client: str | None = None


class Evict(_Order):
    """Close one connection: its slot belongs to another now, with `moved` of the same client."""

    do: Literal["evict"] = "evict"
    connection: str
    moved: bool = False


class Add(_Order):
    """Put the connections of a user into a room."""

    do: Literal["add"] = "add"
    user: str
    room: str


class Remove(_Order):
    """Take the connections of a user out of a room."""

    do: Literal["remove"] = "remove"
    user: str
    room: str
    reason: str = ""


Order = Disconnect | Evict | Add | Remove
_ORDERS: TypeAdapter[Order] = TypeAdapter(Annotated[Order, Field(discriminator="do")])


class Control:
    """Sends and carries out control messages."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.dropped = 0

    async def tell(self, order: Order, node: str | None = None) -> None:
        """Have every node (or one) carry it out, this one included.

        Raises:
            Unavailable: the backplane could not pass it on.
        """
        await self._node.backplane.tell(node, VERSION + order.model_dump_json().encode())

    def told(self, body: bytes) -> None:
        """A control message came."""
        try:
            if body[:1] != VERSION:
                raise ValueError("unknown version")
            order = _ORDERS.validate_json(body[1:])
        except (ValidationError, ValueError):
            self.dropped += 1
            if self.dropped == 1:
                logger.error("a control message that cannot be read was dropped")
            return
        self._carry_out(order)

    def _carry_out(self, order: Order) -> None:
        node = self._node
        match order:
            case Evict():
                self.evict(order)
            case Disconnect():
                code = order.code if is_sendable(order.code) else CloseCode.REMOVED
                for connection in node.connections_of(order.user):
                    if order.client in (None, connection.client):
                        connection._shut(Closing(code, order.reason))
            case Add():
                for connection in node.connections_of(order.user):
                    node.runtime.spawn(self.add, connection, order.room)
            case Remove():
                for connection in node.connections_of(order.user):
                    node.joining.take_out(connection, order.room, order.reason)

    def evict(self, order: Evict) -> None:
        """Close a connection of this node; nothing where it is gone."""
        connection = self._node.connections.get(order.connection)
        if connection is not None:
            connection._shut(Closing.of(CloseCode.REPLACED), moved=order.moved)

    async def add(self, connection: Connection, room: str) -> None:
        """Put a connection into a room; later, where it is still being admitted."""
        if connection._kind is None:
            connection._wanted = [*(connection._wanted or ()), room]
            return
        if connection._closing is not None:
            return
        try:
            await connection.join(room)
        except RoomwireError as error:
            journal.failed(connection, f"add to room {room}", error)
