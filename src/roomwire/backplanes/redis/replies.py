"""Replies of idempotent messages: ``1p|FINGERPRINT|`` while one is handled, then ``1d|FINGERPRINT|REPLY``."""

from __future__ import annotations

from roomwire.backplanes.contract import Reservation, token
from roomwire.backplanes.redis.keys import Keys, untoken
from roomwire.backplanes.redis.scripts import FORGET, RENEW, RESERVE
from roomwire.backplanes.redis.store import Store
from roomwire.backplanes.redis.streams import milliseconds
from roomwire.core.errors import Unavailable

__all__ = ["Replies"]


class Replies:
    """What is remembered of messages.

    Args:
        store: where.
        keys: under which names.
    """

    def __init__(self, store: Store, keys: Keys) -> None:
        self._store = store
        self._keys = keys

    async def reserve(self, key: str, fingerprint: str, lease: float) -> Reservation:
        """See the contract."""
        pending = f"1p|{token(fingerprint)}|"
        known = await self._store.run(RESERVE, (self._keys.reply(key),), pending, milliseconds(lease))
        if known is None:
            return Reservation("new", fingerprint)
        state, first, value = known.split(b"|", 2)
        if state == b"1p":
            return Reservation("pending", untoken(first))
        if state == b"1d":
            return Reservation("done", untoken(first), value)
        raise Unavailable("a reply in Redis was written by another version", stored=False)

    async def renew(self, key: str, lease: float) -> None:
        """See the contract."""
        await self._store.run(RENEW, (self._keys.reply(key),), milliseconds(lease))

    async def remember(self, key: str, fingerprint: str, value: bytes, ttl: float) -> None:
        """See the contract."""
        name = self._keys.reply(key)
        record = f"1d|{token(fingerprint)}|".encode() + value
        await self._store.do(name, "SET", name, record, "PX", milliseconds(ttl))

    async def forget(self, key: str) -> None:
        """See the contract."""
        await self._store.run(FORGET, (self._keys.reply(key),))
