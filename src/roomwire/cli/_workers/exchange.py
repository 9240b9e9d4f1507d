"""Handing connections over: each one that is accepted goes to the worker that has the fewest.

Every worker has a line, a pair of Unix sockets of which the parent keeps both ends: what a worker did not take when
it ended is taken back and goes to another one. A line holds few connections, so that a worker that hangs is passed
over. Where none has room they wait where they are, in the kernel's queue.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import struct
from collections import deque
from collections.abc import Iterator, Sequence

__all__ = ["Exchange", "Line"]

logger = logging.getLogger("roomwire")

# What comes back on a line: see `roomwire.transports.contract.ListenOptions.handover`.
_REPORT = struct.Struct("!QQ")
_LINE_BUFFER = 8192
"""Bytes of a line's send buffer: on Linux about 20 connections, each of which takes up some 800."""
_ACCEPTS_PER_TURN = 32
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_EXHAUSTED_PAUSE = 0.1
"""Seconds until the next attempt to accept where there is no descriptor left."""
_EXHAUSTED_TOLD = 60.0
"""Seconds until the log is told again."""


class Line:
    """The way of connections to one worker.

    Attributes:
        near: our end.
        far: the worker's end, which it inherits.
        full: whether it has no room now.
    """

    def __init__(self) -> None:
        self.near, self.far = socket.socketpair()
        for end in (self.near, self.far):
            end.setblocking(False)
        self.near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _LINE_BUFFER)
        self.full = False
        self._handed = 0
        self._taken = 0
        self._open = 0
        self._heard = b""

    @property
    def load(self) -> int:
        """Connections that the worker has, or is about to have."""
        return self._open + self._handed - self._taken

    def hand(self, connection: socket.socket) -> None:
        """Hand a connection over and let go of it.

        Raises:
            BlockingIOError: there is no room.
            OSError: as many are on the lines of all processes of this user as one of them may have files
                (ETOOMANYREFS, unix(7)), or there is no memory. Nothing says when that is over.
        """
        try:
            socket.send_fds(self.near, [b"c"], [connection.fileno()])
        except OSError:  # not that there is no worker: both ends are open
            self.full = True
            raise
        connection.close()
        self._handed += 1

    def hear(self) -> bool:
        """Read what the worker says of itself; False where it takes no more."""
        try:
            while data := self.near.recv(4096):
                self._heard += data
        except BlockingIOError:
            goes_on = True
        else:
            goes_on = False
        whole = len(self._heard) - len(self._heard) % _REPORT.size
        if whole:
            self._taken, self._open = _REPORT.unpack_from(self._heard, whole - _REPORT.size)
            self._heard = self._heard[whole:]
        return goes_on

    def take_back(self) -> Iterator[socket.socket]:
        """The connections that the worker did not take."""
        with contextlib.suppress(BlockingIOError):
            while True:
                data, descriptors, _, _ = socket.recv_fds(self.far, 1, 1, getattr(socket, "MSG_CMSG_CLOEXEC", 0))
                if not data:
                    return
                for descriptor in descriptors:  # none where this process has no descriptor left
                    yield socket.socket(fileno=descriptor)

    def close(self) -> None:
        """Close both ends."""
        self.near.close()
        self.far.close()


class Exchange:
    """Accepts connections and hands them over.

    Args:
        listeners: listening sockets that do not block.
    """

    def __init__(self, listeners: Sequence[socket.socket]) -> None:
        self._loop = asyncio.get_running_loop()
        self._listeners = list(listeners)
        self._lines: list[Line] = []
        self._waiting: deque[socket.socket] = deque()
        self._open = False
        self._accepting = False
        self._tell_at = 0.0

    def open(self) -> None:
        """Accept from now on."""
        self._open = True
        self._go_on()

    def close(self) -> None:
        """Accept no more, and let go of what no worker has taken; the listening sockets are their owner's to close."""
        self._open = False
        self._accept_or_pause()
        for line in list(self._lines):
            self.remove(line)
        while self._waiting:
            self._waiting.popleft().close()

    def add(self, line: Line) -> None:
        """A worker takes connections."""
        self._lines.append(line)
        self._loop.add_reader(line.near, self._hear, line)
        self._go_on()

    def _hear(self, line: Line) -> None:
        if not line.hear():
            self.remove(line)  # it drains: who waits on its line would wait for its end

    def remove(self, line: Line) -> None:
        """A worker takes no more: what it has not taken goes to the others. Once more does no harm."""
        if line in self._lines:
            self._lines.remove(line)
            self._loop.remove_reader(line.near)
            self._loop.remove_writer(line.near)
            self._waiting.extend(line.take_back())
            self._go_on()
        line.close()

    def _go_on(self) -> None:
        while self._waiting and self._hand(self._waiting[0]):
            self._waiting.popleft()
        self._accept_or_pause()

    def _hand(self, connection: socket.socket) -> bool:
        while (line := self._least()) is not None:
            try:
                line.hand(connection)
            except BlockingIOError:
                self._loop.add_writer(line.near, self._has_room, line)
            except OSError as error:
                self._tell_exhausted(error)
                self._loop.call_later(_EXHAUSTED_PAUSE, self._has_room, line)
            else:
                # The others come first where they have as few.
                self._lines.remove(line)
                self._lines.append(line)
                return True
        return False

    def _least(self) -> Line | None:
        return min((line for line in self._lines if not line.full), key=lambda line: line.load, default=None)

    def _has_room(self, line: Line) -> None:
        if line not in self._lines:
            return
        line.full = False
        self._loop.remove_writer(line.near)
        self._go_on()

    def _accept_or_pause(self) -> None:
        accepting = self._open and not self._waiting and self._least() is not None
        if accepting == self._accepting:
            return
        self._accepting = accepting
        for listener in self._listeners:
            if accepting:
                self._loop.add_reader(listener, self._accept, listener)
            else:
                self._loop.remove_reader(listener)

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(_ACCEPTS_PER_TURN):
            if not self._accepting:
                return
            try:
                self._waiting.append(listener.accept()[0])
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    raise
                self._tell_exhausted(error)
                self._loop.remove_reader(listener)
                self._loop.call_later(_EXHAUSTED_PAUSE, self._watch, listener)
                return
            self._go_on()

    def _tell_exhausted(self, error: OSError) -> None:
        now = self._loop.time()
        if now >= self._tell_at:
            self._tell_at = now + _EXHAUSTED_TOLD
            fields = {"event": "exhausted", "error": error.strerror}
            logger.error("cannot accept connections now", extra={"roomwire": fields})

    def _watch(self, listener: socket.socket) -> None:
        if self._accepting:
            self._loop.add_reader(listener, self._accept, listener)
