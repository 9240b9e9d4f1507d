"""Drives a `Session` by hand: the test is the server, the clock and the application."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any
from urllib.parse import parse_qsl

from roomwire.client.events import Item
from roomwire.client.requests import Requests
from roomwire.client.session import Options, Phase, Session
from roomwire.client.ticket import Ticket
from roomwire.core.errors import RoomwireError
from roomwire.core.handshake import HandshakeRejected
from roomwire.core.schema import EventSchema

__all__ = ["Driver", "failure"]

Json = dict[str, Any]


def failure(ticket: Ticket) -> RoomwireError | None:
    """What a settled ticket failed with."""
    assert ticket.settled
    try:
        ticket.result()
    except RoomwireError as error:
        return error
    return None


class Driver:
    """One session. The jitter is the whole bound unless `chance` says otherwise."""

    def __init__(
        self, *, options: Options | None = None, state: bool = False, events: Iterable[EventSchema[Any]] = ()
    ) -> None:
        self.now = 1000.0
        self.chance = 1.0
        self.session = Session("client-0001", lambda: self.chance, options, wants_state=state, events=events)

    @property
    def phase(self) -> Phase:
        return self.session.phase

    @property
    def requests(self) -> Requests:
        return self.session.requests

    @property
    def wait(self) -> float:
        """Seconds until the next attempt."""
        assert self.phase is Phase.WAITING
        return self.session.retry_at - self.now

    # --- the link

    def begin(self, target: str = "/ws") -> dict[str, str]:
        """Begin an attempt; gives the query, decoded once, as a server has it."""
        _, _, query = self.session.begin(self.now, target).partition("?")
        return dict(parse_qsl(query, keep_blank_values=True, strict_parsing=True))

    def welcome(self, rooms: Json | None = None, **fields: Any) -> None:
        data = {
            "session": "s1",
            "client": "client-0001",
            "user": "ann",
            "heartbeat": {"interval": 30, "timeout": 90},
            "limits": {"max_message_size": 65536, "max_event_size": 131072, "idempotency_window": 300},
            "rooms": rooms or {},
        }
        self.receive("session.welcome", data=data | fields)

    def open(self, rooms: Json | None = None) -> dict[str, str]:
        """An attempt that succeeds; gives its query."""
        query = self.begin()
        self.welcome(rooms)
        return query

    def lose(self, code: int = 1006, reason: str = "") -> None:
        self.session.lost(self.now, code, reason)

    def refuse(self, status: int, retry_after: int | None = None) -> None:
        headers = () if retry_after is None else (("retry-after", str(retry_after)),)
        self.session.refused(self.now, HandshakeRejected(status, headers))

    def advance(self, seconds: float) -> None:
        """Let time pass, with a tick at each deadline on the way."""
        end = self.now + seconds
        while self.session.deadline <= end and self.phase is not Phase.ENDED:
            before = self.session.deadline
            self.now = max(self.now, before)
            self.session.tick(self.now)
            if self.phase is Phase.WAITING and self.session.deadline <= self.now:
                break  # an attempt is due
            assert self.session.deadline > before, "a deadline that a tick does not move would spin"
        self.now = end

    # --- messages

    def receive(self, event: str, **fields: Any) -> None:
        self.session.receive(self.now, json.dumps({"event": event} | fields))

    def event(self, room: str, id: str | None, name: str = "message.new", data: object = None) -> None:
        self.receive(name, room=room, data=data, **({} if id is None else {"id": id}))

    def ack(self, id: str, data: object = None) -> None:
        self.receive("ack", id=id, data=data)

    def error(self, id: str | None, code: str, message: str = "") -> None:
        self.receive("error", data={"code": code, "message": message}, **({} if id is None else {"id": id}))

    def sent(self) -> list[Json]:
        """What went out since the last call, decoded."""
        return [json.loads(payload) for payload in self.session.take_outgoing()]

    def sent_one(self) -> Json:
        (message,) = self.sent()
        return message

    def items(self, kind: type[Item] | None = None) -> list[Any]:
        """What the application was handed since the last call; all but the news of the link, or one kind."""
        items = self.session.take_items()
        if kind is not None:
            return [item for item in items if isinstance(item, kind)]
        return [item for item in items if type(item).__name__ not in ("Connected", "Disconnected")]

    # --- the application

    def send(self, data: object = None, *, event: str = "message.send", room: str | None = None) -> Ticket:
        ticket = Ticket()
        self.requests.send(self.now, event, data, room, ticket)
        return ticket

    def join(self, room: str, *, state: bool = False) -> Ticket:
        ticket = Ticket()
        self.requests.join(room, ticket, state=state)
        return ticket

    def leave(self, room: str) -> Ticket:
        ticket = Ticket()
        self.requests.leave(room, ticket)
        return ticket

    def be_in(self, room: str, position: str = "e:1") -> None:
        """Join a room on an open link, and settle it."""
        self.join(room)
        self.ack(self.sent_one()["id"], {"position": position, "recovered": None})
        self.session.take_items()

    def position(self, room: str) -> str | None:
        membership = self.session.rooms.get(room)
        return None if membership is None or membership.position is None else str(membership.position)
