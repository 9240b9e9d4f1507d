"""The streams: made where they are missing, compared with what they should be, and their lives told apart.

There are some for each history policy, since JetStream's limits are a stream's. A room has its place in one
of them by its name. The time at which a stream was made is the epoch of its rooms.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from roomwire.backplanes.contract import KEY_WINDOW, HistoryPolicy
from roomwire.backplanes.nats.flights import Shared, all_of
from roomwire.backplanes.nats.jetstream import JetStream, StreamInfo
from roomwire.backplanes.nats.options import NatsOptions
from roomwire.backplanes.nats.subjects import Subjects
from roomwire.core.errors import ConfigError, Unavailable

__all__ = ["Stream", "Streams", "differences"]

logger = logging.getLogger("roomwire.backplane")

_NANO = 1_000_000_000


class Stream:
    """One stream, as this node knows it.

    Attributes:
        epoch: its life; empty before it was first looked at.
        high: a sequence that it has reached. What is stored after this was known has a higher one.
        window: seconds for which it knows the ids of messages.
        look: asks its leader where it stands, and makes it where it is missing.
    """

    def __init__(
        self, name: str, policy: HistoryPolicy, config: Mapping[str, Any], look: Callable[[Stream], Any]
    ) -> None:
        self.name = name
        self.policy = policy
        self.config = config
        self.epoch = ""
        self.high = 0
        self.window = config["duplicate_window"] / _NANO
        self.look: Shared[StreamInfo] = Shared(lambda: look(self))


class Streams:
    """All streams that this node has had to do with.

    Args:
        js: JetStream.
        subjects: the names.
        options: the options.
        changed: called when a stream turns out to be in another life than it was.
    """

    def __init__(
        self, js: JetStream, subjects: Subjects, options: NatsOptions, changed: Callable[[Stream], None]
    ) -> None:
        self._js = js
        self._subjects = subjects
        self._options = options
        self._changed = changed
        self.by_name: dict[str, Stream] = {}

    def of(self, room: str, policy: HistoryPolicy) -> Stream:
        """The stream of a room."""
        return self._get(policy, self._subjects.partition(room))

    def _get(self, policy: HistoryPolicy, partition: int) -> Stream:
        name = self._subjects.stream(policy, partition)
        stream = self.by_name.get(name)
        if stream is None:
            config = self._config(name, policy, partition)
            stream = self.by_name[name] = Stream(name, policy, config, self._look)
        return stream

    def _config(self, name: str, policy: HistoryPolicy, partition: int) -> dict[str, Any]:
        subject = self._subjects.stored(policy, partition)
        age = round(policy.ttl * 1000) * (_NANO // 1000)
        return {
            "name": name,
            "description": "roomwire: events of rooms; nothing but its nodes may write here",
            "subjects": [subject],
            "retention": "limits",
            "discard": "old",
            # One more than are given: what follows on it is proven by its being there. A room that keeps nothing
            # has its last event all the same, since the next one names it as the one before.
            "max_msgs_per_subject": policy.size + 1,
            "max_age": age,
            "max_bytes": -1,
            "max_msgs": -1,
            # JetStream remembers no id longer than a message.
            "duplicate_window": min(age, round(KEY_WINDOW) * _NANO),
            "allow_direct": True,
            "deny_delete": True,
            "deny_purge": True,
            "republish": {"src": subject, "dest": self._subjects.republished},
            "storage": self._options.storage,
            "num_replicas": self._options.replicas,
            "metadata": {"roomwire.partitions": str(self._options.partitions)},
        }

    async def _look(self, stream: Stream) -> StreamInfo:
        """Where it stands.

        Raises:
            Unavailable: nobody can tell.
            ConfigError: it is not what it should be.
        """
        info = await self._js.info(stream.name)
        if info is None:
            info = await self._js.create(stream.config)
            if info is None:  # another node made it in between, or another stream has its subjects
                info = await self._js.info(stream.name)
            else:
                logger.debug("a stream was made", extra={"roomwire": {"stream": stream.name}})
        if info is None:
            raise ConfigError(f"NATS: the subjects {stream.config['subjects']} belong to another stream")
        if info.epoch != stream.epoch:
            problems = differences(stream.config, info.config)
            if problems:
                raise ConfigError(f"NATS: the stream {stream.name} is not as this node needs it: {'; '.join(problems)}")
            if info.config.get("num_replicas") != self._options.replicas:
                extra = {"stream": stream.name, "replicas": info.config.get("num_replicas")}
                logger.warning("a stream has another number of replicas", extra={"roomwire": extra})
            known, stream.epoch, stream.high = stream.epoch, info.epoch, info.last
            if known:
                logger.warning("a stream began anew", extra={"roomwire": {"stream": stream.name}})
                self._changed(stream)
        stream.high = max(stream.high, info.last)
        return info

    async def open(self, policies: set[HistoryPolicy]) -> None:
        """Make the streams of these policies, and look at all that are known.

        Raises:
            Unavailable, ConfigError: as `_look`.
        """
        for policy in policies:
            for partition in range(self._options.partitions):
                self._get(policy, partition)
        await all_of(stream.look() for stream in list(self.by_name.values()))

    async def look(self, stream: Stream) -> StreamInfo:
        """Where a stream stands, asked after this call.

        Raises:
            Unavailable: nobody can tell, or it is not what it should be.
        """
        try:
            return await stream.look()
        except ConfigError as error:
            # Once the node serves it is no reason to end it.
            logger.error("%s", error)
            raise Unavailable(str(error), stored=False) from None


def differences(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """What of a stream, or of a bucket's, is not as it was wanted. Replicas may be added to a running one."""
    problems = []
    for key, value in wanted.items():
        have = found.get(key, False if isinstance(value, bool) else None)
        if key == "metadata":
            have = {name: (have or {}).get(name) for name in value}
        elif key == "republish" and isinstance(have, dict):
            have = {name: have.get(name) for name in value}
        if key not in ("description", "num_replicas") and have != value:
            problems.append(f"{key} is {have!r} and not {value!r}")
    return problems
