"""What a client makes of the wire protocol, written anew from its page: a log, positions, replies. No links, no time.

It trusts nothing: what comes is logged as it came, doubled or not, and positions are made of it as the page says. So
it shares no code with the product's own client, which `tests.cluster.product` runs beside it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

from roomwire.core.positions import Position
from tests.cluster.records import Event, Given, Left, Log, Moved, Present, Record, State

__all__ = ["Account", "event_of"]

_NOT_JOINED = {"forbidden", "too_many_rooms"}
Reply = Callable[[dict[str, Any]], None]


def event_of(message: Mapping[str, Any]) -> Event | None:
    """The event of the application in a message, where it is one."""
    if message["event"] != "told":
        return None
    epoch, _, offset = message["id"].partition(":")
    return Event(message["room"], epoch, int(offset), message["data"]["by"], message["data"]["n"])


class Account:
    """One client's knowledge.

    Args:
        name: the client's id.

    Attributes:
        log: what it saw.
        positions: where it stands, by room.
        waiting: the reason for each room whose state was announced and has not come.
        rosters: the users that it knows to be in each room with presence.
        hints: ``retry_after`` of each ``session.closing``.
        retry_after: of the last one that was not heeded yet.
        errors: codes of errors that answer nothing.
        live: whether it has had the welcome of its link.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.log = Log(name)
        self.positions: dict[str, Position] = {}
        self.waiting: dict[str, str] = {}
        self.rosters: dict[str, set[str]] = {}
        self.hints: list[float] = []
        self.retry_after = 0.0
        self.errors: list[str] = []
        self.live = False
        self._requests: dict[str, Reply] = {}

    def write(self, text: bytes) -> None:
        """Send a message over the link, where there is one."""
        raise NotImplementedError

    def target(self, token: str) -> str:
        """The query of its handshake."""
        query = f"client={self.name}&token={token}"
        if self.positions:
            cursor = ",".join(f"{quote(room, safe='')}@{position}" for room, position in self.positions.items())
            query += f"&last_event_id={quote(cursor, safe='')}"
        return query

    def send(self, event: str, reply: Reply, *, id: str, **fields: Any) -> None:
        """Send a message; `reply` gets the ack, the error, or an error of the code ``link`` where the link breaks."""
        self._requests[id] = reply
        self.write(json.dumps({"event": event, "id": id, **fields}).encode())

    def broke(self) -> None:
        """The link has ended."""
        self.live = False
        self.rosters.clear()
        requests, self._requests = self._requests, {}
        for reply in requests.values():
            reply({"event": "error", "data": {"code": "link"}})

    # --- what comes

    def take(self, message: Event | dict[str, Any]) -> None:
        """A message came."""
        if isinstance(message, Event):
            self._log(message)
            if message.room not in self.waiting:
                self.positions[message.room] = Position(message.epoch, message.offset)
            return
        handle = getattr(self, "on_" + message["event"].replace(".", "_"), None)
        if handle is not None:
            handle(message.get("room"), message.get("id"), message.get("data"))

    def _log(self, record: Record) -> None:
        self.log.records.append(record)

    def on_session_welcome(self, room: str | None, id_: str | None, data: Mapping[str, Any]) -> None:
        self.live = True
        for name, status in data["rooms"].items():
            self.given(name, status)

    def given(self, room: str, status: Mapping[str, Any]) -> None:
        """What a welcome or a reply says of a room."""
        text, recovered, reason = status.get("position"), status.get("recovered"), status.get("reason")
        position = None if text is None else Position.parse(text)
        if reason in _NOT_JOINED:
            self.on_room_removed(room, None, None)
            return
        self._log(Given(room, position, recovered, reason))
        if recovered is False:
            # Until the state is there it would resume from where it was, so that the reset is told again.
            self.waiting[room] = reason or ""
        elif recovered:
            self.waiting.pop(room, None)
        elif position is not None:
            self.positions[room] = position

    def on_room_state(self, room: str, id_: str, data: Mapping[str, Any]) -> None:
        self.waiting.pop(room, None)
        position = self.positions[room] = Position.parse(id_)
        self._log(State(room, position, data["reason"], data["state"]))

    def on_room_joined(self, room: str, id_: str | None, data: Mapping[str, Any]) -> None:
        self.given(room, data)

    def on_room_removed(self, room: str, id_: str | None, data: object) -> None:
        self.positions.pop(room, None)
        self.waiting.pop(room, None)
        self._log(Left(room))

    def on_presence_state(self, room: str, id_: str | None, data: Mapping[str, Any]) -> None:
        self.rosters[room] = {member["user"] for member in data["members"]}

    def on_presence_join(self, room: str, id_: str | None, data: Mapping[str, Any]) -> None:
        self.rosters.setdefault(room, set()).add(data["user"])
        self._log(Present(room, data["user"], True))

    def on_presence_leave(self, room: str, id_: str | None, data: Mapping[str, Any]) -> None:
        self.rosters.setdefault(room, set()).discard(data["user"])
        self._log(Present(room, data["user"], False))

    def on_heartbeat(self, room: str | None, id_: str | None, data: Mapping[str, Any] | None) -> None:
        self.write(b'{"event":"presence.heartbeat"}')
        for name, text in ((data or {}).get("positions") or {}).items():
            position = Position.parse(text)
            self._log(Moved(name, position))
            at = self.positions.get(name)
            if name not in self.waiting and at is not None and at.epoch == position.epoch and position > at:
                self.positions[name] = position

    def on_session_closing(self, room: str | None, id_: str | None, data: Mapping[str, Any]) -> None:
        self.retry_after = float(data.get("retry_after") or 0.0)
        self.hints.append(self.retry_after)

    def on_ack(self, room: str | None, id_: str, data: Any) -> None:
        self._reply(id_, {"event": "ack", "data": data})

    def on_error(self, room: str | None, id_: str | None, data: Any) -> None:
        if id_ is None:
            self.errors.append(data["code"])
        else:
            self._reply(id_, {"event": "error", "data": data})

    def _reply(self, id_: str, message: dict[str, Any]) -> None:
        reply = self._requests.pop(id_, None)
        if reply is not None:
            reply(message)
