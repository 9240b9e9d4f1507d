"""The door: lets requests in, a few in a turn of the loop.

A thousand clients that come back at once must not block those that are here. Bytes are kept as they come, which
costs next to nothing; once they are a whole head, or can become none, the socket knocks, and waits for its turn
before anything is made of them. So it does not matter whether the thousand come in one moment, or are here for
long and ask in one moment. Sockets beyond the limits are turned away before a byte of theirs is read.
"""

from __future__ import annotations

from typing import Protocol

from roomwire.core.limits import Limits
from roomwire.transports.anyio.turnstile import Turnstile
from roomwire.transports.contract import Runtime

__all__ = ["HANDSHAKES_PER_TURN", "Door", "Visitor"]

HANDSHAKES_PER_TURN = 16
"""About 5 ms of work, at 300 us for a handshake from its head to the welcome."""


class Visitor(Protocol):
    """A new socket."""

    address: str
    """What it is counted by (`roomwire.transports.anyio.peers.group_of`); empty where it is not."""

    def enter(self) -> None:
        """Its turn has come; what goes wrong there is its own affair."""
        ...


class Door:
    """Keeps the sockets whose handshake is not done.

    Args:
        limits: `max_pending_handshakes` and `max_pending_per_ip`.
        runtime: whose turns are counted.
    """

    def __init__(self, limits: Limits, runtime: Runtime) -> None:
        self._limits = limits
        self._turnstile: Turnstile[Visitor] = Turnstile(runtime, HANDSHAKES_PER_TURN, self._enter)
        self._by_address: dict[str, int] = {}
        self._inside: set[Visitor] = set()

    @property
    def pending(self) -> int:
        """Sockets that are waiting or inside."""
        return len(self._inside)

    def has_place(self, visitor: Visitor) -> bool:
        """Whether another one may wait or be inside; then it is counted until `leave`."""
        limits = self._limits
        if len(self._inside) >= limits.max_pending_handshakes:
            return False
        address = visitor.address
        others = self._by_address.get(address, 0)
        if address and others >= limits.max_pending_per_ip:
            return False
        self._inside.add(visitor)
        self._by_address[address] = others + 1
        return True

    def knock(self, visitor: Visitor) -> bool:
        """Whether it may enter at once; else `Visitor.enter` is called later."""
        return self._turnstile.passes(visitor)

    def leave(self, visitor: Visitor) -> None:
        """Its handshake is done, or it is gone."""
        if visitor not in self._inside:
            return
        self._inside.discard(visitor)
        self._uncount(visitor.address)

    def readdress(self, visitor: Visitor, address: str) -> bool:
        """Count a visitor by another address than before; False where that one has too many."""
        if visitor in self._inside:
            self._uncount(visitor.address)
            visitor.address = address
            self._by_address[address] = self._by_address.get(address, 0) + 1
        return self._by_address.get(address, 0) <= self._limits.max_pending_per_ip

    def _uncount(self, address: str) -> None:
        others = self._by_address[address] - 1
        if others:
            self._by_address[address] = others
        else:
            del self._by_address[address]

    def _enter(self, visitor: Visitor) -> bool:
        if visitor not in self._inside:
            return False  # it has left meanwhile
        visitor.enter()
        return True
