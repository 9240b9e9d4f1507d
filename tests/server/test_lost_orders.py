"""Orders reach a node that was cut off when they were given, once it is back, and concern nobody who came later."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

import pytest

from roomwire.backplanes.memory import MemoryBackplane
from roomwire.core.errors import Unavailable
from roomwire.core.orders import ORDERS, Disconnect, read_order, write_order
from roomwire.core.policy import RoomPolicy
from roomwire.core.positions import is_room_name
from tests.server.chat import make_app
from tests.server.conftest import ROOMS, Serve
from tests.server.live import LiveServer, live_cluster
from tests.server.watching import until


@pytest.fixture
def cluster() -> Iterator[list[LiveServer]]:
    # A pattern that matches every room must not decide what is kept of the orders.
    rooms = {**ROOMS, "*": RoomPolicy(history_size=0)}
    with live_cluster([make_app(), make_app()], rooms=rooms) as servers:
        yield servers


def cut(server: LiveServer) -> None:
    backplane = server.node.backplane
    assert isinstance(backplane, MemoryBackplane)
    server.call(backplane.cut)


def heal(server: LiveServer) -> None:
    backplane = server.node.backplane
    assert isinstance(backplane, MemoryBackplane)
    server.call(backplane.heal)


def test_no_client_can_name_the_stream_of_orders() -> None:
    assert not is_room_name(ORDERS)


def test_a_node_that_was_cut_off_disconnects_when_it_is_back(cluster: list[LiveServer]) -> None:
    one, two = cluster
    ann, bob = two.connect("ann"), two.connect("bob")
    cut(two)
    one.act(one.node.app.disconnect, "ann", code=4502, reason="revoked")
    heal(two)
    assert ann.closed() == (4502, "revoked")
    assert bob.request("whoami")["event"] == "ack"


def test_of_many_orders_none_is_lost_and_their_order_holds(cluster: list[LiveServer]) -> None:
    one, two = cluster
    ann = two.connect("ann")
    cut(two)
    for _ in range(200):
        one.act(one.node.app.add, "ann", "chat:two")
        one.act(one.node.app.remove, "ann", "chat:two")
    one.act(one.node.app.add, "ann", "chat:last")
    heal(two)
    assert ann.receive_until("room.joined", room="chat:last")
    until(two, lambda: "chat:two" not in two.node.connections_of("ann")[0].rooms)


def test_an_order_that_comes_late_concerns_nobody_who_came_after_it(cluster: list[LiveServer]) -> None:
    one, two = cluster
    ann = two.connect("ann")
    late = write_order(Disconnect(user="ann", at=time.time() - 60))
    fresh = write_order(Disconnect(user="ann", at=time.time()))
    assert read_order(late) == Disconnect(user="ann", at=read_order(late).at)  # type: ignore[union-attr]

    async def publish(body: bytes) -> None:
        await one.node.backplane.publish(ORDERS, body, key=None, policy=one.node.kept(ORDERS))

    one.call(publish, late)
    assert ann.request("whoami")["event"] == "ack"
    one.call(publish, fresh)
    assert ann.closed()[0] == 4503


def test_whoever_gives_an_order_hears_where_it_cannot_be_stored(cluster: list[LiveServer]) -> None:
    one, _ = cluster
    cut(one)
    with pytest.raises(Unavailable):
        one.act(one.node.app.disconnect, "ann")
    heal(one)


def test_orders_that_the_store_lost_are_said_to_be_lost(
    cluster: list[LiveServer], caplog: pytest.LogCaptureFixture
) -> None:
    one, two = cluster
    ann = two.connect("ann")
    cut(two)
    one.act(one.node.app.disconnect, "ann")
    backplane = one.node.backplane
    assert isinstance(backplane, MemoryBackplane)
    one.call(backplane.hub.lose)
    with caplog.at_level(logging.ERROR, "roomwire.backplane"):
        heal(two)
        until(two, lambda: "orders to this node may have been lost (epoch)" in caplog.text)
    one.act(one.node.app.disconnect, "ann")
    assert ann.closed()[0] == 4503


def test_a_body_that_is_no_order_is_dropped(serve: Serve) -> None:
    server = serve()
    ann = server.connect("ann")

    async def publish() -> None:
        await server.node.backplane.publish(ORDERS, b"\xffgarbage", key=None, policy=server.node.kept(ORDERS))

    server.call(publish)
    assert server.node.control.dropped == 1
    assert ann.request("whoami")["event"] == "ack"
