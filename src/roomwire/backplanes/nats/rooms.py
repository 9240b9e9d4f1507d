"""The events of rooms: published, heard, read again.

A room's offset is its stream's sequence, which it shares with other rooms; `previous` is the sequence of its
own last event. So any sequence of the stream is a position of the room. What a node subscribes to is what
JetStream sends out once it has stored it.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from roomwire.backplanes.contract import HistoryPolicy, Sink
from roomwire.backplanes.nats.flights import all_of
from roomwire.backplanes.nats.jetstream import Ack, JetStream, NoStream, StreamInfo
from roomwire.backplanes.nats.link import Link, Listening
from roomwire.backplanes.nats.options import NatsOptions
from roomwire.backplanes.nats.streams import Stream, Streams
from roomwire.backplanes.nats.subjects import Subjects
from roomwire.backplanes.nats.wire import EPHEMERAL, HINT, PUBLICATION, Bodies, header, pack
from roomwire.core.errors import Unavailable
from roomwire.core.positions import Position

__all__ = ["HeardRoom", "Rooms"]

logger = logging.getLogger("roomwire.backplane")

CHECK_BATCH = 500
"""Rooms of one question; JetStream answers 1,024 subjects at the most."""
_FRESH = 900.0
"""Seconds after which a silent room's position moves on with its stream, if its history is that long or longer."""


_AGAIN = 0.05


class HeardRoom:
    """A room that this node hears.

    Attributes:
        agreed: the position that the node has by what it was given: of a subscribe, a delivery or a page.
        agreed_at: loop time at which nothing of the stream was above it.
        proven_at: loop time at which no event of the room was above it.
        checked: up to here the stream has no event of the room above `agreed`.
    """

    __slots__ = ("agreed", "agreed_at", "checked", "epoch", "listening", "name", "proven_at", "stream")

    def __init__(self, name: str, stream: Stream, listening: Listening) -> None:
        self.name = name
        self.stream = stream
        self.listening = listening
        self.epoch: str = ""
        self.agreed = 0
        self.agreed_at = 0.0
        self.proven_at = 0.0
        self.checked = 0

    def agree(self, epoch: str, offset: int, now: float) -> None:
        """The node is given a position."""
        if epoch != self.epoch:
            self.epoch, self.agreed, self.checked = epoch, offset, offset
        elif offset > self.agreed:
            self.agreed = offset
        else:
            return
        self.agreed_at = self.proven_at = now


class Rooms:
    """See the module's text.

    Args:
        link, js, streams, subjects, options: the adapter's parts.
        bodies: reads bodies.
        sink: the node's.
        policy_of: the policy of a room.
        spawn: runs a coroutine as a task of the adapter.

    Attributes:
        heard: by name.
        foreign: deliveries that another node stored under another policy.
    """

    def __init__(
        self,
        link: Link,
        js: JetStream,
        streams: Streams,
        subjects: Subjects,
        options: NatsOptions,
        bodies: Bodies,
        sink: Sink,
        policy_of: Callable[[str], HistoryPolicy],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._link = link
        self._js = js
        self._streams = streams
        self._subjects = subjects
        self._options = options
        self._bodies = bodies
        self._sink = sink
        self._policy_of = policy_of
        self._spawn = spawn
        self._checking: set[str] = set()
        self.heard: dict[str, HeardRoom] = {}
        self.foreign = 0

    # --- publishing

    async def publish(self, room: str, body: bytes, *, id: str | None, policy: HistoryPolicy) -> tuple[Position, bool]:
        """The position, and whether an earlier copy had it.

        Args:
            room: the room.
            body: the event.
            id: equal for copies of one publication.
            policy: the room's.

        Raises:
            Unavailable: it was not stored, or with ``stored=None`` nobody knows.
        """
        stream = self._streams.of(room, policy)
        if not stream.epoch:
            try:
                await self._streams.look(stream)
            except Unavailable as error:
                raise Unavailable(str(error), stored=False) from None  # it was only asked for
        headers = {"Nats-Msg-Id": id or secrets.token_urlsafe(16), "Nats-Expected-Stream": stream.name}
        subject = self._subjects.stored(policy, self._subjects.partition(room), room)
        high = stream.high
        ack = await self._put(stream, subject, pack(PUBLICATION, body), headers)
        if ack.seq <= high and not ack.duplicate:
            await self._streams.look(stream)  # it counts from the beginning: it was made anew
        stream.high = max(stream.high, ack.seq)
        return Position(stream.epoch, ack.seq), ack.duplicate

    async def _put(self, stream: Stream, subject: str, body: bytes, headers: dict[str, str]) -> Ack:
        """Store it, and try again with the same id where the outcome is unknown."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._options.operation_timeout
        unknown = False
        while True:
            try:
                rest = max(0.01, min(self._options.request_timeout, deadline - loop.time()))
                return await self._js.put(subject, body, headers, rest)
            except NoStream:
                if loop.time() >= deadline:
                    text = "JetStream has no stream for the room now"
                    raise Unavailable(text, stored=None if unknown else False) from None
                try:
                    await self._streams.look(stream)
                except Unavailable as error:
                    raise Unavailable(str(error), stored=None if unknown else False) from None
            except Unavailable as error:
                unknown = unknown or error.stored is None
                if error.stored is not None or not self._link.connected or loop.time() >= deadline:
                    raise Unavailable(str(error), stored=None if unknown else error.stored) from None
            # A leader is being elected, or another copy of it has not got to the replicas so far.
            await asyncio.sleep(_AGAIN)

    def publish_ephemeral(self, room: str, body: bytes) -> None:
        """Send without storing. Raises `Unavailable`."""
        self._link.tell(self._subjects.live(room), pack(EPHEMERAL, body))

    def hint(self, room: str) -> None:
        """Tell the nodes that hear the room to look at its presence. Raises `Unavailable`."""
        self._link.tell(self._subjects.live(room), pack(HINT))

    # --- hearing

    async def subscribe(self, room: str) -> Position:
        """The position from which on all is heard. Raises `Unavailable`."""
        known = self.heard.get(room)
        heard = known or self._hear(room)
        try:
            # The server has the subscription before it is asked, so that what the answer lacks will be heard.
            info = await self._streams.look(heard.stream)
            if heard.listening.denied:
                raise Unavailable(f"NATS does not permit a subscription to {heard.listening.subject}")
        except BaseException:
            if known is None and self.heard.get(room) is heard:
                self.unsubscribe(room)
            raise
        heard.agree(info.epoch, info.last, asyncio.get_running_loop().time())
        return Position(info.epoch, info.last)

    def _hear(self, room: str) -> HeardRoom:
        stream = self._streams.of(room, self._policy_of(room))

        def handle(subject: str, data: bytes, headers: bytes | None) -> None:
            self._received(heard, data, headers)

        heard = self.heard[room] = HeardRoom(room, stream, self._link.listen(self._subjects.live(room), handle))
        return heard

    def unsubscribe(self, room: str) -> None:
        """End it."""
        heard = self.heard.pop(room, None)
        if heard is not None:
            self._link.unlisten(heard.listening)

    def _received(self, heard: HeardRoom, data: bytes, headers: bytes | None) -> None:
        kind = self._bodies.kind(data)
        if kind == PUBLICATION and headers is not None:
            self._deliver(heard, data, headers)
        elif kind == EPHEMERAL:
            self._sink.ephemeral(heard.name, data[2:])
        elif kind == HINT:
            self._sink.changed(heard.name)

    def _deliver(self, heard: HeardRoom, data: bytes, headers: bytes) -> None:
        stream = heard.stream
        if header(headers, b"Nats-Stream").decode() != stream.name:
            self.foreign += 1
            if self.foreign == 1:
                extra = {"room": heard.name, "stream": header(headers, b"Nats-Stream").decode()}
                logger.error("another node keeps a room by another policy", extra={"roomwire": extra})
            return
        offset = int(header(headers, b"Nats-Sequence") or 0)
        previous = int(header(headers, b"Nats-Last-Sequence") or 0)
        now = asyncio.get_running_loop().time()
        stream.high = max(stream.high, offset)
        if not previous and now - heard.proven_at > stream.policy.ttl * 0.9:
            # There was none before it, or it is gone: nobody knows who was not there to see it.
            previous = offset - 1
        if heard.epoch == stream.epoch:
            if offset <= heard.agreed:
                self._check_soon(stream)  # a copy, or the stream counts from the beginning
            elif previous <= heard.agreed:
                heard.agree(stream.epoch, offset, now)
        self._sink.deliver(heard.name, stream.epoch, previous, offset, data[2:])

    def _check_soon(self, stream: Stream) -> None:
        if stream.name not in self._checking:
            self._checking.add(stream.name)
            self._spawn(self._check(stream))

    async def _check(self, stream: Stream) -> None:
        try:
            await self._streams.look(stream)
        except Unavailable:
            pass  # the position check asks again
        finally:
            self._checking.discard(stream.name)

    def of_stream(self, stream: Stream) -> list[str]:
        """The rooms that are heard from a stream."""
        return [name for name, heard in self.heard.items() if heard.stream is stream]

    # --- the position check

    async def positions(self, rooms: Sequence[str]) -> dict[str, Position]:
        """Where rooms stand. Raises `Unavailable`.

        A stream moves on with its other rooms all the time. So a room that has missed nothing is said to be
        where the node has it already, except that now and then it moves on with the stream, or it could not
        be proven any more once all that was there is gone.
        """
        groups: dict[Stream, list[str]] = {}
        for room in rooms:
            heard = self.heard.get(room)
            stream = self._streams.of(room, self._policy_of(room)) if heard is None else heard.stream
            groups.setdefault(stream, []).append(room)
        answers = await all_of(self._positions(stream, names) for stream, names in groups.items())
        found = {room: position for answer in answers for room, position in answer.items()}
        return {room: found[room] for room in rooms}

    async def _positions(self, stream: Stream, rooms: Sequence[str]) -> dict[str, Position]:
        info = await self._streams.look(stream)
        now = asyncio.get_running_loop().time()
        top = Position(info.epoch, info.last)
        found = dict.fromkeys(rooms, top)
        known = [self.heard[room] for room in rooms if room in self.heard]
        # Below its own position a stream has lost something: so much the node has to see.
        known = [heard for heard in known if heard.epoch == info.epoch and heard.agreed <= info.last]
        for start in range(0, len(known), CHECK_BATCH):
            part = known[start : start + CHECK_BATCH]
            newest, reached = await self._newest(stream, part)
            for heard in part:
                last = newest.get(self._subject(heard), 0)
                if last > heard.agreed:
                    found[heard.name] = Position(info.epoch, last)
                    continue
                heard.checked = max(heard.checked, reached)
                heard.proven_at = now
                if now - heard.agreed_at <= min(_FRESH, stream.policy.ttl / 4):
                    found[heard.name] = Position(info.epoch, heard.agreed)
        return found

    def _subject(self, heard: HeardRoom) -> str:
        return self._subjects.stored(heard.stream.policy, self._subjects.partition(heard.name), heard.name)

    async def _newest(self, stream: Stream, rooms: Sequence[HeardRoom]) -> tuple[dict[str, int], int]:
        """The last events of those rooms that have one which was not looked at yet, and how far the look went.

        Any replica may answer. One that lags says so by how far it looked.
        """
        lowest = min(heard.checked for heard in rooms) + 1
        subjects = [self._subject(heard) for heard in rooms]
        newest: dict[str, int] = {}
        while True:
            try:
                body = {"seq": lowest, "multi_last": subjects, "batch": len(subjects)}
                messages, reached = await self._js.batch(stream.name, body)
            except NoStream:
                raise Unavailable("JetStream has no stream for the rooms now") from None
            newest.update((message.subject, message.seq) for message in messages)
            if not (messages and messages[-1].pending):
                return newest, reached
            lowest = messages[-1].seq + 1  # the answer would have been too large

    def stream_of(self, room: str) -> Stream:
        """The stream of a room, whether it is heard or not."""
        heard = self.heard.get(room)
        return self._streams.of(room, self._policy_of(room)) if heard is None else heard.stream

    def agreed(self, room: str, info: StreamInfo) -> int:
        """The position that the node has in a room; 0 where it has none in this life of the stream."""
        heard = self.heard.get(room)
        return heard.agreed if heard is not None and heard.epoch == info.epoch else 0

    def agree(self, room: str, top: Position) -> None:
        """The node was given a position by a page."""
        heard = self.heard.get(room)
        if heard is not None:
            heard.agree(top.epoch, top.offset, asyncio.get_running_loop().time())
