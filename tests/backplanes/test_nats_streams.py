"""Streams and buckets as NATS keeps them: policies that must agree, windows, bodies of others, leases that end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from roomwire.backplanes.contract import HistoryPolicy, Holder, Member, PolicyAware
from roomwire.backplanes.nats import NatsBackplane, kv
from roomwire.core.errors import ConfigError, LocalError, Unavailable
from roomwire.core.positions import Position
from tests.backplanes.on_nats import NatsSpace, admin, nats_space, started
from tests.backplanes.redis_support import eventually
from tests.servers import NatsServer

POLICY = HistoryPolicy(size=10, ttl=600.0)

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def space(nats_server: NatsServer) -> AsyncIterator[NatsSpace]:
    async with nats_space(nats_server) as space:
        yield space


def configured(backplane: NatsBackplane, policy: HistoryPolicy = POLICY) -> NatsBackplane:
    assert isinstance(backplane, PolicyAware)
    backplane.configure({"": policy}, lambda room: policy)
    return backplane


class TestPolicies:
    async def test_the_streams_of_all_policies_are_there_after_the_start(self, space: NatsSpace) -> None:
        async with started(configured(await space.make()), "a"):
            names = await space.faults.streams()
        p = space.prefix
        assert sorted(names) == [f"KV_{p}_leases", f"KV_{p}_replies", f"{p}_10x600000_0", f"{p}_10x600000_1"]
        found = (await admin(space.server.port, f"STREAM.INFO.{p}_10x600000_0"))["config"]
        assert (found["max_msgs_per_subject"], found["max_age"], found["duplicate_window"]) == (
            11,
            600 * 10**9,
            300 * 10**9,
        )
        assert found["republish"] == {"src": f"{p}.in.10x600000.0.*", "dest": f"{p}.live.{{{{wildcard(1)}}}}"}
        assert (found["discard"], found["allow_direct"], found["max_bytes"]) == ("old", True, -1)

    @pytest.mark.parametrize(
        ("key", "value", "says"),
        [("max_age", 60 * 10**9, "max_age is 60000000000"), ("allow_direct", False, "allow_direct")],
    )
    async def test_another_stream_of_that_name_refuses_the_start(
        self, space: NatsSpace, key: str, value: object, says: str
    ) -> None:
        async with started(configured(await space.make()), "a"):
            pass
        name = f"{space.prefix}_10x600000_1"
        config = (await admin(space.server.port, f"STREAM.INFO.{name}"))["config"]
        answer = await admin(
            space.server.port, f"STREAM.UPDATE.{name}", {**config, "duplicate_window": 10**9, key: value}
        )
        assert "error" not in answer
        late = configured(await space.make())
        with pytest.raises(ConfigError, match=rf"the stream {name} is not as this node needs it: .*{says}"):
            async with started(late, "b"):
                pass

    async def test_nodes_must_agree_on_the_number_of_partitions(self, space: NatsSpace) -> None:
        async with started(configured(await space.make(partitions=2)), "a"):
            with pytest.raises(ConfigError, match=r"metadata is .*'2'.* and not .*'4'"):
                async with started(configured(await space.make(partitions=4)), "b"):
                    pass

    async def test_another_owner_of_the_subjects_refuses_the_start(self, space: NatsSpace) -> None:
        config = {"name": f"{space.prefix}_theirs", "subjects": [f"{space.prefix}.in.>"], "storage": "memory"}
        assert "error" not in await admin(space.server.port, f"STREAM.CREATE.{config['name']}", config)
        with pytest.raises(ConfigError, match="belong to another stream"):
            async with started(configured(await space.make()), "a"):
                pass

    async def test_an_event_kept_by_another_policy_is_counted_and_not_delivered(self, space: NatsSpace) -> None:
        one, other = configured(await space.make()), await space.make()  # a publisher, which was told nothing else
        async with started(one, "a") as sink, started(other, "b"):
            await one.subscribe("r")
            await other.publish("r", b"theirs", key=None, policy=HistoryPolicy(99, 60.0))
            await one.publish("r", b"ours", key=None, policy=POLICY)
            await sink.until(lambda: sink.of("r"))
            # They come by way of two streams, either of which may be the slower one.
            await eventually(lambda: one._rooms.foreign == 1)
            assert sink.bodies("r") == [b"ours"]

    async def test_a_node_that_keeps_rooms_otherwise_than_those_alive_does_not_start(self, space: NatsSpace) -> None:
        changed = HistoryPolicy(20, 600.0)
        says = (
            r"rooms: the node a keeps \[10, 600.0\] \(history_size, history_ttl\) of rooms without a pattern,"
            r" and this one \[20, 600.0\]"
        )
        async with started(configured(await space.make()), "a"), started(configured(await space.make()), "b"):
            with pytest.raises(ConfigError, match=says):
                async with started(configured(await space.make(), changed), "c"):
                    pass
        async with started(configured(await space.make(), changed), "c"):
            pass  # the others have gone

    async def test_the_policies_of_a_node_that_died_are_forgotten(self, space: NatsSpace) -> None:
        dead = configured(await space.make(lease=0.3))
        async with started(dead, "a"):
            await space.faults.cut(dead)
            async with asyncio.timeout(30):
                while True:
                    try:
                        async with started(configured(await space.make(), HistoryPolicy(20, 600.0)), "c"):
                            break
                    except ConfigError:
                        continue


class TestPositions:
    async def test_a_silent_room_stays_where_it_is_while_others_move_its_stream(self, space: NatsSpace) -> None:
        backplane = configured(await space.make(partitions=1))
        async with started(backplane, "a"):
            start = await backplane.subscribe("silent")
            for _ in range(5):
                top = await backplane.publish("busy", b"", key=None, policy=POLICY)
            assert (await backplane.positions(["silent", "unheard"])) == {"silent": start, "unheard": top}
            assert (await backplane.history("silent", start, 10)).top == top
            assert (await backplane.positions(["silent"]))["silent"] == top

    async def test_what_was_not_heard_is_found(self, space: NatsSpace) -> None:
        """The link lost an event without a word: as the subscription is gone on the server alone."""
        backplane, other = configured(await space.make()), configured(await space.make())
        async with started(backplane, "a") as sink, started(other, "b"):
            start = await backplane.subscribe("r")
            heard = backplane._rooms.heard["r"]
            backplane._link.unlisten(heard.listening)
            for _ in range(2):
                assert (await backplane.positions(["r"]))["r"] == start
            missed = await other.publish("r", b"missed", key=None, policy=POLICY)
            for _ in range(2):
                assert (await backplane.positions(["r"]))["r"] == missed
            assert [entry.body for entry in (await backplane.history("r", start, 10)).entries] == [b"missed"]
            assert (await backplane.positions(["r"]))["r"] == missed
            assert sink.of("r") == []

    async def test_pages_among_other_rooms(self, space: NatsSpace) -> None:
        backplane = configured(await space.make(partitions=1))
        async with started(backplane, "a"):
            since = start = await backplane.subscribe("r")
            for i in range(9):
                for room in ("r", "other"):
                    await backplane.publish(room, b"%d" % i, key=None, policy=POLICY)
            found: list[bytes] = []
            while (page := await backplane.history("r", since, 4)).entries:
                assert page.reason is None
                found += [entry.body for entry in page.entries]
                since = Position(page.top.epoch, page.entries[-1].offset)
            assert found == [b"%d" % i for i in range(9)]
            for i in range(9, 12):
                await backplane.publish("r", b"%d" % i, key=None, policy=POLICY)
            assert (await backplane.history("r", start, 100)).reason == "too_old"
            assert len((await backplane.history("r", since, 100)).entries) == 3


class TestWindows:
    @pytest.mark.parametrize(("policy", "window"), [(HistoryPolicy(10, 0.5), 5.0), (POLICY, 400.0)])
    async def test_a_window_that_is_not_the_streams(
        self, space: NatsSpace, policy: HistoryPolicy, window: float
    ) -> None:
        """Also where the stream has forgotten the event by then."""
        backplane, other = await space.make(), await space.make()
        async with started(backplane, "a"), started(other, "b"):
            first = await backplane.publish("r", b"1", key="k", policy=policy, window=window)
            await asyncio.sleep(policy.ttl * 2 if policy.ttl < 1 else 0)
            assert await other.publish("r", b"1", key="k", policy=policy, window=window) == first
            assert (await other.publish("r", b"2", key="l", policy=policy, window=window)).offset == first.offset + 1

    async def test_a_copy_finds_what_was_stored_by_a_node_that_died_before_it_noted_it(self, space: NatsSpace) -> None:
        backplane, other = await space.make(), await space.make()
        async with started(backplane, "a"), started(other, "b"):
            message, _, known = await backplane._keys.id("r", "k", 60.0)
            assert known is None
            first, _ = await backplane._rooms.publish("r", b"1", id=message, policy=POLICY)
            assert await other.publish("r", b"1", key="k", policy=POLICY, window=60.0) == first


class TestBodies:
    async def test_bodies_of_another_version_are_dropped_and_counted(
        self, space: NatsSpace, caplog: pytest.LogCaptureFixture
    ) -> None:
        backplane = configured(await space.make())
        async with started(backplane, "a") as sink:
            start = await backplane.subscribe("r")
            before = await backplane.publish("r", b"before", key=None, policy=POLICY)
            subjects = backplane._subjects
            stored = subjects.stored(POLICY, subjects.partition("r"), "r")
            await backplane._js.put(stored, b"\x09\x00newer", {})
            for body in (b"", b"\x01", b"\x02\x01", b"\x01\xff", b"\x80\x04pickle"):
                backplane._link.tell(subjects.live("r"), body)
                backplane._link.tell(subjects.tell_all, body)
            after = await backplane.publish("r", b"after", key=None, policy=POLICY)
            await sink.until(lambda: b"after" in sink.bodies("r"))
            assert sink.bodies("r") == [b"before", b"after"]
            assert sink.of("r")[1].previous == before.offset + 1  # so that the hole is seen, and the history read
            page = await backplane.history("r", start, 10)
            assert ([entry.body for entry in page.entries], page.top) == ([b"before", b"after"], after)
            assert (sink.ephemerals, sink.control) == ([], [])
            assert backplane.bodies.dropped >= 11
        assert len([r for r in caplog.records if "unknown version" in r.message]) == 1


class TestLeases:
    async def test_the_server_deletes_what_has_ended(self, space: NatsSpace, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(kv, "SLACK", 0)
        backplane = await space.make(lease=1.0)
        async with started(backplane, "a"):
            member, holder = Member("ann", "c", "1"), Holder("c", "1", "a")
            await backplane.enter("r", member)
            await backplane.claim("ann", holder, 5, evict=False)
            await backplane.reserve("k", "p", 1.0)
            await backplane.enter("s", member)
            await backplane.leave("s", member, 0)  # what is taken away leaves a mark, which ends as well
            left = 4
            async with asyncio.timeout(30):
                while left:
                    infos = [
                        await admin(space.server.port, f"STREAM.INFO.KV_{space.prefix}_{name}")
                        for name in ("leases", "replies")
                    ]
                    left = sum(info["state"]["messages"] for info in infos)

    async def test_leases_of_an_outage_hold_until_their_nodes_had_time_to_refresh_them(self, space: NatsSpace) -> None:
        backplane, other = await space.make(lease=0.6), await space.make(lease=0.6)
        async with started(backplane, "a") as sink, started(other, "b") as others:
            await backplane.enter("r", Member("ann", "c", "1"))
            await backplane.enter("r", Member("bob", "d", "2"))
            await backplane.leave("r", Member("bob", "d", "2"), 0)
            for one in (backplane, other):
                await space.faults.cut(one)
            for heard in (sink, others):
                await heard.until(lambda heard=heard: heard.availability[-1] is False)  # type: ignore[misc]
            await asyncio.sleep(0.8)
            for one in (backplane, other):
                await space.faults.heal(one)
            await others.until(lambda: others.availability[-1])
            assert await other.members("r") == [Member("ann", "c", "1")]

    async def test_claims_of_two_nodes_conflict_and_none_is_lost(self, space: NatsSpace) -> None:
        """Fifty at once, with releases in between: never more than five, and at the end exactly five."""
        nodes = [await space.make(), await space.make()]
        async with started(nodes[0], "a"), started(nodes[1], "b"):
            held = 0

            async def connect(number: int) -> None:
                nonlocal held
                holder = Holder(f"c{number}", f"n{number}", "x")
                if (await nodes[number % 2].claim("ann", holder, 5, evict=False)).granted:
                    held += 1
                    assert held <= 5
                    if number < 25:
                        held -= 1
                        await nodes[number % 2].release("ann", holder)

            await asyncio.gather(*(connect(number) for number in range(50)))
            for number in range(50, 60):
                await connect(number)
            item = await nodes[0]._buckets[0].read(nodes[0]._subjects.slots("ann"))
            assert item.value is not None
            assert len(json.loads(item.value)) == held == 5

    async def test_a_bucket_that_was_made_anew_wrongly_ends_no_node(self, space: NatsSpace) -> None:
        backplane = await space.make()
        async with started(backplane, "a"):
            await space.faults.lose()
            name = f"KV_{space.prefix}_leases"
            config = {"name": name, "subjects": [f"$KV.{space.prefix}_leases.>"], "storage": "memory"}
            assert "error" not in await admin(space.server.port, f"STREAM.CREATE.{name}", config)
            with pytest.raises(Unavailable, match="is not as this node needs it"):
                await backplane.refresh([("r", Member("ann", "c", "1"))], [])

    async def test_a_bucket_of_another_kind_refuses_the_start(self, space: NatsSpace) -> None:
        name = f"KV_{space.prefix}_leases"
        config = {"name": name, "subjects": [f"$KV.{space.prefix}_leases.>"], "storage": "memory"}
        assert "error" not in await admin(space.server.port, f"STREAM.CREATE.{name}", config)
        with pytest.raises(ConfigError, match=f"the bucket {name} is not as this node needs it: .*allow_msg_ttl"):
            async with started(await space.make(), "a"):
                pass


class TestSizes:
    async def test_what_the_server_would_refuse_is_not_sent(self, space: NatsSpace) -> None:
        """The server counts the headers as well, and would end the link."""
        backplane = configured(await space.make())
        async with started(backplane, "a"):
            with pytest.raises(Unavailable, match="max_payload, 1048576") as caught:
                await backplane.publish("r", bytes(1_048_576 - 50), key="k", policy=POLICY)
            assert caught.value.stored is False
            await backplane.publish("r", bytes(1_048_576 - 500), key="k", policy=POLICY)
            assert backplane._link.connects == 1


class TestStarting:
    async def test_it_is_started_once(self, space: NatsSpace) -> None:
        backplane = await space.make()
        async with started(backplane, "a"):
            with pytest.raises(LocalError, match="once"):
                await backplane.start(None, "a")  # type: ignore[arg-type]

    async def test_nobody_answers(self, space: NatsSpace) -> None:
        backplane = await space.make(start_timeout=0.3)
        await space.faults.cut(backplane)
        with pytest.raises(Unavailable, match=r"no NATS server answers: 127\.0\.0\.1: "):
            async with started(backplane, "a"):
                pass
