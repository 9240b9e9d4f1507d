"""A chat with everything that the server's tests need."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
from pydantic import BaseModel

from roomwire import App, Connection, EventError


class SendMessage(BaseModel):
    content: str


class Publish(BaseModel):
    """What the handler ``publish`` is told to do."""

    event: str = "told"
    data: Any = None
    exclude: bool = False
    history: bool = True
    times: int = 1


class Log:
    """What the application saw, and what it is to do."""

    def __init__(self) -> None:
        self.handled: list[tuple[str, str]] = []
        self.disconnected: list[str] = []
        self.forbidden: set[tuple[str, str]] = set()
        self.auto: dict[str, list[str]] = {}
        self.release = anyio.Event()
        self.snapshots = 0
        self.snapshot: Callable[[str], Awaitable[Any]] | None = None
        self.admitted: Callable[[Connection], Awaitable[None]] | None = None
        self.joining: Callable[[Connection, str], Awaitable[None]] | None = None
        self.goodbye: Callable[[Connection], Awaitable[None]] | None = None
        self.connections: dict[str, Connection] = {}


def make_app(log: Log | None = None, **options: Any) -> App:
    """An application of its own for each server."""
    log = log or Log()
    app = App(**options)
    app.log = log  # type: ignore[attr-defined]
    _declare_rooms(app, log)
    _declare_messages(app, log)
    _declare_links(app, log)
    _declare_faults(app)
    return app


def _declare_rooms(app: App, log: Log) -> None:
    @app.on_connect
    async def rooms_of(connection: Connection) -> list[str] | bool:
        if connection.user == "banned":
            return False
        if log.admitted is not None:
            await log.admitted(connection)
        if connection.user == "nobody":
            return []
        connection.info = {"name": connection.user.title()}
        return log.auto.get(connection.user, ["chat:general"])

    @app.on_disconnect
    async def gone(connection: Connection) -> None:
        if log.goodbye is not None:
            await log.goodbye(connection)
        log.disconnected.append(connection.user)

    @app.room("chat:{channel}")
    async def may_join(connection: Connection, channel: str) -> bool:
        if log.joining is not None:
            await log.joining(connection, channel)
        if channel == "broken":
            raise RuntimeError("the database is gone")
        if channel == "full":
            raise EventError("app.full", "the room is full", {"seats": 10})
        return (connection.user, channel) not in log.forbidden and channel != "secret"

    @app.room("news:{topic}")
    async def may_read(connection: Connection, topic: str) -> bool:
        return True

    @app.room("numbered:{number}")
    async def may_count(connection: Connection, number: int) -> bool:
        return number > 0

    @app.snapshot("chat:{channel}")
    async def state(channel: str) -> Any:
        log.snapshots += 1
        if log.snapshot is not None:
            return await log.snapshot(channel)
        return [content for _, content in log.handled if content != "wait"]


def _declare_messages(app: App, log: Log) -> None:
    @app.on("message.send", room="chat:{channel}")
    async def send_message(connection: Connection, message: SendMessage, channel: str) -> dict[str, str | None]:
        log.handled.append((connection.user, message.content))
        data = {"from": connection.user, "content": message.content}
        publication = await app.publish(f"chat:{channel}", "message.new", data, exclude=connection)
        return {"id": publication.id}

    @app.on("everyone", room="chat:{channel}")
    async def everyone(connection: Connection, data: Any, channel: str) -> None:
        await app.publish(f"chat:{channel}", "told", data)

    @app.on("publish", room="chat:{channel}")
    async def publish(connection: Connection, order: Publish, channel: str) -> list[str | None]:
        exclude = connection if order.exclude else None
        return [
            (await app.publish(f"chat:{channel}", order.event, order.data, exclude=exclude, history=order.history)).id
            for _ in range(order.times)
        ]

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

    @app.on("size")
    async def size(connection: Connection, data: Any) -> int:
        return len(data)

    @app.on("wait")
    async def wait(connection: Connection) -> str:
        log.handled.append((connection.user, "wait"))
        await log.release.wait()
        return "done"

    @app.on("whoami", joined=False)
    async def whoami(connection: Connection) -> dict[str, Any]:
        return {"user": connection.user, "client": connection.client, "rooms": sorted(connection.rooms)}


def _declare_links(app: App, log: Log) -> None:
    @app.on("enter")
    async def enter(connection: Connection, room: str) -> None:
        await connection.join(room)

    @app.on("exit")
    async def leave(connection: Connection, room: str) -> None:
        await connection.leave(room, "the application said so")

    @app.on("echo")
    async def echo(connection: Connection, data: Any) -> None:
        await connection.send("echoed", data)

    @app.on("echo.bytes")
    async def echo_bytes(connection: Connection, data: bytes) -> None:
        await connection.send("echoed", data)

    @app.on("close")
    async def close(connection: Connection, code: int) -> None:
        await connection.close(code, "bye")

    @app.on("hold")
    async def hold(connection: Connection) -> None:
        log.connections[connection.user] = connection


def _declare_faults(app: App) -> None:
    @app.on("liar")
    async def liar(connection: Connection) -> int:
        return "not a number"  # type: ignore[return-value]

    @app.on("crash")
    async def crash(connection: Connection) -> None:
        raise RuntimeError("a secret of the database")

    @app.on("refuse")
    async def refuse(connection: Connection) -> None:
        raise EventError("app.too_late", "the game is over", {"since": 3})

    @app.on("refuse.badly")
    async def refuse_badly(connection: Connection) -> None:
        raise EventError("app.too_late", "the game is over", object())

    @app.on("stray")
    async def stray(connection: Connection) -> None:
        task = asyncio.get_running_loop().create_task(asyncio.sleep(3600))
        task.cancel()
        await task

    @app.on("huge")
    async def huge(connection: Connection) -> str:
        return "x" * 200_000
