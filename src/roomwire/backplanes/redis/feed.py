"""The feed: what this node listens to, and how it gets to the sink.

One link, or on a cluster one to each server that has a channel of ours. What links bring goes through an inbox
that is emptied a part at a time: a node that cannot keep up leaves out deliveries and says of which rooms, since a
reader that stopped would fill the server's buffers, until it ends the link and all rooms are in doubt.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Collection
from functools import partial
from itertools import count

from roomwire.backplanes.contract import Sink
from roomwire.backplanes.redis.dialing import Address
from roomwire.backplanes.redis.keys import EPHEMERAL, EVENT, HINT, KINDS, PROBE, TOLD, Keys
from roomwire.backplanes.redis.link import ListeningLink, Owner
from roomwire.backplanes.redis.options import RedisOptions
from roomwire.backplanes.redis.store import Store
from roomwire.backplanes.redis.wire import Link
from roomwire.core.errors import Unavailable

__all__ = ["INBOX_BYTES", "INBOX_MESSAGES", "Feed"]

logger = logging.getLogger("roomwire.backplane")

INBOX_MESSAGES = 10_000
"""Messages that may wait for the node."""
INBOX_BYTES = 16 * 1024 * 1024
"""Bytes of them."""
_TURN = 256
"""Messages that are handed over in a turn of the loop."""


class Feed:
    """See the module's text.

    Args:
        store: which server has which channel.
        keys: the names.
        options: the times.
        sink: what to tell.
        node: this node's name.

    Attributes:
        dropped: messages that could not be read.
        skipped: deliveries that were left out, since the node could not keep up.
        was_down: called with the seconds for which it did not listen, before the sink hears that it does again.
    """

    def __init__(self, store: Store, keys: Keys, options: RedisOptions, sink: Sink, node: str) -> None:
        self._store = store
        self._keys = keys
        self._options = options
        self._sink = sink
        self._node = node
        self._rooms: dict[bytes, str] = {}  # by channel
        self._own = (keys.node(node), keys.nodes())
        self._links: dict[Address | None, ListeningLink] = {}
        self._probes: dict[Address, bytes] = {}
        self._given_away: set[bytes] = set()
        self._confirming: dict[bytes, asyncio.Future[bool]] = {}
        self._inbox: deque[tuple[bytes, bytes]] = deque()
        self._inbox_bytes = 0
        self._emptying = False
        self._skipped_rooms: set[str] = set()
        self._up = False
        self._started = False
        self._closed = False
        self._down_since = 0.0
        self.dropped = 0
        self.skipped = 0
        self.was_down: Callable[[float], None] = lambda seconds: None

    # --- its life

    async def start(self) -> None:
        """Listen.

        Raises:
            Unavailable: the first try failed.
        """
        self._store.on_map = self._rearrange
        for channel in self._own:
            self._link_of(channel).add(channel)
        for link in list(self._links.values()):
            await asyncio.wait([link.first])
            error = link.first.result()
            if error is not None:
                await self.aclose()
                raise Unavailable(str(error), stored=False)

    async def aclose(self) -> None:
        """Listen no more."""
        self._closed = True
        for link in list(self._links.values()):
            await link.aclose()

    def _link_of(self, channel: bytes) -> ListeningLink:
        home = self._store.home(channel)
        link = self._links.get(home)
        if link is None:

            async def dial() -> Link:
                return await self._store.dial(home)

            owner = Owner(self._message, self._went_up, self._went_down, partial(self._probe, home), self._lost)
            commands = (self._store.subscribe, self._store.unsubscribe)
            link = self._links[home] = ListeningLink(dial, owner, self._options, commands)
            # It knows a channel of its own before it connects, so that what is probed is listened to.
            if home is not None:
                link.add(self._probed(home))
            link.start()
        return link

    def _probed(self, home: Address) -> bytes:
        """A channel of this node's that a server of the cluster has. Raises `Unavailable` where it has none."""
        known = self._probes.get(home)
        if known is None or self._store.home(known) != home:
            if not self._store.serves(home):
                raise Unavailable("the server has no slots of the cluster", stored=False)
            # Of a server with few slots it takes thousands of names to find one.
            names = (self._keys.node(f"{self._node} {number}") for number in count())
            known = self._probes[home] = next(name for name in names if self._store.home(name) == home)
        return known

    async def _probe(self, home: Address | None) -> None:
        channel = self._own[0] if home is None else self._probed(home)
        await self._store.do(channel, self._store.publish, channel, PROBE)

    # --- up and down

    def _went_up(self) -> None:
        if not all(link.up for link in self._links.values()):
            return
        if not self._up:
            self._up = True
            self._store.reached()
            if self._started:
                self.was_down(asyncio.get_running_loop().time() - self._down_since)
            self._sink.available(True)
        if self._started:
            self._sink.interrupted(None)
        self._started = True

    def _went_down(self) -> None:
        self._store.remap()
        if self._up:
            self._up = False
            self._down_since = asyncio.get_running_loop().time()
            if not self._closed:
                self._sink.available(False)

    # --- rooms

    async def subscribe(self, room: str) -> None:
        """Listen to a room; returns when the server has confirmed it.

        Raises:
            Unavailable: the link is down or broke meanwhile.
        """
        channel = self._keys.channel(room)
        added = channel not in self._rooms
        try:
            if not await self._confirmed(channel, room):
                raise Unavailable("the listening link to Redis is down", stored=False)
        except BaseException:  # a caller that is cancelled does not listen, either
            if added:
                self.unsubscribe(room)
            raise

    async def _confirmed(self, channel: bytes, room: str) -> bool:
        confirming = self._confirming.get(channel)
        if confirming is None:
            link = self._link_of(channel)
            await asyncio.wait([link.first], timeout=self._options.connect_timeout)
            if channel in self._rooms and link.up:
                return True
            self._rooms[channel] = room
            confirming = self._confirming[channel] = link.add(channel)
        await asyncio.wait([confirming], timeout=self._options.command_timeout)
        if self._confirming.get(channel) is confirming:
            del self._confirming[channel]
        return confirming.done() and confirming.result() and channel in self._rooms

    def unsubscribe(self, room: str) -> None:
        """Listen to it no more."""
        channel = self._keys.channel(room)
        if self._rooms.pop(channel, None) is not None:
            self._confirming.pop(channel, None)
            for link in self._links.values():
                link.discard(channel)

    def _lost(self, channel: bytes) -> None:
        if self._store.clustered:
            self._given_away.add(channel)
            self._store.remap()
        room = self._rooms.get(channel)
        if room is not None:
            self._skip(room)

    def _rearrange(self) -> None:
        """The map of a cluster changed: each channel goes to the server that has it now."""
        given_away, self._given_away = self._given_away, set()
        for link in list(self._links.values()):
            for channel in list(link.channels):
                if channel in self._rooms or channel in self._own:
                    right = self._link_of(channel)
                    if right is not link:
                        link.discard(channel, gone=channel in given_away)
                    # The map may be older than the move: then the server refuses, and the map is read again.
                    if right is not link or channel in given_away:
                        right.add(channel).add_done_callback(partial(self._moved, channel))
        self._settle_links(given_away)
        if not self._up:
            self._went_up()

    def _settle_links(self, given_away: Collection[bytes]) -> None:
        """End the links without a channel; the others are probed through one that their server has."""
        for home, link in list(self._links.items()):
            probes = [channel for channel in link.channels if channel not in self._rooms and channel not in self._own]
            if len(probes) == len(link.channels):
                del self._links[home]
                link.stop()
            elif home is not None and probes != [probed := self._probed(home)]:
                # A channel that is another server's by now would be refused, and with it the link.
                for probe in probes:
                    link.discard(probe, gone=probe in given_away)
                link.add(probed)

    def _moved(self, channel: bytes, confirmed: asyncio.Future[bool]) -> None:
        """Between two servers of a cluster anything may have been missed."""
        room = self._rooms.get(channel)
        if room is not None and confirmed.result():
            self._skip(room)

    # --- messages

    def _message(self, channel: bytes, data: bytes) -> None:
        room = self._rooms.get(channel)
        if room is not None and (len(self._inbox) >= INBOX_MESSAGES or self._inbox_bytes + len(data) > INBOX_BYTES):
            self.skipped += 1
            self._skip(room)
            return
        self._inbox.append((channel, data))
        self._inbox_bytes += len(data)
        self._empty_soon()

    def _skip(self, room: str) -> None:
        self._skipped_rooms.add(room)
        self._empty_soon()

    def _empty_soon(self) -> None:
        if not self._emptying:
            self._emptying = True
            asyncio.get_running_loop().call_soon(self._empty)

    def _empty(self) -> None:
        self._emptying = False
        if self._closed:
            return
        inbox = self._inbox
        for _ in range(min(_TURN, len(inbox))):
            channel, data = inbox.popleft()
            self._inbox_bytes -= len(data)
            self._hand_over(channel, data)
        if inbox:
            self._empty_soon()
        elif self._skipped_rooms:
            rooms, self._skipped_rooms = self._skipped_rooms, set()
            self._sink.interrupted(rooms)

    def _hand_over(self, channel: bytes, data: bytes) -> None:
        kind, body = data[:2], data[2:]
        room = self._rooms.get(channel)
        try:
            if kind not in KINDS:
                raise ValueError("unknown version or kind")
            if room is None:
                if kind == TOLD and channel in self._own:
                    self._sink.told(body)
            elif kind == EVENT:
                epoch, offset, event = body.split(b"|", 2)
                number = int(offset)
                self._sink.deliver(room, epoch.decode("ascii"), number - 1, number, event)
            elif kind == EPHEMERAL:
                self._sink.ephemeral(room, body)
            elif kind == HINT:
                self._sink.changed(room)
        except ValueError:  # what this version cannot read, or what nobody of ours wrote
            self.dropped += 1
            if self.dropped == 1:
                logger.error("a message on %s cannot be read and was dropped", channel.decode(errors="replace"))
