"""Meter: what a node times, and counts beside `roomwire.node.counts`, where metrics are on. A node without one pays
a look at None.

Nothing is measured for each member of a room: a flush is timed as a whole, and what it wrote is worked out
from the block and the number of its members.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from roomwire.node.conflated import Block
from roomwire.node.counts import OTHER, Histogram

if TYPE_CHECKING:
    from roomwire.node.rooms import Room

__all__ = ["METHODS", "Meter"]

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
"""Of requests to the fallback; another one is a peer's own word."""
NONE = "none"

_SHORT = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
"""For what ends within a turn of the loop, which is to take no more than 50 ms."""
_LONG = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""For what waits for others: a store, an application, a peer."""
_LAG = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Meter:
    """The times of a node.

    Args:
        clock: monotonic seconds.

    Attributes:
        fanout: of one flush of a room, to all members or to a slice of them.
        deliveries: publications written, once for each member; one that excludes a member counts for it as well.
        sent_bytes: bytes of frames to clients, without the handshake, pings and close frames.
        handlers: of the application's handlers, by the event that they are declared for.
        handshakes: from a whole request to the node's decision about it.
        lag: by how much the loop was late.
        operations: of the backplane, by operation.
        unavailable: operations that failed.
        delivery: from the call that publishes to the delivery of that publication to this node.
        replaced: publications that newer ones took the place of before they were sent, where a room conflates.
        passed: times that a member of such a room was passed over.
        answers: of the fallback, by method and class of the status.
        answering: from a request for the fallback to the end of the response.
    """

    __slots__ = (
        "answering",
        "answers",
        "clock",
        "deliveries",
        "delivery",
        "fanout",
        "handlers",
        "handshakes",
        "lag",
        "operations",
        "passed",
        "replaced",
        "sent_bytes",
        "unavailable",
    )

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.fanout = Histogram(_SHORT)
        self.deliveries = 0
        self.sent_bytes = 0
        self.handlers: dict[str, Histogram] = {}
        self.handshakes = Histogram(_LONG)
        self.lag = Histogram(_LAG)
        self.operations: dict[str, Histogram] = {}
        self.unavailable: Counter[str] = Counter()
        self.delivery = Histogram(_LONG)
        self.replaced = self.passed = 0
        self.answers: Counter[tuple[str, str]] = Counter()
        self.answering = Histogram(_LONG)

    def flush(self, room: Room, budget: int) -> int:
        """`Room.flush`, timed."""
        if not room._turns:
            room.seal()
        turn = room._turns[0]
        done = turn.done
        started = self.clock()
        took = room.flush(budget)
        self.fanout.observe(self.clock() - started)
        written = turn.done - done
        if isinstance(turn, Block):
            written -= self._take(turn)
        self.deliveries += written * turn.publications
        self.sent_bytes += written * turn.size
        return took

    def _take(self, block: Block) -> int:
        """What a block of a room that conflates counted since it was looked at last; the members it passed over."""
        passed = block.passed
        self.passed += passed
        self.replaced += block.replaced
        block.passed = block.replaced = 0
        return passed

    def answered(self, method: str, status: int, seconds: float) -> None:
        """The fallback's application answered; status 0: not a byte of it was sent."""
        kind = f"{status // 100}xx" if 200 <= status <= 599 else OTHER if status else NONE
        self.answers[method if method in METHODS else OTHER, kind] += 1
        self.answering.observe(seconds)

    def handled(self, event: str, seconds: float) -> None:
        """A handler of this event ran; the application declared the name."""
        histogram = self.handlers.get(event)
        if histogram is None:
            histogram = self.handlers[event] = Histogram(_LONG)
        histogram.observe(seconds)

    def operation(self, name: str) -> Histogram:
        """The histogram of a backplane operation."""
        return self.operations.setdefault(name, Histogram(_LONG))
