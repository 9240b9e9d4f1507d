"""Buckets of leases: values with a time to live, changed by whoever saw the value before.

A bucket is one of JetStream's key-value buckets, which `nats kv` shows. A lease ends by the store's clock at
the time that stands in it; the server deletes it some time later, so that an outage can be forgiven.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from roomwire.backplanes.nats.flights import Shared
from roomwire.backplanes.nats.jetstream import Conflict, JetStream, Message, NoStream, StreamInfo
from roomwire.backplanes.nats.options import NatsOptions
from roomwire.backplanes.nats.streams import differences
from roomwire.backplanes.nats.wire import LEASE, Bodies, header, pack
from roomwire.core.errors import ConfigError, Unavailable

__all__ = ["ABSENT", "FORGIVENESS", "Bucket", "Clock", "Item"]

logger = logging.getLogger("roomwire.backplane")

FORGIVENESS = 25.0
"""Seconds after an outage in which leases hold that held when it began: each node refreshes its own within 20 s."""
SLACK = 120
"""Seconds that the server keeps a lease beyond its end. After a longer outage they may be gone."""
_SCAN = 512
_TRUSTED = 1.0


class Clock:
    """The store's clock, as it is known from its answers."""

    def __init__(self) -> None:
        self._offset: float | None = None
        self._trusted = False
        self._outage = 0.0  # when it began
        self._lasts = False
        self._lasted = 0.0
        self._forgiving_until = 0.0

    def sync(self, stored: float, sent: float) -> None:
        """The store's time in an answer to a question that was sent at loop time `sent`."""
        now = asyncio.get_running_loop().time()
        quick = now - sent <= _TRUSTED
        if quick or not self._trusted:
            # Never ahead of the store: the answer took some time.
            self._offset = stored - now
            self._trusted = quick

    def now(self) -> float:
        """Seconds since 1970.

        Raises:
            Unavailable: the store was never heard of.
        """
        if self._offset is None:
            raise Unavailable("the store's clock is not known yet")
        return asyncio.get_running_loop().time() + self._offset

    def lost(self) -> None:
        """An outage begins, or goes on, in which no lease can be refreshed."""
        if self._offset is not None and not self._lasts:
            # One that follows before all have refreshed theirs is the same.
            if not self._forgives():
                self._outage = self.now()
            self._lasts = True

    def found(self) -> None:
        """It is over."""
        if self._lasts:
            now = self.now()
            self._lasts = False
            self._lasted = now - self._outage
            self._forgiving_until = now + FORGIVENESS

    def _forgives(self) -> bool:
        return self._lasts or self.now() < self._forgiving_until

    def ended(self, expires: float) -> bool:
        """Whether a lease has ended."""
        return expires <= self.now() and not (expires > self._outage and self._forgives())

    def check(self) -> None:
        """Raises `Unavailable` where the server may have deleted leases that only an outage has ended."""
        lasts = self.now() - self._outage if self._lasts else self._lasted
        if self._forgives() and lasts > SLACK:
            raise Unavailable("presence is not read before all nodes have refreshed theirs", stored=False)


class Item(NamedTuple):
    """What a key has.

    Attributes:
        revision: 0 where it has nothing at all.
        value: None where it has none, or none any more.
    """

    revision: int
    value: bytes | None


ABSENT = Item(0, None)

Decision = tuple[bytes, float] | None
"""The new value with its end, in seconds since 1970; an empty value takes the key away; None leaves it as it is."""


class Bucket:
    """See the module's text.

    Args:
        js, options, bodies: the adapter's parts.
        name: the bucket's.
    """

    def __init__(self, js: JetStream, options: NatsOptions, bodies: Bodies, clock: Clock, name: str) -> None:
        self._js = js
        self._options = options
        self.bodies = bodies
        self.clock = clock
        self._stream = f"KV_{name}"
        self._prefix = f"$KV.{name}."
        self._epoch = ""
        self._replicated = options.replicas > 1
        self.open: Shared[StreamInfo] = Shared(self._look)
        """Asks where it stands, and makes it where it is missing."""
        self._config: dict[str, Any] = {
            "name": self._stream,
            "description": "roomwire: leases of its nodes",
            "subjects": [f"{self._prefix}>"],
            "retention": "limits",
            "discard": "new",
            "max_msgs_per_subject": 1,
            "allow_direct": True,
            "allow_msg_ttl": True,
            "allow_rollup_hdrs": True,
            "deny_delete": True,
            "storage": options.storage,
            "num_replicas": options.replicas,
        }

    async def _look(self) -> StreamInfo:
        info = await self._js.info(self._stream)
        if info is None:
            info = await self._js.create(self._config) or await self._js.info(self._stream)
        if info is None:
            raise ConfigError(f"NATS: the subjects {self._prefix}> belong to another stream")
        if info.epoch != self._epoch:
            problems = differences(self._config, info.config)
            if problems:
                raise ConfigError(
                    f"NATS: the bucket {self._stream} is not as this node needs it: {'; '.join(problems)}"
                )
            self._epoch = info.epoch
        self._replicated = info.config.get("num_replicas", 1) > 1
        return info

    async def look(self) -> None:
        """Make it where it is missing, and learn the store's time.

        Raises:
            Unavailable: it cannot be done, or it is not what it should be.
        """
        try:
            await self.open()
        except ConfigError as error:
            logger.error("%s", error)  # once the node serves it is no reason to end it
            raise Unavailable(str(error), stored=False) from None

    async def _again(self, do: Callable[[], Awaitable[Any]]) -> Any:
        """Do it, once more where the bucket is missing."""
        for _ in range(2):
            try:
                return await do()
            except NoStream:
                await self.look()
        raise Unavailable(f"JetStream has no bucket {self._stream} now", stored=False)

    # --- reading

    def _item(self, message: Message | None) -> Item:
        if message is None:
            return ABSENT
        if header(message.headers, b"KV-Operation") or header(message.headers, b"Nats-Marker-Reason"):
            return Item(message.seq, None)
        good = self.bodies.kind(message.data) == LEASE
        return Item(message.seq, message.data[2:] if good else None)

    async def read(self, key: str) -> Item:
        """What a key has. Raises `Unavailable`."""
        subject, leader = self._prefix + key, self._replicated
        return self._item(await self._again(lambda: self._js.last(self._stream, subject, leader=leader)))

    async def scan(self, keys: str) -> dict[str, Item]:
        """What all keys of a pattern have. Raises `Unavailable`."""
        found: dict[str, Item] = {}
        since = 1
        while True:
            body = {"seq": since, "next_by_subj": self._prefix + keys, "batch": _SCAN}
            messages, _ = await self._again(lambda body=body: self._js.batch(self._stream, body))  # type: ignore[misc]
            for message in messages:
                # One that is written meanwhile comes once more, further on.
                found[message.subject[len(self._prefix) :]] = self._item(message)
            if not (messages and messages[-1].pending):
                return found
            since = messages[-1].seq + 1

    # --- writing

    async def write(self, key: str, value: bytes, expires: float, revision: int | None) -> int:
        """Write a value; an empty one takes the key away.

        Args:
            key: the key.
            value: the value.
            expires: when it ends.
            revision: what it has to follow on; 0 for nothing, None for whatever is there.

        Returns:
            Its revision.

        Raises:
            Conflict: it does not follow on that.
            Unavailable: it was not written, or with ``stored=None`` nobody knows.
        """
        seconds = 1 if not value else max(1, int(expires - self.clock.now()) + SLACK)
        headers = {"Nats-TTL": f"{seconds}s"}
        if revision is not None:
            headers["Nats-Expected-Last-Subject-Sequence"] = str(revision)
        if not value:
            headers["KV-Operation"] = "DEL"
        body = pack(LEASE, value) if value else b""
        ack = await self._again(lambda: self._js.put(self._prefix + key, body, headers))
        revised: int = ack.seq
        return revised

    async def change(self, key: str, guess: Item | None, decide: Callable[[Item], Decision]) -> Item:
        """Read, decide and write, again where somebody else wrote in between.

        Args:
            key: the key.
            guess: what it has, probably; None where nobody knows.
            decide: called with what it has; perhaps several times.

        Returns:
            What the key has now.

        Raises:
            Unavailable: it could not be done in time.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._options.operation_timeout
        while True:
            item = await self.read(key) if guess is None else guess
            decision = decide(item)
            if decision is None and guess is None:
                return item
            if decision is None:
                guess = None  # nothing is left as it is by a guess
                continue
            try:
                return Item(await self.write(key, *decision, item.revision), decision[0] or None)
            except Conflict:
                guess = None
            if loop.time() >= deadline:
                raise Unavailable("a lease changes too often", stored=False)
