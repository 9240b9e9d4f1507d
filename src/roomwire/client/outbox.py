"""Messages of the application that have no reply yet: the offline queue, and what is sent again after a break.

A message waits here from `put` until its reply comes, whether it was sent or not; both bounds count all of
them, so nothing has to be dropped when the link breaks. It is sent in the order of `put`, and again after
a break with the same id, for as long as the server is certain to know the id. After that nobody can tell
whether it took effect.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from roomwire.client.errors import MessageTooLarge, QueueFull, RequestFailed, UnknownOutcome
from roomwire.client.messages import Payload
from roomwire.client.ticket import Ticket
from roomwire.core.errors import RoomwireError

__all__ = ["MARGIN", "SLICE_BYTES", "SLICE_MESSAGES", "SLICE_SECONDS", "Message", "Outbox", "size_of"]

MARGIN = 30.0
"""Seconds by which a client stops sending again before the server forgets the id."""

# A queue that is sent at once runs into the server's rate limits (by default 50 messages and 256 KiB a
# second), and what that refuses would overtake what it does not. So it goes out in slices below them.
SLICE_MESSAGES = 40
SLICE_BYTES = 131_072
SLICE_SECONDS = 1.0


def size_of(payload: Payload) -> int:
    """Bytes on the wire, the frame's header apart."""
    return len(payload) if isinstance(payload, bytes) else len(payload.encode())


@dataclass(eq=False, slots=True)
class Message:
    """One message.

    Attributes:
        id: the same for each sending.
        payload: what is sent.
        size: of the payload, bytes.
        ticket: who waits for the reply.
        sent_at: when it was sent first; ``math.inf`` if never.
        copies: how often it was sent.
    """

    id: str
    payload: Payload
    size: int
    ticket: Ticket
    sent_at: float = math.inf
    copies: int = 0


class Outbox:
    """The messages of one client.

    Args:
        max_messages: how many may be without a reply.
        max_bytes: how large these may be together.

    Attributes:
        max_message_size: bytes that the server takes in one message.
        window: seconds after its first sending in which a message may be sent again.
    """

    __slots__ = (
        "_backlog",
        "_bytes",
        "_max_bytes",
        "_max_messages",
        "_messages",
        "_next_slice",
        "max_message_size",
        "window",
    )

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._messages: dict[str, Message] = {}
        self._backlog: dict[str, Message] = {}  # those that are still to be sent on the current link
        self._bytes = 0
        self._next_slice = -math.inf
        self.max_message_size = 65_536
        self.window = 270.0

    def __len__(self) -> int:
        return len(self._messages)

    def put(self, message: Message) -> None:
        """Take a message in; `release` sends it.

        Raises:
            MessageTooLarge, QueueFull: it was not taken in.
        """
        self.check_size(message.size)
        if len(self._messages) >= self._max_messages or self._bytes + message.size > self._max_bytes:
            count, size = len(self._messages), self._bytes
            raise QueueFull(f"{count} messages of {size} bytes wait for their replies")
        self._messages[message.id] = self._backlog[message.id] = message
        self._bytes += message.size

    def check_size(self, size: int) -> None:
        """Refuse what the server would close the connection for.

        Raises:
            MessageTooLarge: `size`, in bytes, is beyond what it takes.
        """
        if size > self.max_message_size:
            raise MessageTooLarge(f"a message of {size} bytes; the server takes {self.max_message_size}")

    def welcome(self, max_message_size: int, idempotency_window: float) -> None:
        """The server said its limits; what is too large for it fails."""
        self.max_message_size = max_message_size
        self.window = max(0.0, idempotency_window - MARGIN)
        for message in [m for m in self._backlog.values() if m.size > max_message_size]:
            self._fail(message, MessageTooLarge(f"{message.size} bytes; the server takes {max_message_size}"))

    def release(self, now: float) -> list[Payload]:
        """What is to be sent now, on a link that takes messages; ask again at `slice_due`."""
        self.expire(now)
        if now < self._next_slice:
            return []
        released: list[Payload] = []
        size = 0
        for message in list(self._backlog.values()):
            if released and (len(released) == SLICE_MESSAGES or size + message.size > SLICE_BYTES):
                self._next_slice = now + SLICE_SECONDS
                return released
            del self._backlog[message.id]
            message.sent_at = min(message.sent_at, now)
            message.copies += 1
            released.append(message.payload)
            size += message.size
        return released

    @property
    def slice_due(self) -> float:
        """When there is more to send; ``math.inf`` for never."""
        return self._next_slice if self._backlog else math.inf

    @property
    def expires_at(self) -> float:
        """When the next message that waits to be sent again has waited too long."""
        # Messages are sent in the order of `put`: the first of the backlog was sent first.
        first = next(iter(self._backlog.values()), None)
        return math.inf if first is None else first.sent_at + self.window

    def expire(self, now: float) -> None:
        """Fail what may not be sent again any more."""
        while self._backlog and now >= self.expires_at:
            self._fail(next(iter(self._backlog.values())), UnknownOutcome("no reply came before the server forgot it"))

    def broke(self) -> None:
        """The link is gone: all that has no reply is to be sent on the next one."""
        self._backlog = dict(self._messages)
        self._next_slice = -math.inf

    # --- the ends of a message

    def acknowledge(self, id: str, data: object) -> bool:
        """A reply came; False where no message of this id waits."""
        message = self._messages.get(id)
        if message is None:
            return False
        self.discard(message)
        message.ticket.succeed(data)
        return True

    def refuse(self, id: str, error: RequestFailed) -> bool:
        """An error came; False where no message of this id waits."""
        message = self._messages.get(id)
        if message is None:
            return False
        # The server says so also of a copy whose first one has been at work for too long.
        if message.copies > 1 and error.code == "unavailable":
            unknown = UnknownOutcome("sent again, and the server cannot say what became of it")
            unknown.__cause__ = error
            self._fail(message, unknown)
        else:
            self._fail(message, error)
        return True

    def discard(self, message: Message) -> None:
        """Nobody waits for its reply any more; it is not sent, or not again."""
        if self._messages.pop(message.id, None) is message:
            self._backlog.pop(message.id, None)
            self._bytes -= message.size

    def fail_all(self, unsent: Callable[[], RoomwireError], why: str) -> None:
        """No reply will be read: what was ever sent has an unknown outcome, the rest did not happen.

        Args:
            unsent: makes the error of a message that was never sent.
            why: for the unknown outcomes.
        """
        for message in list(self._messages.values()):
            self._fail(message, unsent() if message.copies == 0 else UnknownOutcome(why))

    def _fail(self, message: Message, error: RoomwireError) -> None:
        self.discard(message)
        message.ticket.fail(error)
