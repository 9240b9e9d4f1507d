"""Rooms that conflate or have `latest`, under every order of faults that Hypothesis can think of, in virtual time.

What must hold: offsets grow; nobody is sent what it is excluded from; what is passed over was replaced by a later
publication of its key; the newest of each key comes to every member in the end, over any number of breaks, slow links,
joins and resets; members who keep up are sent at most so many blocks a second; and where the server says that somebody
stands, it does. `tests.cluster.dashboards` has the model.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import partial

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.cluster.dashboards import RATE, ROOMS, VIEWERS, Dashboards

places = st.sampled_from([0, 1])
viewers = st.integers(0, len(VIEWERS) - 1)
rooms = st.sampled_from(list(ROOMS))
keys = st.sampled_from(["a", "b", "c"])
excluded = st.sampled_from([None, None, None, *VIEWERS])


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world: Dashboards

    @initialize(seed=st.integers(0, 2**16))
    def begin(self, seed: int) -> None:
        self.world = Dashboards(seed)
        self.world.connect(self.world.viewers[:3])
        self.world.loop.turns(50)

    @rule(viewer=viewers, place=places, turns=st.integers(0, 20))
    def come(self, viewer: int, place: int, turns: int) -> None:
        self.world.act(lambda: self.world.viewers[viewer].connect(self.world.places[place]))
        self.world.loop.turns(turns)

    @rule(viewer=viewers)
    def go(self, viewer: int) -> None:
        self.world.act(self.world.viewers[viewer].leave)

    @rule(viewer=viewers, room=rooms, what=st.sampled_from(["room.leave", "room.join", "state", "session.rooms"]))
    def ask(self, viewer: int, room: str, what: str) -> None:
        one = self.world.viewers[viewer]
        if what == "state":
            self.world.act(lambda: one.ask("room.join", room, state=True))
        else:
            self.world.act(lambda: one.ask(what, "" if what == "session.rooms" else room))

    @rule(
        place=places,
        room=rooms,
        key=keys,
        exclude=excluded,
        count=st.sampled_from([1, 1, 2, 8]),
        history=st.sampled_from([1, 1, 1, 0]),
    )
    def publish(self, place: int, room: str, key: str, exclude: str | None, count: int, history: int) -> None:
        for _ in range(count):
            self.world.publish(self.world.places[place], room, key, exclude, history=bool(history))

    @rule(viewer=viewers, stalled=st.booleans())
    def stall(self, viewer: int, stalled: bool) -> None:
        pipe = self.world.viewers[viewer].pipe
        if pipe is not None:
            self.world.act(lambda: pipe.stall(stalled))

    @rule(place=places, action=st.sampled_from(["order", "order", "lose", "repeat"]), index=st.integers(0, 40))
    def link(self, place: int, action: str, index: int) -> None:
        backplane = self.world.places[place].backplane
        wire = backplane.wire
        if not wire:
            return
        index %= len(wire)
        if action == "order":
            self.world.act(backplane.let_through)
        elif action == "lose":
            del wire[index : index + 3]
        else:
            wire.append(wire[index])

    @rule(place=places)
    def cut_or_mend(self, place: int) -> None:
        one = self.world.places[place]
        if one.up:
            one.cut = not one.cut
            self.world.act(one.backplane.inner.cut if one.cut else one.backplane.inner.heal)

    @rule(place=places, drain=st.booleans())
    def end_and_start_anew(self, place: int, drain: bool) -> None:
        one = self.world.places[place]
        self.world.act(one.drain if drain else one.kill)
        self.world.pass_time(0.5)
        self.world.draining = False
        self.world.act(one.start)
        self.world.loop.turns(5)

    @rule()
    def lose_the_store(self) -> None:
        self.world.hub.lose()
        for place in self.world.places:
            place.backplane.wire.clear()
            if not place.cut:
                self.world.act(place.backplane.inner.cut)
                self.world.act(place.backplane.inner.heal)

    @rule(turns=st.integers(1, 40))
    def go_on(self, turns: int) -> None:
        self.world.act(self.world.let_all_through)
        self.world.loop.turns(turns)

    @rule(seconds=st.sampled_from([0.01, 0.03, 1 / RATE, 0.25, 2.0, 6.0]))
    def pass_time(self, seconds: float) -> None:
        self.world.pass_time(seconds)

    @invariant()
    def nothing_failed(self) -> None:
        if hasattr(self, "world"):
            assert not self.world.failures, self.world.failures
            assert [fault for viewer in self.world.viewers for fault in viewer.faults] == []

    def teardown(self) -> None:
        if hasattr(self, "world"):
            try:
                self.calm_down()
            finally:
                self.world.close()

    def calm_down(self) -> None:
        world = self.world
        for place in world.places:
            if place.cut:
                self.cut_or_mend(world.places.index(place))
        for number in range(len(world.viewers)):
            self.stall(number, False)
        for _ in range(5):
            world.connect(world.viewers)
            world.pass_time(1.0)
        for viewer in world.viewers:
            for room in ROOMS:
                if room not in viewer.positions:
                    world.act(partial(viewer.ask, "room.join", room))
        world.pass_time(30.0)  # positions are checked, and told with the heartbeats
        self.nothing_failed()
        for viewer in world.viewers:
            assert viewer.live, viewer.name
            for room in ROOMS:
                assert viewer.owes(room) == set(), (viewer.name, room)
                top = world.hub.stream(room).top
                assert viewer.positions[room] == top, (viewer.name, room, viewer.positions[room], top)


Machine.TestCase.settings = settings(stateful_step_count=40, max_examples=max(20, settings().max_examples * 2 // 5))
TestDashboards = pytest.mark.timeout(900)(Machine.TestCase)


@pytest.fixture
def world() -> Iterator[Dashboards]:
    made = Dashboards(seed=1)
    try:
        made.connect(made.viewers)
        made.pass_time(1.0)
        yield made
    finally:
        made.close()


def values(world: Dashboards, room: str) -> list[list[int]]:
    """The offsets that each viewer has had."""
    return [sorted(viewer.seen[room]) for viewer in world.viewers]


def publish(world: Dashboards, room: str, keys: str, exclude: str | None = None) -> None:
    """Publish and deliver, in no time."""
    for key in keys:
        world.publish(world.places[0], room, key, exclude)
        world.loop.turns(30)
        world.act(world.let_all_through)
        world.loop.turns(30)


def test_the_first_comes_at_once_and_the_last_when_the_interval_is_over(world: Dashboards) -> None:
    publish(world, "conflated", "a")
    assert values(world, "conflated") == [[1]] * 4
    publish(world, "conflated", "abcab")
    assert values(world, "conflated") == [[1]] * 4
    world.loop.pass_time(0.9 / RATE)
    assert values(world, "conflated") == [[1]] * 4
    world.loop.pass_time(0.2 / RATE)
    assert values(world, "conflated") == [[1, 4, 5, 6]] * 4
    # The next one is as late as the one before was, and then it is quiet.
    publish(world, "conflated", "a")
    assert values(world, "conflated") == [[1, 4, 5, 6]] * 4
    world.loop.pass_time(1.1 / RATE)
    assert values(world, "conflated") == [[1, 4, 5, 6, 7]] * 4
    world.loop.pass_time(1 / RATE)
    publish(world, "conflated", "a")
    assert values(world, "conflated") == [[1, 4, 5, 6, 7, 8]] * 4


def test_who_is_excluded_from_the_newest_does_not_get_the_one_before(world: Dashboards) -> None:
    publish(world, "conflated", "ab")
    publish(world, "conflated", "b", exclude=VIEWERS[0])
    world.loop.pass_time(1.1 / RATE)
    assert values(world, "conflated") == [[1], [1, 3], [1, 3], [1, 3]]


def test_who_does_not_read_is_passed_over_and_then_has_the_newest(world: Dashboards) -> None:
    slow, pipe = world.viewers[0], world.viewers[0].pipe
    assert pipe is not None
    pipe.stall(True)
    for _ in range(300):
        publish(world, "conflated", "ab")
        world.loop.pass_time(1 / RATE)
    assert slow.seen["conflated"] == set()
    assert pipe.closing is None
    world.act(lambda: pipe.stall(False))
    world.loop.pass_time(1.1 / RATE)
    assert sorted(slow.seen["conflated"]) == [599, 600]
    assert slow.faults == []


def test_after_a_reset_nobody_stands_where_it_was_passed_over(world: Dashboards) -> None:
    slow, pipe = world.viewers[0], world.viewers[0].pipe
    assert pipe is not None
    pipe.stall(True)
    publish(world, "conflated", "ab")
    before = slow.positions["conflated"]
    world.hub.lose()
    for place in world.places:
        world.act(place.backplane.inner.cut)
        world.act(place.backplane.inner.heal)
    world.loop.turns(200)  # before they would be looked at
    world.act(lambda: pipe.stall(False))
    world.act(lambda: slow.ask("session.rooms", ""))
    world.loop.turns(30)
    assert slow.positions["conflated"].epoch != before.epoch
    assert slow._asked == {}
    assert slow.faults == []


def test_more_keys_than_a_block_has_go_out_ahead_of_time(world: Dashboards, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roomwire.node.conflated.BLOCK_EVENTS", 3)
    publish(world, "conflated", "abc")
    assert values(world, "conflated") == [[1]] * 4
    publish(world, "conflated", "d")
    assert values(world, "conflated") == [[1, 2, 3, 4]] * 4


def test_what_is_kept_for_who_does_not_read_is_bounded(world: Dashboards, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roomwire.node.conflated.BLOCK_EVENTS", 3)
    slow, pipe = world.viewers[0], world.viewers[0].pipe
    assert pipe is not None
    pipe.stall(True)
    for key in "abc":
        assert slow.faults == []
        publish(world, "conflated", key)
        world.loop.pass_time(1.1 / RATE)
    assert len(slow.faults) == 1  # a block was put on its link all the same
    world.act(lambda: pipe.stall(False))
    assert sorted(slow.seen["conflated"]) == [1, 2, 3]


def test_a_drain_brings_what_waits(world: Dashboards) -> None:
    publish(world, "conflated", "aaab")
    world.act(world.places[0].drain)
    world.loop.turns(100)
    # Those of the node that ends have it before they are closed, the others when its time has come.
    assert values(world, "conflated") == [[1, 3, 4], [1], [1, 3, 4], [1]]


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "roomwire")
