"""Started Redis backplanes for tests, and a second word with the server."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from typing import Any

import anyio.to_thread
import redis

from roomwire.backplanes.contract import HistoryPolicy
from roomwire.backplanes.redis import RedisBackplane, RedisOptions
from roomwire.testing.backplane import Recorder
from tests.servers import RedisServer

POLICY = HistoryPolicy(size=100, ttl=600.0)
QUICK: dict[str, Any] = {"probe_after": 0.2, "probe_timeout": 1.5, "command_timeout": 1.5, "connect_timeout": 1.5}
"""Times of a link that is watched closely, and yet not given up because a busy machine stood still for a moment."""

_prefixes = count()


class Node:
    """A started backplane, its sink, and the prefix of its keys."""

    def __init__(self, backplane: RedisBackplane, prefix: str) -> None:
        self.backplane = backplane
        self.sink = Recorder()
        self.prefix = prefix

    async def publish(self, room: str, *bodies: bytes, policy: HistoryPolicy = POLICY) -> None:
        for body in bodies:
            await self.backplane.publish(room, body, key=None, policy=policy)

    async def receive(self, room: str, *bodies: bytes) -> None:
        """Wait until these have come, in this order and nothing else."""
        await self.sink.until(lambda: self.sink.bodies(room) == list(bodies))


@asynccontextmanager
async def started(
    server: RedisServer | str, *, prefix: str = "", name: str = "node", lease: float = 55.0, **options: Any
) -> AsyncIterator[Node]:
    """A node on a server; a prefix of its own, unless one is given."""
    url = server if isinstance(server, str) else server.url
    prefix = prefix or f"own-{next(_prefixes)}:"
    backplane = RedisBackplane(RedisOptions.model_validate({"url": url, "key_prefix": prefix, **options}), lease=lease)
    node = Node(backplane, prefix)
    await backplane.start(node.sink, name)
    try:
        yield node
    finally:
        await backplane.aclose()


@contextmanager
def client_of(server: RedisServer) -> Iterator[redis.Redis]:
    """A plain client."""
    with redis.Redis(port=server.port, socket_timeout=5.0) as client:
        yield client


async def eventually(condition: Callable[[], object]) -> None:
    """Wait for what a server does of its own accord."""

    def poll() -> None:
        deadline = time.monotonic() + 20.0
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.02)  # a poll of a foreign process, with a deadline

    await anyio.to_thread.run_sync(poll)
