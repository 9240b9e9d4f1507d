"""The application of the clusters: what it is told is kept in a ledger, and published. Snapshots are the ledger's."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from roomwire import App, Connection
from tests.cluster.ledger import LEDGER, Ledger

app = App()


class Told(BaseModel):
    """An event to be published.

    Attributes:
        by: who publishes it.
        n: which one of theirs; counted from 1.
        die: whether the node is to die between storing and answering; only the first time.
        pad: makes it larger.
    """

    by: str
    n: int
    die: bool = False
    pad: str = ""


ledger = Ledger(Path(os.environ[LEDGER]))


@app.on_connect
async def rooms_of(connection: Connection) -> list[str]:
    """The rooms that the token names."""
    rooms: Any = connection.claims.get("rooms", [])
    return list(rooms)


async def _anybody(connection: Connection, name: str) -> bool:
    return True


async def _tell(kind: str, told: Told, name: str) -> dict[str, Any]:
    room = f"{kind}:{name}"
    ledger.add(room, told.by, told.n)
    publication = await app.publish(room, "told", {"by": told.by, "n": told.n, "pad": told.pad})
    if told.die and ledger.first(f"{told.by}-{told.n}"):
        os.kill(os.getpid(), signal.SIGKILL)
    return {"id": publication.id}


def _declare(kind: str) -> None:
    app.room(f"{kind}:{{name}}")(_anybody)

    @app.on("tell", room=f"{kind}:{{name}}", joined=False)
    async def tell(connection: Connection, told: Told, name: str) -> dict[str, Any]:
        return await _tell(kind, told, name)

    @app.snapshot(f"{kind}:{{name}}")
    async def state(name: str) -> dict[str, int]:
        return ledger.state(f"{kind}:{name}")


# Each kind has a policy of its own, see `tests.cluster.cluster`.
for _kind in ("big", "small", "brief", "seen"):
    _declare(_kind)
