"""Connection: one client's link, as handlers and hooks see it, and as the node keeps it.

It is the `Receiver` of its transport link: it turns messages into commands, judges them by the
session's rules, and keeps them in order for its worker. While no command waits it owns no task.
What has a leading underscore belongs to the node's package, not to the application.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import anyio
from pydantic_core import from_json

from roomwire.core.closing import CloseCode, Closing, check_reason, is_sendable
from roomwire.core.commands import Command, Heartbeat
from roomwire.core.envelope import dump, encode
from roomwire.core.errors import ConnectionClosed, EventTooLarge, LocalError
from roomwire.core.identity import Identity
from roomwire.core.notices import Beat, ClosingSoon, Failed, Notice, Reply, Sent
from roomwire.core.positions import Position, check_room_name
from roomwire.core.schema import EventSchema, write_event
from roomwire.core.session import Session
from roomwire.node import journal

if TYPE_CHECKING:
    from roomwire.node.joining import Joins
    from roomwire.node.node import Node
    from roomwire.node.rooms import Kind, Membership
    from roomwire.node.ways import Way
    from roomwire.protocols.contract import Message, WireProtocol
    from roomwire.transports.contract import Link

__all__ = ["MAX_INFO", "Connection"]

T = TypeVar("T")

_DATA = len(',"data":')
MAX_INFO = 4096
"""Bytes of `Connection.info` as JSON: every member of every room of the connection is sent it."""


class Connection:
    """One client's connection.

    Attributes:
        id: unique to this connection; a reconnect has another.
        user: the user's id, from the authenticator.
        client: the client's id, kept over its reconnects.
        claims: what the credential says besides, such as a JWT's payload.
        peer: where the client is, for logs.
    """

    __slots__ = (
        "__weakref__",
        "_by",
        "_closing",
        "_codec",
        "_context",
        "_inbox",
        "_info",
        "_kind",
        "_link",
        "_memberships",
        "_moved",
        "_node",
        "_paused",
        "_places",
        "_protocol",
        "_read",
        "_received",
        "_rooms_at_end",
        "_session",
        "_state",
        "_wanted",
        "_ways",
        "_welcome",
        "_working",
        "claims",
        "client",
        "id",
        "peer",
        "user",
    )

    def __init__(
        self,
        node: Node,
        identity: Identity,
        session: Session,
        protocol: WireProtocol,
        *,
        id: str,
        client: str,
        peer: str,
    ) -> None:
        self._node = node
        self._session = session
        self._protocol = protocol
        self._codec = protocol.new_codec()
        self._kind: Kind | None = None
        self._link: Link | None = None
        self._memberships: dict[str, Membership] = {}
        self._inbox: deque[Command] | None = None
        self._context: Context | None = None
        self._working = False
        self._paused = False
        self._received = 0
        self._read: anyio.Event | None = None  # set when what was sent is read, where somebody waits for it
        self._places: anyio.Semaphore | None = None
        self._rooms_at_end: frozenset[str] | None = None
        self._closing: Closing | None = None
        self._moved = False  # its client has another connection now
        self._by: Literal["server", "peer", "link"] = "server"
        self._welcome: Joins | None = None
        self._ways: tuple[Way, ...] = ()
        self._wanted: list[str] | None = None  # rooms it was put into before it was open
        self._state: dict[str, Any] | None = None
        self.id = id
        self.user = identity.user
        self.claims: Mapping[str, object] = identity.claims
        self.client = client
        self.peer = peer
        self._info = b"null"

    def __repr__(self) -> str:
        return f"<Connection {self.id} user={self.user!r} {'open' if self.is_open else 'closed'}>"

    # --- for the application

    @property
    def is_open(self) -> bool:
        """Whether events can still be sent."""
        return self._closing is None and self._link is not None

    @property
    def read_only(self) -> bool:
        """Whether it is an event stream: its client can say nothing, and it is in one room as long as it is open."""
        return not self._protocol.liveness.hears

    @property
    def state(self) -> dict[str, Any]:
        """A dict of the application's own, which lives as long as the connection."""
        if self._state is None:
            self._state = {}
        return self._state

    @property
    def info(self) -> object:
        """What other members of a room are told of this one: any JSON value. Set it in the connect hook.

        Raises:
            LocalError: it is no JSON, or more than 4,096 bytes of it.
        """
        return from_json(self._info)

    @info.setter
    def info(self, value: object) -> None:
        try:
            info = dump(value)
        except ValueError as error:
            raise LocalError(f"info has to be JSON: {error}") from error
        if len(info) > MAX_INFO:
            raise LocalError(f"info is {len(info)} bytes of JSON; other members are sent at most {MAX_INFO}")
        self._info = info

    @property
    def rooms(self) -> frozenset[str]:
        """The rooms that it is in."""
        return frozenset(self._memberships)

    async def join(self, room: str) -> None:
        """Put it into a room, without asking the room's policy; the client gets ``room.joined``.

        Raises:
            EventError: ``too_many_rooms``.
            Unavailable: the backplane cannot be reached.
            ConnectionClosed: it has ended.
            LocalError: that is no room's name, or it is read-only and in its room for good.
        """
        check_room_name(room)
        self._check_open()
        if self.read_only:
            raise LocalError("an event stream is in the room of its request, and in no other")
        joining = self._node.joining
        await joining.put_in(self, room, joining.begin(self, room))
        self._check_open()

    async def leave(self, room: str, reason: str = "") -> None:
        """Take it out of a room; the client gets ``room.removed``. Nothing where it is not in it.

        A read-only one ends with it.

        Raises:
            LocalError: `reason` is no text that can be written.
        """
        check_reason(reason)
        self._node.joining.take_out(self, room, reason)

    @overload
    async def send(self, event: EventSchema[None], data: None = None, *, room: str | None = None) -> None: ...

    @overload
    async def send(self, event: EventSchema[T], data: T, *, room: str | None = None) -> None: ...

    @overload
    async def send(self, event: str, data: object = None, *, room: str | None = None) -> None: ...

    async def send(self, event: str | EventSchema[Any], data: object = None, *, room: str | None = None) -> None:
        """Send an event to this client alone; it is not stored and not replayed.

        Args:
            event: its name, the protocol's own being refused, or its declaration; see `App.publish`.
            data: any JSON value or pydantic model; `bytes` go in a binary frame, in an event stream as base64.
            room: the room that it concerns, if any.

        Raises:
            ConnectionClosed: it has ended.
            EventTooLarge: larger than ``limits.max_event_size``.
            LocalError: the name is reserved, or `room` is no room's name; or the event is declared for others.
            InvalidData: it does not fit the declaration.
        """
        declared = self._node.app.events.find(event, room) if isinstance(event, str) else event
        name, payload, binary = write_event(declared or event, room, data)
        self._check_open()
        size = len(encode(name, room=room)) + len(payload) + (4 if binary else _DATA)
        limit = self._node.limits.max_event_size
        if size > limit:
            raise EventTooLarge(f"{name} is {size} bytes; limits.max_event_size is {limit}")
        self._tell(Sent(name, room, payload, binary))

    async def close(self, code: int = CloseCode.REMOVED, reason: str = "") -> None:
        """Close it. Your own codes are 4100 to 4199 (the client comes back) and 4600 to 4699 (it does not).

        In the connect hook too: the client gets the close frame in place of the welcome.

        Raises:
            LocalError: the code may not stand in a close frame, or `reason` is no text that can be written.
        """
        if not is_sendable(code):
            raise LocalError(f"{code} cannot be sent; use 1000, 4100 to 4199 or 4600 to 4699")
        check_reason(reason)
        self._shut(Closing(code, reason))

    def _check_open(self) -> None:
        if self._closing is not None:
            raise ConnectionClosed(self._closing.code, self._closing.reason)
        if self._link is None:
            raise LocalError("the connection is not open yet: return rooms from the connect hook instead")

    # --- the receiver of its link

    def opened(self, link: Link) -> None:
        """See `roomwire.transports.contract.Receiver`."""
        self._link = link
        self._kind = self._node.kind_of(self._protocol, link.framing)
        journal.connected(self)
        if self._closing is not None:  # since it was admitted
            if self.read_only and self._closing.announced:  # nothing else says why
                link.write(link.framing.block(self._codec.send(ClosingSoon(self._closing))), 1)
            link.close(self._closing)
            return
        self._node.joining.open(self)
        wanted, self._wanted = self._wanted or (), None
        for room in wanted:
            self._node.control.add(self, room)

    def received(self, messages: Sequence[Message], frames: int, size: int) -> None:
        """See `roomwire.transports.contract.Receiver`."""
        if self._closing is not None:
            return
        session = self._session
        now = self._node.runtime.now()
        self._node.counts.received_bytes += size
        closing = session.heard(now, frames, size)
        for message in messages:
            if closing is not None or self._closing is not None:
                break
            self._received += 1
            for command in self._codec.receive(message):
                verdict = session.receive(command, now)
                if verdict is None:
                    self._take(command)
                elif isinstance(verdict, Failed):
                    self._node.counts.failure(verdict.code)
                    self._tell(verdict)
                else:
                    closing = verdict
        if closing is not None:
            self._shut(closing)

    def _take(self, command: Command) -> None:
        if isinstance(command, Heartbeat):
            if command.ref is not None:
                self._tell(Reply(command.ref))
            return
        if not self._working:
            # The worker gets it: most connections never have a second one waiting.
            self._working = True
            self._node.workers.start(self, command)
            return
        if self._inbox is None:
            self._inbox = deque()
            self._context = copy_context()  # what a handler sets is not for the next message
        self._inbox.append(command)
        if len(self._inbox) >= self._node.limits.inbox_messages and not self._paused:
            self._paused = True
            self._session.pause(self._node.runtime.now())
            if self._link is not None:
                self._link.pause_reading()

    @property
    def _is_over(self) -> bool:
        """Whether nothing more is handled: it ended, and not by what the peer did after its messages."""
        return self._closing is not None and self._rooms_at_end is None

    def _next_command(self) -> Command | None:
        """The worker's next command; reading goes on when the queue is short again."""
        inbox = self._inbox
        if not inbox or self._is_over:
            self._working = False
            self._inbox = self._context = None
            return None
        command = inbox.popleft()
        if self._paused and len(inbox) * 2 <= self._node.limits.inbox_messages:
            self._paused = False
            self._session.resume(self._node.runtime.now())
            if self._link is not None:
                self._link.resume_reading()
        return command

    def overflowed(self) -> None:
        """See `roomwire.transports.contract.Receiver`."""
        self._shut(Closing.of(CloseCode.TOO_SLOW))

    def failed(self) -> None:
        """See `roomwire.transports.contract.Receiver`."""
        self._shut(Closing.of(CloseCode.INTERNAL_ERROR))

    def starved(self) -> None:
        """See `roomwire.transports.contract.Receiver`."""
        self._shut(Closing.of(CloseCode.RATE_LIMITED))

    def lost(self, code: int, reason: str, *, by_peer: bool, cause: BaseException | None = None) -> None:
        """See `roomwire.transports.contract.Receiver`."""
        if self._closing is None:
            self._by = "peer" if by_peer else "link" if code == CloseCode.ABNORMAL else "server"
            self._closing = Closing(code, reason)
            if self._working and self._by != "server":
                # What was sent before the end is handled, with the rights of that moment.
                self._rooms_at_end = frozenset(self._memberships)
            self._node.depart(self)
        sent = 0 if self._link is None else self._link.sent
        self._link = None
        if self._rooms_at_end is None:
            self._inbox = None
        opened = self._kind is not None  # else the peer went away before the upgrade
        if opened:
            journal.disconnected(self, self._node.runtime.now() - self._session.opened_at, sent, cause)
        self._node.forget(self, opened=opened)

    def next_deadline(self) -> float:
        """See `roomwire.transports.contract.Receiver`."""
        return self._session.next_deadline() if self._closing is None else math.inf

    def poll(self, now: float) -> None:
        """See `roomwire.transports.contract.Receiver`."""
        if self._closing is not None or self._link is None:
            return
        beat, closing = self._session.poll(now)
        if closing is not None:
            self._shut(closing)
        elif beat:
            self._link.ping()
            if self._protocol.liveness.beats:
                self._beat()

    def _beat(self) -> None:
        positions = self._moved_positions()
        link = self._link  # None where the ping found out that the peer is gone
        if positions:
            self._tell(Beat(positions))
        elif link is not None:
            link.write(self._node.shared_block(self._kind, Beat()), 1)

    # --- for the node

    def _may_speak_in(self, room: str) -> bool:
        """Whether it is in the room, or was when its peer went away."""
        return room in self._memberships or (self._rooms_at_end is not None and room in self._rooms_at_end)

    def _tell(self, notice: Notice, *, counted: bool = True) -> None:
        self._write(self._codec.send(notice), counted=counted)

    def _write(self, messages: Sequence[Message], *, counted: bool = True) -> None:
        link = self._link
        # Nothing follows the close frame (RFC 6455 section 5.5.1).
        if link is not None and messages and self._closing is None:
            block = link.framing.block(messages)
            if self._node.meter is not None:
                self._node.meter.sent_bytes += link.framing.size(block)
            if counted and self._node.workers.scheduled:  # others write in this turn as well
                getattr(link, "write_soon", link.write)(block, len(messages))
            else:
                link.write(block, len(messages), counted=counted)

    def _fail(self, error: Exception) -> None:
        """A fault on this connection's account: it is logged and closed, the others go on."""
        journal.failed(self, "connection", error)
        self._shut(Closing.of(CloseCode.INTERNAL_ERROR))

    def _shut(self, closing: Closing, *, moved: bool = False) -> None:
        """Begin a close from this side. The slot is free, and the rooms are left, from now on."""
        if self._closing is not None:
            return
        positions = self._moved_positions()
        self._closing = closing
        self._moved = moved
        self._node.depart(self)
        link = self._link
        if link is None:
            return
        try:
            if closing.announced:
                block = link.framing.block(self._codec.send(ClosingSoon(closing, positions)))
                link.write(block, 1, counted=False)
        except Exception as error:  # noqa: BLE001  it is closed all the same: nothing else would ever do so
            journal.failed(self, "session.closing", error)
            closing = Closing(closing.code)
        link.close(closing)

    def _moved_positions(self) -> dict[str, Position]:
        """Positions that moved on without an event for this client, and are told to it now."""
        positions = {}
        for membership in self._memberships.values():
            if membership.behind and membership.live and membership.room.is_settled:
                membership.behind = False
                positions[membership.room.name] = membership.room.flushed
        return positions
