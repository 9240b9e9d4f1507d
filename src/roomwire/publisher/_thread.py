"""An event loop in a thread of its own, in which blocking calls are carried out."""

from __future__ import annotations

import logging
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import TypeVar

import anyio
from anyio.from_thread import BlockingPortal

__all__ = ["LoopThread"]

logger = logging.getLogger("roomwire")

T = TypeVar("T")

_END = 5.0
"""Seconds that a last call has, and then the loop, to end."""


class LoopThread:
    """A running loop.

    The thread is a daemon: a program that forgets to close it must not hang at its end, as it would with
    a thread that the interpreter waits for.
    """

    def __init__(self) -> None:
        opened: Future[BlockingPortal] = Future()
        self._thread = threading.Thread(target=_run, args=(opened,), name="roomwire-publisher", daemon=True)
        self._thread.start()
        self._portal = opened.result()

    def call(self, function: Callable[[], Awaitable[T]]) -> T:
        """Run it in the loop and wait for what it returns or raises. From any thread but the loop's own."""
        return self._portal.call(function)

    def end(self, last: Callable[[], Awaitable[None]]) -> None:
        """Run `last` in the loop, then end it; what hangs is left to the daemon."""
        try:
            self._portal.start_task_soon(last).result(_END)
        except TimeoutError:
            logger.warning("the publisher's backplane does not close: it is left behind")
        finally:
            self._portal.call(self._portal.stop)
            self._thread.join(_END)


def _run(opened: Future[BlockingPortal]) -> None:
    async def main() -> None:
        async with BlockingPortal() as portal:
            opened.set_result(portal)
            await portal.sleep_until_stopped()

    try:
        anyio.run(main)
    except BaseException as error:
        if not opened.done():
            opened.set_exception(error)
        else:
            raise
