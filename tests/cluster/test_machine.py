"""Two whole nodes under every order of faults that Hypothesis can think of, in virtual time.

`tests.core.test_replay_machine` does it for tails and replays alone. Here it is the nodes themselves: admission,
slots, presence, fan-out, healing, idempotent messages, drains. Their links to the store lose, repeat and reorder
deliveries across rooms; operations take turns of the loop, and may lose their answers; nodes are killed with all that
they hold, or drained; histories expire, and the store is lost.

In the end, when all has calmed down, the logs of all clients go through the same check as those of real clusters,
every member knows exactly who is there, no user has more connections than allowed, and no slot is lost.
"""

from __future__ import annotations

import logging

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from roomwire.core.positions import Position
from tests.cluster.checker import check
from tests.cluster.world import ROOMS, SLOTS, Player, Station, World

stations = st.sampled_from([0, 1])
players = st.integers(0, 4)
rooms = st.sampled_from(ROOMS)
actions = st.sampled_from(["order", "order", "any", "lose", "repeat"])

LEASE = 90.0
"""Seconds in which everybody knows of a node that was killed (P8)."""


class Cluster(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world: World

    @initialize(seed=st.integers(0, 2**16))
    def begin(self, seed: int) -> None:
        self.world = World(seed)
        self.world.connect(self.world.players)
        self.world.loop.turns(50)

    def station(self, number: int) -> Station:
        return self.world.stations[number]

    # --- clients

    @rule(player=players, station=stations, turns=st.integers(0, 30))
    def come(self, player: int, station: int, turns: int) -> None:
        self.world.act(lambda: self.world.players[player].connect(self.station(station)))
        self.world.loop.turns(turns)

    @rule(player=players)
    def go(self, player: int) -> None:
        self.world.act(self.world.players[player].leave)

    @rule(player=players, station=stations, room=rooms, missed=st.sampled_from([0, 1, 3, 9, 30]))
    def come_back(self, player: int, station: int, room: str, missed: int) -> None:
        """A client is away for some events, and comes to any node while there are more."""
        one = self.world.players[player]
        other = self.world.players[(player + 1) % 5]
        self.world.act(one.leave)
        self.world.tell(other, room, missed)
        self.world.loop.turns(10 * missed)
        self.world.act(lambda: one.connect(self.station(station)))
        self.world.tell(other, room)

    @rule(player=players, room=rooms, count=st.sampled_from([1, 1, 2, 5]))
    def publish(self, player: int, room: str, count: int) -> None:
        self.world.tell(self.world.players[player], room, count)

    # --- the links to the store

    @rule(
        station=stations, action=st.sampled_from(["order", "order", "any", "lose", "repeat"]), index=st.integers(0, 40)
    )
    def link(self, station: int, action: str, index: int) -> None:
        backplane = self.station(station).backplane
        wire = backplane.wire
        if not wire:
            return
        index %= len(wire)
        if action == "order":
            self.world.act(backplane.let_through)
        elif action == "any":
            # The first one of some room: within a room the store keeps the order.
            room = wire[index][0]
            first = next(i for i, delivery in enumerate(wire) if delivery[0] == room)
            self.world.act(lambda: backplane.let_through(first))
        elif action == "lose":
            del wire[index : index + 3]
        else:
            wire.append(wire[index])

    @rule(station=stations)
    def cut_or_mend(self, station: int) -> None:
        one = self.station(station)
        if one.up:
            one.cut = not one.cut
            self.world.cut_ever = True
            self.world.act(one.backplane.inner.cut if one.cut else one.backplane.inner.heal)

    @rule(station=stations, deaf=st.booleans(), trouble=st.sampled_from([0.0, 0.0, 0.5]))
    def weather(self, station: int, deaf: bool, trouble: float) -> None:
        """Hints and orders of other nodes get lost; answers to publishes do."""
        backplane = self.station(station).backplane
        backplane.deaf, backplane.trouble = deaf, trouble

    # --- nodes and the store

    @rule(station=stations)
    def kill(self, station: int) -> None:
        if self.station(station).up:
            self.world.act(self.station(station).kill)

    @rule(station=stations)
    def drain(self, station: int) -> None:
        if self.station(station).up:
            self.world.act(self.station(station).drain)

    @rule(station=stations)
    def restart(self, station: int) -> None:
        if not self.station(station).up:
            self.world.act(self.station(station).start)
            self.world.loop.turns(5)

    @rule()
    def lose_the_store(self) -> None:
        """Its data is gone; links break, as they do where a server is restarted."""
        self.world.hub.lose()
        for station in self.world.stations:
            station.backplane.wire.clear()
            if station.up and not station.cut:
                self.world.act(station.backplane.inner.cut)
                self.world.act(station.backplane.inner.heal)

    # --- time

    @rule(turns=st.integers(1, 40))
    def go_on(self, turns: int) -> None:
        self.world.loop.turns(turns)

    @rule(seconds=st.sampled_from([0.1, 0.5, 2.0, 6.0, 16.0, 61.0]))
    def pass_time(self, seconds: float) -> None:
        self.world.pass_time(seconds)

    # --- what must hold

    @invariant()
    def nothing_failed(self) -> None:
        if hasattr(self, "world"):
            assert not self.world.failures, self.world.failures

    @precondition(lambda self: hasattr(self, "world") and not self.world.cut_ever)
    @invariant()
    def nobody_has_too_many_connections(self) -> None:
        live = [player for player in self.world.players if player.live and player.user == "ann"]
        assert len(live) <= SLOTS

    def teardown(self) -> None:
        if hasattr(self, "world"):
            try:
                self.calm_down()
            finally:
                self.world.close()

    def calm_down(self) -> None:
        world = self.world
        for number, station in enumerate(world.stations):
            if not station.up:
                self.restart(number)
            elif station.cut:
                self.cut_or_mend(number)
            station.backplane.deaf, station.backplane.trouble = False, 0.0
        # One client's node is killed, and it does not come back; the others are there, and publish.
        gone = world.players[-1]
        self.come_in([gone])
        assert gone.station is not None
        gone.final = gone.log.ended = True
        number = gone.station.number - 1
        self.kill(number)
        self.restart(number)
        others = world.players[:-1]
        world.pass_time(LEASE)
        self.come_in(others)
        finals = self.last_events()
        world.pass_time(15.0)
        for player in others:
            player.log.ended = not player.live  # without a slot
        findings = check([player.log for player in world.players], finals)
        assert not findings.faults, findings
        live = [player for player in others if player.live]
        assert [player.user for player in live].count("ann") == SLOTS
        for player in live:
            assert not player.waiting
            assert player.rosters == {room: {"ann", "bob"} for room in ROOMS}, player.name

    def come_in(self, wanted: list[Player]) -> None:
        """All come in who have a place; no slot may be lost to nobody for longer than its lease."""
        for attempt in range(100):
            self.world.connect(wanted, attempt)
            self.world.pass_time(1.0)
            missing = [one for one in wanted if not one.live]
            if len(missing) <= sum(one.user == "ann" for one in wanted) - SLOTS or not missing:
                return
        raise AssertionError(f"{[one.name for one in missing]} never came in: {missing[0].refusals[-5:]}")

    def last_events(self) -> dict[str, Position]:
        """One more event in each room, behind all that was told before."""
        bob = self.world.players[3]
        for room in ROOMS:
            self.world.tell(bob, room)
        for _ in range(60):
            self.world.pass_time(1.0)
            if not any(player.busy for player in self.world.players if player.live):
                break
        assert not bob.busy
        return {acked.room: acked.position for acked in bob.log.acked}


Cluster.TestCase.settings = settings(stateful_step_count=40, max_examples=max(20, settings().max_examples * 2 // 5))
TestCluster = pytest.mark.timeout(900)(Cluster.TestCase)


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """A node says much of what is done to it here."""
    caplog.set_level(logging.CRITICAL, "roomwire")
