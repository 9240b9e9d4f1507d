"""Driving the operations of `_talk` over a plain socket: blocking, or waiting in whatever event loop is there.

The socket belongs to no loop: a connection may be opened in one, used in the next, and closed in none.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import TypeVar

import anyio

from roomwire.core.errors import ConnectionClosed, RemoteError
from roomwire.testing._errors import NotReceived
from roomwire.testing._talk import Operation, Talk, Target, listed
from roomwire.testing._transcript import Transcript

__all__ = ["AsyncSocket", "BaseSocket", "BlockingSocket"]

__tracebackhide__ = True  # pytest shows the test's own line

_T = TypeVar("_T")
_READ = 65_536


class BaseSocket:
    """A conversation, the socket that it runs over, and how long an operation may take, in seconds."""

    def __init__(self, target: Target, transcript: Transcript, timeout: float) -> None:
        self.talk = Talk(target, transcript)
        self.timeout = timeout
        self.socket: socket.socket | None = None

    def dial(self) -> None:
        """Loopback: the kernel answers at once, whatever the server does."""
        try:
            self.socket = socket.create_connection(("127.0.0.1", self.talk.target.port), timeout=self.timeout)
        except OSError as error:
            raise ConnectionClosed(1006, f"127.0.0.1:{self.talk.target.port} cannot be reached: {error}") from None
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def abort(self) -> None:
        """End it at once; nothing where it has ended."""
        sock, self.socket = self.socket, None
        if sock is not None:
            self._drain(sock)
            sock.close()
        if self.talk.closed is None:
            self.talk.closed = (1006, "")

    def glance(self) -> None:
        """Take in what has come already, for the transcript."""
        if self.socket is not None:
            self._drain(self.socket)

    def _drain(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        try:
            while self.talk.closed is None:
                self.talk.feed(sock.recv(_READ))
        except (OSError, RemoteError, ConnectionClosed):
            return

    def _sock(self) -> socket.socket:
        if self.socket is None:
            raise ConnectionClosed(*(self.talk.closed or (1006, "")))
        return self.socket

    def _late(self, what: str, timeout: float) -> NotReceived:
        self.glance()
        return NotReceived(
            f"{self.talk.target.name}: {what} did not come within {timeout:g} s; what came and is unread:\n"
            + listed(self.talk.inbox)
        )

    def _broke(self) -> None:
        """What a broken link means to the operation; it may have been resumed by what came before."""
        if self.talk.closed is None:
            self.talk.feed(b"")


class BlockingSocket(BaseSocket):
    """For tests without async, and for several threads at once: one that waits reads, and wakes the others."""

    def __init__(self, target: Target, transcript: Transcript, timeout: float) -> None:
        super().__init__(target, transcript, timeout)
        self._turn = threading.Condition()
        self._reading = False

    def drive(self, operation: Operation[_T], what: str, timeout: float | None = None) -> _T:
        """Carry it out.

        Raises:
            NotReceived: it took longer than `timeout` seconds.
        """
        seconds = self.timeout if timeout is None else timeout
        deadline = time.monotonic() + seconds
        with self._turn:
            try:
                while True:
                    try:
                        next(operation)
                    except StopIteration as done:
                        self._flush(deadline)
                        result: _T = done.value
                        return result
                    self._flush(deadline)
                    if self.talk.closed is None:
                        self._read(deadline)
            except TimeoutError:
                raise self._late(what, seconds) from None
            finally:
                operation.close()

    def abort(self) -> None:
        """See `BaseSocket.abort`. Another thread that waits is told."""
        with self._turn:
            if self._reading and self.socket is not None:
                with contextlib.suppress(OSError):
                    self.socket.shutdown(socket.SHUT_RDWR)
                return self._left()
            return super().abort()

    def _left(self) -> None:
        self.socket = None  # closed by the thread that reads from it
        if self.talk.closed is None:
            self.talk.closed = (1006, "")

    def glance(self) -> None:
        """See `BaseSocket.glance`. What another thread waits for is its own."""
        with self._turn:
            if not self._reading:
                super().glance()

    def _flush(self, deadline: float) -> None:
        while self.talk.outgoing:
            sock = self._sock()
            sock.settimeout(_until(deadline))
            try:
                del self.talk.outgoing[: sock.send(self.talk.outgoing)]
            except TimeoutError:
                raise
            except OSError:
                self.talk.outgoing.clear()
                self._broke()

    def _read(self, deadline: float) -> None:
        if self._reading:
            if not self._turn.wait(_until(deadline)):
                raise TimeoutError
            return
        sock = self._sock()
        sock.settimeout(_until(deadline))
        self._reading = True
        self._turn.release()
        try:
            data = sock.recv(_READ)
        except TimeoutError:
            raise
        except OSError:
            data = b""
        finally:
            self._turn.acquire()
            self._reading = False
            self._turn.notify_all()
        if self.socket is None:
            sock.close()
        elif self.talk.closed is None:
            self.talk.feed(data)


def _until(deadline: float) -> float:
    return max(0.001, deadline - time.monotonic())


class AsyncSocket(BaseSocket):
    """For tests on asyncio and trio: no task, and nothing that outlives a call."""

    def __init__(self, target: Target, transcript: Transcript, timeout: float) -> None:
        super().__init__(target, transcript, timeout)
        self._reading: anyio.Event | None = None

    async def drive(self, operation: Operation[_T], what: str, timeout: float | None = None) -> _T:
        """Carry it out; several may go on at once.

        Raises:
            NotReceived: it took longer than `timeout` seconds.
        """
        seconds = self.timeout if timeout is None else timeout
        await anyio.lowlevel.checkpoint()
        try:
            with anyio.move_on_after(seconds) as scope:
                while True:
                    try:
                        next(operation)
                    except StopIteration as done:
                        await self._flush()
                        result: _T = done.value
                        return result
                    await self._flush()
                    if self.talk.closed is None:
                        await self._read()
        finally:
            operation.close()
        assert scope.cancelled_caught
        raise self._late(what, seconds)

    async def _flush(self) -> None:
        while self.talk.outgoing:
            sock = self._sock()
            sock.setblocking(False)
            try:
                del self.talk.outgoing[: sock.send(self.talk.outgoing)]
            except BlockingIOError:
                await anyio.wait_writable(sock)
            except OSError:
                self.talk.outgoing.clear()
                self._broke()

    async def _read(self) -> None:
        """One of several that wait reads, and wakes the others."""
        if self._reading is not None:
            await self._reading.wait()
            return
        self._reading = anyio.Event()
        try:
            sock = self._sock()
            sock.setblocking(False)
            try:
                self.talk.feed(sock.recv(_READ))
            except BlockingIOError:
                await anyio.wait_readable(sock)
            except OSError:
                self._broke()
        finally:
            self._reading.set()
            self._reading = None
