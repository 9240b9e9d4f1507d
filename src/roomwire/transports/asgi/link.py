"""AsgiLink: one WebSocket of a host's, or one response that goes on, from its acceptance to its end.

    OPEN      messages both ways
    CLOSING   our close is queued, or was sent; what still comes is dropped      the host said disconnect: ENDED
    ENDED     nothing

Two tasks meet in it. The host's own task reads (`run`); what goes out waits in a bounded outbox, until a task
of the node's writes it (`roomwire.transports.asgi.scribe`). A `send` of the host's may wait for the peer, as
long as ``limits.write_timeout``; it is never cancelled to be continued.

An ASGI application cannot cut a connection. `abort` ends the host's task, and hosts then do it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from enum import Enum
from typing import Any

import anyio

from roomwire.core.closing import CloseCode, Closing
from roomwire.core.outbox import Outbox
from roomwire.transports.asgi.messages import (
    BLOCK_FRAMING,
    BODY_FRAMING,
    Block,
    Event,
    Receive,
    Send,
    body_event,
    close_event,
    size_of,
)
from roomwire.transports.asgi.scribe import Scribe
from roomwire.transports.contract import Framing, Host, Receiver

__all__ = ["AsgiLink", "AsgiStream"]

logger = logging.getLogger("roomwire")

_NO_STATUS = 1005
_LAST_WORDS = 1.0
"""Seconds in which a close is sent where the host has cancelled us."""


class _Phase(Enum):
    OPEN = "open"
    CLOSING = "closing"
    ENDED = "ended"


_OPEN = _Phase.OPEN


class AsgiLink:
    """See `roomwire.transports.contract.Link`.

    Args:
        host: the node.
        receiver: its connection.
        peer: where the client is.
        receive, send: the host's.
        scribe: what has it written.
        cancelled: called where the host cancels an open link: it is to be closed.
    """

    __slots__ = (
        "_cancel_writing",
        "_cancelled",
        "_cause",
        "_closing",
        "_deadline",
        "_in_flight",
        "_on_empty",
        "_outbox",
        "_phase",
        "_receive",
        "_receiver",
        "_resumed",
        "_scope",
        "_scribe",
        "_send",
        "_unread",
        "_write_deadline",
        "_writing",
        "_written",
        "framing",
        "host",
        "peer",
        "sent",
        "wheel_slot",
    )

    def __init__(
        self,
        host: Host,
        receiver: Receiver,
        peer: str,
        receive: Receive,
        send: Send,
        scribe: Scribe,
        cancelled: Callable[[Receiver], object],
    ) -> None:
        self.host = host
        self.peer = peer
        self.framing: Framing = BLOCK_FRAMING
        self.sent = 0
        self.wheel_slot = 0
        self._receiver = receiver
        self._receive = receive
        self._send = send
        self._scribe = scribe
        self._cancelled = cancelled
        self._phase = _OPEN
        self._outbox: Outbox[Block] = Outbox(host.limits.outbox_bytes, host.limits.outbox_messages)
        self._in_flight = 0
        self._unread = 0  # of what is in flight, what does not count as slowness
        self._writing = False
        self._written: anyio.Event | None = None  # set when nothing is written any more, where that is waited for
        self._cancel_writing: Callable[[], object] | None = None
        self._closing: Closing | None = None
        self._cause: Exception | None = None
        self._deadline = math.inf
        self._write_deadline = math.inf
        self._on_empty: Callable[[], object] | None = None
        self._resumed: anyio.Event | None = None
        self._scope = anyio.CancelScope()

    async def run(self) -> None:
        """Serve it in the host's task, until it has ended; it was accepted just now."""
        code, reason, by_peer = CloseCode.ABNORMAL.value, "", False
        try:
            with self._scope:
                self._open()
                code, reason, by_peer = await self._read()
        except Exception as error:  # noqa: BLE001  the boundary of a connection
            self._cause = error
        except anyio.get_cancelled_exc_class():
            await self._say_last_words()
            raise
        finally:
            self._phase = _Phase.ENDED
            self._outbox.clear()
            self.host.wheel.disarm(self)
            if self._cancel_writing is not None:
                self._cancel_writing()
            if self._closing is not None:
                code, reason, by_peer = self._closing.code, self._closing.reason, False
            self._receiver.lost(code, reason, by_peer=by_peer, cause=self._cause)

    def _open(self) -> None:
        try:
            self._receiver.opened(self)
        except Exception as error:  # noqa: BLE001  the boundary of a connection
            self._failed(error)
        self.host.wheel.arm(self)

    def _failed(self, error: Exception) -> None:
        fields = {"event": "error", "peer": self.peer}
        logger.error("a connection failed", exc_info=error, extra={"roomwire": fields})
        self._receiver.failed()

    async def _say_last_words(self) -> None:
        """The host has cancelled us, as it does with all at its end, and some without a word to the peer."""
        with anyio.move_on_after(_LAST_WORDS, shield=True):
            if self._phase is _OPEN:
                self._cancelled(self._receiver)
            if self._writing:
                self._written = anyio.Event()
                await self._written.wait()

    # --- bytes come in

    async def _read(self) -> tuple[int, str, bool]:
        """Until the host says that it is over; the close code, the reason, and whether the peer closed."""
        while True:
            if self._resumed is not None:
                await self._resumed.wait()
            event = await self._receive()
            if event["type"] == "websocket.disconnect":
                code = event.get("code") or _NO_STATUS
                return code, event.get("reason") or "", code != CloseCode.ABNORMAL
            if event["type"] == "websocket.receive" and self._phase is _OPEN:
                text = event.get("text")
                try:
                    self._received(text if text is not None else event.get("bytes") or b"")
                except Exception as error:  # noqa: BLE001  the boundary of a connection
                    self._failed(error)

    def _received(self, message: str | bytes) -> None:
        size = size_of(message)
        if size > self.host.limits.max_message_size:
            # As after a protocol error on a raw socket, nothing is said before it.
            self.close(Closing.of(CloseCode.TOO_BIG))
            return
        self._receiver.received((message,), 1, size)

    def pause_reading(self) -> None:
        """See `roomwire.transports.contract.Link`."""
        if self._resumed is None:
            self._resumed = anyio.Event()

    def resume_reading(self) -> None:
        """See `roomwire.transports.contract.Link`."""
        if self._resumed is not None:
            self._resumed.set()
            self._resumed = None

    # --- bytes go out

    def write(self, block: Block, messages: int, *, counted: bool = True) -> None:
        """See `roomwire.transports.contract.Link`."""
        if self._phase is not _OPEN:
            return
        outbox, limits = self._outbox, self.host.limits
        held = self._in_flight - self._unread
        too_many = not counted and outbox.uncounted and outbox.uncounted + block.size > limits.max_unread
        if too_many or not outbox.push(block, block.size, messages, held=held, counted=counted):
            self._receiver.overflowed()
            return
        self.sent += messages
        self._start_writing()

    def _start_writing(self) -> None:
        if not self._writing:
            self._writing = True
            self._scribe.ask(self)

    async def write_out(self, cancel: Callable[[], object]) -> None:
        """Send what waits, and then the close, if there is one; in a task that `cancel` ends."""
        self._cancel_writing = cancel
        try:
            while self._outbox:
                before = self._outbox.uncounted
                block = self._outbox.pop()
                self._in_flight, self._unread = block.size, before - self._outbox.uncounted
                for event in block.events:
                    await self._put(event)
                self._in_flight = self._unread = 0
                if not self._outbox and self._on_empty is not None:
                    callback, self._on_empty = self._on_empty, None
                    callback()
            if self._phase is _Phase.CLOSING and self._closing is not None:
                await self._put_end(self._closing)
        except Exception as error:  # noqa: BLE001  hosts differ in what they raise where the peer is gone
            # ASGI 2.4: an OSError. Anything else says something of the host, and is worth a look.
            self._cause = None if isinstance(error, OSError) else error
            self._scope.cancel()
        except anyio.get_cancelled_exc_class():
            self._scope.cancel()  # part of what was taken may be lost: the client comes back for it
            raise
        finally:
            self._writing = False
            self._cancel_writing = None
            self._in_flight = self._unread = 0
            self._write_deadline = math.inf
            if self._written is not None:
                self._written.set()

    async def _put_end(self, closing: Closing) -> None:
        await self._put(close_event(closing.code, closing.reason))

    async def _put(self, event: Event) -> None:
        # The wheel is told where the host suspends, and only there: `suspended`. Later deadlines it finds itself.
        self._write_deadline = self.host.runtime.now() + self.host.limits.write_timeout
        await self._send(event)

    def suspended(self) -> None:
        """The host does not take at once what is sent: the wheel is to look at how long it takes."""
        if self._write_deadline == math.inf:
            self._write_deadline = self.host.runtime.now() + self.host.limits.write_timeout
        self.host.wheel.arm(self)

    def queued(self) -> int:
        """See `roomwire.transports.contract.Link`."""
        return self._in_flight + self._outbox.bytes + self._outbox.uncounted

    def uncounted(self) -> int:
        """See `roomwire.transports.contract.Link`."""
        return self._unread + self._outbox.uncounted

    def when_empty(self, callback: Callable[[], object]) -> None:
        """See `roomwire.transports.contract.Link`."""
        if self._writing:
            self._on_empty = callback
        else:
            callback()

    def ping(self) -> None:
        """Pings are the host's; the protocol's own heartbeat is what keeps a client alive here."""

    # --- the end

    def close(self, closing: Closing) -> None:
        """See `roomwire.transports.contract.Link`."""
        if self._phase is not _OPEN:
            return
        self._phase = _Phase.CLOSING
        self._closing = closing
        if closing.code == CloseCode.TOO_SLOW:
            self._outbox.clear()
        self._deadline = self.host.runtime.now() + self.host.limits.close_timeout
        self.host.wheel.arm(self)
        self.resume_reading()
        self._start_writing()

    def abort(self) -> None:
        """End it now."""
        self._scope.cancel()

    # --- time

    def next_deadline(self) -> float:
        """See `roomwire.core.wheel.Timed`."""
        if self._phase is not _OPEN:
            return self._deadline
        return min(self._receiver.next_deadline(), self._write_deadline)

    def expire(self, now: float) -> None:
        """See `roomwire.core.wheel.Timed`."""
        try:
            if self._phase is not _OPEN:
                if now >= self._deadline:
                    self.abort()
            elif now >= self._write_deadline:
                self._receiver.overflowed()
            else:
                self._receiver.poll(now)
        except Exception:  # noqa: BLE001  the boundary of a connection
            self._receiver.failed()


class AsgiStream(AsgiLink):
    """A response that goes on. Its end is its last piece: no host has more to say of it then."""

    __slots__ = ()

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.framing = BODY_FRAMING

    async def _read(self) -> tuple[int, str, bool]:
        while True:
            event = await self._receive()
            if event["type"] == "http.disconnect":
                return _NO_STATUS, "", True
            size = len(event.get("body") or b"")
            if size and self._phase is _OPEN:
                self._receiver.received((), 0, size)

    async def _put_end(self, closing: Closing) -> None:
        await self._put(body_event(b"", more=False))
        self._scope.cancel()
