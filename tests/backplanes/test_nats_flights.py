"""Questions to NATS that several share, where the one who puts them is cancelled."""

from __future__ import annotations

import asyncio

import pytest

from roomwire.backplanes.nats.flights import Shared
from roomwire.core.errors import Unavailable

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_who_waits_hears_of_a_task_that_was_cancelled_before_it_began() -> None:
    async def ask() -> int:
        raise AssertionError("it is not asked")

    shared = Shared(ask)
    waiting = asyncio.create_task(shared())
    await asyncio.sleep(0)
    assert shared.task is not None
    shared.task.cancel()
    with pytest.raises(Unavailable):
        await waiting
    assert shared.task is None


async def test_who_waits_for_the_next_answer_hears_of_the_end_too() -> None:
    asked = asyncio.Event()

    async def ask() -> int:
        asked.set()
        await asyncio.Event().wait()
        return 1

    shared = Shared(ask)
    first = asyncio.create_task(shared())
    await asked.wait()
    second = asyncio.create_task(shared())
    await asyncio.sleep(0)
    assert shared.task is not None
    shared.task.cancel()
    for waiting in (first, second):
        with pytest.raises(Unavailable):
            await waiting
    assert shared.task is None


async def test_an_answer_is_shared_by_those_who_asked_before_the_question() -> None:
    answers = iter(range(10))

    async def ask() -> int:
        await asyncio.sleep(0)
        return next(answers)

    shared = Shared(ask)
    assert [*await asyncio.gather(shared(), shared(), shared())] == [0, 0, 0]
    assert await shared() == 1
