"""One timer wheel for a node: deadlines of many owners, without a timer or a task for each.

Deadlines are rounded up to a slot, so an owner is never called early, and late by one slot at most.
An owner stands in the wheel once: when its deadline has moved to a later time it is found too early,
says so, and is put in again, so that a busy connection costs the wheel nothing. When its deadline moves
to an earlier time it has to be armed.
"""

from __future__ import annotations

import heapq
import math
from typing import Protocol

__all__ = ["Timed", "TimerWheel"]


class Timed(Protocol):
    """An owner of a deadline."""

    wheel_slot: int
    """The slot it stands in, 0 for none; the wheel's own."""

    def next_deadline(self) -> float:
        """When it wants to be called, in monotonic seconds; infinity for never."""
        ...

    def expire(self, now: float) -> None:
        """The deadline has passed. It must not raise."""
        ...


class TimerWheel:
    """Slots of `resolution` seconds, in a heap of the slots that are in use."""

    __slots__ = ("_current", "_heap", "_resolution", "_slots")

    def __init__(self, resolution: float = 0.25) -> None:
        self._resolution = resolution
        self._slots: dict[int, set[Timed]] = {}
        self._heap: list[int] = []
        self._current = 0
        """The last slot that `advance` reached."""

    def arm(self, owner: Timed) -> None:
        """Note the owner's deadline; cheap when it is not earlier than what is noted."""
        deadline = owner.next_deadline()
        if deadline == math.inf:
            return
        # Never a slot that `advance` has reached: it would come back to the owner for ever.
        slot = max(self._current + 1, math.ceil(deadline / self._resolution))
        if owner.wheel_slot:
            if owner.wheel_slot <= slot:
                return
            self.disarm(owner)
        owner.wheel_slot = slot
        owners = self._slots.get(slot)
        if owners is None:
            owners = self._slots[slot] = set()
            heapq.heappush(self._heap, slot)
        owners.add(owner)

    def disarm(self, owner: Timed) -> None:
        """Forget the owner."""
        owners = self._slots.get(owner.wheel_slot)
        if owners is not None:
            owners.discard(owner)
        owner.wheel_slot = 0

    def next_time(self) -> float:
        """When `advance` is due; infinity when nothing is noted."""
        return self._heap[0] * self._resolution if self._heap else math.inf

    def advance(self, now: float) -> None:
        """Call every owner whose deadline has passed, each at most once, and note the rest anew.

        An owner that is disarmed by another one's `expire` is not called any more.
        """
        reached = math.floor(now / self._resolution)
        # Rounding must not make `next_time` come before its own slot.
        self._current = max(self._current, reached + ((reached + 1) * self._resolution <= now))
        while self._heap and self._heap[0] <= self._current:
            # The slot stays in the table until it is empty, so that `disarm` finds who is still to be
            # called, and nobody is lost should one of them raise.
            owners = self._slots[self._heap[0]]
            while owners:
                owner = owners.pop()
                owner.wheel_slot = 0
                if owner.next_deadline() <= now:
                    owner.expire(now)
                self.arm(owner)
            del self._slots[heapq.heappop(self._heap)]
