"""One question for many who ask it, and many at a time but not too many."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, Generic, TypeVar

from roomwire.core.errors import Unavailable

__all__ = ["Shared", "all_of"]

T = TypeVar("T")

_AT_A_TIME = 128


class Shared(Generic[T]):
    """Shares the answer to a question among those who asked before it was put.

    An answer may be older than who asks while it is under way, so those wait for the next one.
    """

    def __init__(self, ask: Callable[[], Awaitable[T]]) -> None:
        self._ask = ask
        self._next: asyncio.Future[T] | None = None
        self._task: asyncio.Task[None] | None = None

    async def __call__(self) -> T:
        """The answer to a question that is put after this call."""
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
        answer = self._next
        if self._task is None:
            self._task = asyncio.create_task(self._run())
            self._task.add_done_callback(self._ended)
        return await asyncio.shield(answer)

    async def _run(self) -> None:
        try:
            while self._next is not None:
                answer, self._next = self._next, None
                try:
                    answer.set_result(await self._ask())
                except BaseException as error:
                    ended = isinstance(error, asyncio.CancelledError)
                    _fail(answer, Unavailable("the NATS backplane is closed") if ended else error)
                    if ended:
                        raise
        finally:
            self._give_up()

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task is self._task:  # it was cancelled before it had begun
            self._give_up()

    def _give_up(self) -> None:
        self._task = None
        if self._next is not None:
            _fail(self._next, Unavailable("the NATS backplane is closed"))
            self._next = None

    @property
    def task(self) -> asyncio.Task[None] | None:
        """What is at work, if anything is."""
        return self._task


def _fail(answer: asyncio.Future[Any], error: BaseException) -> None:
    answer.set_exception(error)
    answer.exception()  # nobody may be waiting any more


async def all_of(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The results, in order, of at most so many at a time. The first fault is raised once all have ended."""
    gate = asyncio.Semaphore(_AT_A_TIME)

    async def do(work: Coroutine[Any, Any, T]) -> T:
        async with gate:
            return await work

    results: list[T] = []
    fault: BaseException | None = None
    for result in await asyncio.gather(*(do(work) for work in works), return_exceptions=True):
        if isinstance(result, BaseException):
            fault = fault or result
        else:
            results.append(result)
    if fault is not None:
        raise fault
    return results
