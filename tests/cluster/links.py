"""Links between processes that can be cut, stalled, or made to lose bytes: TCP forwarders in a thread of their own.

All methods may be called from any thread; they return once it is done.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from enum import Enum
from types import TracebackType
from typing import Any, Self, TypeVar, cast

__all__ = ["Link", "Links", "Mode"]

T = TypeVar("T")

_SUBSCRIBES = b"SUBSCRIBE"


class Mode(Enum):
    """What becomes of the bytes of a link."""

    PASS = "pass"
    STALL = "stall"
    """Nothing is read: what either side sends waits in the sockets."""
    LOSE_ANSWERS = "lose answers"
    """What comes from the target is read and dropped."""
    LOSE_PUSHES = "lose pushes"
    """The same, on connections whose client has subscribed."""
    LOSE_REPLIES = "lose replies"
    """The same, on the others."""
    REFUSE = "refuse"
    """New connections are closed at once."""


class _Half(asyncio.Protocol):
    """One side of a connection."""

    def __init__(self, pair: _Pair, *, is_target: bool) -> None:
        self.pair = pair
        self.is_target = is_target

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.pair.made(self, cast(asyncio.Transport, transport))

    def data_received(self, data: bytes) -> None:
        self.pair.data(self, data)

    def connection_lost(self, error: Exception | None) -> None:
        self.pair.abort()


class _Pair:
    """One connection through a link."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.subscribes = False
        self._near: asyncio.Transport | None = None
        self._far: asyncio.Transport | None = None
        self._early: list[bytes] = []

    def made(self, half: _Half, transport: asyncio.Transport) -> None:
        link = self.link
        if half.is_target:
            self._far = transport
            transport.writelines(self._early)
        elif link.mode is Mode.REFUSE:
            transport.abort()
            return
        else:
            self._near = transport
            link.pairs.add(self)
            link.task(self._connect())
        if link.mode is Mode.STALL:
            transport.pause_reading()

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: _Half(self, is_target=True), "127.0.0.1", self.link.target())
        except OSError:
            self.abort()

    def data(self, half: _Half, data: bytes) -> None:
        if half.is_target:
            if self._loses():
                self.link.lost_bytes += len(data)
            elif self._near is not None:
                self._near.write(data)
            return
        self.subscribes = self.subscribes or _SUBSCRIBES in data.upper()
        link = self.link
        if link.trap and link.trap in data:
            link.trap, link.mode = b"", link.trap_mode
        if self._far is None:
            self._early.append(data)
        else:
            self._far.write(data)

    def _loses(self) -> bool:
        mode = self.link.mode
        return mode is Mode.LOSE_ANSWERS or mode is (Mode.LOSE_PUSHES if self.subscribes else Mode.LOSE_REPLIES)

    def set_reading(self, on: bool) -> None:
        for side in (self._near, self._far):
            if side is not None and not side.is_closing():
                if on:
                    side.resume_reading()
                else:
                    side.pause_reading()

    def abort(self) -> None:
        self.link.pairs.discard(self)
        for side in (self._near, self._far):
            if side is not None:
                side.abort()


class Link:
    """Forwards connections to a port of this machine. Made by `Links.open`.

    Attributes:
        port: where it listens.
        mode: what becomes of the bytes.
        target: gives the port for a new connection; may be replaced.
        lost_bytes: bytes dropped so far.
        trap, trap_mode: see `set_at`.
    """

    def __init__(self, links: Links, target: Callable[[], int]) -> None:
        self._links = links
        self.target = target
        self.mode = Mode.PASS
        self.pairs: set[_Pair] = set()
        self.port = 0
        self.lost_bytes = 0
        self.trap = b""
        self.trap_mode = Mode.PASS
        self._tasks: set[asyncio.Task[None]] = set()

    async def listen(self) -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Half(_Pair(self), is_target=False), "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._links.servers.append(server)

    def task(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def set(self, mode: Mode) -> None:
        """Change what becomes of the bytes."""

        def change() -> None:
            stalled, self.mode = self.mode is Mode.STALL, mode
            if stalled is not (mode is Mode.STALL):
                for pair in list(self.pairs):
                    pair.set_reading(stalled)

        self._links.run(change)

    def set_at(self, marker: bytes, mode: Mode) -> None:
        """The same from the moment at which a client sends these bytes."""

        def set_trap() -> None:
            self.trap, self.trap_mode = marker, mode

        self._links.run(set_trap)

    def cut(self, *, subscribed: bool | None = None, then: Mode | None = None) -> int:
        """Cut all connections, or those whose client has or has not subscribed; returns how many these were.

        With `then` new connections, which may come at once, have another mode.
        """

        def abort() -> int:
            self.mode = then or self.mode
            found = [pair for pair in self.pairs if subscribed in (None, pair.subscribes)]
            for pair in found:
                pair.abort()
            return len(found)

        return self._links.run(abort)

    @property
    def connections(self) -> int:
        """How many there are now."""
        return self._links.run(lambda: len(self.pairs))


class Links:
    """The thread of all links of a cluster."""

    def __init__(self) -> None:
        self.servers: list[asyncio.Server] = []
        self._links: list[Link] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="links")
        self._thread.start()

    def open(self, target: Callable[[], int]) -> Link:
        """A link to whatever port `target` gives for each new connection."""
        link = Link(self, target)
        asyncio.run_coroutine_threadsafe(link.listen(), self._loop).result()
        self._links.append(link)
        return link

    def run(self, function: Callable[[], T]) -> T:
        """Call it on the links' thread."""
        done: Future[T] = Future()

        def call() -> None:
            try:
                done.set_result(function())
            except Exception as error:  # noqa: BLE001  raised by `result`
                done.set_exception(error)

        self._loop.call_soon_threadsafe(call)
        return done.result()

    def close(self) -> None:
        """Cut everything, and end the thread."""

        async def end() -> None:
            for server in self.servers:
                server.close()
            for link in self._links:
                for pair in list(link.pairs):
                    pair.abort()
            await asyncio.sleep(0)  # for the transports' last callbacks
            for server in self.servers:
                await server.wait_closed()

        asyncio.run_coroutine_threadsafe(end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
