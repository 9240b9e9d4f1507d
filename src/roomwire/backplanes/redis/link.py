"""The listening link to one server: supervised, probed, and made anew after every break.

The library's own reconnects are not used, since they tell nobody that messages were lost. Against a server that
is stopped no read ever ends: so after a silence the node publishes to a channel that this link listens to, and
a link that does not bring it is replaced. The reader is a task of its own and is never cancelled; the socket is closed.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Any, NamedTuple

from redis.exceptions import RedisError, ResponseError

from roomwire.backplanes.lateness import first_of
from roomwire.backplanes.redis.options import RedisOptions
from roomwire.backplanes.redis.wire import Dial, Link
from roomwire.core.errors import Unavailable

__all__ = ["ListeningLink", "Owner"]

logger = logging.getLogger("roomwire.backplane")

BATCH = 512
"""Channels of one SUBSCRIBE. Those of one SSUBSCRIBE would have to share a slot, so each has its own."""
BACKOFF = (0.05, 2.0)
"""Seconds before the first and the last of the tries to connect; half of it is by chance."""
_TURN = 1024
"""Messages that are taken from the socket in a turn of the loop."""


class Owner(NamedTuple):
    """What a link calls.

    Attributes:
        message: a channel's message came.
        went_up: it listens to all of its channels again; whether for the first time.
        went_down: it does not; it goes on trying.
        probe: publishes to a channel of this link's.
        lost: the server gave a channel away, as a cluster's does.
    """

    message: Callable[[bytes, bytes], None]
    went_up: Callable[[], None]
    went_down: Callable[[], None]
    probe: Callable[[], Awaitable[None]]
    lost: Callable[[bytes], None]


class _Asked(NamedTuple):
    channel: bytes
    subscribes: bool
    confirmed: asyncio.Future[bool] | None  # False: the link broke before


class ListeningLink:
    """See the module's text.

    Args:
        dial: makes the connection.
        owner: what to call.
        options: the times.
        commands: the names of subscribe and unsubscribe.
    """

    def __init__(self, dial: Dial, owner: Owner, options: RedisOptions, commands: tuple[str, str]) -> None:
        self.channels: dict[bytes, None] = {}
        """Those that it is to listen to."""
        self.up = False
        self._dial = dial
        self._owner = owner
        self._options = options
        self._commands = commands
        self._batch = BATCH if commands[0] == "SUBSCRIBE" else 1
        self._link: Link | None = None
        self._asked: deque[_Asked] = deque()
        self._unsent: list[_Asked] = []
        self._heard = 0.0
        self._why = ""
        self._sound: asyncio.Future[None] | None = None  # somebody waits for whatever comes next
        self._closed = False
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.first: asyncio.Future[Unavailable | None] = asyncio.get_running_loop().create_future()
        """Why it could not connect, or None where it listens; done after the first try."""

    # --- what it listens to

    def add(self, channel: bytes) -> asyncio.Future[bool]:
        """Listen to a channel, too; the future says whether the server confirmed it before the link broke."""
        confirmed: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.channels[channel] = None
        if self._link is not None:
            self._ask(_Asked(channel, True, confirmed))
        else:
            confirmed.set_result(False)
        return confirmed

    def discard(self, channel: bytes, *, gone: bool = False) -> None:
        """Listen to it no more; `gone` where the server gave it away, and would refuse the link that asks."""
        if channel in self.channels:
            del self.channels[channel]
            if self._link is not None and not gone:
                self._ask(_Asked(channel, False, None))

    def _ask(self, asked: _Asked) -> None:
        self._unsent.append(asked)
        if len(self._unsent) == 1:
            asyncio.get_running_loop().call_soon(self._send)

    def _send(self) -> None:
        """What one turn of the loop asked for, in its order, as few commands."""
        unsent, self._unsent = self._unsent, []
        link = self._link
        if link is None:
            self._fail(unsent)
            return
        commands: list[list[bytes | str | int]] = []
        last = None
        for asked in unsent:
            if not commands or asked.subscribes is not last or len(commands[-1]) > self._batch:
                commands.append([self._commands[0] if asked.subscribes else self._commands[1]])
                last = asked.subscribes
            commands[-1].append(asked.channel)
            self._asked.append(asked)
        if commands:
            link.push(commands)

    def _fail(self, asked: Iterable[_Asked]) -> None:
        for one in asked:
            if one.confirmed is not None and not one.confirmed.done():
                one.confirmed.set_result(False)

    # --- its life

    def start(self) -> None:
        """Begin to connect, and go on until `aclose`."""
        self._task = asyncio.create_task(self._run())

    async def aclose(self) -> None:
        """End it for good."""
        self.stop()
        if self._task is not None:
            await asyncio.wait([self._task])

    def stop(self) -> None:
        """End it, without waiting for that."""
        self._closed = True
        self._wake.set()
        self.drop()

    def drop(self) -> None:
        """Replace the connection."""
        if self._link is not None:
            self._link.abort()

    async def _run(self) -> None:
        pause = BACKOFF[0]
        while not self._closed:
            try:
                link = await self._dial()
            except Unavailable as error:
                self._failed(error)
            except Exception as error:
                logger.exception("the listening link to Redis fails")
                self._failed(Unavailable(str(error), stored=False))
            else:
                if await self._serve(link):
                    pause = BACKOFF[0]
            if not self._closed:
                await self._sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311  no secret
                pause = min(2 * pause, BACKOFF[1])

    def _failed(self, error: Unavailable) -> None:
        if not self.first.done():
            self.first.set_result(error)
        self._owner.went_down()

    async def _sleep(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _serve(self, link: Link) -> bool:
        """Until the link breaks; whether it came to listen at all."""
        loop = asyncio.get_running_loop()
        self._link = link
        self._asked.clear()
        self._why = "the link to Redis broke"
        self._heard = loop.time()
        reader = asyncio.create_task(self._read(link))
        listens = False
        try:
            if not self._closed and await self._subscribe_all(reader):
                listens = True
                self.up = True
                if not self.first.done():
                    self.first.set_result(None)
                self._owner.went_up()
                await self._watch(reader)
        finally:
            self.up = False
            self._link = None
            link.abort()
            await asyncio.wait([reader])
            asked, self._asked = self._asked, deque()
            self._fail(asked)
            await link.disconnect(nowait=True)
        if not self._closed:
            self._failed(Unavailable(self._why, stored=False))
        return listens

    async def _subscribe_all(self, reader: asyncio.Task[None]) -> bool:
        loop = asyncio.get_running_loop()
        confirmed: list[asyncio.Future[bool]] = []
        for channel in self.channels:
            confirmed.append(loop.create_future())
            self._ask(_Asked(channel, True, confirmed[-1]))
        while confirmed and not reader.done():
            pending = [future for future in confirmed if not future.done()]
            if not pending:
                break
            before = len(pending)
            # However many there are: as long as some are confirmed, it goes on.
            waits: list[asyncio.Future[Any]] = [reader, pending[-1]]
            await asyncio.wait(waits, timeout=self._options.command_timeout, return_when=asyncio.FIRST_COMPLETED)
            if sum(not future.done() for future in pending) == before:
                return False
        return not reader.done() and all(future.result() for future in confirmed)

    async def _watch(self, reader: asyncio.Task[None]) -> None:
        """Until the reader ends, or a probe is not heard."""
        loop = asyncio.get_running_loop()
        while not reader.done():
            left = self._heard + self._options.probe_after - loop.time()
            if left > 0:
                await asyncio.wait([reader], timeout=left)
                continue
            if not await self._probe(reader):
                logger.warning("the listening link to Redis is silent: it is replaced")
                return

    async def _probe(self, reader: asyncio.Task[None]) -> bool:
        """Whether anything is heard after a word of our own, or the reader ended by itself."""
        loop = asyncio.get_running_loop()
        sound = self._sound = loop.create_future()
        due = loop.time() + self._options.probe_timeout
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(due):
                    await self._owner.probe()
            return await first_of([reader, sound], due)
        except Unavailable:
            return sound.done()
        finally:
            self._sound = None

    async def _read(self, link: Link) -> None:
        loop = asyncio.get_running_loop()
        turn = 0
        try:
            while True:
                reply = await link.read_response(disable_decoding=True, timeout=math.inf, disconnect_on_error=False)
                self._heard = loop.time()
                if self._sound is not None and not self._sound.done():
                    self._sound.set_result(None)
                self._take(reply)
                turn += 1
                if turn % _TURN == 0:
                    await asyncio.sleep(0)  # what is in its buffer would be read without a stop
        except ResponseError as error:
            # Of a subscribe: the channel is another server's, or not allowed to this user.
            logger.warning("Redis refuses to be listened to: %s", error)
            self._why = f"Redis refuses to be listened to: {error}"
            if self._asked:
                self._owner.lost(self._asked[0].channel)
        except (RedisError, OSError) as error:
            if not self._closed:
                logger.warning("the listening link to Redis broke: %s", error)
        except Exception:
            logger.exception("a message of Redis cannot be read")

    def _take(self, reply: Any) -> None:
        kind, channel, data = reply
        if kind in (b"message", b"smessage"):
            self._owner.message(channel, data)
            return
        subscribes = kind in (b"subscribe", b"ssubscribe")
        asked = self._asked[0] if self._asked else None
        if asked is None or asked.channel != channel or asked.subscribes is not subscribes:
            self._owner.lost(channel)  # a cluster's server no longer has it
            return
        self._asked.popleft()
        if asked.confirmed is not None and not asked.confirmed.done():
            asked.confirmed.set_result(True)
