"""A wire: one connection to one server, on which the commands of many tasks follow each other.

redis-py makes the connection and reads the replies. Its own pool is not used: there a task holds a connection
while it waits, and one that is cancelled leaves half a reply behind. Here a command is written at once, and one
reader gives each reply to whoever waits for it, or to nobody. No read is ever cancelled: a connection ends by its
socket being closed. Nothing is sent twice, and nothing waits for a connection to come back.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from redis.asyncio import Connection, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import RedisError, ResponseError

from roomwire.backplanes.lateness import LATE
from roomwire.core.errors import Unavailable

__all__ = ["COMMAND", "Command", "Dial", "DirectConnection", "PlainLink", "TlsLink", "UnixLink", "Wire"]

logger = logging.getLogger("roomwire.backplane")

Command = Sequence[bytes | str | int]
COMMAND = tuple[bytes | str | int, ...]

MAX_PENDING = 64 * 1024 * 1024
"""Bytes of commands that may wait for their replies; beyond, a server that is slow would be a hidden queue."""
_TURN = 256
"""Replies that are read in a turn of the loop."""
_GAP = 0.25
"""Seconds after a connect that failed in which no other one is tried: publishers come by the thousand."""


class DirectConnection:
    """What redis-py's connections lack: writing without waiting, and closing without politeness."""

    _writer: Any
    pack_commands: Callable[..., list[bytes]]

    def push(self, commands: Sequence[Command]) -> int:
        """Write commands; returns their bytes, or 0: the link is closed. What the kernel does not take waits here."""
        data = b"".join(self.pack_commands(commands))
        # Before the reader has heard of it; uvloop raises where asyncio drops what is written.
        if self._writer is None or self._writer.transport.is_closing():
            return 0
        self._writer.write(data)
        return len(data)

    def abort(self) -> None:
        """Close the socket now: a server that reads nothing would keep a close waiting for ever."""
        if self._writer is not None:
            self._writer.transport.abort()


class PlainLink(DirectConnection, Connection):
    """Over TCP."""


class TlsLink(DirectConnection, SSLConnection):
    """Over TLS."""


class UnixLink(DirectConnection, UnixDomainSocketConnection):
    """Over a Unix socket."""


Link = PlainLink | TlsLink | UnixLink
Dial = Callable[[], Awaitable[Link]]
"""Gives a connection that is made, within a bounded time.

Raises:
    Unavailable: it cannot be made.
"""


class _Waiting(NamedTuple):
    future: asyncio.Future[Any]
    sent: float
    size: int  # bytes, of all commands that were sent with it


class Wire:
    """See the module's text.

    Args:
        dial: makes the connection, when it is first needed and after each break.
        timeout: seconds after which a command without a reply breaks the connection.
    """

    def __init__(self, dial: Dial, timeout: float) -> None:
        self._dial = dial
        self._timeout = timeout
        self._link: Link | None = None
        self._opening: asyncio.Task[None] | None = None
        self._reader: asyncio.Task[None] | None = None
        self._waiting: deque[_Waiting] = deque()
        self._pending = 0
        self._watch: asyncio.TimerHandle | None = None
        self._closed = False
        self._not_before = 0.0
        self._failure = Unavailable("Redis cannot be reached", stored=False)

    async def open(self) -> None:
        """Connect, where it is not.

        Raises:
            Unavailable: it cannot be done.
        """
        if self._link is None:
            if self._closed:
                raise Unavailable("the Redis backplane is closed or not started", stored=False)
            if self._opening is None:
                if asyncio.get_running_loop().time() < self._not_before:
                    raise Unavailable(str(self._failure), stored=False)
                self._opening = asyncio.create_task(self._open())
            # Who is cancelled here leaves the others their connection.
            await asyncio.wait([self._opening])
            if self._link is None:
                raise Unavailable(str(self._failure), stored=False)

    @property
    def busy(self) -> bool:
        """Whether it connects, or somebody waits for a reply."""
        return self._opening is not None or bool(self._waiting)

    def hurry(self) -> None:
        """The server can be reached again: the next command need not wait to connect."""
        self._not_before = 0.0

    async def _open(self) -> None:
        try:
            link = await self._dial()
        except Unavailable as error:
            self._failure = error
            self._not_before = asyncio.get_running_loop().time() + _GAP
        else:
            if self._closed:
                link.abort()
                await link.disconnect(nowait=True)
            else:
                self._link = link
                self._reader = asyncio.create_task(self._read(link))
        finally:
            self._opening = None

    async def call(self, *commands: Command) -> list[Any]:
        """Send commands in one piece; their replies, where an error of the server's is a reply as any other.

        Raises:
            Unavailable: with ``stored=False`` where nothing was sent.
        """
        if self._link is None:
            await self.open()
        link = self._link
        if link is None:
            raise Unavailable("the link to Redis broke", stored=False)
        if self._pending > MAX_PENDING:
            raise Unavailable("Redis is too slow for what is sent to it", stored=False)
        loop = asyncio.get_running_loop()
        now = loop.time()
        size = link.push(commands)
        if not size:
            self.drop("the link to Redis broke")
            raise Unavailable("the link to Redis broke", stored=False)
        futures: list[asyncio.Future[Any]] = [loop.create_future() for _ in commands]
        self._pending += size
        for future in futures:
            self._waiting.append(_Waiting(future, now, size))
            size = 0
        if self._watch is None:
            self._watch = loop.call_later(self._timeout, self._look, now + self._timeout)
        replies = [await future for future in futures]
        for reply in replies:
            if isinstance(reply, Unavailable):
                raise reply
        return replies

    def _look(self, due: float) -> None:
        """Whether the oldest command has waited too long; one timer for all of them."""
        self._watch = None
        if self._waiting:
            loop = asyncio.get_running_loop()
            now = loop.time()
            left = self._waiting[0].sent + self._timeout - now
            if now - due > LATE:
                left = max(left, LATE)  # it is the loop that stood still, and the reply may be in the socket
            if left > 0:
                self._watch = loop.call_later(left, self._look, now + left)
            else:
                self.drop(f"Redis gave no answer in {self._timeout:g} s")

    def drop(self, why: str) -> None:
        """Break the connection: what waits for a reply will not get one."""
        link, self._link = self._link, None
        if link is not None:
            link.abort()
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        waiting, self._waiting, self._pending = self._waiting, deque(), 0
        for one in waiting:
            if not one.future.done():  # else whoever waited was cancelled
                # As a result: nobody may be there to take an exception.
                one.future.set_result(Unavailable(why, stored=None))

    async def _read(self, link: Link) -> None:
        why = "the link to Redis broke"
        turn = 0
        try:
            while True:
                try:
                    reply = await link.read_response(disable_decoding=True, timeout=math.inf, disconnect_on_error=False)
                except ResponseError as error:
                    reply = error
                if self._link is not link:
                    break
                self._settle(reply)
                turn += 1
                if turn % _TURN == 0:
                    await asyncio.sleep(0)
        except (RedisError, OSError) as error:
            why = f"the link to Redis broke: {error}"
        except Exception as error:
            logger.exception("a reply of Redis cannot be read")
            why = f"a reply of Redis cannot be read: {error}"
        finally:
            if self._link is link:
                self.drop(why)
            link.abort()
            await link.disconnect(nowait=True)

    def _settle(self, reply: object) -> None:
        one = self._waiting.popleft()
        self._pending -= one.size
        if not one.future.done():
            one.future.set_result(reply)

    async def aclose(self) -> None:
        """End it for good."""
        self._closed = True
        self.drop("the Redis backplane was closed")
        for task in (self._opening, self._reader):
            if task is not None:
                await asyncio.wait([task])
