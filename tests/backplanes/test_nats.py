"""The NATS backplane keeps the contract, on a real server, with links that break and streams that are deleted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial

import pytest

from roomwire.testing.backplane import BackplaneConformance, MakeBackplane
from tests.backplanes.on_nats import NatsFaults, NatsSpace, nats_space
from tests.servers import NatsServer


class TestConformance(BackplaneConformance):
    lease = 0.9
    idempotency_window = 0.7
    pace = 0.5

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    @pytest.fixture
    async def space(self, nats_server: NatsServer) -> AsyncIterator[NatsSpace]:
        async with nats_space(nats_server) as space:
            yield space

    @pytest.fixture
    def faults(self, space: NatsSpace) -> NatsFaults:
        return space.faults

    @pytest.fixture
    async def make_backplane(self, space: NatsSpace, lease_of_test: float | None) -> MakeBackplane:
        return partial(space.make, lease=lease_of_test)
