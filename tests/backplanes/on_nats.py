"""NATS backplanes for tests: a name space for each test, a proxy for each node."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from itertools import count
from typing import Any

from roomwire.backplanes.contract import Backplane
from roomwire.backplanes.nats import NatsBackplane, NatsOptions
from roomwire.backplanes.nats.client import NatsClient
from roomwire.testing.backplane import Recorder
from tests.backplanes.proxy import Proxy, proxy_to
from tests.servers import NatsServer

__all__ = ["NatsFaults", "NatsSpace", "admin", "nats_space", "options_of", "started"]

_prefixes = count()
_PATIENCE = 5.0
"""Seconds after which a question is put again."""
_NO_LEADER = 10008
_NO_STREAM = 10059


def options_of(port: int, prefix: str, **options: Any) -> NatsOptions:
    """Options that leave a test little to wait for."""
    quick = {"partitions": 2, "reconnect_wait": 0.05, "probe_interval": 0.5, "probe_timeout": 3.0}
    servers = [f"nats://127.0.0.1:{port}"]
    return NatsOptions.model_validate({"servers": servers, "prefix": prefix, "storage": "memory", **quick, **options})


async def admin(port: int, request: str, body: object = None) -> dict[str, Any]:
    """A request to JetStream, on a link of its own; such as may be made twice."""
    async with _admin(port) as ask:
        return await ask(request, body)


@asynccontextmanager
async def _admin(port: int) -> AsyncIterator[Callable[..., Awaitable[dict[str, Any]]]]:
    client = NatsClient(lambda error: None, lambda text: None)
    await client.open(f"nats://127.0.0.1:{port}", NatsOptions(), "admin", None)
    answers: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()
    inboxes = (f"_INBOX.admin.{number}" for number in count())
    client.listen("_INBOX.admin.*", lambda subject, data, headers: answers.put_nowait((subject, data)))

    async def answer(inbox: str) -> dict[str, Any]:
        while True:
            subject, data = await answers.get()
            if subject == inbox:
                found: dict[str, Any] = json.loads(data)
                return found

    async def ask(request: str, body: object = None) -> dict[str, Any]:
        data = b"" if body is None else json.dumps(body).encode()
        async with asyncio.timeout(40):
            while True:
                inbox = next(inboxes)
                client.tell(f"$JS.API.{request}", data, inbox)
                # Servers that have lost their leader answer nothing, or that they have none, until there is another.
                with suppress(TimeoutError):
                    async with asyncio.timeout(_PATIENCE):
                        found = await answer(inbox)
                    if found.get("error", {}).get("err_code") != _NO_LEADER:
                        return found
                    await asyncio.sleep(0.1)

    try:
        yield ask
    finally:
        await client.dispose()


class NatsFaults:
    """What may happen to the streams of one name space, and to the links of its nodes."""

    def __init__(self, server: NatsServer, prefix: str) -> None:
        self._server = server
        self._prefix = prefix
        self.proxies: dict[Backplane, Proxy] = {}

    async def cut(self, backplane: Backplane) -> None:
        self.proxies[backplane].refuses = True
        self.proxies[backplane].cut()

    async def heal(self, backplane: Backplane) -> None:
        self.proxies[backplane].refuses = False

    async def lose(self) -> None:
        async with _admin(self._server.port) as ask:
            for name in _of((await ask("STREAM.NAMES"))["streams"], self._prefix):
                found = await ask(f"STREAM.DELETE.{name}")
                assert found.get("success") or found["error"]["err_code"] == _NO_STREAM

    async def streams(self) -> list[str]:
        """The names of all streams of the name space, those of buckets too."""
        return _of((await admin(self._server.port, "STREAM.NAMES"))["streams"], self._prefix)


def _of(names: list[str] | None, prefix: str) -> list[str]:
    return [name for name in names or () if name.removeprefix("KV_").startswith(f"{prefix}_")]


class NatsSpace:
    """One name space on a server; it is gone after the test."""

    def __init__(self, server: NatsServer, stack: AsyncExitStack) -> None:
        self.server = server
        self.prefix = f"t{next(_prefixes)}"
        self.faults = NatsFaults(server, self.prefix)
        self._stack = stack

    async def make(self, *, lease: float | None = None, **options: Any) -> NatsBackplane:
        """Another node, not started."""
        given = {} if lease is None else {"lease": lease}
        proxy = await self._stack.enter_async_context(proxy_to(self.server.port))
        backplane = NatsBackplane(options_of(proxy.port, self.prefix, **options), **given)
        self.faults.proxies[backplane] = proxy
        return backplane


@asynccontextmanager
async def started(backplane: NatsBackplane, name: str) -> AsyncIterator[Recorder]:
    """The backplane runs until the end of the block."""
    sink = Recorder()
    await backplane.start(sink, name)
    try:
        yield sink
    finally:
        await backplane.aclose()


@asynccontextmanager
async def nats_space(server: NatsServer) -> AsyncIterator[NatsSpace]:
    """A name space of its own."""
    async with AsyncExitStack() as stack:
        space = NatsSpace(server, stack)
        yield space
        server.heal()
        await space.faults.lose()
