"""Joining: how a connection gets into a room, and out of it.

The order is the point: subscribe, buffer what comes, read the past, and then, in one turn of the loop,
queue the replay and go live (`roomwire.core.replay`). What cannot be proven complete becomes a
``room.state``; until it is there the member goes on buffering.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import anyio
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
    RoomState,
    RoomStatus,
    Welcome,
)
from roomwire.core.positions import Position
from roomwire.core.publication import InvalidBody, read_body
from roomwire.core.replay import Budget, Finished, Outcome, RecoverTail, Replay
from roomwire.core.tail import Entry, Need
from roomwire.node import journal
from roomwire.node.rooms import Membership
from roomwire.node.scope import Scope, current

if TYPE_CHECKING:
    from roomwire.node.connection import Connection
    from roomwire.node.node import Node

__all__ = ["Joining", "Joins"]

_RETRY = 1.0
"""Seconds between two tries to read a history that is not available."""


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

    async def may_join(self, connection: Connection, room: str) -> bool:
        """Ask the policy of the room's pattern; a room that no pattern matches cannot be joined.

        Raises:
            EventError: the policy said so, or failed (code ``internal``).
        """
        found = self._node.app.rooms.match(room)
        if found is None:
            return False
        hook, path = found
        token = current.set(Scope(self._node, connection))
        try:
            return bool(await hook.function(**hook.bind(connection, path)))
        except ValidationError:
            return False  # a path parameter that does not fit names no room
        except (EventError, Unavailable):
            raise
        except Exception as error:  # noqa: BLE001  the boundary of the application
            journal.failed(connection, hook.name, error)
            raise EventError("internal", "the server failed; it has been logged") from None
        finally:
            current.reset(token)

    # --- many rooms at once

    async def prepare(
        self, connection: Connection, auto: Collection[str], cursor: Mapping[str, Position], *, wants_state: bool
    ) -> Joins:
        """Authorise every room anew, subscribe and read; nothing is sent yet.

        Raises:
            Unavailable: the backplane cannot be reached. All joins are undone.
        """
        joins = Joins()
        budget = Budget(self._node.limits.replay_events, self._node.limits.replay_bytes)
        try:
            for room in dict.fromkeys((*auto, *cursor)):
                refusal = await self._refusal(connection, room, room in auto)
                if refusal is not None:
                    joins.refused[room] = RoomStatus(None, False, refusal)
                    continue
                state = wants_state and room in auto
                membership = await self._enter(connection, room, cursor.get(room), budget, wants_state=state)
                joins.members.append(membership)
                await self._read(membership)
        except BaseException:
            for membership in joins.members:
                self._detach(membership)
            raise
        return joins

    async def _refusal(self, connection: Connection, room: str, auto: bool) -> str | None:
        if len(connection._memberships) >= self._node.limits.rooms:
            return "too_many_rooms"
        try:
            allowed = auto or await self.may_join(connection, room)
        except EventError:
            allowed = False
        return None if allowed else "forbidden"

    def open(self, connection: Connection) -> None:
        """Write the welcome and the replays, and go live, in one turn."""
        joins, connection._welcome = connection._welcome, None
        assert joins is not None
        outcomes = self._finish(joins)
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
            rooms=_statuses(joins, outcomes),
        )
        connection._tell(welcome)
        for membership, outcome in outcomes:
            self._proceed(membership, outcome)

    async def resume(self, connection: Connection, command: Resume) -> None:
        """The cursor that did not fit into the handshake; the auto-joined rooms come with it."""
        repeated = [room for room in command.rooms if room in connection._memberships]
        if repeated:
            connection._tell(Failed(command.ref, "conflict", f"in the room already: {repeated[0]}"))
            return
        if len(command.rooms) > self._node.limits.rooms:
            connection._tell(Failed(command.ref, "too_many_rooms", f"at most {self._node.limits.rooms}"))
            return
        auto = connection._auto_rooms
        connection._auto_rooms = ()
        joins = await self.prepare(connection, auto, command.rooms, wants_state=False)
        if connection._closing is not None:
            return
        outcomes = self._finish(joins)
        connection._tell(ResumeReply(command.ref, _statuses(joins, outcomes)))
        for membership, outcome in outcomes:
            self._proceed(membership, outcome)

    def _finish(self, joins: Joins) -> list[tuple[Membership, Outcome]]:
        """The outcomes as of this moment: while one room was read, events went on in the others."""
        return [(membership, self._outcome(membership)) for membership in joins.members if not membership.left]

    def _outcome(self, membership: Membership) -> Outcome:
        replay = membership.replay
        assert replay is not None
        step = replay.step()
        if not isinstance(step, Finished):
            replay.unavailable()
            step = replay.step()
            assert isinstance(step, Finished)
        return step.outcome

    # --- one room

    async def join(self, connection: Connection, command: Join) -> None:
        """A client asks for a room; the reply is sent from here, before what follows on it.

        Raises:
            EventError, Unavailable: for the reply.
        """
        known = connection._memberships.get(command.room)
        if known is not None:
            if command.since is not None:
                raise EventError("conflict", "in the room already")
            self._node.hub.settle(known.room)
            connection._tell(JoinReply(command.ref, RoomStatus(known.room.flushed)))
            return
        if len(connection._memberships) >= self._node.limits.rooms:
            raise EventError("too_many_rooms", f"a connection is in at most {self._node.limits.rooms} rooms")
        if not await self.may_join(connection, command.room):
            raise EventError("forbidden", "not allowed in this room")
        budget = Budget(self._node.limits.replay_events, self._node.limits.replay_bytes)
        membership = await self._enter(connection, command.room, command.since, budget, wants_state=command.state)
        await self._read(membership)
        if not membership.left:
            outcome = self._outcome(membership)
            connection._tell(JoinReply(command.ref, _status(outcome)))
            self._proceed(membership, outcome)

    async def put_in(self, connection: Connection, room: str) -> None:
        """The application puts a connection into a room.

        Raises:
            EventError: ``too_many_rooms``.
            Unavailable: the backplane cannot be reached.
        """
        if room in connection._memberships:
            return
        if len(connection._memberships) >= self._node.limits.rooms:
            raise EventError("too_many_rooms", f"a connection is in at most {self._node.limits.rooms} rooms")
        budget = Budget(self._node.limits.replay_events, self._node.limits.replay_bytes)
        membership = await self._enter(connection, room, None, budget)
        await self._read(membership)
        if not membership.left:
            outcome = self._outcome(membership)
            connection._tell(JoinedRoom(room, _status(outcome)))
            self._proceed(membership, outcome)

    async def _enter(
        self,
        connection: Connection,
        name: str,
        since: Position | None,
        budget: Budget,
        *,
        wants_state: bool = False,
    ) -> Membership:
        """Subscribe, and buffer for the connection from now on."""
        room = await self._node.hub.open(name)
        assert room.tail is not None
        keep = room.policy.history_size > 0
        replay = Replay(room.tail, since, budget, wants_state=wants_state, keep_history=keep)
        membership = Membership(room, connection, replay)
        if connection._closing is not None or name in connection._memberships:
            # It ended, or another way in was quicker, while the room was being subscribed.
            membership.left = True
            self._node.hub.close(room)
            return membership
        connection._memberships[name] = membership
        room.buffering.add(membership)
        return membership

    async def _read(self, membership: Membership) -> None:
        """Do what the replay asks for until it has an outcome."""
        room, replay = membership.room, membership.replay
        while not membership.left:
            assert replay is not None
            step = replay.step()
            if isinstance(step, Finished):
                return
            try:
                if isinstance(step, RecoverTail):
                    await self._node.hub.recover(room)
                    continue
                page = await self._node.backplane.history(room.name, step.since, step.limit)
            except Unavailable:
                replay.unavailable()
                continue
            if room.tail is not None:
                self._node.hub.pass_on(room, room.tail.feed(page, step.since))
            replay.page(page)

    # --- going live

    def _proceed(self, membership: Membership, outcome: Outcome) -> None:
        """After the reply: the replay, then live; or buffering on until the state is there."""
        if outcome.reason is not None:
            self._node.runtime.spawn(self._give_state, membership, outcome)
            return
        self._write_entries(membership, outcome.replay)
        self._go_live(membership)
        self._log(membership, outcome)

    def _go_live(self, membership: Membership) -> None:
        room = membership.room
        room.seal()
        room.buffering.discard(membership)
        if membership.replay is not None:
            membership.replay.release()
            membership.replay = None
        membership.live = True
        room.live[membership] = None
        self._node.presence.entered(membership)

    def _write_entries(self, membership: Membership, entries: Sequence[Entry]) -> None:
        room, connection = membership.room, membership.connection
        assert room.tail is not None
        epoch = room.tail.position.epoch
        messages = []
        for entry in entries:
            try:
                publication = read_body(room.name, entry.body, Position(epoch, entry.offset))
            except InvalidBody:
                continue  # counted when it came
            membership.behind = publication.exclude == connection.client
            if not membership.behind:
                messages.append(connection._protocol.broadcast(publication))
        connection._write(messages, counted=False)

    async def _give_state(self, membership: Membership, outcome: Outcome) -> None:
        room, replay, connection = membership.room, membership.replay, membership.connection
        assert replay is not None
        while not membership.left:
            if not await self._settled(membership):
                continue
            assert room.tail is not None
            replay.begin_reset(room.tail.position)
            position, state = await self._node.states.take(room)
            if membership.left:
                return
            entries = replay.finish_reset()
            if entries is None:
                if replay.hopeless:
                    connection._shut(Closing.of(CloseCode.NOT_RESUMABLE))
                    return
                continue
            assert outcome.reason is not None
            connection._tell(RoomState(room.name, position, outcome.reason, state))
            self._write_entries(membership, [entry for entry in entries if entry.offset > position.offset])
            self._go_live(membership)
            self._log(membership, outcome)

    async def _settled(self, membership: Membership) -> bool:
        """Whether the room's tail knows where it stands; else a moment has passed."""
        room = membership.room
        if room.tail is not None and room.tail.need is Need.NONE:
            return True
        try:
            await self._node.hub.recover(room)
        except Unavailable:
            await anyio.sleep(_RETRY)
        return False

    def _log(self, membership: Membership, outcome: Outcome) -> None:
        journal.joined(
            membership.connection, membership.room.name, outcome.recovered, outcome.reason, len(outcome.replay)
        )

    # --- leaving

    def leave(self, connection: Connection, room: str) -> None:
        """The client leaves a room; nothing where it is not in it."""
        membership = connection._memberships.pop(room, None)
        if membership is not None:
            self._detach(membership)
            self._node.presence.gone([membership])
            journal.left(connection, room)

    def take_out(self, connection: Connection, room: str, reason: str) -> None:
        """The application takes a connection out of a room."""
        if room in connection._memberships:
            self.leave(connection, room)
            connection._tell(RemovedFromRoom(room, reason))

    def leave_all(self, connection: Connection) -> None:
        """The connection ended."""
        memberships = list(connection._memberships.values())
        connection._memberships.clear()
        self._node.presence.gone([membership for membership in memberships if membership.live])
        for membership in memberships:
            self._detach(membership)

    def _detach(self, membership: Membership) -> None:
        if membership.left:
            return
        membership.left = True
        membership.live = False
        room = membership.room
        membership.connection._memberships.pop(room.name, None)
        room.live.pop(membership, None)
        room.buffering.discard(membership)
        if membership.replay is not None:
            membership.replay.release()
            membership.replay = None
        self._node.hub.close(room)


def _status(outcome: Outcome) -> RoomStatus:
    """What the reply says; a state that was asked for is no failure."""
    reason = None if outcome.reason == "requested" else outcome.reason
    return RoomStatus(outcome.position, outcome.recovered, reason)


def _statuses(joins: Joins, outcomes: Sequence[tuple[Membership, Outcome]]) -> dict[str, RoomStatus]:
    return {m.room.name: _status(outcome) for m, outcome in outcomes} | joins.refused
