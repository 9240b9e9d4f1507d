"""What the command lines of hosts serve: ``tests.asgi.serving:app.asgi``, in a folder with a ``roomwire.toml``."""

from __future__ import annotations

import anyio

from roomwire import Connection
from tests.server.chat import make_app

app = make_app()


@app.on("keep", joined=False)
async def keep(connection: Connection) -> None:
    """Keep the node from ending, until the test makes a file."""
    await connection.send("kept")
    while not await anyio.Path("release").exists():  # noqa: ASYNC110  another process makes it
        await anyio.sleep(0.02)
