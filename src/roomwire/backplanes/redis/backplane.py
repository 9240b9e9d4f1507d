"""`roomwire.backplanes.contract.Backplane` on Redis: the parts, put together."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from roomwire.backplanes.contract import (
    KEY_WINDOW,
    Capabilities,
    Claim,
    HistoryPolicy,
    Holder,
    Lost,
    Member,
    Reservation,
    Sink,
)
from roomwire.backplanes.redis.feed import Feed
from roomwire.backplanes.redis.keys import TOLD, Keys
from roomwire.backplanes.redis.leases import LEASE, Presence, Settling, Slots
from roomwire.backplanes.redis.options import RedisOptions
from roomwire.backplanes.redis.replies import Replies
from roomwire.backplanes.redis.store import Store
from roomwire.backplanes.redis.streams import Streams
from roomwire.core.errors import LocalError, Unavailable
from roomwire.core.positions import Position
from roomwire.core.tail import Page

__all__ = ["RedisBackplane"]


class RedisBackplane:
    """Nodes joined by Redis 6.2 or later: one server, one behind Sentinels, or a cluster.

    Args:
        options: where it is, and how long things may take.
        lease: seconds that presence and slots outlive their last refresh. Nodes refresh every 20 s: another one
            is for tests.
    """

    Options = RedisOptions
    capabilities = Capabilities()

    def __init__(self, options: RedisOptions | None = None, *, lease: float = LEASE) -> None:
        self._options = options or RedisOptions()
        self._keys = Keys(self._options.key_prefix)
        self._lease = lease
        self._store: Store | None = None
        self._sink: Sink | None = None
        self._closed = False

    async def start(self, sink: Sink, node: str) -> None:
        """See the contract.

        Raises:
            LocalError: started before, or on another event loop than asyncio's.
            ConfigError: it is another kind of Redis than the options say, or too old.
            Unavailable: it cannot be reached.
        """
        if self._sink is not None:
            raise LocalError("a Redis backplane is started once")
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            # redis-py knows no other.
            raise LocalError('backplane.type = "redis" runs on asyncio or uvloop, not on trio') from None
        self._sink = sink
        store = self._store = Store(self._options, f"roomwire:{node}")
        self._streams = Streams(store, self._keys)
        self._replies = Replies(store, self._keys)
        self._settling = Settling(self._lease, sink.changed)
        self._presence = Presence(store, self._keys, self._lease, self._settling)
        self._slots = Slots(store, self._keys, self._lease, self._settling)
        self._feed = Feed(store, self._keys, self._options, sink, node)
        self._feed.was_down = self._settling.was_down
        try:
            await store.start()
            await self._feed.start()
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        """See the contract."""
        if self._store is not None and not self._closed:
            self._closed = True
            self._settling.close()
            await self._feed.aclose()
            await self._store.aclose()

    @property
    def dropped(self) -> int:
        """Messages on its channels that it could not read."""
        return self._feed.dropped

    def _check(self) -> None:
        if self._closed or self._store is None:
            raise Unavailable("the Redis backplane is not started, or closed", stored=False)

    # --- events

    async def publish(
        self, room: str, body: bytes, *, key: str | None, policy: HistoryPolicy, window: float = KEY_WINDOW
    ) -> Position:
        """See the contract."""
        self._check()
        return await self._streams.publish(room, body, key=key, policy=policy, window=window)

    async def publish_ephemeral(self, room: str, body: bytes) -> None:
        """See the contract."""
        self._check()
        await self._streams.publish_ephemeral(room, body)

    async def subscribe(self, room: str) -> Position:
        """See the contract."""
        self._check()
        await self._feed.subscribe(room)
        try:
            position = await self._streams.top(room)
        except BaseException:
            # Who gets no position does not unsubscribe.
            if room not in self._settling.rooms:
                self._feed.unsubscribe(room)
            raise
        self._settling.rooms[room] = position.epoch
        return position

    async def unsubscribe(self, room: str) -> None:
        """See the contract."""
        self._check()
        self._settling.rooms.pop(room, None)
        self._feed.unsubscribe(room)

    async def history(self, room: str, since: Position | None, limit: int) -> Page:
        """See the contract."""
        self._check()
        return await self._streams.history(room, since, limit)

    async def positions(self, rooms: Sequence[str]) -> dict[str, Position]:
        """See the contract."""
        self._check()
        return await self._streams.positions(rooms)

    # --- presence

    async def enter(self, room: str, member: Member) -> None:
        """See the contract."""
        self._check()
        await self._presence.enter(room, member)

    async def leave(self, room: str, member: Member, grace: float) -> None:
        """See the contract."""
        self._check()
        await self._presence.leave(room, member, grace)

    async def members(self, room: str) -> list[Member]:
        """See the contract."""
        self._check()
        return await self._presence.members(room)

    async def rooms_of(self, user: str) -> list[str]:
        """See the contract."""
        self._check()
        return await self._presence.rooms_of(user)

    # --- slots

    async def claim(self, user: str, holder: Holder, limit: int, *, evict: bool) -> Claim:
        """See the contract."""
        self._check()
        return await self._slots.claim(user, holder, limit, evict=evict)

    async def release(self, user: str, holder: Holder) -> None:
        """See the contract."""
        self._check()
        await self._slots.release(user, holder)

    async def refresh(
        self,
        members: Iterable[tuple[str, Member]],
        slots: Iterable[tuple[str, Holder]],
        *,
        limit: int | None = None,
    ) -> list[Lost]:
        """See the contract."""
        self._check()
        with self._settling.refreshing():
            try:
                lost = await self._slots.refresh(slots, limit)
            except Unavailable:
                await self._presence.refresh(members)  # on a cluster it may be one server that is missing
                raise
            await self._presence.refresh(members)
        return lost

    # --- replies of idempotent messages

    async def reserve(self, key: str, fingerprint: str, lease: float) -> Reservation:
        """See the contract."""
        self._check()
        return await self._replies.reserve(key, fingerprint, lease)

    async def renew(self, key: str, lease: float) -> None:
        """See the contract."""
        self._check()
        await self._replies.renew(key, lease)

    async def remember(self, key: str, fingerprint: str, value: bytes, ttl: float) -> None:
        """See the contract."""
        self._check()
        await self._replies.remember(key, fingerprint, value, ttl)

    async def forget(self, key: str) -> None:
        """See the contract."""
        self._check()
        await self._replies.forget(key)

    # --- between nodes

    async def tell(self, node: str | None, body: bytes) -> None:
        """See the contract."""
        self._check()
        assert self._store is not None
        channel = self._keys.nodes() if node is None else self._keys.node(node)
        await self._store.do(channel, self._store.publish, channel, TOLD + body)
