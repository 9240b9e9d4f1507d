"""The NATS backplane: the parts put together, as the contract wants them."""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any

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
from roomwire.backplanes.nats.agreement import Agreement
from roomwire.backplanes.nats.client import end_tasks
from roomwire.backplanes.nats.flights import Shared
from roomwire.backplanes.nats.history import History
from roomwire.backplanes.nats.jetstream import JetStream
from roomwire.backplanes.nats.kv import Bucket, Clock
from roomwire.backplanes.nats.leases import LEASE, Leases
from roomwire.backplanes.nats.link import Link
from roomwire.backplanes.nats.options import NatsOptions
from roomwire.backplanes.nats.replies import Keys, Replies
from roomwire.backplanes.nats.rooms import Rooms
from roomwire.backplanes.nats.streams import Stream, Streams
from roomwire.backplanes.nats.subjects import Subjects, digest
from roomwire.backplanes.nats.wire import CONTROL, Bodies, pack
from roomwire.core.errors import LocalError, Unavailable
from roomwire.core.positions import Position
from roomwire.core.tail import Page

__all__ = ["NatsBackplane"]

logger = logging.getLogger("roomwire.backplane")


class NatsBackplane:
    """`roomwire.backplanes.contract.Backplane` over NATS with JetStream. It runs on asyncio.

    Args:
        options: where the servers are, and how they are used.
        lease: seconds that presence and slots outlive their last refresh; less of them for tests.

    Attributes:
        bodies: what came and could not be read is counted there.
    """

    Options = NatsOptions
    capabilities = Capabilities()

    def __init__(self, options: NatsOptions | None = None, *, lease: float = LEASE) -> None:
        self.options = options or NatsOptions()
        self._lease = lease
        self.bodies = Bodies()
        self._subjects = Subjects(self.options.prefix, self.options.partitions, self.options.domain)
        self._policies: dict[str, HistoryPolicy] = {}
        self._policy_of: Callable[[str], HistoryPolicy] = lambda room: HistoryPolicy()
        self._sink: Sink | None = None
        self._up = False
        self._closed = False
        self._tasks: set[asyncio.Task[None]] = set()

    def configure(self, policies: Mapping[str, HistoryPolicy], policy_of: Callable[[str], HistoryPolicy]) -> None:
        """See `roomwire.backplanes.contract.PolicyAware`."""
        self._policies = dict(policies)
        self._policy_of = policy_of

    # --- its life

    async def start(self, sink: Sink, node: str) -> None:
        """See the contract.

        Raises:
            LocalError: started before, or not on asyncio.
            ConfigError: the server does not want us, is too old, or has streams that are not as they should be.
            Unavailable: no server could be reached within ``start_timeout``.
        """
        if self._sink is not None:
            raise LocalError("a NATS backplane is started once")
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            raise LocalError("the NATS backplane needs asyncio: nats-py runs on nothing else") from None
        self.options.check_files()
        self._sink = sink
        self._assemble(sink, node)
        try:
            await self._link.start()
        except BaseException:
            await self.aclose()
            raise

    def _assemble(self, sink: Sink, node: str) -> None:
        options, subjects, bodies = self.options, self._subjects, self.bodies
        self._clock = Clock()
        self._link = Link(options, f"roomwire {node}", self._came_up, self._went_down)
        self._js = JetStream(self._link, subjects, self._clock.sync)
        self._streams = Streams(self._js, subjects, options, self._began_anew)
        self._rooms = Rooms(
            self._link, self._js, self._streams, subjects, options, bodies, sink, self._policy_of, self._spawn
        )
        self._history = History(self._js, self._streams, self._rooms, subjects, bodies)
        self._buckets = [
            Bucket(self._js, options, bodies, self._clock, name) for name in (subjects.leases, subjects.replies)
        ]
        self._leases = Leases(self._buckets[0], subjects, self._rooms.hint, self._lease)
        self._agreement = Agreement(self._buckets[0], subjects, node, self._policies, self._lease)
        self._replies = Replies(self._buckets[1])
        self._keys = Keys(self._buckets[1])

        def told(subject: str, data: bytes, headers: bytes | None) -> None:
            if bodies.kind(data) == CONTROL:
                sink.told(data[2:])

        self._link.listen(subjects.tell(node), told)
        self._link.listen(subjects.tell_all, told)

    async def aclose(self) -> None:
        """See the contract."""
        if self._sink is None or self._closed:
            return
        self._closed = True
        if self._up:
            self._up = False
            await self._agreement.leave()
        await self._link.aclose()
        looks: list[Shared[Any]] = [stream.look for stream in self._streams.by_name.values()]
        looks += [bucket.open for bucket in self._buckets]
        await end_tasks({look.task for look in looks if look.task is not None} | self._tasks)

    async def _came_up(self) -> None:
        """A connection was made: what has to be there is, and the lives of streams are known."""
        for bucket in self._buckets:
            await bucket.open()
        if self._link.connects == 1:
            await self._agreement.compare()
        await self._streams.open(set(self._policies.values()))
        assert self._sink is not None
        if self._closed:
            return
        self._clock.found()
        self._up = True
        self._sink.available(True)
        if self._link.connects > 1:
            self._sink.interrupted(None)

    def _went_down(self) -> None:
        self._clock.lost()
        if self._up:
            self._up = False
            assert self._sink is not None
            self._sink.available(False)

    def _began_anew(self, stream: Stream) -> None:
        rooms = self._rooms.of_stream(stream)
        if rooms and self._up and self._sink is not None:
            self._sink.interrupted(rooms)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _check(self) -> None:
        if not self._up:
            raise Unavailable("NATS cannot be reached now, or the backplane is not started", stored=False)

    # --- events

    async def publish(
        self, room: str, body: bytes, *, key: str | None, policy: HistoryPolicy, window: float = KEY_WINDOW
    ) -> Position:
        """See the contract."""
        self._check()
        if key is None or window == self._streams.of(room, policy).window:
            message = None if key is None else digest(room, key)
            return (await self._rooms.publish(room, body, id=message, policy=policy))[0]
        message, item, known = await self._keys.id(room, key, window)
        if known is not None:
            return known
        position, _ = await self._rooms.publish(room, body, id=message, policy=policy)
        try:
            await self._keys.stored(room, key, item, position)
        except Unavailable:
            # It is stored. A copy finds the entry with its id, which the stream knows for a while.
            logger.warning("the key of a publication cannot be completed", extra={"roomwire": {"room": room}})
        return position

    async def publish_ephemeral(self, room: str, body: bytes) -> None:
        """See the contract."""
        self._check()
        self._rooms.publish_ephemeral(room, body)

    async def subscribe(self, room: str) -> Position:
        """See the contract."""
        self._check()
        return await self._rooms.subscribe(room)

    async def unsubscribe(self, room: str) -> None:
        """See the contract."""
        if self._sink is not None:
            self._rooms.unsubscribe(room)

    async def history(self, room: str, since: Position | None, limit: int) -> Page:
        """See the contract."""
        self._check()
        return await self._history.page(room, since, limit)

    async def positions(self, rooms: Sequence[str]) -> dict[str, Position]:
        """See the contract."""
        self._check()
        return await self._rooms.positions(rooms)

    # --- presence and slots

    async def enter(self, room: str, member: Member) -> None:
        """See the contract."""
        self._check()
        await self._leases.enter(room, member)

    async def leave(self, room: str, member: Member, grace: float) -> None:
        """See the contract."""
        self._check()
        await self._leases.leave(room, member, grace)

    async def members(self, room: str) -> list[Member]:
        """See the contract."""
        self._check()
        return await self._leases.members(room)

    async def rooms_of(self, user: str) -> list[str]:
        """See the contract."""
        self._check()
        return await self._leases.rooms_of(user, _name_of)

    async def claim(self, user: str, holder: Holder, limit: int, *, evict: bool) -> Claim:
        """See the contract."""
        self._check()
        return await self._leases.claim(user, holder, limit, evict=evict)

    async def release(self, user: str, holder: Holder) -> None:
        """See the contract."""
        self._check()
        await self._leases.release(user, holder)

    async def refresh(
        self,
        members: Iterable[tuple[str, Member]],
        slots: Iterable[tuple[str, Holder]],
        *,
        limit: int | None = None,
    ) -> list[Lost]:
        """See the contract."""
        self._check()
        lost = await self._leases.refresh(members, slots, limit)
        await self._agreement.refresh()
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
        subject = self._subjects.tell_all if node is None else self._subjects.tell(node)
        await self._link.hand_over(subject, pack(CONTROL, body))


def _name_of(token: str) -> str:
    """The name of a token; see `roomwire.backplanes.contract.token`."""
    return base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode()
