"""Orders between nodes: gives them to all, or to one, and carries out those that come.

What concerns a user goes through the stream of orders, so that a node that was cut off hears of it when it is
back. What concerns one connection is told to its node alone; should that be lost, the refresh of the slots finds out.
What cannot be read is counted, logged once and dropped (`roomwire.core.orders`).
"""

from __future__ import annotations

import logging
import secrets
import time
from typing import TYPE_CHECKING

from roomwire.core.closing import CloseCode, Closing, is_sendable
from roomwire.core.errors import EventError, RoomwireError
from roomwire.core.orders import (
    ORDERS,
    Add,
    Disconnect,
    Evict,
    InvalidOrder,
    Order,
    OrderToAll,
    Remove,
    UserOrder,
    read_order,
    write_order,
)
from roomwire.node import journal
from roomwire.node.scope import current
from roomwire.node.ways import Deciding, Way

if TYPE_CHECKING:
    from roomwire.node.connection import Connection
    from roomwire.node.node import Node

__all__ = ["Add", "Control", "Disconnect", "Evict", "Remove"]

logger = logging.getLogger("roomwire.backplane")

_SKEW = 5.0
"""Seconds by which the clocks of two nodes may differ: who came so shortly after an order is taken for older."""


class Control:
    """Gives and carries out orders."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.dropped = 0

    async def give(self, order: OrderToAll) -> None:
        """Have every node carry it out, this one included; returns when it is stored.

        Raises:
            Unavailable: it was not stored, or may not have been: give it again.
        """
        order = order.model_copy(update={"spare": self._decided(order), "at": time.time()})
        kept, window = self._node.kept(ORDERS), self._node.limits.idempotency_window
        key = secrets.token_hex(16)
        await self._node.backplane.publish(ORDERS, write_order(order), key=key, policy=kept, window=window)

    async def tell(self, order: Evict, node: str) -> None:
        """Have one node carry it out.

        Raises:
            Unavailable: the backplane could not pass it on.
        """
        await self._node.backplane.tell(node, write_order(order))

    def _decided(self, order: UserOrder) -> str | None:
        """The connection about which the application is deciding as it gives the order."""
        scope = current.get(None)
        if not isinstance(scope, Deciding) or scope.connection is None:
            return None
        decides = scope.decides(order.room) if isinstance(order, Remove) else scope.decides()
        return scope.connection.id if decides else None

    def told(self, body: bytes) -> None:
        """An order came."""
        try:
            order = read_order(body)
        except InvalidOrder:
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

    def _concerned(self, order: UserOrder) -> list[Connection]:
        connections = self._node.connections_of(order.user)
        if order.at is not None:
            age = time.time() - order.at - _SKEW
            now = self._node.runtime.now()
            connections = [c for c in connections if now - c._session.opened_at >= age]
        return [connection for connection in connections if connection.id != order.spare]

    def evict(self, order: Evict) -> None:
        """Close a connection of this node; nothing where it is gone."""
        connection = self._node.connections.get(order.connection)
        if connection is not None:
            connection._shut(Closing.of(CloseCode.REPLACED), moved=order.moved)

    def add(self, connection: Connection, room: str) -> None:
        """Put a connection into a room, soon; later, where it is still being admitted. An event stream has its own."""
        if connection.read_only:
            return
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
