"""Events: publishing, the history, positions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from secrets import token_hex

from roomwire.backplanes.contract import HistoryPolicy
from roomwire.backplanes.redis.keys import EPHEMERAL, Keys
from roomwire.backplanes.redis.scripts import HISTORY, POSITIONS, PUBLISH
from roomwire.backplanes.redis.store import Call, Store
from roomwire.core.errors import Unavailable
from roomwire.core.positions import Position
from roomwire.core.tail import Entry, Page

__all__ = ["Streams", "milliseconds"]

_MOST_MS = 10 * 366 * 86_400_000
_ROOMS = 100
"""Rooms of one script: it holds up all others for a millisecond."""
_MEMBER = re.compile(rb"([0-9]{1,16}):[0-9]+:")


def milliseconds(seconds: float) -> int:
    """As the store counts time; no less than one, no more than ten years."""
    return max(1, min(round(seconds * 1000), _MOST_MS))


def _position(text: bytes) -> Position:
    epoch, _, offset = text.partition(b"|")
    return Position(epoch.decode("ascii"), int(offset))


class Streams:
    """The events of rooms.

    Args:
        store: where they are.
        keys: what they are called.
    """

    def __init__(self, store: Store, keys: Keys) -> None:
        self._store = store
        self._keys = keys

    async def publish(
        self, room: str, body: bytes, *, key: str | None, policy: HistoryPolicy, window: float
    ) -> Position:
        """See the contract."""
        keys, store = self._keys, self._store
        names = keys.stream(room)
        reply = await store.run(
            PUBLISH,
            names if key is None else (*names, keys.published(room, key)),
            token_hex(8),
            policy.size,
            milliseconds(policy.ttl),
            milliseconds(window),
            store.publish,
            keys.channel(room),
            body,
        )
        return _position(reply)

    async def publish_ephemeral(self, room: str, body: bytes) -> None:
        """See the contract."""
        channel = self._keys.channel(room)
        await self._store.do(channel, self._store.publish, channel, EPHEMERAL + body)

    async def top(self, room: str) -> Position:
        """Where a room stands."""
        (top,) = await self._store.run(POSITIONS, self._keys.stream(room), token_hex(8), read=True)
        return _position(top)

    async def positions(self, rooms: Sequence[str]) -> dict[str, Position]:
        """See the contract."""
        names = [self._keys.stream(room) for room in rooms]
        groups = self._store.group((meta for meta, _ in names), _ROOMS)
        fresh = (token_hex(8),)
        calls: list[Call] = [([key for place in group for key in names[place]], fresh) for group in groups]
        found: dict[int, Position] = {}
        for group, tops in zip(groups, await self._store.run_many(POSITIONS, calls, read=True), strict=True):
            found.update(zip(group, map(_position, tops), strict=True))
        return {room: found[place] for place, room in enumerate(rooms)}

    async def history(self, room: str, since: Position | None, limit: int) -> Page:
        """See the contract."""
        if since is None or limit <= 0:
            return Page(await self.top(room))
        names = self._keys.stream(room)
        fresh = token_hex(8)
        epoch, offset = since
        top, reason, *members = await self._store.run(HISTORY, names, fresh, epoch, offset, limit, read=True)
        if reason:
            return Page(_position(top), (), reason.decode("ascii"))
        entries = []
        for place, member in enumerate(members, start=offset + 1):
            head = _MEMBER.match(member)
            if head is None or int(head[1]) != place:
                # Somebody else wrote into it: nothing of it proves anything.
                raise Unavailable(f"the history of {room!r} in Redis cannot be read", stored=False)
            entries.append(Entry(place - 1, place, member[head.end() :]))
        return Page(_position(top), entries)
