"""The application that is served: one JSON route of FastAPI's, and the same without a framework."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

api = FastAPI()


@api.get("/items/{number}")
async def item(number: int) -> dict[str, Any]:
    return {"number": number, "name": "tea"}


async def bare(scope: Any, receive: Any, send: Any) -> None:
    """What a server costs by itself."""
    if scope["type"] != "http":
        raise ValueError("only HTTP")
    headers = [(b"content-type", b"application/json"), (b"content-length", b"25")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b'{"number":7,"name":"tea"}'})
