"""A TCP proxy whose links a test can cut."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import anyio
from anyio.abc import ByteStream, SocketListener

__all__ = ["Proxy", "proxy_to"]


class Proxy:
    """Forwards to one port, both ways."""

    def __init__(self, listener: SocketListener, target: int) -> None:
        self._listener = listener
        self._target = target
        self._links: set[anyio.CancelScope] = set()
        self.port: int = listener.extra(anyio.abc.SocketAttribute.local_port)
        self.url = f"ws://127.0.0.1:{self.port}/ws"

    async def run(self) -> None:
        await self._listener.serve(self._forward)

    def cut(self) -> None:
        """Cut every link, without a word to either side."""
        for scope in self._links:
            scope.cancel()

    async def _forward(self, near: ByteStream) -> None:
        streams = [near]
        scope = anyio.CancelScope()
        self._links.add(scope)
        try:
            with scope, suppress(ConnectionRefusedError):  # nobody is there: the link ends
                streams.append(await anyio.connect_tcp("127.0.0.1", self._target))
                async with anyio.create_task_group() as group:
                    group.start_soon(self._copy, streams[0], streams[1], scope)
                    group.start_soon(self._copy, streams[1], streams[0], scope)
        finally:
            self._links.discard(scope)
            with anyio.CancelScope(shield=True):
                for stream in streams:
                    await anyio.aclose_forcefully(stream)

    async def _copy(self, source: ByteStream, sink: ByteStream, scope: anyio.CancelScope) -> None:
        with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
            while True:
                await sink.send(await source.receive())
        scope.cancel()


@asynccontextmanager
async def proxy_to(port: int) -> AsyncIterator[Proxy]:
    (listener,) = (await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)).listeners
    assert isinstance(listener, SocketListener)
    proxy = Proxy(listener, port)
    async with listener, anyio.create_task_group() as group:
        group.start_soon(proxy.run)
        yield proxy
        group.cancel_scope.cancel()
