"""On roomwire: a room that every viewer is put into; the configuration says whether it conflates."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from benchmarks.dashboard.feed import measurements
from roomwire import App, Connection

ROOM = "metrics:live"


async def publish_all() -> None:
    async for measurement in measurements():
        await app.publish(ROOM, "metric", measurement)


@asynccontextmanager
async def lifespan(app: App) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(publish_all)
        yield
        tasks.cancel_scope.cancel()


app = App(lifespan=lifespan)


@app.on_connect
async def rooms_of(connection: Connection) -> list[str]:
    return [ROOM]
