"""What is remembered of messages and publications: replies, and keys for longer or shorter than streams do."""

from __future__ import annotations

import asyncio
import json
import secrets
from typing import Literal, NamedTuple

from roomwire.backplanes.contract import Reservation
from roomwire.backplanes.nats.kv import ABSENT, Bucket, Item
from roomwire.backplanes.nats.subjects import digest
from roomwire.core.positions import Position

__all__ = ["Keys", "Replies"]


class _Reply(NamedTuple):
    state: Literal["pending", "done"]
    fingerprint: str
    expires: float
    value: bytes

    def dump(self) -> bytes:
        return json.dumps(self[:3], separators=(",", ":")).encode() + b"\n" + self.value

    @classmethod
    def load(cls, raw: bytes) -> _Reply:
        head, _, value = raw.partition(b"\n")
        state, fingerprint, expires = json.loads(head)
        if state not in ("pending", "done") or not isinstance(fingerprint, str):
            raise TypeError("a record with other fields")
        return cls(state, fingerprint, float(expires), value)


class Replies:
    """The replies of idempotent messages."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._clock = bucket.clock

    def _alive(self, value: bytes | None) -> _Reply | None:
        reply = self._bucket.bodies.read(_Reply.load, value)
        return reply if reply is not None and reply.expires > self._clock.now() else None

    async def reserve(self, key: str, fingerprint: str, lease: float) -> Reservation:
        """See the contract."""
        answer = Reservation("new", fingerprint)

        def decide(item: Item) -> tuple[bytes, float] | None:
            nonlocal answer
            known = self._alive(item.value)
            if known is not None:
                answer = Reservation(known.state, known.fingerprint, known.value)
                return None
            answer = Reservation("new", fingerprint)
            reply = _Reply("pending", fingerprint, self._clock.now() + lease, b"")
            return reply.dump(), reply.expires

        await self._bucket.change(_name("r", key), ABSENT, decide)
        return answer

    async def renew(self, key: str, lease: float) -> None:
        """See the contract."""

        def decide(item: Item) -> tuple[bytes, float] | None:
            known = self._alive(item.value)
            if known is None or known.state != "pending":
                return None
            reply = known._replace(expires=self._clock.now() + lease)
            return reply.dump(), reply.expires

        await self._bucket.change(_name("r", key), None, decide)

    async def remember(self, key: str, fingerprint: str, value: bytes, ttl: float) -> None:
        """See the contract."""
        reply = _Reply("done", fingerprint, self._clock.now() + ttl, value)
        await self._bucket.write(_name("r", key), reply.dump(), reply.expires, None)

    async def forget(self, key: str) -> None:
        """See the contract."""

        def decide(item: Item) -> tuple[bytes, float] | None:
            known = self._alive(item.value)
            return (b"", 0.0) if known is not None and known.state == "pending" else None

        await self._bucket.change(_name("r", key), None, decide)


class Keys:
    """The keys of publications, where they are known for another time than the stream's.

    The entry has the id under which the publication is stored, which is another one once the entry has
    ended, and then its position. So a copy gets the first one's id within the window, whatever the stream
    remembers, and none after it.
    """

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._clock = bucket.clock

    async def id(self, room: str, key: str, window: float) -> tuple[str, Item, Position | None]:
        """The id of a publication, its entry, and its position where it is stored already."""
        found: tuple[str, list[object] | None] = ("", None)

        def decide(item: Item) -> tuple[bytes, float] | None:
            nonlocal found
            now = self._clock.now()
            known = self._bucket.bodies.read(_load_key, item.value)
            if known is not None and known[1] > now:
                found = known[0], known[2]
                return None
            found = secrets.token_urlsafe(16), None
            return json.dumps([found[0], now + window, None]).encode(), now + window

        item = await self._bucket.change(_name("k", room, key), ABSENT, decide)
        message, position = found
        return message, item, None if position is None else Position(*position)  # type: ignore[arg-type]  # as it was written

    async def stored(self, room: str, key: str, item: Item, position: Position) -> None:
        """It is stored; where the entry has changed meanwhile, others wrote the same."""
        assert item.value is not None
        message, expires, _ = json.loads(item.value)
        value = json.dumps([message, expires, position]).encode()

        def decide(current: Item) -> tuple[bytes, float] | None:
            known = self._bucket.bodies.read(_load_key, current.value)
            return (value, expires) if known is not None and known[0] == message else None

        await asyncio.shield(self._bucket.change(_name("k", room, key), item, decide))


def _load_key(value: bytes) -> tuple[str, float, list[object] | None]:
    message, expires, position = json.loads(value)
    if not isinstance(message, str) or not (position is None or len(position) == 2):
        raise TypeError("a record with other fields")
    return message, float(expires), position


def _name(kind: str, *parts: str) -> str:
    return f"{kind}.{digest(*parts)}"
