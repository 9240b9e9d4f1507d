"""Connections that another process accepted and hands over, in place of a listening socket.

What travels is said at `roomwire.transports.contract.ListenOptions`. Whoever hands over needs to know how many
connections are open here, and what was not taken stays in the socket, where it can be taken back.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import struct
from functools import partial
from typing import TYPE_CHECKING

import anyio

from roomwire.transports.anyio.accepting import accept_each, contained
from roomwire.transports.anyio.callback import CallbackShell, _serve_secured
from roomwire.transports.anyio.portable import serve_portably

if TYPE_CHECKING:
    import anyio.abc

    from roomwire.transports.anyio.transport import AnyioTransport

__all__ = ["Handover", "serve_handed"]

_REPORT = struct.Struct("!QQ")
_REPORT_DELAY = 0.1
"""Seconds from a change to the report of it, which has the further ones of that time."""
_NO_INHERITANCE = getattr(socket, "MSG_CMSG_CLOEXEC", 0)  # macOS has none


class Handover:
    """Looks like a listening socket: it is readable, and gives connected sockets.

    Args:
        descriptor: our end of the socket, which is closed with this object.
    """

    def __init__(self, descriptor: int) -> None:
        self._sock = socket.socket(fileno=descriptor)
        self._sock.setblocking(False)
        self._taken = 0
        self._changed = anyio.Event()

    def fileno(self) -> int:
        """Of our end; -1 when closed."""
        return self._sock.fileno()

    def accept(self) -> tuple[socket.socket, object]:
        """The next connection.

        Raises:
            BlockingIOError: none waits.
            EOFError: none will come any more.
            OSError: with EMFILE: this process has no descriptor left. The connection waits; it is lost where
                the last descriptor went to another thread meanwhile.
        """
        os.close(os.dup(self._sock.fileno()))  # what comes and finds no descriptor left is closed by the kernel
        data, descriptors, _, _ = socket.recv_fds(self._sock, 1, 1, _NO_INHERITANCE)
        if not data:
            raise EOFError
        self._taken += 1
        self.changed()
        if not descriptors:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        os.set_inheritable(descriptors[0], False)
        accepted = socket.socket(fileno=descriptors[0])
        accepted.setblocking(False)
        return accepted, None

    async def report(self, owner: AnyioTransport) -> None:
        """Say how many connections were taken and are open, whenever that has changed; until it is closed."""
        while True:
            await self._changed.wait()
            await anyio.sleep(_REPORT_DELAY)
            if self.fileno() < 0:
                return
            self._changed = anyio.Event()
            with contextlib.suppress(OSError):  # nobody reads: the next one is the better one
                self._sock.send(_REPORT.pack(self._taken, len(owner.carriers)))

    def changed(self) -> None:
        """A connection was taken, or has ended."""
        if not self._changed.is_set():
            self._changed.set()

    def close(self) -> None:
        """Take no more, and say so: the reports end, though the other process has a copy of our end."""
        if self.fileno() >= 0:
            anyio.notify_closing(self)
            with contextlib.suppress(OSError):  # nobody is there
                self._sock.shutdown(socket.SHUT_WR)
            self._sock.close()


async def serve_handed(
    owner: AnyioTransport, handover: Handover, tasks: anyio.abc.TaskGroup, *, callbacks: bool
) -> None:
    """Serve what comes by `handover`, in tasks of `tasks`; with the callback shell, or with the portable one."""
    if callbacks:
        serve_one = _serve_secured if owner.secure else _serve_plain
        tasks.start_soon(accept_each, owner, handover, partial(owner.host.runtime.spawn, contained, serve_one, owner))
    else:
        await serve_portably(owner, [handover], tasks)
    tasks.start_soon(handover.report, owner)


async def _serve_plain(owner: AnyioTransport, sock: socket.socket) -> None:
    """One socket up to its shell; from there on it is the callbacks'."""
    try:
        await asyncio.get_running_loop().connect_accepted_socket(lambda: CallbackShell(owner), sock)
    except OSError:
        sock.close()  # the peer is gone
