"""A server that does what a test tells it, over real sockets and with the server's side of `roomwire.core`."""

from __future__ import annotations

import json
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import anyio
import anyio.lowlevel
from anyio.abc import ByteStream, SocketListener
from anyio.streams.tls import TLSStream

from roomwire.client import Client, connect
from roomwire.core.handshake import RequestParser, accept_response, check_upgrade, http_response
from roomwire.core.request import RequestHead
from roomwire.core.websocket import Closed, Role, WebSocket
from tests.client.timing import VirtualTiming

__all__ = ["Server", "ServerLink", "connected", "eventually", "scripted", "serve"]

Json = dict[str, Any]


class ServerLink:
    """One connection, its request read and not yet answered."""

    def __init__(self, stream: ByteStream, head: RequestHead) -> None:
        self.stream = stream
        self.head = head
        self.websocket = WebSocket(Role.SERVER, max_message_size=65_536, max_fragments=100)
        self.closed: Closed | None = None
        self._received: list[str | bytes] = []

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(self.head.query, keep_blank_values=True))

    @property
    def token(self) -> str | None:
        value = self.head.header(b"authorization")
        return None if value is None else value.decode().removeprefix("Bearer ")

    # --- the handshake

    async def refuse(self, status: int, *, retry_after: int | None = None) -> None:
        headers = [] if retry_after is None else [("Retry-After", str(retry_after))]
        body = json.dumps({"error": "some_code", "detail": "no"}).encode()
        await self.stream.send(http_response(status, body, "application/json", headers))
        await self.stream.aclose()

    async def upgrade(self, subprotocol: str | None = "roomwire.v1") -> None:
        await self.stream.send(accept_response(check_upgrade(self.head).key, subprotocol, None))

    async def welcome(self, rooms: Json | None = None, *, upgrade: bool = True) -> None:
        if upgrade:
            await self.upgrade()
        data = {
            "session": "s1",
            "client": self.query["client"],
            "user": "ann",
            "heartbeat": {"interval": 30, "timeout": 90},
            "limits": {"max_message_size": 65536, "max_event_size": 131072, "idempotency_window": 300},
            "rooms": rooms or {},
        }
        await self.send("session.welcome", data=data)

    # --- messages

    async def send(self, event: str, **fields: Any) -> None:
        await self.stream.send(self.frame(event, **fields))

    def frame(self, event: str, **fields: Any) -> bytes:
        return self.websocket.encode(json.dumps({"event": event} | fields))

    async def event(self, room: str, offset: int, data: object = None) -> None:
        await self.send("message.new", room=room, id=f"e:{offset}", data=data)

    async def ack(self, id: str, data: object = None) -> None:
        await self.send("ack", id=id, data=data)

    async def receive(self) -> Any:
        """The next message, decoded; None once the client has closed, or the link broke."""
        while not self._received:
            if self.closed is not None:
                return None
            try:
                received = self.websocket.receive(await self.stream.receive())
            except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
                received = self.websocket.receive_eof()
            for item in received:
                if isinstance(item, str | bytes):
                    self._received.append(item)
                elif isinstance(item, Closed):
                    self.closed = item
            if answer := self.websocket.data_to_send():
                with suppress(anyio.BrokenResourceError):
                    await self.stream.send(answer)
        message = self._received.pop(0)
        return json.loads(message) if isinstance(message, str) else message

    async def drain(self) -> None:
        """Read until the client closes."""
        while await self.receive() is not None:
            pass

    async def join(self, room: str, position: str = "e:1") -> None:
        """Expect a join, and acknowledge it."""
        message = await self.receive()
        assert (message["event"], message["room"]) == ("room.join", room)
        await self.ack(message["id"], {"position": position, "recovered": None})

    # --- the end

    async def close(self, code: int, reason: str = "") -> None:
        """The closing handshake."""
        await self.stream.send(self.websocket.close(code, reason))
        assert await self.receive() is None
        assert self.closed is not None
        assert self.closed.code == code
        await self.stream.aclose()

    async def cut(self) -> None:
        """The link breaks, without a close frame."""
        await self.stream.aclose()


class Server:
    """A listener; the test takes its connections one by one."""

    def __init__(self, listener: SocketListener, tls: ssl.SSLContext | None, port: int) -> None:
        self._listener = listener
        self._tls = tls
        self.port = port
        self.url = f"{'ws' if tls is None else 'wss'}://localhost:{port}/ws"
        self._streams: list[ByteStream] = []
        self.links: list[ServerLink] = []

    async def accept(self) -> ServerLink:
        """The next connection, and its request."""
        stream: ByteStream = await self._listener.accept()
        self._streams.append(stream)
        if self._tls is not None:
            stream = await TLSStream.wrap(stream, server_side=True, ssl_context=self._tls, standard_compatible=False)
        parser = RequestParser()
        while (head := parser.receive(await stream.receive())) is None:
            pass
        self.links.append(ServerLink(stream, head))
        return self.links[-1]

    async def accept_and_drop(self) -> None:
        """The next connection, without an answer."""
        stream = await self._listener.accept()
        await stream.aclose()

    async def accept_and_reset(self) -> None:
        """The next connection, which is reset (RFC 9293 section 3.5.2) once it has sent something."""
        stream = await self._listener.accept()
        await stream.receive()
        raw = stream.extra(anyio.abc.SocketAttribute.raw_socket)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await stream.aclose()

    async def aclose(self) -> None:
        await self._listener.aclose()
        for stream in self._streams:
            await anyio.aclose_forcefully(stream)


@asynccontextmanager
async def serve(*, tls: ssl.SSLContext | None = None, uds: Path | None = None) -> AsyncIterator[Server]:
    """A server on a free port, or on a Unix socket."""
    if uds is not None:
        listener: SocketListener = await anyio.create_unix_listener(uds)
        port = 80
    else:
        (inner,) = (await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)).listeners
        assert isinstance(inner, SocketListener)
        listener = inner
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
    server = Server(listener, tls, port)
    try:
        yield server
    finally:
        with anyio.CancelScope(shield=True):
            await server.aclose()


@asynccontextmanager
async def scripted(
    server: Server, script: Callable[[], Coroutine[Any, Any, None]], **options: Any
) -> AsyncIterator[Client]:
    """A client, and beside it what its server does."""
    failure: Exception | None = None
    options.setdefault("timing", VirtualTiming())
    async with anyio.create_task_group() as group:
        group.start_soon(script)
        try:
            async with connect(options.pop("url", server.url), **options) as client:
                try:
                    yield client
                finally:
                    # Time stands still: who closes needs an answer.
                    for link in server.links:
                        group.start_soon(link.drain)
        except Exception as error:  # noqa: BLE001  raised below, not wrapped by the group
            failure = error
        group.cancel_scope.cancel()
    if failure is not None:
        raise failure


@asynccontextmanager
async def connected(
    server: Server, rooms: Json | None = None, **options: Any
) -> AsyncIterator[tuple[Client, ServerLink]]:
    """A client on an open link, and the server's end of it."""

    answered = anyio.Event()

    async def answer() -> None:
        await (await server.accept()).welcome(rooms)
        answered.set()

    async with scripted(server, answer, **options) as client:
        await answered.wait()
        yield client, server.links[0]


async def eventually(condition: Callable[[], bool]) -> None:
    """Let the other tasks run until it holds."""
    while not condition():
        await anyio.lowlevel.checkpoint()
