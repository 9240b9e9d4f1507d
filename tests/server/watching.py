"""What a server does inside, looked at from the test's thread on the server's own loop."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from roomwire.transports.anyio import AnyioTransport
from roomwire.transports.anyio.carrier import Carrier
from roomwire.transports.anyio.turnstile import Turnstile
from tests.server.live import TIMEOUT, LiveServer


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
    deadline = time.monotonic() + TIMEOUT
    while not server.call(condition):
        assert time.monotonic() < deadline, "it does not come true"


def counts_by_turn(monkeypatch: pytest.MonkeyPatch, per_turn: int) -> list[int]:
    """A count for each turn of the turnstiles that let so many through; the test adds to the last one."""
    counts = [0]
    next_turn = Turnstile._next_turn

    def count_turn(turnstile: Turnstile[object]) -> None:
        if turnstile._per_turn == per_turn:
            counts.append(0)
        next_turn(turnstile)

    monkeypatch.setattr(Turnstile, "_next_turn", count_turn)
    return counts
