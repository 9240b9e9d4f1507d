"""The store of the memory backplane: streams, leases and replies, and how they end."""

from __future__ import annotations

import math
import secrets
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, Literal, NamedTuple, TypeVar

from roomwire.backplanes.contract import HistoryPolicy, Holder, Member, Sink
from roomwire.core.positions import Position
from roomwire.core.tail import Entry, Page

__all__ = ["STREAM_TTL", "Expiring", "Lease", "MemoryHub", "RoomLeases", "Slot", "Stream"]

STREAM_TTL = 86_400.0
"""Seconds that a room's numbering outlives its last use; much longer than its history, or every
client that comes back to a silent room would be reset."""
_SWEEP_EVERY = 1.0
_SWEEP_PARTS = 60  # a whole round takes about a minute

K = TypeVar("K")
V = TypeVar("V")


class Expiring(Generic[K, V]):
    """A map whose values end at a time of their own."""

    __slots__ = ("_items", "_unswept")

    def __init__(self) -> None:
        self._items: dict[K, tuple[float, V]] = {}
        self._unswept: list[K] = []

    def __len__(self) -> int:
        return len(self._items)

    def get(self, key: K, now: float) -> V | None:
        """The value that has not expired."""
        item = self._items.get(key)
        return item[1] if item is not None and now < item[0] else None

    def set(self, key: K, value: V, expires: float) -> None:
        """Keep `value` until `expires`."""
        self._items[key] = (expires, value)

    def pop(self, key: K) -> None:
        """Drop the value, if there is one."""
        self._items.pop(key, None)

    def sweep(self, now: float) -> None:
        """Drop the expired among the next sixtieth of the keys."""
        for key in _next_part(self._unswept, self._items):
            item = self._items.get(key)
            if item is not None and now >= item[0]:
                del self._items[key]


def _next_part(unswept: list[K], items: dict[K, V]) -> list[K]:
    """The next few keys of a round through `items`; `unswept` is the round's state."""
    if not unswept:
        unswept.extend(items)
    count = max(64, len(items) // _SWEEP_PARTS)
    part = unswept[-count:]
    del unswept[-count:]
    return part


class Stream:
    """A room's numbering and recent past."""

    __slots__ = ("epoch", "floor", "offset", "sinks", "size", "stored", "ttl", "used")

    def __init__(self, epoch: str, now: float) -> None:
        self.epoch = epoch
        self.offset = 0
        self.floor = 0  # all up to here was dropped
        self.stored: deque[tuple[float, Entry]] | None = None  # with the time of storing
        self.size, self.ttl = HistoryPolicy()
        # By node, those that are subscribed and reachable. Replaced and never changed, so that a
        # sink may have its node subscribe or unsubscribe while the others are being called.
        self.sinks: dict[str, Sink] = {}
        self.used = now

    @property
    def top(self) -> Position:
        """All that was ever published."""
        return Position(self.epoch, self.offset)

    def attach(self, node: str, sink: Sink) -> None:
        """Deliver to `sink` from now on."""
        self.sinks = {**self.sinks, node: sink}

    def detach(self, node: str) -> None:
        """Deliver to `node` no more."""
        self.sinks = {name: sink for name, sink in self.sinks.items() if name != node}

    def append(self, body: bytes, policy: HistoryPolicy, now: float) -> Entry:
        """Number a publication, and store it where the policy says so."""
        previous = self.offset
        offset = self.offset = previous + 1
        entry = Entry(previous, offset, body)
        size, ttl = self.size, self.ttl = policy
        if not size:
            self.stored = None
            self.floor = offset
            return entry
        stored = self.stored
        if stored is None:
            stored = self.stored = deque()
        stored.append((now, entry))
        if len(stored) > size or stored[0][0] + ttl <= now:
            self.trim(now)
        return entry

    def trim(self, now: float) -> None:
        """Drop what the policy does not keep any longer."""
        stored = self.stored
        while stored and (len(stored) > self.size or stored[0][0] + self.ttl <= now):
            self.floor = stored.popleft()[1].offset
        self.stored = stored or None

    def rewind(self, offset: int) -> None:
        """Forget all after `offset`."""
        self.offset = min(self.offset, offset)
        self.floor = min(self.floor, self.offset)
        while self.stored and self.stored[-1][1].offset > self.offset:
            self.stored.pop()

    def page(self, since: Position, limit: int) -> Page:
        """At most `limit` publications after `since`, of those that `trim` left."""
        reason = None
        if since.epoch != self.epoch:
            reason = "epoch"
        elif since.offset > self.offset:
            reason = "fork"
        elif since.offset < self.floor:
            reason = "too_old" if self.size else "no_history"
        if reason is not None:
            return Page(self.top, (), reason)
        stored = self.stored or deque()
        # Offsets are consecutive, so the first one asked for has a known place from the end.
        start = len(stored) - (self.offset - since.offset)
        return Page(self.top, [stored[i][1] for i in range(start, min(start + limit, len(stored)))])


class Lease(NamedTuple):
    """A connection's presence in a room until `expires`."""

    member: Member
    expires: float


class RoomLeases(dict[tuple[str, str], Lease]):
    """The leases of a room by (user, client).

    It knows a time before which none of them ends. A look at it is then no look at each of them: in a room
    of thousands they are looked at by each one that comes, goes and is refreshed.
    """

    __slots__ = ("_none_ends_before",)

    def __init__(self) -> None:
        super().__init__()
        self._none_ends_before = math.inf

    def put(self, member: Member, expires: float) -> None:
        """Make or replace the lease of the member's client."""
        self[member.user, member.client] = Lease(member, expires)
        self._none_ends_before = min(self._none_ends_before, expires)

    def drop_expired(self, now: float) -> bool:
        """Whether there were any."""
        if now < self._none_ends_before:
            return False
        expired = [key for key, lease in self.items() if lease.expires <= now]
        for key in expired:
            del self[key]
        self._none_ends_before = min((lease.expires for lease in self.values()), default=math.inf)
        return bool(expired)


class Slot(NamedTuple):
    """A connection's slot until `expires`."""

    holder: Holder
    expires: float


class MemoryHub:
    """What the nodes of one process share: the store of `MemoryBackplane`.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.names: set[str] = set()
        self.sinks: dict[str, Sink] = {}  # by node; those that are reachable
        self.streams: dict[str, Stream] = {}
        # Bare tuples of strings and numbers: of these the garbage collector lets go, while it would walk through
        # a million `Reservation` again and again.
        self.keys: Expiring[tuple[str, str], tuple[str, int]] = Expiring()  # an epoch and an offset
        self.replies: Expiring[str, tuple[Literal["pending", "done"], str, bytes]] = Expiring()  # of a `Reservation`
        self.presence: dict[str, RoomLeases] = {}
        self.slots: dict[str, dict[str, Slot]] = {}
        self.sweep_at = 0.0
        self._unswept: tuple[list[str], list[str], list[str]] = ([], [], [])
        self.renew_epoch()

    def renew_epoch(self) -> None:
        """From now on new streams count in a life of their own."""
        self.epoch = secrets.token_hex(8)

    # --- streams

    def stream(self, room: str, now: float | None = None) -> Stream:
        """The room's stream, made where there is none."""
        if now is None:
            now = self.clock()
        if now >= self.sweep_at:  # before the look-up: it may drop a stream that is new and unused
            self.sweep(now)
        stream = self.streams.get(room)
        if stream is None:
            stream = self.streams[room] = Stream(self.epoch, now)
        stream.used = now
        return stream

    def lose(self) -> None:
        """All streams are lost and begin anew, as when a store's data is deleted."""
        self.renew_epoch()
        self.keys = Expiring()
        now = self.clock()
        for room, old in self.streams.items():
            self.streams[room] = stream = Stream(self.epoch, now)
            stream.sinks = old.sinks

    def rewind(self, room: str, offset: int) -> None:
        """The stream of `room` forgets all after `offset`, as after a fail-over to a replica that lagged."""
        self.stream(room).rewind(offset)

    # --- leases

    def room_leases(self, room: str, now: float) -> RoomLeases:
        """The leases of a room that have not expired; others hear of those that have."""
        leases = self.presence.get(room)
        if leases is None:
            leases = self.presence[room] = RoomLeases()
        if leases.drop_expired(now):
            self.hint(room)
        return leases

    def user_slots(self, user: str, now: float) -> dict[str, Slot]:
        """The slots of a user that have not expired, oldest first."""
        slots = self.slots.setdefault(user, {})
        for client in [client for client, slot in slots.items() if slot.expires <= now]:
            del slots[client]
        return slots

    def hint(self, room: str) -> None:
        """Tell the nodes that have members in `room` to look at its presence."""
        stream = self.streams.get(room)
        if stream is not None:
            for sink in stream.sinks.values():
                sink.changed(room)

    # --- what nobody asks for any more

    def sweep(self, now: float) -> None:
        """One part of a round through everything that expires."""
        self.sweep_at = now + _SWEEP_EVERY
        self.keys.sweep(now)
        self.replies.sweep(now)
        streams, rooms, users = self._unswept
        forgotten = False
        for room in _next_part(streams, self.streams):
            stream = self.streams[room]  # only a sweep deletes, and a round has each key once
            stream.trim(now)
            # A stream that never had an event is forgotten without a trace; of another one, a
            # position may be out there, which must not fit the numbers of its next life.
            if not (stream.sinks or stream.stored) and (not stream.offset or now >= stream.used + STREAM_TTL):
                del self.streams[room]
                forgotten = forgotten or stream.offset > 0
        if forgotten:
            self.renew_epoch()
        for room in _next_part(rooms, self.presence):
            if not self.room_leases(room, now):
                del self.presence[room]
        for user in _next_part(users, self.slots):
            if not self.user_slots(user, now):
                del self.slots[user]
