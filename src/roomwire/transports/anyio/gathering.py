"""Gathering: what several connections are answered in one turn of the loop leaves together, at its end.

A write to a peer that sleeps has the kernel wake it, which costs as much as the write. Where one handler runs after
the other, each with a write at its end, the peer sleeps again before the next one comes; where the writes follow on
each other it is woken once. So a carrier is put aside with one small block, and what it waits for is a few others,
or the end of the turn. Whatever else goes out on it goes behind that block, at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from roomwire.transports.anyio.carrier import Carrier
    from roomwire.transports.anyio.transport import AnyioTransport

__all__ = ["SMALL", "TOGETHER", "Gatherer"]

SMALL = 4096
"""Bytes; a larger block takes longer to write than a wake-up."""
TOGETHER = 16
"""Carriers after which none waits any longer: fifteen sixteenths of the wake-ups are saved by then."""


class Gatherer:
    """The carriers of one transport that wait for the end of the turn.

    Args:
        transport: theirs.
    """

    __slots__ = ("_asked", "_transport", "_waiting")

    def __init__(self, transport: AnyioTransport) -> None:
        self._transport = transport
        self._waiting: list[Carrier] = []
        self._asked = False

    def add(self, carrier: Carrier) -> None:
        """Have `carrier.release` called soon."""
        waiting = self._waiting
        waiting.append(carrier)
        if len(waiting) >= TOGETHER:
            self.release()
        elif not self._asked:
            self._asked = True
            self._transport.host.runtime.call_soon(self._end_turn)

    def release(self) -> None:
        """Write what waits."""
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        for carrier in waiting:
            try:
                carrier.release()
            except Exception as error:  # noqa: BLE001  the boundary of a connection
                self._transport.failed(carrier, error)

    def _end_turn(self) -> None:
        self._asked = False
        self.release()
