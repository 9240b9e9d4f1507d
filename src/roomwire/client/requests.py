"""What the application asks for: messages, joins, leaves and questions, and whom each reply is for.

Messages of the application survive a break (`roomwire.client.outbox`). Those of the protocol do not: a room that
is wanted is joined on the next link, by the cursor or anew, a room on its way out is simply not resumed,
and a question fails with `NoReply`.
"""

from __future__ import annotations

from collections.abc import Callable

from roomwire.client.errors import NoReply, RequestFailed
from roomwire.client.events import Item, Removed
from roomwire.client.messages import Payload, check_room, control, fields_of, message, status_of
from roomwire.client.outbox import Message, Outbox, size_of
from roomwire.client.rooms import Membership, Rooms, members_of
from roomwire.client.ticket import Ticket
from roomwire.core.errors import RoomwireError

__all__ = ["Requests"]

_Acknowledged = Callable[[object], None]
_Refused = Callable[[RequestFailed], None]


class Requests:
    """The requests of one client.

    Args:
        rooms: its rooms.
        outbox: its messages.
        emit: puts a message on the current link.
        hand: hands the application something.

    Attributes:
        resuming: whether an attempt runs that may have told the server which rooms to resume.
        is_ready: whether the current link takes requests.
    """

    __slots__ = ("_emit", "_hand", "_last_id", "_outbox", "_questions", "_replies", "_rooms", "is_ready", "resuming")

    def __init__(
        self, rooms: Rooms, outbox: Outbox, emit: Callable[[Payload], None], hand: Callable[[Item], None]
    ) -> None:
        self._rooms = rooms
        self._outbox = outbox
        self._emit = emit
        self._hand = hand
        self._replies: dict[str, tuple[_Acknowledged, _Refused]] = {}
        self._questions: dict[str, Ticket] = {}
        self._last_id = 0
        self.resuming = False
        self.is_ready = False

    @property
    def waiting(self) -> bool:
        """Whether any reply is waited for."""
        return bool(self._outbox or self._replies or self._questions)

    # --- messages of the application

    def send(self, now: float, event: str, data: object, room: str | None, ticket: Ticket) -> Message:
        """Send a message, now or once there is a link.

        Raises:
            LocalError: it cannot be sent, or not yet (`QueueFull`).
        """
        ref = self._next_id()
        payload = message(event, data, id=ref, room=room)
        entry = Message(ref, payload, size_of(payload), ticket)
        self._outbox.put(entry)
        if self.is_ready:
            # At once, so that it stays ahead of whatever is asked next.
            for released in self._outbox.release(now):
                self._emit(released)
        return entry

    def forget(self, entry: Message) -> None:
        """Nobody waits for its reply any more."""
        self._outbox.discard(entry)

    def notify(self, event: str, data: object, room: str | None) -> bool:
        """Send a message that wants no reply; False where there is no link to send it on.

        Raises:
            LocalError: it cannot be sent.
        """
        payload = message(event, data, room=room)
        self._outbox.check_size(size_of(payload))
        if self.is_ready:
            self._emit(payload)
        return self.is_ready

    # --- rooms

    def join(self, name: str, ticket: Ticket, *, state: bool) -> Membership:
        """Be in a room from now on, over all breaks.

        Raises:
            LocalError: that is no room's name.
        """
        check_room(name)
        room = self._rooms.get(name)
        if room is not None and room.leaving:
            if room.here or room.asked:
                self._rooms.discard(room, "left")  # the leave is on its way, the join follows it
                room = None
            else:
                room.stay()
        if room is None:
            room = self._rooms.add(name, wants_state=state)
        if room.here and not state:
            ticket.succeed()
            return room
        room.joins.append(ticket)
        if room.here:
            self.ask_for_state(room)
        elif self.is_ready and not room.asked:
            self._ask_to_join(room)
        return room

    def forget_join(self, room: Membership, ticket: Ticket) -> None:
        """Nobody waits for this join any more; where nobody else wanted the room, it is left."""
        if ticket in room.joins:
            room.joins.remove(ticket)
            if not (room.joins or room.here or room.position):
                self._rooms.discard(room, "left")
                if room.asked:
                    self._emit(control("room.leave", room=room.name))

    def leave(self, name: str, ticket: Ticket) -> None:
        """Be in a room no longer."""
        room = self._rooms.get(name)
        if room is None:
            ticket.succeed()
            return
        room.leaves.append(ticket)
        if self.is_ready:
            if not room.leaving:
                self._ask_to_leave(room)
        elif self.resuming:
            room.leaving = True  # the server may be joining it just now: `ready` leaves it
        else:
            self._rooms.discard(room, "left")

    def members(self, name: str, ticket: Ticket) -> None:
        """Who is in a room, over all nodes."""
        if not self.is_ready:
            ticket.fail(NoReply("there is no link to ask on"))
            return
        ref = self._next_id()
        self._questions[ref] = ticket
        self._emit(control("room.members", id=ref, room=name))

    def _ask_to_join(self, room: Membership) -> None:
        room.asked = True
        state, since = room.wants_state, room.resumes_from
        fields: dict[str, object] = {"state": True} if state else {"since": str(since)} if since else {}

        def joined(data: object) -> None:
            if self._rooms.get(room.name) is room and not room.here:
                for item in self._rooms.enter(room.name, status_of(data), state_follows=state):
                    self._hand(item)

        def refused(error: RequestFailed) -> None:
            if self._rooms.get(room.name) is room and not room.here:
                self._not_joined(room, error)

        self.ask("room.join", joined, refused, room=room.name, data=fields or None)

    def ask_for_state(self, room: Membership) -> None:
        """Of a room that it is in and stays in. Until the state is there, nothing of the room counts as proven."""
        wanted_before, room.wants_state = room.wants_state, True

        def joined(_: object) -> None:
            current = self._rooms.get(room.name)
            if current is room:
                room.answered()
            elif current is None:  # taken out before the server read this, and so put in again
                self._emit(control("room.leave", room=room.name))

        def refused(error: RequestFailed) -> None:
            if self._rooms.get(room.name) is not room:
                return
            if not room.joins:
                self._hand(room.give_state_up())
            elif not wanted_before:
                room.stand_without_state()
            for ticket in room.joins:
                ticket.fail(error)
            room.joins.clear()

        self.ask("room.join", joined, refused, room=room.name, data={"state": True})

    def _ask_to_leave(self, room: Membership) -> None:
        room.leaving = True

        def left(_: object) -> None:
            self._rooms.discard(room, "left")

        def refused(error: RequestFailed) -> None:
            room.leaving = False
            for ticket in room.leaves:
                ticket.fail(error)
            room.leaves.clear()

        self.ask("room.leave", left, refused, room=room.name)

    # --- replies

    def ask(
        self,
        event: str,
        acknowledged: _Acknowledged,
        refused: _Refused,
        *,
        room: str | None = None,
        data: object = None,
    ) -> None:
        """Send a request of the protocol's own; its reply is taken on this link or never."""
        ref = self._next_id()
        self._replies[ref] = acknowledged, refused
        self._emit(control(event, id=ref, room=room, data=data))

    def acknowledged(self, id: str | None, data: object) -> None:
        """An ``ack`` came; one that nobody waits for is passed over."""
        if id is None or self._outbox.acknowledge(id, data):
            return
        if (reply := self._replies.pop(id, None)) is not None:
            reply[0](data)
        elif (ticket := self._questions.pop(id, None)) is not None:
            ticket.succeed(members_of(fields_of(data)))

    def refused(self, id: str, error: RequestFailed) -> None:
        """An ``error`` came that bears an id."""
        if self._outbox.refuse(id, error):
            return
        if (reply := self._replies.pop(id, None)) is not None:
            reply[1](error)
        elif (ticket := self._questions.pop(id, None)) is not None:
            ticket.fail(error)

    # --- the link

    def ready(self) -> None:
        """Rooms are resumed: those that were not are joined anew, those not wanted any more are left."""
        self.is_ready, self.resuming = True, False
        for room in self._rooms:
            if room.leaving and not room.here:
                self._rooms.discard(room, "left")
            elif room.leaving:
                self._ask_to_leave(room)
            elif not room.here:
                self._ask_to_join(room)

    def broke(self) -> None:
        """The link is gone."""
        self.is_ready = self.resuming = False
        self._rooms.broke()
        self._outbox.broke()
        self._replies.clear()
        self._fail_questions(lambda: NoReply("the link broke before the reply came"))

    def give_up(self, error: Callable[[], RoomwireError], why: str) -> None:
        """No reply will be read: who waits for one is told so.

        Args:
            error: makes the error of what can safely be asked again.
            why: for messages that were sent, whose outcome is unknown.
        """
        self._outbox.fail_all(error, why)
        self._fail_questions(error)
        for room in self._rooms:
            for ticket in (*room.joins, *room.leaves):
                ticket.fail(error())
            room.joins.clear()
            room.leaves.clear()

    def _fail_questions(self, error: Callable[[], RoomwireError]) -> None:
        for ticket in self._questions.values():
            ticket.fail(error())
        self._questions.clear()

    def _not_joined(self, room: Membership, error: RequestFailed) -> None:
        if room.position is not None or not room.joins:
            self._hand(Removed(room.name, error.code))
        for ticket in room.joins:
            ticket.fail(error)
        self._rooms.discard(room, error.code)

    def _next_id(self) -> str:
        # The scope of an id is this client's own, whose name is random: counting is enough.
        self._last_id += 1
        return str(self._last_id)
