"""Rooms that conflate or have `latest`, on two nodes over each store: what comes, and what is resumed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count
from typing import Any

import anyio.from_thread
import pytest

from roomwire.backplanes.contract import Backplane
from roomwire.backplanes.memory import MemoryBackplane, MemoryHub
from roomwire.backplanes.nats import NatsBackplane
from roomwire.backplanes.redis import RedisBackplane, RedisOptions
from roomwire.core.policy import RoomPolicy
from roomwire.core.publication import Publication
from roomwire.protocols.native import NativeProtocol
from tests.backplanes.on_nats import NatsFaults, options_of
from tests.server.chat import make_app
from tests.server.live import Client, LiveServer, make_node, serving
from tests.server.test_resume import query

ROOMS = {
    # A burst is over long before ten intervals are, however slow the store is.
    "chat:fast*": RoomPolicy(conflate_rate=4, conflate_key="k", history_size=200),
    "chat:last*": RoomPolicy(conflate_key="k", latest=True, history_size=20),
}
_numbers = count()


@pytest.fixture(scope="module", params=["memory", "redis", "nats"])
def nodes(request: pytest.FixtureRequest) -> Iterator[list[LiveServer]]:
    prefix = f"dashboards{next(_numbers)}"
    backplanes: list[Backplane]
    with ExitStack() as stack:
        portal = stack.enter_context(anyio.from_thread.start_blocking_portal("asyncio"))
        if request.param == "memory":
            hub = MemoryHub()
            backplanes = [MemoryBackplane(hub=hub) for _ in range(2)]
        elif request.param == "redis":
            url = request.getfixturevalue("redis_session").url
            options = RedisOptions.model_validate({"url": url, "key_prefix": f"{prefix}:"})
            backplanes = [RedisBackplane(options) for _ in range(2)]
        else:
            server = request.getfixturevalue("nats_session")
            stack.callback(lambda: portal.call(NatsFaults(server, prefix).lose))
            backplanes = [NatsBackplane(options_of(server.port, prefix, storage="file")) for _ in range(2)]
        servers = []
        for number, backplane in enumerate(backplanes):
            node = make_node(make_app(), backplane=backplane, name=f"node-{number}", rooms=ROOMS)
            servers.append(stack.enter_context(serving(node, portal)))
        yield servers


@pytest.fixture
def room(request: pytest.FixtureRequest) -> str:
    return f"-{next(_numbers)}"


def publish(server: LiveServer, room: str, values: list[tuple[str, int]]) -> list[str]:
    """Publish in one turn of the loop where the store allows it; returns the ids."""

    async def run() -> list[str]:
        return [(await server.node.app.publish(room, "told", {"k": k, "v": v})).id or "" for k, v in values]

    ids: list[str] = server.act(run)
    return ids


def watch(server: LiveServer, room: str, user: str, search: str = "") -> tuple[Client, dict[str, Any]]:
    client = server.connect(user, query=search)
    if search:
        return client, client.welcome["rooms"][room]
    reply = client.request("room.join", room=room)
    assert reply["event"] == "ack", reply
    return client, reply["data"]


def offset(id_: str) -> int:
    return int(id_.partition(":")[2])


def told_until(client: Client, id_: str) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    while not events or events[-1]["id"] != id_:
        message = client.receive()
        if message["event"] == "told":
            events.append(message)
    return events


def test_of_a_burst_come_the_first_and_the_last_of_each_key(nodes: list[LiveServer], room: str) -> None:
    one, two = nodes
    room = f"chat:fast{room}"
    clients = [watch(server, room, user)[0] for server, user in ((one, "ann"), (two, "bob"), (two, "eve"))]
    ids = publish(one, room, [("ab"[n % 2], n) for n in range(100)])
    for client in clients:
        events = told_until(client, ids[-1])
        assert len(events) < 50
        offsets = [offset(event["id"]) for event in events]
        assert offsets == sorted(set(offsets))
        assert all(event["data"]["v"] == ids.index(event["id"]) for event in events)
        assert {event["data"]["k"]: event["data"]["v"] for event in events} == {"a": 98, "b": 99}
        client.close()


def test_who_comes_back_gets_the_newest_of_each_key(nodes: list[LiveServer], room: str) -> None:
    one, two = nodes
    room = f"chat:fast{room}"
    client, _ = watch(one, room, "ann")
    (first,) = publish(one, room, [("a", 0)])
    assert [event["id"] for event in told_until(client, first)] == [first]
    client.close()
    ids = publish(one, room, [("a", 1), ("b", 2), ("a", 3), ("c", 4), ("b", 5)])
    again, status = watch(two, room, "ann", query({room: first}))
    assert (status["recovered"], status["position"]) == (True, ids[-1])
    assert [event["id"] for event in told_until(again, ids[-1])] == [ids[2], ids[3], ids[4]]
    assert again.request("session.rooms")["data"]["rooms"][room]["position"] == ids[-1]
    again.close()


def test_who_joins_has_the_newest_of_each_key_at_once(nodes: list[LiveServer], room: str) -> None:
    one, two = nodes
    other, room = f"chat:last-other{room}", f"chat:last{room}"
    # The history has the last 20, and somebody else's events lie between them.
    ids: list[str] = []
    for n in range(30):
        ids += publish(one, room, [("gone" if n == 3 else "abc"[n % 3], n)])
        publish(one, other, [("a", n)])
    client, status = watch(two, room, "bob")
    assert offset(status["position"]) == offset(ids[27]) - 1
    assert status["recovered"] is None
    assert [event["id"] for event in told_until(client, ids[-1])] == ids[-3:]
    (last,) = publish(one, room, [("a", 100)])
    assert [event["id"] for event in told_until(client, last)] == [last]
    # The next one has what came meanwhile too, and in its order.
    second, status = watch(two, room, "eve")
    assert [event["id"] for event in told_until(second, last)] == [ids[28], ids[29], last]
    assert second.request("session.rooms")["data"]["rooms"][room]["position"] == last
    for each in (client, second):
        each.close()


def test_joins_of_many_cost_one_encode(nodes: list[LiveServer], room: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one = nodes[0]
    room = f"chat:last{room}"
    ids = publish(one, room, [("abc"[n % 3], n) for n in range(9)])
    encoded: list[str | None] = []
    broadcast = NativeProtocol.broadcast

    def counting(protocol: NativeProtocol, publication: Publication) -> str | bytes:
        encoded.append(publication.id)
        return broadcast(protocol, publication)

    monkeypatch.setattr(NativeProtocol, "broadcast", counting)
    clients = [watch(one, room, f"user-{number}")[0] for number in range(20)]
    for client in clients:
        assert [event["id"] for event in told_until(client, ids[-1])] == ids[-3:]
    assert sorted(filter(None, encoded)) == sorted(ids[-3:])
    for client in clients:
        client.close()


def test_a_state_that_is_asked_for_takes_the_place(nodes: list[LiveServer], room: str) -> None:
    one = nodes[0]
    room = f"chat:last{room}"
    ids = publish(one, room, [("a", 1), ("b", 2)])
    client = one.connect("ann")
    reply = client.request("room.join", {"state": True}, room=room)
    assert reply["data"]["position"] == ids[-1]
    state = client.receive()
    assert (state["event"], state["id"]) == ("room.state", ids[-1])
    assert [m["event"] for m in client.events_before("whoami")] == []
    client.close()
