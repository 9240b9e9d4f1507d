"""Presence and slots: leases that nodes refresh.

Presence has a key for each (user, client) in a room. The slots of a user stand together in one key, so that
a claim is one change of one value: nobody can count them while another one takes the last.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, NamedTuple

from roomwire.backplanes.contract import Claim, Holder, Lost, Member
from roomwire.backplanes.nats.flights import all_of
from roomwire.backplanes.nats.kv import ABSENT, Bucket, Item
from roomwire.backplanes.nats.subjects import Subjects
from roomwire.core.errors import Unavailable

__all__ = ["LEASE", "Leases"]

LEASE = 55.0
"""Seconds that presence and slots outlive their last refresh: two refreshes of 20 s may fail."""


class _Lease(NamedTuple):
    """One connection's presence in a room.

    Attributes:
        born: the revision that it began with, so that members are in an order that all nodes agree on; 0 in
            that revision itself.
    """

    member: Member
    born: int
    expires: float

    def dump(self) -> tuple[bytes, float]:
        user, client, connection, info = self.member
        fields = [user, client, connection, info.decode("latin-1"), self.born, self.expires]
        return json.dumps(fields, separators=(",", ":")).encode(), self.expires

    @classmethod
    def load(cls, value: bytes, revision: int = 0) -> _Lease:
        user, client, connection, info, born, expires = json.loads(value)
        _check_texts(user, client, connection)
        return cls(Member(user, client, connection, info.encode("latin-1")), int(born) or revision, float(expires))


class _Slot(NamedTuple):
    holder: Holder
    expires: float


def _load_slots(value: bytes) -> list[_Slot]:
    slots = [_Slot(Holder(*fields[:3]), float(fields[3])) for fields in json.loads(value) if len(fields) == 4]
    for slot in slots:
        _check_texts(*slot.holder)
    return slots


def _check_texts(*values: object) -> None:
    if not all(isinstance(value, str) for value in values):
        raise TypeError("a record with other fields")


def _dump_slots(slots: list[_Slot]) -> tuple[bytes, float]:
    if not slots:
        return b"", 0.0
    value = json.dumps([[*slot.holder, slot.expires] for slot in slots], separators=(",", ":")).encode()
    return value, max(slot.expires for slot in slots)


class Leases:
    """See the module's text.

    Args:
        bucket: where they are.
        subjects: the names.
        hint: tells the nodes with members in a room that its presence changed.
        lease: seconds that a lease outlives its last refresh.
    """

    def __init__(self, bucket: Bucket, subjects: Subjects, hint: Callable[[str], None], lease: float) -> None:
        self._bucket = bucket
        self._lease = lease
        self._clock = bucket.clock
        self._subjects = subjects
        self._hint = hint
        # What this node wrote last, in two generations: what a refresh does not touch any more is forgotten.
        self._mine: dict[str, Item] = {}
        self._older: dict[str, Item] = {}
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}

    # --- presence

    def _alive(self, item: Item) -> _Lease | None:
        lease = self._lease_of(item)
        return None if lease is None or self._clock.ended(lease.expires) else lease

    def _lease_of(self, item: Item) -> _Lease | None:
        return self._bucket.bodies.read(lambda value: _Lease.load(value, item.revision), item.value)

    def _known(self, key: str, member: Member) -> Item | None:
        """What this node wrote for this connection."""
        item = self._mine.get(key) or self._older.get(key)
        mine = item is not None and item.value is not None and _Lease.load(item.value).member == member
        return item if mine else None

    def _keep(self, key: str, item: Item) -> None:
        self._older.pop(key, None)
        self._mine[key] = item

    def _forget(self, key: str) -> None:
        self._mine.pop(key, None)
        self._older.pop(key, None)

    def _told(self, room: str) -> None:
        """The hint is no more than that: what was written holds without it."""
        with suppress(Unavailable):
            self._hint(room)

    async def enter(self, room: str, member: Member) -> None:
        """See the contract."""
        key = self._subjects.member(room, member.user, member.client)
        news = True

        def decide(item: Item) -> tuple[bytes, float]:
            nonlocal news
            known = self._alive(item)
            news = known is None or known.member.info != member.info
            return _Lease(member, 0 if known is None else known.born, self._clock.now() + self._lease).dump()

        self._keep(key, await self._bucket.change(key, self._known(key, member) or ABSENT, decide))
        if news:
            self._told(room)

    async def leave(self, room: str, member: Member, grace: float) -> None:
        """See the contract."""
        key = self._subjects.member(room, member.user, member.client)
        gone = False

        def decide(item: Item) -> tuple[bytes, float] | None:
            nonlocal gone
            known = self._alive(item)
            gone = False
            if grace > 0:
                if known is None or known.member.connection != member.connection:
                    return None
                return known._replace(expires=self._clock.now() + grace).dump()
            held = self._lease_of(item)
            if held is None or held.member.connection != member.connection:
                return None
            gone = True
            return b"", 0.0

        known = self._known(key, member)
        await self._bucket.change(key, known, decide)
        if known is not None:
            self._forget(key)
        if gone:
            self._told(room)

    async def members(self, room: str) -> list[Member]:
        """See the contract."""
        self._clock.check()
        items = await self._bucket.scan(self._subjects.members(room))
        leases = [lease for item in items.values() if (lease := self._alive(item)) is not None]
        leases.sort(key=lambda lease: lease.born)
        return [lease.member for lease in leases]

    async def rooms_of(self, user: str, name_of: Callable[[str], str]) -> list[str]:
        """See the contract; `name_of` reads a token."""
        items = await self._bucket.scan(self._subjects.rooms_of(user))
        alive = [key for key, item in items.items() if self._alive(item) is not None]
        return [name_of(token) for token in dict.fromkeys(key.split(".")[1] for key in alive)]

    # --- slots

    async def _change_slots(self, user: str, guess: Item | None, change: Callable[[list[_Slot]], bool]) -> None:
        """Change the slots of a user that have not ended, oldest first; `change` says whether it did."""
        key = self._subjects.slots(user)

        def decide(item: Item) -> tuple[bytes, float] | None:
            slots = self._bucket.bodies.read(_load_slots, item.value) or []
            slots = [slot for slot in slots if not self._clock.ended(slot.expires)]
            return _dump_slots(slots) if change(slots) else None

        # One at a time in this node; several nodes find out by the conflict.
        lock, waiting = self._locks.get(key, (asyncio.Lock(), 0))
        self._locks[key] = lock, waiting + 1
        try:
            async with lock:
                await self._bucket.change(key, guess, decide)
        finally:
            lock, waiting = self._locks.pop(key)
            if waiting > 1:
                self._locks[key] = lock, waiting - 1

    async def claim(self, user: str, holder: Holder, limit: int, *, evict: bool) -> Claim:
        """See the contract."""
        claim = Claim(False)

        def change(slots: list[_Slot]) -> bool:
            nonlocal claim
            displaced = None
            mine = next((slot for slot in slots if slot.holder.client == holder.client), None)
            if mine is not None:
                slots.remove(mine)
                displaced = None if mine.holder.connection == holder.connection else mine.holder
            elif len(slots) >= limit:
                if not evict or not slots:
                    claim = Claim(False)
                    return False
                displaced = slots.pop(0).holder
            slots.append(_Slot(holder, self._clock.now() + self._lease))
            claim = Claim(True, displaced)
            return True

        await self._change_slots(user, ABSENT, change)
        return claim

    async def release(self, user: str, holder: Holder) -> None:
        """See the contract."""

        def change(slots: list[_Slot]) -> bool:
            mine = [slot for slot in slots if _same(slot.holder, holder)]
            for slot in mine:
                slots.remove(slot)
            return bool(mine)

        await self._change_slots(user, None, change)

    # --- refreshing

    async def refresh(
        self, members: Iterable[tuple[str, Member]], slots: Iterable[tuple[str, Holder]], limit: int | None
    ) -> list[Lost]:
        """See the contract."""
        try:
            lost = await self._refresh(members, slots, limit)
        except Unavailable:
            # The link may be up all the same: it is the store that has no leader, or no room.
            self._clock.lost()
            raise
        self._clock.found()
        return lost

    async def _refresh(
        self, members: Iterable[tuple[str, Member]], slots: Iterable[tuple[str, Holder]], limit: int | None
    ) -> list[Lost]:
        await self._bucket.look()  # the store's clock, and the bucket itself
        self._older, self._mine = self._mine, {}
        by_user: dict[str, list[Holder]] = {}
        for user, holder in slots:
            by_user.setdefault(user, []).append(holder)
        lost: list[Lost] = []
        works: list[Any] = [self._refresh_member(room, member) for room, member in members]
        works += [self._refresh_slots(user, holders, limit, lost) for user, holders in by_user.items()]
        await all_of(works)
        return lost

    async def _refresh_member(self, room: str, member: Member) -> None:
        key = self._subjects.member(room, member.user, member.client)
        made = False

        def decide(item: Item) -> tuple[bytes, float] | None:
            nonlocal made
            known = self._alive(item)
            made = known is None
            if known is not None and known.member.connection != member.connection:
                return None
            return _Lease(member, 0 if known is None else known.born, self._clock.now() + self._lease).dump()

        item = await self._bucket.change(key, self._known(key, member), decide)
        held = self._lease_of(item)
        if held is not None and held.member.connection == member.connection:
            self._keep(key, item)
        if made:
            self._told(room)

    async def _refresh_slots(self, user: str, holders: list[Holder], limit: int | None, lost: list[Lost]) -> None:
        mine: list[Lost] = []

        def change(slots: list[_Slot]) -> bool:
            mine.clear()
            expires = self._clock.now() + self._lease
            for holder in holders:
                place = next((i for i, slot in enumerate(slots) if slot.holder.client == holder.client), None)
                replaced = place is not None and slots[place].holder.connection != holder.connection
                if replaced or (place is None and limit is not None and len(slots) >= limit):
                    mine.append(Lost(user, holder, replaced))
                elif place is None:
                    slots.append(_Slot(holder, expires))
                else:
                    slots[place] = _Slot(holder, expires)
            return len(mine) < len(holders)

        await self._change_slots(user, None, change)
        lost.extend(mine)


def _same(one: Holder, other: Holder) -> bool:
    return one.client == other.client and one.connection == other.connection
