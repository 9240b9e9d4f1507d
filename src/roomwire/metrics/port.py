"""A port of its own for ``/metrics``, to which the proxy before the node's own port does not lead.

It is served by the anyio transport, as the node's own port is: the same parser, deadlines and limits. It goes
on until the node has drained.
"""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import anyio

from roomwire import plugins
from roomwire.core.errors import ConfigError, LocalError, Refusal
from roomwire.core.limits import Limits
from roomwire.core.request import RequestHead
from roomwire.core.wheel import TimerWheel
from roomwire.node import Node
from roomwire.transports.contract import Admission, Fallback, HttpResponse, ListenOptions, Runtime, Transport, Upload

__all__ = ["OwnPort"]

logger = logging.getLogger("roomwire")

_HEALTH = ("/healthz", "/readyz")
_RETRY = 0.5
"""Seconds between two tries to bind a port that a worker's predecessor still has while it drains."""


class OwnPort:
    """The host of a transport that is asked for metrics and health, and nothing else.

    Args:
        node: whose metrics.
        answer: answers ``/metrics``.
        host, port: where to listen; port 0 takes any.
        patient: whether to wait for a port that is taken.

    Attributes:
        address: the host and the port, once it is bound.
        fallback: none; the application of the node's own port is not here.
    """

    fallback: Fallback | None = None

    def __init__(
        self,
        node: Node,
        answer: Callable[[RequestHead], HttpResponse],
        host: str,
        port: int,
        *,
        patient: bool = False,
    ) -> None:
        self._node = node
        self._answer = answer
        self._where = (host, port)
        self._patient = patient
        self._socket: socket.socket | None = None
        self.address: tuple[str, int] = ("", 0)

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[None]:
        """Listen until the node's tasks end.

        Raises:
            ConfigError: the address cannot be bound.
        """
        try:
            self._bind()
            self._node.runtime.spawn(self._serve)
            yield
        finally:
            if self._socket is not None:
                self._socket.close()

    async def _serve(self) -> None:
        if self._socket is None:
            fields = {"event": "metrics_wait", "port": self._where[1]}
            text = "the port of metrics is taken, perhaps by a worker that drains: trying again until it is free"
            logger.warning(text, extra={"roomwire": fields})
        while self._socket is None:
            await anyio.sleep(_RETRY)
            self._bind()
        adapter = plugins.load_class(plugins.find(plugins.TRANSPORTS, "anyio"))
        transport: Transport = adapter(ListenOptions(fd=self._socket.fileno()))
        await transport.serve(self, ready=self._ready)

    def _ready(self, addresses: Sequence[str]) -> None:
        host, port = self.address
        logger.info("metrics on %s port %d", host, port, extra={"roomwire": {"event": "metrics", "port": port}})

    def _bind(self) -> None:
        host, port = self._where
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            family, _, _, _, address = found[0]
            self._socket = socket.create_server(address[:2], family=family)
        except OSError as error:
            if self._patient and error.errno == errno.EADDRINUSE:
                return
            text = f"metrics.host = {host!r}, metrics.port = {port}: cannot listen there: {error.strerror}"
            raise ConfigError(text) from error
        self.address = self._socket.getsockname()[:2]

    # --- the transport's host

    @property
    def limits(self) -> Limits:
        """See `roomwire.transports.contract.Host`."""
        return self._node.limits

    @property
    def runtime(self) -> Runtime:
        """See `roomwire.transports.contract.Host`."""
        return self._node.runtime

    @property
    def wheel(self) -> TimerWheel:
        """See `roomwire.transports.contract.Host`."""
        return self._node.wheel

    @property
    def subprotocols(self) -> Sequence[str]:
        """See `roomwire.transports.contract.Host`."""
        return ()

    def path_is_socket(self, path: str) -> bool:
        """See `roomwire.transports.contract.Host`: none is."""
        return False

    def path_is_stream(self, path: str) -> bool:
        """See `roomwire.transports.contract.Host`: none is."""
        return False

    def respond(self, head: RequestHead) -> HttpResponse | None:
        """See `roomwire.transports.contract.Host`."""
        if head.path == "/metrics":
            return self._answer(head)
        return self._node.respond(head) if head.path in _HEALTH else None

    def wants_body(self, head: RequestHead) -> Upload | None:
        """See `roomwire.transports.contract.Host`: nothing is taken."""
        return None

    def at_the_door(self) -> Refusal | None:
        """See `roomwire.transports.contract.Host`."""
        return None

    async def admit(self, head: RequestHead, subprotocol: str | None) -> Admission:
        """See `roomwire.transports.contract.Host`; never called."""
        raise LocalError("no path is a socket here")

    async def admit_stream(self, head: RequestHead) -> Admission | HttpResponse:
        """See `roomwire.transports.contract.Host`; never called."""
        raise LocalError("no path is a stream here")

    def abandon(self, admission: Admission) -> None:
        """See `roomwire.transports.contract.Host`; never called."""

    def refused(self, head: RequestHead | None, refusal: Refusal, peer: str) -> None:
        """See `roomwire.transports.contract.Host`: no client's request, so it is neither counted nor logged."""

    def fault(self, error: BaseException, where: str) -> None:
        """See `roomwire.transports.contract.Host`."""
        self._node.fault(error, where)
