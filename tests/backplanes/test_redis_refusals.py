"""A Redis that is reached and yet refuses: nobody leaves, nothing is left behind, and the reason is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from roomwire.backplanes.contract import Member
from roomwire.backplanes.redis import RedisBackplane, RedisOptions, leases
from roomwire.backplanes.redis.keys import Keys
from roomwire.backplanes.redis.link import ListeningLink, Owner
from roomwire.backplanes.redis.store import Store
from roomwire.core.errors import Unavailable
from roomwire.testing.backplane import Recorder
from tests.backplanes.proxy import proxy_to
from tests.backplanes.redis_support import POLICY, QUICK, Node, client_of, eventually, started
from tests.servers import RedisServer

pytestmark = pytest.mark.anyio

ANN, BOB = Member("ann", "client-1", "connection-1"), Member("bob", "client-2", "connection-2")


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def without_memory(server: RedisServer) -> AsyncIterator[None]:
    with client_of(server) as client:
        client.config_set("maxmemory", 1)
        try:
            yield
        finally:
            client.config_set("maxmemory", 0)


async def turns(condition: Callable[[], bool]) -> None:
    """Wait, turn by turn of the loop, so that nothing else has happened meanwhile."""
    for _ in range(100_000):
        if condition():
            return
        await asyncio.sleep(0)
    pytest.fail("it does not happen")


async def refreshed(node: Node, member: Member) -> bool:
    try:
        await node.backplane.refresh([("r", member)], [])
    except Unavailable:
        return False
    return True


class TestLeases:
    async def test_nobody_leaves_while_no_lease_can_be_refreshed(
        self, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The links are up all the time; it is the store that stores nothing."""
        monkeypatch.setattr(leases, "REFRESH", 0.8)
        monkeypatch.setattr(leases, "_LATE", 0.2)
        async with (
            started(redis_server, name="a", lease=3.0) as node,
            started(redis_server, name="b", prefix=node.prefix, lease=3.0) as other,
        ):
            for each, member in ((node, ANN), (other, BOB)):
                await each.backplane.subscribe("r")
                await each.backplane.enter("r", member)
            with client_of(redis_server) as client:
                assert await other.backplane.members("r") == [ANN, BOB]
                async with without_memory(redis_server):
                    assert not await refreshed(node, ANN)
                    assert not await refreshed(other, BOB)
                    # A moment without memory takes nothing from anybody.
                    assert await other.backplane.members("r") == [ANN, BOB]
                    # They lapse by the server's clock.
                    lease = Keys(node.prefix).leases("r")[0]

                    def lapsed() -> bool:
                        seconds, micros = client.time()
                        return client.zcount(lease, seconds * 1000 + micros // 1000, "+inf") == 0

                    await eventually(lapsed)
                    for each in (node, other):
                        with pytest.raises(Unavailable, match="cannot be refreshed"):
                            await each.backplane.members("r")
            # This node refreshed, and the other one has not yet.
            assert await refreshed(node, ANN)
            with pytest.raises(Unavailable, match="before all nodes"):
                await node.backplane.members("r")
            node.sink.changes.clear()
            assert await refreshed(other, BOB)
            await node.sink.until(lambda: node.sink.changes)  # now it may be read
            assert await refreshed(node, ANN)
            assert await refreshed(other, BOB)
            assert sorted(await node.backplane.members("r")) == [ANN, BOB]


class TestListening:
    async def test_who_gets_no_position_does_not_listen(self, redis_server: RedisServer) -> None:
        async with started(redis_server) as node:
            async with without_memory(redis_server):
                with pytest.raises(Unavailable):
                    await node.backplane.subscribe("new")
            with client_of(redis_server) as client:
                await eventually(lambda: not client.pubsub_channels(f"{node.prefix}c:*"))
            await node.backplane.subscribe("new")
            await node.publish("new", b"1")
            await node.receive("new", b"1")

    async def test_what_is_added_while_it_connects_is_listened_to(self, redis_server: RedisServer) -> None:
        store = Store(RedisOptions.model_validate({"url": redis_server.url}), "test")
        up = asyncio.Event()
        heard: asyncio.Queue[bytes] = asyncio.Queue()

        async def probe() -> None:
            return None

        owner = Owner(lambda channel, data: heard.put_nowait(data), up.set, lambda: None, probe, lambda channel: None)
        link = ListeningLink(lambda: store.dial(None), owner, RedisOptions(), ("SUBSCRIBE", "UNSUBSCRIBE"))
        link.add(b"before")
        link.start()
        try:
            with anyio.fail_after(20):
                await turns(lambda: link._link is not None)
                assert not up.is_set()
                confirmed = link.add(b"meanwhile")
                await up.wait()
                assert await confirmed
            with client_of(redis_server) as client:
                assert client.publish("meanwhile", b"1") == 1
            with anyio.fail_after(20):
                assert await heard.get() == b"1"
        finally:
            await link.aclose()


class TestStart:
    async def test_a_start_that_is_cancelled_leaves_no_task(self, redis_server: RedisServer) -> None:
        before = asyncio.all_tasks()
        async with proxy_to(redis_server.port) as proxy:
            backplane = RedisBackplane(RedisOptions.model_validate({"url": proxy.url, **QUICK}))
            start = asyncio.create_task(backplane.start(Recorder(), "node"))
            # It knows the server, and makes its listening link, which is answered no more.
            await turns(lambda: any("ListeningLink._run" in repr(task) for task in asyncio.all_tasks()))
            proxy.silent = True
            start.cancel()
            await asyncio.wait([start])
            assert start.cancelled()
            proxy.cut()
            await proxy.ended()
        assert asyncio.all_tasks() - before == set()

    async def test_who_may_not_listen_is_told_why(self, redis_server: RedisServer) -> None:
        command: Any = ("ACL SETUSER", "mute", "on", ">p", "~*", "+@all", "resetchannels")
        with client_of(redis_server) as client:
            client.execute_command(*command)  # type: ignore[no-untyped-call]
            try:
                with pytest.raises(Unavailable, match=r"refuses to be listened to.*permission"):
                    async with started(redis_server, username="mute", password="p"):
                        pass
            finally:
                client.execute_command("ACL DELUSER", "mute")  # type: ignore[no-untyped-call]

    async def test_a_publish_that_may_not_be_told_is_stored_once(self, redis_server: RedisServer) -> None:
        command: Any = ("ACL SETUSER", "quiet", "on", ">p", "~*", "+@all", "resetchannels", "&*:n:*")
        with client_of(redis_server) as client:
            client.execute_command(*command)  # type: ignore[no-untyped-call]
            try:
                async with started(redis_server, username="quiet", password="p") as node:
                    with pytest.raises(Unavailable) as caught:
                        await node.backplane.publish("r", b"1", key="k", policy=POLICY)
                    assert caught.value.stored is None
                    assert (await node.backplane.publish("r", b"1", key="k", policy=POLICY)).offset == 1
            finally:
                client.execute_command("ACL DELUSER", "quiet")  # type: ignore[no-untyped-call]
