"""The portable shell: a carrier on anyio's streams, for trio and for TLS without uvloop.

A socket has two tasks: one reads, one writes what the kernel did not take. A `send` is never cancelled to be
continued, since how much of it went out is unknown: to cancel is to abort.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING

import anyio
import anyio.abc
from anyio.streams.tls import TLSStream

from roomwire.transports.anyio.accepting import Arrival, Listener, SocketOptions, accept_each, contained, greet, secured
from roomwire.transports.anyio.carrier import Carrier, Phase
from roomwire.transports.anyio.outlet import THROUGH_SHELL
from roomwire.transports.anyio.peers import Peer

if TYPE_CHECKING:
    from roomwire.transports.anyio.transport import AnyioTransport

__all__ = ["serve_portably"]

_READ = 65_536
_PIECE = 16_384
"""Bytes of one `send`: between two of them one can see that a slow peer does take some."""
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

    def due(self, deadline: float) -> None:
        """The request's head is awaited up to then, in monotonic seconds."""
        self._set_deadline(deadline - self._host.runtime.now())

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

    def socket_options(self) -> SocketOptions:
        return self._stream.extra(anyio.abc.SocketAttribute.raw_socket)  # noqa: S610  that is Django's `extra`

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


async def _run(
    owner: AnyioTransport, peer: Peer, fd: int, stream: anyio.abc.ByteStream, deadline: float | None = None
) -> None:
    """One connection, to its end; `deadline` is that of its request's head where the time runs already."""
    cause: BaseException | None = None
    carrier: _StreamCarrier | None = None
    try:
        async with anyio.create_task_group() as tasks:
            carrier = _StreamCarrier(owner, peer, fd, stream, tasks.cancel_scope)
            if deadline is not None:
                carrier.due(deadline)
            owner.welcome(carrier)
            tasks.start_soon(carrier.write_held)
            cause = await carrier.read()
            tasks.cancel_scope.cancel()
    finally:
        if carrier is not None:
            carrier.lost(cause)


async def _stream_of(sock: socket.socket) -> anyio.abc.ByteStream:
    """A stream that owns the socket, which is closed where there can be none.

    Raises:
        OSError: the peer is gone already.
    """
    try:
        if sock.family == socket.AF_UNIX:
            return await anyio.abc.UNIXSocketStream.from_socket(sock)
        return await anyio.abc.SocketStream.from_socket(sock)
    except ValueError as error:
        # A reset that has arrived takes the peer's name, and anyio takes that for a mistake of its caller's.
        sock.close()
        raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET)) from error
    except BaseException:
        sock.close()
        raise


async def _close(stream: anyio.abc.ByteStream) -> None:
    with anyio.CancelScope(shield=True):
        await anyio.aclose_forcefully(stream)


async def _serve_plain(owner: AnyioTransport, sock: socket.socket) -> None:
    """One accepted socket."""
    peer = greet(sock)
    if peer is None:
        return
    try:
        # asyncio closes the socket of a peer that is gone a turn before the reader hears of it, and the
        # kernel gives the number to the next one: so there is one of our own.
        own = os.dup(sock.fileno())
    except OSError:
        sock.close()
        return
    try:
        try:
            stream = await _stream_of(sock)
        except OSError:
            return  # the peer went away
        try:
            await _run(owner, peer, own, stream)
        finally:
            await _close(stream)
    finally:
        os.close(own)


async def _serve_secured(owner: AnyioTransport, sock: socket.socket) -> None:
    """One accepted socket that is to speak TLS."""
    shaken = await secured(owner, sock, _shake_hands)
    if shaken is not None:
        peer, stream, deadline = shaken
        try:
            await _run(owner, peer, THROUGH_SHELL, stream, deadline)
        finally:
            await _close(stream)


async def _shake_hands(
    owner: AnyioTransport, sock: socket.socket, arrival: Arrival
) -> tuple[Peer, anyio.abc.ByteStream, float]:
    stream = await _stream_of(sock)
    try:
        with anyio.fail_after(arrival.deadline - owner.host.runtime.now()):
            secure = await TLSStream.wrap(
                stream, server_side=True, ssl_context=owner.options.ssl, standard_compatible=False
            )
    except BaseException:
        await _close(stream)
        raise
    return arrival.peer, secure, arrival.deadline


async def serve_portably(owner: AnyioTransport, sockets: Sequence[Listener], tasks: anyio.abc.TaskGroup) -> None:
    """Accept on `sockets`, which listen already, in tasks of `tasks`."""

    def start(accepted: socket.socket) -> None:
        tasks.start_soon(contained, _serve_secured if owner.secure else _serve_plain, owner, accepted)

    for sock in sockets:
        tasks.start_soon(accept_each, owner, sock, start)
