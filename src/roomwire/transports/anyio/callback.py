"""The callback shell: a carrier on an asyncio protocol, with uvloop or without. No task for a socket."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, cast

from roomwire.transports.anyio.carrier import Carrier, Phase
from roomwire.transports.anyio.peers import peer_of

if TYPE_CHECKING:
    from roomwire.transports.anyio.transport import AnyioTransport

__all__ = ["CallbackShell", "serve_callbacks"]

_ACCEPTS_PER_TURN = 32
"""asyncio accepts as many sockets in a turn as its backlog says; the kernel's queue is another number."""


class CallbackShell(asyncio.Protocol):
    """Moves bytes between an asyncio transport and a carrier."""

    __slots__ = ("_carrier", "_owner")

    def __init__(self, owner: AnyioTransport) -> None:
        self._owner = owner
        self._carrier: _CallbackCarrier | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A socket was accepted."""
        stream = cast("asyncio.Transport", transport)
        # Zero: the transport says exactly when it holds bytes and when it holds none.
        stream.set_write_buffer_limits(0)
        self._carrier = _CallbackCarrier(self._owner, stream)
        self._owner.welcome(self._carrier)

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        carrier = self._carrier
        assert carrier is not None
        try:
            carrier.receive(data)
        except Exception as error:  # noqa: BLE001  the boundary of a connection
            self._owner.failed(carrier, error)

    def eof_received(self) -> bool:
        """The peer sends no more; the transport closes itself."""
        return False

    def pause_writing(self) -> None:
        """The transport holds bytes."""
        assert self._carrier is not None
        self._carrier._now_blocked()

    def resume_writing(self) -> None:
        """The transport holds none."""
        assert self._carrier is not None
        self._carrier._now_writable()

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is about to be closed: its descriptor is somebody else's from now on."""
        carrier, self._carrier = self._carrier, None
        if carrier is not None:
            try:
                carrier.lost(exc)
            except Exception as error:  # noqa: BLE001  the boundary of a connection
                self._owner.failed(carrier, error)


class _CallbackCarrier(Carrier):
    __slots__ = ("_paused", "_stream")

    def __init__(self, owner: AnyioTransport, stream: asyncio.Transport) -> None:
        sock = stream.get_extra_info("socket")
        super().__init__(owner, *peer_of(stream.get_extra_info("peername")))
        self._stream = stream
        self._paused = False
        if not owner.secure:  # under TLS every byte goes through the TLS layer
            self._fd = sock.fileno()
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _hand_over(self, data: bytes) -> None:
        self._stream.write(data)

    def _held(self) -> int:
        return self._stream.get_write_buffer_size()

    def pause_reading(self) -> None:
        if not (self._paused or self._stream.is_closing()):
            self._paused = True
            self._stream.pause_reading()

    def resume_reading(self) -> None:
        if self._paused and not self._stream.is_closing():
            self._paused = False
            self._stream.resume_reading()

    def _end_writing(self) -> None:
        if self._stream.can_write_eof() and not self._stream.is_closing():
            self._stream.write_eof()
        else:
            self._stream.close()

    def abort(self) -> None:
        self._fd = -1
        self.phase = Phase.CLOSED
        self._stream.abort()


async def serve_callbacks(owner: AnyioTransport, sockets: list[socket.socket]) -> list[asyncio.Server]:
    """Accept on `sockets`, which listen already."""
    loop = asyncio.get_running_loop()
    servers = []
    options = owner.options
    for sock in sockets:
        create = loop.create_unix_server if sock.family == socket.AF_UNIX else loop.create_server
        server = await create(lambda: CallbackShell(owner), sock=sock, ssl=options.ssl, backlog=_ACCEPTS_PER_TURN)
        sock.listen(options.backlog)
        servers.append(server)
    return servers
