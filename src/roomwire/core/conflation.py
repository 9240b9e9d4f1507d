"""Conflation: of what is published for one key, the newest alone.

A **key** is the event's name and, where the room's policy names a field (``conflate_key``), the value of that field
in the event's JSON object. A publication replaces the one before it of its key **for everybody**: whoever is excluded
from the newer one does not get the older one either, since it has made, or knows, what is newer. An event without
number has keys of its own: it is not kept, so it must not take the place of one that is.

Nothing here moves a position. Every publication is stored, numbered and proven as in any room; what is left out is
its delivery, and only where the delivery of a later one follows. The last publication of a block is always the last
one that came, so that whoever got the block stands where the stream stood.

`Conflation` holds what waits in one room, and what somebody did not get yet. Publications are counted as they come,
and a **mark** is such a count: who has a mark has all up to there, or what replaced it. `Latest` holds the newest of
each key for those who join. Times are monotonic seconds.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf
from typing import NamedTuple

from pydantic_core import from_json, to_json

from roomwire.core.publication import Publication

__all__ = ["LATEST_BYTES", "LATEST_KEYS", "Conflation", "Item", "Key", "Latest", "key_of", "newest_of"]

LATEST_KEYS = 1000
"""Keys whose newest publication a node keeps for a room; what was renewed longest ago is dropped first."""
LATEST_BYTES = 1_048_576
"""The same in bytes of data."""

Key = tuple[bool, str, str | bytes | None]
"""Whether it has a number, the event's name, and the value of the field: a text, or another value as JSON."""


def key_of(publication: Publication, field: str | None) -> Key:
    """The key of a publication.

    Args:
        publication: it.
        field: a field of its JSON object; None: the name is the key, as it is for binary events, for data that is no
            object, and where the field is missing.
    """
    value: str | bytes | None = None
    if field is not None and not publication.binary:
        try:
            data = from_json(publication.data)
        except ValueError:
            data = None
        if isinstance(data, dict) and field in data:
            found = data[field]
            value = found if isinstance(found, str) else to_json(found)
    return publication.position is not None, publication.event, value


def newest_of(publications: Iterable[Publication], field: str | None) -> list[Publication]:
    """The newest of each key, in their order."""
    newest: dict[Key, Publication] = {}
    for publication in publications:
        key = key_of(publication, field)
        newest.pop(key, None)
        newest[key] = publication
    return list(newest.values())


class Item(NamedTuple):
    """A publication, and the mark of who has it."""

    mark: int
    publication: Publication


class Conflation:
    """What waits in one room.

    Args:
        field: of the key, see `key_of`.

    Attributes:
        head: the mark of who has everything.
        sent: the mark of the members in step: all up to there was put on its way to them.
        waiting: publications that wait for them.
        waiting_bytes: bytes of their data.
        kept: publications that they have, and somebody else does not.
        kept_bytes: bytes of their data.
        replaced: publications that a later one took the place of while they waited, since the last cut.
    """

    __slots__ = ("_field", "_newest", "head", "kept", "kept_bytes", "replaced", "sent", "waiting", "waiting_bytes")

    def __init__(self, field: str | None = None) -> None:
        self._field = field
        self._newest: dict[Key, Item] = {}  # in the order of marks
        self.head = self.sent = 0
        self.waiting = self.waiting_bytes = 0
        self.kept = self.kept_bytes = 0
        self.replaced = 0

    def take(self, publication: Publication) -> None:
        """The next publication: it replaces that of its key."""
        key = key_of(publication, self._field)
        replaced = self._newest.pop(key, None)
        if replaced is not None:
            self._count(replaced, -1)
            self.replaced += replaced.mark > self.sent
        self.head += 1
        item = self._newest[key] = Item(self.head, publication)
        self._count(item, 1)

    def cut(self) -> list[Item]:
        """All that waits, after what was kept: from now on the members in step have it."""
        self.sent = self.head
        self.kept += self.waiting
        self.kept_bytes += self.waiting_bytes
        self.waiting = self.waiting_bytes = self.replaced = 0
        return list(self._newest.values())

    def forget(self, mark: int) -> None:
        """Everybody has all up to `mark`, which is not after `sent`."""
        if self.kept:
            self._keep([pair for pair in self._newest.items() if pair[1].mark > mark])

    def follow(self, offset: int) -> None:
        """Everybody has all up to `offset` by another way; what came later waits, and so do events without number."""
        positions = ((key, item, item.publication.position) for key, item in self._newest.items())
        self._keep([(key, item) for key, item, position in positions if position is None or position.offset > offset])

    def clear(self) -> None:
        """Forget all that waits."""
        self.sent = self.head
        self._keep([])

    def _keep(self, pairs: Iterable[tuple[Key, Item]]) -> None:
        self._newest = dict(pairs)
        self.waiting = self.waiting_bytes = self.kept = self.kept_bytes = 0
        for item in self._newest.values():
            self._count(item, 1)

    def _count(self, item: Item, sign: int) -> None:
        size = sign * len(item.publication.data)
        if item.mark > self.sent:
            self.waiting += sign
            self.waiting_bytes += size
        else:
            self.kept += sign
            self.kept_bytes += size


class Latest:
    """The newest numbered publication of each key of a room, for those who join.

    It has what was published since the room is subscribed, and, once it is `filled`, what the history had before. One
    that is older than the history's time to live is not given any more, nor one that found no place.

    Args:
        field: of the key, see `key_of`.
        ttl: seconds after which a publication is dropped; of one that was read from the history, since it was read.
        max_keys: publications to keep.
        max_bytes: bytes of their data to keep.

    Attributes:
        filled: whether the history was read.
        version: grows with every change.
        dropped: publications that found no place.
    """

    __slots__ = ("_bytes", "_field", "_max_bytes", "_max_keys", "_newest", "_ttl", "dropped", "filled", "version")

    def __init__(
        self,
        field: str | None = None,
        *,
        ttl: float = inf,
        max_keys: int = LATEST_KEYS,
        max_bytes: int = LATEST_BYTES,
    ) -> None:
        self._field = field
        self._ttl = ttl
        self._max_keys = max_keys
        self._max_bytes = max_bytes
        self._newest: dict[Key, tuple[float, Publication]] = {}  # in the order of offsets, with when it came
        self._bytes = 0
        self.filled = False
        self.version = 0
        self.dropped = 0

    def take(self, publication: Publication, now: float) -> None:
        """The next publication. One without a number is passed over."""
        if publication.position is None:
            return
        self._put(key_of(publication, self._field), publication, now)
        self._fit()

    def fill(self, older: Latest) -> None:
        """What the history has of what came before; what is here is newer, and stays."""
        newest = {**older._newest, **self._newest}
        self._newest, self._bytes = {}, 0
        for key, (at, publication) in sorted(newest.items(), key=lambda one: _offset(one[1][1])):
            self._put(key, publication, at)
        self._fit()
        self.dropped += older.dropped
        self.filled = True

    def values(self, now: float) -> list[Publication]:
        """The newest of each key, in the order of offsets."""
        old = [key for key, (at, _) in self._newest.items() if at + self._ttl <= now]
        for key in old:
            self._drop(key)
        return [publication for _, publication in self._newest.values()]

    def clear(self) -> None:
        """Of what was here nothing holds any more: the stream began anew."""
        self._newest = {}
        self._bytes = 0
        self.filled = False
        self.version += 1

    def _put(self, key: Key, publication: Publication, now: float) -> None:
        if key in self._newest:
            self._drop(key)
        self._newest[key] = (now, publication)
        self._bytes += len(publication.data)
        self.version += 1

    def _drop(self, key: Key) -> None:
        self._bytes -= len(self._newest.pop(key)[1].data)
        self.version += 1

    def _fit(self) -> None:
        while len(self._newest) > self._max_keys or self._bytes > self._max_bytes:
            self._drop(next(iter(self._newest)))
            self.dropped += 1


def _offset(publication: Publication) -> int:
    assert publication.position is not None
    return publication.position.offset
