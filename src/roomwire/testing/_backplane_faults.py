"""The backplane suite's second half: the link breaks, the store forgets."""

from __future__ import annotations

import pytest

from roomwire.core.errors import Unavailable
from roomwire.core.positions import Position
from roomwire.testing._backplane_base import POLICY, Base, Faults, MakeBackplane, Node, require, running

__all__ = ["BrokenLinks"]

PATIENCE = 30.0
"""Seconds in which a node has to notice what happened to its link."""


@pytest.mark.anyio
class BrokenLinks(Base):
    """Nothing is lost without a word."""

    @pytest.fixture
    def link(self, faults: Faults | None) -> Faults:
        """The faults, where the subclass can make any."""
        if faults is None:
            pytest.skip("the subclass has no fixture faults")
        return faults

    async def test_a_broken_link_is_told_and_fails_in_time(self, node: Node, other: Node, link: Faults) -> None:
        await node.backplane.subscribe("r")
        await link.cut(node.backplane)
        with pytest.raises(Unavailable):
            await node.backplane.publish("r", b"refused", key="k", policy=POLICY)
        await node.sink.until(lambda: node.sink.availability[-1] is False, PATIENCE)
        await other.publish("r", b"unheard")
        await link.heal(node.backplane)
        await node.sink.until(lambda: node.sink.availability[-1] is True, PATIENCE)

    async def test_what_was_missed_is_announced_and_in_the_history(self, node: Node, other: Node, link: Faults) -> None:
        require(node.backplane.capabilities.history, "history")
        since = await node.backplane.subscribe("r")
        await link.cut(node.backplane)
        await node.sink.until(lambda: node.sink.availability[-1] is False, PATIENCE)
        await other.publish("r", b"missed")
        await link.heal(node.backplane)
        await node.sink.until(lambda: _covers(node, "r") or node.sink.of("r"), PATIENCE)
        page = await node.backplane.history("r", since, 10)
        assert ([entry.body for entry in page.entries], page.reason) == ([b"missed"], None)

    async def test_subscriptions_outlive_a_broken_link(self, node: Node, other: Node, link: Faults) -> None:
        for room in ("r", "s"):
            await node.backplane.subscribe(room)
        await node.backplane.unsubscribe("s")
        await link.cut(node.backplane)
        await node.sink.until(lambda: node.sink.availability[-1] is False, PATIENCE)
        await link.heal(node.backplane)
        await node.sink.until(lambda: _covers(node, "r"), PATIENCE)
        await other.publish("s", b"unheard")
        await other.publish("r", b"heard")
        await node.sink.until(lambda: b"heard" in node.sink.bodies("r"), PATIENCE)
        assert node.sink.of("s") == []

    async def test_a_retry_after_a_broken_link_takes_effect_once(self, node: Node, other: Node, link: Faults) -> None:
        start = await other.backplane.subscribe("r")
        await link.cut(node.backplane)
        with pytest.raises(Unavailable):
            await node.backplane.publish("r", b"once", key="k", policy=POLICY)
        await node.sink.until(lambda: node.sink.availability[-1] is False, PATIENCE)
        await link.heal(node.backplane)
        await node.sink.until(lambda: node.sink.availability[-1] is True, PATIENCE)
        position = await node.backplane.publish("r", b"once", key="k", policy=POLICY)
        assert await other.backplane.publish("r", b"once", key="k", policy=POLICY) == position
        assert len((await other.backplane.history("r", start, 10)).entries) == 1

    async def test_a_store_that_lost_everything_is_another_epoch(
        self, make_backplane: MakeBackplane, link: Faults
    ) -> None:
        async with running(make_backplane, "node-c") as node:
            before = await node.backplane.subscribe("r")
            last = await node.backplane.publish("r", b"lost", key=None, policy=POLICY)
            await node.receive("r", 1)
            await link.lose()
            for since in (before, last):
                page = await node.backplane.history("r", since, 10)
                assert (list(page.entries), page.reason) == ([], "epoch")
            top = (await node.backplane.positions(["r"]))["r"]
            assert top.epoch != last.epoch
            await node.publish("r", b"new")
            delivery = (await node.receive("r", 2))[-1]
            assert delivery.epoch == top.epoch
            assert Position(delivery.epoch, delivery.offset) > top


def _covers(node: Node, room: str) -> bool:
    """Whether the node was told that it may have missed something in `room`."""
    return any(rooms is None or room in rooms for rooms in node.sink.interruptions)
