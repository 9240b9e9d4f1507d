"""Presence: who is in a room, over all nodes.

It is a difference, not a stream of events: the node remembers the users that it last told its members,
and on every hint, sweep and interruption reads the leases and tells what changed. So each member
learns of each change exactly once, whoever noticed it, also after a node died. Who asks for the whole
list is given the one that was read last, until a change is heard of: in a large room it is costly to make.
"""

from __future__ import annotations

import heapq
import logging
from collections.abc import Collection, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
from pydantic_core import from_json

from roomwire.backplanes.contract import Member
from roomwire.core.errors import EventError, Unavailable
from roomwire.core.identity import is_user
from roomwire.core.notices import MemberJoined, MemberLeft, MembersState, Notice, Person, Roster
from roomwire.node.chores import Chores

if TYPE_CHECKING:
    from roomwire.node.connection import Connection
    from roomwire.node.node import Node
    from roomwire.node.rooms import Membership, Room

__all__ = ["Presence", "Told", "member_of"]

logger = logging.getLogger("roomwire.backplane")

_LOOKS = 16
"""Rooms whose members are read at one time."""
_READS = 16
"""Rooms whose members are read at one time for those who ask."""
_ENTRIES = 32
"""Members whose leases are written at one time."""

Told = dict[str, Person]
"""The users that the members of a room were told of."""


class _Question:
    """Who is in a room? Asked by one or by many, answered by one read that began after the last of them."""

    __slots__ = ("answer", "answered")

    def __init__(self) -> None:
        self.answered = anyio.Event()
        self.answer: Roster | None = None


class Presence:
    """The presence of a node's rooms."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._looks: Chores[Room] = Chores(node, self._look, _LOOKS)
        self._reads: Chores[Room] = Chores(node, self._read, _READS)
        self._questions: dict[Room, _Question] = {}
        self._entries: Chores[Membership] = Chores(node, self._enter, _ENTRIES)
        self._graces: Chores[None] = Chores(node, self._end_graces, 1)
        self._ends: list[tuple[float, int, str, Member]] = []
        self._count = 0

    # --- members come and go

    def entered(self, membership: Membership) -> None:
        """A connection is live in a room."""
        if membership.room.policy.presence:
            self._entries.add(membership)

    async def _enter(self, membership: Membership) -> None:
        if membership.left:
            return
        room, member = membership.room, member_of(membership.connection)
        try:
            await self._node.backplane.enter(room.name, member)
        except Unavailable:
            # The next refresh makes the lease.
            logger.warning("presence cannot be written now", extra={"roomwire": {"room": room.name}})
        if membership.left:
            # Its leave may have been quicker than this.
            await self._leave(room.name, member, room.policy.leave_grace)
        self.changed(room.name)

    async def leave(self, connection: Connection, rooms: Iterable[Room], least_grace: float = 0.0) -> None:
        """A connection left rooms; its user does so after the grace, unless it is back by then.

        Args:
            connection: which has left them already.
            rooms: which.
            least_grace: seconds, where the rooms' own is shorter.
        """
        member = member_of(connection)
        for room in rooms:
            if room.policy.presence:
                await self._leave(room.name, member, max(room.policy.leave_grace, least_grace))

    async def _leave(self, room: str, member: Member, grace: float) -> None:
        if self._is_back(room, member):
            return
        try:
            await self._node.backplane.leave(room, member, grace)
        except Unavailable:
            return  # the lease expires by itself
        back = self._is_back(room, member)
        if back is not None:
            self._entries.add(back)
        elif grace:
            self._count += 1
            heapq.heappush(self._ends, (self._node.runtime.now() + grace, self._count, room, member))

    def _is_back(self, room: str, member: Member) -> Membership | None:
        """The membership of a connection that left a room and came again."""
        connection = self._node.connections.get(member.connection)
        membership = None if connection is None else connection._memberships.get(room)
        return membership if membership is not None and membership.live else None

    def tick(self, now: float) -> None:
        """Have the leaves whose grace is over made known to all nodes."""
        if self._ends and self._ends[0][0] <= now:
            self._graces.add(None)

    async def _end_graces(self, _: None) -> None:
        while self._ends and self._ends[0][0] <= self._node.runtime.now():
            end = heapq.heappop(self._ends)
            await self._leave(end[2], end[3], 0.0)

    # --- telling

    async def people(self, room: str) -> Sequence[Person]:
        """The users in a room, each once, cluster-wide.

        Raises:
            EventError: ``forbidden``, where the room's policy keeps no presence.
            Unavailable: it cannot be read now.
        """
        if not self._node.policy_of(room).presence:
            raise EventError("forbidden", "this room keeps no list of its members")
        found = self._node.hub.rooms.get(room)
        if found is None or found.tail is None:  # nobody is told of changes in it
            return Roster(_by_user(await self._node.backplane.members(room)).values())
        return found.roster if found.roster is not None else await self._ask(found)

    async def _ask(self, room: Room) -> Roster:
        question = self._questions.get(room)
        if question is None:
            question = self._questions[room] = _Question()
            self._reads.add(room)
        await question.answered.wait()
        if question.answer is None:
            raise Unavailable("the members of the room cannot be read now", stored=False)
        return question.answer

    async def _read(self, room: Room) -> None:
        question = self._questions.pop(room)
        changes = room.changes
        try:
            members = await self._node.backplane.members(room.name)
            question.answer = Roster(_by_user(members).values())
            if changes == room.changes and room.tail is not None:
                room.roster = question.answer
        except Unavailable:
            pass  # who asked is told so
        finally:
            question.answered.set()

    def changed(self, name: str) -> None:
        """Something may have changed; looked at once for many hints."""
        room = self._node.hub.rooms.get(name)
        if room is not None and room.policy.presence:
            self._changed(room)

    def _changed(self, room: Room) -> None:
        room.roster = None
        room.changes += 1
        self._looks.add(room)

    async def _look(self, room: Room) -> None:
        # The hints of one turn of the loop are one look.
        await anyio.lowlevel.checkpoint()
        if not room.live:
            return
        room.outdated = room.is_telling
        if room.outdated:
            return  # one change at a time is told, so that many are told as what they come to
        changes = room.changes
        try:
            members = await self._node.backplane.members(room.name)
        except Unavailable:
            # The next sweep looks again.
            logger.warning("presence cannot be read now", extra={"roomwire": {"room": room.name}})
            return
        if room.tail is None:
            return
        now = _by_user(members)
        roster = Roster(now.values())
        if changes == room.changes:
            room.roster = roster
        self._tell(room, now, roster)

    def _tell(self, room: Room, now: Told, roster: Roster) -> None:
        before, room.told = room.told or {}, now
        notices: list[Notice] = [MemberJoined(room.name, now[user]) for user in now if user not in before]
        notices += [MemberLeft(room.name, before[user]) for user in before if user not in now]
        new = [membership for membership in room.live if not membership.listed]
        if notices and len(new) < len(room.live):
            listed = [membership for membership in room.live if membership.listed]
            self._node.hub.tell(room, listed, notices, partial(self._were_told, room))
        if new:
            for membership in new:
                membership.listed = True
            state = MembersState(room.name, roster)
            self._node.hub.tell(room, new, [state], partial(self._were_told, room))

    def _were_told(self, room: Room) -> None:
        if room.outdated:
            self._looks.add(room)

    def interrupted(self, rooms: Collection[Room]) -> None:
        """Hints may have been lost: members get the whole list."""
        for room in rooms:
            if room.policy.presence:
                for membership in room.live:
                    membership.listed = False
                self._changed(room)

    def sweep(self) -> None:
        """Look at every room: leases expire without a hint."""
        for room in self._node.hub.rooms.values():
            if room.policy.presence:
                self._looks.add(room)

    def memberships(self) -> list[Membership]:
        """The memberships of this node that have a lease."""
        rooms = (room for room in self._node.hub.rooms.values() if room.policy.presence)
        return [membership for room in rooms for membership in room.live]


def member_of(connection: Connection) -> Member:
    """A connection's entry in a room."""
    return Member(connection.user, connection.client, connection.id, connection._info)


def _by_user(members: Sequence[Member]) -> dict[str, Person]:
    people: dict[str, Person] = {}
    for member in members:
        # A lease is the store's word, and whoever can write to the store can have written it.
        if member.user not in people and is_user(member.user) and _is_json(member.info):
            people[member.user] = Person(member.user, member.info)
    return people


def _is_json(info: bytes) -> bool:
    try:
        from_json(info, allow_inf_nan=False)
    except ValueError:
        return False
    return True
