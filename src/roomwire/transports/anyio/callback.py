"""The callback shell: a carrier on an asyncio protocol, with uvloop or without. No task for a socket."""

from __future__ import annotations

import asyncio
import socket
import sys
from typing import TYPE_CHECKING, Any, cast

from roomwire.transports.anyio.carrier import LINGER, Carrier
from roomwire.transports.anyio.outlet import THROUGH_SHELL
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
        """A socket was accepted; under TLS, its handshake is done."""
        stream = cast("asyncio.Transport", transport)
        self._carrier = _CallbackCarrier(self._owner, stream)
        # The transport says exactly when it holds bytes and when it holds none. Not so under TLS: there a
        # limit of zero is passed by a buffer of zero bytes, and the layer below holds up to 64 KiB besides.
        stream.set_write_buffer_limits(high=1 if self._owner.secure else 0, low=0)
        self._owner.welcome(self._carrier)

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        assert self._carrier is not None
        self._carrier.receive(data)

    def eof_received(self) -> bool:
        """The peer sends no more; the transport closes itself behind what it holds."""
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
            carrier.lost(exc)


class _CallbackCarrier(Carrier):
    __slots__ = ("_paused", "_stream")

    def __init__(self, owner: AnyioTransport, stream: asyncio.Transport) -> None:
        sock = stream.get_extra_info("socket")
        peer = peer_of(sock.family, stream.get_extra_info("peername"))
        super().__init__(owner, peer, THROUGH_SHELL if owner.secure else sock.fileno())
        self._stream = stream
        self._paused = False
        if sock.family != socket.AF_UNIX:
            # asyncio does so itself, but not for a socket of a listener that was made with protocol 0.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _hand_over(self, data: bytes) -> None:
        self._stream.write(data)

    def _held(self) -> int:
        return self._stream.get_write_buffer_size()

    def _pause(self) -> None:
        if not (self._paused or self._stream.is_closing()):
            self._paused = True
            self._stream.pause_reading()

    def _unpause(self) -> None:
        if self._paused and not self._stream.is_closing():
            self._paused = False
            self._stream.resume_reading()

    def _close_link(self) -> None:
        self._stream.close()

    def _cut(self) -> None:
        self._stream.abort()


async def serve_callbacks(owner: AnyioTransport, sockets: list[socket.socket], servers: list[asyncio.Server]) -> None:
    """Accept on `sockets`, which listen already; what is made is appended to `servers`."""
    loop = asyncio.get_running_loop()
    options = owner.options
    how: dict[str, Any] = {"backlog": _ACCEPTS_PER_TURN}
    if options.ssl is not None:
        timeout = owner.host.limits.handshake_timeout
        how |= {"ssl": options.ssl, "ssl_handshake_timeout": timeout, "ssl_shutdown_timeout": LINGER}
    for sock in sockets:
        here = dict(how)
        create: Any = loop.create_server
        if sock.family == socket.AF_UNIX:
            create = loop.create_unix_server
            if sys.version_info >= (3, 13) and not type(loop).__module__.startswith("uvloop"):
                here["cleanup_socket"] = False  # paths are removed by who made them: `listeners`
        servers.append(await create(lambda: CallbackShell(owner), sock=sock, **here))
        sock.listen(options.backlog)
