"""A real node in a thread of its own, on any loop and shell, and a blocking client that sees the raw frames."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.from_thread
import jwt
import websockets.sync.client
from websockets.exceptions import ConnectionClosed

from roomwire import App
from roomwire.auth.jwt import JwtAuthenticator, JwtOptions
from roomwire.auth.origin import OriginPolicy
from roomwire.backplanes.contract import Backplane
from roomwire.backplanes.memory import MemoryBackplane, MemoryHub
from roomwire.core.limits import Limits
from roomwire.node import Node
from roomwire.node.scope import Scope
from roomwire.protocols.native import NativeProtocol
from roomwire.protocols.sse import SseProtocol
from roomwire.testing.clock import VirtualClock
from roomwire.transports.anyio import AnyioTransport
from roomwire.transports.asgi import AsgiTransport
from roomwire.transports.contract import ListenOptions

SECRET = "a secret of the tests, long enough for HS256"
TIMEOUT = 30.0
"""Seconds that a receive waits at the most; reached only where a test fails."""
UNHURRIED = Limits(messages_per_second=1e6, message_burst=10**6, frames_per_second=1e6, frame_burst=10**6)
"""For clients that do much in little time, and are not what is tested."""


@dataclass(frozen=True)
class Shell:
    """A loop and a shell."""

    name: str
    backend: str
    backend_options: Mapping[str, Any]
    shell: Any
    host: str = ""
    """The ASGI host (`tests.server.hosts`) that serves in place of a shell."""
    io_uring: bool = True
    """Whether events go out by a ring, however few the members are; half of the shells are without."""


SHELLS = {
    shell.name: shell
    for shell in (
        Shell("callback-asyncio", "asyncio", {}, "callback", io_uring=False),
        Shell("callback-uvloop", "asyncio", {"use_uvloop": True}, "callback"),
        Shell("portable-asyncio", "asyncio", {}, "portable", io_uring=False),
        Shell("portable-trio", "trio", {}, "portable"),
    )
}

ASGI_HOSTS = {
    f"asgi-{host}": Shell(f"asgi-{host}", backend, {} if backend == "trio" else {"use_uvloop": True}, None, host)
    for host, backend in (
        ("uvicorn-sansio", "asyncio"),
        ("uvicorn-wsproto", "asyncio"),
        ("hypercorn", "asyncio"),
        ("hypercorn-trio", "trio"),
        ("granian", "asyncio"),
    )
}


def make_token(user: str, *, ttl: float = 86_400.0, secret: str = SECRET, **claims: Any) -> str:
    """A token for `user` that expires in `ttl` seconds; some are made long before their test runs."""
    return jwt.encode({"sub": user, "exp": time.time() + ttl, **claims}, secret, "HS256")


class Client:
    """A blocking client over the `websockets` library, which nobody here wrote."""

    def __init__(self, connection: websockets.sync.client.ClientConnection) -> None:
        self.connection = connection
        self.welcome: dict[str, Any] = {}
        self._count = 0

    def receive(self, timeout: float = TIMEOUT) -> Any:
        """The next message: a decoded object, or bytes."""
        message = self.connection.recv(timeout=timeout)
        return json.loads(message) if isinstance(message, str) else message

    def receive_until(self, event: str, **fields: Any) -> dict[str, Any]:
        """The next message of that event and with those fields; what comes before it is dropped."""
        while True:
            message = self.receive()
            wanted = {"event": event, **fields}
            if isinstance(message, dict) and all(message.get(key) == value for key, value in wanted.items()):
                return message

    def send(self, event: str, data: Any = None, **fields: Any) -> None:
        """Send a message; `fields` are id and room."""
        self.connection.send(json.dumps({"event": event, **fields, "data": data}))

    def request(self, event: str, data: Any = None, **fields: Any) -> dict[str, Any]:
        """Send with an id, and give the ack or error that bears it; what comes before it is dropped."""
        self._count += 1
        id_ = fields.setdefault("id", f"request-{self._count}")
        self.send(event, data, **fields)
        while True:
            message = self.receive()
            if isinstance(message, dict) and message["event"] in ("ack", "error") and message.get("id") == id_:
                return message

    def events_before(self, event: str, data: Any = None, **fields: Any) -> list[Any]:
        """All that came up to the reply of a request: a fence, without waiting for luck."""
        self._count += 1
        id_ = fields.setdefault("id", f"fence-{self._count}")
        self.send(event, data, **fields)
        events: list[Any] = []
        while True:
            message = self.receive()
            if isinstance(message, dict) and message["event"] in ("ack", "error") and message.get("id") == id_:
                return events
            events.append(message)

    def closed(self) -> tuple[int, str]:
        """Read to the end; the close code and reason that the server gave (1006 where it gave none)."""
        try:
            while True:
                self.connection.recv(timeout=TIMEOUT)
        except ConnectionClosed as error:
            return (error.rcvd.code, error.rcvd.reason) if error.rcvd is not None else (1006, "")

    def close(self) -> None:
        """An orderly close."""
        self.connection.close()


class LiveServer:
    """A serving node, and ways to look at it from the test's thread."""

    def __init__(self, node: Node, port: int, portal: anyio.from_thread.BlockingPortal) -> None:
        self.node = node
        self.port = port
        self.portal = portal
        self.ended: Future[Any] = Future()
        """Done when the node has ended."""
        self.forgiven = False
        self._clients = ExitStack()

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/ws"

    def connect(
        self,
        user: str = "ann",
        *,
        token: str | None = None,
        query: str = "",
        headers: Mapping[str, str] | None = None,
        welcome: bool = True,
        **options: Any,
    ) -> Client:
        """A client of `user`, which has read its welcome."""
        token = make_token(user) if token is None else token
        options.setdefault("subprotocols", ["roomwire.v1"])
        options.setdefault("max_size", None)
        options.setdefault("compression", None)
        # Without it a client that left messages unread could not be closed in an orderly way.
        options.setdefault("max_queue", None)
        connecting = websockets.sync.client.connect(
            self.url + (f"?{query}" if query else ""),
            additional_headers={"Authorization": f"Bearer {token}", **(headers or {})},
            open_timeout=TIMEOUT,
            close_timeout=TIMEOUT,
            proxy=None,
            **options,
        )
        client = Client(self._clients.enter_context(connecting))
        if welcome:
            message = client.receive()
            assert message["event"] == "session.welcome"
            client.welcome = message["data"]
        return client

    def call(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Call a function, sync or async, on the node's loop."""
        return self.portal.call(lambda: function(*arguments, **options))

    def act(self, function: Callable[..., Awaitable[Any]], *arguments: Any, **options: Any) -> Any:
        """Call an async function of the application's on the node's loop, acting on this node."""

        async def run() -> Any:
            with Scope(self.node):
                return await function(*arguments, **options)

        return self.portal.call(run)

    def publish(self, count: int = 1, room: str = "chat:general", data: object = None) -> list[str]:
        """Publish ``told`` so many times in one turn of the loop; returns the event ids."""

        async def run() -> list[str]:
            return [(await self.node.app.publish(room, "told", data)).id or "" for _ in range(count)]

        ids: list[str] = self.act(run)
        return ids

    def advance(self, seconds: float) -> None:
        """Move the node's virtual clock, and do what is due then."""
        clock = self.node.clock
        assert isinstance(clock, VirtualClock)

        def move() -> None:
            clock.advance(seconds)
            self.node.upkeep.tick(clock())

        self.call(move)

    def raw(self, data: bytes = b"") -> socket.socket:
        """A plain TCP connection, after `data` was sent on it."""
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=TIMEOUT)
        sock.sendall(data)
        return sock

    def upgrade_request(self, user: str = "ann", query: str = "", *headers: str) -> bytes:
        """The bytes of a correct upgrade request, with more header lines."""
        lines = [
            f"GET /ws{'?' + query if query else ''} HTTP/1.1",
            f"Host: 127.0.0.1:{self.port}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            f"Authorization: Bearer {make_token(user)}",
            *headers,
        ]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    def failure(self) -> BaseException | None:
        """What made the node end; it is not raised again at the end of the test."""
        self.forgiven = True
        return self.ended.exception(TIMEOUT)

    def close_clients(self) -> None:
        self._clients.close()


def make_node(
    app: App,
    shell: Shell = SHELLS["callback-asyncio"],
    *,
    listen: Mapping[str, Any] | None = None,
    origins: tuple[str, ...] = (),
    clock: Callable[[], float] = time.monotonic,
    backplane: Backplane | None = None,
    **options: Any,
) -> Node:
    """A node that listens on a free port once it serves."""
    return Node(
        app,
        backplane=backplane or MemoryBackplane(clock=clock),
        authenticator=options.pop("authenticator", None)
        or JwtAuthenticator(JwtOptions(algorithms=["HS256"], secret=SECRET)),  # type: ignore[arg-type]
        origin=OriginPolicy(origins),
        transport=AsgiTransport() if shell.host else make_transport(shell, listen or {}),
        clock=clock,
        **{
            "protocols": [NativeProtocol()],
            "streams": {"/sse": SseProtocol()},
            "name": "node-1",
            "drain_timeout": 5.0,
            **options,
        },
    )


def make_transport(shell: Shell, listen: Mapping[str, Any]) -> AnyioTransport:
    """The transport of sockets, on a free port."""
    options = {"port": 0, "shell": shell.shell, "io_uring": shell.io_uring, **listen}
    transport = AnyioTransport(ListenOptions(**options))
    transport.spreader.few = 1
    return transport


@contextmanager
def serving(node: Node, portal: anyio.from_thread.BlockingPortal, host: str = "") -> Iterator[LiveServer]:
    """Serve in the portal's loop until the end of the block; a fault of the node's is raised there."""
    with ExitStack() as stack:
        if host:
            from tests.server.hosts import HOSTS

            assert isinstance(node.transport, AsgiTransport)
            port = stack.enter_context(portal.wrap_async_context_manager(HOSTS[host](node.transport)))
        else:
            port = 0
        yield stack.enter_context(_serving(node, portal, port))


@contextmanager
def _serving(node: Node, portal: anyio.from_thread.BlockingPortal, port: int) -> Iterator[LiveServer]:
    addresses: list[str] = []

    async def start(*, task_status: anyio.abc.TaskStatus[None]) -> None:
        def ready(found: Any) -> None:
            addresses.extend(found)
            task_status.started()

        await node.serve(ready=ready)

    future, _ = portal.start_task(start)
    if addresses and (number := addresses[0].rpartition(":")[2]).isdigit():
        port = int(number)
    server = LiveServer(node, port, portal)
    server.ended = future
    try:
        yield server
    finally:
        if not future.done():
            portal.call(node.drain.run)
        server.close_clients()
        if not (future.cancelled() or server.forgiven):
            future.result(TIMEOUT)


@contextmanager
def live_server(app: App, shell: Shell = SHELLS["callback-asyncio"], **options: Any) -> Iterator[LiveServer]:
    """A node that serves `app` in a thread, until the end of the block; `options` are those of `make_node`."""
    node = make_node(app, shell, **options)
    with (
        anyio.from_thread.start_blocking_portal(shell.backend, dict(shell.backend_options)) as portal,
        serving(node, portal, shell.host) as server,
    ):
        yield server


@contextmanager
def live_cluster(
    apps: Sequence[App], shell: Shell = SHELLS["callback-asyncio"], **options: Any
) -> Iterator[list[LiveServer]]:
    """A node for each of `apps`, all on one loop and one `MemoryHub`."""
    hub = MemoryHub(options.get("clock", time.monotonic))
    with ExitStack() as stack:
        portal = stack.enter_context(
            anyio.from_thread.start_blocking_portal(shell.backend, dict(shell.backend_options))
        )
        servers = []
        for number, app in enumerate(apps, start=1):
            node = make_node(app, shell, backplane=MemoryBackplane(hub=hub), name=f"node-{number}", **options)
            servers.append(stack.enter_context(serving(node, portal, shell.host)))
        yield servers
