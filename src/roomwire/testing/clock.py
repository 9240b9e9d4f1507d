"""Time that stands still until a test moves it."""

from __future__ import annotations

__all__ = ["VirtualClock"]


class VirtualClock:
    """A clock for everything that takes a ``clock`` callable.

    Args:
        now: what it shows first, monotonic seconds.
    """

    __slots__ = ("now",)

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        """Monotonic seconds."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass.

        Raises:
            ValueError: `seconds` is negative; a monotonic clock never goes back.
        """
        if seconds < 0:
            raise ValueError(f"a monotonic clock cannot go back by {-seconds} s")
        self.now += seconds
