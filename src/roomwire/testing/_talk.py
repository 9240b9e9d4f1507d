"""A test client without its I/O: what it sends, what came, and what is waited for.

An operation is a generator: it yields when it needs bytes from the server, and is resumed once there are any.
`_sockets` drives it, blocking or not, so that both kinds of client are one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

from roomwire.client import RequestFailed
from roomwire.client.messages import Incoming, control, message, read
from roomwire.core.errors import ConnectionClosed
from roomwire.core.events import SUBPROTOCOL
from roomwire.core.frames import Closed, Role
from roomwire.core.handshake import ClientHandshake, HandshakeRejected
from roomwire.core.positions import Position, format_cursor
from roomwire.core.websocket import WebSocket
from roomwire.testing._errors import Refused, Unexpected
from roomwire.testing._transcript import Transcript

__all__ = ["Message", "Operation", "Talk", "Target", "listed", "matching"]

__tracebackhide__ = True  # pytest shows the test's own line

_T = TypeVar("_T")
Operation = Generator[None, None, _T]
Message = Incoming
"""What came: ``event``, ``data`` (JSON values, or bytes), ``room``, ``id``, ``user``."""

_MAX_INCOMING = 16 * 1024 * 1024
_MAX_FRAGMENTS = 1024
_QUIET = ("session.", "presence.")


@dataclass(frozen=True, slots=True)
class Target:
    """Where and as whom a client connects.

    Attributes:
        port: of 127.0.0.1.
        path: of the WebSocket.
        name: what the transcript calls it.
        token: sent in the ``Authorization`` header; None for none.
        query: further parameters of the URL.
        headers: further headers of the request.
        subprotocols: offers.
        compression: whether permessage-deflate is offered.
    """

    port: int
    path: str
    name: str
    token: str | None = field(default=None, repr=False)
    query: Mapping[str, str] = field(default_factory=dict, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    subprotocols: Iterable[str] = (SUBPROTOCOL,)
    compression: bool = False


class Talk:
    """The conversation of one client with the server.

    Attributes:
        welcome: the data of ``session.welcome``: ``session``, ``client``, ``user``, ``rooms`` and so on.
        inbox: what came and was not asked for yet.
        closed: how the server ended it: code and reason; None while it is open.
    """

    def __init__(self, target: Target, transcript: Transcript) -> None:
        self.target = target
        self.transcript = transcript
        self.welcome: dict[str, Any] = {}
        self.inbox: list[Message] = []
        self.closed: tuple[int, str] | None = None
        self.outgoing = bytearray()
        self._handshake: ClientHandshake | None = None
        self._websocket: WebSocket | None = None
        self._count = 0
        self._began = 0.0
        self._positions: dict[str, Position] = {}
        self._joining: dict[str, str] = {}

    # --- bytes

    def feed(self, data: bytes) -> None:
        """Bytes came; none mean that the link ended."""
        if self._websocket is None:
            self._feed_handshake(data)
            return
        received = self._websocket.receive(data) if data else self._websocket.receive_eof()
        self.outgoing += self._websocket.data_to_send()
        for item in received:
            if isinstance(item, Closed):
                self.closed = (item.code, item.reason)
                self._note(f"<- close {item.code} {item.reason}".rstrip())
            elif isinstance(item, str | bytes):
                self._take_in(item)

    def _feed_handshake(self, data: bytes) -> None:
        assert self._handshake is not None
        if not data:
            self.closed = (1006, "")
            self._note("<- the connection ended in the handshake")
            self._handshake.receive_eof()  # raises what that means
            return
        try:
            accepted = self._handshake.receive(data)
        except HandshakeRejected as error:
            self._note(f"<- {error}")
            cause = self.transcript.failure_since(self._began) if error.status >= 500 else None
            raise Refused(error.status, error.error, error.detail, dict(error.headers)) from cause
        if accepted is None:
            return
        self._note(f"<- 101 {accepted.subprotocol or ''}".rstrip())
        self._websocket = WebSocket(
            Role.CLIENT,
            max_message_size=_MAX_INCOMING,
            max_fragments=_MAX_FRAGMENTS,
            deflate=accepted.deflate,
            mask_source=os.urandom,
        )
        if self._handshake.trailing:
            self.feed(self._handshake.trailing)

    def _take_in(self, payload: str | bytes) -> None:
        self._note("<- " + _shown(payload))
        item = read(payload)
        if item.event == "heartbeat":
            self._put(control("presence.heartbeat"))
            self._keep_positions((item.data or {}).get("positions"))
            return
        if item.event == "session.welcome":
            self._keep_positions(item.data["rooms"])
        elif item.event == "room.joined":
            self._keep_positions({item.room: item.data})
        elif item.event == "ack" and item.id in self._joining:
            self._keep_positions({self._joining[item.id]: item.data})
        elif item.event == "room.removed":
            self._positions.pop(item.room or "", None)
        elif item.room is not None and item.id is not None and item.event not in ("ack", "error"):
            self._positions[item.room] = Position.parse(item.id)
        self.inbox.append(item)

    def _keep_positions(self, rooms: Mapping[Any, Any] | None) -> None:
        for room, found in (rooms or {}).items():
            position = found.get("position") if isinstance(found, dict) else found
            if position is not None:
                self._positions[room] = Position.parse(position)

    def _put(self, payload: str | bytes) -> None:
        if self.closed is not None or self._websocket is None:
            raise self._ended()
        self._note("-> " + _shown(payload))
        self.outgoing += self._websocket.encode(payload)

    def _note(self, what: str) -> None:
        self.transcript.note(self.target.name, what)

    def _ended(self) -> ConnectionClosed:
        return ConnectionClosed(*(self.closed or (1006, "")))

    # --- operations

    def opened(self) -> Operation[None]:
        """The handshake and the welcome."""
        target = self.target
        self._began = time.time()
        self.transcript.hide(target.token or "")
        query = urlencode(target.query, quote_via=quote)
        path = f"{target.path}?{query}" if query else target.path
        authorization = () if target.token is None else (("Authorization", f"Bearer {target.token}"),)
        self._handshake = ClientHandshake(
            f"127.0.0.1:{target.port}",
            path,
            key=os.urandom(16),
            subprotocols=tuple(target.subprotocols),
            headers=(*authorization, *target.headers.items()),
            deflate=target.compression,
        )
        self._note(f"-> GET {path}" + ("" if target.token is None else " Authorization: Bearer [token]"))
        self.outgoing += self._handshake.request()
        found = yield from self.next_of(lambda item: item.event == "session.welcome")
        self.welcome = found.data

    def next_of(self, wanted: Callable[[Message], bool]) -> Operation[Message]:
        """The first message that is wanted; the others stay where they are."""
        while True:
            for index, item in enumerate(self.inbox):
                if wanted(item):
                    return self.inbox.pop(index)
            if self.closed is not None:
                raise self._ended()
            yield

    def asked(self, payload_of: Callable[[str], str | bytes], id: str | None = None) -> Operation[Message]:
        """Send what wants a reply, and wait for that."""
        self._count += 1
        chosen = f"t{self._count}" if id is None else id
        self._put(payload_of(chosen))
        return (yield from self.next_of(lambda item: item.event in ("ack", "error") and item.id == chosen))

    def answered(self, payload_of: Callable[[str], str | bytes], id: str | None = None) -> Operation[Any]:
        """The same; gives the data of the ``ack``, and raises an ``error``."""
        began = time.time()
        reply = yield from self.asked(payload_of, id)
        if reply.event == "ack":
            return reply.data
        fields = reply.data
        failure = RequestFailed(fields["code"], fields.get("message", ""), fields.get("details"))
        cause = self.transcript.failure_since(began) if failure.code == "internal" else None
        raise failure from cause

    def sent(self, event: str, data: object, room: str | None, id: str | None) -> Operation[Any]:
        """See `Connection.send`."""
        return (yield from self.answered(lambda chosen: message(event, data, id=chosen, room=room), id))

    def notified(self, event: str, data: object, room: str | None) -> Operation[None]:
        """See `Connection.notify`."""
        self._put(message(event, data, room=room))
        yield from ()

    def written(self, payload: str | bytes) -> Operation[None]:
        """See `Connection.send_raw`."""
        self._put(payload)
        yield from ()

    def joined(self, room: str, since: str | None, state: bool) -> Operation[dict[str, Any]]:
        """See `Connection.join`."""
        data = {**({} if since is None else {"since": since}), **({"state": True} if state else {})}

        def payload_of(id: str) -> str:
            self._joining[id] = room
            return control("room.join", id=id, room=room, data=data)

        found: dict[str, Any] = yield from self.answered(payload_of)
        return found

    def left(self, room: str) -> Operation[None]:
        """See `Connection.leave`."""
        yield from self.answered(lambda chosen: control("room.leave", id=chosen, room=room))
        self._positions.pop(room, None)

    def members(self, room: str) -> Operation[dict[str, Any]]:
        """See `Connection.members`."""
        found = yield from self.answered(lambda chosen: control("room.members", id=chosen, room=room))
        return {member["user"]: member["info"] for member in found["members"]}

    def fenced(self) -> Operation[list[str]]:
        """See `Connection.fence`."""
        found = yield from self.answered(lambda chosen: control("session.rooms", id=chosen))
        return list(found["rooms"])

    def silent(self, events: Iterable[str], room: str | None) -> Operation[None]:
        """See `Connection.assert_silent`."""
        names = frozenset(events)
        yield from self.fenced()
        found = [
            item
            for item in self.inbox
            if (item.event in names if names else not item.event.startswith(_QUIET) and item.event != "room.joined")
            and room in (None, item.room)
        ]
        if found:
            raise Unexpected(f"{self.target.name} got what nobody expected:\n" + listed(found))

    def ended(self) -> Operation[tuple[int, str]]:
        """The server's close."""
        while self.closed is None:
            yield
        return self.closed

    def said_goodbye(self, code: int, reason: str) -> Operation[None]:
        """An orderly close."""
        if self._websocket is not None and self.closed is None:
            self._note(f"-> close {code} {reason}".rstrip())
            self.outgoing += self._websocket.close(code, reason)
            yield from self.ended()

    @property
    def cursor(self) -> str:
        """What `last_event_id` would say now."""
        return format_cursor(self._positions)

    def position(self, room: str) -> str:
        """See `Connection.position`."""
        return str(self._positions[room])


def matching(
    event: str, room: str | None, user: str | None, data: object, any_data: object
) -> Callable[[Message], bool]:
    """Whether a message is of that event, and of room, user and data where they are given."""

    def wanted(item: Message) -> bool:
        return (
            item.event == event
            and room in (None, item.room)
            and user in (None, item.user)
            and (data is any_data or item.data == data)
        )

    return wanted


def listed(items: Iterable[Message]) -> str:
    """Messages, one on a line."""
    lines = []
    for item in items:
        room = f" in {item.room}" if item.room is not None else ""
        lines.append(f"  {item.event}{room}: {_shortened(repr(item.data))}")
    return "\n".join(lines) or "  nothing"


def _shown(payload: str | bytes) -> str:
    if isinstance(payload, str):
        return payload
    size = int.from_bytes(payload[:4], "big")
    header = payload[4 : 4 + size].decode(errors="replace")
    return f"{header} and {len(payload) - 4 - size} bytes"


def _shortened(text: str) -> str:
    return text if len(text) <= 200 else text[:200] + "..."
