"""What waits for the application to read it, bounded in number and in bytes."""

from __future__ import annotations

from collections import deque

from roomwire.client.events import Item

__all__ = ["OVERFULL", "Inbox"]

OVERFULL = 4
"""So many times its bounds may an inbox hold while somebody waits for a reply behind what fills it."""


class Inbox:
    """Items in order, each with the bytes of the message that it came in.

    The bounds tell when to read no further. Nothing is ever refused or dropped.

    Args:
        max_items: how many may wait.
        max_bytes: how large these may be together.
    """

    __slots__ = ("_bytes", "_items", "_max_bytes", "_max_items")

    def __init__(self, max_items: int, max_bytes: int) -> None:
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._items: deque[tuple[Item, int]] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: Item, size: int) -> None:
        """Add an item of `size` bytes."""
        self._items.append((item, size))
        self._bytes += size

    def take(self) -> Item:
        """The next one."""
        item, size = self._items.popleft()
        self._bytes -= size
        return item

    def holds(self, times: float) -> bool:
        """Whether it holds `times` its bounds."""
        return len(self._items) >= times * self._max_items or self._bytes >= times * self._max_bytes
