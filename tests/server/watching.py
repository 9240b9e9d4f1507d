"""What a server does inside, looked at from the test's thread on the server's own loop."""

from __future__ import annotations

from collections.abc import Callable

from roomwire.transports.anyio import AnyioTransport
from roomwire.transports.anyio.carrier import Carrier
from tests.server.live import LiveServer

TURNS = 20_000
"""Turns of the loop, each with a way over from this thread and back: some seconds, reached only where a test fails."""


def transport_of(server: LiveServer) -> AnyioTransport:
    """The server's transport."""
    transport = server.node.transport
    assert isinstance(transport, AnyioTransport)
    return transport


def carriers(server: LiveServer) -> set[Carrier]:
    """Its open sockets."""
    return transport_of(server).carriers


def only_carrier(server: LiveServer) -> Carrier:
    """Its only open socket."""
    (carrier,) = carriers(server)
    return carrier


def until(server: LiveServer, condition: Callable[[], object]) -> None:
    """Let the loop turn until the condition holds; it is evaluated there, between two turns."""
    for _ in range(TURNS):
        if server.call(condition):
            return
    raise AssertionError("it does not come true")
