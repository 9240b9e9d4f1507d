"""The thread that owns a node's connection to the file, and the only one that waits for a disk or a lock.

Its round: take the jobs that wait, carry the reading ones out in one transaction and the writing ones in another,
ring for the other nodes if something was put into the log, read what is new in it, hand all of it to the event loop,
wait for the next job or ring. So jobs that come while a round is under way share the next commit, and a slow disk
makes larger batches instead of a longer queue. Why a thread of its own, and not a thread pool or a task: a
transaction needs one thread from its beginning to its end; and a backplane, which is started and closed by calls,
has no task group to run tasks in, while a thread runs beside any event loop (`anyio.from_thread` leads back).
"""

from __future__ import annotations

import os
import select
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Generic, Protocol, TypeVar, cast

import anyio
import anyio.from_thread
from anyio.lowlevel import current_token

from roomwire.core.errors import LocalError, Unavailable
from roomwire_sqlite.doorbell import Doorbell
from roomwire_sqlite.store import LIVE, NEWS_ROWS, News, Store, nodes_folder

__all__ = ["Listener", "Worker"]

T = TypeVar("T")

_BATCH = 256
"""Jobs of one round: no commit is larger, whatever waits."""
_SWEEP_EVERY = 1.0


class Listener(Protocol):
    """What is called on the event loop. Its functions do not raise."""

    def heard(self, news: Sequence[News]) -> None:
        """There is something new in the log."""

    def available(self, up: bool) -> None:
        """Whether the file can be reached."""

    def interrupted(self) -> None:
        """Something in the log may have been missed."""


class _Job(Generic[T]):
    """Something to be done with the store, for a coroutine that waits."""

    __slots__ = ("done", "error", "settled", "stored", "value", "work", "writing")

    def __init__(self, work: Callable[[Store], T], writing: bool) -> None:
        self.work = work
        self.writing = writing
        self.value: T | None = None
        self.error: Exception | None = None
        self.settled = False  # there is a value or an error
        self.stored: bool | None = False  # where it fails now; None: nobody knows
        self.done = anyio.Event()

    def fail(self, error: Exception) -> None:
        self.error = error
        self.settled = True


class Worker:
    """See the module's text.

    Args:
        open_store: opens the file; called in the thread, also after a fault and where the file was replaced.
        listener: hears what is new.
        patience: seconds for which a coroutine waits for its job.
        poll: seconds between two looks into the log where nobody rings.
    """

    def __init__(self, open_store: Callable[[], Store], listener: Listener, *, patience: float, poll: float) -> None:
        self._open_store = open_store
        self._listener = listener
        self._patience = patience
        self._poll = poll
        self._jobs: deque[_Job[Any]] = deque()
        self._closing = False
        self._ended = anyio.Event()
        self._token = current_token()
        self._woken = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        # Of the thread alone.
        self._store: Store | None = None
        self._bell: Doorbell | None = None
        self._life = ""
        self._seen = 0  # all of the log up to here was handed over
        self._looked_at = 0.0
        self._swept_at = 0.0
        self._up: bool | None = None
        threading.Thread(target=self._run, name="roomwire-sqlite", daemon=True).start()

    # --- on the event loop

    async def do(self, work: Callable[[Store], T], *, writing: bool) -> T:
        """Have `work` done within a transaction.

        Raises:
            Unavailable: it was not done, or may not have been (``stored=None``).
        """
        if self._closing:
            raise Unavailable("the backplane is closed", stored=False)
        job = _Job(work, writing)
        self._jobs.append(job)
        os.eventfd_write(self._woken, 1)
        withdrawn = False
        try:
            with anyio.move_on_after(self._patience):
                await job.done.wait()
        finally:  # also where the caller is cancelled
            if not job.done.is_set():
                withdrawn = self._withdraw(job)
        if not job.done.is_set():
            problem = f"the store did not answer within {self._patience:g} s"
            raise Unavailable(problem, stored=False if withdrawn else None)
        if job.error is not None:
            raise job.error
        return cast("T", job.value)

    def _withdraw(self, job: _Job[Any]) -> bool:
        """Whether it had not begun, and will not."""
        try:
            self._jobs.remove(job)
        except ValueError:
            return False
        return True

    async def aclose(self) -> None:
        """End the thread, after the round that is under way."""
        self._closing = True
        os.eventfd_write(self._woken, 1)
        with anyio.CancelScope(shield=True):  # a round takes no longer than the store's time-outs
            await self._ended.wait()
        os.close(self._woken)
        for job in self._jobs:
            job.fail(Unavailable("the backplane is closed", stored=False))
            job.done.set()

    def _hand_over(self, up: bool, missed: bool, news: Sequence[News], jobs: Sequence[_Job[Any]]) -> None:
        """What a round has brought."""
        if up != self._up:
            self._listener.available(up)
        if missed:
            self._listener.interrupted()
        self._listener.heard(news)
        for job in jobs:
            job.done.set()

    # --- in the thread

    def _run(self) -> None:
        with suppress(anyio.RunFinishedError):  # the loop is gone, and nobody waits any more
            try:
                while not self._closing:
                    self._round()
            finally:
                self._closing = True  # by a fault of ours, which Python prints: nobody is to wait for this thread
                self._let_go()
                self._call(self._ended.set)

    def _call(self, function: Callable[..., None], *arguments: object) -> None:
        """Call it on the event loop, and wait: what a node cannot keep up with stays in the file."""
        anyio.from_thread.run_sync(function, *arguments, token=self._token)

    def _round(self) -> None:
        jobs = [self._jobs.popleft() for _ in range(min(len(self._jobs), _BATCH))]
        news: list[News] = []
        missed = False
        try:
            store, bell, missed = self._reach()
            self._carry_out(store, [job for job in jobs if not job.writing], writing=False)
            self._carry_out(store, [job for job in jobs if job.writing], writing=True)
            self._sweep(store)
            if store.logged:
                store.logged = False
                bell.ring()
            now = store.clock()
            missed |= now - self._looked_at > LIVE
            news = store.news(self._seen)
            if news:
                self._seen = news[-1].seq
            if len(news) < NEWS_ROWS:
                self._looked_at = now
            up = True
        except (sqlite3.Error, OSError, LocalError) as error:
            up = False
            self._let_go()  # whatever it was, it is healed by a new connection or not at all
            for job in jobs:
                if not job.settled:
                    job.fail(_unavailable(error, job.stored))
        if jobs or news or missed or up != self._up:
            self._call(self._hand_over, up, missed, news, jobs)
            self._up = up
        if not self._jobs and len(news) < NEWS_ROWS:
            self._wait()

    def _reach(self) -> tuple[Store, Doorbell, bool]:
        """The file, opened where that has to be; and whether something may have been missed meanwhile."""
        if self._store is not None and self._bell is not None and self._store.in_place and self._bell.in_place:
            return self._store, self._bell, False
        self._let_go()
        self._store = self._open_store()
        self._bell = Doorbell(nodes_folder(self._store.path))
        missed = self._up is False
        if self._store.life != self._life:
            missed = self._up is not None
            self._life = self._store.life
            self._seen = self._store.end_of_log()
            self._looked_at = self._store.clock()
        return self._store, self._bell, missed

    def _let_go(self) -> None:
        if self._store is not None:
            self._store.close()
        if self._bell is not None:
            self._bell.close()
        self._store = self._bell = None

    def _carry_out(self, store: Store, jobs: list[_Job[Any]], *, writing: bool) -> None:
        """Do the jobs in one transaction. One that cannot be done, such as for a name that is no text, fails alone."""
        while jobs:
            job = jobs[0]
            try:
                with store.transaction(writing=writing):
                    for job in jobs:
                        job.value = job.work(store)
                    for job in jobs:
                        job.stored = None  # until the commit has returned
                for job in jobs:
                    job.settled = True
                return
            except (sqlite3.Error, OSError):
                raise
            except Exception as error:  # noqa: BLE001  it is the caller's, who waits
                job.fail(error)
                jobs.remove(job)

    def _sweep(self, store: Store) -> None:
        now = store.clock()
        if now - self._swept_at >= _SWEEP_EVERY:
            self._swept_at = now
            if store.has_expired():
                with store.transaction(writing=True):
                    store.sweep()

    def _wait(self) -> None:
        """Wait for a job, for a ring, or until it is time to look without one."""
        poll = select.poll()  # not select.select, which cannot have descriptors above 1023
        poll.register(self._woken, select.POLLIN)
        if self._bell is not None:
            poll.register(self._bell, select.POLLIN)
        poll.poll(self._poll * 1000)
        with suppress(BlockingIOError):
            os.eventfd_read(self._woken)
        if self._bell is not None:
            self._bell.silence()


def _unavailable(cause: Exception, stored: bool | None) -> Unavailable:
    error = Unavailable(f"the file of the backplane cannot be used: {cause}", stored=stored)
    error.__cause__ = cause
    return error
