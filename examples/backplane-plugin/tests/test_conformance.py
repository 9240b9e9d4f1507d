"""The adapter keeps the contract: roomwire's own suite, on asyncio and trio, with real faults."""

from __future__ import annotations

from pathlib import Path

import pytest

from roomwire.backplanes.contract import Backplane
from roomwire.testing.backplane import Advance, BackplaneConformance, MakeBackplane
from roomwire.testing.clock import VirtualClock
from roomwire_sqlite import SqliteBackplane, SqliteOptions
from roomwire_sqlite.leases import LEASE


class Disk:
    """One store, to which each node has a way of its own: a link to the folder, which can be taken away.

    It does what a volume does that is not mounted any more: the file cannot be reached, and is whole when it is back.
    """

    def __init__(self, folder: Path, clock: VirtualClock) -> None:
        self.folder = folder
        self.clock = clock
        self.ways: dict[Backplane, Path] = {}
        self.real = folder / "disk"
        self.real.mkdir()

    async def make(self) -> Backplane:
        way = self.folder / str(len(self.ways))
        way.symlink_to(self.real)
        options = SqliteOptions(path=way / "db", poll=0.02)
        backplane = SqliteBackplane(options, clock=self.clock)
        self.ways[backplane] = way
        return backplane

    async def cut(self, backplane: Backplane) -> None:
        self.ways[backplane].unlink()

    async def heal(self, backplane: Backplane) -> None:
        self.ways[backplane].symlink_to(self.real)

    async def lose(self) -> None:
        (self.real / "db").unlink()  # in one step: what is beside it, the next that opens it removes


class TestSqlite(BackplaneConformance):
    lease = LEASE
    idempotency_window = 300.0

    @pytest.fixture
    def clock(self) -> VirtualClock:
        return VirtualClock()

    @pytest.fixture
    def disk(self, tmp_path: Path, clock: VirtualClock) -> Disk:
        return Disk(tmp_path, clock)

    @pytest.fixture
    async def make_backplane(self, disk: Disk) -> MakeBackplane:
        return disk.make

    @pytest.fixture
    def faults(self, disk: Disk) -> Disk:
        return disk

    @pytest.fixture
    def advance(self, clock: VirtualClock) -> Advance:
        async def advance(seconds: float) -> None:
            clock.advance(seconds)

        return advance
