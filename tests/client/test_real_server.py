"""The client and a whole node in one loop, with a proxy in between that cuts links."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from pydantic import SecretStr

from roomwire.auth.jwt import JwtAuthenticator, JwtOptions
from roomwire.auth.origin import OriginPolicy
from roomwire.backplanes.memory import MemoryBackplane
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
from roomwire.node import Node
from roomwire.protocols.native import NativeProtocol
from roomwire.transports.anyio import AnyioTransport
from roomwire.transports.contract import ListenOptions
from tests.client.proxy import Proxy, proxy_to
from tests.client.timing import VirtualTiming
from tests.server.chat import Log, make_app
from tests.server.live import SECRET, make_token

pytestmark = pytest.mark.anyio

ROOMS = {"chat:*": RoomPolicy(presence=True, leave_grace=0.0, history_size=50), "news:*": RoomPolicy(history_size=0)}


class Impatient(VirtualTiming):
    """The jitter makes no wait."""

    def random(self) -> float:
        return 0.0


class Server:
    """A node, and the proxy through which clients reach it."""

    def __init__(self, node: Node, proxy: Proxy, log: Log) -> None:
        self.node = node
        self.proxy = proxy
        self.log = log

    @asynccontextmanager
    async def client(self, user: str = "ann", **options: Any) -> AsyncIterator[Client]:
        options = {"token": lambda: make_token(user), "link_events": True, "timing": Impatient(), **options}
        async with connect(self.proxy.url, **options) as client:
            yield client

    async def publish(self, room: str, data: object) -> None:
        """Publish an event ``told``, from outside of any handler."""
        await self.node.publish(room, "told", data, exclude=None, user=None, history=True, key=None)

    async def break_link(self, client: Client) -> None:
        """Cut it, and wait until it is up again."""
        self.proxy.cut()
        await until(client, Disconnected)
        await until(client, Connected)


@asynccontextmanager
async def serve(**limits: Any) -> AsyncIterator[Server]:
    log = Log()
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
    )
    addresses: list[str] = []
    ready = anyio.Event()

    def started(found: Any) -> None:
        addresses.extend(found)
        ready.set()

    failure: Exception | None = None
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: node.serve(ready=started))
        await ready.wait()
        try:
            async with proxy_to(int(addresses[0].rpartition(":")[2])) as proxy:
                yield Server(node, proxy, log)
        except Exception as error:  # noqa: BLE001  raised below, not wrapped by the group
            failure = error
        await node.drain.run()
    if failure is not None:
        raise failure


async def until(client: Client, kind: type[Item]) -> list[Item]:
    """What comes up to, and with, the first item of a kind."""
    items = [await client.receive()]
    while not isinstance(items[-1], kind):
        items.append(await client.receive())
    return items


async def until_told(client: Client, data: object) -> list[Item]:
    """What comes up to, and with, one event ``told``."""
    items: list[Item] = []
    while not (items and isinstance(items[-1], Event) and (items[-1].name, items[-1].data) == ("told", data)):
        items.append(await client.receive())
    return items


async def next_event(client: Client) -> Event:
    event = (await until(client, Event))[-1]
    assert isinstance(event, Event)
    return event


async def next_reset(client: Client) -> StateReset:
    reset = (await until(client, StateReset))[-1]
    assert isinstance(reset, StateReset)
    return reset


async def test_a_chat() -> None:
    async with serve() as server, server.client() as ann, server.client("bob") as bob:
        news = await until(bob, MembersState)
        assert [type(item) for item in news] == [Connected, Joined, MembersState]
        assert isinstance(news[-1], MembersState)
        assert set(news[-1].members) == {"ann", "bob"}
        room = ann.room("chat:general")
        reply = await room.send("message.send", {"content": "hi"})
        event = await next_event(bob)
        assert (event.name, event.id, event.room) == ("message.new", reply["id"], "chat:general")
        assert event.data == {"from": "ann", "content": "hi"}
        assert await room.send("draw", b"\x00\xff") == 2
        drawn = await next_event(bob)
        assert (drawn.name, drawn.data) == ("drawn", b"\x00\xff")
        assert await room.notify("typing", {})
        typing = await next_event(bob)
        assert (typing.name, typing.id) == ("typing", None)
        assert set(await room.fetch_members()) == {"ann", "bob"}
        with pytest.raises(RequestFailed, match=r"app\.too_late") as caught:
            await room.send("refuse")
        assert caught.value.details == {"since": 3}
        await room.leave()
        with pytest.raises(RequestFailed, match="not_joined"):
            await room.send("message.send", {"content": "hi"})


async def test_what_was_missed_is_replayed() -> None:
    async with serve() as server, server.client() as ann:
        for number in range(20):
            await server.publish("chat:general", [number, "before"])
            if number % 3 == 0:
                server.proxy.cut()
            await server.publish("chat:general", [number, "after"])
        events = [item.data for item in await until_told(ann, [19, "after"]) if isinstance(item, Event)]
        assert events == [[number, when] for number in range(20) for when in ("before", "after")]


async def test_it_is_said_that_nothing_is_missing() -> None:
    async with serve() as server, server.client() as ann:
        await server.break_link(ann)
        assert isinstance(await ann.receive(), Recovered)


async def test_more_than_the_history_holds_is_a_reset() -> None:
    async with serve() as server, server.client() as ann:
        server.log.handled.append(("ann", "kept"))
        await until(ann, MembersState)
        server.proxy.cut()
        for number in range(200):
            await server.publish("chat:general", number)
        reset = await next_reset(ann)
        assert (reset.room, reset.reason, reset.state) == ("chat:general", "too_old", ["kept"])
        await server.publish("chat:general", "later")
        news = [item for item in await until_told(ann, "later") if not isinstance(item, MembersState)]
        assert [type(item) for item in news] == [Event]


async def test_a_room_without_a_history_is_reset() -> None:
    async with serve() as server, server.client() as ann:
        await ann.join("news:x")
        await server.publish("news:x", 1)
        await until_told(ann, 1)
        server.proxy.cut()
        await server.publish("news:x", 2)
        reset = await next_reset(ann)
        assert (reset.room, reset.reason, reset.state) == ("news:x", "no_history", None)
        await server.publish("news:x", 3)
        assert not [item for item in await until_told(ann, 3) if isinstance(item, StateReset)]


async def test_a_state_on_request() -> None:
    async with serve() as server:
        server.log.handled.append(("ann", "before"))
        async with server.client(state=True) as ann:
            general = await next_reset(ann)
            assert (general.room, general.reason, general.state) == ("chat:general", "requested", ["before"])
            await ann.join("chat:b", state=True)
            other = await next_reset(ann)
            assert (other.room, other.reason) == ("chat:b", "requested")


async def test_a_state_in_the_room_already() -> None:
    async with serve() as server, server.client() as ann, server.client("bob") as bob:
        await until(bob, MembersState)
        server.log.handled.append(("ann", "kept"))
        await ann.join("chat:general", state=True)
        reset = await next_reset(ann)
        assert (reset.room, reset.reason, reset.state) == ("chat:general", "requested", ["kept"])
        await server.publish("chat:general", "later")
        assert [type(item) for item in await until_told(bob, "later")] == [Event], "to others it never left"


async def test_a_state_that_a_resume_by_message_cannot_bring() -> None:
    rooms = [f"chat:{number:03}{'r' * 100}" for number in range(60)]
    async with serve() as server, server.client() as ann:
        for room in rooms:
            await ann.join(room)
        release = anyio.Event()

        async def slow(channel: str) -> str:
            await release.wait()
            return channel

        server.log.snapshot = slow
        await ann.join("chat:general", state=True)
        await server.break_link(ann)
        release.set()
        reset = await next_reset(ann)
        assert (reset.room, reset.reason, reset.state) == ("chat:general", "requested", "general")


async def test_a_message_takes_effect_once() -> None:
    """The link breaks while the handler works; the copy gets the first one's reply."""
    async with serve() as server, server.client() as ann, anyio.create_task_group() as group:
        replies: list[object] = []

        async def send() -> None:
            replies.append(await ann.room("chat:general").send("wait"))

        group.start_soon(send)
        while not server.log.handled:
            await anyio.lowlevel.checkpoint()
        await server.break_link(ann)
        server.log.release.set()
    assert replies == ["done"]
    assert server.log.handled == [("ann", "wait")]


async def test_many_rooms_are_resumed_by_a_message() -> None:
    rooms = [f"chat:{number:03}{'r' * 100}" for number in range(60)]
    async with serve() as server, server.client() as ann:
        for room in rooms:
            await ann.join(room)
        await server.break_link(ann)
        await server.publish(rooms[-1], "last")
        items = await until_told(ann, "last")
        assert {item.room for item in items if isinstance(item, Recovered)} == {*rooms, "chat:general"}
        assert not [item for item in items if isinstance(item, StateReset | Removed)]


async def test_a_room_that_is_forbidden_by_now() -> None:
    async with serve() as server, server.client() as ann:
        await ann.join("chat:b")
        server.log.forbidden.add(("ann", "b"))
        server.proxy.cut()
        assert (await until(ann, Removed))[-1] == Removed("chat:b", "forbidden")
        with pytest.raises(RequestFailed, match="forbidden"):
            await ann.join("chat:b")


async def test_a_bad_token_gives_up() -> None:
    async with serve() as server:
        with pytest.raises(ConnectionRefused) as caught:
            async with server.client(token="not.a.token"):
                pytest.fail("that is no token")
        assert (caught.value.status, caught.value.error) == (401, "unauthorized")


async def test_it_takes_its_own_slot_over() -> None:
    async with serve(connections_per_user=1) as server, server.client() as ann:
        for _ in range(3):
            await server.break_link(ann)
        assert ann.connected


async def test_the_application_closes_it_for_good() -> None:
    async with serve() as server, server.client() as ann:
        (connection,) = server.node.connections.values()
        await connection.close(4600, "enough")
        with pytest.raises(ConnectionClosed, match="4600: enough"):
            await until(ann, Removed)


async def test_a_drain_sends_it_away_for_a_while() -> None:
    async with serve() as server, server.client() as ann:
        await until(ann, Connected)
        await server.node.drain.run()
        disconnected = (await until(ann, Disconnected))[-1]
        assert isinstance(disconnected, Disconnected)
        assert disconnected.code == 1012
        assert 0 <= disconnected.retry_in <= 5
