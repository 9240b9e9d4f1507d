"""The Redis backplane keeps the contract, on the oldest Redis that it supports and on a newer one."""

from __future__ import annotations

from itertools import count

import pytest

from roomwire.backplanes.contract import Backplane
from roomwire.backplanes.redis import RedisBackplane, RedisOptions
from roomwire.testing.backplane import BackplaneConformance, MakeBackplane
from tests.servers import RedisServer

_prefixes = count()


class TestConformance(BackplaneConformance):
    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    @pytest.fixture
    async def make_backplane(self, redis_server: RedisServer) -> MakeBackplane:
        options = RedisOptions.model_validate({"url": redis_server.url, "key_prefix": f"test-{next(_prefixes)}:"})

        async def make() -> Backplane:
            return RedisBackplane(options)

        return make
