"""Leases: presence and connection slots.

They lapse by the server's clock unless a node refreshes them, so those of a node that died end by themselves. But
after an outage nobody could refresh any, and after a loss there are none: then for one period of refreshes presence
is not read, and lapsed slots count, or everybody would "leave" and come back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from operator import itemgetter
from secrets import token_hex
from typing import TypeVar

from roomwire.backplanes.contract import Claim, Holder, Lost, Member, token
from roomwire.backplanes.redis.keys import Keys, untoken
from roomwire.backplanes.redis.scripts import (
    CLAIM,
    ENTER,
    INDEX,
    INDEXED,
    LEAVE,
    MEMBERS,
    REFRESH_MEMBERS,
    REFRESH_SLOTS,
    RELEASE,
)
from roomwire.backplanes.redis.store import Call, Store
from roomwire.backplanes.redis.streams import milliseconds
from roomwire.core.errors import Unavailable

__all__ = ["LEASE", "REFRESH", "Presence", "Settling", "Slots"]

T = TypeVar("T")

LEASE = 55.0
"""Seconds that presence and slots outlive their last refresh: two refreshes of 20 s may fail."""
REFRESH = 20.0
"""Seconds between two refreshes of a node (`roomwire.node.upkeep`)."""
_LATE = 3.0
"""Seconds that a refresh may be late."""
_KEYS = 100
"""Rooms or users of one script."""
_CALLS = 100
"""Scripts that are sent in a piece."""
_MEMBERS = 500
"""Leases of one script."""


class Settling:
    """Whether the leases in the store are to be believed.

    Args:
        lease: seconds of a lease.
        changed: tells the sink that a room's presence may be read again.
    """

    def __init__(self, lease: float, changed: Callable[[str], None]) -> None:
        self._lease = lease
        self._changed = changed
        self._until = 0.0
        self._failing: float | None = None
        self.rooms: dict[str, str] = {}
        """The rooms that this node listens to, and the epoch in which their members entered them."""
        self._waiting: dict[str, asyncio.TimerHandle] = {}

    @property
    def period(self) -> float:
        """Seconds in which every node has refreshed its leases."""
        return min(REFRESH + _LATE, self._lease)

    @property
    def unsettled(self) -> bool:
        """Whether leases may have lapsed because nobody could refresh them."""
        now = asyncio.get_running_loop().time()
        return now < self._until or (self._failing is not None and self._is_long(now - self._failing))

    def _is_long(self, outage: float) -> bool:
        # A lease may have been refreshed a period before the outage, and is refreshed a period after it.
        return outage > self._lease - 2 * (REFRESH + _LATE)

    @contextmanager
    def refreshing(self) -> Iterator[None]:
        """Leases are being refreshed. A store may be reached and yet store nothing, as one without memory."""
        began = asyncio.get_running_loop().time()
        try:
            yield
        except Unavailable:
            if self._failing is None:
                self._failing = began
            raise
        failing, self._failing = self._failing, None
        if failing is not None:
            self.was_down(asyncio.get_running_loop().time() - failing)

    def was_down(self, seconds: float) -> None:
        """The store could not be reached, or not be written to, for so long."""
        if self._is_long(seconds):
            self._until = asyncio.get_running_loop().time() + self.period
            for room in self.rooms:
                self._later(room, self.period)

    def check(self, room: str, epoch: str, age: float) -> None:
        """Members were read, in an epoch that is `age` seconds old.

        Raises:
            Unavailable: they cannot be believed yet.
        """
        if self._failing is not None and self.unsettled:
            raise Unavailable("presence is not read while leases cannot be refreshed", stored=False)
        left = self._until - asyncio.get_running_loop().time()
        known = self.rooms.get(room)
        if known is not None and known != epoch:
            # Another life of the room began under its members: what the store knew of them may be lost, too.
            left = max(left, self.period - age)
            if left <= 0:
                self.rooms[room] = epoch
        if left > 0:
            self._later(room, left)
            raise Unavailable("presence is not read before all nodes have refreshed theirs", stored=False)

    def _later(self, room: str, seconds: float) -> None:
        if room not in self._waiting:
            self._waiting[room] = asyncio.get_running_loop().call_later(seconds, self._settle, room)

    def _settle(self, room: str) -> None:
        self._waiting.pop(room).cancel()
        if room in self.rooms:
            self._changed(room)

    def close(self) -> None:
        """Tell nobody any more."""
        for timer in self._waiting.values():
            timer.cancel()
        self._waiting.clear()


class Presence:
    """Who is in which room."""

    def __init__(self, store: Store, keys: Keys, lease: float, settling: Settling) -> None:
        self._store = store
        self._keys = keys
        self._lease = milliseconds(lease)
        self._settling = settling

    async def enter(self, room: str, member: Member) -> None:
        """See the contract."""
        store, connection = self._store, token(member.connection)
        told = (store.publish, self._keys.channel(room))
        who = _who(member)
        before = await store.run(ENTER, self._keys.leases(room), self._lease, who, connection, member.info, *told)
        index = self._keys.index(member.user)
        await store.run(INDEX, (index,), self._lease, 1, _entry(room, member.client, connection))
        if before:
            await store.do(index, "ZREM", index, _entry(room, member.client, before.decode()))

    async def leave(self, room: str, member: Member, grace: float) -> None:
        """See the contract."""
        store, connection = self._store, token(member.connection)
        after = milliseconds(grace) if grace > 0 else 0
        told = (store.publish, self._keys.channel(room))
        held = await store.run(LEAVE, self._keys.leases(room), _who(member), connection, after, *told)
        if held and not after:
            index = self._keys.index(member.user)
            await store.do(index, "ZREM", index, _entry(room, member.client, connection))

    async def members(self, room: str) -> list[Member]:
        """See the contract."""
        names = (*self._keys.stream(room), *self._keys.leases(room))
        # Before the script is run, since it drops what has lapsed.
        if self._settling.unsettled:
            self._settling.check(room, "", 0.0)
        told = (self._store.publish, self._keys.channel(room))
        epoch, age, *found = await self._store.run(MEMBERS, names, token_hex(8), *told, read=True)
        self._settling.check(room, epoch.decode("ascii"), age / 1000)
        members = []
        for who, record in zip(found[::2], found[1::2], strict=True):
            version, since, connection, info = record.split(b"|", 3)
            if version == b"1":
                user, client = who.split(b".")
                members.append((int(since), Member(untoken(user), untoken(client), untoken(connection), info)))
        members.sort(key=itemgetter(0))
        return [member for _, member in members]

    async def rooms_of(self, user: str) -> list[str]:
        """See the contract."""
        entries = await self._store.run(INDEXED, (self._keys.index(user),), read=True)
        return list(dict.fromkeys(untoken(entry.partition(b":")[0]) for entry in entries))

    async def refresh(self, members: Iterable[tuple[str, Member]]) -> None:
        """Extend these leases, or make them anew."""
        rooms: dict[str, list[Member]] = {}
        users: dict[str, list[str]] = {}
        for room, member in members:
            rooms.setdefault(room, []).append(member)
            users.setdefault(member.user, []).append(_entry(room, member.client, token(member.connection)))
        names = [(room, part) for room, all_ in rooms.items() for part in _parts(all_, _MEMBERS)]
        leases = [self._keys.leases(room) for room, _ in names]
        calls: list[Call] = []
        for group in self._store.group((key for key, _ in leases), _KEYS):
            arguments: list[bytes | str | int] = [self._lease, self._store.publish]
            for place in group:
                room, part = names[place]
                arguments += [self._keys.channel(room), len(part)]
                for member in part:
                    arguments += [_who(member), token(member.connection), member.info]
            calls.append(([key for place in group for key in leases[place]], arguments))
        for some in _parts(calls, _CALLS):
            await self._store.run_many(REFRESH_MEMBERS, some)
        await self._refresh_index(users)

    async def _refresh_index(self, users: dict[str, list[str]]) -> None:
        entries = list(users.values())
        names = [self._keys.index(user) for user in users]
        calls: list[Call] = []
        for group in self._store.group(names, _KEYS):
            arguments: list[bytes | str | int] = [self._lease]
            for place in group:
                arguments += [len(entries[place]), *entries[place]]
            calls.append(([names[place] for place in group], arguments))
        for some in _parts(calls, _CALLS):
            await self._store.run_many(INDEX, some)


class Slots:
    """How many connections a user has."""

    def __init__(self, store: Store, keys: Keys, lease: float, settling: Settling) -> None:
        self._store = store
        self._keys = keys
        self._lease = milliseconds(lease)
        self._settling = settling

    async def claim(self, user: str, holder: Holder, limit: int, *, evict: bool) -> Claim:
        """See the contract."""
        unsettled = int(self._settling.unsettled)
        who = _slot(holder)
        granted, *lost = await self._store.run(
            CLAIM, (self._keys.slots(user),), self._lease, *who, limit, int(evict), unsettled
        )
        return Claim(bool(granted), Holder(*map(untoken, lost)) if lost else None)

    async def release(self, user: str, holder: Holder) -> None:
        """See the contract."""
        await self._store.run(RELEASE, (self._keys.slots(user),), *_slot(holder)[:2])

    async def refresh(self, slots: Iterable[tuple[str, Holder]], limit: int | None) -> list[Lost]:
        """Extend these slots, or make them anew; those that are others' by now."""
        users: dict[str, list[Holder]] = {}
        for user, holder in slots:
            users.setdefault(user, []).append(holder)
        held = list(users.items())
        calls: list[Call] = []
        places: list[list[tuple[str, Holder]]] = []
        for group in self._store.group((self._keys.slots(user) for user in users), _KEYS):
            most: int | str = "" if limit is None else limit
            arguments: list[bytes | str | int] = [self._lease, most, int(self._settling.unsettled)]
            places.append([(held[place][0], holder) for place in group for holder in held[place][1]])
            for place in group:
                holders = held[place][1]
                arguments.append(len(holders))
                for holder in holders:
                    arguments += _slot(holder)
            calls.append(([self._keys.slots(held[place][0]) for place in group], arguments))
        lost: list[Lost] = []
        for some, theirs in zip(_parts(calls, _CALLS), _parts(places, _CALLS), strict=True):
            for reply, mine in zip(await self._store.run_many(REFRESH_SLOTS, some), theirs, strict=True):
                for place, replaced in zip(reply[::2], reply[1::2], strict=True):
                    user, holder = mine[place]
                    lost.append(Lost(user, holder, bool(replaced)))
        return lost


def _who(member: Member) -> str:
    return f"{token(member.user)}.{token(member.client)}"


def _entry(room: str, client: str, connection: str) -> str:
    return f"{token(room)}:{token(client)}:{connection}"


def _slot(holder: Holder) -> tuple[str, str, str]:
    return token(holder.client), token(holder.connection), token(holder.node)


def _parts(items: Sequence[T], size: int) -> list[Sequence[T]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
