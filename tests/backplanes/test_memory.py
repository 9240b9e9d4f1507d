"""The memory backplane keeps the contract, and forgets what nobody can ask for any more."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest
from pydantic import ValidationError

from roomwire.backplanes._memory_hub import RoomLeases
from roomwire.backplanes.contract import Backplane, HistoryPolicy, Holder, Member
from roomwire.backplanes.memory import LEASE, MemoryBackplane, MemoryHub, MemoryOptions
from roomwire.core.errors import LocalError, Unavailable
from roomwire.core.positions import Position
from roomwire.testing.backplane import Advance, BackplaneConformance, MakeBackplane, Recorder
from roomwire.testing.clock import VirtualClock

POLICY = HistoryPolicy(size=10, ttl=60.0)
DAY = 86_400.0

T = TypeVar("T")


class MemoryFaults:
    def __init__(self, hub: MemoryHub) -> None:
        self.hub = hub

    async def cut(self, backplane: Backplane) -> None:
        assert isinstance(backplane, MemoryBackplane)
        backplane.cut()

    async def heal(self, backplane: Backplane) -> None:
        assert isinstance(backplane, MemoryBackplane)
        backplane.heal()

    async def lose(self) -> None:
        self.hub.lose()


class TestConformance(BackplaneConformance):
    several_nodes = True
    lease = LEASE
    idempotency_window = 300.0

    @pytest.fixture
    def clock(self) -> VirtualClock:
        return VirtualClock()

    @pytest.fixture
    def hub(self, clock: VirtualClock) -> MemoryHub:
        return MemoryHub(clock)

    @pytest.fixture
    async def make_backplane(self, hub: MemoryHub) -> MakeBackplane:
        async def make() -> Backplane:
            return MemoryBackplane(hub=hub)

        return make

    @pytest.fixture
    def advance(self, clock: VirtualClock) -> Advance:
        async def advance(seconds: float) -> None:
            clock.advance(seconds)

        return advance

    @pytest.fixture
    def faults(self, hub: MemoryHub) -> MemoryFaults:
        return MemoryFaults(hub)


INCAPABLE = """
import pytest
from roomwire.backplanes.contract import Capabilities
from roomwire.backplanes.memory import MemoryBackplane
from roomwire.testing.backplane import BackplaneConformance

class Incapable(MemoryBackplane):
    capabilities = Capabilities(history=False, presence=False, slots=False, replies=False, multi_node=False)

class TestIncapable(BackplaneConformance):
    @pytest.fixture
    def anyio_backend(self):
        return "asyncio"

    @pytest.fixture
    async def make_backplane(self):
        async def make():
            return Incapable()

        return make
"""


def test_what_a_backplane_cannot_do_is_skipped_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]")
    (tmp_path / "test_incapable.py").write_text(INCAPABLE)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-rs",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(tmp_path),
        str(tmp_path),
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert result.returncode == 0, result.stdout
    for name in ("history", "presence", "slots", "replies", "second node"):
        assert f"the backplane has no {name}" in result.stdout
    assert "the subclass has no fixture faults" in result.stdout
    outcomes = re.search(r"(\d+) passed, (\d+) skipped in", result.stdout)
    assert outcomes is not None, result.stdout
    assert int(outcomes[1]) >= 10


def finish(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that must not suspend."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return cast("T", stop.value)
    coroutine.close()
    raise AssertionError("it suspended")


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def backplane(clock: VirtualClock) -> MemoryBackplane:
    backplane = MemoryBackplane(MemoryOptions(), clock=clock)
    finish(backplane.start(Recorder(), "node"))
    return backplane


def publish(backplane: MemoryBackplane, room: str, policy: HistoryPolicy = POLICY, key: str | None = None) -> Position:
    return finish(backplane.publish(room, b"body", key=key, policy=policy))


def pass_days(backplane: MemoryBackplane, clock: VirtualClock, days: float) -> None:
    """Time passes while another room is in use, whose operations the sweeps ride on."""
    for _ in range(int(days * 24)):
        clock.advance(3600)
        publish(backplane, "busy", key=str(clock()))


def test_nothing_suspends(backplane: MemoryBackplane) -> None:
    holder, member = Holder("c", "k", "node"), Member("u", "c", "k")
    assert finish(backplane.subscribe("r")).offset == 0
    assert publish(backplane, "r", key="k").offset == 1
    finish(backplane.publish_ephemeral("r", b""))
    assert finish(backplane.history("r", None, 0)).top.offset == 1
    finish(backplane.enter("r", member))
    finish(backplane.claim("u", holder, 1, evict=False))
    finish(backplane.refresh([("r", member)], [("u", holder)]))
    finish(backplane.reserve("k", "p", 1.0))
    finish(backplane.tell(None, b""))
    finish(backplane.unsubscribe("r"))
    finish(backplane.aclose())


def test_each_has_a_hub_of_its_own() -> None:
    one, two = MemoryBackplane(), MemoryBackplane()
    finish(one.start(Recorder(), "node"))
    finish(two.start(Recorder(), "node"))
    assert publish(one, "r").epoch != publish(two, "r").epoch
    assert publish(two, "r").offset == 2


def test_it_is_started_once_and_names_are_unique(backplane: MemoryBackplane) -> None:
    with pytest.raises(LocalError, match="started once"):
        finish(backplane.start(Recorder(), "again"))
    with pytest.raises(LocalError, match="'node'"):
        finish(MemoryBackplane(hub=backplane.hub).start(Recorder(), "node"))
    finish(backplane.aclose())
    finish(MemoryBackplane(hub=backplane.hub).start(Recorder(), "node"))


def test_it_does_nothing_before_its_start() -> None:
    backplane = MemoryBackplane()
    with pytest.raises(Unavailable):
        publish(backplane, "r")
    finish(backplane.aclose())
    backplane.cut()
    backplane.heal()
    with pytest.raises(Unavailable):
        publish(backplane, "r")


def test_a_closed_one_is_not_healed(backplane: MemoryBackplane) -> None:
    finish(backplane.aclose())
    backplane.heal()
    with pytest.raises(Unavailable):
        publish(backplane, "r")


def test_options_are_refused() -> None:
    with pytest.raises(ValidationError, match="url"):
        MemoryOptions.model_validate({"url": "memory://"})


def test_a_sink_may_unsubscribe_while_it_is_called(clock: VirtualClock) -> None:
    class Leaving(Recorder):
        def deliver(self, room: str, epoch: str, previous: int, offset: int, body: bytes) -> None:
            super().deliver(room, epoch, previous, offset, body)
            finish(nodes[0].unsubscribe(room))

    hub = MemoryHub(clock)
    nodes = [MemoryBackplane(hub=hub) for _ in range(2)]
    sinks = [Leaving(), Recorder()]
    for i in range(2):
        finish(nodes[i].start(sinks[i], f"node-{i}"))
        finish(nodes[i].subscribe("r"))
    publish(nodes[1], "r")
    publish(nodes[1], "r")
    assert [len(sink.deliveries) for sink in sinks] == [1, 2]


def test_history_that_expired_is_dropped_without_being_asked_for(
    backplane: MemoryBackplane, clock: VirtualClock
) -> None:
    for i in range(500):
        publish(backplane, f"r{i}")
    pass_days(backplane, clock, 0.9)
    stored = [stream.stored for room, stream in backplane.hub.streams.items() if room != "busy"]
    assert len(stored) == 500
    assert set(stored) == {None}


def test_silent_rooms_are_forgotten_after_a_day_and_begin_another_life(
    backplane: MemoryBackplane, clock: VirtualClock
) -> None:
    finish(backplane.subscribe("kept"))
    kept, old = publish(backplane, "kept"), publish(backplane, "r")
    pass_days(backplane, clock, 0.9)
    assert finish(backplane.history("r", old, 10)).reason is None
    pass_days(backplane, clock, 1.2)
    assert set(backplane.hub.streams) == {"busy", "kept"}
    assert publish(backplane, "kept") == Position(kept.epoch, 2)
    assert publish(backplane, "r").epoch != old.epoch
    assert finish(backplane.history("r", old, 10)).reason == "epoch"


def test_rooms_that_never_had_an_event_leave_no_trace(backplane: MemoryBackplane, clock: VirtualClock) -> None:
    first = finish(backplane.subscribe("r"))
    finish(backplane.unsubscribe("r"))
    pass_days(backplane, clock, 0.2)
    assert set(backplane.hub.streams) == {"busy"}
    publish(backplane, "r")
    assert len(finish(backplane.history("r", first, 10)).entries) == 1


def test_a_stream_outlives_the_sweep_that_its_own_first_use_starts(
    backplane: MemoryBackplane, clock: VirtualClock
) -> None:
    finish(backplane.positions(["r"]))
    clock.advance(DAY)
    finish(backplane.subscribe("r"))
    assert publish(backplane, "r").offset == 1
    assert set(backplane.hub.streams) == {"r"}


def test_keys_replies_and_leases_end_without_being_asked_for(backplane: MemoryBackplane, clock: VirtualClock) -> None:
    hub = backplane.hub
    for i in range(500):
        publish(backplane, "busy", key=str(i))
        finish(backplane.reserve(f"k{i}", "p", 15.0))
        finish(backplane.enter(f"r{i}", Member("u", "c", "k")))
        finish(backplane.claim(f"u{i}", Holder("c", "k", "node"), 1, evict=False))
    pass_days(backplane, clock, 1)
    assert len(hub.keys) <= 2
    assert (len(hub.replies), len(hub.presence), len(hub.slots)) == (0, 0, 0)


def test_sweeps_ride_on_reservations_and_refreshes_too(backplane: MemoryBackplane, clock: VirtualClock) -> None:
    for i in range(100):
        finish(backplane.reserve(f"k{i}", "p", 15.0))
    for i in range(10):
        clock.advance(60)
        finish(backplane.reserve("another", "p", 15.0)) if i % 2 else finish(backplane.refresh([], []))
    assert len(backplane.hub.replies) <= 1


def test_a_lease_that_lapsed_is_hinted_by_the_sweep(clock: VirtualClock) -> None:
    hub, sink = MemoryHub(clock), Recorder()
    alive, dead = MemoryBackplane(hub=hub), MemoryBackplane(hub=hub)
    finish(alive.start(sink, "alive"))
    finish(dead.start(Recorder(), "dead"))
    finish(alive.subscribe("r"))
    finish(dead.enter("r", Member("u", "c", "k")))
    finish(dead.aclose())
    sink.changes.clear()
    clock.advance(LEASE)
    finish(alive.refresh([], []))
    assert sink.changes == ["r"]
    assert finish(alive.members("r")) == []


def test_a_smaller_history_trims_at_once(backplane: MemoryBackplane) -> None:
    start = finish(backplane.subscribe("r"))
    for _ in range(8):
        publish(backplane, "r")
    publish(backplane, "r", HistoryPolicy(size=3, ttl=60.0))
    assert finish(backplane.history("r", start, 10)).reason == "too_old"
    assert len(finish(backplane.history("r", start._replace(offset=6), 10)).entries) == 3
    publish(backplane, "r", HistoryPolicy(size=0, ttl=60.0))
    assert finish(backplane.history("r", start._replace(offset=9), 10)).reason == "no_history"


def test_a_rewound_stream_forgets_what_came_after(backplane: MemoryBackplane) -> None:
    start = finish(backplane.subscribe("r"))
    for _ in range(8):
        publish(backplane, "r")
    backplane.hub.rewind("r", 5)
    page = finish(backplane.history("r", start, 100))
    assert ([entry.offset for entry in page.entries], page.top.offset) == ([1, 2, 3, 4, 5], 5)
    assert finish(backplane.history("r", start._replace(offset=8), 100)).reason == "fork"
    assert publish(backplane, "r") == Position(start.epoch, 6)


def test_a_node_that_was_cut_off_for_long_gets_its_rooms_back(clock: VirtualClock) -> None:
    hub, sink = MemoryHub(clock), Recorder()
    cut, alive = MemoryBackplane(hub=hub), MemoryBackplane(hub=hub)
    finish(cut.start(sink, "cut"))
    finish(alive.start(Recorder(), "alive"))
    finish(cut.subscribe("r"))
    cut.cut()
    cut.cut()
    pass_days(alive, clock, 2)
    assert set(hub.streams) == {"busy"}
    cut.heal()
    cut.heal()
    assert (sink.availability, sink.interruptions) == ([True, False, True], [None])
    publish(alive, "r")
    assert len(sink.deliveries) == 1
    cut.cut()
    finish(cut.aclose())
    publish(alive, "r")
    assert len(sink.deliveries) == 1


def test_a_node_that_is_cut_off_may_be_closed(clock: VirtualClock) -> None:
    hub = MemoryHub(clock)
    cut, alive = MemoryBackplane(hub=hub), MemoryBackplane(hub=hub)
    finish(cut.start(Recorder(), "cut"))
    finish(alive.start(Recorder(), "alive"))
    finish(cut.subscribe("r"))
    cut.cut()
    pass_days(alive, clock, 0.2)
    finish(cut.aclose())
    assert set(hub.streams) == {"busy"}


def test_a_monotonic_clock_does_not_go_back(clock: VirtualClock) -> None:
    before = clock()
    clock.advance(0.0)
    with pytest.raises(ValueError, match="cannot go back"):
        clock.advance(-1.0)
    assert clock() == before


def test_who_comes_and_goes_costs_no_look_at_every_other(
    backplane: MemoryBackplane, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0
    items = RoomLeases.items

    def counted(leases: RoomLeases) -> Any:
        nonlocal looks
        looks += 1
        return items(leases)

    monkeypatch.setattr(RoomLeases, "items", counted)
    members = [Member(f"user-{number}", f"client-{number}", f"c{number}", b"null") for number in range(500)]
    for member in members:
        finish(backplane.enter("r", member))
    finish(backplane.refresh([("r", member) for member in members], []))
    for member in members[1:]:
        finish(backplane.leave("r", member, 0.0))
    assert finish(backplane.members("r")) == members[:1]
    assert looks == 0
