"""The client and a whole server, with a proxy in between that cuts links."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from roomwire.client import (
    Client,
    Connected,
    ConnectionClosed,
    ConnectionRefused,
    Disconnected,
    Event,
    Item,
    Joined,
    MembersState,
    Recovered,
    Removed,
    RequestFailed,
    StateReset,
    connect,
)
from roomwire.core.limits import Limits
from roomwire.core.policy import RoomPolicy
from tests.client.proxy import Proxy, proxy_to
from tests.client.timing import VirtualTiming
from tests.server.chat import Log, make_app
from tests.server.live import SECRET, make_token

pytestmark = pytest.mark.anyio

ROOMS = {"chat:*": RoomPolicy(presence=True, leave_grace=0.0, history_size=50), "news:*": RoomPolicy(history_size=0)}


class Impatient(VirtualTiming):
    """No jitter makes a client wait."""

    def random(self) -> float:
        return 0.0


@pytest.fixture
def log() -> Log:
    return Log()


@asynccontextmanager
async def serve(log: Log, **limits: Any) -> AsyncIterator[Node]:
    """A node in the test's own loop; `node.port` is that of a proxy to it."""
    node = Node(
        make_app(log),
        backplane=MemoryBackplane(),
        authenticator=JwtAuthenticator(JwtOptions(algorithms=["HS256"], secret=SecretStr(SECRET))),
        origin=OriginPolicy(()),
        transport=AnyioTransport(ListenOptions(port=0)),
        protocols=[NativeProtocol()],
        name="node-1",
        limits=Limits(**limits),
        rooms=ROOMS,
        drain_timeout=5.0,
    )


@asynccontextmanager
async def client_of(proxy: Proxy, user: str = "ann", **options: Any) -> AsyncIterator[Client]:
    options = {"token": lambda: make_token(user), "link_events": True, "timing": Impatient(), **options}
    async with connect(proxy.url, **options) as client:
        yield client


def publish(server: LiveServer, room: str, data: object) -> None:
    """Publish an event ``told``, from outside of any handler."""
    server.call(server.node.publish, room, "told", data, exclude=None, user=None, history=True, key=None)


async def until(client: Client, kind: type[Item]) -> list[Item]:
    items = [await client.receive()]
    while not isinstance(items[-1], kind):
        items.append(await client.receive())
    return items


async def until_event(client: Client, name: str, data: object) -> list[Item]:
    """What comes up to one event, the news of presence apart."""
    items: list[Item] = []
    while not (items and isinstance(items[-1], Event) and (items[-1].name, items[-1].data) == (name, data)):
        item = await client.receive()
        if not type(item).__name__.startswith("Member"):
            items.append(item)
    return items


async def break_link(proxy: Proxy, client: Client) -> None:
    proxy.cut()
    await until(client, Disconnected)
    await until(client, Connected)


async def test_a_chat(server: LiveServer) -> None:
    async with proxy_to(server.port) as proxy, client_of(proxy) as ann, client_of(proxy, "bob") as bob:
        assert await until(bob, MembersState) == [
            Connected(next_session(server, "bob"), "bob"),
            Joined("chat:general"),
            MembersState("chat:general", {"ann": None, "bob": None}),
        ]
        room = ann.room("chat:general")
        reply = await room.send("message.send", {"content": "hi"})
        (event,) = await until(bob, Event)
        assert isinstance(event, Event)
        assert (event.data, event.id) == ({"from": "ann", "content": "hi"}, reply["id"])
        assert await room.send("draw", b"\x00\xff") == 2
        (drawn,) = await until(bob, Event)
        assert isinstance(drawn, Event)
        assert (drawn.name, drawn.data) == ("drawn", b"\x00\xff")
        await room.notify("typing", {})
        (typing,) = await until(bob, Event)
        assert isinstance(typing, Event)
        assert (typing.name, typing.id) == ("typing", None)
        assert await room.fetch_members() == {"ann": None, "bob": None}
        with pytest.raises(RequestFailed, match=r"app\.too_late") as caught:
            await ann.send("refuse")
        assert caught.value.details == {"since": 3}
        await room.leave()
        with pytest.raises(RequestFailed, match="not_joined"):
            await room.send("message.send", {"content": "hi"})


def next_session(server: LiveServer, user: str) -> str:
    """The name of the only connection of a user."""
    (name,) = [c.id for c in server.call(lambda: list(server.node.connections.values())) if c.user == user]
    return str(name)


async def test_what_was_missed_is_replayed(server: LiveServer) -> None:
    async with proxy_to(server.port) as proxy, client_of(proxy) as ann:
        for number in range(20):
            publish(server, "chat:general", [number, 0])
            if number % 3 == 0:
                proxy.cut()
            publish(server, "chat:general", [number, 1])
        events = [item.data for item in await until_event(ann, "told", [19, 1]) if isinstance(item, Event)]
        assert events == [[number, half] for number in range(20) for half in range(2)]


async def test_it_is_said_that_it_is_proven(server: LiveServer) -> None:
    async with proxy_to(server.port) as proxy, client_of(proxy) as ann:
        await break_link(proxy, ann)
        assert isinstance(await ann.receive(), Recovered)


async def test_a_room_without_a_history_is_reset(server: LiveServer) -> None:
    async with proxy_to(server.port) as proxy, client_of(proxy) as ann:
        await ann.join("news:x")
        publish(server, "news:x", 1)
        await until_event(ann, "told", 1)
        proxy.cut()
        publish(server, "news:x", 2)
        (reset,) = await until_resets(ann, 1)
        assert (reset.room, reset.reason, reset.state) == ("news:x", "no_history", None)
        publish(server, "news:x", 3)
        assert not [item for item in await until_event(ann, "told", 3) if isinstance(item, StateReset)]


async def until_resets(client: Client, count: int) -> list[StateReset]:
    resets: list[StateReset] = []
    while len(resets) < count:
        item = await client.receive()
        if isinstance(item, StateReset):
            resets.append(item)
    return resets


async def test_more_than_the_history_holds_is_a_reset(server: LiveServer, log: Log) -> None:
    log.handled.append(("ann", "kept"))
    async with proxy_to(server.port) as proxy, client_of(proxy) as ann:
        await until(ann, Connected)
        proxy.cut()
        for number in range(60):
            publish(server, "chat:general", number)
        (reset,) = await until_resets(ann, 1)
        assert (reset.room, reset.reason, reset.state) == ("chat:general", "too_old", ["kept"])
        publish(server, "chat:general", "after")
        assert [item for item in await until_event(ann, "told", "after") if isinstance(item, Event)] == [
            Event("told", "after", "chat:general", str(ann.room("chat:general").position))
        ]


async def test_a_state_on_request(server: LiveServer, log: Log) -> None:
    log.handled.append(("ann", "before"))
    async with proxy_to(server.port) as proxy, client_of(proxy, state=True) as ann:
        (general,) = await until_resets(ann, 1)
        assert (general.room, general.reason, general.state) == ("chat:general", "requested", ["before"])
        await ann.join("chat:b", state=True)
        (other,) = await until_resets(ann, 1)
        assert (other.room, other.reason) == ("chat:b", "requested")


async def test_a_message_takes_effect_once(server: LiveServer, log: Log) -> None:
    """The link breaks while the handler works; the copy gets the first one's reply."""
    async with proxy_to(server.port) as proxy, client_of(proxy) as ann, anyio.create_task_group() as group:
        replies: list[object] = []

        async def send() -> None:
            replies.append(await ann.room("chat:general").send("wait"))

        group.start_soon(send)
        while not log.handled:
            await anyio.lowlevel.checkpoint()
        await break_link(proxy, ann)
        server.call(log.release.set)
    assert replies == ["done"]
    assert log.handled == [("ann", "wait")]


async def test_many_rooms_are_resumed_by_a_message(server: LiveServer) -> None:
    rooms = [f"chat:{number:03}{'r' * 100}" for number in range(60)]
    async with proxy_to(server.port) as proxy, client_of(proxy) as ann:
        for room in rooms:
            await ann.join(room)
        await break_link(proxy, ann)
        publish(server, rooms[-1], "last")
        items = await until_event(ann, "told", "last")
        assert {item.room for item in items if isinstance(item, Recovered)} == {*rooms, "chat:general"}
        assert not [item for item in items if isinstance(item, StateReset | Removed)]


async def test_a_room_that_is_forbidden_by_now(server: LiveServer, log: Log) -> None:
    async with proxy_to(server.port) as proxy, client_of(proxy) as ann:
        await ann.join("chat:b")
        log.forbidden.add(("ann", "b"))
        proxy.cut()
        assert (await until(ann, Removed))[-1] == Removed("chat:b", "forbidden")
        with pytest.raises(RequestFailed, match="forbidden"):
            await ann.join("chat:b")


async def test_a_bad_token_gives_up(server: LiveServer) -> None:
    async with proxy_to(server.port) as proxy:
        with pytest.raises(ConnectionRefused) as caught:
            async with client_of(proxy, token="not.a.token"):
                pytest.fail("that is no token")
        assert (caught.value.status, caught.value.error) == (401, "unauthorized")


async def test_it_takes_its_own_slot_over() -> None:
    with live_server(make_app(), rooms=ROOMS, limits=Limits(connections_per_user=1)) as server:
        async with proxy_to(server.port) as proxy, client_of(proxy) as ann:
            for _ in range(3):
                await break_link(proxy, ann)
            assert ann.connected


async def test_the_application_removes_it(server: LiveServer) -> None:
    async with proxy_to(server.port) as proxy, client_of(proxy) as ann:
        (connection,) = server.call(lambda: list(server.node.connections.values()))
        server.call(connection.close, 4600, "enough")
        with pytest.raises(ConnectionClosed, match="4600: enough"):
            await until(ann, Removed)
