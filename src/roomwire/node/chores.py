"""Chores: work that is asked for in bursts, done by a few tasks.

A store that comes back, or a thousand clients that leave at once, ask for one thing to be done for each
of many rooms or connections. A task for each would be a burst at the store and in memory; here items wait
in a queue, and a few tasks, which exist only while something waits, take them from it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, Protocol, TypeVar

import anyio
import anyio.lowlevel

__all__ = ["Chores", "Spawner"]

Item = TypeVar("Item", bound=Hashable)


_TURN = 16
"""Items that one task does between two looks at the loop."""


class Spawner(Protocol):
    """What starts tasks: the node, whose runtime is not there before it serves."""

    def spawn(self, function: Callable[[], Awaitable[None]]) -> None:
        """Run it as a task of the node."""
        ...


class Chores(Generic[Item]):
    """Does `work` for each item that is added: once, by one task, and of all items a few at a time.

    An item added while it waits is still done once; added while it is being done, once more.

    Args:
        spawner: starts the tasks.
        work: what is to be done. It must not raise: that would be a fault of the node's.
        width: items that are being done at one time.
    """

    __slots__ = ("_again", "_due", "_idle", "_running", "_spawner", "_width", "_work", "_workers")

    def __init__(self, spawner: Spawner, work: Callable[[Item], Awaitable[None]], width: int) -> None:
        self._spawner = spawner
        self._work = work
        self._width = width
        self._workers = 0
        self._due: dict[Item, None] = {}
        self._running: set[Item] = set()
        self._again: set[Item] = set()
        self._idle: anyio.Event | None = None

    def __len__(self) -> int:
        return len(self._due) + len(self._running)

    def add(self, item: Item) -> None:
        """Have it done."""
        if item in self._running:
            self._again.add(item)
            return
        self._due[item] = None
        if self._workers < self._width:
            self._workers += 1
            self._spawner.spawn(self._run)

    async def _run(self) -> None:
        try:
            done = 0
            while self._due:
                item = next(iter(self._due))
                del self._due[item]
                await self._do(item)
                done += 1
                if done % _TURN == 0:
                    await anyio.lowlevel.checkpoint()  # work that never waits is not to hold up the loop
        finally:
            self._workers -= 1
            if not self and self._idle is not None:
                self._idle.set()

    async def _do(self, item: Item) -> None:
        self._running.add(item)
        try:
            await self._work(item)
        finally:
            self._running.discard(item)
            if item in self._again:
                self._again.discard(item)
                self._due[item] = None

    async def finished(self) -> None:
        """Wait until nothing is left to do."""
        while self:
            self._idle = anyio.Event()
            await self._idle.wait()
        self._idle = None
