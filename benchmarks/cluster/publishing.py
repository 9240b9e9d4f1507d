"""One publish alone: what it costs the process that publishes and the store, beside what is least on that store.

The backplane is used without a node around it, and nobody listens: what comes out is the way in. The least on Redis is
redis-py's PUBLISH, which keeps and numbers nothing; on NATS it is nats-py's publish to a stream of JetStream.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from itertools import count
from secrets import token_hex
from typing import Any

import nats
from redis.asyncio import Redis
from tests.servers import NatsServer, RedisServer, Server

from roomwire.backplanes.contract import Backplane, HistoryPolicy
from roomwire.backplanes.nats import NatsBackplane, NatsOptions
from roomwire.backplanes.redis import RedisBackplane, RedisOptions
from roomwire.bench.figures import percentile
from roomwire.bench.processes import Processes
from roomwire.testing.backplane import Recorder

__all__ = ["PUBLISHERS", "Cost", "Publisher", "cost_of"]

BODY = json.dumps({"event": "said", "room": "bench:room", "data": {"content": "x" * 64}}).encode()
ROOM = "bench:room"
WARM_UP = 200

Publish = Callable[[], Awaitable[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Publisher:
    """Somebody who publishes.

    Attributes:
        store: where.
        opened: connects to its URL, and gives what publishes once.
    """

    store: type[Server]
    opened: Callable[[str], AbstractAsyncContextManager[Publish]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Of one publish; times in seconds.

    Attributes:
        client: CPU time of the process that publishes, one after the other.
        store: the same of the store.
        p50: median latency.
        p99: the 99th percentile.
        client_together: CPU time of the process that publishes, many at a time.
        store_together: the same of the store.
        rate: publishes a second, many at a time.
    """

    client: float
    store: float
    p50: float
    p99: float
    client_together: float
    store_together: float
    rate: float


def _on(make: Callable[[str], Backplane], *, keyed: bool) -> Callable[[str], AbstractAsyncContextManager[Publish]]:
    @asynccontextmanager
    async def opened(url: str) -> AsyncIterator[Publish]:
        backplane = make(url)
        await backplane.start(Recorder(), "bench")
        # Of this round alone: a key that the store knows is a publish that it need not make.
        prefix, numbers, policy = token_hex(8), count(), HistoryPolicy()
        try:
            yield lambda: backplane.publish(
                ROOM, BODY, key=f"{prefix}{next(numbers):016x}" if keyed else None, policy=policy
            )
        finally:
            await backplane.aclose()

    return opened


@asynccontextmanager
async def _redis_py(url: str) -> AsyncIterator[Publish]:
    async with Redis.from_url(url) as client:
        yield lambda: client.publish(ROOM, BODY)


@asynccontextmanager
async def _nats_py(url: str) -> AsyncIterator[Publish]:
    client = await nats.connect(url)
    try:
        jetstream = client.jetstream()
        await jetstream.add_stream(name="plain", subjects=["plain.>"], max_msgs_per_subject=1000)
        yield lambda: jetstream.publish("plain.room", BODY)
    finally:
        await client.close()


def _redis(url: str) -> Backplane:
    return RedisBackplane(RedisOptions.model_validate({"url": url, "key_prefix": "bench:"}))


def _nats(url: str) -> Backplane:
    return NatsBackplane(NatsOptions.model_validate({"servers": url, "prefix": "bench"}))


PUBLISHERS: Mapping[str, Publisher] = {
    "Redis: PUBLISH by redis-py": Publisher(store=RedisServer, opened=_redis_py),
    "Redis: roomwire": Publisher(store=RedisServer, opened=_on(_redis, keyed=False)),
    "Redis: roomwire, with a key": Publisher(store=RedisServer, opened=_on(_redis, keyed=True)),
    "NATS: JetStream by nats-py": Publisher(store=NatsServer, opened=_nats_py),
    "NATS: roomwire": Publisher(store=NatsServer, opened=_on(_nats, keyed=False)),
    "NATS: roomwire, with a key": Publisher(store=NatsServer, opened=_on(_nats, keyed=True)),
}


async def cost_of(publisher: Publisher, url: str, pid: int, *, publishes: int, together: int) -> Cost:
    """Publish so many one after the other, then as many with `together` under way.

    Args:
        publisher: who.
        url: where the store is.
        pid: its process id.
        publishes: how many of each kind.
        together: how many at a time.
    """
    store = Processes((pid,))
    async with publisher.opened(url) as publish:
        for _ in range(min(WARM_UP, publishes)):
            await publish()
        latencies: list[int] = []
        own, theirs = time.process_time(), store.cpu()
        for _ in range(publishes):
            begin = time.perf_counter_ns()
            await publish()
            latencies.append(time.perf_counter_ns() - begin)
        client, server = time.process_time() - own, store.cpu() - theirs
        latencies.sort()

        own, theirs, begin_all = time.process_time(), store.cpu(), time.perf_counter()
        left = iter(range(publishes))

        async def work() -> None:
            for _ in left:
                await publish()

        await asyncio.gather(*(work() for _ in range(together)))
        seconds = time.perf_counter() - begin_all
        return Cost(
            client=client / publishes,
            store=server / publishes,
            p50=percentile(latencies, 0.5) / 1e9,
            p99=percentile(latencies, 0.99) / 1e9,
            client_together=(time.process_time() - own) / publishes,
            store_together=(store.cpu() - theirs) / publishes,
            rate=publishes / seconds,
        )
