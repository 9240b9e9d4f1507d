"""The anyio transport: raw sockets, in whichever shell fits the running loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

import anyio
import anyio.lowlevel

from roomwire.core.errors import Refusal
from roomwire.transports.anyio.callback import serve_callbacks
from roomwire.transports.anyio.carrier import Carrier
from roomwire.transports.anyio.door import Door
from roomwire.transports.anyio.listeners import Listeners
from roomwire.transports.anyio.portable import serve_portably
from roomwire.transports.contract import Capabilities, Host, ListenOptions

__all__ = ["AnyioTransport"]

logger = logging.getLogger("roomwire")

_FULL = Refusal(503, "unavailable", "too many handshakes at once", (("Retry-After", "5"),))


class AnyioTransport:
    """Listens and serves; see `roomwire.transports.contract.Transport`.

    Args:
        options: where and how to listen.
    """

    Options = ListenOptions

    def __init__(self, options: ListenOptions | None = None) -> None:
        self.options = options or ListenOptions()
        self.secure = self.options.ssl is not None
        self.carriers: set[Carrier] = set()
        self.host: Host
        self.door: Door
        self._listeners: Listeners | None = None
        self._servers: list[asyncio.Server] = []
        self._accepting: anyio.CancelScope | None = None
        self._closed: anyio.Event | None = None

    @property
    def capabilities(self) -> Capabilities:
        """See `roomwire.transports.contract.Transport`."""
        return Capabilities(writes_directly=not self.secure)

    async def serve(self, host: Host, *, ready: Callable[[Sequence[str]], None]) -> None:
        """See `roomwire.transports.contract.Transport`.

        Raises:
            ConfigError: an address cannot be bound.
        """
        self.host = host
        self.door = Door(host.limits, host.runtime)
        self._closed = anyio.Event()
        self._listeners = Listeners(self.options)
        try:
            async with anyio.create_task_group() as tasks:
                if self._uses_callbacks():
                    self._servers = await serve_callbacks(self, self._listeners.sockets)
                else:
                    self._accepting = tasks.cancel_scope
                    await serve_portably(self, self._listeners.sockets, tasks)
                ready(self._listeners.addresses)
                await self._closed.wait()
                tasks.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):
                await self.stop_accepting()
                await self._abort_all()

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
        if self._listeners is not None:
            self._listeners.close()

    async def aclose(self) -> None:
        """See `roomwire.transports.contract.Transport`."""
        if self._closed is not None:
            self._closed.set()
        await self._abort_all()

    async def _abort_all(self) -> None:
        for carrier in list(self.carriers):
            carrier.abort()
        # An aborted link is reported as lost in the next turns of the loop.
        for _ in range(100):
            if not self.carriers:
                return
            await anyio.lowlevel.checkpoint()

    # --- for the carriers

    def welcome(self, carrier: Carrier) -> None:
        """A socket was accepted: let it in, have it wait, or turn it away."""
        self.carriers.add(carrier)
        if not self.door.has_place(carrier):
            carrier.turn_away(_FULL)
        elif not self.door.knock(carrier):
            carrier.pause_reading()

    def gone(self, carrier: Carrier) -> None:
        """A socket has ended."""
        self.carriers.discard(carrier)
        self.door.leave(carrier)

    def trusts(self, address: str) -> bool:
        """Whether a peer is one of our proxies; a Unix socket's peer is."""
        trusted = self.options.forwarded_allow_ips
        return not address or "*" in trusted or address in trusted

    def failed(self, carrier: Carrier, error: Exception) -> None:
        """A fault in a connection's own way: it is closed, the others go on."""
        logger.error(
            "a connection failed", exc_info=error, extra={"roomwire": {"event": "error", "peer": carrier.peer}}
        )
        carrier.fail()
