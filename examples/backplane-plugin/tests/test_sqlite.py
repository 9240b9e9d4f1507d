"""What the conformance suite cannot know of: the file, its locks, its neighbours, and processes that are killed."""

from __future__ import annotations

import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Literal

import anyio
import pytest
from anyio.lowlevel import checkpoint

from roomwire.backplanes.contract import HistoryPolicy, Holder, Member
from roomwire.core.errors import LocalError, Unavailable
from roomwire.testing.backplane import Recorder
from roomwire.testing.clock import VirtualClock
from roomwire_sqlite import SqliteBackplane, SqliteOptions
from roomwire_sqlite.store import LIVE, STREAM_TTL, Store, nodes_folder
from roomwire_sqlite.worker import Worker

pytestmark = pytest.mark.anyio

POLICY = HistoryPolicy(size=100, ttl=600.0)
# A process is slow to start, and what the file does is the same under any event loop.
on_asyncio = pytest.mark.parametrize("anyio_backend", ["asyncio"])
ANN = Member("ann", "client-1", "connection-1")

# A node's process, as far as the file is concerned: it stands still between a write and the end of the transaction,
# or, "after" it, with the file open.
NEIGHBOUR = """
import sys, time
from pathlib import Path
from roomwire.backplanes.contract import HistoryPolicy
from roomwire_sqlite.store import Store

def stand_still():
    print("standing still", flush=True)
    sys.stdin.read()

store = Store(Path(sys.argv[1]), 5.0, time.monotonic)
with store.transaction(writing=True):
    store.publish("r", b"neighbour", "k", HistoryPolicy(), 300.0)
    if sys.argv[2] == "within":
        stand_still()
stand_still()
"""


class Node:
    def __init__(self, backplane: SqliteBackplane) -> None:
        self.backplane = backplane
        self.sink = Recorder()

    async def publish(self, body: bytes, policy: HistoryPolicy = POLICY) -> None:
        await self.backplane.publish("r", body, key=None, policy=policy)


MakeNode = Callable[..., AbstractAsyncContextManager[Node]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "db"


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def running(path: Path, clock: VirtualClock) -> MakeNode:
    """A node; the default of `poll` is too long to be waited for: what comes has come by a ring."""

    @asynccontextmanager
    async def running(name: str = "a", poll: float = 10.0, busy_timeout: float = 5.0) -> AsyncIterator[Node]:
        options = SqliteOptions(path=path, poll=poll, busy_timeout=busy_timeout)
        node = Node(SqliteBackplane(options, clock=clock))
        await node.backplane.start(node.sink, name)
        try:
            yield node
        finally:
            await node.backplane.aclose()

    return running


@contextmanager
def neighbour(path: Path, where: Literal["within", "after"]) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", NEIGHBOUR, str(path), where]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "standing still\n"
            yield process
        finally:
            process.kill()


def rows_of(path: Path) -> dict[str, int]:
    with closing(sqlite3.connect(path)) as db:
        names = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: db.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in names}


class TestTheFile:
    async def test_a_restart_keeps_numbers_and_history(self, running: MakeNode) -> None:
        async with running() as node:
            since = await node.backplane.subscribe("r")
            await node.publish(b"1")
        async with running() as node:
            await node.publish(b"2")
            page = await node.backplane.history("r", since, 10)
            assert ([entry.body for entry in page.entries], page.reason) == ([b"1", b"2"], None)
            assert page.top == (since.epoch, since.offset + 2)

    async def test_after_it_was_deleted_all_nodes_meet_in_a_new_one(self, running: MakeNode, path: Path) -> None:
        async with running("a") as one, running("b") as two:
            since = await one.backplane.subscribe("r")
            await two.backplane.subscribe("r")
            await one.publish(b"lost")
            await two.sink.until(lambda: two.sink.deliveries)
            path.unlink()  # in one step: what is beside it, the next that opens it removes
            assert (await two.backplane.history("r", since, 10)).reason == "epoch"
            await one.publish(b"new")
            for node in (one, two):
                await node.sink.until(lambda node=node: node.sink.deliveries[-1].body == b"new")  # type: ignore[misc]
                assert node.sink.deliveries[-1].epoch != since.epoch
                assert node.sink.interruptions == [None]
            assert one.sink.deliveries[-1] == two.sink.deliveries[-1]

    @on_asyncio
    async def test_what_another_process_still_holds_of_it_does_no_harm(self, running: MakeNode, path: Path) -> None:
        async with running() as node:
            with neighbour(path, "after"):
                path.unlink()  # and not what is beside it, which the neighbour has open
                for i in range(50):
                    await node.publish(b"%d" % i)
                with closing(sqlite3.connect(path)) as db:
                    assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
                    assert db.execute("SELECT count(*) FROM log").fetchone() == (50,)
            assert node.sink.availability == [True]

    async def test_a_copy_in_its_place_proves_nothing(self, running: MakeNode, path: Path) -> None:
        async with running() as node:
            since = await node.backplane.subscribe("r")
        copy = shutil.copy(path, path.with_name("copy"))  # nobody has it open: all of it is in the one file
        async with running() as node:
            await node.publish(b"not in the copy")
            Path(copy).rename(path)
            page = await node.backplane.history("r", since, 10)
            assert (list(page.entries), page.reason) == ([], "epoch")

    @on_asyncio
    async def test_what_was_killed_in_a_transaction_has_done_nothing(self, running: MakeNode, path: Path) -> None:
        async with running() as node:
            since = await node.backplane.subscribe("r")
            await node.publish(b"before")
            with neighbour(path, "within") as process:
                process.kill()
                process.wait()
            await node.backplane.publish("r", b"whole", key="k", policy=POLICY)
            page = await node.backplane.history("r", since, 10)
            assert [(entry.offset, entry.body) for entry in page.entries] == [(1, b"before"), (2, b"whole")]
            with closing(sqlite3.connect(path)) as db:
                assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)

    async def test_it_does_not_grow_for_ever(self, running: MakeNode, path: Path, clock: VirtualClock) -> None:
        async with running(poll=0.01) as node:
            backplane = node.backplane
            await backplane.subscribe("r")
            await backplane.publish("r", b"", key="k", policy=POLICY)
            await backplane.publish_ephemeral("r", b"")
            await backplane.reserve("k", "print", 15.0)
            await backplane.enter("r", ANN)
            await backplane.claim("ann", Holder("client-1", "connection-1", "a"), 1, evict=False)
            full = rows_of(path)
            assert [name for name, count in full.items() if not count] == []
            await node.sink.until(lambda: node.sink.changes == ["r"])
            clock.advance(STREAM_TTL + 1)
            await node.sink.until(lambda: node.sink.changes == ["r", "r"])  # of the lease that has lapsed
            clock.advance(LIVE + 1)
            while sum(rows_of(path).values()) > 2:
                await backplane.members("r")
            assert {name for name, count in rows_of(path).items() if count} == {"life", "sqlite_sequence"}

    async def test_a_database_of_somebody_else_is_left_alone(self, running: MakeNode, path: Path) -> None:
        with closing(sqlite3.connect(path)) as db:
            db.execute("CREATE TABLE streams (theirs)")
        before = path.read_bytes()
        with pytest.raises(
            LocalError, match=r"backplane\.options\.path: .*db: it is a database of another application"
        ):
            async with running():
                pass
        assert path.read_bytes() == before

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("missing/db", "No such file or directory"),
            ("a-name-that-is-too-long-for-a-unix-socket-" * 3, "AF_UNIX path too long"),
            (".", "Is a directory|unable to open"),
        ],
    )
    async def test_a_path_that_does_not_do_is_told_at_the_start(self, tmp_path: Path, name: str, message: str) -> None:
        backplane = SqliteBackplane(SqliteOptions(path=tmp_path / name))
        with pytest.raises(LocalError, match=rf"backplane\.options\.path: {tmp_path}.*({message})"):
            await backplane.start(Recorder(), "a")


class TestTheLock:
    """Another process is in the middle of a transaction, and stays there."""

    async def test_it_is_waited_for_off_the_loop(self, running: MakeNode, path: Path) -> None:
        async with running() as node:
            done: list[bytes] = []

            async def publish() -> None:
                await node.publish(b"waits")
                done.append(b"waits")

            with closing(sqlite3.connect(path, isolation_level=None)) as db:
                db.execute("BEGIN IMMEDIATE")
                async with anyio.create_task_group() as group:
                    group.start_soon(publish)
                    for _ in range(1000):
                        await checkpoint()
                    assert done == []
                    db.execute("COMMIT")
            assert done == [b"waits"]

    @on_asyncio
    async def test_who_waits_too_long_is_told_that_nothing_was_stored(self, running: MakeNode, path: Path) -> None:
        async with running(busy_timeout=0.05, poll=0.01) as node:
            since = await node.backplane.subscribe("r")
            with neighbour(path, "within"):
                with pytest.raises(Unavailable) as caught:
                    await node.publish(b"refused")
                assert caught.value.stored is False
                await node.sink.until(lambda: node.sink.availability == [True, False])
            await node.sink.until(lambda: node.sink.availability == [True, False, True])
            assert (await node.backplane.history("r", since, 10)).top == since

    async def test_a_disk_that_hangs_leaves_the_outcome_open(self, path: Path) -> None:
        class Listener(Recorder):
            def heard(self, news: object) -> None: ...
            def interrupted(self, rooms: object = None) -> None: ...

        begun, hung = threading.Event(), threading.Event()

        def work(store: Store) -> None:
            begun.set()
            hung.wait()

        def open_store() -> Store:
            return Store(path, 5.0, VirtualClock())

        worker = Worker(open_store, Listener(), patience=0.05, poll=10.0)
        outcomes: list[bool | None] = []
        try:
            # Until the thread has begun with one of them, they are withdrawn; and so is the one behind that.
            while None not in outcomes[:-1]:
                with pytest.raises(Unavailable) as caught:
                    await worker.do(work, writing=True)
                outcomes.append(caught.value.stored)
            assert begun.is_set()
            assert outcomes[-2:] == [None, False]
        finally:
            hung.set()
            await worker.aclose()

    async def test_what_cannot_be_bound_fails_alone(self, running: MakeNode) -> None:
        async with running() as node, anyio.create_task_group() as group:

            async def publish_nonsense() -> None:
                with pytest.raises(UnicodeEncodeError):
                    await node.backplane.publish("\ud800", b"", key=None, policy=POLICY)

            await node.backplane.subscribe("r")
            for i in range(3):
                group.start_soon(node.publish, b"%d" % i)
                group.start_soon(publish_nonsense)
            await node.sink.until(lambda: len(node.sink.deliveries) == 3)


class TestNeighbours:
    async def test_a_burst_reaches_all_though_the_history_is_short(self, running: MakeNode) -> None:
        policy = HistoryPolicy(size=5, ttl=600.0)
        async with running("a") as one, running("b") as two:
            await two.backplane.subscribe("r")
            async with anyio.create_task_group() as group:
                for i in range(400):
                    group.start_soon(one.publish, b"%d" % i, policy)
            await two.sink.until(lambda: len(two.sink.deliveries) == 400)
            assert [delivery.offset for delivery in two.sink.deliveries] == list(range(1, 401))

    async def test_a_lost_ring_is_made_up_for(self, running: MakeNode, path: Path) -> None:
        async with running("a") as one, running("b", poll=0.05) as two:
            await two.backplane.subscribe("r")
            nodes_folder(path).rename(path.with_name("away"))  # at once; while it is deleted, it is made again
            await one.publish(b"1")
            await two.sink.until(lambda: two.sink.deliveries)
            # Both have made themselves known again: by its own clock this one would not look before ten seconds.
            await one.backplane.subscribe("r")
            await two.publish(b"2")
            await one.sink.until(lambda: [delivery.body for delivery in one.sink.deliveries][-1:] == [b"2"])

    async def test_the_socket_of_a_dead_node_is_removed(self, running: MakeNode, path: Path) -> None:
        async with running() as node:
            dead = nodes_folder(path) / "dead.sock"
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as corpse:
                corpse.bind(str(dead))
            await node.publish(b"")
            await node.backplane.members("r")  # the round that rang is over
            assert not dead.exists()
        assert [file.name for file in nodes_folder(path).iterdir()] == ["lock"]

    async def test_who_looks_too_late_says_so(self, running: MakeNode, clock: VirtualClock) -> None:
        async with running() as node:
            await node.backplane.subscribe("r")
            clock.advance(LIVE - 1)
            await node.publish(b"in time")
            assert node.sink.interruptions == []
            clock.advance(LIVE + 1)
            await node.publish(b"late")
            assert node.sink.interruptions == [None]
