"""An echo server in a thread of its own: the transport under test without a node above it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import anyio
import anyio.abc
import anyio.from_thread

from roomwire.core.limits import Limits
from roomwire.testing.clock import VirtualClock
from roomwire.transports.anyio import AnyioTransport
from roomwire.transports.contract import ListenOptions
from tests.server.live import TIMEOUT, Shell
from tests.tools.echo_server import RAISED, EchoHost, EchoReceiver


class EchoServer:
    """A serving transport, and ways to look at it from the test's thread."""

    def __init__(
        self,
        host: EchoHost,
        transport: AnyioTransport,
        addresses: list[str],
        portal: anyio.from_thread.BlockingPortal,
        clock: VirtualClock | None,
    ) -> None:
        self.host = host
        self.transport = transport
        self.addresses = addresses
        self.portal = portal
        self.clock = clock

    @property
    def port(self) -> int:
        return int(self.addresses[0].rpartition(":")[2])

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function, sync or async, on the server's loop."""
        return self.portal.call(function, *arguments)

    def until(self, condition: Callable[[], object]) -> None:
        """Let the loop turn until the condition holds."""
        deadline = time.monotonic() + TIMEOUT
        while not self.call(condition):
            assert time.monotonic() < deadline, "it does not come true"

    def advance(self, seconds: float) -> None:
        """Move the virtual clock, and do what is due then."""
        clock = self.clock
        assert clock is not None

        def move() -> None:
            clock.advance(seconds)
            self.host.wheel.advance(clock())

        self.call(move)

    def receiver(self, index: int = -1) -> EchoReceiver:
        """The receiver of one connection so far."""
        receiver = self.host.receivers[index]
        assert isinstance(receiver, EchoReceiver)
        return receiver


@contextmanager
def echo_server(
    shell: Shell,
    *,
    make_receiver: Callable[[], EchoReceiver] = EchoReceiver,
    limits: Limits = RAISED,
    listen: Mapping[str, Any] | None = None,
    clock: VirtualClock | None = None,
) -> Iterator[EchoServer]:
    """A server until the end of the block; no fault of its callbacks is left unsaid."""
    host = EchoHost(make_receiver, limits, clock or time.monotonic)
    transport = AnyioTransport(ListenOptions(port=0, shell=shell.shell, **(listen or {})))
    addresses: list[str] = []

    async def start(*, task_status: anyio.abc.TaskStatus[None]) -> None:
        def ready(found: Any) -> None:
            addresses.extend(found)
            task_status.started()

        await host.serve(transport, ready)

    with anyio.from_thread.start_blocking_portal(shell.backend, dict(shell.backend_options)) as portal:
        future, _ = portal.start_task(start)
        server = EchoServer(host, transport, addresses, portal, clock)
        try:
            yield server
        finally:
            portal.call(transport.aclose)
            future.result(TIMEOUT)
    assert host.faults == []
    assert transport.carriers == set()
