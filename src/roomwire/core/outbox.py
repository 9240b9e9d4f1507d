"""What waits for a reader that is slower than its events: bounded in bytes and in messages.

A block is a unit that goes out whole, such as the frames of one turn of a room. The bytes that the
transport still holds count too (`push`'s `held`), those of a replay do not: a replay was bounded
when it was read, and a client that comes back from a long absence is not "too slow".
"""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

__all__ = ["Outbox"]

B = TypeVar("B")


class Outbox(Generic[B]):
    """A FIFO of blocks with a limit.

    Args:
        max_bytes: what may wait, in bytes.
        max_messages: what may wait, in messages.

    Attributes:
        bytes: what waits, in bytes; replays left out.
        messages: what waits, in messages; replays left out.
        uncounted: the bytes of replays that wait.
    """

    __slots__ = ("_blocks", "_max_bytes", "_max_messages", "bytes", "messages", "uncounted")

    def __init__(self, max_bytes: int, max_messages: int) -> None:
        self._max_bytes = max_bytes
        self._max_messages = max_messages
        self._blocks: deque[tuple[B, int, int, int]] = deque()
        self.bytes = 0
        self.messages = 0
        self.uncounted = 0

    def __len__(self) -> int:
        return len(self._blocks)

    def push(self, block: B, size: int, messages: int, *, held: int = 0, counted: bool = True) -> bool:
        """Queue a block.

        Args:
            block: what goes out whole.
            size: its bytes.
            messages: its messages.
            held: bytes that the transport holds at this moment.
            counted: False for a replay, which is queued whatever waits and takes up no room.

        Returns:
            False when the limit is passed: the block is not queued and the reader is too slow.
        """
        if counted:
            if self.bytes + held + size > self._max_bytes or self.messages + messages > self._max_messages:
                return False
            self.bytes += size
            self.messages += messages
            self._blocks.append((block, size, messages, 0))
        else:
            self.uncounted += size
            self._blocks.append((block, 0, 0, size))
        return True

    def pop(self) -> B:
        """Take the oldest block.

        Raises:
            IndexError: nothing waits.
        """
        block, size, messages, uncounted = self._blocks.popleft()
        self.bytes -= size
        self.messages -= messages
        self.uncounted -= uncounted
        return block

    def clear(self) -> int:
        """Drop everything; returns how many messages that were, those of replays left out."""
        dropped = self.messages
        self._blocks.clear()
        self.bytes = self.messages = self.uncounted = 0
        return dropped
