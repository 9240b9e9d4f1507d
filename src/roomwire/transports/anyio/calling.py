"""Calling: the ASGI side of a request to the fallback (ASGI 3.0, "HTTP & WebSocket ASGI Message Format")."""

from __future__ import annotations

import time
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote

import anyio.lowlevel

from roomwire.core.errors import LocalError
from roomwire.core.request import RequestHead
from roomwire.transports.contract import Fallback

if TYPE_CHECKING:
    from roomwire.transports.anyio.carrier import Carrier
    from roomwire.transports.anyio.serving import Serving

__all__ = ["Call"]

_ASGI = {"version": "3.0", "spec_version": "2.3"}
"""2.3 as uvicorn: from 2.4 on Starlette expects `send` to raise, and no longer waits for the peer's end."""

_dated: tuple[int, bytes] = (0, b"")


class Call:
    """One call of the application.

    Args:
        serving: the request's connection.
        fallback: the application.
    """

    __slots__ = ("_begun", "_fallback", "_head", "_serving", "_status", "_told")

    def __init__(self, serving: Serving, fallback: Fallback) -> None:
        self._serving = serving
        self._fallback = fallback
        self._told = False  # that the body has ended
        self._begun = False
        self._head = b""
        self._status = 0

    async def run(self) -> None:
        """Call the application, and see that there is a response, or none that looks like one."""
        serving, fallback, head = self._serving, self._fallback, self._serving.head
        try:
            try:
                scope = scope_of(head, serving.carrier, serving.origin[0])
                await fallback.run(scope, self.receive, self.send)
            except Exception as error:  # noqa: BLE001  the boundary of the application
                # Who stops because the peer has left did nothing wrong.
                if serving.over or not serving.gone:
                    fallback.failed(head, error)
            else:
                if not (serving.exchange.finished or serving.gone):
                    what = "an incomplete" if self._begun else "no"
                    fallback.failed(head, f"the application returned with {what} response")
            if not serving.exchange.finished:
                serving.fail()
        except BaseException:
            if not serving.exchange.finished:
                serving.cut()  # cancelled: the node has ended
            raise
        finally:
            serving.returned()

    async def receive(self) -> dict[str, Any]:
        """A part of the body, or the end of the connection or the response."""
        serving = self._serving
        exchange = serving.exchange
        while not (serving.gone or serving.over):
            if not self._told and (exchange.complete or exchange.has_body):
                body = serving.take()
                if serving.gone:
                    break
                if exchange.crumbs:
                    await anyio.lowlevel.checkpoint()
                more = exchange.has_body or not exchange.complete
                self._told = not more
                return {"type": "http.request", "body": body, "more_body": more}
            serving.ask()
            await serving.wait()
        # An application that asks again and again must not hold up the loop.
        await anyio.lowlevel.checkpoint()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        """The start of the response, or a part of its body.

        Raises:
            LocalError: it is none that may come now, or its headers or its length are not correct.
        """
        serving = self._serving
        kind = message["type"]
        if serving.gone:
            await anyio.lowlevel.checkpoint()
        elif kind == "http.response.start" and not self._begun:
            self._start(message)
        elif kind == "http.response.body" and self._begun and not serving.exchange.finished:
            await self._send_body(message)
        else:
            raise LocalError(f"the application sent {kind!r}, which is not what follows")

    def _start(self, message: Any) -> None:
        exchange = self._serving.exchange
        if not self._fallback.keeps_connections:
            exchange.close_after()
        headers = list(message.get("headers") or ())
        if not any(bytes(name).lower() == b"date" for name, _ in headers):
            headers.append((b"date", _date()))
        self._status = message["status"]
        # It goes out with the first part of the body: until then there can be another one.
        self._head = exchange.start(self._status, headers)
        self._begun = True

    async def _send_body(self, message: Any) -> None:
        serving = self._serving
        body, more = message.get("body") or b"", bool(message.get("more_body", False))
        try:
            framed = serving.exchange.send(bytes(body), more=more)
        except LocalError as error:
            self._fallback.failed(serving.head, str(error))
            serving.fail()
            raise
        head, self._head = self._head, b""
        if head and not more:
            head = serving.exchange.part(head)
        await serving.write(head + framed, self._status, len(body), last=not more)


def scope_of(head: RequestHead, carrier: Carrier, name: str) -> dict[str, Any]:
    """A request's scope; ``state`` is the node's to add.

    Args:
        head: the request's head.
        carrier: the socket's carrier.
        name: the peer's, whatever a proxy says.
    """
    return {
        "type": "http",
        "asgi": _ASGI,
        "http_version": head.version,
        "method": head.method,
        "scheme": "https" if head.secure else "http",
        "path": unquote(head.path),
        "raw_path": head.path.encode("ascii"),
        "query_string": head.query.encode("ascii"),
        "root_path": "",
        "headers": list(head.headers),
        "client": _client_of(head.peer, forwarded=head.peer != name),
        "server": _server_of(carrier),
        "extensions": {},
    }


def _client_of(peer: str, *, forwarded: bool) -> tuple[str, int] | None:
    if forwarded:
        return peer, 0
    host, _, port = peer.rpartition(":")
    return (host.strip("[]"), int(port)) if port.isdigit() else None


def _server_of(carrier: Carrier) -> tuple[str, int | None] | None:
    try:
        name = cast(Any, carrier.socket_options()).getsockname()
    except OSError:
        return None  # the peer is gone
    if isinstance(name, tuple):
        return name[0], name[1]
    return (name, None) if isinstance(name, str) and name else None


def _date() -> bytes:
    """Of this second (RFC 9110 section 6.6.1)."""
    global _dated
    now = int(time.time())
    if _dated[0] != now:
        _dated = (now, formatdate(now, usegmt=True).encode())
    return _dated[1]
