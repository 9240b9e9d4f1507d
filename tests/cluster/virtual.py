"""An event loop whose time passes only when nothing else is left to do, and a node's surroundings within it.

A second of virtual time costs what happens in it. The links between nodes and store lose, repeat and reorder what
they deliver; operations take a few turns of the loop, and may fail with or without having taken effect.
"""

from __future__ import annotations

import asyncio
import math
import selectors
from collections.abc import Callable, Collection, Sequence
from random import Random
from typing import Any

from roomwire.backplanes.contract import Sink
from roomwire.backplanes.memory import MemoryBackplane, MemoryHub
from roomwire.core.closing import Closing
from roomwire.core.errors import HandshakeRefused, Unavailable
from roomwire.core.request import RequestHead
from roomwire.testing.clock import VirtualClock
from roomwire.transports.contract import Capabilities, Framing, Host, Receiver

__all__ = ["Pipe", "ShakyBackplane", "VirtualLoop", "VirtualTransport"]


class _Selector(selectors.DefaultSelector):
    """Passes the time instead of waiting."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            raise RuntimeError("nothing would ever happen any more")
        if timeout > 0:
            self._clock.advance(timeout)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """Time stands still while callbacks run, and jumps to the next timer when none is left."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        super().__init__(_Selector(self.clock))

    def time(self) -> float:
        return self.clock()

    def turns(self, count: int) -> None:
        """So many turns, in which no time passes."""
        for _ in range(count):
            self.call_soon(self.stop)
            self.run_forever()

    def pass_time(self, seconds: float) -> None:
        """All that happens in so many seconds."""
        self.run_until_complete(asyncio.sleep(seconds))


Delivery = tuple[str, str, int, int, bytes]


class _Wire:
    """The sink that the store sees: deliveries wait until they are let through."""

    def __init__(self, backplane: ShakyBackplane, sink: Sink) -> None:
        self._backplane = backplane
        self._sink = sink

    def deliver(self, room: str, epoch: str, previous: int, offset: int, body: bytes) -> None:
        self._backplane.wire.append((room, epoch, previous, offset, body))

    def ephemeral(self, room: str, body: bytes) -> None:
        self._sink.ephemeral(room, body)

    def interrupted(self, rooms: Collection[str] | None) -> None:
        if not self._backplane.dead:
            self._sink.interrupted(rooms)

    def changed(self, room: str) -> None:
        if not self._backplane.dead and not self._backplane.deaf:
            self._sink.changed(room)

    def available(self, up: bool) -> None:
        if not self._backplane.dead:
            self._sink.available(up)

    def told(self, body: bytes) -> None:
        if not self._backplane.dead and not self._backplane.deaf:
            self._sink.told(body)


class ShakyBackplane:
    """The memory backplane over a link that is none of the best.

    Args:
        hub: the store.
        chance: how long operations take, and which of them fail.

    Attributes:
        wire: deliveries under way.
        deaf: whether hints and orders of other nodes are lost.
        dead: whether the node was killed: nothing of it reaches the store any more.
        trouble: the share of publishes whose answer is lost.
    """

    def __init__(self, hub: MemoryHub, chance: Random) -> None:
        self.inner = MemoryBackplane(hub=hub)
        self.capabilities = self.inner.capabilities
        self.wire: list[Delivery] = []
        self.deaf = self.dead = False
        self.trouble = 0.0
        self._chance = chance
        self._sink: Sink | None = None

    async def start(self, sink: Sink, node: str) -> None:
        self._sink = sink
        await self.inner.start(_Wire(self, sink), node)

    async def aclose(self) -> None:
        await self.inner.aclose()

    def let_through(self, index: int = 0) -> None:
        """One delivery arrives."""
        delivery = self.wire.pop(index)
        if self._sink is not None and not self.dead:
            self._sink.deliver(*delivery)

    def kill(self) -> None:
        """The node is no more; what it holds in the store stays."""
        self.dead = True
        self.wire.clear()
        self.inner.cut()

    def __getattr__(self, name: str) -> Any:
        operation: Callable[..., Any] = getattr(self.inner, name)

        async def perform(*arguments: Any, **options: Any) -> Any:
            await self._take_a_while()
            value = await operation(*arguments, **options)
            await self._take_a_while()
            if self.dead:
                raise Unavailable("the node was killed", stored=None)
            if name == "publish" and self._chance.random() < self.trouble:
                raise Unavailable("the answer was lost", stored=None)
            return value

        return perform

    async def _take_a_while(self) -> None:
        for _ in range(self._chance.choice((0, 0, 1, 2, 5))):
            await asyncio.sleep(0)


class _Framing:
    """A block is its messages."""

    def block(self, messages: Sequence[str | bytes]) -> tuple[str | bytes, ...]:
        return tuple(messages)

    def size(self, block: tuple[str | bytes, ...]) -> int:
        return sum(map(len, block))


_FRAMING = _Framing()


class Pipe:
    """One connection, as the node writes to it: a `roomwire.transports.contract.Link`.

    Attributes:
        closing: the close that the node began.
        over: whether the node was told of the end.
    """

    framing: Framing = _FRAMING
    peer = "virtual"

    def __init__(self, take: Callable[[str], None], lost: Callable[[int], None]) -> None:
        self.wheel_slot = 0
        self._take = take
        self._lost = lost
        self.receiver: Receiver | None = None
        self.sent = 0
        self.closing: Closing | None = None
        self.over = False

    def write(self, block: tuple[str | bytes, ...], messages: int, *, counted: bool = True) -> None:
        if self.closing is None and not self.over:
            self.sent += messages
            for message in block:
                assert isinstance(message, str)
                self._take(message)

    def queued(self) -> int:
        return 0

    def uncounted(self) -> int:
        return 0

    def when_empty(self, callback: Callable[[], object]) -> None:
        callback()

    def ping(self) -> None:
        """Nobody is at the other end but a client that answers heartbeats."""

    def close(self, closing: Closing) -> None:
        if self.closing is None:
            self.closing = closing
            asyncio.get_running_loop().call_soon(self.end, closing.code)

    def pause_reading(self) -> None:
        """The client waits for its replies."""

    def resume_reading(self) -> None:
        """See above."""

    def send(self, text: str) -> None:
        """A message of the client's."""
        if self.receiver is not None and not self.over:
            self.receiver.received((text,), 1, len(text))

    def next_deadline(self) -> float:
        return math.inf if self.over or self.receiver is None else self.receiver.next_deadline()

    def expire(self, now: float) -> None:
        if self.receiver is not None and not self.over:
            self.receiver.poll(now)

    def end(self, code: int = 1006) -> None:
        """The link is no more."""
        if not self.over:
            self.over = True
            if self.receiver is not None:
                self.receiver.lost(code, "", by_peer=code == 1006)
            self._lost(code)


class VirtualTransport:
    """Connections without sockets."""

    capabilities = Capabilities()

    def __init__(self) -> None:
        self._host: Host | None = None
        self._closed = asyncio.Event()
        self.pipes: set[Pipe] = set()

    async def serve(self, host: Host, *, ready: Callable[[Sequence[str]], None]) -> None:
        self._host = host
        ready(["virtual"])
        await self._closed.wait()

    async def stop_accepting(self) -> None:
        """A handshake under way is answered."""

    async def aclose(self) -> None:
        for pipe in list(self.pipes):
            pipe.end()
        self._closed.set()

    async def connect(self, query: str, pipe: Pipe) -> int:
        """A handshake: 101, or the status of the refusal."""
        host = self._host
        if host is None or self._closed.is_set():
            return 0
        refusal = host.at_the_door()
        if refusal is not None:
            return refusal.status
        try:
            admission = await host.admit(RequestHead("GET", "/ws", query, (), "virtual"), None)
        except HandshakeRefused as error:
            return error.refusal.status
        if pipe.over or self._closed.is_set():
            host.abandon(admission)
            return 0
        pipe.receiver = admission.receiver
        self.pipes.add(pipe)
        admission.receiver.opened(pipe)
        host.wheel.arm(pipe)
        return 101
