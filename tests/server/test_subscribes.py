"""Events that come before the store has answered the subscribe of their room."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from roomwire.backplanes.memory import MemoryBackplane, MemoryHub
from roomwire.core.orders import ORDERS
from roomwire.core.policy import RoomPolicy
from roomwire.core.positions import Position
from roomwire.core.tail import Page
from roomwire.testing.clock import VirtualClock
from tests.server.conftest import Serve
from tests.server.live import Client, LiveServer, Shell
from tests.server.watching import until

QUIET = {"chat:*": RoomPolicy()}


class SlowSubscribes(MemoryBackplane):
    """The answer to a subscribe comes a while after live delivery has begun, and may know of what came meanwhile."""

    late_position = False

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.subscribed, self.go_on = anyio.Event(), anyio.Event()
        self.reads = 0

    async def subscribe(self, room: str) -> Position:
        position = await super().subscribe(room)
        if room == ORDERS:
            return position
        self.subscribed.set()
        await self.go_on.wait()
        return await super().subscribe(room) if self.late_position else position

    async def history(self, room: str, since: Position | None, limit: int) -> Page:
        self.reads += 1
        return await super().history(room, since, limit)


def joining(server: LiveServer, backplane: SlowSubscribes) -> tuple[Client, str]:
    """A client that joins, and an event that came before the answer to the subscribe."""
    client = server.connect("nobody")
    client.send("room.join", room="chat:general", id="join")
    server.call(backplane.subscribed.wait)
    (event,) = server.publish()
    server.act(server.node.app.publish, "chat:general", "typing", history=False)
    server.call(backplane.go_on.set)
    return client, event


def test_what_comes_before_the_answer_is_read_at_once(shell: Shell, serve: Serve) -> None:
    """Live delivery is certain after the returned position; the events need not wait for the check of silent rooms."""
    backplane = SlowSubscribes(hub=MemoryHub(clock := VirtualClock()))
    server = serve(shell, clock=clock, backplane=backplane, rooms=QUIET)
    client, event = joining(server, backplane)
    position = client.receive_until("ack", id="join")["data"]["position"]
    assert Position.parse(position).offset == Position.parse(event).offset - 1
    until(server, lambda: not server.node.hub.healing._recoveries)
    assert [message["id"] for message in client.events_before("session.rooms")] == [event]
    assert backplane.reads == 1


def test_what_the_answer_knows_of_costs_no_read(serve: Serve) -> None:
    backplane = SlowSubscribes()
    backplane.late_position = True
    server = serve(backplane=backplane, rooms=QUIET)
    client, event = joining(server, backplane)
    assert client.receive_until("ack", id="join")["data"]["position"] == event
    assert client.events_before("session.rooms") == []
    assert backplane.reads == 0


@pytest.mark.parametrize("late_position", [True, False])
def test_a_store_that_is_lost_before_the_answer_is_followed(serve: Serve, late_position: bool) -> None:
    """The event and the answer are of different lives of the stream: only a read says which one is true."""
    backplane = SlowSubscribes()
    server = serve(backplane=backplane, rooms=QUIET)
    server.publish(3)
    client = server.connect("nobody")
    client.send("room.join", room="chat:general", id="join")
    server.call(backplane.subscribed.wait)
    backplane.late_position = late_position
    if late_position:
        server.publish()
        server.call(backplane.hub.lose)
    else:
        server.call(backplane.hub.lose)
        server.publish()
    server.call(backplane.go_on.set)
    client.receive_until("ack", id="join")
    node = server.node
    until(server, lambda: not (node.hub.healing._recoveries or node.states._running))
    rooms = client.request("session.rooms")["data"]["rooms"]
    assert rooms["chat:general"]["position"] == f"{backplane.hub.epoch}:{int(not late_position)}"
