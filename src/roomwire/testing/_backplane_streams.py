"""The backplane suite: numbering, order, history, subscriptions, names and bodies."""

from __future__ import annotations

from itertools import pairwise

import anyio
import pytest
from anyio.lowlevel import checkpoint

from roomwire.backplanes.contract import HistoryPolicy
from roomwire.core.errors import Unavailable
from roomwire.core.positions import Position
from roomwire.testing._backplane_base import POLICY, Advance, Base, Delivery, MakeBackplane, Node, require, running

__all__ = ["HOSTILE_NAMES", "Histories", "Streams"]

HOSTILE_NAMES = [
    "*",
    ">",
    "a",
    "A",
    "a.b",
    "a.*",
    "a:b",
    "a b",
    "{x}",
    "{x}y",
    "x",
    "a|b",
    "a\r\nPUB b 0",
    "a\x00b",
    "%2A",
    "YQ",  # what base64url makes of "a"
    "-",
    "_",
    "\u00e9",
    "e\u0301",  # the same letter in another normalisation form
    "\U0001f600",
    "ü" * 64,
    "n" * 127 + "1",
    "n" * 127 + "2",
]
"""Names that must not be mistaken for each other, nor for anything that a store knows."""

HOSTILE_BODIES = [
    b"",
    b"\x00",
    b"\r\n",
    b"a|b|c",
    b"1:2:3",
    bytes(range(256)),
    "\u2028{}[]\"'".encode(),
    b"\xff\xfe",
    b"x" * 131_072,
]


def chain(deliveries: list[Delivery]) -> None:
    """Each delivery follows on the one before it."""
    for earlier, later in pairwise(deliveries):
        assert later.epoch == earlier.epoch
        assert later.previous == earlier.offset < later.offset


@pytest.mark.anyio
class Streams(Base):
    """Publishing and delivery."""

    async def test_a_publication_is_delivered_with_its_position(self, node: Node) -> None:
        start = await node.backplane.subscribe("r")
        position = await node.backplane.publish("r", b"one", key=None, policy=POLICY)
        (delivery,) = await node.receive("r", 1)
        assert position == (delivery.epoch, delivery.offset)
        assert position.epoch == start.epoch
        assert delivery.previous <= start.offset < delivery.offset
        assert delivery.body == b"one"

    async def test_offsets_grow_and_name_the_one_before(self, node: Node) -> None:
        await node.backplane.subscribe("r")
        positions = [await node.backplane.publish("r", b"%d" % i, key=None, policy=POLICY) for i in range(20)]
        deliveries = await node.receive("r", 20)
        assert [Position(d.epoch, d.offset) for d in deliveries] == positions
        assert [d.body for d in deliveries] == [b"%d" % i for i in range(20)]
        chain(deliveries)

    async def test_all_subscribed_nodes_get_the_same(self, node: Node, other: Node) -> None:
        for one in (node, other):
            await one.backplane.subscribe("r")
        await node.publish("r", b"1")
        await other.publish("r", b"2")
        for one in (node, other):
            await one.receive("r", 2)
        assert node.sink.of("r") == other.sink.of("r")
        assert node.sink.bodies("r") == [b"1", b"2"]

    async def test_racing_publishers_share_one_order(self, node: Node, other: Node) -> None:
        start = await node.backplane.subscribe("r")
        await other.backplane.subscribe("r")
        positions: list[Position] = []

        async def publish(one: Node, body: bytes) -> None:
            positions.append(await one.backplane.publish("r", body, key=None, policy=POLICY))

        async with anyio.create_task_group() as group:
            for i in range(40):
                group.start_soon(publish, (node, other)[i % 2], b"%d" % i)
        for one in (node, other):
            await one.receive("r", 40)
        assert len(set(positions)) == 40
        ordered = sorted(node.sink.of("r"), key=lambda delivery: delivery.offset)
        assert {(d.epoch, d.offset) for d in ordered} == set(positions)
        chain(ordered)
        assert sorted(other.sink.of("r"), key=lambda delivery: delivery.offset) == ordered
        page = await other.backplane.history("r", start, 100)
        assert [(e.offset, e.body) for e in page.entries] == [(d.offset, d.body) for d in ordered]

    async def test_a_key_takes_effect_once(self, node: Node, other: Node) -> None:
        start = await node.backplane.subscribe("r")
        first = await node.backplane.publish("r", b"first", key="k", policy=POLICY)
        assert await node.backplane.publish("r", b"second", key="k", policy=POLICY) == first
        assert await other.backplane.publish("r", b"third", key="k", policy=POLICY) == first
        await node.fence(other, "fence")
        assert node.sink.bodies("r") == [b"first"]
        assert [entry.body for entry in (await node.backplane.history("r", start, 10)).entries] == [b"first"]

    async def test_racing_publishes_of_one_key_take_effect_once(self, node: Node, other: Node) -> None:
        start = await node.backplane.subscribe("r")
        positions: list[Position] = []

        async def publish(one: Node) -> None:
            positions.append(await one.backplane.publish("r", b"body", key="k", policy=POLICY))

        async with anyio.create_task_group() as group:
            for i in range(20):
                group.start_soon(publish, (node, other)[i % 2])
        assert len(positions) == 20
        assert len(set(positions)) == 1
        assert len((await node.backplane.history("r", start, 10)).entries) == 1

    async def test_keys_differ_by_room_and_by_every_byte(self, node: Node) -> None:
        start = await node.backplane.subscribe("r")
        await node.backplane.subscribe("s")
        for key in ("k", "K", "k ", "k|", "k\r\n", "*", None, None):
            await node.backplane.publish("r", b"same", key=key, policy=POLICY)
        await node.backplane.publish("s", b"other room", key="k", policy=POLICY)
        assert len((await node.backplane.history("r", start, 100)).entries) == 8
        await node.sink.until(lambda: node.sink.of("s"))

    async def test_a_key_is_forgotten_after_the_window(self, node: Node, advance: Advance) -> None:
        if self.idempotency_window is None:
            pytest.skip("the window is too long to wait for")
        window = self.idempotency_window
        first = await node.backplane.publish("r", b"", key="k", policy=POLICY, window=window)
        await advance(window * 0.3)
        assert await node.backplane.publish("r", b"", key="k", policy=POLICY, window=window) == first
        await advance(window * 0.9)  # a copy does not make it last longer
        assert (await node.backplane.publish("r", b"", key="k", policy=POLICY, window=window)).offset > first.offset

    async def test_ephemeral_events_have_no_number(self, node: Node, other: Node) -> None:
        for one in (node, other):
            await one.backplane.subscribe("r")
        await node.publish("r", b"stored")
        before = (await node.backplane.positions(["r"]))["r"]
        await node.backplane.publish_ephemeral("r", b"typing")
        for one in (node, other):
            await one.receive_ephemeral(1)
            assert one.sink.ephemerals == [("r", b"typing")]
        assert (await node.backplane.positions(["r"]))["r"] == before
        assert (await node.backplane.history("r", before, 10)).entries in ([], ())

    async def test_what_follows_on_subscribe_is_delivered(self, node: Node, other: Node) -> None:
        for i in range(20):
            room = f"r{i}"
            position = await node.backplane.subscribe(room)
            await other.publish(room, b"after")
            (delivery,) = await node.receive(room, 1)
            assert delivery.body == b"after"
            assert delivery.offset > position.offset

    async def test_nothing_falls_between_position_and_delivery(self, node: Node, other: Node) -> None:
        start = (await node.backplane.positions(["r"]))["r"]
        positions: list[Position] = []
        async with anyio.create_task_group() as group:
            group.start_soon(other.publish, "r", *(b"%d" % i for i in range(50)))
            await checkpoint()
            positions.append(await node.backplane.subscribe("r"))
            group.start_soon(other.publish, "r", b"last")
        (position,) = positions
        page = await node.backplane.history("r", start, 100)
        wanted = {entry.offset for entry in page.entries if entry.offset > position.offset}
        assert wanted
        await node.sink.until(lambda: wanted <= {delivery.offset for delivery in node.sink.of("r")})

    async def test_unsubscribe_ends_delivery_on_this_node_alone(self, node: Node, other: Node) -> None:
        for one in (node, other):
            await one.backplane.subscribe("r")
        await node.backplane.unsubscribe("r")
        await node.fence(other, "fence-1")
        await other.publish("r", b"1")
        await node.fence(other, "fence-2")
        await other.sink.until(lambda: other.sink.of("r"))
        assert node.sink.of("r") == []
        await node.backplane.subscribe("r")
        await other.publish("r", b"2")
        await node.sink.until(lambda: node.sink.bodies("r") == [b"2"])

    async def test_rooms_are_independent(self, node: Node) -> None:
        await node.backplane.subscribe("r")
        await node.publish("s", b"unheard")
        await node.backplane.publish_ephemeral("s", b"unheard")
        await node.publish("r", b"heard")
        await node.sink.until(lambda: node.sink.of("r"))
        assert [delivery.room for delivery in node.sink.deliveries] == ["r"]
        assert node.sink.ephemerals == []

    async def test_hostile_names_are_names(self, node: Node, other: Node) -> None:
        starts = {name: await node.backplane.subscribe(name) for name in HOSTILE_NAMES}
        for name in HOSTILE_NAMES:
            await other.publish(name, name.encode())
            await other.backplane.publish_ephemeral(name, name.encode())
        await node.sink.until(lambda: len(node.sink.deliveries) + len(node.sink.ephemerals) == 2 * len(HOSTILE_NAMES))
        assert {d.room: d.body for d in node.sink.deliveries} == {name: name.encode() for name in HOSTILE_NAMES}
        assert dict(node.sink.ephemerals) == {name: name.encode() for name in HOSTILE_NAMES}
        tops = await node.backplane.positions(HOSTILE_NAMES)
        assert list(tops) == HOSTILE_NAMES
        for name in HOSTILE_NAMES:
            page = await node.backplane.history(name, starts[name], 10)
            assert [entry.body for entry in page.entries] == [name.encode()]
            assert page.top == tops[name]

    async def test_bodies_are_bytes(self, node: Node) -> None:
        start = await node.backplane.subscribe("r")
        await node.publish("r", *HOSTILE_BODIES)
        await node.sink.until(lambda: len(node.sink.of("r")) == len(HOSTILE_BODIES))
        assert node.sink.bodies("r") == HOSTILE_BODIES
        page = await node.backplane.history("r", start, 100)
        assert [entry.body for entry in page.entries] == HOSTILE_BODIES

    async def test_equal_bodies_stay_two_events(self, node: Node) -> None:
        start = await node.backplane.subscribe("r")
        await node.publish("r", b"same", b"same")
        assert [entry.body for entry in (await node.backplane.history("r", start, 10)).entries] == [b"same", b"same"]

    async def test_a_closed_backplane_says_so(self, node: Node, other: Node) -> None:
        await other.backplane.subscribe("r")
        await node.backplane.aclose()
        with pytest.raises(Unavailable) as caught:
            await node.backplane.publish("r", b"", key=None, policy=POLICY)
        assert caught.value.stored is False
        await node.backplane.aclose()
        await other.publish("r", b"still here")
        await other.sink.until(lambda: other.sink.bodies("r") == [b"still here"])


@pytest.mark.anyio
class Histories(Base):
    """Reading the past, and what cannot be read any more."""

    async def test_every_position_gives_what_followed(self, node: Node) -> None:
        start = await node.backplane.subscribe("r")
        require(node.backplane.capabilities.history, "history")
        positions = [start]
        positions += [await node.backplane.publish("r", b"%d" % i, key=None, policy=POLICY) for i in range(10)]
        for seen, since in enumerate(positions):
            page = await node.backplane.history("r", since, 100)
            assert page.reason is None
            assert not page.more
            assert page.top >= positions[-1]
            assert [entry.body for entry in page.entries] == [b"%d" % i for i in range(seen, 10)]
            assert [Position(page.top.epoch, entry.offset) for entry in page.entries] == positions[seen + 1 :]

    async def test_pages_join_up(self, node: Node) -> None:
        since = await node.backplane.subscribe("r")
        require(node.backplane.capabilities.history, "history")
        await node.publish("r", *(b"%d" % i for i in range(10)))
        bodies: list[bytes] = []
        for _ in range(20):
            page = await node.backplane.history("r", since, 3)
            assert page.reason is None
            assert len(page.entries) <= 3
            bodies += [entry.body for entry in page.entries]
            if not page.more:
                break
            since = Position(page.top.epoch, page.entries[-1].offset)
        assert bodies == [b"%d" % i for i in range(10)]

    async def test_the_top_alone(self, node: Node) -> None:
        start = await node.backplane.subscribe("r")
        position = await node.backplane.publish("r", b"", key=None, policy=POLICY)
        for since, limit in ((None, 0), (None, 10), (start, 0)):
            page = await node.backplane.history("r", since, limit)
            assert not page.entries
            assert page.top >= position
            assert page.reason is None

    async def test_a_room_without_events_has_a_position(self, node: Node, other: Node) -> None:
        top = await node.backplane.subscribe("r")
        assert (await other.backplane.positions(["r"]))["r"] == top
        page = await other.backplane.history("r", top, 10)
        assert (list(page.entries), page.reason) == ([], None)
        require(node.backplane.capabilities.history, "history")
        await other.publish("r", b"first")
        page = await node.backplane.history("r", top, 10)
        assert ([entry.body for entry in page.entries], page.reason) == ([b"first"], None)

    async def test_positions_of_many_rooms(self, node: Node) -> None:
        rooms = [f"room-{i}" for i in range(300)]
        for room in rooms[::50]:
            await node.publish(room, b"")
        tops = await node.backplane.positions(rooms)
        assert list(tops) == rooms
        for room in rooms[::50]:
            assert (await node.backplane.history(room, tops[room], 1)).reason is None
        assert await node.backplane.positions([]) == {}

    async def test_another_epoch_is_told(self, node: Node) -> None:
        await node.publish("r", b"1")
        page = await node.backplane.history("r", Position("anotherepoch", 0), 10)
        assert (list(page.entries), page.reason) == ([], "epoch")

    async def test_a_position_above_the_top_is_a_fork(self, node: Node) -> None:
        position = await node.backplane.publish("r", b"1", key=None, policy=POLICY)
        top = (await node.backplane.history("r", None, 0)).top
        page = await node.backplane.history("r", Position(position.epoch, top.offset + 1000), 10)
        assert (list(page.entries), page.reason) == ([], "fork")

    async def test_the_size_is_kept_to(self, node: Node) -> None:
        require(node.backplane.capabilities.history, "history")
        policy = node.policies["r"] = HistoryPolicy(size=5, ttl=600.0)
        start = await node.backplane.subscribe("r")
        positions = [await node.backplane.publish("r", b"%d" % i, key=None, policy=policy) for i in range(12)]
        assert (await node.backplane.history("r", start, 100)).reason == "too_old"
        assert (await node.backplane.history("r", positions[5], 100)).reason == "too_old"
        page = await node.backplane.history("r", positions[6], 100)
        assert page.reason is None
        assert [entry.body for entry in page.entries] == [b"%d" % i for i in range(7, 12)]

    async def test_the_age_is_kept_to_in_a_busy_room(self, node: Node, advance: Advance) -> None:
        require(node.backplane.capabilities.history, "history")
        policy = node.policies["r"] = HistoryPolicy(size=100, ttl=2.0 * self.pace)
        old = await node.backplane.publish("r", b"1", key=None, policy=policy)
        await node.publish("r", b"2", policy=policy)
        await advance(1.7 * self.pace)
        newer = await node.backplane.publish("r", b"3", key=None, policy=policy)
        await advance(0.7 * self.pace)
        await node.publish("r", b"4", policy=policy)
        page = await node.backplane.history("r", old, 100)
        assert (list(page.entries), page.reason) == ([], "too_old")
        page = await node.backplane.history("r", newer, 100)
        assert ([entry.body for entry in page.entries], page.reason) == ([b"4"], None)

    async def test_a_silent_room_is_proven_after_all_has_expired(self, node: Node, advance: Advance) -> None:
        require(node.backplane.capabilities.history, "history")
        policy = node.policies["r"] = HistoryPolicy(size=100, ttl=1.0 * self.pace)
        first = await node.backplane.publish("r", b"1", key=None, policy=policy)
        last = await node.backplane.publish("r", b"2", key=None, policy=policy)
        await advance(2.5 * self.pace)
        page = await node.backplane.history("r", last, 100)
        assert (list(page.entries), page.reason) == ([], None)
        assert (await node.backplane.history("r", first, 100)).reason == "too_old"
        await node.publish("r", b"3", policy=policy)
        page = await node.backplane.history("r", last, 100)
        assert ([entry.body for entry in page.entries], page.reason) == ([b"3"], None)

    async def test_a_room_that_keeps_nothing_is_still_numbered(self, node: Node) -> None:
        policy = node.policies["r"] = HistoryPolicy(size=0, ttl=600.0)
        start = await node.backplane.subscribe("r")
        first = await node.backplane.publish("r", b"1", key=None, policy=policy)
        last = await node.backplane.publish("r", b"2", key=None, policy=policy)
        await node.sink.until(lambda: node.sink.bodies("r") == [b"1", b"2"])
        assert start.offset < first.offset < last.offset
        chain(node.sink.of("r"))
        page = await node.backplane.history("r", first, 10)
        assert not page.entries
        assert page.reason in ("no_history", "too_old")
        assert (await node.backplane.history("r", last, 10)).reason is None

    async def test_the_past_outlives_all_nodes_or_is_another_epoch(
        self, make_backplane: MakeBackplane, node: Node
    ) -> None:
        capabilities = node.backplane.capabilities
        require(capabilities.history, "history")
        since = await node.backplane.subscribe("r")
        await node.publish("r", b"before")
        await node.backplane.aclose()
        async with running(make_backplane, "node-c") as later:
            await later.publish("r", b"after")
            page = await later.backplane.history("r", since, 10)
            found = ([entry.body for entry in page.entries], page.reason)
            proven: list[tuple[list[bytes], str | None]] = [([b"before", b"after"], None)]
            assert found in (proven if capabilities.survives_restart else [*proven, ([], "epoch")])
