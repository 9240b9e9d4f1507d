"""The link to NATS: connected as long as it can be, with subscriptions that outlive connections.

A connection that is lost is told at once, and all that waits for an answer fails: nothing that was asked
before it takes effect silently after it. Then servers are tried in turn until one answers.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from roomwire.backplanes.nats.client import Handler, NatsClient, NoTls, end_tasks
from roomwire.backplanes.nats.options import NatsOptions
from roomwire.backplanes.nats.wire import Reply, status_of
from roomwire.core.errors import ConfigError, Unavailable

__all__ = ["Link", "Listening"]

logger = logging.getLogger("roomwire.backplane")

OLDEST = (2, 11)
"""The first server with a time to live for each message."""
_TELL_DENIALS = 20


class Listening:
    """A subscription that outlives connections."""

    __slots__ = ("denied", "handler", "number", "subject")

    def __init__(self, subject: str, handler: Handler) -> None:
        self.subject = subject
        self.handler = handler
        self.number = 0
        self.denied = False


class _Call:
    """A question that waits for its answer, or for several."""

    __slots__ = ("answered", "many", "subject")

    def __init__(self, subject: str, many: list[Reply] | None) -> None:
        self.subject = subject
        self.many = many
        self.answered: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()


class Link:
    """See the module's text.

    Args:
        options: the options.
        name: what the server shows for the connection.
        came_up: awaited with a new connection before it is used for anything else; where it raises
            `Unavailable` the connection is given up. `went_down` follows on each one that returned.
        went_down: the connection is lost.

    Attributes:
        connects: how many connections were made.
    """

    def __init__(
        self, options: NatsOptions, name: str, came_up: Callable[[], Awaitable[None]], went_down: Callable[[], None]
    ) -> None:
        self._options = options
        self._name = name
        self._came_up = came_up
        self._went_down = went_down
        self._client: NatsClient | None = None
        self._latest: NatsClient | None = None
        self._context = options.ssl_context() if options.wants_tls else None  # it costs 20 ms
        self._servers = list(options.servers)
        self._listenings: set[Listening] = set()
        self._calls: dict[str, _Call] = {}
        self._count = 0
        self._inbox = f"{options.inbox_prefix}.{secrets.token_hex(11)}."
        self._denials: set[str] = set()
        self._lost = asyncio.Event()
        self._suspect = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._reason = ""
        self.connects = 0
        self.listen(f"{self._inbox}*", self._answer)

    # --- the life of it

    async def start(self) -> None:
        """Connect for the first time, and stay connected from then on.

        Raises:
            Unavailable: no server could be reached in time.
            ConfigError: one was, and does not want us, or is too old.
        """
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run(ready))
        try:
            async with asyncio.timeout(self._options.start_timeout):
                await asyncio.shield(ready)
        except TimeoutError:
            raise Unavailable(f"no NATS server answers: {self._why()}") from None
        finally:
            if not ready.done():
                ready.cancel()
            elif not ready.cancelled():
                ready.exception()

    async def aclose(self) -> None:
        """Disconnect."""
        task, self._task = self._task, None
        client = self._client
        if client is not None and not self._lost.is_set():
            with suppress(Exception):
                await client.round_trip(min(1.0, self._options.probe_timeout))
        if task is not None:
            await end_tasks([task])
        if self._latest is not None:
            await self._latest.dispose()  # the end of the task may have been in the middle of it
        self._fail_calls("the NATS backplane is closed")

    async def _run(self, ready: asyncio.Future[None]) -> None:
        while True:
            client = await self._connect(ready)
            try:
                await self._use(client, ready)
            except Exception as error:
                if not ready.done():
                    ready.set_exception(error)
                    return
                # Whatever it is, nothing but this task makes another connection.
                known = isinstance(error, ConfigError)
                logger.error("NATS cannot be used: %s", error, exc_info=None if known else error)
                await self._pause()
            finally:
                self._client = None
                self._fail_calls("the link to NATS is lost")
                with suppress(Exception):
                    await client.dispose()

    async def _use(self, client: NatsClient, ready: asyncio.Future[None]) -> None:
        """Until it is lost."""
        self._client = client
        self._suspect.clear()
        self.connects += 1
        for listening in self._listenings:
            listening.denied = False
            listening.number = client.listen(listening.subject, listening.handler)
        try:
            await self._came_up()
        except Unavailable as error:
            logger.warning("NATS can be reached, but not be used: %s", error)
            self._reason = str(error)
            await self._pause()
            return
        if not ready.done():
            ready.set_result(None)
        try:
            await self._until_lost(client)
        finally:
            self._went_down()

    def _why(self) -> str:
        return self._reason or "no answer"

    async def _connect(self, ready: asyncio.Future[None]) -> NatsClient:
        """A connection, however long it takes."""
        while True:
            for url in random.sample(self._servers, len(self._servers)):
                client = await self._try(url, ready)
                if client is not None:
                    return client
            await self._pause()

    async def _pause(self) -> None:
        # Nodes that lost the same server do not come back in step.
        await asyncio.sleep(self._options.reconnect_wait * random.uniform(0.25, 1.0))  # noqa: S311

    async def _try(self, url: str, ready: asyncio.Future[None]) -> NatsClient | None:
        self._lost = lost = asyncio.Event()
        host = urlsplit(url).hostname or ""
        client = self._latest = NatsClient(lambda _: lost.set(), self._denied)
        try:
            async with asyncio.timeout(self._options.connect_timeout * 3):
                await client.open(url, self._options, self._name, self._context)
        except Exception as error:  # noqa: BLE001  a peer that is no NATS server makes nats-py fail in any way
            fault = client.fault or error
            self._reason = f"{host}: {str(fault).removeprefix('nats: ') or type(fault).__name__}"
            await client.dispose()
            refused = (
                isinstance(fault, (NoTls, ssl.SSLCertVerificationError)) or "authorization" in self._reason.lower()
            )
            if refused and not ready.done():
                ready.set_exception(ConfigError(f"backplane.options: {self._reason}"))
            return None
        except BaseException:
            await client.dispose()
            raise
        problem = _unfit(client)
        if problem:
            await client.dispose()
            if not ready.done():
                ready.set_exception(ConfigError(f"backplane.options.servers: {host}: {problem}"))
            self._reason = f"{host}: {problem}"
            return None
        scheme = urlsplit(url).scheme
        # As of now: a server that is gone for good would be tried in each round.
        servers = list(self._options.servers)
        for found in client.info.get("connect_urls") or ():
            if not any(urlsplit(known).netloc.rpartition("@")[2] == found for known in servers):
                userinfo = urlsplit(url).netloc.rpartition("@")
                servers.append(f"{scheme}://{userinfo[0]}{userinfo[1]}{found}")
        self._servers = servers
        return client

    async def _until_lost(self, client: NatsClient) -> None:
        """Ask for a sign of life again and again: against a server that stands still nothing else helps."""
        lost = self._lost
        while not lost.is_set():
            self._suspect.clear()
            waiting = [asyncio.create_task(event.wait()) for event in (lost, self._suspect)]
            try:
                await asyncio.wait(waiting, timeout=self._options.probe_interval, return_when="FIRST_COMPLETED")
            finally:
                for task in waiting:
                    task.cancel()
            if lost.is_set():
                return
            probe = asyncio.create_task(client.round_trip(self._options.probe_timeout))
            gone = asyncio.create_task(lost.wait())
            try:
                await asyncio.wait([probe, gone], return_when="FIRST_COMPLETED")
                if probe.done() and (probe.cancelled() or probe.exception() is not None):
                    logger.warning("the link to NATS gives no sign of life and is replaced")
                    return
            finally:
                probe.cancel()
                gone.cancel()
                await asyncio.wait([probe, gone])

    # --- subscriptions and messages

    @property
    def connected(self) -> bool:
        """Whether there is a connection, perhaps a dead one."""
        return self._client is not None and not self._lost.is_set()

    def listen(self, subject: str, handler: Handler) -> Listening:
        """Subscribe, now and on every connection to come. What is asked after it is answered after it holds."""
        listening = Listening(subject, handler)
        self._listenings.add(listening)
        if self._client is not None:
            listening.number = self._client.listen(subject, handler)
        return listening

    def unlisten(self, listening: Listening) -> None:
        """The handler is not called any more."""
        self._listenings.discard(listening)
        if self._client is not None and listening.number:
            self._client.unlisten(listening.number)

    def tell(self, subject: str, data: bytes) -> None:
        """Publish, without an answer.

        Raises:
            Unavailable: there is no connection, or it is too slow.
        """
        self._ready(len(data)).tell(subject, data)

    async def hand_over(self, subject: str, data: bytes) -> None:
        """Publish, and know that the server has it.

        Raises:
            Unavailable: it may not, or does not permit it.
        """
        client = self._ready(len(data))
        self._count += 1
        number = f"{self._count:x}"
        call = self._calls[number] = _Call(subject, None)
        client.tell(subject, data)
        # In a task: what ends the connection cancels it, and must not cancel us.
        trip = asyncio.create_task(client.round_trip(self._options.request_timeout))
        try:
            either: list[asyncio.Future[Any]] = [trip, call.answered]
            await asyncio.wait(either, return_when="FIRST_COMPLETED")
            failed = trip.done() and (trip.cancelled() or trip.exception() is not None)
            if call.answered.done():
                call.answered.result()
            if failed:
                self._suspect.set()
                raise Unavailable("NATS does not answer in time", stored=None)
        finally:
            trip.cancel()
            del self._calls[number]

    async def ask(self, subject: str, data: bytes = b"", headers: bytes | None = None, timeout: float = 0) -> Reply:
        """One answer.

        Raises:
            Unavailable: none came; with ``stored=None`` where the question may have arrived.
        """
        call = _Call(subject, None)
        return await self._call(call, data, headers, timeout)

    async def ask_many(self, subject: str, data: bytes) -> list[Reply]:
        """All answers up to the one with a status, which is the last of them. Raises as `ask` does."""
        replies: list[Reply] = []
        await self._call(_Call(subject, replies), data, None, 0)
        return replies

    async def _call(self, call: _Call, data: bytes, headers: bytes | None, timeout: float) -> Reply:
        client = self._ready(len(data) + len(headers or b""))
        self._count += 1
        number = f"{self._count:x}"
        self._calls[number] = call
        try:
            client.tell(call.subject, data, self._inbox + number, headers)
            async with asyncio.timeout(timeout or self._options.request_timeout):
                return await call.answered
        except TimeoutError:
            self._suspect.set()
            raise Unavailable("NATS does not answer in time", stored=None) from None
        finally:
            del self._calls[number]

    def _ready(self, size: int) -> NatsClient:
        client = self._client
        if client is None or self._lost.is_set():
            raise Unavailable("there is no link to NATS", stored=False)
        if client.pending_data_size > self._options.max_pending:
            raise Unavailable("the link to NATS is too slow", stored=False)
        if size > client.max_payload:
            raise Unavailable(
                f"{size} bytes are more than the server's max_payload, {client.max_payload}", stored=False
            )
        return client

    def _answer(self, subject: str, data: bytes, headers: bytes | None) -> None:
        call = self._calls.get(subject[len(self._inbox) :])
        if call is None or call.answered.done():
            return
        reply = Reply(status_of(headers), headers or b"", data)
        if call.many is not None:
            call.many.append(reply)
            if not reply.status:
                return
        call.answered.set_result(reply)

    def _fail_calls(self, why: str) -> None:
        for call in self._calls.values():
            if not call.answered.done():
                call.answered.set_exception(Unavailable(why, stored=None))

    def _denied(self, text: str) -> None:
        """The server sends its texts in whatever case, and names one subject."""
        for call in self._calls.values():
            if f'publish to "{call.subject.lower()}"' in text.lower() and not call.answered.done():
                call.answered.set_exception(Unavailable(f"NATS does not permit it: {text}", stored=False))
        said = text.lower()
        for listening in self._listenings:
            if f'subscription to "{listening.subject.lower()}"' in said:
                listening.denied = True
        if len(self._denials) < _TELL_DENIALS and text not in self._denials:
            self._denials.add(text)
            logger.error("NATS does not permit it: %s", text)


def _unfit(client: NatsClient) -> str:
    """Why the server is of no use."""
    version = str(client.info.get("version", "0"))
    numbers = tuple(int(part) for part in version.split("-")[0].split(".")[:2] if part.isdigit())
    if numbers < OLDEST:
        return f"nats-server {version} is too old, 2.11 or later is needed"
    if not client.info.get("headers"):
        return "the server has headers switched off"
    return ""
