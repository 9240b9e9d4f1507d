"""A WebSocket connection after its handshake, as a machine without I/O (RFC 6455 sections 5 to 7).

    state      what comes in                                 what goes out
    OPEN       messages, pings, pongs; the peer's close      messages, pings, pongs, a close
    CLOSING    only the peer's close; all else is dropped    nothing: our close frame was the last
    CLOSED     nothing: all bytes are dropped unread         nothing but what `data_to_send` still holds

    OPEN    -> CLOSING    close()
    OPEN    -> CLOSED     the peer's close, which is echoed; its protocol error, which is answered; the end of the link
    CLOSING -> CLOSED     the peer's close; its protocol error; the end of the link

Incoming bytes take the fast lane (`roomwire.core.frames`) where they can and the slow lane
(`roomwire.core.assembly`) where they must. The slow lane's objects exist only while it holds something.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from roomwire.core.assembly import FrameAssembler
from roomwire.core.closing import CloseCode, fitting, is_sendable
from roomwire.core.deflate import COMPRESS_FROM, MIN_WINDOW_BITS, Deflate, compress
from roomwire.core.errors import LocalError, ProtocolViolation
from roomwire.core.frames import (
    MAX_CONTROL_PAYLOAD,
    Closed,
    Opcode,
    Ping,
    Pong,
    Received,
    Role,
    build_frame,
    build_masked_frame,
    take_simple_frames,
)

__all__ = ["Closed", "Ping", "Pong", "Received", "Role", "State", "WebSocket"]

_NO_STATUS = 1005
_PONGS_AT_ONCE = 16
"""Pings of one read that are answered: more than the ten that the conformance suite sends in one breath."""


class State(Enum):
    """Of a connection; the module's docstring has the table."""

    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"


_OPEN = State.OPEN  # see `roomwire.core.frames`


class WebSocket:
    """One end of an open WebSocket connection.

    Args:
        role: which end this is.
        max_message_size: bytes of one incoming message, after reassembly and inflation.
        max_fragments: frames of one incoming message.
        deflate: the agreement on permessage-deflate, if any.
        mask_source: a client's source of masking keys, which gives as many unpredictable bytes as it is
            asked for, such as ``os.urandom`` (RFC 6455 section 5.3).

    Attributes:
        state: the connection's state.
        frames_received: frames of any kind that came so far; they are what a rate limit counts, since one
            message may consist of a thousand.

    Raises:
        LocalError: a client has no `mask_source`.
    """

    __slots__ = (
        "_assembler",
        "_deflate",
        "_mask_source",
        "_max_fragments",
        "_max_message_size",
        "_outgoing",
        "_role",
        "frames_received",
        "state",
    )

    def __init__(
        self,
        role: Role,
        *,
        max_message_size: int,
        max_fragments: int,
        deflate: Deflate | None = None,
        mask_source: Callable[[int], bytes] | None = None,
    ) -> None:
        if role is Role.CLIENT and mask_source is None:
            raise LocalError("a client masks its frames: pass mask_source, such as os.urandom")
        self._role = role
        self._max_message_size = max_message_size
        self._max_fragments = max_fragments
        self._deflate = deflate
        self._mask_source = mask_source if role is Role.CLIENT else None
        self._assembler: FrameAssembler | None = None
        self._outgoing = b""
        self.state = State.OPEN
        self.frames_received = 0

    @property
    def mid_message(self) -> bool:
        """Whether a frame is incomplete or fragments of a message are still to come."""
        return self._assembler is not None

    def receive_messages(self, data: bytes) -> list[str | bytes] | None:
        """Bytes came from the network: `receive` for what nearly every read is.

        Returns:
            The messages, where `data` is whole simple frames and nothing else. None, and nothing was
            taken, where it is not: give it to `receive`.
        """
        if self._assembler is not None or self.state is not _OPEN:
            return None
        messages: list[str | bytes] = []
        if take_simple_frames(data, 0, self._max_message_size, messages, self._role) != len(data):
            return None
        self.frames_received += len(messages)
        return messages

    def receive(self, data: bytes) -> list[Received]:
        """Bytes came from the network. It never raises, whatever they are.

        Returns:
            Whole messages, text as str and binary as bytes, and control frames, in order. `Closed` is
            always the last: the peer's close, with its code, or ours after its error, with code 1002, 1007 or 1009.
            What goes out in answer, `data_to_send` has.
        """
        received: list[Received] = []
        start = 0
        if self._assembler is None and self.state is State.OPEN:
            start = take_simple_frames(data, 0, self._max_message_size, received, self._role)
            self.frames_received += len(received)
        if start < len(data) and self.state is not State.CLOSED:
            self._receive_any(data, start, received)
        return received

    def receive_eof(self) -> list[Received]:
        """The link has ended (RFC 6455 section 7.1.5).

        Returns:
            ``Closed(1006)``; nothing where a `Closed` was given before.
        """
        if self.state is State.CLOSED:
            return []
        self._end()
        return [Closed(CloseCode.ABNORMAL, "", by_peer=False)]

    def data_to_send(self) -> bytes:
        """What it answers by itself, since the last call: a pong, the echo of a close, a close after an error."""
        data = self._outgoing
        if data:
            self._outgoing = b""
        return data

    def encode(self, message: str | bytes) -> bytes:
        """The frame of one message, compressed where that was agreed on and pays.

        Returns:
            The frame; ``b""`` once a close frame was sent or the link has ended, since nothing may follow.

        Raises:
            LocalError: the text holds a lone surrogate.
        """
        if self.state is not State.OPEN:
            return b""
        if isinstance(message, str):
            opcode = Opcode.TEXT
            try:
                payload = message.encode()
            except UnicodeEncodeError:
                raise LocalError("a text message cannot hold a lone surrogate") from None
        else:
            opcode = Opcode.BINARY
            payload = message
        if self._deflate is not None and len(payload) >= COMPRESS_FROM:
            compressed = self._compress(self._deflate, payload)
            if len(compressed) < len(payload):
                return self._frame(opcode, compressed, rsv1=True)
        return self._frame(opcode, payload)

    def ping(self, payload: bytes = b"") -> bytes:
        """A ping frame; ``b""`` where `encode` gives that.

        Raises:
            LocalError: `payload` is longer than 125 bytes.
        """
        if len(payload) > MAX_CONTROL_PAYLOAD:
            raise LocalError(f"a ping carries at most {MAX_CONTROL_PAYLOAD} bytes")
        return self._frame(Opcode.PING, payload) if self.state is State.OPEN else b""

    def close(self, code: int, reason: str = "") -> bytes:
        """The close frame that begins the closing handshake (RFC 6455 section 7.1.2).

        Args:
            code: a close code that may be sent.
            reason: a text for people; cut to 123 bytes of UTF-8, at a character's boundary.

        Returns:
            The frame; ``b""`` where a close frame was sent before or the link has ended.

        Raises:
            LocalError: `code` may not stand in a close frame (RFC 6455 section 7.4).
        """
        if not is_sendable(code):
            raise LocalError(f"{code} may not be sent as a close code: 1000-1003, 1007-1014 or 3000-4999")
        if self.state is not State.OPEN:
            return b""
        self.state = State.CLOSING
        return self._close_frame(code, reason)

    def _receive_any(self, data: bytes, start: int, received: list[Received]) -> None:
        """Both lanes, frame by frame, whatever the state; ends where the connection does."""
        size = len(data)
        assembler = self._assembler or self._new_assembler()
        # Where this side has sent its close, late messages are read for their faults and go nowhere.
        target = received if self.state is State.OPEN else []
        while start < size:
            try:
                start = assembler.feed(data, start, target)
            except ProtocolViolation as violation:
                self._answer_pings(target)
                self._fail(violation, received)
                return
            if assembler.between_frames:
                self.frames_received += 1
                if target and type(closed := target[-1]) is Closed:
                    self._answer_pings(target)
                    self._receive_close(closed, received)
                    return
            if assembler.idle and target is received:
                before = len(received)
                start = take_simple_frames(data, start, self._max_message_size, received, self._role)
                self.frames_received += len(received) - before
        self._assembler = None if assembler.idle else assembler
        self._answer_pings(target)

    def _new_assembler(self) -> FrameAssembler:
        return FrameAssembler(self._role, self._max_message_size, self._max_fragments, self._deflate)

    def _answer_pings(self, received: list[Received]) -> None:
        """Only the latest: a flood of pings is not answered by a flood (RFC 6455 section 5.5.3)."""
        if self.state is not State.OPEN:
            return
        pings = [item for item in received if type(item) is Ping]
        for ping in pings[-_PONGS_AT_ONCE:]:
            self._outgoing += self._frame(Opcode.PONG, ping.payload)

    def _receive_close(self, closed: Closed, received: list[Received]) -> None:
        if self.state is State.OPEN:
            self._outgoing += self._close_frame(closed.code)
        else:
            received.append(Closed(closed.code, closed.reason, by_peer=False))
        self._end()

    def _fail(self, violation: ProtocolViolation, received: list[Received]) -> None:
        """_Fail the WebSocket Connection_ (RFC 6455 section 7.1.7); after it nothing is even buffered."""
        if self.state is State.OPEN:
            self._outgoing += self._close_frame(violation.code, violation.reason)
        received.append(Closed(violation.code, violation.reason, by_peer=False))
        self._end()

    def _end(self) -> None:
        self.state = State.CLOSED
        self._assembler = None

    def _close_frame(self, code: int, reason: str = "") -> bytes:
        if code == _NO_STATUS:
            return self._frame(Opcode.CLOSE, b"")
        return self._frame(Opcode.CLOSE, code.to_bytes(2, "big") + fitting(reason).encode())

    def _compress(self, deflate: Deflate, payload: bytes) -> bytes:
        server = self._role is Role.SERVER
        bits = deflate.server_max_window_bits if server else deflate.client_max_window_bits
        return compress(payload, bits) if bits >= MIN_WINDOW_BITS else payload

    def _frame(self, opcode: Opcode, payload: bytes, *, rsv1: bool = False) -> bytes:
        if self._mask_source is None:
            return build_frame(opcode, payload, rsv1=rsv1)
        return build_masked_frame(opcode, payload, self._mask_source(4), rsv1=rsv1)
