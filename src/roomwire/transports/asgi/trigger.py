"""DrainTrigger: a drain before the host hears that it is to end.

Hosts close all sockets at once, on SIGTERM or SIGINT. So the signal is taken away from them until the drain is
done, and is then raised anew, with everything as they had set it: the handler of Python's, and the descriptor by
which the loop that they use learns of a signal. With that alone one of `loop.add_signal_handler` would run all the
same.
"""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import Any, Self

import anyio
import anyio.abc
import anyio.lowlevel

__all__ = ["DrainTrigger"]

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_FLUSH = 0.2
"""Seconds that a host has to write our last words, before it is told to end: granian then drops what it holds."""


class DrainTrigger:
    """While entered, the first SIGTERM or SIGINT drains, and the host hears of it afterwards; the second one at once.

    Nothing outside of the main thread, which has the signals.

    Args:
        drain: what drains.
        tasks: where it runs.
    """

    def __init__(self, drain: Callable[[], Awaitable[None]], tasks: anyio.abc.TaskGroup) -> None:
        self._drain = drain
        self._tasks = tasks
        self._before: dict[int, Any] = {}
        self._wakeup = -1
        self._pair: tuple[socket.socket, socket.socket] | None = None
        self._received: list[int] = []
        self._holds = False

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            loop: Any = anyio.lowlevel.current_token().native_token
            # A handler of Python's runs between two instructions of whatever is under way.
            self._soon: Callable[..., object] = getattr(loop, "call_soon_threadsafe", None) or loop.run_sync_soon
            self._came = anyio.Event()
            self._tasks.start_soon(self._run)
            if hasattr(loop, "add_reader"):
                # uvloop waits in C, and runs handlers of Python's when a byte comes.
                self._pair = reader, writer = socket.socketpair()
                reader.setblocking(False)
                writer.setblocking(False)
                loop.add_reader(reader, _read, reader)
                self._forget: Callable[[], object] = lambda: loop.remove_reader(reader)
            self._holds = True
            self.hold()
        return self

    def __exit__(self, *_: object) -> None:
        if self._holds:
            self._release()
            self._came.set()
        if self._pair is not None:
            self._forget()
            for sock in self._pair:
                sock.close()

    def hold(self) -> None:
        """Take the signals, if somebody took them back: granian runs its loop anew after the startup."""
        if not self._holds:
            return
        for number in _SIGNALS:
            handler = signal.getsignal(number)
            if handler != self._handle:
                self._before[number] = handler
                signal.signal(number, self._handle)
        if self._pair is not None:
            own = self._pair[1].fileno()
            found = signal.set_wakeup_fd(own, warn_on_full_buffer=False)
            if found != own:
                self._wakeup = found

    def _release(self) -> None:
        self._holds = False
        for number, handler in self._before.items():
            if signal.getsignal(number) == self._handle:
                signal.signal(number, handler)
        if self._pair is not None:
            found = signal.set_wakeup_fd(self._wakeup, warn_on_full_buffer=False)
            if found != self._pair[1].fileno():  # somebody else's by now
                signal.set_wakeup_fd(found, warn_on_full_buffer=False)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        self._received.append(number)
        if len(self._received) > 1:
            self._pass_on(number)
        else:
            self._soon(self._came.set)

    async def _run(self) -> None:
        await self._came.wait()
        if not self._received:
            return
        await self._drain()
        await anyio.sleep(_FLUSH)
        if self._holds:
            self._pass_on(self._received[0])

    def _pass_on(self, number: int) -> None:
        self._release()
        signal.raise_signal(number)


def _read(reader: socket.socket) -> None:
    reader.recv(64)
