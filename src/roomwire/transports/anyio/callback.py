"""The callback shell: a carrier on an asyncio protocol, with uvloop or without. No task for a socket."""

from __future__ import annotations

import asyncio
import socket
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from roomwire.transports.anyio.accepting import (
    ACCEPTS_PER_TURN,
    Arrival,
    SocketOptions,
    accept_each,
    contained,
    prepare,
    secured,
)
from roomwire.transports.anyio.carrier import LINGER, Carrier
from roomwire.transports.anyio.outlet import THROUGH_SHELL
from roomwire.transports.anyio.peers import Peer, peer_of

if TYPE_CHECKING:
    import anyio.abc

    from roomwire.transports.anyio.transport import AnyioTransport

__all__ = ["CallbackShell", "serve_callbacks"]

_LEAST = 0.001
"""Seconds; a loop takes no time-out of zero."""


class CallbackShell(asyncio.Protocol):
    """Moves bytes between an asyncio transport and a carrier."""

    __slots__ = ("_carrier", "_owner")

    def __init__(self, owner: AnyioTransport) -> None:
        self._owner = owner
        self._carrier: _CallbackCarrier | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A socket was accepted."""
        stream = cast("asyncio.Transport", transport)
        sock = stream.get_extra_info("socket")
        family = sock.family  # which makes an enum's member of a number, each time
        try:
            prepare(sock, family)
        except OSError:
            stream.abort()  # before anything keeps its descriptor
            return
        peer = peer_of(family, stream.get_extra_info("peername"))
        self._carrier = _CallbackCarrier(self._owner, stream, peer, sock.fileno())
        # The transport says exactly when it holds bytes and when it holds none.
        stream.set_write_buffer_limits(high=0, low=0)
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


class _SecuredShell(CallbackShell):
    __slots__ = ("_arrival",)

    def __init__(self, owner: AnyioTransport, arrival: Arrival) -> None:
        super().__init__(owner)
        self._arrival: Arrival | None = arrival

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The TLS handshake is done."""
        stream = cast("asyncio.Transport", transport)
        arrival, self._arrival = self._arrival, None
        assert arrival is not None
        self._owner.door.leave(arrival)  # the carrier takes its place
        self._carrier = _CallbackCarrier(self._owner, stream, arrival.peer, THROUGH_SHELL)
        self._carrier.due(arrival.deadline)
        # Here a limit of zero is passed by a buffer of zero bytes, and the layer below holds up to 64 KiB besides.
        stream.set_write_buffer_limits(high=1, low=0)
        self._owner.welcome(self._carrier)


class _CallbackCarrier(Carrier):
    __slots__ = ("_paused", "_resuming", "_stream")

    def __init__(self, owner: AnyioTransport, stream: asyncio.Transport, peer: Peer, fd: int) -> None:
        super().__init__(owner, peer, fd)
        self._stream = stream
        self._paused = False
        self._resuming = False

    def due(self, deadline: float) -> None:
        """The request's head is awaited up to then, in monotonic seconds."""
        self._set_deadline(deadline - self._host.runtime.now())

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
            # asyncio reads on with the context variables of who has it do so: a handler, or the fallback's application.
            self._transport.context.run(self._stream.resume_reading)

    def _close_link(self) -> None:
        self._stream.close()

    def _now_writable(self) -> None:
        self._resuming = True
        try:
            super()._now_writable()
        finally:
            self._resuming = False

    def _cut(self) -> None:
        if not self._resuming:
            self._stream.abort()
            return
        # asyncio's own loop ends a link that was closed within `resume_writing`, and an abort would end it once more.
        self._pause()
        self._host.runtime.call_soon(self._stream.abort)

    def socket_options(self) -> SocketOptions:
        return cast("SocketOptions", self._stream.get_extra_info("socket"))


async def serve_callbacks(
    owner: AnyioTransport, sockets: list[socket.socket], servers: list[asyncio.Server], tasks: anyio.abc.TaskGroup
) -> None:
    """Accept on `sockets`, which listen already: in `servers`, to which they are appended, or in tasks of `tasks`."""
    if owner.secure:
        # A server of the loop's own tells of a socket only when its TLS handshake is done.
        for sock in sockets:
            tasks.start_soon(
                accept_each, owner, sock, partial(owner.host.runtime.spawn, contained, _serve_secured, owner)
            )
        return
    loop = asyncio.get_running_loop()
    for sock in sockets:
        how: dict[str, Any] = {"backlog": ACCEPTS_PER_TURN}
        create: Any = loop.create_server
        if sock.family == socket.AF_UNIX:
            create = loop.create_unix_server
            if sys.version_info >= (3, 13) and not type(loop).__module__.startswith("uvloop"):
                how["cleanup_socket"] = False  # paths are removed by who made them: `listeners`
        servers.append(await create(lambda: CallbackShell(owner), sock=sock, **how))
        sock.listen(owner.options.backlog)


async def _serve_secured(owner: AnyioTransport, sock: socket.socket) -> None:
    """One socket up to the end of its TLS handshake; from there on it is the callbacks'."""
    await secured(owner, sock, _shake_hands)


async def _shake_hands(owner: AnyioTransport, sock: socket.socket, arrival: Arrival) -> None:
    await asyncio.get_running_loop().connect_accepted_socket(
        lambda: _SecuredShell(owner, arrival),
        sock,
        ssl=owner.options.ssl,
        ssl_handshake_timeout=max(arrival.deadline - owner.host.runtime.now(), _LEAST),
        ssl_shutdown_timeout=LINGER,
    )
