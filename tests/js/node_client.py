"""The JavaScript client in a node process, driven from a test: see driver.js beside this file."""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import Process
from anyio.streams.text import TextReceiveStream
from tests.servers import NODE, MissingToolError

__all__ = ["HERE", "NodeClient", "NodeClientError", "open_node_client"]

HERE = Path(__file__).parent
Message = Mapping[str, Any]


class NodeClientError(Exception):
    """A call of the client failed in node.

    Attributes:
        code: the `code` of its RoomwireError.
        details: its `details`.
    """

    def __init__(self, code: str, message: str, details: object) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.details = details


class NodeClient:
    """One client of the JavaScript library. Made by `open_node_client`.

    Attributes:
        events: everything that its handlers heard and `wait_event` has not taken, oldest first.
    """

    def __init__(self, process: Process) -> None:
        self.events: deque[Message] = deque()
        self._process = process
        self._last_id = 0
        self._replies: dict[int, Message] = {}
        self._changed = anyio.Event()
        self._ended = False

    async def start(self, command: str, **fields: object) -> int:
        """Begin a command of driver.js; `finish` waits for its end."""
        self._last_id += 1
        line = json.dumps({"id": self._last_id, "do": command, **fields})
        assert self._process.stdin is not None
        await self._process.stdin.send(line.encode() + b"\n")
        return self._last_id

    async def finish(self, id: int, timeout: float = 20.0) -> Any:
        """The result of a command begun with `start`.

        Raises:
            NodeClientError: it failed in node.
        """
        reply = await self._until(lambda: self._replies.pop(id, None), timeout, f"no reply to command {id}")
        if "error" in reply:
            error = reply["error"]
            raise NodeClientError(error["code"], error["message"], error.get("details"))
        return reply["result"]

    async def call(self, command: str, **fields: object) -> Any:
        """A command and its result; raises as `finish` does."""
        return await self.finish(await self.start(command, **fields))

    async def connect(self, url: str, token: str | None = None, **options: object) -> str:
        """Begin to connect to `url`, with the options of the library. Returns the client id."""
        client: str = await self.call("connect", url=url, options={"token": token, **options})
        return client

    async def wait_event(self, event: str, timeout: float = 20.0, **fields: object) -> Message:
        """Take the next event of that name whose data have these `fields`, and all that came before it."""

        def find() -> Message | None:
            for position, message in enumerate(self.events):
                data = message.get("data")
                if message["event"] != event or not all(_has(data, *field) for field in fields.items()):
                    continue
                for _ in range(position + 1):
                    self.events.popleft()
                return message
            return None

        return await self._until(find, timeout, f"no event {event} with {fields}")

    async def next_event(self) -> Message:
        """Take the next event, however long it takes."""
        return await self._until(lambda: self.events.popleft() if self.events else None, math.inf, "no event")

    async def wait_state(self, state: str) -> Message:
        """Wait until the client tells that it is in `state`."""
        return await self.wait_event("session.statechange", state=state)

    async def _until(self, find: Callable[[], Message | None], timeout: float, complaint: str) -> Message:
        with anyio.move_on_after(timeout):
            while True:
                found = find()
                if found is not None:
                    return found
                if self._ended:
                    break
                await self._changed.wait()
        raise AssertionError(f"{complaint}; node {'has ended' if self._ended else 'said'}: {list(self.events)}")

    async def _read(self) -> None:
        assert self._process.stdout is not None
        buffered = ""
        async for text in TextReceiveStream(self._process.stdout):
            *lines, buffered = (buffered + text).split("\n")
            for line in lines:
                message = json.loads(line)
                if "event" in message:
                    self.events.append(message)
                else:
                    self._replies[message["id"]] = message
            self._wake()
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()


def _has(data: object, name: str, value: object) -> bool:
    return isinstance(data, dict) and name in data and data[name] == value


@asynccontextmanager
async def open_node_client() -> AsyncIterator[NodeClient]:
    """A node process with a client that is not connected yet; it ends with the context.

    Raises:
        MissingToolError: node, or npm's ws in it, is not there.
    """
    node = NODE.require()
    if not (HERE / "node_modules" / "ws").is_dir():
        raise MissingToolError("npm's ws is not there; run: make setup (or: npm install --prefix tests/js)")
    process = await anyio.open_process([str(node), str(HERE / "driver.js")], stderr=None)
    async with process, anyio.create_task_group() as group:
        client = NodeClient(process)
        group.start_soon(client._read)
        try:
            yield client
        finally:
            with anyio.CancelScope(shield=True):
                assert process.stdin is not None
                await process.stdin.aclose()
                with anyio.move_on_after(5.0):
                    await process.wait()
                if process.returncode is None:
                    process.kill()
                    await process.wait()
            group.cancel_scope.cancel()
