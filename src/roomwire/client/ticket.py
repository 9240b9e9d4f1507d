"""A promise of an outcome, without I/O: who waits is told by a callback."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from roomwire.core.errors import RoomwireError

__all__ = ["Ticket"]


def _nobody() -> None:
    """Nobody waits."""


class Ticket:
    """What becomes of one call.

    Args:
        on_settled: called once, when there is an outcome.

    Attributes:
        settled: whether there is one.
    """

    __slots__ = ("_error", "_on_settled", "_value", "settled")

    def __init__(self, on_settled: Callable[[], None] = _nobody) -> None:
        self._on_settled = on_settled
        self._value: Any = None
        self._error: RoomwireError | None = None
        self.settled = False

    def succeed(self, value: Any = None) -> None:
        """It has this result; nothing where it is settled already."""
        self._settle(value, None)

    def fail(self, error: RoomwireError) -> None:
        """It failed; nothing where it is settled already."""
        self._settle(None, error)

    def result(self) -> Any:
        """The outcome of a settled ticket: its value, or its error raised."""
        if self._error is not None:
            raise self._error
        return self._value

    def _settle(self, value: Any, error: RoomwireError | None) -> None:
        if not self.settled:
            self.settled, self._value, self._error = True, value, error
            self._on_settled()
