"""Serving: one request that the fallback's application answers, and the connection until the next one.

The application's side is `roomwire.transports.anyio.calling`. Here is the connection's: when it is read and when not,
its deadlines, what becomes of it when the response is out. It stands in `Opening`'s place while the carrier's phase is
SERVING; the next request is an `Opening` again.
"""

from __future__ import annotations

import contextlib
import math
import socket
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import anyio
import anyio.lowlevel

from roomwire.core.errors import HandshakeRefused, Refusal
from roomwire.core.exchange import Exchange
from roomwire.core.http import RequestParser, refusal_response
from roomwire.core.request import RequestHead
from roomwire.transports.anyio.calling import Call
from roomwire.transports.anyio.flow import ReadFloor
from roomwire.transports.anyio.peers import Peer, group_of
from roomwire.transports.anyio.phases import Phase
from roomwire.transports.anyio.refusals import FULL, TOO_LATE, UNANSWERED
from roomwire.transports.contract import Fallback

if TYPE_CHECKING:
    from roomwire.transports.anyio.carrier import Carrier
    from roomwire.transports.anyio.opening import Opening
    from roomwire.transports.anyio.transport import AnyioTransport

__all__ = ["Serving", "serve"]

_A_TURN = 262_144
"""Bytes of a response after which others have their turn of the loop, however fast they are read."""
_A_SEND = 4096
"""Bytes that a part of a response counts for beyond its own, since each costs a call of the kernel's."""
_RESET = struct.pack("ii", 1, 0)

Again = Callable[["AnyioTransport", "Carrier", str], "Opening"]


def serve(
    transport: AnyioTransport,
    carrier: Carrier,
    fallback: Fallback,
    head: RequestHead,
    origin: tuple[str, str],
    parser: RequestParser,
    again: Again,
) -> None:
    """Have the application answer a request.

    Args:
        transport: the carrier's transport.
        carrier: the socket's carrier.
        fallback: the application.
        head: the request's head.
        origin: the peer's name and address, whatever a proxy says.
        parser: what has read the head.
        again: makes what reads the next request.

    Raises:
        HandshakeRefused: its body is not correct or too large, or there are too many requests.
    """
    exchange = Exchange(head, parser.connection, transport.host.limits.max_request_body)
    exchange.receive(parser.trailing)
    refusal = fallback.begin()
    if refusal is not None:
        raise HandshakeRefused(refusal)
    transport.door.leave(carrier)
    serving = Serving(transport, carrier, fallback, head, origin, exchange, again)
    carrier.phase = Phase.SERVING
    carrier._opening = serving
    serving.steer()
    transport.host.runtime.spawn(Call(serving, fallback).run)


class Serving:
    """The connection of one request; see `serve` for its arguments.

    Attributes:
        head: the request's head.
        origin: the peer's name and address.
        carrier: the socket's carrier.
        exchange: the request's body and the response.
        gone: the peer has left, or was refused: nothing is received or sent any more.
        over: the response is out, and the connection is somebody else's.
        sent: whether anything of the response is out.
    """

    __slots__ = (
        "_again",
        "_ahead",
        "_ended",
        "_fallback",
        "_floor",
        "_flushed",
        "_idle_until",
        "_logged",
        "_returned",
        "_since_turn",
        "_size",
        "_started",
        "_status",
        "_transport",
        "_whole",
        "_woken",
        "carrier",
        "exchange",
        "gone",
        "head",
        "origin",
        "over",
        "sent",
    )

    def __init__(
        self,
        transport: AnyioTransport,
        carrier: Carrier,
        fallback: Fallback,
        head: RequestHead,
        origin: tuple[str, str],
        exchange: Exchange,
        again: Again,
    ) -> None:
        self._transport = transport
        self._fallback = fallback
        self._again = again
        self.carrier = carrier
        self.head = head
        self.origin = origin
        self.exchange = exchange
        self._started = transport.host.runtime.now()
        self._status = self._size = self._since_turn = 0
        self._floor: ReadFloor | None = None
        self._idle_until = math.inf
        self._ahead = b""
        self._woken: anyio.Event | None = None
        self._flushed: anyio.Event | None = None
        self.gone = self.over = self.sent = False
        self._returned = self._ended = self._logged = False
        self._whole = False  # whether the last part of the response is written

    # --- for the carrier

    def receive(self, data: bytes) -> None:
        """Bytes came: of the body, or of the next request."""
        if self.over:
            self._ahead += data
            if self._idle_until != math.inf:
                self._next()
            return
        if self._floor is not None:
            self._floor.add(len(data))
        try:
            self.exchange.receive(data)
        except HandshakeRefused as refused:
            self.refuse(refused.refusal)
            return
        self.steer()
        self._wake()

    def lost(self) -> None:
        """The link has ended."""
        self._transport.kept.pop(self, None)
        self._leave()

    def give_up(self) -> None:
        """Nothing is being decided here."""

    def expire(self, now: float) -> None:
        """The carrier's deadline has passed."""
        stall = self.carrier._stall
        if self.over:
            self.close_kept()
        elif stall is not None and stall.is_stuck(now, self.carrier._held()):
            self.cut()
        elif self._floor is not None and self._floor.is_too_slow(now):
            self.refuse(TOO_LATE)
        else:
            self._arm()

    def _arm(self) -> None:
        stall, floor = self.carrier._stall, self._floor
        deadline = self._idle_until
        if stall is not None:
            deadline = min(deadline, stall.deadline)
        if floor is not None:
            deadline = min(deadline, floor.deadline)
        self.carrier._deadline = deadline
        if deadline != math.inf:
            self.carrier._arm()

    # --- for the application's side: what comes

    def steer(self) -> None:
        """Read on or not, by what there is; a body that is being read has a rate to keep."""
        exchange, carrier = self.exchange, self.carrier
        if exchange.wants_more or (exchange.complete and not exchange.trailing):
            carrier._unpause()
        else:
            carrier._pause()
        if not exchange.wants_more or exchange.awaits_continue:
            self._floor = None
        elif self._floor is None:
            self._floor = ReadFloor(self._transport.host.limits, self._transport.host.runtime.now(), 0)
        self._arm()

    def take(self) -> bytes:
        """The part of the body that is there; where it turns out not to be correct the peer is `gone`."""
        try:
            body = self.exchange.take()
        except HandshakeRefused as refused:
            self.refuse(refused.refusal)
            return b""
        self.steer()
        return body

    def ask(self) -> None:
        """The application wants the body: a client that waits for it is told."""
        proceed = self.exchange.proceed()
        if proceed:
            self.carrier._put(proceed)
            self.steer()

    async def wait(self) -> None:
        """Until bytes came, the response is out, or the peer is gone."""
        if self._woken is None:
            self._woken = anyio.Event()
        await self._woken.wait()

    def _wake(self) -> None:
        woken, self._woken = self._woken, None
        if woken is not None:
            woken.set()

    # --- for the application's side: what goes

    async def write(self, data: bytes, status: int, size: int, *, last: bool) -> None:
        """Send a part of the response, framed, and wait until the kernel has it.

        Args:
            data: what goes out.
            status: the response's.
            size: bytes of it that are of the body.
            last: whether the response is whole with it.
        """
        carrier = self.carrier
        while carrier._blocked and not self.gone:
            await self._until_flushed()
        if self.gone:
            return
        self._status = status
        self._size += size
        self.sent = True
        self._whole = last
        if data:
            carrier._put(data)
        if carrier._blocked:
            self._since_turn = 0
            self._arm()
            await self._until_flushed()
            return
        self._emptied()
        if not last:
            self._since_turn += len(data) + _A_SEND
            if self._since_turn >= _A_TURN:
                self._since_turn = 0
                await anyio.lowlevel.checkpoint()

    async def _until_flushed(self) -> None:
        flushed = self._flushed
        if flushed is None:
            flushed = self._flushed = anyio.Event()
        # Also what is held may be no part of the response: a `100 Continue`.
        self.carrier.when_empty(self._emptied)
        await flushed.wait()

    def _emptied(self) -> None:
        flushed, self._flushed = self._flushed, None
        if flushed is not None:
            flushed.set()
        if self._whole and not (self.over or self.gone):
            self._responded()

    def _responded(self) -> None:
        """The whole response is with the kernel."""
        self._log()
        self.over = True
        self._floor = None
        self._wake()
        if self.carrier.phase is Phase.SERVING:
            if self.exchange.keeps_connection and self._fallback.keeps_connections:
                # The next request is not to see what the application has set for this one.
                self._transport.context.copy().run(self._keep)
            else:
                self.carrier.conclude(peer_is_done=self.exchange.complete)
        self._end()

    # --- the end of the request

    def refuse(self, refusal: Refusal) -> None:
        """What the peer sends is not taken: say so, where nothing was said yet."""
        if self.sent:
            self.cut()
            return
        self._logged = True  # as a refusal
        self._leave()
        self.carrier.refuse(self.head, refusal)

    def fail(self) -> None:
        """The application gives no response, or not a correct one: 500, or none that looks complete."""
        if self.gone or self.over:
            return
        if self.sent:
            self.cut()
            return
        self._status = UNANSWERED.status
        response = refusal_response(UNANSWERED, head_only=self.head.method == "HEAD")
        self._leave()
        self.carrier.answer(response, peer_is_done=self.exchange.complete)

    def cut(self) -> None:
        """Cut the connection in the middle of a response."""
        if self.exchange.started and not self.exchange.bounded:
            # Without a reset the end of the connection would be the end of the response.
            with contextlib.suppress(OSError):
                sock = cast(Any, self.carrier.socket_options())
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._leave()
        self.carrier.abort()

    def returned(self) -> None:
        """The application's call has ended."""
        self._returned = True
        self._end()

    def _leave(self) -> None:
        self.gone = True
        self._floor = None
        if not self.over:
            self._log()
        self._wake()
        self._emptied()
        self._end()

    def _end(self) -> None:
        if self._returned and (self.over or self.gone) and not self._ended:
            self._ended = True
            self._fallback.ended()

    def _log(self) -> None:
        if not self._logged:
            self._logged = True
            seconds = self._transport.host.runtime.now() - self._started
            self._fallback.answered(self.head, self._status, self._size, seconds)

    # --- the next request

    def _keep(self) -> None:
        """Keep the connection for the next request, which may be here already."""
        limits, kept = self._transport.host.limits, self._transport.kept
        self._ahead = self.exchange.trailing
        self._idle_until = self._transport.host.runtime.now() + limits.keep_alive_timeout
        self._next()
        if self._idle_until != math.inf:
            kept[self] = None
            self._arm()
            self.carrier._unpause()
            if len(kept) > limits.max_requests:
                next(iter(kept)).close_kept()

    def close_kept(self) -> None:
        """No next request comes in time, or there is no room to wait for it: HTTP allows to close at any time."""
        self._transport.kept.pop(self, None)
        if self.carrier.phase is Phase.SERVING:
            self.carrier.conclude()

    def _next(self) -> None:
        """Bytes of the next request may be here: it has its place and time at the door, as the first one had."""
        # Some clients end a body by a line end that is none of its (RFC 9112 section 2.2).
        self._ahead = self._ahead.lstrip(b"\r\n")
        if not self._ahead:
            return
        transport, carrier = self._transport, self.carrier
        self._idle_until = math.inf
        transport.kept.pop(self, None)
        name, host = self.origin
        carrier.peer = name
        carrier.address = transport.counted_address(Peer(name, host, group_of(host) if host else ""))
        if not transport.door.has_place(carrier):
            carrier.refuse(None, FULL)
        else:
            self._reopen()

    def _reopen(self) -> None:
        carrier, data = self.carrier, self._ahead
        self._ahead = b""
        carrier.phase = Phase.HEAD
        carrier._opening = self._again(self._transport, carrier, self.origin[1])
        carrier._set_deadline(self._transport.host.limits.handshake_timeout)
        carrier._unpause()
        carrier.receive(data)
