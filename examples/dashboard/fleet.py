"""A fleet of servers that is not there: what its measurements would be, the same for the same seed."""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Iterable

from pydantic import BaseModel

__all__ = ["REGIONS", "Fleet", "Measurement"]

REGIONS = ("fra", "iad", "sin")
HOSTS_OF_A_REGION = 2
RECENT = 60
"""Seconds of the past that are kept for a page that is opened."""

# What a host bears, requests a second, and how late the region's day is, as a share of the wave.
_CAPACITY = {"fra": 560.0, "iad": 700.0, "sin": 380.0}
_PHASE = {"fra": 0.0, "iad": 0.3, "sin": 0.62}
_WAVE = 94.0  # seconds: a day in the life of a demonstration


class Measurement(BaseModel):
    """What one host says of itself."""

    name: str
    region: str
    at: float
    """Seconds since 1970."""
    count: int
    """How many measurements the host has made: a viewer sees by it how many it was spared."""
    rps: float
    """Requests a second."""
    p95: float
    """Milliseconds in which 95 of 100 of them are answered."""
    errors: float
    """Percent of them that fail."""
    cpu: float
    """Percent."""
    queue: int
    """Requests that wait."""


class _Host:
    """Its load wanders and comes back (an Ornstein-Uhlenbeck process); all else follows from the load."""

    def __init__(self, name: str, region: str, chance: random.Random) -> None:
        self.name = name
        self.region = region
        self._chance = chance
        self._capacity = _CAPACITY.get(region, 450.0) * chance.uniform(0.93, 1.07)
        self._drift = 0.0
        self._waiting = 0.0
        self._count = 0
        self.newest: Measurement | None = None
        self.recent: deque[Measurement] = deque(maxlen=RECENT)

    def measure(self, at: float, passed: float, spike: float) -> Measurement:
        at = round(at, 3)  # as it is told, and kept once for a second
        noise = self._chance.gauss(0, 1) * math.sqrt(passed)
        self._drift += -0.6 * self._drift * passed + 0.075 * noise
        wave = math.sin(2 * math.pi * (at / _WAVE + _PHASE.get(self.region, 0.5)))
        load = max(0.04, (0.55 + 0.12 * wave) * (1 + self._drift) * spike)
        # What comes beyond the capacity waits, and is worked off later.
        self._waiting = min(900.0, max(0.0, self._waiting + (load - 1) * self._capacity * passed * 0.5))
        busy = min(load + self._waiting / 600, 0.985)
        jitter = 1 + 0.008 * self._chance.gauss(0, 1)
        self._count += 1
        self.newest = measurement = Measurement(
            name=self.name,
            region=self.region,
            at=at,
            count=self._count,
            rps=round(min(load, 1.06) * self._capacity * jitter, 1),
            p95=round((26 + 13 / (1 - busy) + self._waiting * 0.9) * jitter, 1),
            errors=round(max(0.0, 0.06 + 6 * max(0.0, busy - 0.9) ** 1.2 * 14 + 0.02 * self._chance.gauss(0, 1)), 2),
            cpu=round(min(100.0, 100 * (0.06 + 0.94 * busy) * jitter), 1),
            queue=round(self._waiting + 4 * busy / (1 - busy)),
        )
        if not self.recent or int(at) > int(self.recent[-1].at):
            self.recent.append(measurement)
        return measurement


class Fleet:
    """Hosts in regions.

    Args:
        regions: their names; with none there is nothing to measure here.
        seed: of all that happens by chance.
    """

    def __init__(self, regions: Iterable[str] = REGIONS, *, seed: int) -> None:
        self._hosts = [
            _Host(f"{region}-{number}", region, random.Random(f"{seed} {region} {number}"))  # noqa: S311  no secrets
            for region in regions
            for number in range(1, HOSTS_OF_A_REGION + 1)
        ]
        self._spike = 1.0
        self._spike_end = 0.0
        self._last = 0.0

    def begin(self, now: float) -> None:
        """Make up the minute before `now`, seconds since 1970."""
        self._last = now - RECENT
        for second in range(1, RECENT):
            self.measure(now - RECENT + second)

    def __len__(self) -> int:
        return len(self._hosts)

    def measure(self, at: float) -> list[Measurement]:
        """What the hosts say at this time, which is seconds since 1970."""
        passed = min(max(at - self._last, 0.0), 1.0)
        self._last = max(at, self._last)
        spike = self._spike if at < self._spike_end else 1.0
        return [host.measure(at, passed, spike) for host in self._hosts]

    def spike(self, factor: float, until: float) -> None:
        """Have the hosts bear so many times their load up to that time."""
        self._spike, self._spike_end = factor, until

    def newest(self) -> dict[str, Measurement]:
        """The newest measurement of each host."""
        return {host.name: host.newest for host in self._hosts if host.newest is not None}

    def recent(self) -> dict[str, list[Measurement]]:
        """The first measurement of each of the last seconds by host, the latest second last."""
        return {host.name: list(host.recent) for host in self._hosts}
