"""Turnstile: what comes for many at once is done for a few in each turn of the loop, in the order of their coming."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from roomwire.transports.contract import Runtime

__all__ = ["Turnstile"]

T = TypeVar("T")


class Turnstile(Generic[T]):
    """Lets a few through in a turn.

    Args:
        runtime: whose turns are counted.
        per_turn: how many.
        enter: called for one that had to wait, when its turn has come; False where it took none.
    """

    __slots__ = ("_asked", "_call_soon", "_enter", "_entered", "_per_turn", "_waiting")

    def __init__(self, runtime: Runtime, per_turn: int, enter: Callable[[T], bool | None]) -> None:
        self._call_soon: Callable[[Callable[[], None]], None] = runtime.call_soon
        self._per_turn = per_turn
        self._enter = enter
        self._waiting: deque[T] = deque()
        self._entered = 0
        self._asked = False

    def passes(self, comer: T) -> bool:
        """Whether one may go through at once; else it waits."""
        self._ask()
        if self._entered < self._per_turn and not self._waiting:
            self._entered += 1
            return True
        self._waiting.append(comer)
        return False

    def _ask(self) -> None:
        if not self._asked:
            self._asked = True
            self._call_soon(self._next_turn)

    def _next_turn(self) -> None:
        self._asked = False
        self._entered = 0
        try:
            while self._waiting and self._entered < self._per_turn:
                self._entered += self._enter(self._waiting.popleft()) is not False
        finally:  # what goes wrong with one is not to keep the others waiting
            if self._waiting or self._entered:
                self._ask()
