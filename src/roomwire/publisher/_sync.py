"""The publisher for code that blocks: a view, a task of a queue, a script, a notebook.

Its calls are carried out by an `AsyncPublisher` in a loop of their own thread, so that they do the same
from any thread, and also in one whose loop is running. It opens with its first call, and once more in a
process that was forked off: threads do not survive a fork, and two processes on one socket mix up their
answers.
"""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar, overload

from roomwire.backplanes.contract import Backplane
from roomwire.config import Loaded, Settings
from roomwire.core.closing import CloseCode
from roomwire.core.errors import LocalError
from roomwire.core.limits import Limits
from roomwire.core.policy import RoomPolicy
from roomwire.core.publication import Publication
from roomwire.core.schema import EventSchema
from roomwire.publisher._async import AsyncPublisher
from roomwire.publisher._draft import Draft
from roomwire.publisher._plan import PATIENCE, Plan
from roomwire.publisher._thread import LoopThread

__all__ = ["Publisher"]

T = TypeVar("T")


class _Running(NamedTuple):
    loop: LoopThread
    publisher: AsyncPublisher

    def end(self) -> None:
        self.loop.end(self.publisher.aclose)

    def end_soon(self) -> None:
        # The collector calls from any thread, the loop's own included, and may not be held up.
        threading.Thread(target=self.end, name="roomwire-publisher-end", daemon=True).start()


class Publisher:
    """Publishes from code that blocks; `AsyncPublisher` is its form for event loops.

    One for a process is enough: its calls may come from any number of threads at the same time. It opens
    with its first call, so that it can stand at the top of a module, and closes with the program; `close`, or
    a ``with`` block, does so before. In a forked process, such as a worker of Celery's or gunicorn's, it
    opens anew.

    In code that runs in an event loop a call holds up that loop: use `AsyncPublisher` there.

    Args:
        backplane: a backplane's name, ``"package.module:Class"``, or a function that makes one.
        options: the backplane's own options, where it is named.
        rooms: room policies by pattern: the same as the nodes have.
        limits: likewise; `max_event_size` and `idempotency_window` are used.
        patience: seconds in which a publish is tried again; with 0 it is tried once.
    """

    def __init__(
        self,
        backplane: str | Callable[[], Backplane],
        options: Mapping[str, object] | None = None,
        *,
        rooms: Mapping[str, RoomPolicy] | None = None,
        limits: Limits | None = None,
        patience: float = PATIENCE,
    ) -> None:
        self._set_up(Plan.explicit(backplane, options, rooms, limits, patience))

    @classmethod
    def from_config(
        cls, path: str | Path | None = None, *, env_file: str | Path | None = None, patience: float = PATIENCE
    ) -> Self:
        """With the configuration that the nodes have; see `AsyncPublisher.from_config`."""
        return cls._of(Plan.of_config(path, env_file, patience))

    @classmethod
    def from_settings(cls, settings: Settings, *, loaded: Loaded | None = None, patience: float = PATIENCE) -> Self:
        """With settings that were loaded; `loaded` names their sources in errors."""
        return cls._of(Plan.of_settings(settings, loaded, patience))

    @classmethod
    def _of(cls, plan: Plan) -> Self:
        publisher = cls.__new__(cls)
        publisher._set_up(plan)
        return publisher

    def _set_up(self, plan: Plan) -> None:
        self._plan = plan
        self._running: _Running | None = None
        self._finalizer: weakref.finalize[[], Publisher] | None = None
        self._closed = False
        self._lock = threading.Lock()
        _all.add(self)

    # --- its life

    def open(self) -> None:
        """Connect to the backplane; nothing where it is connected. The first call of any other kind does so, too.

        Raises:
            ConfigError: the backplane joins no processes, or its options are wrong.
            PluginError: it cannot be found or loaded.
            Unavailable: it cannot be reached.
        """
        self._open()

    def _open(self) -> _Running:
        with self._lock:
            if self._closed:
                raise LocalError("the publisher is closed")
            if self._running is None:
                publisher = AsyncPublisher._of(self._plan)
                loop = LoopThread()
                try:
                    loop.call(publisher.open)
                except BaseException:
                    loop.end(publisher.aclose)
                    raise
                self._running = running = _Running(loop, publisher)
                self._finalizer = weakref.finalize(self, running.end_soon)
                self._finalizer.atexit = False  # then `_at_exit` closes it
            return self._running

    def close(self) -> None:
        """Disconnect, for good. Calls that are under way in other threads may fail."""
        with self._lock:
            running = self._let_go()
            self._closed = True
        if running is not None:
            running.end()

    def _let_go(self) -> _Running | None:
        running, self._running = self._running, None
        if self._finalizer is not None:
            self._finalizer.detach()
            self._finalizer = None
        return running

    def _forked(self) -> None:
        """In a forked process: what runs belongs to the other one, and is not touched any more."""
        self._lock = threading.Lock()
        running = self._let_go()
        if running is not None:
            _inherited.append(running)

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # --- what it does

    @overload
    def publish(
        self,
        room: str,
        event: EventSchema[None],
        data: None = None,
        *,
        key: str | None = None,
        exclude: str | None = None,
        user: str | None = None,
        history: bool = True,
    ) -> Publication: ...

    @overload
    def publish(
        self,
        room: str,
        event: EventSchema[T],
        data: T,
        *,
        key: str | None = None,
        exclude: str | None = None,
        user: str | None = None,
        history: bool = True,
    ) -> Publication: ...

    @overload
    def publish(
        self,
        room: str,
        event: str,
        data: object = None,
        *,
        key: str | None = None,
        exclude: str | None = None,
        user: str | None = None,
        history: bool = True,
    ) -> Publication: ...

    def publish(
        self,
        room: str,
        event: str | EventSchema[Any],
        data: object = None,
        *,
        key: str | None = None,
        exclude: str | None = None,
        user: str | None = None,
        history: bool = True,
    ) -> Publication:
        """Publish an event to all members of a room, on all nodes; returns when it is stored.

        Arguments and errors are those of `AsyncPublisher.publish`.
        """
        loop, publisher = self._open()
        return loop.call(
            lambda: publisher.publish(room, event, data, key=key, exclude=exclude, user=user, history=history)
        )

    def publish_many(self, drafts: Iterable[Draft]) -> list[Publication]:
        """Publish many events; see `AsyncPublisher.publish_many`."""
        batch = list(drafts)  # an iterator of the caller's is the caller's thread's
        loop, publisher = self._open()
        return loop.call(lambda: publisher.publish_many(batch))

    def disconnect(self, user: str, *, code: int = CloseCode.REMOVED, reason: str = "") -> None:
        """Close all connections of a user, on all nodes; see `AsyncPublisher.disconnect`."""
        loop, publisher = self._open()
        loop.call(lambda: publisher.disconnect(user, code=code, reason=reason))

    def add(self, user: str, room: str) -> None:
        """Put all connections of a user into a room; see `AsyncPublisher.add`."""
        loop, publisher = self._open()
        loop.call(lambda: publisher.add(user, room))

    def remove(self, user: str, room: str, reason: str = "") -> None:
        """Take all connections of a user out of a room; see `AsyncPublisher.remove`."""
        loop, publisher = self._open()
        loop.call(lambda: publisher.remove(user, room, reason))


_all: weakref.WeakSet[Publisher] = weakref.WeakSet()
_inherited: list[_Running] = []
"""Kept, since the collector would close descriptors of theirs."""


def _after_fork() -> None:
    for publisher in list(_all):
        publisher._forked()


def _at_exit() -> None:
    for publisher in list(_all):
        publisher.close()


os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
