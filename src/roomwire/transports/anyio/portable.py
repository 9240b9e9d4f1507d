"""The portable shell: a carrier on anyio's streams, for trio and for TLS without uvloop.

A socket has two tasks: one reads, one writes what the kernel did not take. A `send` is never cancelled to be
continued, since how much of it went out is unknown: to cancel is to abort.
"""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING

import anyio
import anyio.abc
from anyio.streams.tls import TLSStream

from roomwire.transports.anyio.carrier import Carrier, Phase
from roomwire.transports.anyio.peers import peer_of

if TYPE_CHECKING:
    from roomwire.transports.anyio.transport import AnyioTransport

__all__ = ["serve_portably"]

_READ = 65_536
_BROKEN = (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream, OSError)


class _StreamCarrier(Carrier):
    __slots__ = ("_aborted", "_can_read", "_eof_due", "_pending", "_scope", "_stream", "_wake")

    def __init__(self, owner: AnyioTransport, stream: anyio.abc.ByteStream, scope: anyio.CancelScope) -> None:
        sock = stream.extra(anyio.abc.SocketAttribute.raw_socket)  # noqa: S610  anyio's typed attributes
        name = stream.extra(anyio.abc.SocketAttribute.remote_address, None)  # noqa: S610
        super().__init__(owner, *peer_of(name if sock.family != socket.AF_UNIX else None))
        self._stream = stream
        self._scope = scope
        self._pending = b""
        self._wake = anyio.Event()
        self._can_read = anyio.Event()
        self._can_read.set()
        self._eof_due = False
        self._aborted = False
        if not owner.secure:
            self._fd = sock.fileno()
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _hand_over(self, data: bytes) -> None:
        self._pending = data
        self._now_blocked()
        self._wake.set()

    def _held(self) -> int:
        return len(self._pending)

    def pause_reading(self) -> None:
        if self._can_read.is_set():
            self._can_read = anyio.Event()

    def resume_reading(self) -> None:
        self._can_read.set()

    def _end_writing(self) -> None:
        self._eof_due = True
        self._wake.set()

    def abort(self) -> None:
        self._fd = -1
        self.phase = Phase.CLOSED
        self._aborted = True
        self._scope.cancel()

    async def read(self) -> None:
        """Until the link ends."""
        while True:
            await self._can_read.wait()
            self.receive(await self._stream.receive(_READ))

    async def write_held(self) -> None:
        """Write what was handed over, whenever something is."""
        while True:
            await self._wake.wait()
            self._wake = anyio.Event()
            if self._pending:
                await self._stream.send(self._pending)
                self._pending = b""
                self._now_writable()
            elif self._eof_due:
                await self._half_close()
                return

    async def _half_close(self) -> None:
        if isinstance(self._stream, TLSStream):
            self._scope.cancel()  # the TLS layer has no half-close; leaving the block closes the stream
        elif isinstance(self._stream, anyio.abc.SocketStream):
            await self._stream.send_eof()


async def _run(owner: AnyioTransport, stream: anyio.abc.ByteStream) -> None:
    """One socket, from accept to its end."""
    cause: BaseException | None = None
    carrier: _StreamCarrier | None = None
    try:
        async with anyio.create_task_group() as tasks:
            carrier = _StreamCarrier(owner, stream, tasks.cancel_scope)
            owner.welcome(carrier)
            tasks.start_soon(_write_held, carrier)
            try:
                await carrier.read()
            except _BROKEN as error:
                cause = None if isinstance(error, anyio.EndOfStream) else error
            except Exception as error:  # noqa: BLE001  the boundary of a connection
                owner.failed(carrier, error)
            tasks.cancel_scope.cancel()
    finally:
        if carrier is not None:
            carrier.lost(cause)
        with anyio.CancelScope(shield=True):
            with contextlib.suppress(*_BROKEN):
                await (anyio.aclose_forcefully(stream) if carrier is None or carrier._aborted else _close(stream))


async def _write_held(carrier: _StreamCarrier) -> None:
    with contextlib.suppress(*_BROKEN):
        await carrier.write_held()


async def _close(stream: anyio.abc.ByteStream) -> None:
    """An orderly end, TLS's farewell included, that cannot take long."""
    with anyio.move_on_after(1.0):
        await stream.aclose()


async def serve_portably(owner: AnyioTransport, sockets: list[socket.socket], tasks: anyio.abc.TaskGroup) -> None:
    """Accept on `sockets`, which listen already, in tasks of `tasks`."""
    from anyio.streams.tls import TLSListener

    async def handle(stream: anyio.abc.ByteStream) -> None:
        await _run(owner, stream)

    for sock in sockets:
        listener: anyio.abc.Listener[anyio.abc.ByteStream] = await anyio.abc.SocketListener.from_socket(sock)
        if owner.options.ssl is not None:
            timeout = owner.host.limits.handshake_timeout
            listener = TLSListener(listener, owner.options.ssl, standard_compatible=False, handshake_timeout=timeout)
        tasks.start_soon(listener.serve, handle)
