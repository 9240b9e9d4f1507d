"""Carrier: one socket's way through the handshake, the WebSocket, and its end. Shared by both shells.

    HEAD -> DECIDING -> OPEN -> CLOSING -> CLOSED
       \\________________________/____________^

A shell gives it bytes and the end of the link, and has three things to offer: taking over what the
kernel did not (`_hand_over`), pausing and resuming reads, and ending the link.

Writing straight to the descriptor is what makes a fan-out run at the kernel's speed, and has one rule:
never two writers. While the shell holds bytes (`_blocked`) blocks wait in the outbox, which is drained
when the shell says that it holds none. The descriptor lives here alone, is read at every write,
and is -1 from the moment the link ends: the kernel gives the number to the next socket.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from enum import Enum
from typing import TYPE_CHECKING

from roomwire.core.closing import CloseCode, Closing
from roomwire.core.deflate import Deflate, negotiate_deflate
from roomwire.core.errors import HandshakeRefused, Refusal
from roomwire.core.frames import PING, Closed, Received, Role
from roomwire.core.handshake import MAX_TRAILING, accept_response, check_upgrade, choose_subprotocol
from roomwire.core.http import RequestParser, http_response, refusal_response
from roomwire.core.outbox import Outbox
from roomwire.core.request import RequestHead
from roomwire.core.websocket import WebSocket
from roomwire.transports.anyio.flow import ReadFloor, WriteStall
from roomwire.transports.anyio.forwarded import forwarded_peer
from roomwire.transports.anyio.framing import PLAIN, framing_for
from roomwire.transports.contract import Admission, Framing, Receiver

if TYPE_CHECKING:
    from roomwire.transports.anyio.transport import AnyioTransport

__all__ = ["Carrier", "Phase"]

_SLICE = 16_384
"""Bytes read between two looks at the rates: a flood of tiny frames is noticed within 5 ms."""
_LINGER = 1.0
"""Seconds in which a peer may read our last words before the link is cut."""


class Phase(Enum):
    """Where a socket is; the module's docstring has the table."""

    HEAD = "head"
    DECIDING = "deciding"
    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"


class Carrier:
    """One socket. Subclasses are the shells."""

    __slots__ = (
        "_blocked",
        "_cork",
        "_deadline",
        "_ending",
        "_fd",
        "_floor",
        "_host",
        "_lost",
        "_outbox",
        "_parser",
        "_receiver",
        "_stall",
        "_transport",
        "_ws",
        "address",
        "framing",
        "peer",
        "phase",
        "wheel_slot",
    )

    def __init__(self, transport: AnyioTransport, peer: str, address: str) -> None:
        self._transport = transport
        self._host = transport.host
        self.peer = peer
        self.address = address
        self.phase = Phase.HEAD
        self.framing: Framing = PLAIN
        self.wheel_slot = 0
        self._fd = -1
        self._blocked = False
        self._cork: list[bytes] | None = None
        self._parser: RequestParser | None = RequestParser(peer=peer, secure=transport.secure)
        self._ws: WebSocket | None = None
        self._receiver: Receiver | None = None
        self._lost = False
        self._ending = False
        self._outbox: Outbox[bytes] | None = None
        self._stall: WriteStall | None = None
        self._floor: ReadFloor | None = None
        self._deadline = self._host.runtime.now() + self._host.limits.handshake_timeout
        self._host.wheel.arm(self)

    # --- what a shell offers

    def _hand_over(self, data: bytes) -> None:
        """Take bytes that the kernel did not; sets `_blocked` while any of them is held."""
        raise NotImplementedError

    def _held(self) -> int:
        """Bytes that the shell holds."""
        raise NotImplementedError

    def pause_reading(self) -> None:
        """Read no more for now."""
        raise NotImplementedError

    def resume_reading(self) -> None:
        """Read on."""
        raise NotImplementedError

    def _end_writing(self) -> None:
        """Shut down our half of the link, after the bytes that are held; without half-closes, close it."""
        raise NotImplementedError

    def abort(self) -> None:
        """Cut the link now."""
        raise NotImplementedError

    # --- bytes come in

    def receive(self, data: bytes) -> None:
        """Bytes came."""
        phase = self.phase
        if phase is Phase.OPEN or (phase is Phase.CLOSING and self._ws is not None):
            if len(data) <= _SLICE:
                self._receive_frames(data)
                return
            for start in range(0, len(data), _SLICE):
                if self.phase is not Phase.CLOSED:
                    self._receive_frames(data[start : start + _SLICE])
        elif phase is Phase.HEAD:
            self._receive_head(data)

    def _receive_frames(self, data: bytes) -> None:
        ws, receiver = self._ws, self._receiver
        assert ws is not None
        assert receiver is not None
        before = ws.frames_received
        received = ws.receive(data)
        answer = ws.data_to_send()
        if answer:
            self.write(answer, 0, counted=False)
        messages: list[str | bytes] = [item for item in received if type(item) is str or type(item) is bytes]
        receiver.received(messages, ws.frames_received - before, len(data))
        if ws.mid_message or self._floor is not None:
            self._watch_floor(ws.mid_message, len(data))
        if received and type(received[-1]) is Closed:
            self._closed(received[-1])

    def _watch_floor(self, mid_message: bool, size: int) -> None:
        """A message that trickles in for ever is cut off by its rate."""
        now = self._host.runtime.now()
        if not mid_message:
            self._floor = None
        elif self._floor is None:
            self._floor = ReadFloor(self._host.limits, now, size)
            self._host.wheel.arm(self)
        else:
            self._floor.add(size)

    def receive_eof(self) -> None:
        """The peer sends no more."""
        self.lost(None)

    def lost(self, cause: BaseException | None) -> None:
        """The link has ended."""
        self._fd = -1
        self.phase = Phase.CLOSED
        self._host.wheel.disarm(self)
        self._transport.gone(self)
        if self._ws is not None:
            self._report(self._ws.receive_eof(), cause)
        self._outbox = None
        self._parser = None

    def _report(self, received: Sequence[Received], cause: BaseException | None = None) -> None:
        for item in received:
            if type(item) is Closed and self._receiver is not None and not self._lost:
                self._lost = True
                self._receiver.lost(item.code, item.reason, by_peer=item.by_peer, cause=cause)

    # --- the handshake

    def _receive_head(self, data: bytes) -> None:
        assert self._parser is not None
        head = None
        try:
            head = self._parser.receive(data)
            if head is not None:
                self._decide(head, self._parser.trailing)
        except HandshakeRefused as refused:
            self._refuse(head, refused.refusal)

    def _decide(self, head: RequestHead, trailing: bytes) -> None:
        host = self._host
        self._parser = None
        options = self._transport.options
        if options.proxy_headers and self._transport.trusts(self.address):
            peer, secure = forwarded_peer(head, options.forwarded_allow_ips)
            head = replace(head, peer=peer or head.peer, secure=secure or head.secure)
            self.peer = head.peer
        if not host.path_is_socket(head.path):
            self._answer(head)
            return
        upgrade = check_upgrade(head)
        subprotocol = choose_subprotocol(upgrade.subprotocols, host.subprotocols)
        if len(trailing) > MAX_TRAILING:
            raise HandshakeRefused(Refusal(400, "bad_request", "messages before the handshake was answered"))
        refusal = host.at_the_door()
        if refusal is not None:
            raise HandshakeRefused(refusal)
        deflate = negotiate_deflate(upgrade.extensions) if options.compression else None
        self.phase = Phase.DECIDING
        self.pause_reading()
        host.runtime.spawn(self._admit, head, upgrade.key, subprotocol, deflate, trailing)

    async def _admit(
        self, head: RequestHead, key: bytes, subprotocol: str | None, deflate: Deflate | None, trailing: bytes
    ) -> None:
        try:
            admission = await self._host.admit(head, subprotocol)
        except HandshakeRefused as refused:
            if self.phase is Phase.DECIDING:
                self._refuse(head, refused.refusal)
            return
        if self.phase is not Phase.DECIDING:
            self._host.abandon(admission)
            return
        self._open(admission, accept_response(key, subprotocol, deflate), deflate)
        if trailing:
            self.receive(trailing)

    def _open(self, admission: Admission, response: bytes, deflate: Deflate | None) -> None:
        """Answer with 101, the welcome and the replays, written together."""
        limits = self._host.limits
        self._transport.door.leave(self)
        self._ws = WebSocket(
            Role.SERVER, max_message_size=limits.max_message_size, max_fragments=limits.max_fragments, deflate=deflate
        )
        self.framing = framing_for(deflate)
        self._receiver = admission.receiver
        self.phase = Phase.OPEN
        self._deadline = math.inf
        self._cork = [response]
        try:
            admission.receiver.opened(self)
        finally:
            blocks, self._cork = self._cork, None
            self.write(b"".join(blocks), 0, counted=False)
        self._host.wheel.arm(self)
        self.resume_reading()

    def _answer(self, head: RequestHead) -> None:
        """A plain HTTP request."""
        response = self._host.respond(head) if head.method in ("GET", "HEAD") else None
        if response is None:
            raise HandshakeRefused(Refusal(404, "not_found", "nothing is here"))
        data = http_response(
            response.status, response.body, response.content_type, response.headers, head_only=head.method == "HEAD"
        )
        self._last_words(data)

    def _refuse(self, head: RequestHead | None, refusal: Refusal) -> None:
        self._host.refused(head, refusal, self.peer)
        self._last_words(refusal_response(refusal))

    def turn_away(self, refusal: Refusal) -> None:
        """Refuse without reading a byte."""
        self._refuse(None, refusal)

    def _last_words(self, data: bytes) -> None:
        self._transport.door.leave(self)
        self._parser = None
        self.phase = Phase.CLOSING
        self.write(data, 0, counted=False)
        self._finish()

    def _finish(self) -> None:
        """All is said: a cut now could take our last words with it, so the peer closes first, within a time."""
        self.phase = Phase.CLOSED
        self._ending = True
        if not self._blocked:
            self._end_writing()
        self.resume_reading()
        self._set_deadline(_LINGER)

    # --- bytes go out

    def write(self, block: bytes, messages: int, *, counted: bool = True) -> None:
        """See `roomwire.transports.contract.Link`."""
        if self._blocked:
            self._queue(block, messages, counted=counted)
            return
        if self._cork is not None:
            self._cork.append(block)
            return
        fd = self._fd
        if fd < 0:
            if self.phase is not Phase.CLOSED:
                self._hand_over(block)
            return
        try:
            sent = os.write(fd, block)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._write_failed(error)
            return
        if sent != len(block):
            self._hand_over(block[sent:])

    def _write_failed(self, error: OSError) -> None:
        """The peer is gone; the fan-out goes on."""
        self.abort()
        if self._ws is not None:
            self._report(self._ws.receive_eof(), error)

    def _queue(self, block: bytes, messages: int, *, counted: bool) -> None:
        limits = self._host.limits
        if self._outbox is None:
            self._outbox = Outbox(limits.outbox_bytes, limits.outbox_messages)
        queued = self._outbox.push(block, len(block), messages, held=self._held(), counted=counted)
        if not queued and self._receiver is not None:
            self._receiver.overflowed()

    def _now_blocked(self) -> None:
        """The shell holds bytes."""
        self._blocked = True
        self._stall = WriteStall(self._host.limits, self._host.runtime.now(), self._held())
        self._host.wheel.arm(self)

    def _now_writable(self) -> None:
        """The shell holds none any more: what waited goes out."""
        self._blocked = False
        self._stall = None
        while self._outbox and not self._blocked:
            self.write(self._outbox.pop(), 0)
        if not self._blocked:
            self._outbox = None
            if self._ending:
                self._end_writing()

    def ping(self) -> None:
        """See `roomwire.transports.contract.Link`."""
        self.write(PING, 0)

    # --- the end

    def fail(self) -> None:
        """A fault of ours: close with 1011, where that can still be said."""
        if self.phase is Phase.OPEN and self._receiver is not None:
            self._receiver.failed()
        else:
            self.abort()

    def enter(self) -> None:
        """Its turn at the door has come: read the request."""
        self.resume_reading()

    def close(self, closing: Closing) -> None:
        """See `roomwire.transports.contract.Link`."""
        if self.phase is not Phase.OPEN or self._ws is None:
            return
        self.phase = Phase.CLOSING
        if closing.code == CloseCode.TOO_SLOW and self._outbox is not None:
            self._outbox.clear()
        frame = self._ws.close(closing.code, closing.reason)
        if frame:
            self.write(frame, 0, counted=False)
        self._stall = self._floor = None
        self._set_deadline(self._host.limits.close_timeout)
        self.resume_reading()

    def _closed(self, closed: Closed) -> None:
        """The closing handshake is done, or the peer broke the protocol and was told so."""
        self._report([closed])
        if self.phase is not Phase.CLOSED:
            self._finish()

    # --- time

    def _set_deadline(self, seconds: float) -> None:
        self._deadline = self._host.runtime.now() + seconds
        self._host.wheel.arm(self)

    def next_deadline(self) -> float:
        """See `roomwire.core.wheel.Timed`."""
        if self.phase is not Phase.OPEN or self._receiver is None:
            return self._deadline
        deadline = self._receiver.next_deadline()
        if self._stall is not None:
            deadline = min(deadline, self._stall.deadline)
        if self._floor is not None:
            deadline = min(deadline, self._floor.deadline)
        return deadline

    def expire(self, now: float) -> None:
        """See `roomwire.core.wheel.Timed`."""
        if self.phase is not Phase.OPEN or self._receiver is None:
            self._expire_unopened(now)
            return
        if self._stall is not None and self._stall.is_stuck(now, self._held()):
            self._receiver.overflowed()
        elif self._floor is not None and self._floor.is_too_slow(now):
            self._receiver.starved()
        else:
            self._receiver.poll(now)

    def _expire_unopened(self, now: float) -> None:
        if now < self._deadline:
            return
        self._deadline = math.inf
        if self.phase is Phase.HEAD:
            self._refuse(None, Refusal(408, "bad_request", "the request took too long"))
        else:
            self.abort()
