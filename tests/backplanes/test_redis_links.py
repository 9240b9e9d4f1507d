"""Links that break, stop, fall silent or are flooded: found in time, told, healed, and nothing doubled."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

import anyio
import anyio.lowlevel
import pytest

from roomwire.backplanes.contract import Member
from roomwire.backplanes.redis import RedisBackplane, RedisOptions, feed, wire
from roomwire.backplanes.redis.keys import Keys
from roomwire.core.errors import LocalError, Unavailable
from roomwire.core.positions import Position
from roomwire.testing.backplane import Recorder
from tests.backplanes.proxy import proxy_to
from tests.backplanes.redis_support import POLICY, QUICK, Node, client_of, started
from tests.servers import RedisServer, free_port

pytestmark = pytest.mark.anyio

ANN = Member("ann", "client-1", "connection-1")
LIMIT = 20.0
"""Seconds for what would else take for ever."""


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


def went(*ups: bool) -> Callable[[Node], bool]:
    return lambda node: node.sink.availability[-len(ups) :] == list(ups)


async def until(node: Node, condition: Callable[[Node], object]) -> None:
    await node.sink.until(lambda: condition(node))


class TestTheListeningLink:
    async def test_a_stopped_server_is_found_and_publishes_end_in_time(self, redis_server: RedisServer) -> None:
        async with started(redis_server, **QUICK) as node:
            await node.backplane.subscribe("r")
            await node.publish("r", b"before")
            redis_server.pause()
            with anyio.fail_after(LIMIT), pytest.raises(Unavailable) as caught:
                await node.backplane.publish("r", b"unknown", key="k", policy=POLICY)
            assert caught.value.stored is None
            await until(node, went(True, False))
            with anyio.fail_after(LIMIT), pytest.raises(Unavailable):
                await node.backplane.publish("r", b"refused", key=None, policy=POLICY)
            with anyio.fail_after(LIMIT), pytest.raises(Unavailable):
                await node.backplane.subscribe("s")
            redis_server.resume()
            await until(node, went(False, True))
            assert node.sink.interruptions == [None]
            position = await node.backplane.publish("r", b"unknown", key="k", policy=POLICY)
            # It lay in the server's socket while that was stopped, and took effect once.
            page = await node.backplane.history("r", Position(position.epoch, 0), 10)
            assert [entry.body for entry in page.entries].count(b"unknown") == 1
            await node.publish("r", b"heard")
            await node.sink.until(lambda: node.sink.bodies("r")[-1:] == [b"heard"])

    async def test_a_stopped_server_is_found_though_nobody_publishes(self, redis_server: RedisServer) -> None:
        async with started(redis_server, **QUICK) as node:
            redis_server.pause()
            await until(node, went(True, False))
            redis_server.resume()
            await until(node, went(False, True))

    async def test_a_silent_link_is_found_and_a_quiet_one_is_left_alone(self, redis_server: RedisServer) -> None:
        async with proxy_to(redis_server.port) as proxy, started(proxy.url, **QUICK) as node:
            await node.backplane.subscribe("r")
            with client_of(redis_server) as client:
                channel = Keys(node.prefix).node("node").decode()
                probed = client.pubsub()  # type: ignore[no-untyped-call]  # redis-py has no type for it
                probed.subscribe(channel)
                # Three probes are heard by another listener, and nothing came of them.
                wanted = [{"type": "subscribe"}, *[{"type": "message"}] * 3]
                for want in wanted:
                    message = await anyio.to_thread.run_sync(lambda: probed.get_message(timeout=LIMIT))
                    assert message["type"] == want["type"]
                probed.close()
            assert node.sink.availability == [True]
            proxy.silent = True
            await until(node, went(True, False))
            proxy.silent = False
            await until(node, went(False, True))
            assert node.sink.interruptions == [None]

    async def test_a_node_that_stood_still_does_not_take_its_link_for_silent(self, redis_server: RedisServer) -> None:
        async with started(redis_server, **QUICK) as node:
            (link,) = node.backplane._feed._links.values()
            await node.publish("r", b"opens the link that probes are sent by")
            with anyio.fail_after(LIMIT):
                while link._sound is None:  # noqa: ASYNC110  in the very turn in which one is sent
                    await asyncio.sleep(0)
                probed = link._sound
                time.sleep(1.2 * QUICK["probe_timeout"])  # noqa: ASYNC251  the loop does stand still
                await probed
            with anyio.fail_after(LIMIT):
                while link._sound in (None, probed):  # noqa: ASYNC110  up to the next one
                    await asyncio.sleep(0)
            assert node.sink.availability == [True]

    async def test_a_killed_link_heals_and_every_room_is_in_doubt(self, redis_server: RedisServer) -> None:
        async with started(redis_server) as node:
            rooms = [f"r{i}" for i in range(5)]
            for room in rooms:
                await node.backplane.subscribe(room)
            for time in range(1, 4):
                with client_of(redis_server) as client:
                    client.client_kill_filter(_type="pubsub")
                await node.sink.until(lambda time=time: len(node.sink.interruptions) == time)  # type: ignore[misc]
                for room in rooms:
                    await node.publish(room, b"%d" % time)
                for room in rooms:
                    await node.sink.until(lambda room=room, time=time: len(node.sink.of(room)) == time)  # type: ignore[misc]
            assert node.sink.availability == [True, *[False, True] * 3]

    async def test_a_killed_server_comes_back_empty(self, redis_server: RedisServer) -> None:
        async with started(redis_server, **QUICK) as node:
            await node.backplane.subscribe("r")
            last = await node.backplane.publish("r", b"lost", key=None, policy=POLICY)
            redis_server.kill()
            await until(node, went(True, False))
            await anyio.to_thread.run_sync(redis_server.restart)
            await until(node, went(False, True))
            assert (await node.backplane.history("r", last, 10)).reason == "epoch"
            await node.publish("r", b"new")
            await node.sink.until(lambda: node.sink.bodies("r")[-1:] == [b"new"])

    async def test_subscribes_of_a_moment_are_few_commands(self, redis_server: RedisServer) -> None:
        def calls() -> int:
            with client_of(redis_server) as client:
                stats = client.info("commandstats")
                return int(stats.get("cmdstat_subscribe", {"calls": 0})["calls"])

        async with started(redis_server) as node:
            before = calls()
            async with anyio.create_task_group() as group:
                for i in range(600):
                    group.start_soon(node.backplane.subscribe, f"r{i}")
            assert calls() - before == 2
            with client_of(redis_server) as client:
                assert len(client.pubsub_channels(f"{node.prefix}c:*")) == 600
                await node.backplane.unsubscribe("r7")
                await node.backplane.subscribe("r8")
                await node.backplane.subscribe("r7")
                client.client_kill_filter(_type="pubsub")
                await until(node, went(False, True))
                assert len(client.pubsub_channels(f"{node.prefix}c:*")) == 600

    async def test_a_cancelled_subscribe_does_not_listen(self, redis_server: RedisServer) -> None:
        async with started(redis_server) as node:
            with anyio.move_on_after(0) as scope:
                await node.backplane.subscribe("r")
            assert scope.cancelled_caught
            await node.backplane.subscribe("fence")
            with client_of(redis_server) as client:
                assert client.pubsub_channels(f"{node.prefix}c:*") == [Keys(node.prefix).channel("fence")]
            await node.backplane.subscribe("r")
            await node.publish("r", b"heard")
            await node.receive("r", b"heard")

    async def test_a_node_that_cannot_keep_up_says_of_which_rooms(
        self, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(feed, "INBOX_MESSAGES", 50)
        monkeypatch.setattr(feed, "_TURN", 1)  # it is slower than any server
        async with started(redis_server) as node, started(redis_server, prefix=node.prefix, name="other") as other:
            start = await node.backplane.subscribe("flooded")
            await node.backplane.subscribe("calm")
            async with anyio.create_task_group() as group:
                for i in range(2000):
                    group.start_soon(other.publish, "flooded", b"%d" % i)
            await node.sink.until(lambda: node.sink.interruptions)
            assert all(rooms == {"flooded"} for rooms in node.sink.interruptions)
            assert node.sink.availability == [True]
            top = (await node.backplane.positions(["flooded"]))["flooded"]
            assert top.offset == start.offset + 2000
            await other.publish("calm", b"heard")
            await node.receive("calm", b"heard")

    async def test_what_cannot_be_read_is_dropped_counted_and_said_once(
        self, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with started(redis_server) as node:
            await node.backplane.subscribe("r")
            keys = Keys(node.prefix)
            with client_of(redis_server) as client:
                for data in (
                    b"",
                    b"\x02e1|1|later version",
                    b"\x01x",
                    b"\x01e",
                    b"\x01ea|b|c",
                    b"\x01e\xff|1|x",
                    b"{}",
                ):
                    client.publish(keys.channel("r").decode(), data)
                client.publish(keys.nodes().decode(), b"\x02t")
                client.publish(keys.nodes().decode(), b"\x01e1|1|not for a node")
            await node.publish("r", b"heard")
            await node.receive("r", b"heard")
            assert node.sink.control == []
            assert node.backplane.dropped == 8
            assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 1


class TestCommands:
    async def test_a_publish_whose_reply_is_lost_takes_effect_once(self, redis_server: RedisServer) -> None:
        async with proxy_to(redis_server.port) as proxy, started(proxy.url, **QUICK) as node:
            start = await node.backplane.subscribe("r")
            await node.publish("another room", b"opens a link")
            stored: list[bool | None] = []

            async def publish(number: int) -> None:
                try:
                    await node.backplane.publish("r", b"%d" % number, key=f"k{number}", policy=POLICY)
                except Unavailable as error:
                    stored.append(error.stored)

            async def publish_all() -> None:
                async with anyio.create_task_group() as group:
                    for number in range(10):
                        group.start_soon(publish, number)

            proxy.silent = True
            await publish_all()
            assert stored == [None] * 10
            proxy.silent = False
            await until(node, went(False, True))
            await publish_all()
            assert stored == [None] * 10
            page = await node.backplane.history("r", start, 100)
            assert sorted(entry.body for entry in page.entries) == [b"%d" % number for number in range(10)]

    async def test_a_node_that_stood_still_reads_its_replies_first(self, redis_server: RedisServer) -> None:
        async with started(redis_server, **QUICK) as node:
            await node.publish("r", b"1")
            publishing = asyncio.create_task(node.backplane.publish("r", b"2", key=None, policy=POLICY))
            await asyncio.sleep(0)  # it is sent
            time.sleep(1.2 * QUICK["command_timeout"])  # noqa: ASYNC251  the loop does stand still
            assert (await publishing).offset == 2

    async def test_a_cancelled_publish_leaves_no_reply_to_another(self, redis_server: RedisServer) -> None:
        async with started(redis_server) as node:
            for i in range(50):
                async with anyio.create_task_group() as group:
                    group.start_soon(node.publish, "cancelled", b"")
                    await asyncio.sleep(0)
                    await asyncio.sleep(0)
                    group.cancel_scope.cancel()
                assert (await node.backplane.publish("r", b"", key=None, policy=POLICY)).offset == i + 1
            assert (await node.backplane.positions(["cancelled"]))["cancelled"].offset > 0
            with client_of(redis_server) as client:
                mine = [one for one in client.client_list() if one["name"] == "roomwire:node"]
            assert len(mine) <= 3

    async def test_what_waits_for_a_slow_server_has_a_bound(
        self, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(wire, "MAX_PENDING", 10_000)
        async with started(redis_server, **QUICK) as node:
            await node.publish("r", b"1")
            redis_server.pause()
            outcomes: list[bool | None] = []

            async def publish() -> None:
                try:
                    await node.publish("r", b"x" * 1000)
                except Unavailable as error:
                    outcomes.append(error.stored)

            async with anyio.create_task_group() as group:
                for _ in range(50):
                    group.start_soon(publish)
            redis_server.resume()
            assert outcomes.count(False) > 30
            assert outcomes.count(None) >= 5

    async def test_it_opens_no_more_links_than_it_may(self, redis_server: RedisServer) -> None:
        async with started(redis_server, max_connections=2) as node:
            async with anyio.create_task_group() as group:
                for i in range(100):
                    group.start_soon(node.publish, f"r{i}", b"")
                    group.start_soon(node.backplane.members, f"r{i}")
            with client_of(redis_server) as client:
                assert len([one for one in client.client_list() if one["name"] == "roomwire:node"]) == 2


async def members_when_readable(node: Node) -> list[Member]:
    """Who is there, as a node learns it that refreshes its lease and looks again after each hint."""
    while True:
        hints = len(node.sink.changes)
        await node.backplane.refresh([("r", ANN)], [])
        try:
            return await node.backplane.members("r")
        except Unavailable:
            await node.sink.until(lambda hints=hints: len(node.sink.changes) > hints)  # type: ignore[misc]


class TestLeasesAfterAnOutage:
    async def test_a_room_that_was_lost_is_not_read_before_it_was_refreshed(self, redis_server: RedisServer) -> None:
        async with started(redis_server, lease=1.0) as node:
            await node.backplane.subscribe("r")
            await node.backplane.enter("r", ANN)
            await node.sink.until(lambda: node.sink.changes)
            with client_of(redis_server) as client:
                client.flushall()
            node.sink.changes.clear()
            with pytest.raises(Unavailable):
                await node.backplane.members("r")
            assert await members_when_readable(node) == [ANN]

    async def test_what_lapsed_in_an_outage_is_not_swept_before_a_refresh(self, redis_server: RedisServer) -> None:
        async with proxy_to(redis_server.port) as proxy, started(proxy.url, lease=1.0, **QUICK) as node:
            await node.backplane.subscribe("r")
            await node.backplane.enter("r", ANN)
            proxy.refuses = True
            proxy.cut()
            await until(node, went(True, False))
            await anyio.sleep(1.1)  # so that the lease lapses
            proxy.refuses = False
            await until(node, went(False, True))
            with pytest.raises(Unavailable):
                await node.backplane.members("r")
            assert await members_when_readable(node) == [ANN]


class TestStart:
    async def test_one_that_cannot_be_reached_says_which_key(self) -> None:
        backplane = RedisBackplane(RedisOptions.model_validate({"url": f"redis://127.0.0.1:{free_port()}"}))
        with pytest.raises(Unavailable, match=r"backplane\.options\.url"):
            await backplane.start(Recorder(), "node")
        await backplane.aclose()
        with pytest.raises(Unavailable):
            await backplane.publish("r", b"", key=None, policy=POLICY)

    async def test_it_is_started_once(self, redis_server: RedisServer) -> None:
        async with started(redis_server) as node:
            with pytest.raises(LocalError, match="once"):
                await node.backplane.start(Recorder(), "again")

    async def test_it_ends_while_the_server_is_stopped(self, redis_server: RedisServer) -> None:
        async with started(redis_server, **QUICK) as node:
            redis_server.pause()
            with anyio.fail_after(LIMIT):
                async with anyio.create_task_group() as group:
                    group.start_soon(swallowed, node)
                    await anyio.lowlevel.checkpoint()
                    await anyio.lowlevel.checkpoint()
                    await node.backplane.aclose()


async def swallowed(node: Node) -> None:
    with pytest.raises(Unavailable):
        await node.publish("r", b"")


def test_on_trio_it_says_so(redis_server: RedisServer) -> None:
    async def main() -> None:
        await RedisBackplane(RedisOptions.model_validate({"url": redis_server.url})).start(Recorder(), "node")

    with pytest.raises(LocalError, match="trio"):
        anyio.run(main, backend="trio")


@pytest.mark.parametrize("use_uvloop", [False, True])
def test_what_is_written_to_a_link_that_was_just_closed_was_not_sent(
    redis_server: RedisServer, use_uvloop: bool
) -> None:
    async def main() -> None:
        async with started(redis_server) as node:
            await node.publish("r", b"1")
            store = node.backplane._store
            assert store is not None
            link = store._wire(None, read=False)._link
            assert link is not None
            link.abort()  # the reader has not heard of it when the next one writes
            with pytest.raises(Unavailable) as caught:
                await node.publish("r", b"refused")
            assert caught.value.stored is False
            position = await node.backplane.publish("r", b"2", key=None, policy=POLICY)
            assert position.offset == 2

    anyio.run(main, backend_options={"use_uvloop": use_uvloop})
