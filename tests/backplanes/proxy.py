"""A TCP proxy on asyncio whose links can be cut, stay cut, or go silent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

__all__ = ["Proxy", "proxy_to"]


class Proxy:
    """Forwards to one port, both ways.

    Attributes:
        refuses: whether new links are closed at once.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._maimed: set[asyncio.StreamWriter] = set()
        self._silent = False
        self.refuses = False
        self.port = 0

    @property
    def url(self) -> str:
        """As a Redis URL."""
        return f"redis://127.0.0.1:{self.port}"

    @property
    def links(self) -> int:
        """How many links there are."""
        return len(self._tasks)

    @property
    def silent(self) -> bool:
        """Whether what the server says is taken and not passed on.

        A link that has lost something by it is reset when that ends: TCP never goes on behind a hole.
        """
        return self._silent

    @silent.setter
    def silent(self, silent: bool) -> None:
        self._silent = silent
        if not silent:
            for writer in self._maimed:
                writer.transport.abort()

    def cut(self) -> None:
        """Reset every link."""
        for writer in self._writers:
            writer.transport.abort()

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A link came."""
        if self.refuses:
            writer.transport.abort()
            return
        self._writers.add(writer)  # a cut may come before the task has begun
        task = asyncio.create_task(self._forward(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
            self._writers.add(far_writer)
            up = asyncio.create_task(self._copy(reader, far_writer, mute=False))
            down = asyncio.create_task(self._copy(far_reader, writer, mute=True))
            await asyncio.wait([up, down], return_when=asyncio.FIRST_COMPLETED)
            far_writer.transport.abort()
            writer.transport.abort()
            await asyncio.wait([up, down])
            self._writers.discard(far_writer)
        writer.transport.abort()
        self._writers.discard(writer)
        self._maimed.discard(writer)

    async def _copy(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, mute: bool) -> None:
        with suppress(OSError):
            while data := await source.read(65536):
                if mute and self.silent:
                    self._maimed.add(sink)
                else:
                    sink.write(data)
                    await sink.drain()

    async def ended(self) -> None:
        """Wait until every link is gone."""
        while self._tasks:
            await asyncio.wait(self._tasks)


@asynccontextmanager
async def proxy_to(port: int) -> AsyncIterator[Proxy]:
    """A proxy that listens until the end of the block."""
    proxy = Proxy(port)
    server = await asyncio.start_server(proxy.accept, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        proxy.cut()
        await proxy.ended()
        await server.wait_closed()
