"""The scripts on both versions of Redis: what a position is worth, and that nothing is ever half-done."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anyio
import pytest

from roomwire.backplanes.contract import HistoryPolicy, Holder, Member
from roomwire.backplanes.redis.keys import Keys
from roomwire.core.errors import Unavailable
from tests.backplanes.redis_support import POLICY, client_of, started
from tests.servers import OldestRedisServer, RedisServer

pytestmark = pytest.mark.anyio

ANN = Member("ann", "client-1", "connection-1", b'{"name":"Ann"}')


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module", params=[OldestRedisServer, RedisServer], ids=["oldest", "newer"])
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    # With a log of all writes: what a restart keeps is not lost for want of it.
    directory = tmp_path_factory.mktemp("redis")
    with request.param(directory, "--appendonly", "yes", "--appendfsync", "always") as server:
        yield server


@pytest.fixture
def server(shared: RedisServer) -> Iterator[RedisServer]:
    yield shared
    shared.heal()


async def test_a_restart_that_kept_everything_is_another_epoch_all_the_same(server: RedisServer) -> None:
    async with started(server) as node:
        last = await node.backplane.publish("r", b"kept", key="k", policy=POLICY)
        await anyio.to_thread.run_sync(server.restart)
        await node.sink.until(lambda: node.sink.availability[-2:] == [False, True])
        with client_of(server) as client:
            assert client.hget(Keys(node.prefix).stream("r")[0], "offset") == b"1"
        # The first look is a resume, in the quiet after it: no publish has noticed anything yet.
        page = await node.backplane.history("r", last, 10)
        assert (page.reason, page.top.offset) == ("epoch", 0)
        assert (await node.backplane.positions(["r"]))["r"] == page.top
        assert (await node.backplane.publish("r", b"new", key=None, policy=POLICY)).offset == 1
        # What took effect does so once, whatever became of its event.
        assert await node.backplane.publish("r", b"kept", key="k", policy=POLICY) == last


async def test_out_of_memory_is_refused_and_changes_nothing(server: RedisServer) -> None:
    async with started(server) as node:
        start = await node.backplane.subscribe("r")
        first = await node.backplane.publish("r", b"first", key=None, policy=POLICY)
        with client_of(server) as client:
            client.config_set("maxmemory", 1)
            try:
                for room in ("r", "never seen"):
                    with pytest.raises(Unavailable) as caught:
                        await node.backplane.publish(room, b"refused", key="k", policy=POLICY)
                    assert caught.value.stored is False
                page = await node.backplane.history("r", start, 10)
                assert (page.top, [entry.body for entry in page.entries]) == (first, [b"first"])
                for refused in (
                    node.backplane.enter("r", ANN),
                    node.backplane.claim("ann", Holder("c", "k", "n"), 1, evict=False),
                    node.backplane.reserve("k", "f", 30.0),
                ):
                    with pytest.raises(Unavailable) as caught:
                        await refused
                    assert caught.value.stored is False
                assert not client.exists(Keys(node.prefix).published("r", "k"))
            finally:
                client.config_set("maxmemory", 0)
        second = await node.backplane.publish("r", b"second", key="k", policy=POLICY)
        assert (second.epoch, second.offset) == (first.epoch, 2)
        await node.receive("r", b"first", b"second")
        assert await node.backplane.members("r") == []


async def test_keys_that_were_evicted_prove_nothing(server: RedisServer) -> None:
    async with started(server) as node:
        start = await node.backplane.subscribe("r")
        last = await node.backplane.publish("r", b"1", key=None, policy=POLICY)
        meta, history = Keys(node.prefix).stream("r")
        with client_of(server) as client:
            client.delete(history)
            assert (await node.backplane.history("r", start, 10)).reason == "too_old"
            assert (await node.backplane.history("r", last, 10)).reason is None
            client.delete(meta)
        assert (await node.backplane.history("r", last, 10)).reason == "epoch"


async def test_old_entries_go_eight_at_a_time(server: RedisServer) -> None:
    minute = HistoryPolicy(size=100, ttl=60.0)
    async with started(server) as node:
        start = await node.backplane.subscribe("r")
        await node.publish("r", *(b"%d" % i for i in range(20)), policy=minute)
        _, history = Keys(node.prefix).stream("r")
        with client_of(server) as client:
            entries: Any = client.zrange(history, 0, -1, withscores=True)
            client.zremrangebyrank(history, 0, -1)
            for member, score in entries:
                offset, stored, body = member.split(b":", 2)
                client.zadd(history, {b"%s:%d:%s" % (offset, int(stored) - 120_000, body): score})
            await node.publish("r", b"new", policy=minute)
            assert client.zcard(history) == 13
            await node.publish("r", b"new", b"new", policy=minute)
            assert client.zcard(history) == 3
        assert (await node.backplane.history("r", start, 100)).reason == "too_old"


async def test_numbering_outlives_the_history_and_rooms_without_events_soon_leave_no_trace(server: RedisServer) -> None:
    async with started(server) as node:
        await node.backplane.positions(["silent", "busy"])
        await node.publish("busy", b"", policy=HistoryPolicy(size=10, ttl=3 * 86_400.0))
        keys = Keys(node.prefix)
        with client_of(server) as client:
            left = {room: [int(client.ttl(key)) for key in keys.stream(room)] for room in ("silent", "busy")}
        assert left["silent"][0] <= 3600
        assert left["busy"][0] > left["busy"][1] > 2 * 86_400


async def test_a_room_that_keeps_nothing_any_more_says_so(server: RedisServer) -> None:
    async with started(server) as node:
        start = await node.backplane.subscribe("r")
        await node.publish("r", b"kept")
        await node.publish("r", b"not kept", policy=HistoryPolicy(size=0, ttl=60.0))
        assert (await node.backplane.history("r", start, 10)).reason == "no_history"
        with client_of(server) as client:
            assert not client.exists(Keys(node.prefix).stream("r")[1])


async def test_a_server_that_has_forgotten_the_scripts_is_told_them(server: RedisServer) -> None:
    async with started(server) as node:
        await node.publish("r", b"1")
        with client_of(server) as client:
            client.script_flush()
        assert (await node.backplane.publish("r", b"2", key=None, policy=POLICY)).offset == 2
        with client_of(server) as client:
            client.script_flush()
        assert len(await node.backplane.positions([f"r{i}" for i in range(250)])) == 250


async def test_a_replica_refuses_and_stores_nothing(server: RedisServer) -> None:
    async with started(server) as node:
        last = await node.backplane.publish("r", b"1", key=None, policy=POLICY)
        with client_of(server) as client:
            client.replicaof("127.0.0.1", "1")
            try:
                with pytest.raises(Unavailable) as caught:
                    await node.backplane.publish("r", b"2", key=None, policy=POLICY)
                assert caught.value.stored is False
            finally:
                client.replicaof("NO", "ONE")
        assert (await node.backplane.publish("r", b"2", key=None, policy=POLICY)).offset == last.offset + 1


@pytest.mark.parametrize("member", [b"2:1:moved", b"garbage", b""])
async def test_what_another_wrote_into_a_history_is_not_replayed(server: RedisServer, member: bytes) -> None:
    async with started(server) as node:
        start = await node.backplane.subscribe("r")
        await node.publish("r", b"1")
        with client_of(server) as client:
            history = Keys(node.prefix).stream("r")[1]
            client.delete(history)
            entries: dict[Any, float] = {member: 1.0}
            client.zadd(history, entries)
        try:
            page = await node.backplane.history("r", start, 10)
        except Unavailable:
            return
        assert page.reason == "too_old"


async def test_leases_and_slots(server: RedisServer) -> None:
    async with started(server, lease=1.5) as node:
        backplane = node.backplane
        await backplane.subscribe("r")
        bob = Member("bob", "client-2", "connection-2")
        for member in (ANN, bob):
            await backplane.enter("r", member)
        assert await backplane.members("r") == [ANN, bob]
        assert await backplane.rooms_of("ann") == ["r"]
        await backplane.leave("r", bob, 0)
        holder = Holder("c", "k", "n")
        assert (await backplane.claim("ann", holder, 1, evict=False)).granted
        assert not (await backplane.claim("ann", Holder("d", "l", "n"), 1, evict=False)).granted
        assert await backplane.refresh([("r", ANN)], [("ann", holder)], limit=1) == []
        await anyio.sleep(1.6)
        node.sink.changes.clear()
        assert await backplane.members("r") == []
        await node.sink.until(lambda: node.sink.changes == ["r"])
        assert await backplane.rooms_of("ann") == []
        assert (await backplane.claim("ann", Holder("d", "l", "n"), 1, evict=False)).granted
        (lost,) = await backplane.refresh([], [("ann", holder)], limit=1)
        assert (lost.holder, lost.replaced) == (holder, False)
