"""When to try again: what a refusal or a close means, and how long to wait (docs/reference/protocol.md section 7).

    refused with 401              at once, with a token asked for anew; the second time give up
    refused with 400              at once, without the cursor; the second time give up
    refused with 403, 404, 426    give up
    any other status              back-off, and at least ``Retry-After``
    no answer, or no correct one  back-off
    closed with a final code      give up
    closed with another, or none  back-off, and at least ``retry_after``

A refusal counts as the second one until a connection has succeeded, whatever came in between.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["HEALTHY_AFTER", "Backoff", "Retry"]

HEALTHY_AFTER = 10.0
"""Seconds of a connection that make the next wait a short one again."""

_FIRST = 1.0
_LARGEST = 30.0
_HOPELESS = frozenset({403, 404, 426})


class Backoff:
    """Waits of 1 s, 2 s, 4 s and so on up to 30 s, each with full jitter.

    Full jitter (from nothing to the bound) spreads many clients best; see "Exponential Backoff And
    Jitter", AWS Architecture Blog, 2015.
    """

    __slots__ = ("_bound", "_random")

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random
        self._bound = _FIRST

    def next(self) -> float:
        """Seconds to wait before the next attempt."""
        bound = self._bound
        self._bound = min(2 * bound, _LARGEST)
        return bound * self._random()

    def reset(self) -> None:
        """A connection was healthy."""
        self._bound = _FIRST


class Retry:
    """The decisions of one client.

    Args:
        random: gives numbers from 0 to 1.

    Attributes:
        without_cursor: whether the next attempt goes without a cursor.
    """

    __slots__ = ("_backoff", "_unauthorized", "without_cursor")

    def __init__(self, random: Callable[[], float]) -> None:
        self._backoff = Backoff(random)
        self._unauthorized = False
        self.without_cursor = False

    def after_refusal(self, status: int, retry_after: float | None, *, cursor: bool) -> float | None:
        """A handshake was refused.

        Args:
            status: of the HTTP response.
            retry_after: seconds, where it says.
            cursor: whether the request had a cursor.

        Returns:
            Seconds to wait; None to give up.
        """
        if status == 401:
            first, self._unauthorized = not self._unauthorized, True
            return 0.0 if first else None
        if status == 400:
            return self.after_bad_cursor() if cursor else None
        if status in _HOPELESS:
            return None
        return self.after_failure(retry_after)

    def after_bad_cursor(self) -> float:
        """The server does not take the cursor: the next attempt, at once, goes without one."""
        self.without_cursor = True
        return 0.0

    def after_failure(self, retry_after: float | None = None) -> float:
        """The link broke, or did not come about.

        A server says the same `retry_after` to many, so the jitter comes on top.
        """
        return self._backoff.next() + (retry_after or 0.0)

    def succeeded(self) -> None:
        """The welcome came, and the cursor was taken."""
        self._unauthorized = False
        self.without_cursor = False

    def was_healthy(self) -> None:
        """A connection has lasted for `HEALTHY_AFTER`."""
        self._backoff.reset()
