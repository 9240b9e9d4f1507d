"""ASGI hosts that nobody here wrote, in the loop of a test's node: each serves an application on a free port."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any

import anyio
import hypercorn.asyncio
import hypercorn.config
import uvicorn
from granian.server.embed import Server as Granian

__all__ = ["HOSTS", "Hosting"]

Application = Callable[..., Any]
Hosting = Callable[[Application], AbstractAsyncContextManager[int]]
"""Serves an application until the end of the block; gives the port."""


def _listening() -> socket.socket:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen(1024)
    return sock


class _Uvicorn(uvicorn.Server):
    """Says when it serves, and leaves the signals alone."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = anyio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    def capture_signals(self) -> Any:
        return nullcontext()


def _uvicorn(ws: Any) -> Hosting:
    @asynccontextmanager
    async def serve(app: Application) -> AsyncIterator[int]:
        config = uvicorn.Config(app, ws=ws, http="h11", lifespan="off", log_config=None, ws_ping_interval=None)
        with _listening() as sock:
            server = _Uvicorn(config)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(server.serve, [sock])
                await server.ready.wait()
                try:
                    yield sock.getsockname()[1]
                finally:
                    server.should_exit = True

    return serve


@asynccontextmanager
async def _hypercorn(app: Application) -> AsyncIterator[int]:
    with _listening() as sock:
        config = hypercorn.config.Config()
        config.bind = [f"fd://{os.dup(sock.fileno())}"]  # it closes what it is given
        config.errorlog = config.accesslog = None
        ended = anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: hypercorn.asyncio.serve(app, config, shutdown_trigger=ended.wait))
            try:
                yield sock.getsockname()[1]
            finally:
                ended.set()


@asynccontextmanager
async def _granian(app: Application) -> AsyncIterator[int]:
    with _listening() as probe:
        port: int = probe.getsockname()[1]
    server = Granian(app, address="127.0.0.1", port=port, interface="asginl", log_enabled=False)  # type: ignore[arg-type]
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve)
        try:
            yield port
        finally:
            server.stop()  # type: ignore[no-untyped-call]


HOSTS: dict[str, Hosting] = {
    "uvicorn-sansio": _uvicorn("websockets-sansio"),
    "uvicorn-wsproto": _uvicorn("wsproto"),
    "hypercorn": _hypercorn,
    "granian": _granian,
}
