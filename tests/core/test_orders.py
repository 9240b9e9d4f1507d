"""Orders over a backplane: written and read again, and nothing else is taken."""

from __future__ import annotations

import pytest

from roomwire.core.orders import Add, Disconnect, Evict, InvalidOrder, Order, Remove, read_order, write_order

ORDERS: list[Order] = [
    Disconnect(user="ann", code=4502, reason="bye", client="tab-000001"),
    Disconnect(user="ann\u2028", spare="0123456789abcdef"),
    Evict(connection="0123456789abcdef", moved=True),
    Add(user="ann", room="chat:é"),
    Remove(user="ann", room="chat:one", reason="why"),
]


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: type(order).__name__)
def test_what_was_written_is_read(order: Order) -> None:
    assert read_order(write_order(order)) == order


def test_what_is_not_said_takes_no_place() -> None:
    assert write_order(Add(user="ann", room="a")) == b'\x01{"user":"ann","do":"add","room":"a"}'


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x01",
        b"\x02" + write_order(ORDERS[0])[1:],
        b"\x01[]",
        b"\x01{}",
        b"\x01\xff",
        b'\x01{"do":"add","user":"ann"}',
        b'\x01{"do":"add","user":"ann","room":"a","more":1}',
        b'\x01{"do":"add","user":1,"room":"a"}',
        b'\x01{"do":"dance","user":"ann"}',
        write_order(ORDERS[0]) + b"}",
        write_order(ORDERS[0])[:-1],
    ],
)
def test_anything_else_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidOrder):
        read_order(body)
