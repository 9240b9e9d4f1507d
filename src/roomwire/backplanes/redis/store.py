"""The store: one server or a cluster, and which of its wires a command goes over.

On a cluster a command goes to the server that has its key. What a server answers with MOVED or ASK it has not
carried out, so it is sent again elsewhere; nothing else is ever sent twice.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from redis.crc import key_slot
from redis.exceptions import (
    AskError,
    ClusterCrossSlotError,
    ClusterDownError,
    MasterDownError,
    MovedError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)

from roomwire.backplanes.redis.dialing import Address, Dialer, ask
from roomwire.backplanes.redis.options import RedisOptions
from roomwire.backplanes.redis.scripts import Script
from roomwire.backplanes.redis.wire import COMMAND, Link, Wire
from roomwire.core.errors import ConfigError, Unavailable

__all__ = ["Call", "Store"]

logger = logging.getLogger("roomwire.backplane")

Arguments = Sequence[bytes | str | int]
Call = tuple[Sequence[bytes], Arguments]
"""The keys of a script, all of one slot on a cluster, and its further arguments."""

OLDEST = (6, 2)
_REDIRECTS = 5
_GAP = 0.5
"""Seconds between two looks at a cluster's map."""
_MAP_AGAIN = 2.0
"""Seconds until a map that could not be read is asked for once more."""
# Before anything was carried out.
_REFUSED = (
    AskError,  # MovedError is one
    ClusterCrossSlotError,
    ClusterDownError,
    MasterDownError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    TryAgainError,
)
# redis-py has no class for some, and Redis 6.2 wraps what a script ran into in a text of its own; all of these come
# before a script's first write.
_REFUSED_TEXT = re.compile(r"\b(OOM|READONLY|MISCONF|NOREPLICAS|NOPERM|NOAUTH|MASTERDOWN|CLUSTERDOWN|BUSY)\b")


class _Server:
    """The wires to one server: the first one writes, the others read, so that long pages hold up no publish."""

    def __init__(self, wires: list[Wire]) -> None:
        self.wires = wires
        self._next = 0

    def wire(self, read: bool) -> Wire:
        if not read or len(self.wires) == 1:
            return self.wires[0]
        self._next = self._next % (len(self.wires) - 1) + 1
        return self.wires[self._next]


class Store:
    """See the module's text.

    Attributes:
        clustered: whether it is a cluster.
        publish: the command that publishes; SPUBLISH where a cluster offers it, which tells one server alone.
        subscribe, unsubscribe: its counterparts.
    """

    def __init__(self, options: RedisOptions, name: str) -> None:
        self._options = options
        self._dialer = Dialer(options, name)
        self._servers: dict[Address | None, _Server] = {}
        self.clustered = options.endpoints.kind == "cluster"
        self.publish, self.subscribe, self.unsubscribe = "PUBLISH", "SUBSCRIBE", "UNSUBSCRIBE"
        self._slots: list[Address] = []
        self._mapping: asyncio.Task[None] | None = None
        self._mapped_at = -_GAP
        self._closed = False
        self.on_map: Callable[[], None] = lambda: None

    async def start(self) -> None:
        """Find out what it is.

        Raises:
            ConfigError: it is another kind of Redis than the URL says, or too old.
            Unavailable: it cannot be reached.
        """
        if self.clustered:
            await self._read_map()
        link = await self.dial(self._slots[0] if self.clustered else None)
        info = await ask(link, self._options.command_timeout, "INFO", "server")
        link.abort()
        await link.disconnect(nowait=True)
        lines = dict(line.partition(":")[::2] for line in info.decode(errors="replace").split("\r\n"))
        version = tuple(int(part) for part in re.findall(r"[0-9]+", lines.get("redis_version", ""))[:2])
        if version < OLDEST:
            found = lines.get("redis_version", "none")
            raise ConfigError(f"backplane.options.url: Redis 6.2 or later is needed, found version {found}")
        if (lines.get("redis_mode") == "cluster") is not self.clustered:
            wanted = "redis://" if self.clustered else "redis+cluster://"
            what = "no cluster" if self.clustered else "a cluster"
            raise ConfigError(f"backplane.options.url: the server belongs to {what}: begin the URL with {wanted}")
        if self.clustered and version >= (7, 0):
            self.publish, self.subscribe, self.unsubscribe = "SPUBLISH", "SSUBSCRIBE", "SUNSUBSCRIBE"

    async def aclose(self) -> None:
        """Close every wire."""
        self._closed = True
        for server in self._servers.values():
            for wire in server.wires:
                await wire.aclose()
        if self._mapping is not None:
            await asyncio.wait([self._mapping])

    def reached(self) -> None:
        """It can be reached again."""
        for server in self._servers.values():
            for wire in server.wires:
                wire.hurry()

    # --- where things are

    def home(self, key: bytes) -> Address | None:
        """The server that has a key or a channel; None: there is one server only."""
        return self._slots[key_slot(key)] if self.clustered else None

    def serves(self, home: Address) -> bool:
        """Whether a server has any slots of the cluster."""
        return home in self._slots

    async def dial(self, home: Address | None) -> Link:
        """A connection to that server. Raises as `Dialer.dial` does."""
        return await self._dialer.dial(home)

    def remap(self) -> None:
        """Read the map of a cluster anew, soon; many ask, and it is read once. Until it can be, the old one stays."""
        if self.clustered and not self._closed and self._mapping is None:
            self._mapping = asyncio.create_task(self._remap())

    async def _remap(self) -> None:
        try:
            loop = asyncio.get_running_loop()
            await asyncio.sleep(max(0.0, self._mapped_at + _GAP - loop.time()))
            self._mapped_at = loop.time()
            await self._read_map()
            self.on_map()  # though it may say nothing new: a server that sent us elsewhere has said it before
            self._forget_servers()
        except Unavailable as error:
            logger.warning("the map of the Redis cluster cannot be read: %s", error)
            asyncio.get_running_loop().call_later(_MAP_AGAIN, self.remap)
        finally:
            self._mapping = None

    def _forget_servers(self) -> None:
        """Close what leads to servers that are not in the map, such as those that were replaced."""
        for home in self._servers.keys() - set(self._slots):
            if not any(wire.busy for wire in self._servers[home].wires):
                for wire in self._servers.pop(home).wires:
                    wire.drop("the server is not in the cluster any more")

    async def _read_map(self) -> None:
        failure = Unavailable("the Redis cluster has no server", stored=False)
        for address in [*dict.fromkeys(self._slots), *self._options.endpoints.addresses]:
            try:
                link = await self.dial(address)
                ranges = await ask(link, self._options.command_timeout, "CLUSTER", "SLOTS")
            except Unavailable as error:
                failure = error
                continue
            link.abort()
            await link.disconnect(nowait=True)
            slots: list[Address | None] = [None] * 16384
            for first, last, master, *_ in ranges:
                home = ((master[0] or b"").decode() or address[0], int(master[1]))
                slots[first : last + 1] = [home] * (last - first + 1)
            found = [home for home in slots if home is not None]
            if len(found) == len(slots):
                self._slots = found
                return
            failure = Unavailable("the Redis cluster does not cover all slots", stored=False)
        raise failure

    def group(self, keys: Iterable[bytes], most: int) -> list[list[int]]:
        """Places of keys that one script may have together: all of one slot on a cluster, at most `most`."""
        by_slot: dict[int, list[int]] = {}
        for place, key in enumerate(keys):
            by_slot.setdefault(key_slot(key) if self.clustered else 0, []).append(place)
        groups = by_slot.values()
        return [group[start : start + most] for group in groups for start in range(0, len(group), most)]

    # --- commands

    async def run(
        self, script: Script, keys: Sequence[bytes], *arguments: bytes | str | int, read: bool = False
    ) -> Any:
        """Run a script.

        Raises:
            Unavailable: with ``stored=False`` where it was certainly not carried out.
        """
        command = ("EVALSHA", script.sha, len(keys), *keys, *arguments)
        (reply,) = await self._call(self.home(keys[0]), read, command)
        return await self._settle(reply, keys[0], command, script, read)

    async def do(self, key: bytes, *command: bytes | str | int) -> Any:
        """Send a command about `key`. Raises as `run` does."""
        (reply,) = await self._call(self.home(key), False, command)
        return await self._settle(reply, key, command, None, False)

    async def run_many(self, script: Script, calls: Sequence[Call], *, read: bool = False) -> list[Any]:
        """Run a script many times, in one piece for each server. Raises as `run` does, once all have run."""
        commands = [("EVALSHA", script.sha, len(keys), *keys, *arguments) for keys, arguments in calls]
        by_home: dict[Address | None, list[int]] = {}
        for place, (keys, _) in enumerate(calls):
            by_home.setdefault(self.home(keys[0]), []).append(place)
        replies: list[Any] = [None] * len(calls)
        failure: Unavailable | None = None
        for home, places in by_home.items():
            try:
                found = await self._call(home, read, *(commands[place] for place in places))
            except Unavailable as error:
                failure = failure or error
                continue
            for place, reply in zip(places, found, strict=True):
                replies[place] = reply
        if failure is not None:
            raise failure
        return [
            await self._settle(reply, keys[0], command, script, read) if isinstance(reply, ResponseError) else reply
            for reply, (keys, _), command in zip(replies, calls, commands, strict=True)
        ]

    async def _call(self, home: Address | None, read: bool, *commands: COMMAND) -> list[Any]:
        try:
            return await self._wire(home, read).call(*commands)
        except Unavailable:
            self.remap()  # another server may have taken its place
            raise

    def _wire(self, home: Address | None, read: bool) -> Wire:
        server = self._servers.get(home)
        if server is None:
            if self._closed:
                raise Unavailable("the Redis backplane is closed", stored=False)

            async def dial() -> Link:
                return await self.dial(home)

            wires = [Wire(dial, self._options.command_timeout) for _ in range(self._options.max_connections - 1)]
            server = self._servers[home] = _Server(wires)
        return server.wire(read)

    async def _settle(self, reply: Any, key: bytes, command: COMMAND, script: Script | None, read: bool) -> Any:
        """A reply, after what the server asked to be sent again was; its errors are raised."""
        home = self.home(key)
        for _ in range(_REDIRECTS):
            if isinstance(reply, NoScriptError) and script is not None:
                command = ("EVAL", script.source, *command[2:])
                (reply,) = await self._call(home, read, command)
                continue
            if not isinstance(reply, AskError) or home is None:
                break
            home = (reply.host or home[0], reply.port)
            if isinstance(reply, MovedError):
                self._slots[reply.slot_id] = home
                self.remap()
                (reply,) = await self._call(home, read, command)
            else:
                _, reply = await self._call(home, read, ("ASKING",), command)
        if isinstance(reply, ResponseError):
            raise self._refusal(reply, home)
        return reply

    def _refusal(self, error: ResponseError, home: Address | None) -> Unavailable:
        text = str(error)
        certain = isinstance(error, _REFUSED) or _REFUSED_TEXT.search(text) is not None
        if isinstance(error, ReadOnlyError | MasterDownError) or "READONLY" in text:
            # It was the master once: the next dial asks who is.
            for wire in self._servers[home].wires:
                wire.drop("the server is no master any more")
        return Unavailable(f"Redis refuses: {text}", stored=False if certain else None)
