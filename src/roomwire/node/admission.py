"""Admission: everything that is decided before the upgrade, or before the response of an event stream begins.

The order of the checks is the protocol's (docs/reference/protocol.md section 1): draining, Origin,
credential, client id and cursor, connect hook, the room of a stream, connection limit, capacity. What was
acquired on the way is given back when a later step refuses.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

from roomwire.backplanes.contract import Holder
from roomwire.core.closing import CloseCode
from roomwire.core.errors import EventError, HandshakeRefused, InvalidCursor, LocalError, Refusal, Unavailable
from roomwire.core.eventstream import StreamRequest, read_stream_request
from roomwire.core.identity import Identity, is_client_id, is_user
from roomwire.core.limits import Rates
from roomwire.core.positions import Position, is_room_name, parse_cursor
from roomwire.core.request import RequestHead
from roomwire.core.session import Session
from roomwire.node import journal, ways
from roomwire.node.calling import invoke
from roomwire.node.connection import Connection
from roomwire.node.contexts import in_context
from roomwire.node.control import Evict
from roomwire.node.joining import Joins
from roomwire.node.ways import Deciding, Way
from roomwire.transports.contract import Admission

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from roomwire.node.node import Node
    from roomwire.protocols.contract import WireProtocol

__all__ = ["Admissions"]

T = TypeVar("T")

_RETRY_AFTER = 5
"""Seconds after which a refused client may try again."""
_FAILED = "the server failed; it has been logged"


def _forbidden(error: EventError) -> Refusal:
    return Refusal(403, "forbidden", error.message or "not allowed", cause=error.code)


def _no_entry(cause: str) -> Refusal:
    return Refusal(403, "forbidden", "not allowed in this room", cause=cause)


def _bad_request(detail: str) -> HandshakeRefused:
    return HandshakeRefused(Refusal(400, "bad_request", detail))


def unavailable(detail: str, retry_after: float = _RETRY_AFTER) -> Refusal:
    """The refusal of a node that cannot take the connection now; `retry_after` in seconds."""
    return Refusal(503, "unavailable", detail, (("Retry-After", str(max(1, round(retry_after)))),))


class Admissions:
    """Decides about requests for connections: upgrades and event streams."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._rates = Rates(node.limits)
        self.pending = 0
        self._idle: anyio.Event | None = None

    def at_the_door(self) -> Refusal | None:
        """See `roomwire.transports.contract.Host`."""
        node = self._node
        if node.draining:
            return node.drain.refusal()
        if self.pending >= node.limits.max_pending_handshakes:
            return unavailable("too many handshakes at once")
        return None

    def admit(self, head: RequestHead, subprotocol: str | None) -> Coroutine[Any, Any, Admission]:
        """See `roomwire.transports.contract.Host`."""
        return self._guarded(head, partial(self._admit, head, self._node.protocol_of(subprotocol)))

    async def admit_stream(self, head: RequestHead, protocol: WireProtocol) -> Admission:
        """Decide about a request for an event stream.

        Raises:
            HandshakeRefused: with the response to send.
        """
        return await self._guarded(head, partial(self._admit_stream, head, protocol))

    async def check_stream(self, head: RequestHead) -> None:
        """The checks that change nothing: up to what the application would be asked.

        Raises:
            HandshakeRefused: with the response to send.
        """
        await self._guarded(head, partial(self._identify, head, read_stream_request))

    async def _guarded(self, head: RequestHead, decide: Callable[[], Awaitable[T]]) -> T:
        """Decide about a request that may come in at all; whatever goes wrong becomes a refusal."""
        node = self._node
        refusal = self.at_the_door()
        if refusal is not None:
            raise HandshakeRefused(refusal)
        node.origin.check(head)
        self.pending += 1
        try:
            return await decide()
        except Unavailable:
            raise HandshakeRefused(unavailable("the backplane cannot be reached")) from None
        except HandshakeRefused:
            raise
        except Exception as error:  # noqa: BLE001  the boundary of a connection
            journal.failed(None, "handshake", error)
            raise HandshakeRefused(unavailable(_FAILED)) from None
        finally:
            self.pending -= 1
            if self._idle is not None and not self.pending:
                self._idle.set()

    async def finished(self) -> None:
        """Wait until nothing is being decided."""
        while self.pending:
            self._idle = anyio.Event()
            await self._idle.wait()
        self._idle = None

    async def _identify(self, head: RequestHead, read: Callable[[RequestHead], T]) -> tuple[Identity, str, T]:
        """Who asks, the client's id, and what `read` gives."""
        identity = await self._node.authenticator.authenticate(head)
        if not is_user(identity.user):
            raise LocalError(f"the authenticator gave {identity.user!r}, which is no user's id")
        return identity, self._client_of(head), read(head)

    def _expected(
        self, head: RequestHead, identity: Identity, client: str, protocol: WireProtocol, *, later: bool = False
    ) -> tuple[Connection, Way]:
        """The connection that is decided about, and its way.

        Orders about its user hold for it from now on: what the hook reads may be older than they are.
        """
        node = self._node
        session = Session(
            node.limits,
            node.runtime.now(),
            self._rates,
            expires_in=identity.expires_in,
            must_resume=later,
            hears=protocol.liveness.hears,
        )
        connection = Connection(
            node, identity, session, protocol, id=secrets.token_hex(8), client=client, peer=head.peer
        )
        node.expect(connection)
        return connection, ways.begin(connection)

    async def _admit(self, head: RequestHead, protocol: WireProtocol) -> Admission:
        identity, client, (cursor, later) = await self._identify(head, self._cursor_of)
        connection, way = self._expected(head, identity, client, protocol, later=later)
        try:
            way.auto = await self._ask_hook(connection)
            way.wants_state = head.query_values("state") == ["1"]
            await self._take_place(connection, identity)
            # One that is to be closed is let in all the same: a close code is told, a status not to every client.
            if connection._closing is None:
                await self._join(connection, way, cursor, later=later)
            if self._node.draining:
                raise HandshakeRefused(self._node.drain.refusal())
        except BaseException:
            connection.lost(CloseCode.ABNORMAL, "", by_peer=False)
            raise
        self._node.counts.reconnects += later or bool(cursor)
        return Admission(connection)

    async def _admit_stream(self, head: RequestHead, protocol: WireProtocol) -> Admission:
        identity, client, asked = await self._identify(head, read_stream_request)
        connection, way = self._expected(head, identity, client, protocol)
        try:
            await self._authorise(connection, way, asked)
            await self._take_place(connection, identity)
            cursor = {} if asked.since is None else {asked.room: asked.since}
            if connection._closing is None:
                await self._join(connection, way, cursor, later=False)
            self._check_stream(connection, asked.room)
        except BaseException:
            connection.lost(CloseCode.ABNORMAL, "", by_peer=False)
            raise
        self._node.counts.reconnects += bool(cursor)
        return Admission(connection)

    async def _authorise(self, connection: Connection, way: Way, asked: StreamRequest) -> None:
        """The room of a stream: the connect hook puts the connection into it, or the room's policy allows it."""
        room = asked.room
        allowed = room in await self._ask_hook(connection)
        if not allowed:
            way.revoked.discard(room)  # the policy is asked after the order
            try:
                allowed = await self._node.joining.may_join(connection, room)
            except EventError as error:
                refusal = unavailable(_FAILED) if error.code == "internal" else _forbidden(error)
                raise HandshakeRefused(refusal) from None
        if not allowed:
            raise HandshakeRefused(_no_entry("the room's policy said no, or there is none"))
        way.auto, way.wants_state = (room,), asked.wants_state

    def _check_stream(self, connection: Connection, room: str) -> None:
        """A status says more than an event to a client that comes back by itself: refuse what would end at once."""
        closing = connection._closing
        if self._node.draining or (closing is not None and closing.reconnect):
            raise HandshakeRefused(self._node.drain.refusal())
        if closing is not None:
            raise HandshakeRefused(_no_entry(f"{closing.code}: {closing.reason}"))
        if room not in connection._memberships:
            raise HandshakeRefused(_no_entry("taken out of the room"))

    async def _take_place(self, connection: Connection, identity: Identity) -> None:
        """The slot, and the place on this node; from now on its user's other connections can evict it."""
        node = self._node
        node.register(connection)
        if connection._closing is None:
            await self._claim(connection, identity)
        if len(node.connections) > node.limits.max_connections:
            raise HandshakeRefused(unavailable("the server is full"))

    async def _join(self, connection: Connection, way: Way, cursor: Mapping[str, Position], *, later: bool) -> None:
        if later:
            way.is_later = True  # it goes on: what is revoked until the resume is not entered then
            connection._welcome = Joins()
            return
        connection._welcome = await self._node.joining.prepare(connection, way, cursor)
        ways.end(connection, way)

    def _client_of(self, head: RequestHead) -> str:
        values = head.query_values("client")
        if not values:
            return secrets.token_urlsafe(16)
        if len(values) > 1 or not is_client_id(values[0]):
            raise _bad_request("client is 8 to 64 characters of A-Z a-z 0-9 _ -")
        return values[0]

    def _cursor_of(self, head: RequestHead) -> tuple[dict[str, Position], bool]:
        values = [value for value in head.query_values("last_event_id") if value]
        if not values:
            return {}, False
        if values == ["later"]:
            return {}, True
        if len(values) > 1:
            raise _bad_request("last_event_id stands there twice")
        try:
            return parse_cursor(values[0], self._node.limits.rooms), False
        except InvalidCursor as error:
            raise _bad_request(f"last_event_id: {error}") from None

    async def _ask_hook(self, connection: Connection) -> Collection[str]:
        """The rooms that the application puts the connection into."""
        hook = self._node.app.connect_hook
        if hook is None:
            return ()
        try:
            with Deciding(self._node, connection):
                # Messages come in this task, on some transports: none of them is to see what the hook sets.
                rooms = await in_context(copy_context(), invoke(self._node, hook, hook.bind(connection, {})))
        except EventError as error:
            raise HandshakeRefused(_forbidden(error)) from None
        except Unavailable:
            raise
        except Exception as error:  # noqa: BLE001  the boundary of the application
            told = self._node.app.told(error)
            if told is not None:
                raise HandshakeRefused(_forbidden(told)) from None
            journal.failed(connection, hook.name, error)
            raise HandshakeRefused(unavailable(_FAILED)) from None
        if rooms is False:
            raise HandshakeRefused(Refusal(403, "forbidden", "not allowed", cause="the connect hook said no"))
        return self._checked(hook.name, rooms)

    def _checked(self, hook: str, rooms: object) -> Collection[str]:
        if rooms is None or rooms is True:
            return ()
        if isinstance(rooms, str) or not isinstance(rooms, Collection) or not all(map(is_room_name, rooms)):
            error = LocalError(f"{hook} returns the names of rooms, or False to refuse; it returned {rooms!r}")
            journal.failed(None, hook, error)
            raise HandshakeRefused(unavailable(_FAILED))
        return rooms

    async def _claim(self, connection: Connection, identity: Identity) -> None:
        node = self._node
        limits = node.limits
        holder = Holder(connection.client, connection.id, node.name)
        evict = limits.on_connection_limit == "evict"
        try:
            claim = await node.backplane.claim(identity.user, holder, limits.connections_per_user, evict=evict)
        finally:
            if connection._closing is not None:
                # The slot was given back before it was taken.
                node.farewells.departed(connection, ())
        if not claim.granted:
            text = f"a user has at most {limits.connections_per_user} connections"
            headers = (("Retry-After", str(_RETRY_AFTER)),)
            raise HandshakeRefused(Refusal(429, "too_many_connections", text, headers, cause=identity.user))
        displaced = claim.displaced
        if displaced is None or displaced.connection == connection.id:
            return
        order = Evict(connection=displaced.connection, moved=displaced.client == connection.client)
        if displaced.node == node.name:
            node.control.evict(order)
        else:
            await node.control.tell(order, displaced.node)
