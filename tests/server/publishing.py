"""Requests to the publish API, and a backplane that a test holds up."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anyio

from roomwire.backplanes.contract import KEY_WINDOW, HistoryPolicy
from roomwire.backplanes.memory import MemoryBackplane
from roomwire.config import ApiSettings
from roomwire.core.positions import Position
from roomwire.node.api import PublishApi
from tests.server.chat import make_app
from tests.server.live import LiveServer, Shell, live_server
from tests.server.raw import Response, exchange

KEY = "0123456789abcdef0123456789abcdef"
OLD_KEY = "the-key-that-is-being-replaced-0"
EVENT = {"room": "chat:general", "event": "told", "data": {"content": "é"}}


@contextmanager
def api_server(shell: Shell, *, max_body: int = 4096, max_batch: int = 3, **options: Any) -> Iterator[LiveServer]:
    """A node with two keys, until the end of the block."""
    with live_server(make_app(), shell, **options) as server:
        settings = ApiSettings.model_validate({"keys": [KEY, OLD_KEY], "max_body": max_body, "max_batch": max_batch})
        server.node.api = PublishApi(server.node, settings)
        yield server


def request(
    body: object,
    *headers: str,
    key: str | None = f"X-API-Key: {KEY}",
    kind: str | None = "application/json",
    method: str = "POST",
    target: str = "/api/publish",
    framing: str | None = None,
) -> bytes:
    """The bytes of a request; `body` is JSON where it is no bytes, and `framing` stands in place of its length."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"{method} {target} HTTP/1.1", "Host: a"]
    lines += [line for line in (key, kind and f"Content-Type: {kind}") if line]
    lines += [framing if framing is not None else f"Content-Length: {len(content)}", *headers]
    return ("\r\n".join(line for line in lines if line) + "\r\n\r\n").encode("latin-1") + content


def post(server: LiveServer, body: object, *headers: str, **options: Any) -> Response:
    """Send a request and read its response, to the end of the link."""
    return exchange(server.port, request(body, *headers, **options))


class HeldBackplane(MemoryBackplane):
    """Stores an event when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = anyio.Event()
        self.may_go_on = anyio.Event()
        self.was_cancelled = anyio.Event()

    async def publish(
        self, room: str, body: bytes, *, key: str | None, policy: HistoryPolicy, window: float = KEY_WINDOW
    ) -> Position:
        self.asked.set()
        try:
            await self.may_go_on.wait()
        except anyio.get_cancelled_exc_class():
            self.was_cancelled.set()
            raise
        return await super().publish(room, body, key=key, policy=policy, window=window)
