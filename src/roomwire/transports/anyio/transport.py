"""The anyio transport: raw sockets, in whichever shell fits the running loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextvars import Context, copy_context

import anyio
import anyio.abc
import anyio.lowlevel

from roomwire.transports.anyio.accepting import Arrival
from roomwire.transports.anyio.callback import serve_callbacks
from roomwire.transports.anyio.carrier import Carrier
from roomwire.transports.anyio.door import Door
from roomwire.transports.anyio.forwarded import Proxies
from roomwire.transports.anyio.gathering import Gatherer
from roomwire.transports.anyio.handover import Handover, serve_handed
from roomwire.transports.anyio.listeners import Listeners
from roomwire.transports.anyio.peers import Peer
from roomwire.transports.anyio.portable import serve_portably
from roomwire.transports.anyio.refusals import FULL
from roomwire.transports.anyio.serving import Serving
from roomwire.transports.anyio.spreading import Spreader
from roomwire.transports.anyio.turnstile import Turnstile
from roomwire.transports.contract import Capabilities, Host, ListenOptions

__all__ = ["AnyioTransport"]

logger = logging.getLogger("roomwire")

DEPARTURES_PER_TURN = 256
"""About 4 ms of work, at 15 us for one that is in a room: thousands may go at once, with the proxy they came by."""
_ABORT_TURNS = 100
"""Turns of the loop in which an aborted link is reported as lost; one or two are enough, where it need not wait."""


class AnyioTransport:
    """Listens and serves; see `roomwire.transports.contract.Transport`.

    Args:
        options: where and how to listen.

    Attributes:
        options: the same.
        secure: whether TLS is spoken.
        proxies: who is believed about a client's address.
        carriers: the sockets that are open.
        kept: those of them that wait for a further request, the oldest first.
        gatherer: what puts aside those that are written to at the end of the turn.
        spreader: what writes one block to many of them.
        host: the node, while serving.
        context: the context variables with which it serves, and no handler's.
        door: where new sockets wait, while serving.
        departures: where links that have ended wait to be told of, while serving.

    Raises:
        ConfigError: `forwarded_allow_ips` has an entry that is no address and no network.
    """

    Options = ListenOptions

    def __init__(self, options: ListenOptions | None = None) -> None:
        self.options = options or ListenOptions()
        self.secure = self.options.ssl is not None
        self.proxies = Proxies(self.options.forwarded_allow_ips)
        self.carriers: set[Carrier] = set()
        self.kept: dict[Serving, None] = {}
        self.host: Host
        self.context: Context
        self.door: Door
        self.departures: Turnstile[Carrier]
        self.gatherer = Gatherer(self)
        self.spreader = Spreader(uses_ring=self.options.io_uring and not self.secure)
        self._listeners: Listeners | None = None
        self._handover: Handover | None = None
        self._servers: list[asyncio.Server] = []
        self._closed = anyio.Event()

    @property
    def capabilities(self) -> Capabilities:
        """See `roomwire.transports.contract.Transport`."""
        return Capabilities(writes_directly=not self.secure, takes_over=True, serves_fallback=True)

    @property
    def pending(self) -> int:
        """Sockets whose handshake is not done."""
        return self.door.pending if hasattr(self, "door") else 0  # not yet serving

    async def serve(self, host: Host, *, ready: Callable[[Sequence[str]], None]) -> None:
        """See `roomwire.transports.contract.Transport`.

        Raises:
            ConfigError: an address cannot be bound.
        """
        self.host = host
        self.context = copy_context()
        self.door = Door(host.limits, host.runtime)
        self.departures = Turnstile(host.runtime, DEPARTURES_PER_TURN, Carrier.depart)
        if self._closed.is_set():
            return  # a signal came before us
        # Outside of the tasks, which would wrap the error of an address that cannot be bound.
        if self.options.handover is None:
            self._listeners = Listeners(self.options)
        else:
            self._handover = Handover(self.options.handover)
        try:
            async with anyio.create_task_group() as tasks:
                ready(await self._listen(tasks))
                await self._closed.wait()
                tasks.cancel_scope.cancel()
        finally:
            self._closed.set()
            with anyio.CancelScope(shield=True):
                await self.stop_accepting()
                await self._abort_all()
                self.spreader.close()

    async def _listen(self, tasks: anyio.abc.TaskGroup) -> Sequence[str]:
        if self._listeners is None:
            assert self._handover is not None
            await serve_handed(self, self._handover, tasks, callbacks=self._uses_callbacks())
            return []
        if self._uses_callbacks():
            await serve_callbacks(self, self._listeners.sockets, self._servers, tasks)
        else:
            await serve_portably(self, self._listeners.sockets, tasks)
        return self._listeners.addresses

    def _uses_callbacks(self) -> bool:
        shell = self.options.shell
        if shell != "auto":
            return shell == "callback"
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return False
        # asyncio's own TLS costs a multiple of uvloop's, and of anyio's, in memory for a connection.
        return not self.secure or type(loop).__module__.startswith("uvloop")

    async def stop_accepting(self) -> None:
        """See `roomwire.transports.contract.Transport`."""
        for server in self._servers:
            server.close()
        self._servers = []
        for serving in list(self.kept):
            serving.close_kept()
        if self._handover is not None:
            self._handover.close()
        if self._listeners is not None:
            for sock in self._listeners.sockets:
                if sock.fileno() >= 0:
                    anyio.notify_closing(sock)
            self._listeners.close()

    async def aclose(self) -> None:
        """See `roomwire.transports.contract.Transport`."""
        self._closed.set()
        await self._abort_all()

    async def _abort_all(self) -> None:
        for carrier in list(self.carriers):
            carrier.abort()
        for _ in range(_ABORT_TURNS + len(self.carriers)):
            if not self.carriers:
                return
            await anyio.lowlevel.checkpoint()

    # --- for the carriers

    def counted_address(self, peer: Peer) -> str:
        """What a new socket counts by at the door; a proxy's address says nothing about its clients."""
        if self.options.proxy_headers and self.proxies.trust(peer.host):
            return ""
        return peer.group

    def arrive(self, peer: Peer) -> Arrival | None:
        """A socket was accepted that is to speak TLS: it has a place at the door from now on, or none is left."""
        deadline = self.host.runtime.now() + self.host.limits.handshake_timeout
        arrival = Arrival(peer, self.counted_address(peer), deadline)
        if self.door.has_place(arrival):
            return arrival
        self.host.refused(None, FULL, peer.name)
        return None

    def welcome(self, carrier: Carrier) -> None:
        """A socket was accepted: read its request, or turn it away."""
        self.carriers.add(carrier)
        try:
            if self._closed.is_set():
                carrier.abort()  # it was accepted while we ended
            elif not self.door.has_place(carrier):
                carrier.turn_away()
        except Exception as error:  # noqa: BLE001  the boundary of a connection
            self.failed(carrier, error)

    def gone(self, carrier: Carrier) -> None:
        """A socket has ended."""
        self.carriers.discard(carrier)
        if self._handover is not None:
            self._handover.changed()
        self.door.leave(carrier)

    def failed(self, carrier: Carrier, error: Exception) -> None:
        """A fault in a connection's own way: it is closed, the others go on."""
        fields = {"event": "error", "peer": carrier.peer}
        logger.error("a connection failed", exc_info=error, extra={"roomwire": fields})
        try:
            carrier.fail()
        except Exception as second:
            logger.error("a failed connection is cut", exc_info=second, extra={"roomwire": fields})
            carrier.abort()
