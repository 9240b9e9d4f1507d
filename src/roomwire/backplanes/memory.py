"""The memory backplane: one process, the whole contract, no server.

It serves a single node in production, and is the verified fake of the other adapters in tests:
several `MemoryBackplane` on one `MemoryHub` are the nodes of a cluster. A restart of the process is
a new epoch for every room.

Nothing here suspends: an operation is done when its coroutine is first stepped, deliveries to the
sinks included. All nodes of a hub live on one event loop. What expires is dropped when it is met, and
in small sweeps that ride on other operations, so no background task is needed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from pydantic import BaseModel, ConfigDict

from roomwire.backplanes._memory_hub import MemoryHub, Slot
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
from roomwire.core.errors import LocalError, Unavailable
from roomwire.core.positions import Position
from roomwire.core.tail import Page

__all__ = ["LEASE", "MemoryBackplane", "MemoryHub", "MemoryOptions", "Options"]

LEASE = 55.0
"""Seconds that presence and slots outlive their last refresh: two refreshes of 20 s may fail."""


class MemoryOptions(BaseModel):
    """``[backplane.options]``: the memory backplane has none."""

    model_config = ConfigDict(extra="forbid")


Options = MemoryOptions


class MemoryBackplane:
    """`roomwire.backplanes.contract.Backplane` within one process.

    Args:
        options: there are none.
        hub: the store that it shares with other nodes; its own, where none is given.
        clock: monotonic seconds, for its own hub.
    """

    Options = MemoryOptions
    capabilities = Capabilities(multi_node=False, survives_restart=False)

    def __init__(
        self,
        options: MemoryOptions | None = None,
        *,
        hub: MemoryHub | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.hub = MemoryHub(clock) if hub is None else hub
        self._node = ""
        self._sink: Sink | None = None
        self._up = False
        self._closed = False
        self._subscribed: set[str] = set()

    async def start(self, sink: Sink, node: str) -> None:
        """See the contract.

        Raises:
            LocalError: started before, or the hub has another node of that name.
        """
        if self._sink is not None or node in self.hub.names:
            raise LocalError(f"a memory backplane is started once, and node names are unique: {node!r}")
        self._sink, self._node, self._up = sink, node, True
        self.hub.names.add(node)
        self.hub.sinks[node] = sink
        sink.available(True)

    async def aclose(self) -> None:
        """See the contract."""
        if self._sink is not None and not self._closed:
            self._closed = True
            self._detach()
            self._subscribed.clear()
            self.hub.names.discard(self._node)

    # --- a broken link, for tests

    def cut(self) -> None:
        """The link to the store breaks: operations fail, deliveries are lost."""
        if self._sink is not None and self._up:
            self._detach()
            self._sink.available(False)

    def heal(self) -> None:
        """The link is there again; what was subscribed is again, and the node hears that it missed something."""
        if self._sink is None or self._up or self._closed:
            return
        self._up = True
        self.hub.sinks[self._node] = self._sink
        for room in self._subscribed:
            self.hub.stream(room).attach(self._node, self._sink)
        self._sink.available(True)
        self._sink.interrupted(None)

    def _detach(self) -> None:
        self._up = False
        self.hub.sinks.pop(self._node, None)
        for room in self._subscribed:
            stream = self.hub.streams.get(room)
            if stream is not None:
                stream.detach(self._node)

    def _check(self) -> MemoryHub:
        if not self._up:
            raise Unavailable("the memory backplane is not started, closed or cut off", stored=False)
        return self.hub

    # --- events

    async def publish(
        self, room: str, body: bytes, *, key: str | None, policy: HistoryPolicy, window: float = KEY_WINDOW
    ) -> Position:
        """See the contract."""
        hub = self._check()
        now = hub.clock()
        if key is not None:
            known = hub.keys.get((room, key), now)
            if known is not None:
                return Position(*known)
        stream = hub.stream(room, now)
        entry = stream.append(body, policy, now)
        epoch = stream.epoch
        position = Position(epoch, entry.offset)
        if key is not None:
            hub.keys.set((room, key), (epoch, entry.offset), now + window)
        for sink in stream.sinks.values():
            sink.deliver(room, epoch, entry.previous, entry.offset, body)
        return position

    async def publish_ephemeral(self, room: str, body: bytes) -> None:
        """See the contract."""
        stream = self._check().streams.get(room)
        if stream is not None:
            for sink in stream.sinks.values():
                sink.ephemeral(room, body)

    async def subscribe(self, room: str) -> Position:
        """See the contract."""
        stream = self._check().stream(room)
        assert self._sink is not None
        stream.attach(self._node, self._sink)
        self._subscribed.add(room)
        return stream.top

    async def unsubscribe(self, room: str) -> None:
        """See the contract."""
        self._subscribed.discard(room)
        stream = self._check().streams.get(room)
        if stream is not None:
            stream.detach(self._node)

    async def history(self, room: str, since: Position | None, limit: int) -> Page:
        """See the contract."""
        hub = self._check()
        stream = hub.stream(room)
        stream.trim(hub.clock())
        return Page(stream.top) if since is None or limit <= 0 else stream.page(since, limit)

    async def positions(self, rooms: Sequence[str]) -> dict[str, Position]:
        """See the contract."""
        hub = self._check()
        return {room: hub.stream(room).top for room in rooms}

    # --- presence

    async def enter(self, room: str, member: Member) -> None:
        """See the contract."""
        hub = self._check()
        now = hub.clock()
        leases = hub.room_leases(room, now)
        known = leases.get((member.user, member.client))
        leases.put(member, now + LEASE)
        if known is None or known.member.info != member.info:
            hub.hint(room)

    async def leave(self, room: str, member: Member, grace: float) -> None:
        """See the contract."""
        hub = self._check()
        now = hub.clock()
        leases = hub.room_leases(room, now)
        known = leases.get((member.user, member.client))
        if known is None or known.member.connection != member.connection:
            return
        if grace > 0:
            leases.put(known.member, now + grace)
        else:
            del leases[member.user, member.client]
            hub.hint(room)

    async def members(self, room: str) -> list[Member]:
        """See the contract."""
        hub = self._check()
        return [lease.member for lease in hub.room_leases(room, hub.clock()).values()]

    async def rooms_of(self, user: str) -> list[str]:
        """See the contract."""
        hub = self._check()
        now = hub.clock()
        return [room for room in list(hub.presence) if any(held == user for held, _ in hub.room_leases(room, now))]

    # --- slots

    async def claim(self, user: str, holder: Holder, limit: int, *, evict: bool) -> Claim:
        """See the contract."""
        hub = self._check()
        now = hub.clock()
        slots = hub.user_slots(user, now)
        displaced = None
        if holder.client in slots:
            previous = slots.pop(holder.client).holder
            displaced = None if previous.connection == holder.connection else previous
        elif len(slots) >= limit:
            if not evict or not slots:
                return Claim(False)
            displaced = slots.pop(next(iter(slots))).holder
        slots[holder.client] = Slot(holder, now + LEASE)
        return Claim(True, displaced)

    async def release(self, user: str, holder: Holder) -> None:
        """See the contract."""
        slots = self._check().slots.get(user, {})
        slot = slots.get(holder.client)
        if slot is not None and slot.holder.connection == holder.connection:
            del slots[holder.client]

    async def refresh(
        self,
        members: Iterable[tuple[str, Member]],
        slots: Iterable[tuple[str, Holder]],
        *,
        limit: int | None = None,
    ) -> list[Lost]:
        """See the contract."""
        hub = self._check()
        now = hub.clock()
        hub.sweep(now)
        for room, member in members:
            leases = hub.room_leases(room, now)
            known = leases.get((member.user, member.client))
            if known is None or known.member.connection == member.connection:
                leases.put(member, now + LEASE)
            if known is None:
                hub.hint(room)
        lost = []
        for user, holder in slots:
            held = hub.user_slots(user, now)
            slot = held.get(holder.client)
            replaced = slot is not None and slot.holder.connection != holder.connection
            full = slot is None and limit is not None and len(held) >= limit
            if replaced or full:
                lost.append(Lost(user, holder, replaced))
            else:
                held[holder.client] = Slot(holder, now + LEASE)
        return lost

    # --- replies of idempotent messages

    async def reserve(self, key: str, fingerprint: str, lease: float) -> Reservation:
        """See the contract."""
        hub = self._check()
        now = hub.clock()
        if now >= hub.sweep_at:
            hub.sweep(now)
        known = hub.replies.get(key, now)
        if known is not None:
            return Reservation(*known)
        hub.replies.set(key, ("pending", fingerprint, b""), now + lease)
        return Reservation("new", fingerprint)

    async def renew(self, key: str, lease: float) -> None:
        """See the contract."""
        hub = self._check()
        now = hub.clock()
        known = hub.replies.get(key, now)
        if known is not None and known[0] == "pending":
            hub.replies.set(key, known, now + lease)

    async def remember(self, key: str, fingerprint: str, value: bytes, ttl: float) -> None:
        """See the contract."""
        hub = self._check()
        hub.replies.set(key, ("done", fingerprint, value), hub.clock() + ttl)

    async def forget(self, key: str) -> None:
        """See the contract."""
        hub = self._check()
        known = hub.replies.get(key, hub.clock())
        if known is not None and known[0] == "pending":
            hub.replies.pop(key)

    # --- between nodes

    async def tell(self, node: str | None, body: bytes) -> None:
        """See the contract."""
        sinks = self._check().sinks
        for name in list(sinks) if node is None else [node]:
            sink = sinks.get(name)
            if sink is not None:
                sink.told(body)
