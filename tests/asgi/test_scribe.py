"""The scribe's shared task: a link that ends in it takes nothing from the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import pytest

from roomwire.transports.asgi.scribe import Scribe


class _Tasks:
    """Runs the scribe's tasks in a task group."""

    def __init__(self, tasks: anyio.abc.TaskGroup) -> None:
        self._tasks = tasks

    def spawn(self, function: Callable[..., Any], *arguments: Any) -> Callable[[], object]:
        scope = anyio.CancelScope()

        async def run() -> None:
            with scope:
                await function(*arguments)

        self._tasks.start_soon(run)
        return scope.cancel

    def call_soon(self, callback: Callable[[], object]) -> None:
        """The scribe's look at a turn: none here, since no link suspends for long."""


class _Ending:
    """A link that ends while it is written, under a host that says nothing of the cancellation."""

    async def write_out(self, cancel: Callable[[], object]) -> None:
        cancel()

    def suspended(self) -> None: ...


class _Other(_Ending):
    def __init__(self) -> None:
        self.written = anyio.Event()

    async def write_out(self, cancel: Callable[[], object]) -> None:
        await anyio.lowlevel.checkpoint()
        self.written.set()


@pytest.mark.anyio
async def test_who_ends_while_it_is_written_cancels_no_other(anyio_backend: str) -> None:
    async with anyio.create_task_group() as tasks:
        runtime: Any = _Tasks(tasks)
        scribe, other = Scribe(runtime), _Other()
        ending: Any = _Ending()
        scribe.ask(ending)
        scribe.ask(other)  # type: ignore[arg-type]
    assert other.written.is_set()
