"""One connection to one server, from its making to its first fault.

nats-py does the handshake, TLS, the credentials and the parsing. What it does behind the application's back
is not used: a connection that broke is not made again within it, publishes do not wait in it for a better
time, and messages go to their handlers as they are read, without a queue and a task for each subscription.
A reader that cannot keep up therefore slows down the server, which ends the connection, which is noticed.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.protocol import command

from roomwire.backplanes.lateness import first_of
from roomwire.backplanes.nats.options import NatsOptions

__all__ = ["Handler", "NatsClient", "NoTls", "end_tasks"]

Handler = Callable[[str, bytes, "bytes | None"], None]
"""Called with the subject, the body and the header block of a message; it must not block or raise."""

PING_INTERVAL = 10
OUTSTANDING_PINGS = 2
_PATIENCE = 1.0
"""Seconds until a task that was cancelled, and goes on, is cancelled again."""


async def end_tasks(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks in which nats-py is at work, until they have ended.

    Once is not enough: who is cancelled in the turn in which `asyncio.wait_for` has its result, gets the result,
    and the cancellation is lost (up to Python 3.11).
    """
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=_PATIENCE)


class NoTls(NatsError):
    """TLS was demanded."""


class NatsClient(Client):
    """See the module's text.

    Args:
        lost: called once with the fault that ended the connection.
        denied: called with the server's text about something that the permissions do not allow.
    """

    def __init__(self, lost: Callable[[BaseException], None], denied: Callable[[str], None]) -> None:
        super().__init__()
        self._handlers: dict[int, Handler] = {}
        self._tell_lost: Callable[[BaseException], None] | None = lost
        self._denied = denied
        self._wants_tls = False
        self.fault: BaseException | None = None

    async def open(self, url: str, options: NatsOptions, name: str, context: ssl.SSLContext | None) -> None:
        """Connect.

        Raises:
            NatsError, OSError, TimeoutError: it cannot be done.
        """
        self._wants_tls = options.wants_tls
        given: dict[str, Any] = {
            "tls": context,
            "tls_hostname": options.tls_hostname,
            "user": options.user,
            "password": options.password and options.password.get_secret_value(),
            "token": options.token and options.token.get_secret_value(),
            "user_credentials": options.credentials,
            "nkeys_seed": options.nkey_seed and str(options.nkey_seed),
        }
        await self.connect(
            servers=[url],
            name=name,
            error_cb=self._note,
            allow_reconnect=False,
            max_reconnect_attempts=1,
            reconnect_time_wait=0,
            connect_timeout=options.connect_timeout,  # type: ignore[arg-type]  # it may be a fraction
            ping_interval=PING_INTERVAL,
            max_outstanding_pings=OUTSTANDING_PINGS,
            pending_size=0,
            inbox_prefix=options.inbox_prefix,
            **{key: value for key, value in given.items() if value is not None},
        )

    async def _note(self, error: Exception) -> None:
        self.fault = self.fault or error

    # --- what the parser calls

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        if initial_connection and self._wants_tls and not (info.get("tls_required") or info.get("tls_available")):
            # Before anything is sent: the credentials would be read on the way.
            raise NoTls("the server offers no TLS")
        if self._wants_tls:
            info["tls_required"] = True
        await super()._process_info(info, initial_connection)

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: Any) -> None:
        handler = self._handlers.get(sid)
        if handler is not None:
            handler(subject.decode(), data, headers)

    async def _process_pong(self) -> None:
        # Who asked may have given up: nats-py would end its reader with that, and tell nobody.
        if self._pongs and self._pongs[0].done():
            self._pongs.pop(0)
            self._pings_outstanding = 0
        else:
            await super()._process_pong()

    async def _process_err(self, err_msg: str) -> None:
        if "permissions violation" in err_msg.lower():
            self._denied(err_msg.strip("'"))
        else:
            await self._process_op_err(NatsError(err_msg.strip("'")))

    async def _process_op_err(self, e: Exception) -> None:
        lost, self._tell_lost = self._tell_lost, None
        if lost is not None:
            lost(e)

    # --- what is sent: nothing waits for it

    def send(self, line: bytes) -> None:
        """Queue a command for the next write."""
        self._pending.append(line)
        self._pending_data_size += len(line)
        queue = self._flush_queue
        if queue is not None and queue.empty():
            queue.put_nowait(asyncio.get_running_loop().create_future())

    def listen(self, subject: str, handler: Handler) -> int:
        """Subscribe; returns the number of the subscription."""
        self._sid += 1
        self._handlers[self._sid] = handler
        self.send(command.sub_cmd(subject, "", self._sid))
        return self._sid

    def unlisten(self, number: int) -> None:
        """End a subscription: its handler is not called any more."""
        if self._handlers.pop(number, None) is not None:
            self.send(command.unsub_cmd(number, 0))

    def tell(self, subject: str, data: bytes, reply: str = "", headers: bytes | None = None) -> None:
        """Publish."""
        if headers is None:
            self.send(command.pub_cmd(subject, reply, data))
        else:
            self.send(command.hpub_cmd(subject, reply, headers, data))

    @property
    def info(self) -> dict[str, Any]:
        """What the server said of itself."""
        return self._server_info

    async def round_trip(self, timeout: float) -> None:
        """Have the server answer to all that was sent.

        Raises:
            NatsError, OSError, TimeoutError: it does not.
        """
        loop = asyncio.get_running_loop()
        answered = loop.create_future()
        due = loop.time() + timeout
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(due):
                    await self._send_ping(answered)
            if not await first_of([answered], due):
                raise TimeoutError("the server does not answer")
            answered.result()
        finally:
            answered.cancel()  # nobody waits for it any more

    def release(self) -> None:
        """End it, in whatever state it is: nothing is waited for that a dead peer could hold up."""
        self._tell_lost = None
        self._status = Client.CLOSED
        for task in self._tasks():
            task.cancel()
        writer = getattr(self._transport, "_io_writer", None)
        if writer is not None:
            writer.transport.abort()
        for waiting in self._pongs:
            waiting.cancel()
        self._handlers.clear()

    async def dispose(self) -> None:
        """Release it, and wait until nothing of it is left."""
        self.release()
        await end_tasks(self._tasks())
        writer = getattr(self._transport, "_io_writer", None)
        if writer is not None:
            # In a task: a TLS handshake that failed leaves a cancelled future behind, which must not cancel us.
            closed = asyncio.create_task(writer.wait_closed())
            await asyncio.wait([closed], timeout=0.1)
            closed.cancel()
            await asyncio.gather(closed, return_exceptions=True)

    def _tasks(self) -> list[asyncio.Task[Any]]:
        return [task for task in (self._reading_task, self._ping_interval_task, self._flusher_task) if task]
