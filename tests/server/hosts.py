"""ASGI hosts that nobody here wrote, in the loop of a test's node: each serves an application on a free port.

The node is the test's, and hosts do nothing about a lifespan unless ``lifespan=True``. ``narrow=True`` gives the
sockets a small send buffer, where the host takes a socket of ours.
"""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any

import anyio
import hypercorn.asyncio
import hypercorn.config
import hypercorn.trio
import uvicorn
from granian.server.embed import Server as Granian

__all__ = ["HOSTS", "Hosting"]

Application = Callable[..., Any]
Hosting = Callable[..., AbstractAsyncContextManager[int]]
"""Serves an application until the end of the block; gives the port."""
TIMEOUT = 30.0
"""Seconds until a host has to listen; reached only where a test fails."""
NARROW = 4096
"""Bytes of a narrow send buffer; the kernel doubles them."""


def _listening(narrow: bool = False) -> socket.socket:
    sock = socket.socket()
    if narrow:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, NARROW)
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
    async def serve(app: Application, *, lifespan: bool = False, narrow: bool = False) -> AsyncIterator[int]:
        options: Any = {"http": "h11", "log_config": None, "ws_ping_interval": None}
        config = uvicorn.Config(app, ws=ws, lifespan="on" if lifespan else "off", **options)
        with _listening(narrow) as sock:
            server = _Uvicorn(config)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(server.serve, [sock])
                await server.ready.wait()
                try:
                    yield sock.getsockname()[1]
                finally:
                    server.should_exit = True

    return serve


def _hypercorn(module: Any) -> Hosting:
    @asynccontextmanager
    async def serve(app: Application, *, lifespan: bool = False, narrow: bool = False) -> AsyncIterator[int]:
        with _listening(narrow) as sock:
            config = hypercorn.config.Config()
            config.bind = [f"fd://{os.dup(sock.fileno())}"]  # it closes what it is given
            config.errorlog = config.accesslog = None
            ended = anyio.Event()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lambda: module.serve(app, config, shutdown_trigger=ended.wait))
                try:
                    yield sock.getsockname()[1]
                finally:
                    ended.set()

    return serve


@asynccontextmanager
async def _granian(app: Application, *, lifespan: bool = False, narrow: bool = False) -> AsyncIterator[int]:
    with socket.socket() as held:
        # It takes no socket of ours. As it sets this option too, it can have the port, and nobody else meanwhile.
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind(("127.0.0.1", 0))
        port: int = held.getsockname()[1]
        interface: Any = "asgi" if lifespan else "asginl"
        server = Granian(app, address="127.0.0.1", port=port, interface=interface, log_enabled=False)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.serve)
            try:
                await _answers(port)
                yield port
            finally:
                server.stop()  # type: ignore[no-untyped-call]


async def _answers(port: int) -> None:
    """Wait until somebody listens there, from a host that does not say when it does."""
    with anyio.fail_after(TIMEOUT):
        while True:
            try:
                await (await anyio.connect_tcp("127.0.0.1", port)).aclose()
            except OSError:
                await anyio.sleep(0.01)
            else:
                return


HOSTS: dict[str, Hosting] = {
    "uvicorn-sansio": _uvicorn("websockets-sansio"),
    "uvicorn-wsproto": _uvicorn("wsproto"),
    "hypercorn": _hypercorn(hypercorn.asyncio),
    "hypercorn-trio": _hypercorn(hypercorn.trio),
    "granian": _granian,
}
