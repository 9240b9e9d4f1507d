"""Lean clients, hundreds in one loop: an asyncio protocol for each link, and no task."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from random import Random
from typing import TYPE_CHECKING, Any, cast

import jwt

from roomwire.core.positions import Position
from tests.cluster.account import Account
from tests.cluster.frames import frame_at, masked
from tests.cluster.nodes import SECRET
from tests.cluster.records import Acked, Event, Given

if TYPE_CHECKING:
    from tests.cluster.crowd import Crowd

__all__ = ["Member", "token"]

_FINAL = {1000, 1002, 1003, 1007, 1008, 1009}
_HOPELESS = {400, 401, 403, 404, 426}


def token(user: str, rooms: Sequence[str]) -> str:
    """A credential that puts its user into rooms."""
    return jwt.encode({"sub": user, "exp": time.time() + 86_400, "rooms": list(rooms)}, SECRET, "HS256")


class Member(Account, asyncio.Protocol):
    """One client over all its links.

    Args:
        crowd: the clients of this run.
        name: the client's id, and its user's where no other is given.
        rooms: those that its token puts it into.
        chance: where it connects to, and its jitter.
        user: the user.

    Attributes:
        closed: the code of each link's end; 1006 where it broke.
        refused: the status of each refused handshake.
        resumed: seconds from the end of a link to the last replayed event on the next one.
        replayed: seconds from dialling to the last replayed event.
        back: seconds from the end of a link to the next welcome.
        ended: whether it does not come back.
        held: whether it stays away for now.
    """

    def __init__(self, crowd: Crowd, name: str, rooms: Sequence[str], chance: Random, user: str | None = None) -> None:
        super().__init__(name)
        self.crowd = crowd
        self.user = user or name
        self.rooms = list(rooms)
        self.closed: list[int] = []
        self.refused: list[int] = []
        self.resumed: list[float] = []
        self.replayed: list[float] = []
        self.back: list[float] = []
        self.ended = self.held = False
        self._code = 0
        self._chance = chance
        self._first = 0
        self._token = token(self.user, self.rooms)
        self._transport: asyncio.Transport | None = None
        self._data = b""
        self._upgraded = False
        self._down_at: float | None = None
        self._dialled_at = 0.0
        self._catching: dict[str, int] | None = None  # by room, where its replay ends
        self._attempts = self._tried = 0
        self._timer: asyncio.TimerHandle | None = None

    # --- links

    @property
    def linked(self) -> bool:
        """Whether it has a link, or one that is being made."""
        return self._transport is not None

    def dial(self) -> None:
        """Connect to one of the servers."""
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
        self._transport.write(
            f"GET /ws?{self.target(self._token)} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
            "".encode()
        )

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = self._catching = None
        if self.live:
            self._down_at = time.monotonic()
            self.closed.append(self._code or 1006)
        code, self._code = self._code, 0
        self.broke()
        if code in _FINAL or 4500 <= code <= 4999:
            self.ended = self.log.ended = True
        elif not self.ended:
            self._again()

    def _again(self) -> None:
        """After the protocol's back-off, and what the server asked for."""
        self._tried = 0
        bound = min(self.crowd.backoff * 2**self._attempts, 30.0)
        self._attempts += 1
        delay = self.retry_after + self._chance.random() * bound
        self.retry_after = 0.0
        if not self.held:
            self._timer = asyncio.get_running_loop().call_later(delay, self.dial)

    def cut(self, offline: float | None = None) -> None:
        """Break the link without a word. It comes back after `offline` seconds, or with `release`."""
        self.held = True
        self._leave()
        if offline is not None:
            asyncio.get_running_loop().call_later(offline, self.release)

    def release(self) -> None:
        """Come back after a `cut`."""
        if self.held and not self.linked:
            self.held = False
            self._tried = self._attempts = 0
            self.dial()
        elif self.held:  # the transport has not said yet that it is gone
            asyncio.get_running_loop().call_soon(self.release)

    def end(self) -> None:
        """Be gone for good."""
        self.ended = self.log.ended = True
        self._leave()

    def _leave(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
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
            elif opcode == 8 and self._transport is not None:
                self._code = int.from_bytes(data[payload : payload + 2], "big")
                self._write(masked(8, data[payload : payload + 2]))
                self._transport.close()
            start = stop
        self._data = data[start:]

    def _refuse(self, data: bytes) -> None:
        status = int(data.split(b" ", 2)[1])
        self.refused.append(status)
        found = [line for line in data.split(b"\r\n") if line.lower().startswith(b"retry-after:")]
        self.retry_after = float(found[0].split(b":")[1]) if found else 0.0
        if status in _HOPELESS:
            self.ended = self.log.ended = True
        assert self._transport is not None
        self._transport.abort()

    def _message(self, payload: bytes) -> None:
        message = self.crowd.known.get(payload) or self.crowd.read(payload)
        self.take(message)
        if self._catching is not None and isinstance(message, Event):
            end = self._catching.get(message.room)
            if end is not None and message.offset >= end:
                self._caught(message.room)

    # --- how long it takes

    def on_session_welcome(self, room: str | None, id_: str | None, data: Mapping[str, Any]) -> None:
        self._tried = self._attempts = 0
        if self._down_at is not None:
            self.back.append(time.monotonic() - self._down_at)
        self._catching = {}
        super().on_session_welcome(room, id_, data)
        self.crowd.welcomed()
        if not self._catching:
            self._caught("")

    def given(self, room: str, status: Mapping[str, Any]) -> None:
        super().given(room, status)
        at, text = self.positions.get(room), status.get("position")
        if self._catching is not None and status.get("recovered") and at is not None and text is not None:
            end = Position.parse(text)
            if at.offset < end.offset:
                self._catching[room] = end.offset

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

    # --- what goes

    def _write(self, frame: bytes) -> None:
        if self._transport is not None:
            self._transport.write(frame)

    def write(self, text: bytes) -> None:
        self._write(masked(1, text))

    async def request(self, event: str, *, id: str | None = None, **fields: Any) -> dict[str, Any]:
        """Send a message, and wait for the reply."""
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()

        def reply(message: dict[str, Any]) -> None:
            if not future.done():
                future.set_result(message)

        self.send(event, reply, id=id or os.urandom(6).hex(), **fields)
        return await future

    async def join(self, room: str, since: Position | None = None) -> dict[str, Any]:
        """Join a room, and log what is answered, before anything that follows on it."""
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()

        def reply(message: dict[str, Any]) -> None:
            if message["event"] == "ack":
                self.given(room, message["data"])
            if not future.done():
                future.set_result(message)

        if since is not None:
            self.positions[room] = since
            self.log.records.append(Given(room, since, None, None))  # where it stands
        data = {} if since is None else {"since": str(since)}
        self.send("room.join", reply, id=os.urandom(6).hex(), room=room, data=data)
        return await future

    def acknowledged(self, room: str, by: str, n: int, position: Position) -> None:
        """One of its events was acknowledged."""
        self.log.acked.append(Acked(room, by, n, position, time.monotonic()))
