"""Calling what the application declared: its dependencies first, each as it has to be called, and clean-up after it.

Clean-up comes before the answer: what a dependency commits there is done when the sender has its ack, and
where that fails the sender is told so. A dependency sees what the handler raised, and may raise something
else; to hide it is not its to do.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import anyio.from_thread

from roomwire.core.errors import LocalError
from roomwire.core.injection import Plan, Step
from roomwire.core.routing import Bound, Hook
from roomwire.core.signatures import Kind

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from roomwire.node.node import Node
    from roomwire.node.threads import Place, Threads

__all__ = ["from_thread", "invoke"]

T = TypeVar("T")


async def invoke(node: Node, hook: Hook, arguments: dict[str, object]) -> Any:
    """Call a hook with what `Hook.bind` gave; raises whatever it, a dependency or clean-up raises."""
    plan = hook.plan
    if plan is None:
        return await hook.function(**arguments)
    assert isinstance(arguments, Bound)
    if not plan.holds:
        return await _Invocation(node.threads, None).run(hook, plan, arguments)
    async with node.threads.place() as place:
        return await _Invocation(node.threads, place).run(hook, plan, arguments)


class _Invocation:
    """One call of one function.

    Args:
        threads: the threads of the node.
        place: the place that it has from its start to its end; None where it takes one for each call.
    """

    __slots__ = ("_open", "_place", "_threads")

    def __init__(self, threads: Threads, place: Place | None) -> None:
        self._threads = threads
        self._place = place
        self._open: list[AbstractAsyncContextManager[Any] | AbstractContextManager[Any]] = []

    async def run(self, hook: Hook, plan: Plan, arguments: Bound) -> Any:
        slots = arguments.slots
        try:
            for step in plan.steps:
                slots.append(await self._provide(step, {name: slots[slot] for name, slot in step.takes}))
            for name, slot in plan.takes:
                arguments[name] = slots[slot]
            if plan.blocks:
                value = await self._in_thread(hook.name, functools.partial(hook.function, **arguments))
            else:
                value = await hook.function(**arguments)
        except BaseException as error:
            other = await self._close(error)
            if other is not None and other is not error:
                raise other  # noqa: B904  what clean-up raised has `error` as its context already
            raise
        failure = await self._close(None)
        if failure is not None:
            raise failure
        return value

    async def _provide(self, step: Step, arguments: dict[str, object]) -> Any:
        match step.kind:
            case Kind.ASYNC:
                return await step.call(**arguments)
            case Kind.CLASS:
                return step.call(**arguments)
            case Kind.SYNC:
                return await self._in_thread(step.name, functools.partial(step.call, **arguments))
            case Kind.ASYNC_GENERATOR:
                manager: AbstractAsyncContextManager[Any] = step.call(**arguments)
                value = await manager.__aenter__()
                self._open.append(manager)
                return value
            case Kind.GENERATOR:
                blocking: AbstractContextManager[Any] = step.call(**arguments)
                value = await self._in_thread(step.name, blocking.__enter__)
                self._open.append(blocking)
                return value

    async def _in_thread(self, name: str, function: Callable[[], Any]) -> Any:
        work = functools.partial(_checked, name, function)
        if self._place is not None:
            return await self._place.run(work)
        async with self._threads.place() as place:
            return await place.run(work)

    async def _close(self, error: BaseException | None) -> BaseException | None:
        """Clean up, the last one first; what has to be raised then."""
        while self._open:
            manager = self._open.pop()
            raised = (None if error is None else type(error), error, None if error is None else error.__traceback__)
            try:
                if isinstance(manager, AbstractAsyncContextManager):
                    await manager.__aexit__(*raised)
                else:
                    await self._close_in_thread(functools.partial(manager.__exit__, *raised))
            except BaseException as other:  # noqa: BLE001  raised by the caller, when all is cleaned up
                error = other
        return error

    async def _close_in_thread(self, close: Callable[[], object]) -> None:
        assert self._place is not None
        if not self._place.leave_behind(close):
            with anyio.CancelScope(shield=True):
                await self._place.run(close)


def _checked(name: str, function: Callable[[], Any]) -> Any:
    value = function()
    if inspect.iscoroutine(value):
        value.close()
        raise LocalError(f"{name} is a def, and returned a coroutine: make it an async def")
    return value


def from_thread(coroutine: Coroutine[Any, Any, T]) -> T:
    """Have the node's event loop run a coroutine, from a ``def`` handler, hook or dependency; waits for its end.

    ``publication = from_thread(app.publish("room", "event", data))``

    Raises:
        LocalError: this is no thread of a node's, or the node has ended.
        Exception: whatever the coroutine raises.
    """

    async def run() -> T:
        return await coroutine

    try:
        return anyio.from_thread.run(run)
    except (anyio.NoEventLoopError, anyio.RunFinishedError) as error:
        raise LocalError("from_thread is for what the node runs in a thread: await it instead") from error
    finally:
        coroutine.close()
