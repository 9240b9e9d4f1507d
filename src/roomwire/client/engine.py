"""What drives a `Session` over real links, on asyncio or trio.

A client has one task that goes from link to link and reads. Beside it, while there is a link, one writes and
one keeps the time. None of them waits for the application, but for the back-pressure: while too much waits
unread, nothing is read from the socket.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from roomwire.client.events import Connected, Disconnected, Item
from roomwire.client.inbox import OVERFULL, Inbox
from roomwire.client.link import Dialer, Link
from roomwire.client.session import Options, Phase, Session
from roomwire.client.signal import Signal
from roomwire.client.timing import Timing
from roomwire.core.closing import CloseCode
from roomwire.core.errors import ConnectionClosed, LocalError, ProtocolViolation, RoomwireError
from roomwire.core.handshake import HandshakeRejected, InvalidHandshake
from roomwire.core.websocket import Closed, Ping, Received

__all__ = ["Engine", "Token"]

Token: TypeAlias = str | Callable[[], str | Awaitable[str]] | None
"""A credential, or what gives a fresh one before every attempt."""

_LOW = 0.5  # of the inbox's bounds: where reading goes on, so that it does not stutter

logger = logging.getLogger("roomwire.client")


class Engine:
    """The tasks of one client.

    Args:
        session: what it drives.
        dialer: opens links.
        token: see `Token`.
        timing: clock and waits.
        options: limits.
        link_events: whether `Connected` and `Disconnected` are handed over.

    Attributes:
        leaving: whether `aclose` was called.
    """

    __slots__ = (
        "_alarm",
        "_arrived",
        "_changed",
        "_dialer",
        "_fault",
        "_inbox",
        "_link_events",
        "_link_over",
        "_opened",
        "_options",
        "_output",
        "_reading",
        "_receiving",
        "_scope",
        "_session",
        "_timing",
        "_token",
        "_written",
        "leaving",
    )

    def __init__(
        self,
        session: Session,
        dialer: Dialer,
        token: Token,
        *,
        timing: Timing,
        options: Options,
        link_events: bool,
    ) -> None:
        self._session = session
        self._dialer = dialer
        self._token = token
        self._timing = timing
        self._options = options
        self._link_events = link_events
        self._inbox = Inbox(options.max_unread_events, options.max_unread_bytes)
        self._scope = anyio.CancelScope()
        self._alarm = float("-inf")  # what `_sleep` waits for
        self._changed = Signal()  # the deadline is sooner than that
        self._output = Signal()  # something is to be written
        self._written = Signal()
        self._arrived = Signal()  # something is to be read by the application
        self._reading = Signal()  # it has read, or waits for a reply
        self._opened = anyio.Event()
        self._link_over: anyio.Event | None = None
        self._fault: Exception | None = None
        self._receiving = False
        self.leaving = False

    # --- for the application's tasks

    def now(self) -> float:
        """Monotonic seconds."""
        return self._timing.now()

    async def opened(self) -> None:
        """Wait for the first welcome.

        Raises:
            ConnectionClosed: there will be none.
        """
        await self._opened.wait()
        if self._fault is not None:
            raise self._fault
        if self._session.phase is Phase.ENDED:
            raise self._session.error()

    async def receive(self) -> Item:
        """Wait for the next item; a cancelled wait takes nothing.

        Raises:
            ConnectionClosed: the client has ended, and all items were taken.
            LocalError: another task waits already.
        """
        if self._receiving:
            raise LocalError("another task is receiving from this client")
        self._receiving = True
        try:
            await anyio.lowlevel.checkpoint()
            while not self._inbox:
                if self._session.phase is Phase.ENDED:
                    raise self._session.error()
                await self._arrived.fresh().wait()
        finally:
            self._receiving = False
        item = self._inbox.take()
        self._reading.set()
        return item

    async def written(self) -> None:
        """Wait until the link has taken what is to be sent, or is gone."""
        while self._session.has_outgoing:
            await self._written.fresh().wait()

    async def aclose(self) -> None:
        """End it, with a close frame where there is a link; cancelled, without one."""
        self.leaving = True
        self._session.end(lambda: ConnectionClosed(CloseCode.NORMAL))
        self.pump()
        self._output.set()
        try:
            if self._link_over is not None:
                await self._timing.wait(self._link_over, self.now() + self._options.close_timeout)
        finally:
            self._scope.cancel()

    def pump(self) -> None:
        """Whatever the session has to say goes to where it belongs; to be called after each thing told to it."""
        session = self._session
        self._hand_over(0)
        if session.awaits_reply and self._inbox.holds(OVERFULL):
            session.give_up_waiting()
        if session.has_outgoing:
            self._output.set()
        else:
            self._written.set()
        if session.phase in (Phase.READY, Phase.ENDED):
            self._opened.set()
        if session.phase is Phase.ENDED:
            self._arrived.set()
        if session.deadline < self._alarm:
            self._changed.set()
        self._reading.set()

    def _hand_over(self, size: int) -> None:
        for item in self._session.take_items():
            if isinstance(item, Connected | Disconnected):
                self._log(item)
                if not self._link_events:
                    continue
            self._inbox.put(item, size)
            size = 0
            self._arrived.set()

    def _log(self, item: Connected | Disconnected) -> None:
        url = self._dialer.endpoint.url
        if isinstance(item, Connected):
            logger.info("connected to %s as %s", url, item.user)
            return
        # Who waits for the first welcome sees nothing but this.
        level = logging.INFO if self._opened.is_set() else logging.WARNING
        logger.log(level, "no link to %s (%d %s), trying again in %.1f s", url, item.code, item.reason, item.retry_in)

    # --- from link to link

    async def run(self) -> None:
        """Keep a link until the session ends, or `aclose` is called."""
        with self._scope:
            while await self._due():
                await self._attempt()
            error = self._session.error()
            if not self.leaving:
                logger.warning("gave up %s: %s", self._dialer.endpoint.url, error)

    async def _due(self) -> bool:
        """Wait until an attempt is due; False where there will be none."""
        session = self._session
        while session.phase is Phase.WAITING:
            await self._room_to_read()  # no attempt whose welcome could not be read
            if self.now() >= session.retry_at:
                return True
            await self._sleep()
        return False

    async def _sleep(self) -> bool:
        """Wait for the session's deadline, or an earlier one; returns what `Session.tick` does."""
        changed = self._changed.fresh()
        self._alarm = self._session.deadline
        await self._timing.wait(changed, self._alarm)
        self._alarm = float("-inf")
        given_up = self._session.tick(self.now())
        self.pump()
        return given_up

    async def _attempt(self) -> None:
        try:
            token = await self._fetch_token()
        except Exception as error:  # noqa: BLE001  the application's callback
            self._token_failed(error)
        else:
            target = self._session.begin(self.now(), self._dialer.endpoint.target)
            async with anyio.create_task_group() as group:
                group.start_soon(self._keep_time, group.cancel_scope)
                await self._open_and_use(target, token, group)
                group.cancel_scope.cancel()
        self.pump()

    async def _fetch_token(self) -> str | None:
        token = self._token
        if not callable(token):
            return token  # what it is, and whether it can be sent, `bearer` sees
        value = token()
        return await value if inspect.isawaitable(value) else value

    def _token_failed(self, error: Exception) -> None:
        """Before the first welcome it is raised; later it passes as the network's fault, which it mostly is."""
        reason = f"the token callback raised {type(error).__name__}"  # its text may hold what it likes
        if isinstance(error, RoomwireError) or not self._opened.is_set():
            self._fault = error
            self._session.end(lambda: ConnectionClosed(CloseCode.ABNORMAL, reason))
        else:
            self._session.failed(self.now(), reason)

    async def _keep_time(self, scope: anyio.CancelScope) -> None:
        while self._session.linked:
            if await self._sleep():
                scope.cancel()

    async def _open_and_use(self, target: str, token: str | None, group: TaskGroup) -> None:
        session = self._session
        try:
            link = await self._dialer.open(target, token)
        except HandshakeRejected as refusal:
            session.refused(self.now(), refusal)
        except ProtocolViolation as violation:
            code, reason = violation.code, violation.reason
            session.end(lambda: ConnectionClosed(code, reason))
        except LocalError as error:
            text = str(error)
            session.end(lambda: LocalError(text))
        except (OSError, InvalidHandshake) as error:
            session.failed(self.now(), str(error))
        else:
            self._link_over = anyio.Event()
            group.start_soon(self._write, link)
            try:
                await self._read(link)
            finally:
                self._link_over.set()
                self._link_over = None
                await link.abort()

    # --- one link

    async def _read(self, link: Link) -> None:
        session = self._session
        while True:
            await self._room_to_read()
            received = await link.receive()
            session.heard(self.now())
            closed = self._take(received)
            if closed is not None:
                session.lost(self.now(), closed.code, closed.reason)
            self.pump()
            if closed is not None:
                await self._in_time(lambda: link.send(()))  # the echo
                return
            if not session.linked and not self.leaving:
                await self._in_time(lambda: link.close(*session.farewell))
                return

    def _take(self, received: list[Received]) -> Closed | None:
        for item in received:
            if isinstance(item, str | bytes):
                self._session.receive(self.now(), item)
                self._hand_over(len(item))
            elif isinstance(item, Ping):
                self._output.set()
            elif isinstance(item, Closed):
                return item
        return None

    async def _write(self, link: Link) -> None:
        while True:
            output = self._output.fresh()
            await link.send(self._session.take_outgoing())
            self._written.set()
            if self.leaving:
                await link.close(CloseCode.NORMAL)
                return
            await output.wait()

    async def _in_time(self, call: Callable[[], Awaitable[None]]) -> None:
        """The last words on a link may take `close_timeout`, since the server may read no more."""
        done = anyio.Event()

        async def run() -> None:
            await call()
            done.set()

        async with anyio.create_task_group() as group:
            group.start_soon(run)
            await self._timing.wait(done, self.now() + self._options.close_timeout)
            group.cancel_scope.cancel()

    # --- back-pressure

    async def _room_to_read(self) -> None:
        """Wait while too much waits unread, unless somebody waits for a reply that comes behind it."""
        if self._may_read(1.0):
            return
        self._session.pause(self.now())
        self.pump()
        while True:
            reading = self._reading.fresh()
            if self._may_read(_LOW):
                break
            await reading.wait()
        self._session.unpause(self.now())

    def _may_read(self, bound: float) -> bool:
        if self.leaving or not self._inbox.holds(bound):
            return True
        return self._session.awaits_reply and not self._inbox.holds(OVERFULL)
