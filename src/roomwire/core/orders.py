"""Orders that nodes, and publishers, give to all nodes: what has to happen to connections wherever they are.

    order = version (1 byte) | JSON object

Orders about users go through a stream that every node reads, as a room's events go: a node that was cut off
when one was given reads it when it is back. The object has a fixed schema, told apart by ``do``. What does not
fit is dropped by whoever reads it: a backplane is no trusted channel.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from roomwire.core.closing import CloseCode
from roomwire.core.errors import RemoteError

__all__ = [
    "ORDERS",
    "Add",
    "Disconnect",
    "Evict",
    "InvalidOrder",
    "Order",
    "OrderToAll",
    "Remove",
    "UserOrder",
    "read_order",
    "write_order",
]

ORDERS = "\x01orders"
"""The stream, as the name of a room; no room can have it, since names hold no control characters."""

_VERSION = b"\x01"


class InvalidOrder(RemoteError):
    """An order from the backplane has an unknown version or another schema."""


class _Order(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class UserOrder(_Order):
    """About the connections of a user.

    Attributes:
        user: the user.
        spare: the connection that the order does not concern: it was given while that one was decided about.
        at: when it was given, in seconds of Unix time. It may come late, and concerns nobody who came after it.
    """

    user: str
    spare: str | None = None
    at: float | None = None


class Disconnect(UserOrder):
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


class Add(UserOrder):
    """Put the connections of a user into a room."""

    do: Literal["add"] = "add"
    room: str


class Remove(UserOrder):
    """Take the connections of a user out of a room."""

    do: Literal["remove"] = "remove"
    room: str
    reason: str = ""


OrderToAll = Disconnect | Add | Remove
Order = OrderToAll | Evict
_ORDERS: TypeAdapter[Order] = TypeAdapter(Annotated[Order, Field(discriminator="do")])


def write_order(order: Order) -> bytes:
    """What `Backplane.publish` stores, and `Backplane.tell` passes on."""
    return _VERSION + order.model_dump_json(exclude_none=True).encode()


def read_order(body: bytes) -> Order:
    """The inverse of `write_order`.

    Raises:
        InvalidOrder: an unknown version, or another schema.
    """
    if body[:1] != _VERSION:
        raise InvalidOrder("an order of an unknown version")
    try:
        return _ORDERS.validate_json(body[1:])
    except ValidationError:
        raise InvalidOrder("an order with another schema") from None
