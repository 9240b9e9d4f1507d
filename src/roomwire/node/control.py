"""Control messages between nodes: what has to happen to connections wherever they are.

A message is one version byte and a JSON object with a fixed schema. What cannot be read is counted,
logged once and dropped: a backplane is no trusted channel.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from roomwire.core.closing import CloseCode, Closing, is_sendable
from roomwire.core.errors import EventError, RoomwireError
from roomwire.node import journal
from roomwire.node.scope import current
from roomwire.node.ways import Deciding, Way

if TYPE_CHECKING:
    from roomwire.node.connection import Connection
    from roomwire.node.node import Node

__all__ = ["Add", "Control", "Disconnect", "Evict", "Remove"]

logger = logging.getLogger("roomwire.backplane")

VERSION = b"\x01"


class _Order(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _UserOrder(_Order):
    """About the connections of a user.

    Attributes:
        user: the user.
        spare: the connection that the order does not concern: it was given while that one was decided about.
    """

    user: str
    spare: str | None = None


class Disconnect(_UserOrder):
    """Close the connections of a user; with `client`, of that client alone."""

    do: Literal["disconnect"] = "disconnect"
    code: int = CloseCode.REMOVED.value
    reason: str = ""
    client: str | None = None


class Evict(_Order):
    """Close one connection: its slot belongs to another now, with `moved` of the same client."""

    do: Literal["evict"] = "evict"
    connection: str
    moved: bool = False


class Add(_UserOrder):
    """Put the connections of a user into a room."""

    do: Literal["add"] = "add"
    room: str


class Remove(_UserOrder):
    """Take the connections of a user out of a room."""

    do: Literal["remove"] = "remove"
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
        if isinstance(order, _UserOrder):
            order = order.model_copy(update={"spare": self._decided(order)})
        await self._node.backplane.tell(node, VERSION + order.model_dump_json(exclude_none=True).encode())

    def _decided(self, order: _UserOrder) -> str | None:
        """The connection about which the application is deciding as it gives the order."""
        scope = current.get(None)
        if not isinstance(scope, Deciding) or scope.connection is None:
            return None
        decides = scope.decides(order.room) if isinstance(order, Remove) else scope.decides()
        return scope.connection.id if decides else None

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
                for connection in self._concerned(order):
                    if order.client in (None, connection.client):
                        connection._shut(Closing(code, order.reason))
            case Add():
                for connection in self._concerned(order):
                    self.add(connection, order.room)
            case Remove():
                for connection in self._concerned(order):
                    node.joining.take_out(connection, order.room, order.reason)

    def _concerned(self, order: _UserOrder) -> list[Connection]:
        connections = self._node.connections_of(order.user)
        return [connection for connection in connections if connection.id != order.spare]

    def evict(self, order: Evict) -> None:
        """Close a connection of this node; nothing where it is gone."""
        connection = self._node.connections.get(order.connection)
        if connection is not None:
            connection._shut(Closing.of(CloseCode.REPLACED), moved=order.moved)

    def add(self, connection: Connection, room: str) -> None:
        """Put a connection into a room, soon; later, where it is still being admitted."""
        if connection._kind is None:
            wanted = connection._wanted or []
            if room not in wanted:
                connection._wanted = [*wanted, room]
            return
        try:
            way = self._node.joining.begin(connection, room)
        except EventError as error:
            journal.failed(connection, _adding(room), error)
            return
        self._node.attend(connection, self._put_in, connection, room, way)

    async def _put_in(self, connection: Connection, room: str, way: Way) -> None:
        try:
            await self._node.joining.put_in(connection, room, way)
        except RoomwireError as error:
            journal.failed(connection, _adding(room), error)


def _adding(room: str) -> str:
    return f"add to room {room}"
