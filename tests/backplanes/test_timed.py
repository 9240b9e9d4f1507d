"""A backplane that is timed keeps the contract as it did before, and tells how long each operation took."""

from __future__ import annotations

from typing import Any

import pytest

from roomwire.backplanes.contract import Backplane, HistoryPolicy
from roomwire.backplanes.memory import LEASE, MemoryBackplane, MemoryHub
from roomwire.core.errors import Unavailable
from roomwire.core.positions import Position
from roomwire.node.meter import Meter
from roomwire.node.timed import OPERATIONS, timed
from roomwire.testing.backplane import Advance, BackplaneConformance, MakeBackplane, Recorder
from roomwire.testing.clock import VirtualClock


class Faults:
    def __init__(self, hub: MemoryHub) -> None:
        self.hub = hub

    async def cut(self, backplane: Any) -> None:
        backplane.cut()

    async def heal(self, backplane: Any) -> None:
        backplane.heal()

    async def lose(self) -> None:
        self.hub.lose()


@pytest.fixture
def anyio_backend() -> str:
    """One is enough: nothing here depends on it."""
    return "asyncio"


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def hub(clock: VirtualClock) -> MemoryHub:
    return MemoryHub(clock)


class TestConformance(BackplaneConformance):
    several_nodes = True
    lease = LEASE
    idempotency_window = 300.0

    @pytest.fixture
    async def make_backplane(self, hub: MemoryHub, clock: VirtualClock) -> MakeBackplane:
        async def make() -> Backplane:
            return timed(MemoryBackplane(hub=hub), Meter(clock), lambda room: Position("", 0))

        return make

    @pytest.fixture
    def advance(self, clock: VirtualClock) -> Advance:
        async def advance(seconds: float) -> None:
            clock.advance(seconds)

        return advance

    @pytest.fixture
    def faults(self, hub: MemoryHub) -> Faults:
        return Faults(hub)


@pytest.mark.anyio
async def test_what_fails_is_timed_and_counted(hub: MemoryHub, clock: VirtualClock) -> None:
    meter = Meter(clock)
    real = MemoryBackplane(hub=hub)
    backplane = timed(real, meter, lambda room: None)
    await backplane.start(Recorder(), "node")
    await backplane.publish("room", b"{}", key=None, policy=HistoryPolicy())
    real.cut()
    with pytest.raises(Unavailable):
        await backplane.publish("room", b"{}", key=None, policy=HistoryPolicy())
    assert {name: histogram.count for name, histogram in meter.operations.items() if histogram.count} == {"publish": 2}
    assert meter.unavailable == {"publish": 1}
    assert set(meter.operations) == set(OPERATIONS)
    await backplane.aclose()


@pytest.mark.anyio
async def test_a_delivery_that_comes_later_is_measured_up_to_then(hub: MemoryHub, clock: VirtualClock) -> None:
    """As over a network: the call returns, and the publication comes by another way some time after it."""
    meter = Meter(clock)
    sinks: list[Any] = []

    class Late(MemoryBackplane):
        async def start(self, sink: Any, node: str) -> None:
            sinks.append(sink)
            await super().start(Recorder(), node)

    backplane = timed(Late(hub=hub), meter, lambda room: Position("", 0))
    await backplane.start(Recorder(), "node")
    await backplane.subscribe("room")
    position = await backplane.publish("room", b"mine", key=None, policy=HistoryPolicy())
    clock.advance(0.25)
    await backplane.publish("room", b"the next one", key=None, policy=HistoryPolicy())
    sinks[0].deliver("room", position.epoch, 0, 1, b"somebody else's")
    assert meter.delivery.count == 0
    sinks[0].deliver("room", position.epoch, 1, 2, b"mine")
    assert (meter.delivery.count, meter.delivery.sum) == (1, 0.25)
    clock.advance(1.0)
    await backplane.publish("room", b"another", key=None, policy=HistoryPolicy())
    await backplane.unsubscribe("room")
    sinks[0].deliver("room", position.epoch, 3, 4, b"another")
    assert meter.delivery.count == 1
    await backplane.aclose()
