"""A backplane whose operations are timed; only where metrics are on does it stand before the real one."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, cast

from roomwire.backplanes.contract import Backplane, Sink
from roomwire.core.positions import Position

if TYPE_CHECKING:
    from roomwire.node.meter import Meter

__all__ = ["OPERATIONS", "timed"]

OPERATIONS = tuple(
    name
    for name, member in vars(Backplane).items()
    if inspect.iscoroutinefunction(member) and name not in ("start", "aclose")
)
"""What is timed: every operation of the contract."""
_EVERY = 0.01
"""Seconds between two publications that are followed to their delivery: a hundred a second say enough."""
_FORGOTTEN = 60.0
"""Seconds after which a publication of which nothing was heard makes way for the next one."""


StandsAt = Callable[[str], Position | None]
"""Where this node stands in a room; None where nothing is delivered to it."""


def timed(backplane: Backplane, meter: Meter, stands_at: StandsAt) -> Backplane:
    """The same backplane, timed."""
    return cast("Backplane", _Timed(backplane, meter, stands_at))


class _Timed:
    """Passes everything on, and times the operations.

    A sample of the publications, of a room one at a time, is followed from the call to its delivery to this node.
    """

    def __init__(self, backplane: Backplane, meter: Meter, stands_at: StandsAt) -> None:
        self._backplane = backplane
        self._meter = meter
        self._stands_at = stands_at
        self._followed: dict[str, tuple[bytes, float]] = {}
        self._next = 0.0
        for name in OPERATIONS:
            # One that fails on its first call has a histogram as well.
            meter.operation(name)
            setattr(self, name, self._time(name, getattr(backplane, name)))
        self._publish = self.publish
        self.publish = self._sample
        self._unsubscribe = self.unsubscribe
        self.unsubscribe = self._forget

    publish: Callable[..., Awaitable[Position]]
    unsubscribe: Callable[[str], Awaitable[None]]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backplane, name)

    def _time(self, name: str, operation: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        meter = self._meter
        histogram, clock = meter.operation(name), meter.clock

        async def call(*arguments: Any, **options: Any) -> Any:
            started = clock()
            try:
                return await operation(*arguments, **options)
            except Exception:
                meter.unavailable[name] += 1
                raise
            finally:
                histogram.observe(clock() - started)

        return call

    async def start(self, sink: Sink, node: str) -> None:
        await self._backplane.start(cast("Sink", _Watching(sink, self._followed, self._meter)), node)

    def _sample(self, room: str, body: bytes, **options: Any) -> Awaitable[Position]:
        now = self._meter.clock()
        if now < self._next or self._stands_at(room) is None:
            return self._publish(room, body, **options)
        other = self._followed.get(room)
        if other is not None and now < other[1] + _FORGOTTEN:
            return self._publish(room, body, **options)
        self._next = now + _EVERY
        return self._follow(room, body, now, options)

    async def _follow(self, room: str, body: bytes, now: float, options: dict[str, Any]) -> Position:
        followed = self._followed[room] = (body, now)
        try:
            position = await self._publish(room, body, **options)
        except BaseException:
            self._drop(room, followed)
            raise
        here = self._stands_at(room)
        if here is None or (here.epoch == position.epoch and here.offset >= position.offset):
            self._drop(room, followed)  # a retry with its key: it was delivered long ago
        return position

    def _drop(self, room: str, followed: tuple[bytes, float]) -> None:
        if self._followed.get(room) is followed:
            del self._followed[room]

    async def _forget(self, room: str) -> None:
        self._followed.pop(room, None)
        await self._unsubscribe(room)


class _Watching:
    """The hub, with an eye on the publications that are followed."""

    def __init__(self, sink: Sink, followed: dict[str, tuple[bytes, float]], meter: Meter) -> None:
        self._sink = sink
        self._followed = followed
        self._meter = meter

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sink, name)

    def deliver(self, room: str, epoch: str, previous: int, offset: int, body: bytes) -> None:
        followed = self._followed.get(room)
        if followed is not None and followed[0] == body:
            del self._followed[room]
            self._meter.delivery.observe(self._meter.clock() - followed[1])
        self._sink.deliver(room, epoch, previous, offset, body)
