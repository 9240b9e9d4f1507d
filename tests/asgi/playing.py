"""A host that a test plays: it decides when a `send` ends and how, and when what the client said is heard of.

Real hosts do all of this too, at moments of their own (`tests.server.hosts`); what only has to hold at one certain
moment is tested here.
"""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel

from roomwire.core.policy import RoomPolicy
from roomwire.node import Node
from roomwire.runtime import AsyncioRuntime
from roomwire.transports.asgi import AsgiTransport
from roomwire.transports.asgi.link import AsgiLink
from tests.server.chat import Log, make_app
from tests.server.live import ASGI_HOSTS, make_node, make_token

__all__ = ["Played", "Stage", "eventually", "stage", "websocket_scope"]

Event = dict[str, Any]
PATIENCE = 20.0
"""Seconds that anything is waited for; reached only where a test fails."""


def websocket_scope(user: str = "ann", path: str = "/ws", **fields: Any) -> dict[str, Any]:
    return {
        "type": "websocket",
        "path": path,
        "query_string": b"token=" + make_token(user).encode(),
        "headers": [(b"Sec-WebSocket-Protocol", b"roomwire.v1")],
        "subprotocols": ["roomwire.v1"],
        "client": ("127.0.0.1", 4000),
        "extensions": {"websocket.http.response": {}},
        **fields,
    }


class Played:
    """One connection of the played host.

    Attributes:
        sent: what the application sent and the host took.
        taking: while it is not set, a `send` waits.
        failure: what a `send` raises.
        ended: set when the application has returned, or raised.
        asked: how often the application asked for an event.
    """

    def __init__(self, scope: dict[str, Any]) -> None:
        self.scope = scope
        self.sent: list[Event] = []
        self.taking = anyio.Event()
        self.taking.set()
        self.failure: Exception | None = None
        self.ended = anyio.Event()
        self.raised: BaseException | None = None
        self.asked = 0
        self.holds = anyio.CancelScope()
        self._give, self._take = anyio.create_memory_object_stream[Event](1000)
        self._give.send_nowait({"type": "websocket.connect"})

    async def receive(self) -> Event:
        self.asked += 1
        return await self._take.receive()

    async def send(self, event: Any) -> None:
        if not self.taking.is_set():
            await self.taking.wait()
        if self.failure is not None:
            raise self.failure
        self.sent.append(dict(event))
        if event["type"] == "websocket.close":
            self.leaves(event["code"])

    def says(self, event: str, data: Any = None, **fields: Any) -> None:
        """The client sends a message."""
        self._give.send_nowait(
            {"type": "websocket.receive", "text": json.dumps({"event": event, **fields, "data": data})}
        )

    def leaves(self, code: int = 1006) -> None:
        self._give.send_nowait({"type": "websocket.disconnect", "code": code})

    def stops_taking(self) -> None:
        self.taking = anyio.Event()

    @property
    def messages(self) -> list[Any]:
        """The messages that were sent, decoded."""
        return [json.loads(event["text"]) for event in self.sent if event.get("text") is not None]

    @property
    def close(self) -> tuple[int, str] | None:
        """The close, if it was sent; nothing may follow it."""
        codes = [(event["code"], event["reason"]) for event in self.sent if event["type"] == "websocket.close"]
        if not codes:
            return None
        assert self.sent[-1]["type"] == "websocket.close"
        (code,) = codes
        return code

    def told(self, event: str) -> list[Any]:
        return [message for message in self.messages if message["event"] == event]

    def close_streams(self) -> None:
        self._give.close()
        self._take.close()


class Stage:
    """A serving node, and the host that is played for it."""

    def __init__(self, node: Node, tasks: anyio.abc.TaskGroup) -> None:
        self.node = node
        self._tasks = tasks
        self.played: list[Played] = []

    @property
    def transport(self) -> AsgiTransport:
        assert isinstance(self.node.transport, AsgiTransport)
        return self.node.transport

    @property
    def log(self) -> Log:
        log: Log = self.node.app.log  # type: ignore[attr-defined]
        return log

    def connect(self, user: str = "ann", **fields: Any) -> Played:
        """A connection, which the host has just begun to serve."""
        played = Played(websocket_scope(user, **fields))
        self.played.append(played)
        self._tasks.start_soon(self._serve, played)
        return played

    async def welcomed(self, user: str = "ann") -> Played:
        """A connection that has its welcome and is in its room."""
        played = self.connect(user)
        await eventually(lambda: played.told("session.welcome"))
        return played

    async def _serve(self, played: Played) -> None:
        try:
            with played.holds:
                await self.transport(played.scope, played.receive, played.send)
        except Exception as error:  # noqa: BLE001  a host logs it
            played.raised = error
        finally:
            played.ended.set()

    def link_of(self, user: str) -> AsgiLink:
        (connection,) = self.node.connections_of(user)
        link = connection._link
        assert isinstance(link, AsgiLink)
        return link

    def is_watched(self, link: AsgiLink) -> bool:
        """Whether the wheel knows of the time that its `send` has."""
        return link._write_deadline < math.inf and 0 < link.wheel_slot * 0.25 <= link._write_deadline + 0.25

    def advance(self, seconds: float) -> None:
        """Move the node's virtual clock, and do what is due then."""
        clock: Any = self.node.clock
        clock.advance(seconds)
        self.node.upkeep.tick(clock())

    @property
    def tasks(self) -> int:
        """Tasks of the node that are not over, its upkeep left out."""
        runtime: Any = self.node.runtime
        return len(runtime._tasks if isinstance(runtime, AsyncioRuntime) else runtime._scopes) - 1


@asynccontextmanager
async def stage(**options: Any) -> AsyncIterator[Stage]:
    """A node without presence, so that nothing comes but what a test asks for."""
    options.setdefault("rooms", {"chat:*": RoomPolicy()})
    node = make_node(options.pop("app", None) or make_app(), ASGI_HOSTS["asgi-uvicorn-sansio"], **options)
    async with anyio.create_task_group() as tasks:

        async def serve(*, task_status: anyio.abc.TaskStatus[None]) -> None:
            await node.serve(ready=lambda _: task_status.started())

        await tasks.start(serve)
        played = Stage(node, tasks)
        try:
            yield played
        finally:
            for connection in played.played:
                connection.failure = None
                connection.taking.set()
            with anyio.CancelScope(shield=True):
                await node.drain.run()
            for connection in played.played:
                connection.close_streams()
            tasks.cancel_scope.cancel()


async def eventually(condition: Any) -> None:
    """Let the other tasks run until it holds."""
    with anyio.fail_after(PATIENCE):
        while not condition():
            await anyio.lowlevel.checkpoint()
