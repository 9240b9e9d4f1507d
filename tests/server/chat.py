"""A chat with everything that the server's tests need."""

from __future__ import annotations

from typing import Any

import anyio
from pydantic import BaseModel

from roomwire import App, Connection, EventError


class SendMessage(BaseModel):
    content: str


class Log:
    """What the application saw."""

    def __init__(self) -> None:
        self.handled: list[tuple[str, str]] = []
        self.disconnected: list[str] = []
        self.forbidden: set[tuple[str, str]] = set()
        self.release = anyio.Event()


def make_app(log: Log | None = None) -> App:
    """An application of its own for each server."""
    log = log or Log()
    app = App()
    app.log = log  # type: ignore[attr-defined]

    @app.on_connect
    async def rooms_of(connection: Connection) -> list[str] | bool:
        if connection.user == "banned":
            return False
        if connection.user == "nobody":
            return []
        return ["chat:general"]

    @app.on_disconnect
    async def gone(connection: Connection) -> None:
        log.disconnected.append(connection.user)

    @app.room("chat:{channel}")
    async def may_join(connection: Connection, channel: str) -> bool:
        if channel == "broken":
            raise RuntimeError("the database is gone")
        return (connection.user, channel) not in log.forbidden and channel != "secret"

    @app.room("news:{topic}")
    async def may_read(connection: Connection, topic: str) -> bool:
        return True

    @app.on("message.send", room="chat:{channel}")
    async def send_message(connection: Connection, message: SendMessage, channel: str) -> dict[str, str | None]:
        log.handled.append((connection.user, message.content))
        data = {"from": connection.user, "content": message.content}
        publication = await app.publish(f"chat:{channel}", "message.new", data, exclude=connection)
        return {"id": publication.id}

    @app.on("everyone", room="chat:{channel}")
    async def everyone(connection: Connection, data: Any, channel: str) -> None:
        await app.publish(f"chat:{channel}", "told", data)

    @app.on("news.send", room="news:{topic}")
    async def news(connection: Connection, topic: str) -> None:
        raise AssertionError("members do not publish here")

    @app.on("typing", room="chat:{channel}")
    async def typing(connection: Connection, channel: str) -> None:
        await app.publish(f"chat:{channel}", "typing", {"from": connection.user}, exclude=connection, history=False)

    @app.on("draw", room="chat:{channel}")
    async def draw(connection: Connection, picture: bytes, channel: str) -> int:
        await app.publish(f"chat:{channel}", "drawn", picture, exclude=connection)
        return len(picture)

    @app.on("add")
    async def add(connection: Connection, numbers: tuple[int, int]) -> int:
        return sum(numbers)

    @app.on("liar")
    async def liar(connection: Connection) -> int:
        return "not a number"  # type: ignore[return-value]

    @app.on("crash")
    async def crash(connection: Connection) -> None:
        raise RuntimeError("a secret of the database")

    @app.on("refuse")
    async def refuse(connection: Connection) -> None:
        raise EventError("app.too_late", "the game is over", {"since": 3})

    @app.on("wait")
    async def wait(connection: Connection) -> str:
        log.handled.append((connection.user, "wait"))
        await log.release.wait()
        return "done"

    @app.on("whoami", joined=False)
    async def whoami(connection: Connection) -> dict[str, Any]:
        return {"user": connection.user, "client": connection.client, "rooms": sorted(connection.rooms)}

    @app.snapshot("chat:{channel}")
    async def state(channel: str) -> list[str]:
        return [content for _, content in log.handled if content != "wait"]

    return app
