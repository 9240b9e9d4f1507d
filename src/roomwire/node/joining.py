"""Joining: who may enter a room, on which way, and what is answered.

Rooms are entered in the handshake (those that the application returns and those of the cursor), by
``session.resume``, by ``room.join``, and by the application. What happens then is `roomwire.node.entering`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import ValidationError

from roomwire.core.closing import CloseCode, Closing
from roomwire.core.commands import Join, Resume
from roomwire.core.errors import EventError, Unavailable
from roomwire.core.notices import (
    Failed,
    JoinedRoom,
    JoinReply,
    RemovedFromRoom,
    ResumeReply,
    RoomStatus,
    Welcome,
)
from roomwire.core.positions import Position
from roomwire.core.replay import Budget, Outcome
from roomwire.node import journal, unread, ways
from roomwire.node.calling import invoke
from roomwire.node.ways import Deciding, Way

if TYPE_CHECKING:
    from roomwire.node.connection import Connection
    from roomwire.node.node import Node
    from roomwire.node.rooms import Membership

__all__ = ["Joining", "Joins"]

_TOO_MANY = "the connection is in as many rooms as limits.rooms allows"
_TAKEN_OUT = "the application took the connection out meanwhile"
_HERE = "the connection is in the room already"

_PASSES = 3
"""Looks at many rooms, until none of them had to be read once more while another one was."""


class Joins:
    """The rooms that one connection asked for at once, in its handshake or with ``session.resume``.

    Attributes:
        refused: what is not joined, and why.
        members: what is, each waiting for its replay.
    """

    __slots__ = ("members", "refused")

    def __init__(self) -> None:
        self.refused: dict[str, RoomStatus] = {}
        self.members: list[Membership] = []


class Joining:
    """Joins, resumes and leaves of a node."""

    def __init__(self, node: Node) -> None:
        self._node = node

    # --- who may

    async def may_join(self, connection: Connection, room: str, asked: str = "room.join") -> bool:
        """Ask the policy of the room's pattern; a room that no pattern matches cannot be joined.

        Which of these it was is in the log alone: strangers learn nothing of what rooms there are.

        Args:
            connection: who asks.
            room: for what.
            asked: the event by which.

        Raises:
            EventError: the policy said so, or failed (code ``internal``).
        """
        found = self._node.app.rooms.match(room)
        if found is None:
            journal.declined(connection, asked, room, "forbidden", "no room pattern matches")
            return False
        hook, path = found
        try:
            arguments = hook.bind(connection, path)
        except ValidationError:  # a path parameter that does not fit names no room
            cause = f"the room's name does not fit the parameters of the policy {hook.name}"
            journal.declined(connection, asked, room, "forbidden", cause)
            return False
        except EventError as error:
            cause = f"the user or the claims do not fit the parameters of the policy {hook.name}"
            journal.declined(connection, asked, room, error.code, cause)
            raise
        try:
            with Deciding(self._node, connection, room):
                allowed = bool(await invoke(self._node, hook, arguments))
            if not allowed:
                journal.declined(connection, asked, room, "forbidden", f"the policy {hook.name} refused")
            return allowed
        except EventError as error:
            journal.declined(connection, asked, room, error.code, f"raised in the policy {hook.name}")
            raise
        except Unavailable:
            raise
        except Exception as error:  # noqa: BLE001  the boundary of the application
            told = self._node.app.told(error)
            if told is not None:
                cause = f"{type(error).__name__} in the policy {hook.name}"
                journal.declined(connection, asked, room, told.code, cause)
                raise told from None
            journal.failed(connection, hook.name, error)
            raise EventError("internal", "the server failed; it has been logged") from None

    # --- many rooms at once

    async def prepare(self, connection: Connection, way: Way, cursor: Mapping[str, Position]) -> Joins:
        """Authorise every room anew, subscribe and read; nothing is sent yet.

        Raises:
            Unavailable: the backplane cannot be reached. All joins are undone.
        """
        joins = Joins()
        entering = self._node.entering
        budget = entering.budget()
        try:
            for room in dict.fromkeys((*way.auto, *cursor)):
                refusal = await self._refusal(connection, way, room)
                if refusal is not None:
                    joins.refused[room] = RoomStatus(None, False, refusal)
                    continue
                state = way.wants_state and room in way.auto
                membership = await self._enter(connection, way, room, cursor.get(room), budget, wants_state=state)
                joins.members.append(membership)
                await entering.read(membership)
            # While one room was read, events went on in the others.
            for _ in range(_PASSES if len(joins.members) > 1 else 0):
                for membership in joins.members:
                    await entering.read(membership)
        except BaseException:
            for membership in joins.members:
                entering.detach(membership)
            raise
        return joins

    async def _refusal(self, connection: Connection, way: Way, room: str) -> str | None:
        """Why a room of many is not joined; None where it may be entered."""
        if not ways.reserve(connection, way, room, self._node.limits.rooms):
            journal.declined(connection, "session.resume", room, "too_many_rooms", _TOO_MANY)
            return "too_many_rooms"
        if room in way.auto:
            # The connect hook was asked before the order; that it is in there all the same is a later order's doing.
            allowed = room not in way.revoked or room in connection._memberships
            if not allowed:
                journal.declined(connection, "session.resume", room, "forbidden", _TAKEN_OUT)
        else:
            way.revoked.discard(room)  # the policy is asked after the order
            try:
                allowed = await self.may_join(connection, room, "session.resume")
            except EventError:
                allowed = False
        if not allowed:
            way.rooms.discard(room)
            return "forbidden"
        return None

    async def _enter(
        self,
        connection: Connection,
        way: Way,
        room: str,
        since: Position | None,
        budget: Budget,
        *,
        wants_state: bool = False,
    ) -> Membership:
        """See `Entering.enter`; over already, too, where the application took the connection out meanwhile."""
        entering = self._node.entering
        membership = await entering.enter(connection, room, since, budget, wants_state=wants_state)
        way.rooms.discard(room)
        if room in way.revoked:
            entering.detach(membership)
        return membership

    async def _read(self, membership: Membership) -> None:
        """See `Entering.read`; the membership is undone where that is cut short."""
        try:
            await self._node.entering.read(membership)
        except BaseException:
            self._node.entering.detach(membership)
            raise

    def open(self, connection: Connection) -> None:
        """Write the welcome and the replays, and go live, in one turn."""
        joins, connection._welcome = connection._welcome, None
        assert joins is not None
        outcomes, statuses = self._conclude(joins)
        limits = self._node.limits
        welcome = Welcome(
            session=connection.id,
            client=connection.client,
            user=connection.user,
            heartbeat_interval=limits.heartbeat_interval,
            heartbeat_timeout=limits.heartbeat_timeout,
            max_message_size=limits.max_message_size,
            max_event_size=limits.max_event_size,
            idempotency_window=limits.idempotency_window,
            rooms=statuses,
            retry_after=self._node.drain.retry_after() if connection.read_only else 0.0,
        )
        connection._tell(welcome)
        for membership, outcome in outcomes:
            self._node.entering.proceed(membership, outcome)

    async def resume(self, connection: Connection, command: Resume) -> None:
        """The cursor that did not fit into the handshake; the auto-joined rooms come with the first one.

        The first one has one try. What the connect hook allowed was for that moment, and must not be kept for
        a better one: the connection is closed, the client comes back, and the hook is asked anew.

        Raises:
            EventError, Unavailable: for the reply.
        """
        first = ways.later(connection)
        way = ways.begin(connection) if first is None else first
        try:
            await self._resume(connection, way, command)
        except (EventError, Unavailable) as error:
            if first is None:
                raise
            told = (error.code, error.message) if isinstance(error, EventError) else ("unavailable", "try again later")
            connection._tell(Failed(command.ref, *told))
            connection._shut(Closing.of(CloseCode.NOT_RESUMABLE))
            raise  # so that it counts as failed; nothing more is told
        finally:
            ways.end(connection, way)

    async def _resume(self, connection: Connection, way: Way, command: Resume) -> None:
        if not command.rooms.keys().isdisjoint(connection._memberships):
            journal.declined(connection, "session.resume", None, "conflict", _HERE)
            raise EventError("conflict", "in one of the rooms already")
        if len(command.rooms) > self._node.limits.rooms:
            journal.declined(connection, "session.resume", None, "too_many_rooms", _TOO_MANY)
            raise EventError("too_many_rooms", f"a connection is in at most {self._node.limits.rooms} rooms")
        joins = await self.prepare(connection, way, command.rooms)
        if connection._closing is not None:
            return
        outcomes, statuses = self._conclude(joins)
        connection._tell(ResumeReply(command.ref, statuses))
        for membership, outcome in outcomes:
            self._node.entering.proceed(membership, outcome)
        for membership in joins.members:
            # The application was quicker, and what followed on the cursor was not read.
            other = connection._memberships.get(membership.room.name)
            if other is not None and other is not membership:
                self._node.entering.refresh(other, "unavailable")

    def _conclude(self, joins: Joins) -> tuple[list[tuple[Membership, Outcome]], dict[str, RoomStatus]]:
        """The outcomes as of this moment, and what is said of every room."""
        outcomes = [(m, self._node.entering.outcome(m)) for m in joins.members if not m.left]
        statuses = {m.room.name: _status(outcome) for m, outcome in outcomes} | joins.refused
        for membership in joins.members:
            if membership.left:
                here = membership.room.name in membership.connection._memberships
                reason = "unavailable" if here else "forbidden"
                statuses[membership.room.name] = RoomStatus(None, False, reason)
        return outcomes, statuses

    # --- one room

    async def join(self, connection: Connection, command: Join) -> None:
        """A client asks for a room; the reply is sent from here, before what follows on it.

        Raises:
            EventError, Unavailable: for the reply.
        """
        await unread.until_read(connection)
        way = ways.begin(connection)
        try:
            await self._join(connection, way, command)
        finally:
            ways.end(connection, way)

    async def _join(self, connection: Connection, way: Way, command: Join) -> None:
        if command.room not in connection._memberships:
            self._reserve(connection, way, command.room)
            if not await self.may_join(connection, command.room):
                raise EventError("forbidden", "not allowed in this room")
        known = connection._memberships.get(command.room)
        if known is None:
            membership = await self._enter(
                connection, way, command.room, command.since, self._node.entering.budget(), wants_state=command.state
            )
            await self._read(membership)
            if not membership.left:
                outcome = self._node.entering.outcome(membership)
                connection._tell(JoinReply(command.ref, _status(outcome)))
                self._node.entering.proceed(membership, outcome)
                return
            known = connection._memberships.get(command.room)
        if known is None:
            journal.declined(connection, "room.join", command.room, "forbidden", _TAKEN_OUT)
            raise EventError("forbidden", "taken out of this room")
        if command.since is not None:
            journal.declined(connection, "room.join", command.room, "conflict", _HERE)
            raise EventError("conflict", "in the room already")
        connection._tell(JoinReply(command.ref, RoomStatus(self.position_of(known))))
        if command.state:
            self._node.entering.refresh(known, "requested")

    def begin(self, connection: Connection, room: str) -> Way:
        """The application is about to put a connection into a room: `put_in` has to follow.

        It begins in the turn of the order, so that a later order to take it out holds.

        Raises:
            EventError: ``too_many_rooms``.
        """
        way = ways.begin(connection)
        try:
            self._reserve(connection, way, room)
        except EventError:
            ways.end(connection, way)
            raise
        return way

    async def put_in(self, connection: Connection, room: str, way: Way) -> None:
        """Put a connection into a room, on a way that `begin` began; undone where it is cancelled.

        Raises:
            Unavailable: the backplane cannot be reached.
        """
        try:
            if room in connection._memberships or room in way.revoked:
                return
            membership = await self._enter(connection, way, room, None, self._node.entering.budget())
            await self._read(membership)
            if not membership.left:
                outcome = self._node.entering.outcome(membership)
                connection._tell(JoinedRoom(room, _status(outcome)))
                self._node.entering.proceed(membership, outcome)
        finally:
            ways.end(connection, way)

    def _reserve(self, connection: Connection, way: Way, room: str) -> None:
        if not ways.reserve(connection, way, room, self._node.limits.rooms):
            journal.declined(connection, "room.join", room, "too_many_rooms", _TOO_MANY)
            raise EventError("too_many_rooms", f"a connection is in at most {self._node.limits.rooms} rooms")

    def position_of(self, membership: Membership) -> Position | None:
        """Where a member stands; None while it waits for a state."""
        if not membership.live or membership.room.frozen is not None:
            return None
        membership.behind = False
        return membership.room.position_of(membership)

    # --- leaving

    def leave(self, connection: Connection, room: str) -> None:
        """The client leaves a room; nothing where it is not in it."""
        membership = connection._memberships.get(room)
        if membership is not None:
            self._node.entering.leave(membership)
            journal.left(connection, room)

    def take_out(self, connection: Connection, room: str, reason: str) -> None:
        """The application takes a connection out of a room, and off every way into it."""
        ways.revoke(connection, room)
        if room in connection._memberships:
            self.leave(connection, room)
            connection._tell(RemovedFromRoom(room, reason))
            if connection.read_only:
                connection._shut(Closing.of(CloseCode.REMOVED))


def _status(outcome: Outcome) -> RoomStatus:
    """What the reply says; a state that was asked for is no failure."""
    reason = None if outcome.reason == "requested" else outcome.reason
    return RoomStatus(outcome.position, outcome.recovered, reason, outcome.reason is not None)
