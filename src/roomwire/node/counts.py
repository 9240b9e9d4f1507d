"""Counts: what a node has done, as plain numbers that are read when somebody asks.

They are kept whether or not metrics are on, since adding to an int costs nothing that could be measured; what
is timed is kept only where metrics are on (`roomwire.node.meter`). Whatever a key is made of comes from a
fixed set: a name that a client, an application or a plugin made up is counted under a name of ours.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from roomwire.core.closing import CloseCode
from roomwire.core.errors import Refusal

if TYPE_CHECKING:
    from roomwire.node.connection import Connection

__all__ = ["CLOSE_CODES", "ERRORS", "OK", "REASONS", "REFUSALS", "Counts", "Histogram"]

OK = "ok"
OTHER = "other"
APPLICATION = "application"

ERRORS = frozenset(
    {
        "invalid",
        "unknown_event",
        "unauthorized",
        "forbidden",
        "not_found",
        "not_joined",
        "rate_limited",
        "too_many_rooms",
        "conflict",
        "unavailable",
        "internal",
    }
)
"""Codes of an ``error`` event that are the protocol's (docs/reference/protocol.md section 4.1)."""
REASONS = frozenset({"too_old", "epoch", "fork", "too_far", "no_history", "unavailable", "requested"})
"""Why a client is given a state in place of a replay (the same, section 5)."""
REFUSALS = frozenset(
    {
        "bad_request",
        "unauthorized",
        "forbidden",
        "not_found",
        "too_many_connections",
        "unavailable",
        "upgrade_required",
        # of the publish API
        "invalid",
        "method_not_allowed",
        "too_large",
        "unsupported_media_type",
    }
)
"""What a refused request is told (the same, section 1)."""
CLOSE_CODES = frozenset({*map(int, CloseCode), 1005})
"""With 1005 for a close frame without a code (RFC 6455 section 7.4.1)."""
_APPLICATIONS = (range(4100, 4200), range(4600, 4700))


class Histogram:
    """How many values were at most how large.

    Args:
        bounds: the upper bounds of the buckets, ascending; one more takes what is larger.

    Attributes:
        counts: values in each bucket, that bucket's alone.
        sum: of all values.
    """

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    @property
    def count(self) -> int:
        """Values in all."""
        return sum(self.counts)


class Counts:
    """What a node has done since it was made.

    Attributes:
        opened: connections that were upgraded, event streams included.
        streams, streams_closed: event streams that were opened, and those that ended.
        reconnects: those of them that came with a cursor.
        closed: connections that ended, by close code and by whom: ``server``, ``peer`` or ``link``.
        received, sent: messages of connections that have ended; those of open ones are counted there.
        received_bytes: bytes of frames from clients.
        refusals: requests that were refused, by status and error.
        handled: messages and commands of clients that were carried out.
        failed: those that were not, and those that were not taken, by the error's code.
        published, ephemeral: publications of this node's, stored (or numbered) and not.
        delivered, delivered_ephemeral: what the backplane delivered for rooms of this node.
        replays: rooms that were entered with a position, or with a state: by outcome and reason.
        replayed: events that were replayed.
        snapshots, snapshots_failed: states that the application made, and those that it could not.
        doubts: reads of a room's history because something might have been missed.
        healed: those that brought something, all of it there.
        resets: rooms whose members were given a new state, by reason.
        checks, differed: positions compared with the store's, and those that were not the same.
        interruptions: times that the backplane said that something might have been missed.
        outages: times that the backplane became unavailable.
    """

    __slots__ = (
        "checks",
        "closed",
        "delivered",
        "delivered_ephemeral",
        "differed",
        "doubts",
        "ephemeral",
        "failed",
        "handled",
        "healed",
        "interruptions",
        "opened",
        "outages",
        "published",
        "received",
        "received_bytes",
        "reconnects",
        "refusals",
        "replayed",
        "replays",
        "resets",
        "sent",
        "snapshots",
        "snapshots_failed",
        "streams",
        "streams_closed",
    )

    def __init__(self) -> None:
        self.streams = self.streams_closed = 0
        self.opened = self.reconnects = self.received = self.sent = self.received_bytes = 0
        self.closed: Counter[tuple[str, str]] = Counter()
        self.refusals: Counter[tuple[int, str]] = Counter()
        self.handled = 0
        self.failed: Counter[str] = Counter()
        self.published = self.ephemeral = self.delivered = self.delivered_ephemeral = 0
        self.replays: Counter[tuple[str, str]] = Counter()
        self.replayed = self.snapshots = self.snapshots_failed = 0
        self.doubts = self.healed = self.checks = self.differed = self.interruptions = self.outages = 0
        self.resets: Counter[str] = Counter()

    def ended(self, connection: Connection, sent: int) -> None:
        """A connection that was open has ended, after so many messages to it."""
        self.streams_closed += connection.read_only
        self.received += connection._received
        self.sent += sent
        closing = connection._closing
        self.closed[_close_code(closing.code if closing else CloseCode.ABNORMAL), connection._by] += 1

    def refused(self, refusal: Refusal) -> None:
        """A request was refused."""
        status = refusal.status if 400 <= refusal.status <= 599 else 0
        self.refusals[status, refusal.error if refusal.error in REFUSALS else OTHER] += 1

    def failure(self, code: str) -> None:
        """A message or a command of a client was answered with an ``error``."""
        self.failed[code if code in ERRORS else APPLICATION] += 1

    def entered(self, recovered: bool | None, reason: str | None, replayed: int) -> None:
        """A connection is live in a room; see `roomwire.core.replay.Outcome`."""
        if reason is not None:
            self.replays["state", reason if reason in REASONS else OTHER] += 1
        elif recovered:
            self.replays["replayed", ""] += 1
            self.replayed += replayed

    def reset(self, reason: str) -> None:
        """A room's members are given a new state."""
        self.resets[reason if reason in REASONS else OTHER] += 1


def _close_code(code: int) -> str:
    if code in CLOSE_CODES:
        return str(int(code))
    return APPLICATION if any(code in codes for codes in _APPLICATIONS) else OTHER
