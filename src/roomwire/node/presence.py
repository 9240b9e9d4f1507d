"""Presence: who is in a room, over all nodes.

It is a difference, not a stream of events: the node remembers the users that it last told its members,
and on every hint, sweep and interruption reads the leases and tells what changed. So each member
learns of each change exactly once, whoever noticed it, also after a node died.
"""

from __future__ import annotations

import heapq
import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from roomwire.backplanes.contract import Member
from roomwire.core.envelope import dump
from roomwire.core.errors import EventError, Unavailable
from roomwire.core.notices import MemberJoined, MemberLeft, MembersState, Notice, Person

if TYPE_CHECKING:
    from roomwire.node.connection import Connection
    from roomwire.node.node import Node
    from roomwire.node.rooms import Membership, Room

__all__ = ["Presence"]

logger = logging.getLogger("roomwire.backplane")


class _Told:
    """What the members of a room were told, and whether that is being looked at anew."""

    __slots__ = ("again", "busy", "users")

    def __init__(self) -> None:
        self.users: dict[str, Person] = {}
        self.busy = False
        self.again = False


class Presence:
    """The presence of a node's rooms."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._told: dict[str, _Told] = {}
        self._ends: list[tuple[float, int, str, Member]] = []
        self._count = 0

    # --- members come and go

    def entered(self, membership: Membership) -> None:
        """A connection is live in a room."""
        if membership.room.policy.presence:
            self._node.runtime.spawn(self._enter, membership)

    async def _enter(self, membership: Membership) -> None:
        if membership.left:
            return
        room, member = membership.room, member_of(membership.connection)
        try:
            await self._node.backplane.enter(room.name, member)
        except Unavailable:
            logger.warning("presence cannot be written now", extra={"roomwire": {"room": room.name}})
        if membership.left:
            await self._leave(room.name, member, room.policy.leave_grace)
        self.changed(room.name)

    def gone(self, memberships: Iterable[Membership]) -> None:
        """Connections left rooms; their users do so after the grace, unless they are back by then."""
        for membership in memberships:
            if membership.room.policy.presence:
                grace = membership.room.policy.leave_grace
                self._node.runtime.spawn(self._leave, membership.room.name, member_of(membership.connection), grace)

    async def _leave(self, room: str, member: Member, grace: float) -> None:
        try:
            await self._node.backplane.leave(room, member, grace)
        except Unavailable:
            return  # the lease expires by itself
        if grace:
            self._count += 1
            heapq.heappush(self._ends, (self._node.runtime.now() + grace, self._count, room, member))

    def tick(self, now: float) -> None:
        """Make the leaves whose grace is over known to all nodes."""
        while self._ends and self._ends[0][0] <= now:
            _, _, room, member = heapq.heappop(self._ends)
            self._node.runtime.spawn(self._leave, room, member, 0.0)

    # --- telling

    async def people(self, room: str) -> list[Person]:
        """The users in a room, each once, cluster-wide.

        Raises:
            EventError: ``forbidden``, where the room's policy keeps no presence.
            Unavailable: it cannot be read now.
        """
        if not self._node.policy_of(room).presence:
            raise EventError("forbidden", "this room keeps no list of its members")
        return list(_by_user(await self._node.backplane.members(room)).values())

    def changed(self, name: str) -> None:
        """Something may have changed; looked at once for many hints."""
        room = self._node.hub.rooms.get(name)
        if room is None or not room.policy.presence:
            return
        told = self._told.setdefault(name, _Told())
        if told.busy:
            told.again = True
        else:
            told.busy = True
            self._node.runtime.spawn(self._look, room, told)

    async def _look(self, room: Room, told: _Told) -> None:
        try:
            while True:
                told.again = False
                now = _by_user(await self._node.backplane.members(room.name))
                self._tell(room, told, now)
                if not told.again:
                    break
        except Unavailable:
            logger.warning("presence cannot be read now", extra={"roomwire": {"room": room.name}})
        finally:
            told.busy = False
            if not room.live and not room.buffering:
                self._told.pop(room.name, None)

    def _tell(self, room: Room, told: _Told, now: dict[str, Person]) -> None:
        before, told.users = told.users, now
        notices: list[Notice] = [MemberJoined(room.name, now[user]) for user in now if user not in before]
        notices += [MemberLeft(room.name, before[user]) for user in before if user not in now]
        old = [membership for membership in room.live if membership.listed]
        new = [membership for membership in room.live if not membership.listed]
        if notices and old:
            self._node.broadcast(old, notices)
        if new:
            for membership in new:
                membership.listed = True
            self._node.broadcast(new, [MembersState(room.name, list(now.values()))])

    def interrupted(self, rooms: Iterable[str]) -> None:
        """Hints may have been lost: members get the whole list."""
        for name in rooms:
            room = self._node.hub.rooms.get(name)
            if room is not None and room.policy.presence:
                for membership in room.live:
                    membership.listed = False
                self.changed(name)

    def sweep(self) -> None:
        """Look at every room: leases expire without a hint."""
        for name in list(self._told):
            self.changed(name)

    def leases(self) -> list[tuple[str, Member]]:
        """The leases of this node, to be refreshed."""
        return [
            (room.name, member_of(membership.connection))
            for room in self._node.hub.rooms.values()
            if room.policy.presence
            for membership in room.live
        ]


def member_of(connection: Connection) -> Member:
    """A connection's entry in a room."""
    info = b"null" if connection.info is None else dump(connection.info)
    return Member(connection.user, connection.client, connection.id, info)


def _by_user(members: Sequence[Member]) -> dict[str, Person]:
    people: dict[str, Person] = {}
    for member in members:
        people.setdefault(member.user, Person(member.user, member.info))
    return people
