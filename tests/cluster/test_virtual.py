"""What is promised in seconds, in virtual time: what a link lost without a word is there again within ten."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from roomwire.core.policy import RoomPolicy
from roomwire.core.tail import SILENCE
from roomwire.node.rooms import Room
from roomwire.node.upkeep import CHECK_EVERY, TICK
from tests.cluster.world import ROOMS, World


@pytest.fixture
def world(caplog: pytest.LogCaptureFixture) -> Iterator[World]:
    caplog.set_level(logging.CRITICAL, "roomwire")
    made = World(seed=1)
    try:
        made.connect(made.players)
        made.pass_time(1.0)
        yield made
    finally:
        made.close()


def test_an_event_that_is_lost_and_has_no_successor_is_there_within_ten_seconds(world: World) -> None:
    teller, *others = [player for player in world.players if player.live]
    for room in ROOMS:
        world.tell(teller, room)
    world.loop.turns(200)
    lost = [len(station.backplane.wire) for station in world.stations]
    assert lost == [2, 2]
    for station in world.stations:
        station.backplane.wire.clear()
    world.pass_time(SILENCE)
    for player in others:
        assert {room: position.offset for room, position in player.positions.items()} == dict.fromkeys(ROOMS, 1)


def test_that_holds_for_rooms_of_any_name() -> None:
    slowest = max(Room(f"room {number}", RoomPolicy()).jitter for number in range(1000))
    assert SILENCE * slowest + CHECK_EVERY + TICK < SILENCE
