"""An event that can be set again and again."""

from __future__ import annotations

import anyio

__all__ = ["Signal"]


class Signal:
    """Wakes whoever waits at the moment.

    The waiter calls `fresh`, then looks whether there is anything to do, and only then waits: what is set in
    between is not missed.
    """

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event = anyio.Event()

    def set(self) -> None:
        """Wake who waits."""
        self._event.set()

    def fresh(self) -> anyio.Event:
        """The event of the next `set`."""
        if self._event.is_set():
            self._event = anyio.Event()
        return self._event
