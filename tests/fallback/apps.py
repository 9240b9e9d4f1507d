"""What the fallback is in its tests: real applications, and one that does what it is told."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import anyio
import anyio.abc
import anyio.lowlevel
from fastapi import BackgroundTasks, FastAPI, Request, UploadFile
from fastapi.middleware.cors import CORSMiddleware
from fastapi.middleware.gzip import GZipMiddleware
from fastapi.responses import StreamingResponse
from litestar import Litestar, post
from litestar import Request as LitestarRequest
from litestar import get as litestar_get
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.requests import Request as StarletteRequest
from starlette.responses import JSONResponse
from starlette.routing import Route

from roomwire import App

__all__ = ["Played", "make_api", "make_django", "make_litestar", "make_starlette"]


class Item(BaseModel):
    name: str
    price: float


def make_api(app: App, events: list[str]) -> FastAPI:
    """FastAPI with middleware, a lifespan, uploads, streams and a route that publishes."""

    @asynccontextmanager
    async def lifespan(api: FastAPI) -> AsyncIterator[dict[str, Any]]:
        events.append("startup")
        yield {"greeting": "hello"}
        events.append("shutdown")

    api = FastAPI(lifespan=lifespan)
    api.add_middleware(GZipMiddleware, minimum_size=1000)
    api.add_middleware(CORSMiddleware, allow_origins=["https://app.example.com"], allow_methods=["PUT"])

    @api.get("/items/{number}")
    async def item(number: int, request: Request, q: str = "") -> dict[str, Any]:
        return {"number": number, "q": q, "greeting": request.state.greeting}

    @api.get("/blocking")
    def blocking() -> dict[str, str]:
        return {"in": "a thread"}

    @api.post("/items", status_code=201)
    async def create(item: Item) -> Item:
        return item

    @api.post("/upload")
    async def upload(file: UploadFile) -> dict[str, Any]:
        data = await file.read()
        return {"name": file.filename, "size": len(data), "sum": sum(data) % 65_521}

    @api.get("/large")
    async def large() -> StreamingResponse:
        def pieces() -> Iterator[bytes]:
            for number in range(64):
                yield bytes([number]) * 65_536

        return StreamingResponse(pieces(), media_type="application/octet-stream")

    @api.get("/text")
    async def text() -> dict[str, str]:
        return {"text": "word " * 1000}

    @api.post("/background")
    async def background(tasks: BackgroundTasks) -> dict[str, bool]:
        tasks.add_task(events.append, "background")
        return {"ok": True}

    @api.post("/say/{room}")
    async def say(room: str, text: Annotated[str, "of the query"]) -> dict[str, str | None]:
        return {"id": (await app.publish(f"chat:{room}", "message.new", text)).id}

    @api.get("/ticks")
    async def ticks() -> StreamingResponse:
        async def lines() -> AsyncIterator[str]:
            number = 0
            while True:
                yield f"data: {number}\n\n"
                number += 1
                await anyio.sleep(0.01)

        return StreamingResponse(lines(), media_type="text/event-stream")

    @api.get("/fails")
    async def fails() -> None:
        raise RuntimeError("of the route")

    return api


def make_starlette() -> Starlette:
    async def echo(request: StarletteRequest) -> JSONResponse:
        size = 0
        async for piece in request.stream():
            size += len(piece)
        return JSONResponse({"size": size, "method": request.method, "url": str(request.url)})

    return Starlette(routes=[Route("/echo", echo, methods=["GET", "POST", "PUT"])])


def make_litestar() -> Litestar:
    @litestar_get("/shelf")
    async def shelf() -> dict[str, int]:
        return {"number": 3}

    @post("/shelf")
    async def put(request: LitestarRequest[Any, Any, Any]) -> dict[str, Any]:
        data: dict[str, Any] = await request.json()
        return data

    # Its own configuration of logging would set the level of everybody's.
    return Litestar(route_handlers=[shelf, put], openapi_config=None, logging_config=None)


def make_django() -> Any:
    """The project of `tests.asgi`: a process has one."""
    from django.conf import settings  # type: ignore[import-untyped]  # has no types

    if not settings.configured:
        settings.configure(ROOT_URLCONF="tests.asgi.django_urls", SECRET_KEY="of a test", ALLOWED_HOSTS=["*"])
    from django.core.asgi import get_asgi_application  # type: ignore[import-untyped]  # has no types

    return get_asgi_application()


class Played:
    """An ASGI application without a framework, whose routes do what a framework would not.

    Attributes:
        scopes: of the requests that came.
        got: what `receive` gave, by path.
        gates: events that a route waits for or sets.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.scopes: list[dict[str, Any]] = []
        self.got: dict[str, list[dict[str, Any]]] = {}
        self.gates: dict[str, anyio.Event] = {}
        self.pieces = self.turns = 0

    def gate(self, name: str) -> anyio.Event:
        return self.gates.setdefault(name, anyio.Event())

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        self.scopes.append(scope)
        got = self.got.setdefault(scope["path"], [])

        async def take() -> dict[str, Any]:
            message: dict[str, Any] = await receive()
            got.append(message)
            return message

        await getattr(self, scope["path"].strip("/").replace("-", "_") or "root")(take, send)

    async def root(self, receive: Any, send: Any) -> None:
        await respond(send, b"root")

    async def echo(self, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message["body"]
            more = message["more_body"]
        await respond(send, body)

    async def ignores(self, receive: Any, send: Any) -> None:
        await respond(send, b"no")

    async def raises(self, receive: Any, send: Any) -> None:
        raise RuntimeError("before the start")

    async def raises_started(self, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})
        raise RuntimeError("behind the start")

    async def raises_midway(self, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise RuntimeError("in the middle")

    async def exits(self, receive: Any, send: Any) -> None:
        sys.exit("of the route")

    async def closes(self, receive: Any, send: Any) -> None:
        raise GeneratorExit

    async def silent(self, receive: Any, send: Any) -> None:
        return

    async def unfinished(self, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})

    async def too_short(self, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"10")]})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def too_long(self, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"10")]})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        await send({"type": "http.response.body", "body": b"x" * 10})

    async def waits(self, receive: Any, send: Any) -> None:
        """Until the peer is gone."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self.gate("disconnected").set()

    async def held(self, receive: Any, send: Any) -> None:
        self.gate("held").set()
        await self.gate("release").wait()
        await respond(send, b"released")

    async def forever(self, receive: Any, send: Any) -> None:
        """Sends until the peer is gone, and on."""
        await send({"type": "http.response.start", "status": 200})
        while not self.gate("release").is_set():
            await send({"type": "http.response.body", "body": b"x" * 65_536, "more_body": True})
            self.pieces += 1
        self.gate("ended").set()

    async def flood(self, receive: Any, send: Any) -> None:
        """16 MiB in pieces of 64 KiB; how many went is counted."""
        self.gate("held").set()
        await send({"type": "http.response.start", "status": 200})
        for _ in range(256):
            await send({"type": "http.response.body", "body": b"x" * 65_536, "more_body": True})
            self.pieces += 1
        await send({"type": "http.response.body", "body": b""})

    async def slowly(self, receive: Any, send: Any) -> None:
        """Asks for the body when it is told to."""
        self.gate("held").set()
        await self.gate("release").wait()
        await self.echo(receive, send)

    async def drops(self, receive: Any, send: Any) -> None:
        """10,000 pieces of a byte; `turns` of the loop that others have meanwhile are counted."""
        async with anyio.create_task_group() as tasks:
            await tasks.start(self._count_turns)
            await send({"type": "http.response.start", "status": 200})
            for _ in range(10_000):
                await send({"type": "http.response.body", "body": b"x", "more_body": True})
            await send({"type": "http.response.body"})
            tasks.cancel_scope.cancel()

    async def _count_turns(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        task_status.started()
        while True:
            await anyio.lowlevel.checkpoint()
            self.turns += 1

    async def listens(self, receive: Any, send: Any) -> None:
        """As a streaming response of Starlette's: one task waits for the end of the peer, another one sends."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(receive)
            tasks.start_soon(respond, send, b"heard")

    async def together(self, receive: Any, send: Any) -> None:
        """Two tasks send, and the second one has the last part."""
        await send({"type": "http.response.start", "status": 200})
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send, {"type": "http.response.body", "body": b"x" * 8_388_608, "more_body": True})
            await anyio.lowlevel.checkpoint()
            tasks.start_soon(send, {"type": "http.response.body", "body": b"end"})

    async def empty(self, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})


async def respond(send: Any, body: bytes, status: int = 200) -> None:
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
