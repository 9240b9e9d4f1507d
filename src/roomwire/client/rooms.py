"""The rooms of one client: where it stands in each, what it may resume from, and who is there.

A room has two positions. `Membership.position` is the last event that was taken in, and what comes again is
dropped by it. `Membership.proven` is what the application's knowledge is complete up to, and the cursor is made of
it. They differ from the moment at which the server says that a replay cannot be proven until the
``room.state`` is there: were the link to break just then, resuming from the new position would succeed, and the
state would never be told.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from roomwire.client.errors import RequestFailed
from roomwire.client.events import Item, Joined, MemberJoined, MemberLeft, MembersState, Recovered, Removed, StateReset
from roomwire.client.messages import Incoming, Status, bad_message, fields_of, position_of, status_of, text_of
from roomwire.client.ticket import Ticket
from roomwire.core.positions import Position

__all__ = ["NOT_JOINED", "Membership", "Rooms", "members_of"]

NOT_JOINED = frozenset({"forbidden", "too_many_rooms"})
"""Reasons for which a room is not joined at all."""

_KNOWN = frozenset({"room.state", "room.removed", "presence.state", "presence.join", "presence.leave"})


class Membership:
    """One room that this client is in, or wants to be in.

    Attributes:
        name: its name.
        position: the last event that was taken in.
        proven: what may be resumed from.
        here: whether the server has it joined on the current link.
        asked: whether a ``room.join`` of the current link waits for its reply.
        wants_state: a ``room.state`` was asked for and has not come.
        resetting: a ``room.state`` will come since the replay was not proven.
        leaving: it is being left.
        members: who is there, by user.
        joins: who waits to be in it.
        leaves: who waits to be out of it.
    """

    __slots__ = (
        "asked",
        "here",
        "joins",
        "leaves",
        "leaving",
        "members",
        "name",
        "position",
        "proven",
        "resetting",
        "wants_state",
    )

    def __init__(self, name: str, *, wants_state: bool = False) -> None:
        self.name = name
        self.position: Position | None = None
        self.proven: Position | None = None
        self.here = self.asked = self.resetting = self.leaving = False
        self.wants_state = wants_state
        self.members: dict[str, Any] = {}
        self.joins: list[Ticket] = []
        self.leaves: list[Ticket] = []

    @property
    def resumes_from(self) -> Position | None:
        """What the cursor says of it; None: it is joined anew."""
        return None if self.wants_state else self.proven

    def accepts(self, position: Position) -> bool:
        """Take in an event; False where it was taken in before."""
        last = self.position
        if last is not None and last.epoch == position.epoch and position.offset <= last.offset:
            return False
        self._stand_at(position)
        return True

    def enter(self, status: Status, *, state_follows: bool) -> Iterator[Item]:
        """The server has joined it.

        Args:
            status: how.
            state_follows: whether a ``room.state`` was asked for with what is answered here.

        Yields:
            What the application is to know.
        """
        self.here, self.asked = True, False
        self.answered()
        if status.recovered is True:
            yield Recovered(self.name, status.position)
            return
        self.resetting = status.recovered is False or status.reason is not None
        # Without a reason a state comes only because it was asked for. Where something was known of
        # the room and neither a proof nor a state is to come, the gap must not stay untold.
        lost = (self.proven is not None or self.wants_state) and not (self.resetting or state_follows)
        self.wants_state = state_follows
        if status.position is not None:
            self._stand_at(status.position)
        if lost:
            yield StateReset(self.name, "unproven", None, status.position)

    def answered(self) -> None:
        """Who waits to be in it is."""
        for ticket in self.joins:
            ticket.succeed()
        self.joins.clear()

    def stand_without_state(self) -> None:
        """The state that was asked for will not come, and nothing is missing without it."""
        self.wants_state = False
        if self.position is not None:
            self._stand_at(self.position)

    def give_state_up(self) -> StateReset:
        """The state that was to close a gap will not come: the application is told of the gap instead."""
        self.stand_without_state()
        return StateReset(self.name, "unproven", None, self.position)

    def reset(self, position: Position) -> None:
        """Its full state came, and stands for `position`."""
        self.resetting = self.wants_state = False
        self._stand_at(position)

    def stay(self) -> None:
        """It is not left after all."""
        self.leaving = False
        for ticket in self.leaves:
            ticket.succeed()
        self.leaves.clear()

    def broke(self) -> None:
        """The link is gone. Members stay as they were last known, until the server lists them anew."""
        if self.resetting:
            # The state was announced and did not come: it is to be announced again.
            self.position = self.proven
            self.wants_state = self.wants_state or self.proven is None
        self.here = self.asked = self.leaving = self.resetting = False

    def _stand_at(self, position: Position) -> None:
        self.position = position
        if not (self.resetting or self.wants_state):
            self.proven = position


class Rooms:
    """All rooms of one client, by name."""

    __slots__ = ("_rooms",)

    def __init__(self) -> None:
        self._rooms: dict[str, Membership] = {}

    def __iter__(self) -> Iterator[Membership]:
        return iter(list(self._rooms.values()))

    def get(self, name: str | None) -> Membership | None:
        """A room by its name."""
        return None if name is None else self._rooms.get(name)

    def add(self, name: str, *, wants_state: bool = False) -> Membership:
        """Begin to keep a room."""
        room = self._rooms[name] = Membership(name, wants_state=wants_state)
        return room

    def discard(self, room: Membership, reason: str) -> None:
        """Forget a room; who waits to be in it is told the reason, who waits to be out of it is."""
        if self._rooms.get(room.name) is room:
            del self._rooms[room.name]
        for ticket in room.joins:
            ticket.fail(RequestFailed(reason, f"not in {room.name}"))
        for ticket in room.leaves:
            ticket.succeed()
        room.joins.clear()
        room.leaves.clear()

    def cursor(self) -> dict[str, Position]:
        """What can be resumed."""
        return {room.name: position for room in self if (position := room.resumes_from) is not None}

    def broke(self) -> None:
        """The link is gone, and with it every room that was on the way out."""
        for room in self:
            if room.leaving:
                self.discard(room, "left")
            room.broke()

    def want_all_states(self) -> None:
        """The next attempt goes without a cursor: nothing that is known can be proven complete."""
        for room in self:
            room.wants_state = True

    def move(self, positions: Mapping[str, Position]) -> None:
        """Take over positions that moved on without an event; never backwards in one epoch."""
        for name, position in positions.items():
            room = self._rooms.get(name)
            if room is not None and room.here:
                room.accepts(position)

    # --- what comes from the server about one room

    def receive(self, message: Incoming) -> Iterator[Item]:
        """``room.*`` and ``presence.*``; what is unknown, or of a room that it is not in, is passed over."""
        if message.event == "room.joined":
            if message.room is None:
                raise bad_message("room.joined without a room")
            yield from self.enter(message.room, status_of(message.data), state_follows=False)
            return
        room = self.get(message.room)
        if room is not None and room.here:
            yield from self._receive_in(room, message)

    def enter(self, name: str, status: Status, *, state_follows: bool) -> Iterator[Item]:
        """A room as the welcome, the reply to a resume, or ``room.joined`` has it."""
        room = self._rooms.get(name)
        if status.reason is not None and status.reason in NOT_JOINED:
            if room is not None:
                self.discard(room, status.reason)
                yield Removed(name, status.reason)
            return
        if room is None:
            room = self.add(name)
            yield Joined(name)
        yield from room.enter(status, state_follows=state_follows)

    def _receive_in(self, room: Membership, message: Incoming) -> Iterator[Item]:
        if message.event not in _KNOWN:
            return
        fields = fields_of(message.data)
        match message.event:
            case "room.state":
                position = position_of(message.id)
                room.reset(position)
                yield StateReset(room.name, text_of(fields, "reason") or "", fields.get("state"), position)
            case "room.removed":
                reason = text_of(fields, "reason") or ""
                self.discard(room, reason)
                yield Removed(room.name, reason)
            case "presence.state":
                room.members = members_of(fields)
                yield MembersState(room.name, dict(room.members))
            case "presence.join":
                user, info = _person(fields)
                if user not in room.members or room.members[user] != info:
                    room.members[user] = info
                    yield MemberJoined(room.name, user, info)
            case "presence.leave":
                user, info = _person(fields)
                if user in room.members:
                    del room.members[user]
                    yield MemberLeft(room.name, user, info)


def _person(value: object) -> tuple[str, Any]:
    fields = fields_of(value)
    user = fields.get("user")
    if not isinstance(user, str):
        raise bad_message("a member without a user")
    return user, fields.get("info")


def members_of(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The members of a whole list, by user, each with its info."""
    members = fields.get("members")
    if not isinstance(members, list):
        raise bad_message("members is not a list")
    return dict(map(_person, members))
