"""Inlet: one socket's way in, once it is a WebSocket.

What a read brought is nearly always whole simple frames, for which there is one call of `WebSocket`. Anything else
is answered for at once, pongs and closes, before the receiver has the messages. While reading is paused nothing
can come too slowly; while a message is incomplete it has a rate to keep.
"""

from __future__ import annotations

from roomwire.core.frames import Closed
from roomwire.core.websocket import WebSocket
from roomwire.transports.anyio.flow import ReadFloor
from roomwire.transports.anyio.outlet import Outlet
from roomwire.transports.anyio.phases import Phase
from roomwire.transports.contract import Host, Receiver

__all__ = ["SLICE", "Inlet"]

SLICE = 4096
"""Bytes read between two looks at the rates. They hold 682 empty frames, which cost about 10 ms in the slow lane."""

# For what is asked at every read; see `roomwire.core.frames`.
_OPEN = Phase.OPEN
_CLOSING = Phase.CLOSING


class Inlet(Outlet):
    """Takes the frames off a socket, and answers what has to be answered.

    Args:
        host: the node.
        fd: see `roomwire.transports.anyio.outlet.Outlet`.

    Attributes:
        phase: where the socket is.
    """

    __slots__ = ("_floor", "_frames_at_close", "_receiver", "_ws", "phase")

    def __init__(self, host: Host, fd: int) -> None:
        super().__init__(host, fd)
        self.phase = Phase.HEAD
        self._ws: WebSocket | None = None
        self._receiver: Receiver | None = None
        self._frames_at_close = 0
        self._floor: ReadFloor | None = None

    # --- what a shell offers

    def _pause(self) -> None:
        """Read no more for now; nothing where that is so."""
        raise NotImplementedError

    def _unpause(self) -> None:
        """Read on; nothing where that is so."""
        raise NotImplementedError

    # --- what a carrier offers

    def abort(self) -> None:
        """Cut the link now."""
        raise NotImplementedError

    def _answer_close(self, closed: Closed, answer: bytes, *, peer_is_done: bool) -> None:
        """The WebSocket has ended; `answer` has our close frame, where it is not out already."""
        raise NotImplementedError

    # --- bytes come in

    def _receive_frames(self, data: bytes) -> None:
        ws, receiver, phase = self._ws, self._receiver, self.phase
        if not (phase is _OPEN or phase is _CLOSING) or ws is None or receiver is None:
            return
        messages = ws.receive_messages(data)
        if messages is not None:
            receiver.received(messages, len(messages), len(data))
            return
        before = ws.frames_received
        received = ws.receive(data)
        closed = received[-1] if received and type(received[-1]) is Closed else None
        if closed is None and (pongs := ws.data_to_send()):
            self._put(pongs, counted=True)
        answered = phase is _CLOSING
        if answered and ws.frames_received - self._frames_at_close > self._host.limits.frame_burst:
            # No rate applies to what comes behind our close: it is dropped, and that costs as well.
            self.abort()
            return
        messages = [item for item in received if type(item) is str or type(item) is bytes]
        try:
            receiver.received(messages, ws.frames_received - before, len(data))
        finally:
            # Behind what the messages before it brought about at once: nothing follows a close frame.
            if type(closed) is Closed:
                self._answer_close(closed, ws.data_to_send(), peer_is_done=closed.by_peer or answered)
        if ws.mid_message or self._floor is not None:
            self._watch_floor(ws.mid_message, len(data))

    def _watch_floor(self, mid_message: bool, size: int) -> None:
        """A message that trickles in for ever is cut off by its rate."""
        if not mid_message:
            self._floor = None
        elif self._floor is None:
            self._floor = ReadFloor(self._host.limits, self._host.runtime.now(), size)
            self._arm()
        else:
            self._floor.add(size)

    def pause_reading(self) -> None:
        """See `roomwire.transports.contract.Link`."""
        self._floor = None  # what is not read cannot come too slowly
        self._pause()
        self._arm()

    def resume_reading(self) -> None:
        """See `roomwire.transports.contract.Link`."""
        if self._ws is not None:
            self._watch_floor(self._ws.mid_message, 0)
        self._unpause()
