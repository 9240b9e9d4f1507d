"""Entering: the way of one connection into one room, once it may, and out of it.

The order is the point: subscribe, buffer what comes, read the past, and then, in one turn of the loop,
queue the replay and go live (`roomwire.core.replay`). Who brings no position, and gets no state, has no past
to wait for: it needs no replay, and goes live where the tail stands. What cannot be proven complete becomes a
``room.state``; until it is there the member goes on buffering. A live member that asks for the state is
buffering and live until it is there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import anyio

from roomwire.core.closing import CloseCode, Closing
from roomwire.core.conflation import newest_of
from roomwire.core.errors import Unavailable
from roomwire.core.notices import RoomState
from roomwire.core.positions import Position
from roomwire.core.publication import Publication
from roomwire.core.replay import Budget, Finished, Outcome, RecoverTail, Replay
from roomwire.core.tail import Entry, Need
from roomwire.node import journal, newest, unread
from roomwire.node.rooms import Membership
from roomwire.node.turns import messages_of, publications_of

if TYPE_CHECKING:
    from roomwire.node.connection import Connection
    from roomwire.node.node import Node
    from roomwire.node.rooms import Room

__all__ = ["Entering"]

_RETRY = 1.0
"""Seconds between two tries to read a history that is not available."""


class Entering:
    """Makes, feeds and ends the memberships of a node."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def budget(self) -> Budget:
        """What may wait for one connection, in the rooms that it enters together."""
        return Budget(self._node.limits.replay_events, self._node.limits.replay_bytes)

    # --- before the reply

    async def enter(
        self,
        connection: Connection,
        name: str,
        since: Position | None,
        budget: Budget,
        *,
        wants_state: bool = False,
    ) -> Membership:
        """Subscribe, and buffer for the connection from now on, where it has a past to wait for.

        Returns:
            A membership to be read; over already, where the connection ended meanwhile or came into
            the room on another way.

        Raises:
            Unavailable: the backplane could not subscribe.
        """
        room = await self._node.hub.open(name)
        membership = Membership(room, connection)
        if connection._closing is not None or name in connection._memberships:
            membership.left = True
            self._node.hub.close(room)
            return membership
        connection._memberships[name] = membership
        if since is not None or wants_state or room.newest is not None or _goes_on(room) is None:
            assert room.tail is not None
            keep = room.policy.history_size > 0
            _buffer(membership, Replay(room.tail, since, budget, wants_state=wants_state, keep_history=keep))
        return membership

    async def read(self, membership: Membership) -> None:
        """Do what the replay asks for until it has an outcome; nothing suspends where it has one.

        Raises:
            Unavailable: the newest events, which it is to be sent, cannot be read.
        """
        room, replay = membership.room, membership.replay
        while replay is not None and not membership.left:
            step = replay.step(self._node.runtime.now())
            if isinstance(step, Finished):
                found = _newest_for(room, step.outcome)
                if found is not None and not found.latest.filled:
                    await newest.fill(self._node, room, found)
                    continue
                return
            try:
                if isinstance(step, RecoverTail):
                    await self._node.hub.healing.recover(room)
                    continue
                page = await self._node.backplane.history(room.name, step.since, step.limit)
            except Unavailable:
                replay.unavailable()
                continue
            if room.tail is not None:
                self._node.hub.pass_on(room, room.tail.feed(page, step.since))
            replay.page(page)

    def outcome(self, membership: Membership) -> Outcome:
        """How it ended, as of this moment; act on it in this turn of the loop."""
        replay = membership.replay
        if replay is None:
            position = _goes_on(membership.room)
            if position is not None:
                return Outcome(position, None, None)
            assert membership.room.tail is not None
            replay = _buffer(membership, Replay(membership.room.tail, None, self.budget()))
        now = self._node.runtime.now()
        step = replay.step(now)
        if not isinstance(step, Finished):
            replay.unavailable()
            step = replay.step(now)
            assert isinstance(step, Finished)
        outcome, room = step.outcome, membership.room
        found = _newest_for(room, outcome)
        if found is None:
            return outcome
        if not found.latest.filled:  # the room was reset since they were read
            return outcome._replace(reason="unavailable")
        # A client drops what is not after its position.
        return outcome._replace(position=found.before(now) or outcome.position)

    # --- after the reply

    def proceed(self, membership: Membership, outcome: Outcome) -> None:
        """The replay, then live; or buffering on until the state is there."""
        if outcome.reason is not None:
            self._node.attend(membership.connection, self._enter_with_state, membership, outcome)
        else:
            self._go_live(membership, outcome, outcome.replay)

    def _go_live(self, membership: Membership, outcome: Outcome, entries: Sequence[Entry]) -> None:
        if entries:
            self._write_entries(membership, entries)
        found = _newest_for(membership.room, outcome)
        if found is not None:
            found.write(membership, self._node.runtime.now())
        if membership.left:
            return  # the write found out that the peer is gone
        room = membership.room
        self._end_replay(membership)
        membership.go_live()
        room.admit(membership)
        self._node.presence.entered(membership)
        journal.joined(membership.connection, room.name, outcome.recovered, outcome.reason, len(outcome.replay))

    def _write_entries(self, membership: Membership, entries: Sequence[Entry]) -> None:
        room, connection = membership.room, membership.connection
        if membership.left or room.tail is None:
            return
        found = publications_of(room.name, entries, room.tail.position.epoch)
        if room.policy.conflates:
            found = newest_of(found, room.policy.conflate_key)
        publications: list[Publication] = []
        for publication in found:
            membership.behind = publication.excludes(connection.user, connection.client)
            if not membership.behind:
                publications.append(publication)
        connection._write(messages_of(publications, connection._protocol), counted=False)

    async def _enter_with_state(self, membership: Membership, outcome: Outcome) -> None:
        assert outcome.reason is not None
        entries = await self._give_state(membership, outcome.reason)
        if entries is not None:
            self._go_live(membership, outcome, entries)

    async def _give_state(self, membership: Membership, reason: str) -> Sequence[Entry] | None:
        """Write the room's state; returns what follows on it, to be written in this turn of the loop.

        None where there is nothing more to do: the membership is over, or a reset of the room gives its
        state to all live members.
        """
        connection = membership.connection
        async with unread.places(connection):
            await unread.until_read(connection)
            return await self._make_and_write_state(membership, reason)

    async def _make_and_write_state(self, membership: Membership, reason: str) -> Sequence[Entry] | None:
        room, replay, connection = membership.room, membership.replay, membership.connection
        while not membership.left:
            assert replay is not None
            if not await self._knows_its_tail(room):
                continue
            assert room.tail is not None
            replay.begin_reset(room.tail.position)
            position, state = await self._node.states.take(room)
            if membership.left:
                break
            if membership.live and room.frozen is not None:
                break
            entries = replay.finish_reset(self._node.runtime.now())
            if entries is not None:
                connection._tell(RoomState(room.name, position, reason, state), counted=False)
                return [entry for entry in entries if entry.offset > position.offset]
            if replay.hopeless:
                connection._shut(Closing.of(CloseCode.NOT_RESUMABLE))
        return None

    async def _knows_its_tail(self, room: Room) -> bool:
        """Whether the room's tail knows where it stands; else a moment has passed."""
        if room.tail is not None and room.tail.need is Need.NONE:
            return True
        try:
            await self._node.hub.healing.recover(room)
        except Unavailable:
            await anyio.sleep(_RETRY)
        return False

    def refresh(self, membership: Membership, reason: str) -> None:
        """Give a member the room's state, and what follows on it once more; nothing more where that is under way."""
        room = membership.room
        if membership.replay is not None:
            membership.replay.demand(reason)
        elif room.tail is not None:
            replay = _buffer(membership, Replay.resetting(room.tail, self.budget()))
            if membership.live:
                self._node.attend(membership.connection, self._refresh, membership, reason)
            else:
                replay.demand(reason)

    async def _refresh(self, membership: Membership, reason: str) -> None:
        entries = await self._give_state(membership, reason)
        if entries is not None:
            self._write_entries(membership, entries)
            membership.room.skip(membership)
        self._end_replay(membership)

    # --- leaving

    def leave(self, membership: Membership) -> None:
        """Out of the room; the connection stays."""
        live = membership.live
        self.detach(membership)
        if live:
            self._node.farewells.left(membership.connection, membership.room)

    def leave_all(self, connection: Connection) -> list[Room]:
        """The connection ends; returns the rooms that it was live in."""
        memberships = list(connection._memberships.values())
        rooms = [membership.room for membership in memberships if membership.live]
        for membership in memberships:
            self.detach(membership)
        return rooms

    def detach(self, membership: Membership) -> None:
        """End a membership, if it has not ended yet."""
        if membership.left:
            return
        membership.left = True
        membership.link = None
        room = membership.room
        del membership.connection._memberships[room.name]
        room.part(membership)
        self._end_replay(membership)
        self._node.hub.close(room)

    def _end_replay(self, membership: Membership) -> None:
        if membership.replay is not None:
            membership.room.buffering.discard(membership)
            membership.replay.release()
            membership.replay = None


def _newest_for(room: Room, outcome: Outcome) -> newest.Newest | None:
    """What who joins is sent at once: where it has no position, and gets no state."""
    if room.newest is None or room.frozen is not None:
        return None
    return room.newest if outcome.recovered is None and outcome.reason is None else None


def _buffer(membership: Membership, replay: Replay) -> Replay:
    """From now on what comes waits for the outcome of `replay`."""
    membership.replay = replay
    membership.room.buffering.add(membership)
    return replay


def _goes_on(room: Room) -> Position | None:
    """Where who joins without a past stands; None where the tail does not know."""
    tail = room.tail
    return tail.position if tail is not None and tail.need is Need.NONE else None
