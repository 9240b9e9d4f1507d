"""Spreading: the same block to many sockets, in one system call where the kernel has a ring for it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from roomwire.transports.anyio.phases import Phase
from roomwire.transports.anyio.ring import LARGEST, SendRing

if TYPE_CHECKING:
    from roomwire.transports.anyio.carrier import Carrier

__all__ = ["FEW", "Spreader"]

logger = logging.getLogger("roomwire")

FEW = 64
"""Below it the ring's own work costs more than it saves."""

_OPEN = Phase.OPEN


class Spreader:
    """Writes one block to many carriers of one transport.

    Args:
        uses_ring: whether `roomwire.transports.anyio.ring` may be used.

    Attributes:
        few: from so many carriers on the ring is used.
    """

    def __init__(self, *, uses_ring: bool) -> None:
        self.few = FEW
        self._uses_ring = uses_ring
        self._ring: SendRing | None = None

    def write(self, carriers: Sequence[Carrier], block: bytes, messages: int, *, counted: bool) -> None:
        """As `Carrier.write` to each of them."""
        ring = None if len(carriers) < self.few or len(block) > LARGEST else self._ring or self._make_ring()
        if ring is None:
            for carrier in carriers:
                carrier.write(block, messages, counted=counted)
            return
        # Who has a descriptor that nothing waits before; as in `Carrier.write`.
        straight = [c for c in carriers if c.phase is _OPEN and not c._blocked and c._cork is None and c._fd >= 0]
        try:
            self._send(ring, straight, block, messages, counted=counted)
        except BaseException:
            # Who has how much of the block is not known any more: nothing may follow on it.
            self.close()
            for carrier in straight:
                carrier.abort()
            raise
        if len(straight) != len(carriers):
            for carrier in set(carriers).difference(straight):
                carrier.write(block, messages, counted=counted)

    @staticmethod
    def _send(ring: SendRing, carriers: Sequence[Carrier], block: bytes, messages: int, *, counted: bool) -> None:
        taken = ring.send([carrier._fd for carrier in carriers], block)
        for carrier in carriers:
            carrier.sent += messages
        if taken.count(len(block)) != len(taken):
            for carrier, count in zip(carriers, taken, strict=True):
                if count != len(block):
                    carrier.took(count, block, counted=counted)

    def _make_ring(self) -> SendRing | None:
        """The first fan-out makes it, since a ring belongs to one thread."""
        if self._uses_ring:
            self._uses_ring = False
            try:
                self._ring = SendRing()
            except OSError as error:
                fields = {"event": "no_ring", "error": error.strerror}
                logger.debug("no io_uring here: sockets are written to one by one", extra={"roomwire": fields})
        return self._ring

    def close(self) -> None:
        """Give the ring back; from now on sockets are written to one by one."""
        self._uses_ring = False
        ring, self._ring = self._ring, None
        if ring is not None:
            ring.close()
