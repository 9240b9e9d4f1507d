"""Threads: where what blocks runs, a ``def`` of the application's. There are ``limits.threads`` places for them.

A thread cannot be stopped. Where nobody waits for it any more (the node ends, a snapshot had its time), it is
given up: it keeps its place until it ends, so that there are never more than there may be, and what was to be
cleaned up behind it is cleaned up there, by itself, since it still uses that.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

from roomwire.node import journal

if TYPE_CHECKING:
    from roomwire.node.node import Node

__all__ = ["Place", "Threads"]

_WAITING, _RUNNING, _GIVEN_UP, _ENDED = range(4)


class Threads:
    """The threads of a node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._places = anyio.CapacityLimiter(node.limits.threads)
        self._unlimited = anyio.CapacityLimiter(math.inf)

    @property
    def used(self) -> int:
        """Places that are taken."""
        return int(self._places.borrowed_tokens)

    @property
    def waiting(self) -> int:
        """Calls that wait for a place."""
        return self._places.statistics().tasks_waiting

    def place(self) -> Place:
        """A place to be entered; waits for a free one, first come, first served."""
        return Place(self._node, self._places, self._unlimited)


class Place:
    """One place: what is called here runs in a thread, one after the other. Take it with ``async with``."""

    __slots__ = ("_node", "_places", "_unlimited", "_work")

    def __init__(self, node: Node, places: anyio.CapacityLimiter, unlimited: anyio.CapacityLimiter) -> None:
        self._node = node
        self._places = places
        self._unlimited = unlimited
        self._work: _Work | None = None

    async def __aenter__(self) -> Place:
        await self._places.acquire_on_behalf_of(self)
        return self

    async def __aexit__(self, *_: object) -> None:
        if not self.leave_behind(self._free_from_thread):
            self._free()

    async def run(self, function: Callable[[], Any]) -> Any:
        """Call it in a thread, with the context variables of this task; it is given up where this is cancelled."""
        self._work = work = _Work(function)
        return await anyio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=self._unlimited)

    def leave_behind(self, function: Callable[[], object]) -> bool:
        """Have a thread that was given up call it when it ends; False where there is none."""
        return self._work is not None and self._work.give_up(function)

    def _free(self) -> None:
        self._places.release_on_behalf_of(self)

    def _free_from_thread(self) -> None:
        with suppress(RuntimeError):  # the loop has ended, and the places with it
            self._node.runtime.call_from_thread(self._free)


class _Work:
    """A function in a thread, which may end with nobody waiting for it."""

    __slots__ = ("_behind", "_function", "_lock", "_state")

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self._lock = threading.Lock()
        self._state = _WAITING
        self._behind: deque[Callable[[], object]] = deque()

    def __call__(self) -> Any:
        with self._lock:
            if self._state is _GIVEN_UP:
                return None  # before it began
            self._state = _RUNNING
        try:
            return self._function()
        finally:
            while (function := self._next()) is not None:
                try:
                    function()
                except Exception as error:  # noqa: BLE001  nobody waits for it
                    journal.failed(None, "clean-up of a thread that was given up", error)

    def _next(self) -> Callable[[], object] | None:
        with self._lock:
            if self._behind:
                return self._behind.popleft()
            self._state = _ENDED
            return None

    def give_up(self, function: Callable[[], object]) -> bool:
        """Nobody waits any more: call `function` at the end. False where it has ended, or never begins."""
        with self._lock:
            if self._state is _WAITING:
                self._state = _GIVEN_UP
            if self._state is not _RUNNING:
                return False
            self._behind.append(function)
            return True
