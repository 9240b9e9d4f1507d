"""Lean clients, hundreds in one loop: the wire protocol as the page has it, written anew, and a log of all it says.

A client is one asyncio protocol for each link and has no task. It trusts nothing: what comes is logged as it came,
doubled or not, and its position is made of that log as the protocol's page says. So it shares no code with the
product's own client, which `tests.cluster.product` runs beside it.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote

import jwt

from roomwire.core.positions import Position
from tests.cluster.frames import frame_at, masked
from tests.cluster.nodes import SECRET
from tests.cluster.records import Acked, Event, Given, Left, Log, Moved, Present, State

if TYPE_CHECKING:
    from tests.cluster.crowd import Crowd

__all__ = ["Member", "token"]

_FINAL = {1000, 1002, 1003, 1007, 1008, 1009}
_NOT_JOINED = {"forbidden", "too_many_rooms"}


def token(user: str, rooms: Sequence[str]) -> str:
    """A credential that puts its user into rooms."""
    return jwt.encode({"sub": user, "exp": time.time() + 86_400, "rooms": list(rooms)}, SECRET, "HS256")


class Member(asyncio.Protocol):
    """One client over all its links.

    Args:
        crowd: the clients of this run.
        name: the client's id, and its user's where no other is given.
        rooms: those that its token puts it into.
        chance: where it connects to, and its jitter.
        user: the user.

    Attributes:
        log: what it saw.
        positions: where it stands, by room.
        waiting: rooms whose state was announced and has not come.
        live: whether it has had the welcome of its link.
        closed: the code of each link's end; 1006 where it broke.
        refused: the status of each refused handshake.
        resumed: seconds from the end of a link to the last replayed event on the next one.
        replayed: seconds from dialling to the last replayed event.
        back: seconds from the end of a link to the next welcome.
        hints: ``retry_after`` of each ``session.closing``.
    """

    def __init__(self, crowd: Crowd, name: str, rooms: Sequence[str], chance: Random, user: str | None = None) -> None:
        self.crowd = crowd
        self.name = name
        self.user = user or name
        self.rooms = list(rooms)
        self.log = Log(name)
        self.positions: dict[str, Position] = {}
        self.waiting: dict[str, str] = {}
        self.live = False
        self.closed: list[int] = []
        self.refused: list[int] = []
        self.resumed: list[float] = []
        self.replayed: list[float] = []
        self.back: list[float] = []
        self.hints: list[float] = []
        self.errors: list[str] = []
        self.ended = False
        self.held = False
        self.dropping = 0
        self._chance = chance
        self._first = 0
        self._token = token(self.user, self.rooms)
        self._transport: asyncio.Transport | None = None
        self._data = b""
        self._upgraded = False
        self._down_at: float | None = None
        self._dialled_at = 0.0
        self._catching: dict[str, int] | None = None
        self._retry_after = 0.0
        self._attempts = 0
        self._tried = 0
        self._timer: asyncio.TimerHandle | None = None
        self._requests: dict[str, Callable[[dict[str, Any]], None]] = {}
        self._count = 0

    @property
    def closed_all(self) -> bool:
        """Whether it has no link."""
        return self._transport is None

    # --- links

    def dial(self) -> None:
        """Connect, with the positions that it has, to the next server of its list."""
        self._timer = None
        if not self.ended and not self.held:
            self._dialled_at = time.monotonic()
            self.crowd.task(self._dial())

    async def _dial(self) -> None:
        ports = self.crowd.ports()
        if self._tried == 0:
            self._first = self._chance.randrange(len(ports))
        port = ports[(self._first + self._tried) % len(ports)]
        self._tried += 1
        try:
            await asyncio.get_running_loop().create_connection(lambda: self, "127.0.0.1", port)
        except OSError:
            # A list of addresses is gone through at once, as a browser does it; only then it is waited.
            if self._tried < len(ports):
                await self._dial()
            else:
                self._again()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._data, self._upgraded = b"", False
        query = f"client={self.name}&token={self._token}"
        if self.positions:
            cursor = ",".join(f"{quote(room, safe='')}@{position}" for room, position in self.positions.items())
            query += f"&last_event_id={quote(cursor, safe='')}"
        self._transport.write(
            f"GET /ws?{query} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
        )

    def connection_lost(self, error: Exception | None) -> None:
        was_live, self.live = self.live, False
        if self._transport is None:
            return
        self._transport = None
        self._catching = None
        if was_live:
            self._down_at = time.monotonic()
            if self.dropping:
                self.closed.append(self.dropping)
            else:
                self.closed.append(1006)
        code, self.dropping = self.dropping, 0
        for fail in list(self._requests.values()):
            fail({"event": "error", "data": {"code": "link"}})
        self._requests.clear()
        if code in _FINAL or 4500 <= code <= 4999:
            self.ended = self.log.ended = True
        elif not self.ended:
            self._again()

    def _again(self) -> None:
        """After the protocol's back-off, or what the server asked for."""
        self._tried = 0
        bound = min(self.crowd.backoff * 2**self._attempts, 30.0)
        self._attempts += 1
        delay = self._retry_after + self._chance.random() * bound
        self._retry_after = 0.0
        if not self.held:
            self._timer = asyncio.get_running_loop().call_later(delay, self.dial)

    def cut(self, offline: float | None = None) -> None:
        """Break the link without a word. It comes back after `offline` seconds, or with `release`."""
        self.held = True
        if self._transport is not None:
            self._transport.abort()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if offline is not None:
            asyncio.get_running_loop().call_later(offline, self.release)

    def release(self) -> None:
        """Come back after a `cut`."""
        self.held = False
        self._tried = self._attempts = 0
        self.dial()

    def end(self) -> None:
        """Be gone for good."""
        self.ended = self.log.ended = True
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._transport.abort()

    # --- what comes

    def data_received(self, data: bytes) -> None:
        if self._data:
            data = self._data + data
        start = 0
        if not self._upgraded:
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._data = data
                return
            if not data.startswith(b"HTTP/1.1 101"):
                self._refuse(data)
                return
            self._upgraded, start = True, end + 4
        while (frame := frame_at(data, start)) is not None:
            payload, stop = frame
            opcode = data[start] & 0x0F
            if opcode == 1:
                self._message(data[payload:stop])
            elif opcode == 9:
                self._write(masked(10, data[payload:stop]))
            elif opcode == 8:
                self.dropping = int.from_bytes(data[payload : payload + 2], "big")
                self._write(masked(8, data[payload : payload + 2]))
                if self._transport is not None:
                    self._transport.close()
            start = stop
        self._data = data[start:]

    def _refuse(self, data: bytes) -> None:
        status = int(data.split(b" ", 2)[1])
        self.refused.append(status)
        found = [line for line in data.split(b"\r\n") if line.lower().startswith(b"retry-after:")]
        self._retry_after = float(found[0].split(b":")[1]) if found else 0.0
        assert self._transport is not None
        if status in (400, 401, 403, 404, 426):
            self.ended = self.log.ended = True
        self._transport.abort()

    def _message(self, payload: bytes) -> None:
        known = self.crowd.known.get(payload)
        if known is None:
            known = self.crowd.read(payload)
        if isinstance(known, Event):
            self.log.records.append(known)
            room = known.room
            if room not in self.waiting:
                self.positions[room] = Position(known.epoch, known.offset)
            if self._catching is not None and room in self._catching and known.offset >= self._catching[room]:
                self._caught(room)
            return
        event = known["event"]
        handle = getattr(self, "_on_" + event.replace(".", "_"), None)
        if handle is not None:
            handle(known.get("room"), known.get("id"), known.get("data"))

    def _on_session_welcome(self, room: str | None, id_: str | None, data: Mapping[str, Any]) -> None:
        now = time.monotonic()
        self.live = True
        self._tried = self._attempts = 0
        if self._down_at is not None:
            self.back.append(now - self._down_at)
        self._catching = {}
        for name, status in data["rooms"].items():
            self._given(name, status)
        if not self._catching:
            self._caught("")
        self.crowd.changed()

    def _given(self, name: str, status: Mapping[str, Any]) -> None:
        text, recovered, reason = status.get("position"), status.get("recovered"), status.get("reason")
        position = None if text is None else Position.parse(text)
        if reason in _NOT_JOINED:
            self.positions.pop(name, None)
            self.log.records.append(Left(name))
            return
        self.log.records.append(Given(name, position, recovered, reason))
        if recovered is False:
            self.waiting[name] = reason or ""
        elif recovered is None and position is not None:
            self.positions[name] = position
        elif recovered and position is not None:
            self.waiting.pop(name, None)
            at = self.positions.get(name)
            if at is not None and at.offset < position.offset and self._catching is not None:
                self._catching[name] = position.offset

    def _caught(self, room: str) -> None:
        """A room's replay is through."""
        assert self._catching is not None
        self._catching.pop(room, None)
        if not self._catching:
            self._catching = None
            now = time.monotonic()
            self.replayed.append(now - self._dialled_at)
            if self._down_at is not None:
                self.resumed.append(now - self._down_at)
                self._down_at = None

    def _on_room_state(self, room: str, id_: str, data: Mapping[str, Any]) -> None:
        position = Position.parse(id_)
        self.waiting.pop(room, None)
        self.positions[room] = position
        self.log.records.append(State(room, position, data["reason"], data["state"]))
        if self._catching is not None and room in self._catching:
            self._caught(room)

    def _on_room_joined(self, room: str, id_: str | None, data: Mapping[str, Any]) -> None:
        self._given(room, data)

    def _on_room_removed(self, room: str, id_: str | None, data: Mapping[str, Any]) -> None:
        self.positions.pop(room, None)
        self.log.records.append(Left(room))

    def _on_presence_join(self, room: str, id_: str | None, data: Mapping[str, Any]) -> None:
        self.log.records.append(Present(room, data["user"], True))

    def _on_presence_leave(self, room: str, id_: str | None, data: Mapping[str, Any]) -> None:
        self.log.records.append(Present(room, data["user"], False))

    def _on_heartbeat(self, room: str | None, id_: str | None, data: Mapping[str, Any] | None) -> None:
        self._write(masked(1, b'{"event":"presence.heartbeat"}'))
        for name, text in ((data or {}).get("positions") or {}).items():
            position = Position.parse(text)
            self.log.records.append(Moved(name, position))
            at = self.positions.get(name)
            if name not in self.waiting and at is not None and at.epoch == position.epoch and position > at:
                self.positions[name] = position

    def _on_session_closing(self, room: str | None, id_: str | None, data: Mapping[str, Any]) -> None:
        self._retry_after = float(data.get("retry_after") or 0.0)
        self.hints.append(self._retry_after)

    def _on_ack(self, room: str | None, id_: str, data: Any) -> None:
        self._reply(id_, {"event": "ack", "data": data})

    def _on_error(self, room: str | None, id_: str | None, data: Any) -> None:
        if id_ is None:
            self.errors.append(data["code"])
        else:
            self._reply(id_, {"event": "error", "data": data})

    def _reply(self, id_: str, message: dict[str, Any]) -> None:
        waits = self._requests.pop(id_, None)
        if waits is not None:
            waits(message)

    # --- what goes

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def send(self, event: str, reply: Callable[[dict[str, Any]], None], **fields: Any) -> None:
        """Send a message; `reply` gets the ack, the error, or an error of the code ``link`` where the link breaks."""
        id_ = fields.setdefault("id", f"r{os.urandom(6).hex()}")
        self._requests[id_] = reply
        self._write(masked(1, json.dumps({"event": event, **fields}).encode()))

    async def request(self, event: str, **fields: Any) -> dict[str, Any]:
        """The same, and wait for it."""
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self.send(event, lambda message: None if future.done() else future.set_result(message), **fields)
        return await future

    async def join(self, room: str, since: Position | None = None) -> dict[str, Any]:
        """Join a room, and log what is answered, before anything that follows on it."""
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()

        def reply(message: dict[str, Any]) -> None:
            if message["event"] == "ack":
                self._given(room, message["data"])
            if not future.done():
                future.set_result(message)

        if since is not None:
            self.positions[room] = since
            self.log.records.append(Given(room, since, None, None))  # where it stands
        self.send("room.join", reply, room=room, data={} if since is None else {"since": str(since)})
        return await future

    def acknowledged(self, room: str, by: str, n: int, position: Position) -> None:
        """One of its events was acknowledged."""
        self.log.acked.append(Acked(room, by, n, position, time.monotonic()))
