"""The Redis backplane keeps the contract: all of it on this machine's Redis, what asks scripts much on the oldest."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from itertools import count

import pytest
import redis

from roomwire.backplanes.contract import Backplane
from roomwire.backplanes.redis import RedisBackplane, RedisOptions
from roomwire.backplanes.redis.leases import LEASE
from roomwire.testing.backplane import (
    BackplaneConformance,
    Base,
    Control,
    MakeBackplane,
    Streams,
)
from tests.backplanes.proxy import Proxy, proxy_to
from tests.servers import OldestRedisServer, RedisServer

_prefixes = count()


@pytest.fixture(scope="module")
def oldest_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with OldestRedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


class RedisFaults:
    """Each node has a proxy of its own."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self.proxies: dict[Backplane, Proxy] = {}

    async def cut(self, backplane: Backplane) -> None:
        self.proxies[backplane].refuses = True
        self.proxies[backplane].cut()

    async def heal(self, backplane: Backplane) -> None:
        self.proxies[backplane].refuses = False

    async def lose(self) -> None:
        with redis.Redis(port=self._server.port) as client:
            client.flushall()


class OnRedis(Base):
    lease = 1.0
    idempotency_window = 0.8
    pace = 0.35

    @pytest.fixture
    def server(self, redis_server: RedisServer) -> RedisServer:
        return redis_server

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    @pytest.fixture
    def faults(self, server: RedisServer) -> RedisFaults:
        return RedisFaults(server)

    @pytest.fixture
    async def make_backplane(
        self, server: RedisServer, faults: RedisFaults, lease_of_test: float | None
    ) -> AsyncIterator[MakeBackplane]:
        prefix = f"test-{next(_prefixes)}:"
        async with AsyncExitStack() as stack:

            async def make() -> Backplane:
                proxy = await stack.enter_async_context(proxy_to(server.port))
                options = RedisOptions.model_validate({"url": proxy.url, "key_prefix": prefix})
                backplane = RedisBackplane(options, lease=lease_of_test or LEASE)
                faults.proxies[backplane] = proxy
                return backplane

            yield make


class TestConformance(OnRedis, BackplaneConformance):
    pass


class TestOldest(OnRedis, Streams, Control):
    @pytest.fixture
    def server(self, oldest_redis: RedisServer) -> RedisServer:
        return oldest_redis
