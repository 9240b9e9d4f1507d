"""Rows whose fault only NATS has."""

from __future__ import annotations

import time

import nats

from tests.cluster.rows_store import each_is_reset
from tests.cluster.run import Run, row


@row("delete-streams", "every stream is deleted while the nodes use it, and made anew", on=["nats"])
async def delete_streams(run: Run) -> None:
    run.populate(run.size(30, 200), run.rooms(2), run.size(60.0, 200.0), publishers=run.size(6, 20))
    await run.start()
    client = await nats.connect(run.cluster.store.url)
    try:
        manager = client.jsm()
        names = [info.config.name for info in await manager.streams_info()]
        streams = [name for name in names if name is not None and not name.startswith("KV_")]
        for name in streams:
            await manager.delete_stream(name)
    finally:
        await client.close()
    began = time.monotonic()
    await each_is_reset(run)
    run.expect_within(time.monotonic() - began, 10.0, "each told after")
    run.figures["streams deleted"] = str(len(streams))
    await run.events(run.size(20, 200))
