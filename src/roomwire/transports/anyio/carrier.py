"""Carrier: one socket's way through the handshake, the WebSocket, and its end. Shared by both shells.
Its phases, and what leads from one to the next, are in `roomwire.transports.anyio.phases`.

A shell gives it bytes and the end of the link (`receive`, `lost`, `_now_blocked`, `_now_writable`), and offers
what stands under "what a shell offers" in `roomwire.transports.anyio.inlet` and `outlet`. These calls,
and those of the timer wheel, are the boundary of a connection: a fault in one closes this connection alone.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from roomwire.core.closing import CloseCode, Closing
from roomwire.core.deflate import Deflate
from roomwire.core.errors import Refusal
from roomwire.core.frames import PING, Closed, Received, Role
from roomwire.core.http import refusal_response
from roomwire.core.request import RequestHead
from roomwire.core.websocket import WebSocket
from roomwire.transports.anyio.framing import PLAIN, UnframedFraming, framing_for
from roomwire.transports.anyio.gathering import SMALL
from roomwire.transports.anyio.inlet import SLICE, Inlet
from roomwire.transports.anyio.opening import Opening
from roomwire.transports.anyio.outlet import ENDED
from roomwire.transports.anyio.peers import Peer
from roomwire.transports.anyio.phases import Phase
from roomwire.transports.anyio.refusals import FAILED, FULL, TOO_LATE, TOO_LONG
from roomwire.transports.contract import Admission, Framing, Receiver

if TYPE_CHECKING:
    from roomwire.transports.anyio.serving import Serving
    from roomwire.transports.anyio.transport import AnyioTransport

__all__ = ["LINGER", "Carrier", "Phase"]

_NO_STATUS = 1005
LINGER = 1.0
"""Seconds in which a peer may read our last words before the link is cut."""

# For what is asked at every write; see `roomwire.core.frames`.
_OPEN = Phase.OPEN
_REQUESTS = (Phase.HEAD, Phase.SERVING)


class Carrier(Inlet):
    """One socket. Subclasses are the shells.

    Args:
        transport: whose socket it is.
        peer: the other end.
        fd: the socket's descriptor, or `roomwire.transports.anyio.outlet.THROUGH_SHELL`.
    """

    __slots__ = (
        "_cause",
        "_deadline",
        "_lost",
        "_opening",
        "_peer_is_done",
        "_transport",
        "address",
        "framing",
        "peer",
        "sent",
        "wheel_slot",
    )

    def __init__(self, transport: AnyioTransport, peer: Peer, fd: int) -> None:
        super().__init__(transport.host, fd)
        self._transport = transport
        self.peer = peer.name
        self.address = transport.counted_address(peer)
        self.sent = 0
        self.framing: Framing = PLAIN
        self.wheel_slot = 0
        self._opening: Opening | Serving | None = Opening(transport, self, peer.host)
        self._lost = False
        self._cause: BaseException | None = None
        self._peer_is_done = False
        self._set_deadline(self._host.limits.handshake_timeout)

    # --- bytes come in

    def receive(self, data: bytes) -> None:
        """Bytes came."""
        try:
            if self._ws is None:
                if self._opening is not None and self.phase in _REQUESTS:
                    self._opening.receive(data)
                elif self.phase is _OPEN and self._receiver is not None:
                    self._receiver.received((), 0, len(data))
            elif len(data) <= SLICE:
                self._receive_frames(data)
            else:
                for start in range(0, len(data), SLICE):
                    self._receive_frames(data[start : start + SLICE])
        except Exception as error:  # noqa: BLE001  the boundary of a connection
            self._transport.failed(self, error)

    def _answer_close(self, closed: Closed, answer: bytes, *, peer_is_done: bool) -> None:
        """The WebSocket has ended; `answer` has our close frame, where it is not out already."""
        if self._fd != ENDED:
            self.phase = Phase.ENDING
        self._peer_is_done = peer_is_done
        if answer:
            self._put(answer)
        self._report([closed])
        self._finish()

    def lost(self, cause: BaseException | None) -> None:
        """The link has ended: nothing goes out from now on; it is told in its turn."""
        self._fd = ENDED
        self.phase = Phase.CLOSED
        self._outbox = None
        self._cause = self._cause or cause
        self._host.wheel.disarm(self)
        if self._transport.departures.passes(self):
            self.depart()

    def depart(self) -> None:
        """Tell whoever has to do with it that the link has ended."""
        opening, self._opening = self._opening, None
        self._transport.gone(self)
        cause = self._cause
        try:
            if opening is not None:
                opening.lost()
            if self._ws is not None:
                self._report(self._ws.receive_eof(), cause)
            elif self._receiver is not None:
                # A stream has no close of the peer's but the end of the link.
                code = CloseCode.ABNORMAL if cause else _NO_STATUS
                self._report([Closed(code, "", by_peer=cause is None)], cause)
        except Exception as error:  # noqa: BLE001  the boundary of a connection
            self._transport.failed(self, error)

    def _report(self, received: Sequence[Received], cause: BaseException | None = None) -> None:
        for item in received:
            if type(item) is Closed and self._receiver is not None and not self._lost:
                self._lost = True
                self._receiver.lost(item.code, item.reason, by_peer=item.by_peer, cause=cause)

    # --- the handshake

    def enter(self) -> None:
        """The turn of its request at the door has come."""
        try:
            if self.phase is Phase.HEAD and isinstance(self._opening, Opening):
                self._opening.enter()
        except Exception as error:  # noqa: BLE001  the boundary of a connection
            self._transport.failed(self, error)

    def turn_away(self) -> None:
        """There is no place at the door: refuse without reading a byte."""
        self.refuse(None, FULL)

    def wait_for_decision(self) -> None:
        """The request is whole and goes to the node; until its decision nothing is read."""
        self.phase = Phase.DECIDING
        self._pause()

    @property
    def is_undecided(self) -> bool:
        """Whether the node's decision still matters."""
        return self.phase is Phase.DECIDING

    def open(self, admission: Admission, response: bytes, deflate: Deflate | None) -> None:
        """Answer with `response`, the 101, and with the welcome and the replays, written together."""
        limits = self._host.limits
        self._ws = WebSocket(
            Role.SERVER, max_message_size=limits.max_message_size, max_fragments=limits.max_fragments, deflate=deflate
        )
        self._begin(admission, response, framing_for(deflate))

    def open_stream(self, admission: Admission, response: bytes, framing: UnframedFraming) -> None:
        """Answer with `response`, the head of a 200 that goes on, and with the welcome and the replay, as one."""
        self._begin(admission, response, framing)

    def _begin(self, admission: Admission, response: bytes, framing: Framing) -> None:
        self._transport.door.leave(self)
        self._opening = None
        self.framing = framing
        self._receiver = admission.receiver
        self.phase = Phase.OPEN
        self._deadline = math.inf
        self._cork = [response]
        try:
            admission.receiver.opened(self)
        finally:
            self._uncork()
        if self.phase is Phase.ENDING:
            self._finish()
        self._arm()
        self.resume_reading()

    def refuse(self, head: RequestHead | None, refusal: Refusal) -> None:
        """Answer with a refusal; `head` is the request's, where it was understood."""
        response = refusal_response(refusal, head_only=head is not None and head.method == "HEAD")
        self._host.refused(head, refusal, self.peer)
        self.answer(response, peer_is_done=head is not None and head.method in ("GET", "HEAD"))

    def answer(self, data: bytes, *, peer_is_done: bool = True) -> None:
        """The whole HTTP response; `peer_is_done` where no more of the request can come."""
        self._transport.door.leave(self)
        self._put(data)
        self.conclude(peer_is_done=peer_is_done)

    def conclude(self, *, peer_is_done: bool = True) -> None:
        """The HTTP response is with the kernel, or on its way, and the connection ends with it."""
        self._opening = None
        self._peer_is_done = peer_is_done
        if self._fd != ENDED:
            self.phase = Phase.ENDING
        self._finish()

    # --- bytes go out

    def write(self, block: bytes, messages: int, *, counted: bool = True) -> None:
        """See `roomwire.transports.contract.Link`."""
        if self.phase is not _OPEN:
            return
        self.sent += messages
        fd = self._fd
        if self._blocked or fd < 0 or self._cork is not None:
            self._put(block, messages, counted=counted)
            return
        try:  # as `_put`, without the call: nothing is done more often
            sent = os.write(fd, block)
        except OSError as error:
            self._not_taken(error, block, counted=counted)
            return
        if sent != len(block):
            self._counted = counted
            self._hand_over(block[sent:])

    def write_soon(self, block: bytes, messages: int) -> None:
        """See `roomwire.transports.contract.GatheringLink`."""
        if self.phase is _OPEN and self._fd >= 0 and self._cork is None and not self._blocked and len(block) <= SMALL:
            self.sent += messages
            self._cork = block
            self._transport.gatherer.add(self)
        else:
            self.write(block, messages)

    def spread(self, links: Sequence[Carrier], block: bytes, messages: int, *, counted: bool = True) -> None:
        """See `roomwire.transports.contract.SpreadingLink`."""
        self._transport.gatherer.release()  # a reply does not wait for a fan-out, and nobody is left out of the ring
        self._transport.spreader.write(links, block, messages, counted=counted)

    def ping(self) -> None:
        """See `roomwire.transports.contract.Link`."""
        if self._ws is not None:
            self.write(PING, 0)

    def _overflowed(self) -> None:
        if self._receiver is not None:
            self._receiver.overflowed()

    def _broke(self, error: OSError) -> None:
        """The fan-out goes on; the receiver hears of it when the link is lost, not in the middle of its write."""
        self._cause = error
        self.abort()

    def _now_writable(self) -> None:
        try:
            super()._now_writable()
        except Exception as error:  # noqa: BLE001  the boundary of a connection
            self._transport.failed(self, error)

    # --- the end

    def close(self, closing: Closing) -> None:
        """See `roomwire.transports.contract.Link`."""
        if self.phase is not Phase.OPEN:
            return
        self.phase = Phase.CLOSING
        if closing.code == CloseCode.TOO_SLOW and self._outbox is not None:
            self._outbox.clear()
        if self._ws is None:
            self._end_stream()
            return
        self._frames_at_close = self._ws.frames_received
        frame = self._ws.close(closing.code, closing.reason)
        if frame:
            self._put(frame)
        self._set_deadline(self._host.limits.close_timeout)
        self.resume_reading()

    def _end_stream(self) -> None:
        self.phase = Phase.ENDING
        self._peer_is_done = True  # the request had no body
        assert isinstance(self.framing, UnframedFraming)
        if self.framing.end:
            self._put(self.framing.end)
        if not isinstance(self._cork, list):  # else `_begin` finishes, behind what is collected
            self._finish()

    def _finish(self) -> None:
        """All is said: from here on the peer's part is to read it and to close, within a time."""
        if self.phase is not Phase.ENDING:
            return
        self.release()
        self.resume_reading()
        if self._blocked:
            self._set_deadline(self._host.limits.close_timeout)
        else:
            self._emptied()

    def _emptied(self) -> None:
        if self.phase is not Phase.ENDING:
            return
        self._set_deadline(LINGER)
        if self._fd >= 0:
            try:
                self._shut_down()
            except OSError:
                self.abort()
        elif self._peer_is_done:
            # TLS has no half-close here. A peer that may still send is left to close, or to its deadline.
            self._close_link()

    def fail(self) -> None:
        """A fault of ours: say so, where that can still be said."""
        if self.phase is Phase.OPEN and self._receiver is not None:
            self._receiver.failed()
        elif self.phase in (Phase.HEAD, Phase.DECIDING):
            self.refuse(None, FAILED)
        else:
            self.abort()

    def abort(self) -> None:
        """Cut the link now."""
        self._fd = ENDED
        self.phase = Phase.CLOSED
        self._cut()

    # --- time

    def _set_deadline(self, seconds: float) -> None:
        self._deadline = self._host.runtime.now() + seconds
        self._arm()

    def _arm(self) -> None:
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
        try:
            if self.phase is Phase.OPEN and self._receiver is not None:
                self._expire_open(self._receiver, now)
            elif now >= self._deadline:
                self._expire_unopened()
        except Exception as error:  # noqa: BLE001  the boundary of a connection
            self._transport.failed(self, error)

    def _expire_open(self, receiver: Receiver, now: float) -> None:
        if self._stall is not None and self._stall.is_stuck(now, self._held()):
            receiver.overflowed()
        elif self._floor is not None and self._floor.is_too_slow(now):
            receiver.starved()
        else:
            receiver.poll(now)

    def _expire_unopened(self) -> None:
        self._deadline = math.inf
        if self.phase is Phase.SERVING and self._opening is not None:
            self._opening.expire(self._host.runtime.now())
        elif self.phase is Phase.HEAD:
            was_in_time = isinstance(self._opening, Opening) and self._opening.waits
            self.refuse(None, FULL if was_in_time else TOO_LATE)
        elif self.phase is Phase.DECIDING and self._opening is not None:
            self._opening.give_up()
            self.refuse(None, TOO_LONG)
        else:
            self.abort()
