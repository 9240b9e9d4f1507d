"""The adapter: the contract's operations as jobs of the worker, and the log's rows as calls of the sink."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field

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
from roomwire_sqlite import leases
from roomwire_sqlite.store import News, Store
from roomwire_sqlite.worker import Worker

__all__ = ["SqliteBackplane", "SqliteOptions"]

T = TypeVar("T")

_REFRESHED_AT_ONCE = 500
"""Leases of one job, so that no transaction of a refresh holds up the other nodes."""


class SqliteOptions(BaseModel):
    """``[backplane.options]``.

    Attributes:
        path: the file, the same for all nodes, on a disk of this machine. Beside it come ``PATH-wal``, ``PATH-shm``
            and the folder ``PATH-nodes``.
        busy_timeout: seconds to wait for another process that writes, before an operation is unavailable.
        poll: seconds between two looks into the file where no other node rings.
    """

    model_config = ConfigDict(extra="forbid")

    path: Path = Path("roomwire.sqlite3")
    busy_timeout: float = Field(default=5.0, gt=0, le=60)
    poll: float = Field(default=1.0, gt=0, le=10)


class SqliteBackplane:
    """`roomwire.backplanes.contract.Backplane` in an SQLite file, on any event loop of anyio's.

    Args:
        options: the file and the time-outs.
        clock: seconds that all processes of the machine share; another one for tests.
    """

    Options = SqliteOptions
    capabilities = Capabilities(multi_node=True, survives_restart=True)

    def __init__(self, options: SqliteOptions | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._options = options or SqliteOptions()
        self._path = self._options.path.absolute()
        self._clock = clock
        self._node = ""
        self._sink: Sink
        self._worker: Worker | None = None
        self._closed = False
        self._subscribed: set[str] = set()

    async def start(self, sink: Sink, node: str) -> None:
        """See the contract.

        Raises:
            LocalError: started before, or the file cannot be opened.
        """
        if self._worker is not None:
            raise LocalError("a backplane is started once")
        self._sink, self._node = sink, node
        options = self._options
        self._worker = Worker(
            partial(Store, self._path, options.busy_timeout, self._clock),
            self,
            patience=2 * options.busy_timeout + 1,  # its round may have to wait for the one before it
            poll=options.poll,
        )
        try:
            await self._read(lambda store: None)
        except Unavailable as error:
            await self.aclose()
            raise LocalError(f"backplane.options.path: {self._path}: {error.__cause__ or error}") from error

    async def aclose(self) -> None:
        """See the contract."""
        if self._worker is not None and not self._closed:
            self._closed = True
            self._subscribed.clear()
            await self._worker.aclose()

    async def _read(self, work: Callable[[Store], T]) -> T:
        return await self._do(work, writing=False)

    async def _write(self, work: Callable[[Store], T]) -> T:
        return await self._do(work, writing=True)

    async def _do(self, work: Callable[[Store], T], *, writing: bool) -> T:
        if self._worker is None:
            raise Unavailable("the backplane is not started", stored=False)
        return await self._worker.do(work, writing=writing)

    # --- what the worker calls

    def heard(self, news: Sequence[News]) -> None:
        """See `roomwire_sqlite.worker.Listener`."""
        sink = self._sink
        for row in news:
            if row.kind == "told":
                if row.name is None or row.name == self._node:
                    sink.told(row.body)
            elif row.name is None or row.name not in self._subscribed:
                continue
            elif row.kind == "event":
                sink.deliver(row.name, row.epoch, row.offset - 1, row.offset, row.body)
            elif row.kind == "ephemeral":
                sink.ephemeral(row.name, row.body)
            else:
                sink.changed(row.name)

    def available(self, up: bool) -> None:
        """See `roomwire_sqlite.worker.Listener`."""
        self._sink.available(up)

    def interrupted(self) -> None:
        """See `roomwire_sqlite.worker.Listener`."""
        self._sink.interrupted(None)

    # --- events

    async def publish(
        self, room: str, body: bytes, *, key: str | None, policy: HistoryPolicy, window: float = KEY_WINDOW
    ) -> Position:
        """See the contract."""
        return await self._write(lambda store: store.publish(room, body, key, policy, window))

    async def publish_ephemeral(self, room: str, body: bytes) -> None:
        """See the contract."""
        await self._write(lambda store: store.publish_ephemeral(room, body))

    async def subscribe(self, room: str) -> Position:
        """See the contract."""
        known = room in self._subscribed
        self._subscribed.add(room)  # before the position is read: nothing falls between the two
        try:
            return (await self.positions([room]))[room]
        except BaseException:
            if not known:
                self._subscribed.discard(room)
            raise

    async def unsubscribe(self, room: str) -> None:
        """See the contract."""
        self._subscribed.discard(room)

    async def history(self, room: str, since: Position | None, limit: int) -> Page:
        """See the contract."""
        page = await self._read(lambda store: store.page(room, since, limit))
        if page is None:
            # There was no such numbering until now, so no position but the new top is of it.
            top = (await self.positions([room]))[room]
            page = Page(top, (), None if since is None or limit <= 0 else "epoch")
        return page

    async def positions(self, rooms: Sequence[str]) -> dict[str, Position]:
        """See the contract. It writes only where a room is new, or has long not been asked for."""
        tops = await self._read(lambda store: store.tops(rooms))
        untouched = [room for room in rooms if room not in tops]
        if untouched:
            tops |= await self._write(lambda store: store.touch(untouched))
        return {room: tops[room] for room in rooms}

    # --- presence

    async def enter(self, room: str, member: Member) -> None:
        """See the contract."""
        await self._write(lambda store: leases.enter(store, room, member))

    async def leave(self, room: str, member: Member, grace: float) -> None:
        """See the contract."""
        await self._write(lambda store: leases.leave(store, room, member, grace))

    async def members(self, room: str) -> list[Member]:
        """See the contract."""
        return await self._read(lambda store: leases.members(store, room))

    async def rooms_of(self, user: str) -> list[str]:
        """See the contract."""
        return await self._read(lambda store: leases.rooms_of(store, user))

    # --- slots

    async def claim(self, user: str, holder: Holder, limit: int, *, evict: bool) -> Claim:
        """See the contract."""
        return await self._write(lambda store: leases.claim(store, user, holder, limit, evict))

    async def release(self, user: str, holder: Holder) -> None:
        """See the contract."""
        await self._write(lambda store: leases.release(store, user, holder))

    async def refresh(
        self,
        members: Iterable[tuple[str, Member]],
        slots: Iterable[tuple[str, Holder]],
        *,
        limit: int | None = None,
    ) -> list[Lost]:
        """See the contract."""
        for some in _parts(members):
            await self._write(partial(leases.refresh_members, members=some))
        lost: list[Lost] = []
        for part in _parts(slots):
            lost += await self._write(partial(leases.refresh_slots, slots=part, limit=limit))
        return lost

    # --- replies of idempotent messages

    async def reserve(self, key: str, fingerprint: str, lease: float) -> Reservation:
        """See the contract."""
        return await self._write(lambda store: leases.reserve(store, key, fingerprint, lease))

    async def renew(self, key: str, lease: float) -> None:
        """See the contract."""
        await self._write(lambda store: leases.renew(store, key, lease))

    async def remember(self, key: str, fingerprint: str, value: bytes, ttl: float) -> None:
        """See the contract."""
        await self._write(lambda store: leases.remember(store, key, fingerprint, value, ttl))

    async def forget(self, key: str) -> None:
        """See the contract."""
        await self._write(lambda store: leases.forget(store, key))

    # --- between nodes

    async def tell(self, node: str | None, body: bytes) -> None:
        """See the contract."""
        await self._write(lambda store: store.tell(node, body))


def _parts(items: Iterable[T]) -> Iterator[list[T]]:
    rest = iter(items)
    while part := list(islice(rest, _REFRESHED_AT_ONCE)):
        yield part
