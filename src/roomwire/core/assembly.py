"""The slow lane: any frame at all, read by wsproto behind our guards, and fragments joined to messages.

wsproto is fed no further than to the end of one frame. So where each frame ends is known here, its
own buffer is empty in between, and the frames behind a fragmented or a cut one are free to take the
fast lane again.
"""

from __future__ import annotations

from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, TextMessage
from wsproto.events import Ping as WsprotoPing
from wsproto.events import Pong as WsprotoPong
from wsproto.extensions import Extension

from roomwire.core.closing import REASONS
from roomwire.core.deflate import Deflate
from roomwire.core.errors import ProtocolViolation
from roomwire.core.frames import MAX_HEADER, Closed, Ping, Pong, Received, Role, frame_size
from roomwire.core.guards import SizeGuard

__all__ = ["FrameAssembler"]


class FrameAssembler:
    """Reads the frames of one connection, one at a time.

    Args:
        role: the reader's role.
        max_message_size: bytes of one message, after reassembly and inflation.
        max_fragments: frames of one message.
        deflate: what was agreed on in the handshake.
    """

    __slots__ = ("_connection", "_head", "_message", "_missing")

    def __init__(self, role: Role, max_message_size: int, max_fragments: int, deflate: Deflate | None) -> None:
        extensions: list[Extension] = [SizeGuard(max_message_size, max_fragments)]
        if deflate is not None:
            extensions.append(deflate.extension(max_message_size))
        side = ConnectionType.CLIENT if role is Role.CLIENT else ConnectionType.SERVER
        self._connection = Connection(side, extensions)
        self._head = b""
        self._missing = 0
        self._message: bytearray | None = None

    @property
    def between_frames(self) -> bool:
        """Whether every frame that began is complete."""
        return not self._missing and not self._head

    @property
    def idle(self) -> bool:
        """Whether it holds nothing at all: no part of a frame, and no message whose fragments still come."""
        return self._message is None and not self._missing and not self._head

    def feed(self, data: bytes, start: int, received: list[Received]) -> int:
        """Read on in the current frame, to its end at most.

        Args:
            data: bytes from the network.
            start: the offset of the first byte that was not yet read.
            received: where a whole message or a control frame goes. A `Closed` is the peer's close
                frame; nothing may be fed after it.

        Returns:
            The offset of the first byte that was not read.

        Raises:
            ProtocolViolation: the peer broke the protocol or a limit; nothing may be fed after it.
        """
        stop = self._stop(data, start)
        self._connection.receive_data(data[start:stop])
        for event in self._connection.events():
            self._receive(event, received)
        return stop

    def _stop(self, data: bytes, start: int) -> int:
        if not self._missing:
            head = self._head + data[start : start + MAX_HEADER - len(self._head)]
            size = frame_size(head)
            if not size:
                self._head = head
                return len(data)
            self._missing = size - len(self._head)
            self._head = b""
        taken = min(self._missing, len(data) - start)
        self._missing -= taken
        return start + taken

    def _receive(self, event: Event, received: list[Received]) -> None:
        if isinstance(event, TextMessage):
            text = self._join(event.data.encode(), event.message_finished)
            if text is not None:
                received.append(text.decode())
        elif isinstance(event, BytesMessage):
            message = self._join(bytes(event.data), event.message_finished)
            if message is not None:
                received.append(message)
        elif isinstance(event, WsprotoPing):
            received.append(Ping(bytes(event.payload)))
        elif isinstance(event, WsprotoPong):
            received.append(Pong(bytes(event.payload)))
        else:
            assert isinstance(event, CloseConnection)
            if self._connection.state is ConnectionState.OPEN:
                # That is how wsproto tells an error; its own reason is for no peer's eyes.
                raise ProtocolViolation(int(event.code), REASONS[event.code])
            received.append(Closed(int(event.code), event.reason or "", by_peer=True))

    def _join(self, part: bytes, finished: bool) -> bytes | None:
        """The whole message, if `part` is its last piece.

        Pieces can be as small as a byte: one buffer holds them, since a list of them would take
        fifty times their size.
        """
        if self._message is None:
            if finished:
                return part
            self._message = bytearray()
        self._message += part
        if not finished:
            return None
        whole = bytes(self._message)
        self._message = None
        return whole
