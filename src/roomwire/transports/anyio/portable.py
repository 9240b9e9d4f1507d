"""The portable shell: a carrier on anyio's streams, for trio and for TLS without uvloop.

A socket has two tasks: one reads, one writes what the kernel did not take. A `send` is never cancelled to be
continued, since how much of it went out is unknown: to cancel is to abort.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import ssl
from typing import TYPE_CHECKING

import anyio
import anyio.abc
from anyio.streams.tls import TLSStream

from roomwire.transports.anyio.carrier import Carrier, Phase
from roomwire.transports.anyio.outlet import THROUGH_SHELL
from roomwire.transports.anyio.peers import Peer, peer_of

if TYPE_CHECKING:
    from roomwire.transports.anyio.transport import AnyioTransport

__all__ = ["serve_portably"]

logger = logging.getLogger("roomwire")

_READ = 65_536
_PIECE = 16_384
"""Bytes of one `send`: between two of them one can see that a slow peer does take some."""
_ACCEPTS_PER_TURN = 32
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_EXHAUSTED_PAUSE = 0.1
"""Seconds until the next attempt to accept where the process has no descriptor left (trio: 0.1)."""
_BROKEN = (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream, OSError)


class _StreamCarrier(Carrier):
    __slots__ = ("_can_read", "_flushed", "_pending", "_scope", "_stream", "_wake")

    def __init__(
        self, owner: AnyioTransport, peer: Peer, fd: int, stream: anyio.abc.ByteStream, scope: anyio.CancelScope
    ) -> None:
        super().__init__(owner, peer, fd)
        self._stream = stream
        self._scope = scope
        self._pending: memoryview = memoryview(b"")
        self._wake = anyio.Event()
        self._can_read = anyio.Event()
        self._can_read.set()
        self._flushed: anyio.Event | None = None

    def _hand_over(self, data: bytes) -> None:
        self._pending = memoryview(data)
        self._now_blocked()
        self._wake.set()

    def _held(self) -> int:
        return len(self._pending)

    def _emptied(self) -> None:
        super()._emptied()
        if self._flushed is not None:
            self._flushed.set()

    def _pause(self) -> None:
        if self._can_read.is_set():
            self._can_read = anyio.Event()

    def _unpause(self) -> None:
        self._can_read.set()

    def _close_link(self) -> None:
        self._scope.cancel()  # who leaves the scope closes the stream

    def _cut(self) -> None:
        self._scope.cancel()

    async def read(self) -> BaseException | None:
        """Until the link ends; returns what ended it, None for an end in good order."""
        try:
            while True:
                await self._can_read.wait()
                self.receive(await self._stream.receive(_READ))
        except anyio.EndOfStream:
            if self.phase is Phase.ENDING and self._blocked:
                # The peer sends no more, and still wants its answer.
                self._flushed = anyio.Event()
                await self._flushed.wait()
            return None
        except _BROKEN as error:
            return error

    async def write_held(self) -> None:
        """Write what was handed over, whenever something is."""
        while True:
            await self._wake.wait()
            self._wake = anyio.Event()
            while self._pending:
                try:
                    await self._stream.send(bytes(self._pending[:_PIECE]))
                except _BROKEN:
                    return  # the reader finds out, too, and says why
                self._pending = self._pending[_PIECE:]
            if self._blocked:
                self._now_writable()


async def _run(owner: AnyioTransport, peer: Peer, fd: int, stream: anyio.abc.ByteStream) -> None:
    """One connection, to its end."""
    cause: BaseException | None = None
    carrier: _StreamCarrier | None = None
    try:
        async with anyio.create_task_group() as tasks:
            carrier = _StreamCarrier(owner, peer, fd, stream, tasks.cancel_scope)
            owner.welcome(carrier)
            tasks.start_soon(carrier.write_held)
            cause = await carrier.read()
            tasks.cancel_scope.cancel()
    finally:
        if carrier is not None:
            carrier.lost(cause)


async def _serve_socket(owner: AnyioTransport, sock: socket.socket) -> None:
    """One accepted socket."""
    try:
        peer = peer_of(sock.family, sock.getpeername())
        unix = sock.family == socket.AF_UNIX
        if not unix:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        kind = anyio.abc.UNIXSocketStream if unix else anyio.abc.SocketStream
        # asyncio closes the socket of a peer that is gone a turn before the reader hears of it, and the
        # kernel gives the number to the next one: so there is one of our own.
        own = os.dup(sock.fileno()) if owner.options.ssl is None else None
        try:
            stream: anyio.abc.ByteStream = await kind.from_socket(sock)
        except BaseException:
            _close(own)
            raise
    except (OSError, ValueError):
        sock.close()  # the peer went away while it waited to be accepted
        return
    context = owner.options.ssl
    try:
        if context is not None:
            with anyio.fail_after(owner.host.limits.handshake_timeout):
                stream = await TLSStream.wrap(stream, server_side=True, ssl_context=context, standard_compatible=False)
    except (ssl.SSLError, TimeoutError, *_BROKEN) as error:
        fields = {"event": "tls_failed", "peer": peer.name, "error": type(error).__name__}
        logger.debug("a TLS handshake failed", extra={"roomwire": fields})
    else:
        await _run(owner, peer, THROUGH_SHELL if own is None else own, stream)
    finally:
        _close(own)
        with anyio.CancelScope(shield=True):
            await anyio.aclose_forcefully(stream)


def _close(fd: int | None) -> None:
    if fd is not None:
        os.close(fd)


async def _accept(owner: AnyioTransport, sock: socket.socket, tasks: anyio.abc.TaskGroup) -> None:
    """Until `anyio.notify_closing` is called for the socket."""
    while True:
        try:
            await anyio.wait_readable(sock)
        except anyio.ClosedResourceError:
            return
        for _ in range(_ACCEPTS_PER_TURN):
            try:
                tasks.start_soon(_serve_socket, owner, sock.accept()[0])
            except BlockingIOError:
                break
            except ConnectionAbortedError:
                continue
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    raise
                fields = {"event": "exhausted", "error": error.strerror, "open": len(owner.carriers)}
                logger.error("cannot accept connections now", extra={"roomwire": fields})
                await anyio.sleep(_EXHAUSTED_PAUSE)
                break


async def serve_portably(owner: AnyioTransport, sockets: list[socket.socket], tasks: anyio.abc.TaskGroup) -> None:
    """Accept on `sockets`, which listen already, in tasks of `tasks`."""
    for sock in sockets:
        tasks.start_soon(_accept, owner, sock, tasks)
