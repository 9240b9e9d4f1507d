"""The thread of a server under test, with an event loop of its own, and waiting for it that ends in any case.

A handler that blocks has the whole loop, and one that cannot be cancelled keeps it from its end. A test then fails, and
says where the thread is; the thread is left behind, and does not keep the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import traceback
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from types import FrameType
from typing import Any, TypeVar

from roomwire.core.errors import LocalError

__all__ = ["ServerThread"]

__tracebackhide__ = True  # pytest shows the test's own line

_T = TypeVar("_T")
_FRAMES = 6
"""Of a busy thread's stack that are shown: the last ones are the application's."""


class ServerThread:
    """It runs from here until `end`."""

    def __init__(self) -> None:
        self._begun: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        self._thread = threading.Thread(target=self._run, name="roomwire-server-under-test", daemon=True)
        self._thread.start()
        self._loop, self._ending = self._begun.result()
        self._stuck = False

    def _run(self) -> None:
        async def main() -> None:
            ending = asyncio.Event()
            self._begun.set_result((asyncio.get_running_loop(), ending))
            await ending.wait()

        # What a task raises is in its future, and raised where that is waited for.
        with contextlib.suppress(BaseException):
            asyncio.run(main())

    def start(self, function: Callable[[], Coroutine[Any, Any, _T]]) -> Future[_T]:
        """Run it there. A blocking portal would wait for the loop here, which may be busy.

        Raises:
            LocalError: this is the server's thread, or that has ended.
        """
        if threading.current_thread() is self._thread:
            raise LocalError("this is the server's own thread, where async functions are awaited")
        if not self._thread.is_alive():
            raise LocalError("the server has ended")
        return asyncio.run_coroutine_threadsafe(function(), self._loop)

    def call(self, function: Callable[[], Coroutine[Any, Any, _T]], seconds: float, late: str) -> _T:
        """Run it there and wait; it is cancelled where that takes too long. See `result`."""
        future = self.start(function)
        try:
            return self._waited(future, seconds, late)
        finally:
            future.cancel()

    def result(self, future: Future[_T], seconds: float, late: str) -> _T:
        """The result of what the server is made of. Where it is late, `end` waits no further.

        Args:
            future: of it.
            seconds: that it may take.
            late: what is said where it takes longer.

        Raises:
            LocalError: it took longer.
        """
        self._stuck = True
        found = self._waited(future, seconds, late)
        self._stuck = False
        return found

    def _waited(self, future: Future[_T], seconds: float, late: str) -> _T:
        try:
            return future.result(seconds)
        except TimeoutError:
            if future.done():
                raise  # its own
            raise LocalError(f"{late} within {seconds:g} s; {self.where()}") from None
        except BaseException:
            self._stuck = False
            raise

    def end(self, seconds: float) -> None:
        """Cancel what runs there, and wait until the thread has ended.

        Raises:
            LocalError: it has not after so many seconds. It ends when what keeps it ends.
        """
        with contextlib.suppress(RuntimeError):  # it has ended by itself
            self._loop.call_soon_threadsafe(self._ending.set)
        if self._stuck:
            return
        self._thread.join(seconds)
        if self._thread.is_alive():
            raise LocalError(f"the server's thread did not end within {seconds:g} s; {self.where()}")

    def where(self) -> str:
        """What the thread does now."""
        found: FrameType | None = sys._current_frames().get(self._thread.ident or 0)
        stack = traceback.extract_stack(found) if found is not None else []
        if not stack or stack[-1].filename.endswith("selectors.py") or stack[-1].name in ("select", "_run_once"):
            return (
                "its loop is idle: something waits there, such as the startup of a lifespan, or is not to be cancelled"
            )
        return "its thread is busy at:\n" + "".join(traceback.format_list(stack[-_FRAMES:])).rstrip()
