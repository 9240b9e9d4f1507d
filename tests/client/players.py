"""Both clients behind one vocabulary, so that one list of scenarios is put to both.

What a client tells its application is noted as tuples: ``("up",)``, ``("down", code, seconds)``,
``("message", content)``, ``("recovered",)``, ``("state", reason, state)`` and ``("ended", status)``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeAlias

import anyio
from anyio.abc import TaskGroup

from roomwire.client import (
    Client,
    Connected,
    ConnectionRefused,
    Disconnected,
    Event,
    Item,
    Recovered,
    StateReset,
    connect,
)
from roomwire.client.timing import SystemTiming
from tests.js.node_client import Message, NodeClient, open_node_client

__all__ = ["PLAYERS", "ROOM", "Player"]

ROOM = "chat:general"
TIMEOUT = 20.0
"""Seconds that anything is waited for; reached only where a test fails."""

Seen: TypeAlias = tuple[Any, ...]
Reply: TypeAlias = Callable[[], Awaitable[Any]]


class Player(ABC):
    """A client of Ann's, who is put into one room.

    Attributes:
        seen: all that it told, oldest first.
    """

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self._changed = anyio.Event()

    def note(self, *seen: Any) -> None:
        self.seen.append(seen)
        self._changed.set()
        self._changed = anyio.Event()

    def all(self, kind: str) -> list[Any]:
        """What it told of one kind: the only value of each, or all values."""
        found = [seen[1:] for seen in self.seen if seen[0] == kind]
        return [values[0] if len(values) == 1 else values for values in found]

    async def until(self, condition: Callable[[], object]) -> None:
        with anyio.move_on_after(TIMEOUT):
            while not condition():
                await self._changed.wait()
            return
        raise AssertionError(f"it does not come true; seen were {self.seen}")

    async def told(self, *wanted: Any, times: int = 1) -> None:
        """Wait until it has told this, so many times."""
        await self.until(lambda: self.seen.count(wanted) >= times)

    @abstractmethod
    async def say(self, content: str) -> Reply:
        """Hand a message over; what is returned waits for its reply."""


class PythonPlayer(Player):
    """`roomwire.client`."""

    def __init__(self, group: TaskGroup) -> None:
        super().__init__()
        self._group = group
        self.client: Client | None = None

    async def run(self, url: str, token: Callable[[], str]) -> None:
        try:
            async with connect(url, token=token, link_events=True, timing=NoJitter()) as self.client:
                async for item in self.client:
                    self._take(item)
        except ConnectionRefused as error:
            self.note("ended", error.status)

    def _take(self, item: Item) -> None:
        match item:
            case Connected():
                self.note("up")
            case Disconnected(code=code, retry_in=seconds):
                self.note("down", code, seconds)
            case Event(name="message.new", data={"content": content}):
                self.note("message", content)
            case Recovered():
                self.note("recovered")
            case StateReset(reason=reason, state=state):
                self.note("state", reason, state)

    async def say(self, content: str) -> Reply:
        assert self.client is not None
        room = self.client.room(ROOM)
        replies: list[Any] = []
        done = anyio.Event()

        async def send() -> None:
            replies.append(await room.send("message.send", {"content": content}))
            done.set()

        async def reply() -> Any:
            with anyio.fail_after(TIMEOUT):
                await done.wait()
            return replies[0]

        self._group.start_soon(send)
        await anyio.wait_all_tasks_blocked()  # it is handed over, before the next one is
        return reply


class NoJitter(SystemTiming):
    """Every wait is as short as it may be: what a server asks for, and else none."""

    def random(self) -> float:
        return 0.0


class JavaScriptPlayer(Player):
    """`roomwire.js`, in node."""

    def __init__(self, client: NodeClient) -> None:
        super().__init__()
        self._client = client

    async def run(self) -> None:
        while True:
            self._take(await self._client.next_event())

    def _take(self, message: Message) -> None:
        match message:
            case {"event": "session.statechange", "data": {"state": "open"}}:
                self.note("up")
            case {"event": "session.statechange", "data": {"state": "waiting", "code": code, "delay": delay}}:
                self.note("down", code, delay / 1000)
            case {"event": "session.statechange", "data": {"state": "closed", "error": {"details": details}}}:
                self.note("ended", details["status"])
            case {"event": "message.new", "data": {"content": content}}:
                self.note("message", content)
            case {"event": "room.recovered", "data": {"recovered": True}}:
                self.note("recovered")
            case {"event": "room.state", "data": {"reason": reason, "state": state}}:
                self.note("state", reason, state)

    async def say(self, content: str) -> Reply:
        id_ = await self._client.start("send", event="message.send", data={"content": content}, options={"room": ROOM})
        return lambda: self._client.finish(id_, TIMEOUT)


@asynccontextmanager
async def python(url: str, tokens: Sequence[str]) -> AsyncIterator[Player]:
    left = list(tokens)
    async with anyio.create_task_group() as group:
        player = PythonPlayer(group)
        group.start_soon(player.run, url, lambda: left.pop(0) if len(left) > 1 else left[0])
        yield player
        group.cancel_scope.cancel()


@asynccontextmanager
async def javascript(url: str, tokens: Sequence[str]) -> AsyncIterator[Player]:
    async with open_node_client() as client, anyio.create_task_group() as group:
        player = JavaScriptPlayer(client)
        group.start_soon(player.run)
        await client.connect(url, tokens=list(tokens), jitter=False)
        yield player
        group.cancel_scope.cancel()


PLAYERS: dict[str, tuple[str, Callable[[str, Sequence[str]], AbstractAsyncContextManager[Player]]]] = {
    "python-asyncio": ("asyncio", python),
    "python-trio": ("trio", python),
    "javascript": ("asyncio", javascript),
}
"""By name: the loop that the test runs on, and a client that begins to connect, with a token for each attempt (the
last one for all further ones)."""
