"""The event loop as the node sees it: one interface, for asyncio's loops and for any other of anyio's.

On asyncio (and uvloop) callbacks and tasks are the loop's own: `TaskGroup.start_soon` costs several
times `create_task`. Tasks are held in one place and end with the runtime, which cancels and awaits them.
Elsewhere a pump task runs the callbacks and a task group the tasks.

A task has the context variables of who spawns it. A callback has those of the moment of `settle`, since what
it does concerns others than who asked for it.

A fault in a callback, or in a task that has no boundary of its own, is the node's own fault: it is
reported, never swallowed.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import copy_context
from itertools import count
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel

__all__ = ["AsyncioRuntime", "PortableRuntime", "open_runtime"]

_PATIENCE = 1.0
"""Seconds until a task that swallowed its cancellation is cancelled once more."""

Clock = Callable[[], float]
Fault = Callable[[BaseException, str], None]


class AsyncioRuntime:
    """On a running asyncio loop."""

    def __init__(self, clock: Clock, fault: Fault) -> None:
        self.now = clock
        self._fault = fault
        self._loop = asyncio.get_running_loop()
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._numbers = count()
        self._context = copy_context()

    def settle(self) -> None:
        """Callbacks have the context variables of this moment from now on."""
        self._context = copy_context()

    def call_soon(self, callback: Callable[[], None]) -> None:
        """See `roomwire.transports.contract.Runtime`."""
        self._loop.call_soon(self._guarded, callback, context=self._context)

    def call_from_thread(self, callback: Callable[[], None]) -> None:
        """`call_soon`, from another thread. Raises a RuntimeError where the loop has ended."""
        self._loop.call_soon_threadsafe(self._guarded, callback, context=self._context)

    def _guarded(self, callback: Callable[[], None]) -> None:
        try:
            callback()
        except Exception as error:  # noqa: BLE001  the boundary of the node's callbacks
            self._fault(error, getattr(callback, "__qualname__", repr(callback)))

    def spawn(self, function: Callable[..., Awaitable[None]], *arguments: Any) -> Callable[[], object]:
        """See `roomwire.transports.contract.Runtime`."""
        number = next(self._numbers)
        task = self._tasks[number] = self._loop.create_task(self._run(number, function, arguments))
        return task.cancel

    async def _run(self, number: int, function: Callable[..., Awaitable[None]], arguments: tuple[Any, ...]) -> None:
        # A done callback would cost a turn of the loop, and a third of what a message does.
        try:
            await function(*arguments)
        except Exception as error:  # noqa: BLE001  the boundary of tasks without one of their own
            self._fault(error, getattr(function, "__qualname__", repr(function)))
        finally:
            self._tasks.pop(number, None)

    def is_cancelled(self) -> bool:
        """Whether a cancellation that the current task sees is meant for it."""
        task = asyncio.current_task()
        return task is None or task.cancelling() > 0

    async def drain(self) -> None:
        """Cancel what still runs, and wait for it to end; asked again, where it goes on all the same."""
        while self._tasks:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.wait(self._tasks.values(), timeout=_PATIENCE)
            # One that never ran has not left by itself.
            self._tasks = {number: task for number, task in self._tasks.items() if not task.done()}


class PortableRuntime:
    """On any backend of anyio's."""

    def __init__(self, clock: Clock, fault: Fault, tasks: anyio.abc.TaskGroup) -> None:
        self.now = clock
        self._fault = fault
        self._tasks = tasks
        self._scopes: set[anyio.CancelScope] = set()
        self._idle: anyio.Event | None = None
        self._callbacks: deque[Callable[[], None]] = deque()
        self._wake = anyio.Event()
        self._context = copy_context()
        self._token: Any = anyio.lowlevel.current_token().native_token

    def settle(self) -> None:
        """Callbacks have the context variables of this moment from now on."""
        self._context = copy_context()

    def call_soon(self, callback: Callable[[], None]) -> None:
        """See `roomwire.transports.contract.Runtime`."""
        self._callbacks.append(callback)
        self._wake.set()

    def call_from_thread(self, callback: Callable[[], None]) -> None:
        """`call_soon`, from another thread. Raises a RuntimeError where the loop has ended."""
        # This runtime is trio's, whose token passes callbacks on without waiting for them.
        self._token.run_sync_soon(self.call_soon, callback)

    async def pump(self) -> None:
        """Run the callbacks, those of one turn together."""
        while True:
            await self._wake.wait()
            self._wake = anyio.Event()
            for _ in range(len(self._callbacks)):
                callback = self._callbacks.popleft()
                try:
                    self._context.run(callback)
                except Exception as error:  # noqa: BLE001  the boundary of the node's callbacks
                    self._fault(error, getattr(callback, "__qualname__", repr(callback)))
            await anyio.lowlevel.checkpoint()

    def is_cancelled(self) -> bool:
        """Whether a cancellation that the current task sees is meant for it: trio has no other."""
        return True

    def spawn(self, function: Callable[..., Awaitable[None]], *arguments: Any) -> Callable[[], object]:
        """See `roomwire.transports.contract.Runtime`."""
        scope = anyio.CancelScope()
        self._scopes.add(scope)
        self._tasks.start_soon(self._run, scope, function, arguments)
        return scope.cancel

    async def _run(
        self, scope: anyio.CancelScope, function: Callable[..., Awaitable[None]], arguments: tuple[Any, ...]
    ) -> None:
        try:
            with scope:
                await function(*arguments)
        except Exception as error:  # noqa: BLE001  the boundary of tasks without one of their own
            self._fault(error, getattr(function, "__qualname__", repr(function)))
        finally:
            self._scopes.discard(scope)
            if self._idle is not None and not self._scopes:
                self._idle.set()

    async def drain(self) -> None:
        """Cancel what still runs, and wait for it to end."""
        while self._scopes:
            for scope in self._scopes:
                scope.cancel()
            self._idle = anyio.Event()
            await self._idle.wait()
        self._idle = None


@asynccontextmanager
async def open_runtime(fault: Fault, clock: Clock = time.monotonic) -> AsyncIterator[AsyncioRuntime | PortableRuntime]:
    """The runtime that fits the running loop; its tasks end with the block."""
    if _on_asyncio():
        runtime = AsyncioRuntime(clock, fault)
        try:
            yield runtime
        finally:
            with anyio.CancelScope(shield=True):
                await runtime.drain()
        return
    failure: Exception | None = None
    async with anyio.create_task_group() as tasks:
        portable = PortableRuntime(clock, fault, tasks)
        tasks.start_soon(portable.pump)
        try:
            yield portable
        except Exception as error:  # noqa: BLE001  raised below, where no task group wraps it
            failure = error
        finally:
            tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure


def _on_asyncio() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
