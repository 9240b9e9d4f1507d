"""The loop as the node sees it, and work that comes in bursts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import pytest

from roomwire import App, Connection
from roomwire.backplanes.memory import MemoryBackplane, MemoryHub
from roomwire.node.chores import Chores
from roomwire.runtime import AsyncioRuntime, PortableRuntime, open_runtime
from tests.server.live import TIMEOUT, Shell, make_node, serving

pytestmark = pytest.mark.anyio

tenant: ContextVar[str] = ContextVar("tenant")


class Faults(list[tuple[str, str]]):
    """What a runtime reported."""

    def __call__(self, error: BaseException, where: str) -> None:
        self.append((str(error), where.rpartition(".")[2]))


@pytest.fixture
def faults() -> Faults:
    return Faults()


async def turns(count: int = 20) -> None:
    """Let the loop turn."""
    for _ in range(count):
        await anyio.lowlevel.checkpoint()


def fail() -> None:
    raise RuntimeError("a fault")


async def test_the_runtime_fits_the_loop(anyio_backend_name: str, faults: Faults) -> None:
    async with open_runtime(faults) as runtime:
        assert isinstance(runtime, AsyncioRuntime if anyio_backend_name == "asyncio" else PortableRuntime)


async def test_callbacks_run_in_their_order_and_never_at_once(faults: Faults) -> None:
    order: list[int] = []
    async with open_runtime(faults) as runtime:
        for number in range(5):
            runtime.call_soon(lambda number=number: order.append(number))  # type: ignore[misc]
        assert order == []
        await turns()
    assert order == [0, 1, 2, 3, 4]


async def test_a_callback_has_the_context_variables_of_the_moment_when_all_was_open(faults: Faults) -> None:
    seen: list[str] = []
    async with open_runtime(faults) as runtime:
        tenant.set("of the lifespan")
        runtime.settle()
        tenant.set("of a handler")
        runtime.call_soon(lambda: seen.append(tenant.get()))
        await anyio.to_thread.run_sync(runtime.call_from_thread, lambda: seen.append(tenant.get()))
        await turns()
    assert seen == ["of the lifespan"] * 2


async def test_a_callback_may_ask_for_another_turn(faults: Faults) -> None:
    order: list[str] = []
    async with open_runtime(faults) as runtime:

        def first() -> None:
            runtime.call_soon(lambda: order.append("second"))
            order.append("first")

        runtime.call_soon(first)
        await turns()
    assert order == ["first", "second"]


async def test_a_fault_in_a_callback_is_reported_and_the_others_run(faults: Faults) -> None:
    order: list[int] = []
    async with open_runtime(faults) as runtime:
        runtime.call_soon(fail)
        runtime.call_soon(lambda: order.append(1))
        await turns()
    assert faults == [("a fault", "fail")]
    assert order == [1]


async def test_a_fault_in_a_task_is_reported_with_its_name(faults: Faults) -> None:
    async def task() -> None:
        fail()

    async with open_runtime(faults) as runtime:
        runtime.spawn(task)
        await turns()
    assert faults == [("a fault", "task")]


async def test_tasks_end_with_the_runtime(faults: Faults) -> None:
    ended: list[str] = []

    async def stubborn() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await turns(3)
            ended.append("stubborn")

    async with open_runtime(faults) as runtime:
        runtime.spawn(stubborn)
        await turns()
        assert ended == []
    assert ended == ["stubborn"]
    assert faults == []


async def test_what_fails_in_the_block_comes_out_as_it_is(faults: Faults) -> None:
    with pytest.raises(KeyError, match="plain"):
        async with open_runtime(faults):
            raise KeyError("plain")


async def test_a_cancellation_for_the_task_and_one_that_is_not(anyio_backend_name: str, faults: Faults) -> None:
    seen: list[bool] = []

    async def cancelled() -> None:
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            seen.append(runtime.is_cancelled())
            raise

    async with open_runtime(faults) as runtime:
        runtime.spawn(cancelled)
        await turns()
        if anyio_backend_name == "asyncio":
            other = asyncio.get_running_loop().create_task(asyncio.sleep(3600))
            other.cancel()
            try:
                await other
            except asyncio.CancelledError:
                seen.append(runtime.is_cancelled())
    assert seen == ([False, True] if anyio_backend_name == "asyncio" else [True])


# --- chores


class Spawner:
    """Starts tasks in a group, and counts them."""

    def __init__(self, tasks: anyio.abc.TaskGroup) -> None:
        self._tasks = tasks
        self.started = 0

    def spawn(self, function: Callable[..., Any]) -> None:
        self.started += 1
        self._tasks.start_soon(function)


async def test_chores_are_done_once_each_a_few_at_a_time() -> None:
    done: list[int] = []
    at_once = most = 0

    async def work(item: int) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await turns(3)
        at_once -= 1
        done.append(item)

    async with anyio.create_task_group() as tasks:
        spawner = Spawner(tasks)
        chores = Chores(spawner, work, width=4)
        for item in [*range(50), *range(50)]:
            chores.add(item)
        assert len(chores) == 50
        await chores.finished()
    assert sorted(done) == list(range(50))
    assert most == spawner.started == 4
    assert len(chores) == 0


async def test_a_chore_added_while_it_is_done_is_done_again_and_never_twice_at_once() -> None:
    done: list[str] = []
    gate = anyio.Event()

    async def work(item: str) -> None:
        done.append("begin")
        await gate.wait()
        done.append("end")

    async with anyio.create_task_group() as tasks:
        chores = Chores(Spawner(tasks), work, width=4)
        chores.add("a")
        await turns()
        for _ in range(3):
            chores.add("a")
        assert len(chores) == 1
        gate.set()
        await chores.finished()
    assert done == ["begin", "end"] * 2


async def test_finished_chores_are_finished_at_once() -> None:
    async def work(item: int) -> None: ...

    async with anyio.create_task_group() as tasks:
        await Chores(Spawner(tasks), work, width=1).finished()


class Endless:
    """An application whose handlers do not come to an end while the node lives."""

    def __init__(self) -> None:
        self.began: list[int] = []
        self.first = anyio.Event()
        self.gone = anyio.Event()
        self.give_up = anyio.Event()
        self.order: list[str] = []
        self.app = App(lifespan=self.lifespan)

        @self.app.on("endless")
        async def endless(connection: Connection, number: int) -> None:
            self.began.append(number)
            self.first.set()
            try:
                await self.give_up.wait()
            finally:
                self.order.append("handler")

        @self.app.on_disconnect
        async def gone(connection: Connection) -> None:
            self.gone.set()

    @asynccontextmanager
    async def lifespan(self, app: App) -> AsyncIterator[None]:
        yield
        self.order.append("lifespan")


@pytest.mark.parametrize("id_", [None, "a"])
def test_what_a_client_that_is_gone_left_behind_does_not_keep_a_node_from_ending(shell: Shell, id_: str | None) -> None:
    endless = Endless()
    hub = MemoryHub()
    with anyio.from_thread.start_blocking_portal(shell.backend, dict(shell.backend_options)) as portal:
        node = make_node(endless.app, shell, backplane=MemoryBackplane(hub=hub), drain_timeout=0.1)
        with serving(node, portal) as server:
            client = server.connect()
            client.send("endless", 1, id="first")
            client.send("endless", 2, **({"id": id_} if id_ else {}))
            server.call(endless.first.wait)
            client.close()
            server.call(endless.gone.wait)
            portal.start_task_soon(node.drain.run)
            try:
                server.ended.result(TIMEOUT)
            finally:
                portal.call(endless.give_up.set)  # else a second handler keeps the test as well
    assert endless.began == [1]
    # A handler must not outlive what the lifespan closes.
    assert endless.order == ["handler", "lifespan"]
    # Another node may handle the message at once, without waiting for the lease.
    assert len(hub.replies) == 0
