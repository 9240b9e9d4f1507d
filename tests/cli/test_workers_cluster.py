"""Workers joined by a real Redis: messages between them, one that is killed, all that are started anew."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from roomwire.client import Client, Event, Recovered, StateReset, connect
from tests.cli.conftest import Process, running
from tests.cli.workers import READY, Peer, await_end, project_with_workers, spread, token, who, workers_of
from tests.servers import RedisServer

WORKERS = 2

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@dataclass
class Running:
    process: Process
    folder: Path
    address: str


@pytest.fixture(scope="module")
def server(redis_session: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    options = f'type = "redis"\n[backplane.options]\nurl = "{redis_session.url}"\nkey_prefix = "workers:"'
    project = project_with_workers(tmp_path_factory.mktemp("workers"), backplane=options, workers=WORKERS)
    with running(project.start("run")) as process:
        yield Running(process, project.folder, process.read_until(READY)[1])
        process.interrupt()
        assert process.wait() == 0
        assert "Traceback" not in process.seen


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(4096, limits[0]), limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@dataclass
class Reader:
    """A client that keeps what it gets.

    Attributes:
        pid: the process of its worker at first.
        numbers: what was said, in the order in which it came.
        proofs: how often it was told that nothing was missed.
        resets: how often that could not be proven.
    """

    client: Client
    pid: int
    numbers: list[int] = field(default_factory=list)
    proofs: int = 0
    resets: int = 0

    async def read_to(self, last: int) -> None:
        async for item in self.client:
            match item:
                case Event(name="said", data=number):
                    self.numbers.append(number)
                    if number == last:
                        return
                case Recovered():
                    self.proofs += 1
                case StateReset():
                    self.resets += 1


@asynccontextmanager
async def readers(address: str) -> AsyncIterator[list[Reader]]:
    """Some, and at least one on each worker, whoever was there a moment ago."""
    async with AsyncExitStack() as stack:
        made: list[Reader] = []
        while len(made) < 2 * WORKERS or len({reader.pid for reader in made}) < WORKERS:
            client = await stack.enter_async_context(connect(address, token=token(f"reader{len(made)}")))
            answer: str = await client.send("who")
            made.append(Reader(client, int(answer.strip("<>").split()[0])))
        yield made


class Caller:
    """Connects again and again; every attempt has to succeed."""

    def __init__(self, address: str) -> None:
        self.pids: list[int] = []
        self._address = address
        self._once = asyncio.Event()
        self._task = asyncio.create_task(self._call())

    async def _call(self) -> None:
        while True:
            peer = await Peer.connect(self._address, f"caller{len(self.pids)}")
            self.pids.append(peer.pid)
            peer.close()
            self._once.set()

    async def called(self) -> None:
        """Once more; raises what made it fail."""
        self._once.clear()
        waiting = asyncio.create_task(self._once.wait())
        await asyncio.wait([waiting, self._task], return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if self._task.done():
            self._task.result()

    async def end(self) -> None:
        self._task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await self._task


async def say(speaker: Reader, numbers: range) -> None:
    for number in numbers:
        await speaker.client.send("say", number, room="lobby")


async def test_a_thousand_connections_are_spread(server: Running, many_descriptors: None) -> None:
    peers = await who(server.address, 1000)
    found = spread(peers)
    for peer in peers:
        peer.close()
    mean = 1000 / WORKERS
    assert len(found) == WORKERS
    assert all(abs(count - mean) <= 0.2 * mean for count in found), found


async def test_a_message_reaches_the_clients_of_all_workers(server: Running) -> None:
    async with readers(server.address) as clients:
        for number, client in enumerate(clients):
            await say(client, range(number, number + 1))
        last = len(clients) - 1
        async with asyncio.timeout(30):
            await asyncio.gather(*(client.read_to(last) for client in clients))
        assert [client.numbers for client in clients] == [list(range(last + 1))] * len(clients)


async def test_a_killed_worker(server: Running) -> None:
    """Its clients come back to the others and have missed nothing, nobody is refused, and there is a successor."""
    async with readers(server.address) as clients:
        victim, speaker = clients[0].pid, next(client for client in clients if client.pid != clients[0].pid)
        await say(speaker, range(100))
        os.kill(victim, signal.SIGKILL)
        await asyncio.to_thread(await_end, victim)
        caller = Caller(server.address)
        await say(speaker, range(100, 200))
        ended = await asyncio.to_thread(server.process.read_until, r"a worker ended.* pid=(\d+) how=\"by signal 9\"")
        assert int(ended[1]) == victim
        ready = await asyncio.to_thread(server.process.read_until, r"worker ready.* pid=(\d+)")
        await say(speaker, range(200, 300))
        while int(ready[1]) not in caller.pids:  # the successor is reached
            await caller.called()
        await caller.end()
        assert victim not in caller.pids
        await say(speaker, range(300, 301))
        async with asyncio.timeout(30):
            await asyncio.gather(*(client.read_to(300) for client in clients))
        for client in clients:
            assert client.numbers == list(range(301))
            assert client.resets == 0
            assert client.proofs == (client.pid == victim)
        assert len(workers_of(server.process)) == WORKERS


async def test_a_worker_that_drains_by_itself(server: Running) -> None:
    """A service manager tells every process of the service: the second SIGTERM cuts nothing off, and nobody waits."""
    peer = await Peer.connect(server.address)
    peer.send('{"event":"linger","id":"2","data":"drained"}')
    await peer.until("lingers")  # the drain waits for a handler that began
    os.kill(peer.pid, signal.SIGTERM)
    assert await peer.close_code() == 1012
    async with asyncio.timeout(30):
        others = await who(server.address, 10)
    assert peer.pid not in {other.pid for other in others}
    os.kill(peer.pid, signal.SIGTERM)
    others += await who(server.address, 10)
    (server.folder / "drained.go").touch()
    await asyncio.to_thread(await_end, peer.pid)
    assert (server.folder / "drained.done").exists()
    for other in (peer, *others):
        other.close()
    await asyncio.to_thread(server.process.read_until, rf"a worker ended.* pid={peer.pid} how=\"with exit code 0\"")
    await asyncio.to_thread(server.process.read_until, "worker ready")


async def test_a_successor_that_ends_while_the_one_before_drains(server: Running) -> None:
    """The worker has another process then, and the others stay as they are."""
    before = workers_of(server.process)
    peers = await who(server.address, 10)  # none of them answers the close, so that the drain lasts
    server.process.popen.send_signal(signal.SIGHUP)
    ready = await asyncio.to_thread(server.process.read_until, r"worker ready.* worker=1 pid=(\d+)")
    os.kill(int(ready[1]), signal.SIGKILL)
    await asyncio.to_thread(server.process.read_until, f"a worker ended.* pid={ready[1]} ")
    await asyncio.to_thread(server.process.read_until, "no further worker is started anew")
    again = await asyncio.to_thread(server.process.read_until, r"worker ready.* worker=1 pid=(\d+)")
    for peer in peers:
        peer.close()
    (first,) = (pid for pid in before if f" worker=1 pid={pid}\n" in server.process.seen)
    await asyncio.to_thread(await_end, first)
    assert set(before) - {first} | {int(again[1])} == set(workers_of(server.process)) - {first}


async def test_all_anew(server: Running) -> None:
    """SIGHUP: one after the other is replaced, nobody is refused, and nothing is missed.

    Also after one that led to nothing, since the parent had no descriptor left.
    """
    before = set(workers_of(server.process))
    pid = server.process.popen.pid
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    server.process.popen.send_signal(signal.SIGHUP)
    await asyncio.to_thread(server.process.read_until, "a worker cannot be started .*worker=1 ")
    resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
    env = server.folder / ".env"
    env.write_text(env.read_text().replace("CHAT_SETTING=old", "CHAT_SETTING=new"))
    async with readers(server.address) as clients:
        caller = Caller(server.address)
        server.process.popen.send_signal(signal.SIGHUP)
        await asyncio.to_thread(server.process.read_until, "all workers are new")
        await caller.end()
        assert before.isdisjoint(workers_of(server.process))
        assert len(workers_of(server.process)) == WORKERS
        assert await clients[0].client.send("setting") == "new"
        await say(clients[0], range(1))
        async with asyncio.timeout(30):
            await asyncio.gather(*(client.read_to(0) for client in clients))
        assert [(client.numbers, client.resets) for client in clients] == [([0], 0)] * len(clients)


async def test_what_does_not_start_replaces_nothing(server: Running) -> None:
    before = workers_of(server.process)
    source = server.folder / "chatapp.py"
    text = source.read_text()
    source.write_text("1 / 0\n")
    server.process.popen.send_signal(signal.SIGHUP)
    await asyncio.to_thread(server.process.read_until, "importing chatapp failed: ZeroDivisionError")
    await asyncio.to_thread(server.process.read_until, "a worker cannot be replaced: it stays .*worker=1 ")
    source.write_text(text)
    peer = await Peer.connect(server.address)
    peer.close()
    assert workers_of(server.process) == before
    assert peer.pid in before
