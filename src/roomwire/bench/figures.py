"""What a measurement gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Figures", "Opened", "Traffic", "percentile"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """What it took to open the connections.

    Attributes:
        connections: how many were opened.
        seconds: from the first to the last one that was ready.
        cpu: seconds of the server's CPU time for all of them; None where it cannot be seen.
        memory: bytes by which the server grew, with all of them open; None where it cannot be seen.
    """

    connections: int
    seconds: float
    cpu: float | None
    memory: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What was counted while messages flowed.

    Attributes:
        messages: how many were sent.
        deliveries: how many came; of an echo, the replies.
        seconds: how long was counted.
        cpu: seconds of the server's CPU time; None where it cannot be seen.
        own_cpu: seconds of the generator's own. Near `seconds`, the rate is the generator's and not the server's.
        p50: median latency of a delivery, seconds.
        p99: the 99th percentile.
    """

    messages: int
    deliveries: int
    seconds: float
    cpu: float | None
    own_cpu: float
    p50: float
    p99: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """The result of a workload; `traffic` is None where nothing was sent."""

    opened: Opened
    traffic: Traffic | None = None

    @property
    def accept_us(self) -> float | None:
        """Microseconds of the server's CPU time for a connection."""
        return _micro(self.opened.cpu, self.opened.connections)

    @property
    def delivery_us(self) -> float | None:
        """Microseconds of the server's CPU time for a delivery, or for an echo."""
        return None if self.traffic is None else _micro(self.traffic.cpu, self.traffic.deliveries)

    @property
    def memory_kib(self) -> float | None:
        """KiB of the server's memory for a connection."""
        return None if self.opened.memory is None else self.opened.memory / self.opened.connections / 1024

    def as_json(self) -> dict[str, float | None]:
        """Everything by a name that has its unit."""
        table: dict[str, float | None] = {
            "connections": self.opened.connections,
            "connect_seconds": self.opened.seconds,
            "connects_per_second": self.opened.connections / self.opened.seconds,
            "server_cpu_us_per_accept": self.accept_us,
            "server_memory_kib_per_connection": self.memory_kib,
        }
        if (traffic := self.traffic) is not None:
            table |= {
                "messages": traffic.messages,
                "deliveries": traffic.deliveries,
                "seconds": traffic.seconds,
                "deliveries_per_second": traffic.deliveries / traffic.seconds,
                "server_cpu_us_per_delivery": self.delivery_us,
                "server_load": None if traffic.cpu is None else traffic.cpu / traffic.seconds,
                "generator_load": traffic.own_cpu / traffic.seconds,
                "latency_p50_us": traffic.p50 * 1e6,
                "latency_p99_us": traffic.p99 * 1e6,
            }
        return table


def _micro(seconds: float | None, count: int) -> float | None:
    return None if seconds is None or count == 0 else seconds / count * 1e6


def percentile(ordered: Sequence[int], share: float) -> float:
    """The value below which this share of them is; 0 where there are none.

    Args:
        ordered: ascending.
        share: from 0 to 1.
    """
    return float(ordered[min(int(share * len(ordered)), len(ordered) - 1)]) if ordered else 0.0
