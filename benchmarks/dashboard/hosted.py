"""Under uvicorn on uvloop: `hosted.py FD roomwire`, or a plain FastAPI loop: `each`, or `newest` ten times a second.

The loops know no users, tokens, history, limits or slow readers.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI, WebSocket, WebSocketDisconnect

from benchmarks.dashboard.feed import EVERY_SECOND, measurements
from benchmarks.peers import listener


def plain(feed: Any) -> FastAPI:
    """FastAPI with a task that tells every socket."""
    sockets: list[WebSocket] = []

    @asynccontextmanager
    async def lifespan(api: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(feed(sockets))
        yield
        task.cancel()

    api = FastAPI(lifespan=lifespan)

    @api.websocket("/ws")
    async def watch(socket: WebSocket) -> None:
        await socket.accept()
        sockets.append(socket)
        try:
            while True:
                await socket.receive_text()
        except WebSocketDisconnect:
            sockets.remove(socket)

    return api


async def tell(sockets: list[WebSocket], text: str) -> None:
    for socket in list(sockets):
        try:
            await socket.send_text(text)
        except (RuntimeError, WebSocketDisconnect):
            continue


async def each(sockets: list[WebSocket]) -> None:
    """Every measurement as it comes."""
    async for measurement in measurements():
        await tell(sockets, json.dumps(measurement))


async def newest(sockets: list[WebSocket]) -> None:
    """The newest of each metric in one message, ten times a second. The oldest of them has the mark."""
    latest: dict[str, dict[str, object]] = {}

    async def collect() -> None:
        async for measurement in measurements():
            latest.pop(str(measurement["name"]), None)
            latest[str(measurement["name"])] = measurement

    task = asyncio.create_task(collect())
    try:
        while True:
            await asyncio.sleep(1 / EVERY_SECOND)
            await tell(sockets, json.dumps(list(latest.values())))
            latest.clear()
    finally:
        task.cancel()


if __name__ == "__main__":
    kind = sys.argv[2]
    if kind == "roomwire":
        from benchmarks.dashboard.app import app

        application: Any = app.asgi
    else:
        application = plain({"each": each, "newest": newest}[kind])
    config = uvicorn.Config(
        application,
        loop="uvloop",
        ws="websockets-sansio",
        ws_per_message_deflate=False,
        log_level="warning",
        access_log=False,
    )
    uvicorn.Server(config).run(sockets=[listener()])
