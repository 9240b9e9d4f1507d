"""Reading a room's past, and proving that it follows on a position."""

from __future__ import annotations

from roomwire.backplanes.nats.jetstream import JetStream, Message, NoStream, StreamInfo
from roomwire.backplanes.nats.rooms import Rooms
from roomwire.backplanes.nats.streams import Stream, Streams
from roomwire.backplanes.nats.subjects import Subjects
from roomwire.backplanes.nats.wire import PUBLICATION, Bodies, header, parse_time
from roomwire.core.errors import Unavailable
from roomwire.core.positions import Position
from roomwire.core.tail import Entry, Page

__all__ = ["History"]

_SOON = 30.0
"""Seconds in which a read has ended: a message that has longer to live does not expire in the middle of it."""


class History:
    """See the module's text."""

    def __init__(self, js: JetStream, streams: Streams, rooms: Rooms, subjects: Subjects, bodies: Bodies) -> None:
        self._js = js
        self._streams = streams
        self._rooms = rooms
        self._subjects = subjects
        self._bodies = bodies

    async def page(self, room: str, since: Position | None, limit: int) -> Page:
        """See `roomwire.backplanes.contract.Backplane.history`."""
        stream = self._rooms.stream_of(room)
        # Before the events: an event that comes in between is above this top, and will be heard or read.
        info = await self._streams.look(stream)
        top = Position(info.epoch, info.last)
        if since is None or limit <= 0:
            self._rooms.agree(room, top)
            return Page(top)
        if since.epoch != info.epoch:
            return Page(top, (), "epoch")
        if since.offset > info.last:
            return Page(top, (), "fork")  # the leader says so
        agreed = self._rooms.agreed(room, info)
        messages, complete = await self._read(stream, info, room, since.offset, limit)
        contiguous = await self._contiguous(stream, info, messages, since.offset)
        if not contiguous:
            return Page(top, (), "too_old" if stream.policy.size else "no_history")
        messages = [message for message in messages if message.seq > since.offset]
        if messages and not stream.policy.size:
            return Page(top, (), "no_history")
        if (
            messages
            and info.now - parse_time(header(messages[0].headers, b"Nats-Time-Stamp").decode()) > stream.policy.ttl
        ):
            return Page(top, (), "too_old")  # JetStream drops it a little later
        if messages:
            # Above the last one are other rooms alone, but for what the node has heard.
            top = Position(info.epoch, max(messages[-1].seq, agreed if complete else info.last))
        page = Page(top, self._entries(messages, since.offset))
        if not page.more:
            self._rooms.agree(room, top)
        return page

    async def _read(
        self, stream: Stream, info: StreamInfo, room: str, since: int, limit: int
    ) -> tuple[list[Message], bool]:
        """Messages of a room at and after `since`, and whether there are no more."""
        subject = self._subjects.stored(stream.policy, self._subjects.partition(room), room)
        try:
            messages, _ = await self._js.batch(
                stream.name, {"seq": max(1, since), "next_by_subj": subject, "batch": limit + 1}
            )
            if len(messages) > limit:
                extra = messages[0].seq > since
                return messages[:limit] if extra else messages, not (extra or messages[-1].pending)
            if messages and messages[-1].pending:
                return messages, False
            # A replica that lags does not know what it lacks.
            while info.config.get("num_replicas", 1) > 1 and len(messages) < limit:
                last = messages[-1].seq if messages else since
                found = await self._js.at_leader(stream.name, {"seq": max(last + 1, 1), "next_by_subj": subject})
                if found is None:
                    break
                messages.append(found)
                if len(messages) == limit:
                    rest = await self._js.count(stream.name, subject) - limit
                    messages[-1] = found._replace(pending=max(1, rest))
        except NoStream:
            raise Unavailable("JetStream has no stream for the room now") from None
        return messages, not (messages and messages[-1].pending)

    async def _contiguous(self, stream: Stream, info: StreamInfo, messages: list[Message], since: int) -> bool:
        """Whether nothing of the room is missing between `since` and the first of the messages after it.

        What is dropped of a room goes from its oldest event on, so where the event at `since` is there, all are.
        Else none can have been dropped by its age while the stream begins at or below `since`, nor by the size
        while there are fewer than that.
        """
        if messages and messages[0].seq == since:
            return True
        count = len(messages) + (messages[-1].pending if messages else 0)
        if count >= stream.config["max_msgs_per_subject"]:
            return False
        if since >= info.last:
            return True  # there was nothing to miss when the leader was asked
        if info.first > since + 1:
            return False
        if stream.policy.ttl - info.first_age > _SOON:
            return True
        # The first may have gone while the others were being read.
        later = await self._streams.look(stream)
        return later.epoch == info.epoch and later.first <= since + 1

    def _entries(self, messages: list[Message], since: int) -> list[Entry]:
        entries: list[Entry] = []
        previous = since
        for message in messages:
            if self._bodies.kind(message.data) == PUBLICATION:
                entries.append(Entry(previous, message.seq, message.data[2:]))
                previous = message.seq
        return entries
