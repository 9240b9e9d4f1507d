"""A state that a live member asked for: it replaces what the member knew, and what is beyond it follows once more."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from roomwire.core.policy import RoomPolicy
from roomwire.core.positions import Position
from tests.server.chat import Log, make_app
from tests.server.conftest import Serve
from tests.server.live import UNHURRIED, Client, Shell
from tests.server.test_resume import lose
from tests.server.watching import until

pytestmark = pytest.mark.wire


class Slow:
    """A snapshot that is made while the test does something else."""

    def __init__(self, log: Log) -> None:
        self.begun, self.go_on = anyio.Event(), anyio.Event()
        log.snapshot = self

    async def __call__(self, channel: str) -> list[Any]:
        rows: list[Any] = []  # read from the database before whatever comes now
        self.begun.set()
        await self.go_on.wait()
        return rows


def ask(client: Client) -> None:
    assert client.request("room.join", {"state": True}, room="chat:general")["event"] == "ack"


def offset(event_id: str) -> int:
    return Position.parse(event_id).offset


def in_room(client: Client) -> list[dict[str, Any]]:
    """What came about the room and has an id, up to now."""
    return [message for message in client.events_before("session.rooms") if message.get("room") and "id" in message]


def test_what_comes_while_a_requested_state_is_made_follows_on_it(shell: Shell, serve: Serve) -> None:
    """`room.state` replaces what the client knew, its position too: what is beyond it has to come after it."""
    log = Log()
    server = serve(shell, app=make_app(log))
    client = server.connect()
    slow = Slow(log)
    ask(client)
    server.call(slow.begun.wait)
    (event,) = server.publish(data="meanwhile")
    client.receive_until("told", id=event)
    server.call(slow.go_on.set)
    state = client.receive_until("room.state", room="chat:general")
    assert state["data"] == {"reason": "requested", "state": []}
    assert offset(state["id"]) < offset(event)
    assert [message["id"] for message in in_room(client)] == [event]


@pytest.mark.parametrize("history_size", [1000, 0])
@pytest.mark.parametrize("count", [1, 200])
def test_what_the_ring_does_not_prove_was_kept_for_it(serve: Serve, history_size: int, count: int) -> None:
    log = Log()
    server = serve(app=make_app(log), rooms={"chat:*": RoomPolicy(history_size=history_size)}, limits=UNHURRIED)
    client = server.connect()
    slow = Slow(log)
    ask(client)
    server.call(slow.begun.wait)
    meanwhile = server.publish(count)
    client.receive_until("told", id=meanwhile[-1])
    server.call(slow.go_on.set)
    client.receive_until("room.state")
    after = server.publish(2)
    assert [message["id"] for message in in_room(client)] == meanwhile + after


def test_what_follows_does_not_come_to_who_is_excluded_from_it(serve: Serve) -> None:
    log = Log()
    server = serve(app=make_app(log))
    ann, bob = server.connect("ann"), server.connect("bob")
    slow = Slow(log)
    ask(ann)
    ask(bob)
    server.call(slow.begun.wait)
    sent = bob.request("message.send", {"content": "hi"}, room="chat:general")["data"]["id"]
    server.call(slow.go_on.set)
    for client in (ann, bob):
        client.receive_until("room.state")
    assert [message["id"] for message in in_room(ann)] == [sent]
    assert in_room(bob) == []


def test_a_state_in_the_middle_of_a_fan_out_doubles_nothing(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last member is not served yet when it gets the state: what is on its way is not for it any more."""
    monkeypatch.setattr("roomwire.node.hub.WRITES_PER_TURN", 1)
    log = Log()
    server = serve(app=make_app(log), rooms={"chat:*": RoomPolicy()}, limits=UNHURRIED)
    clients = [server.connect(f"user-{number}") for number in range(40)]
    last = clients[-1]
    slow = Slow(log)
    ask(last)
    server.call(slow.begun.wait)

    async def all_at_once() -> list[str]:
        slow.go_on.set()
        return [(await server.node.app.publish("chat:general", "told")).id or "" for _ in range(3)]

    ids = server.act(all_at_once)
    for client in clients[:-1]:
        assert [client.receive_until("told")["id"] for _ in ids] == ids
    until(server, lambda: not server.node.hub._dirty)
    assert [offset(message["id"]) for message in in_room(last)] == [0, 1, 2, 3]


def test_who_asks_again_while_it_is_made_gets_it_once(serve: Serve) -> None:
    log = Log()
    server = serve(app=make_app(log))
    client = server.connect()
    slow = Slow(log)
    ask(client)
    ask(client)
    server.call(slow.begun.wait)
    server.call(slow.go_on.set)
    client.receive_until("room.state")
    ids = server.publish()
    assert [message["id"] for message in in_room(client)] == ids
    assert log.snapshots == 1
    ask(client)
    assert client.receive_until("room.state")["id"] == ids[-1]


def test_who_leaves_while_it_is_made_gets_none(serve: Serve) -> None:
    log = Log()
    server = serve(app=make_app(log))
    client = server.connect()
    slow = Slow(log)
    ask(client)
    server.call(slow.begun.wait)
    room = server.node.hub.rooms["chat:general"]
    assert room.buffering
    client.request("room.leave", room="chat:general")
    assert not room.buffering
    server.call(slow.go_on.set)
    until(server, lambda: not server.node.states._running)
    assert in_room(client) == []


def test_where_the_room_is_reset_meanwhile_the_state_of_the_reset_is_enough(serve: Serve) -> None:
    log = Log()
    server = serve(app=make_app(log))
    client = server.connect()
    slow = Slow(log)
    ask(client)
    server.call(slow.begun.wait)
    lose(server)
    until(server, lambda: server.node.hub.rooms["chat:general"].frozen)
    server.call(slow.go_on.set)
    assert client.receive_until("room.state")["data"]["reason"] == "epoch"
    ids = server.publish()
    assert [message["id"] for message in in_room(client)] == ids
    room = server.node.hub.rooms["chat:general"]
    assert not room.buffering
    assert next(iter(room.live)).replay is None


def test_more_than_can_be_kept_makes_it_once_more_and_then_gives_up(serve: Serve) -> None:
    log = Log()
    server = serve(app=make_app(log), limits=UNHURRIED)
    client = server.connect()

    async def flooding(channel: str) -> None:
        for number in range(300):
            await server.node.app.publish("chat:general", "told", number)

    log.snapshot = flooding
    ask(client)
    assert client.receive_until("session.closing")["data"]["code"] == 4005
    assert log.snapshots == 2
