"""The fixtures of the backplane suite, and the sink that records what it is told."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from typing import ClassVar, NamedTuple, Protocol

import anyio
import pytest

from roomwire.backplanes.contract import Backplane, Capabilities, HistoryPolicy, PolicyAware

__all__ = ["POLICY", "Advance", "Base", "Delivery", "Faults", "MakeBackplane", "Node", "Recorder", "require", "running"]

MakeBackplane = Callable[[], Awaitable[Backplane]]
Advance = Callable[[float], Awaitable[None]]

POLICY = HistoryPolicy(size=100, ttl=600.0)


class Delivery(NamedTuple):
    """What a sink was given."""

    room: str
    epoch: str
    previous: int
    offset: int
    body: bytes


class Recorder:
    """A sink that keeps what it was told, and can wait for it."""

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []
        self.ephemerals: list[tuple[str, bytes]] = []
        self.interruptions: list[Collection[str] | None] = []
        self.changes: list[str] = []
        self.availability: list[bool] = []
        self.control: list[bytes] = []
        self._came: anyio.Event | None = None

    def deliver(self, room: str, epoch: str, previous: int, offset: int, body: bytes) -> None:
        """See the contract."""
        self.deliveries.append(Delivery(room, epoch, previous, offset, body))
        self._wake()

    def ephemeral(self, room: str, body: bytes) -> None:
        """See the contract."""
        self.ephemerals.append((room, body))
        self._wake()

    def interrupted(self, rooms: Collection[str] | None) -> None:
        """See the contract."""
        self.interruptions.append(rooms)
        self._wake()

    def changed(self, room: str) -> None:
        """See the contract."""
        self.changes.append(room)
        self._wake()

    def available(self, up: bool) -> None:
        """See the contract."""
        self.availability.append(up)
        self._wake()

    def told(self, body: bytes) -> None:
        """See the contract."""
        self.control.append(body)
        self._wake()

    def _wake(self) -> None:
        if self._came is not None:
            self._came.set()

    async def until(self, condition: Callable[[], object], timeout: float = 10.0) -> None:
        """Wait until `condition` holds; it is looked at after each call of the sink.

        Raises:
            TimeoutError: it did not hold within `timeout` seconds.
        """
        with anyio.fail_after(timeout):
            while not condition():
                self._came = anyio.Event()
                await self._came.wait()

    def of(self, room: str) -> list[Delivery]:
        """The deliveries of a room."""
        return [delivery for delivery in self.deliveries if delivery.room == room]

    def bodies(self, room: str) -> list[bytes]:
        """Their bodies."""
        return [delivery.body for delivery in self.of(room)]


class Node(NamedTuple):
    """A started backplane with its sink."""

    backplane: Backplane
    sink: Recorder
    name: str
    policies: dict[str, HistoryPolicy]
    """Of rooms that have another one than `POLICY`; to be set before a room is used."""

    async def publish(self, room: str, *bodies: bytes, policy: HistoryPolicy = POLICY) -> None:
        """Publish without keys, one after the other."""
        for body in bodies:
            await self.backplane.publish(room, body, key=None, policy=policy)

    async def receive(self, room: str, count: int) -> list[Delivery]:
        """Wait until `count` deliveries of a room have come."""
        await self.sink.until(lambda: len(self.sink.of(room)) >= count)
        return self.sink.of(room)

    async def receive_ephemeral(self, count: int) -> None:
        """Wait until `count` events without number have come."""
        await self.sink.until(lambda: len(self.sink.ephemerals) >= count)

    async def fence(self, other: Node, room: str) -> None:
        """Wait until something that `other` publishes now has come: what it sent before has come, too."""
        await self.backplane.subscribe(room)
        await other.publish(room, b"fence")
        await self.sink.until(lambda: b"fence" in self.sink.bodies(room))


class Faults(Protocol):
    """What the second half of the suite does to a real store and its links."""

    async def cut(self, backplane: Backplane) -> None:
        """Break the link between this node and the store."""

    async def heal(self, backplane: Backplane) -> None:
        """Let it come back."""

    async def lose(self) -> None:
        """Delete all that the store holds."""


def require(capability: bool, name: str) -> None:
    """Skip a test that asks for what the backplane says it cannot do."""
    if not capability:
        pytest.skip(f"the backplane has no {name}")


@asynccontextmanager
async def running(make_backplane: MakeBackplane, name: str) -> AsyncIterator[Node]:
    """A started node."""
    backplane, sink = await make_backplane(), Recorder()
    policies: dict[str, HistoryPolicy] = {}
    if isinstance(backplane, PolicyAware):
        backplane.configure({"": POLICY}, lambda room: policies.get(room, POLICY))
    await backplane.start(sink, name)
    try:
        yield Node(backplane, sink, name, policies)
    finally:
        await backplane.aclose()


class Base:
    """The fixtures. Attributes say what waiting costs.

    Attributes:
        several_nodes: whether `make_backplane` gives nodes of one store although the backplane
            says it is for one node only.
        lease: seconds that presence and slots outlive their last refresh, where a test may wait
            so long.
        idempotency_window: seconds that a publication's key is known, where a test may wait so long.
        pace: what times of seconds are multiplied with; less than 1 for a store whose time has to be waited for,
            and which counts it in milliseconds.
    """

    several_nodes: ClassVar[bool] = False
    lease: ClassVar[float | None] = None
    idempotency_window: ClassVar[float | None] = None
    pace: ClassVar[float] = 1.0

    @pytest.fixture
    async def make_backplane(self) -> MakeBackplane:
        """Override it: a coroutine function that gives an unstarted backplane, each time another node of one store."""
        raise NotImplementedError("the subclass has to define the fixture make_backplane")

    @pytest.fixture
    def lease_of_test(self, request: pytest.FixtureRequest) -> float | None:
        """The lease for `make_backplane` where time has to be waited for: `lease` in the tests that see one lapse.

        None in all others, which are to have the backplane's own: they take as long as the machine lets them.
        """
        return self.lease if "_lapses_" in request.function.__name__ else None

    @pytest.fixture
    def advance(self) -> Advance:
        """Lets time pass for the store. Override it where that need not be waited for."""
        return anyio.sleep

    @pytest.fixture
    def faults(self) -> Faults | None:
        """Override it to have the second half of the suite run."""
        return None

    @pytest.fixture(autouse=True)
    def _capability(self, request: pytest.FixtureRequest, node: Node) -> None:
        """Skips a group of tests: a group's own marks would hold for the whole suite, which inherits them."""
        group = request.function.__qualname__.partition(".")[0]
        capabilities = node.backplane.capabilities
        if group == "Presence":
            require(capabilities.presence, "presence")
        elif group == "Slots":
            require(capabilities.slots, "slots")
        elif group == "Replies":
            require(capabilities.replies, "replies")

    @pytest.fixture
    async def node(self, make_backplane: MakeBackplane) -> AsyncIterator[Node]:
        """One started node."""
        async with running(make_backplane, "node-a") as node:
            yield node

    @pytest.fixture
    async def other(self, make_backplane: MakeBackplane, node: Node) -> AsyncIterator[Node]:
        """Another node of the same store."""
        capabilities: Capabilities = node.backplane.capabilities
        require(capabilities.multi_node or self.several_nodes, "second node")
        async with running(make_backplane, "node-b") as other:
            yield other
