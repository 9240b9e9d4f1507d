"""roomwire.v1, the native wire protocol (docs/reference/protocol.md).

The codec keeps no state, so one object serves all sessions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from roomwire.core import notices
from roomwire.core.commands import Call, Command, Heartbeat, Invalid, Join, Leave, ListMembers, ListRooms, Resume
from roomwire.core.envelope import Envelope, dump, encode, encode_binary, parse, parse_binary, quote, read_common
from roomwire.core.errors import InvalidCursor, InvalidMessage
from roomwire.core.events import SUBPROTOCOL, is_reserved
from roomwire.core.notices import Notice, RoomStatus
from roomwire.core.positions import Position, is_room_name
from roomwire.core.publication import Publication
from roomwire.protocols.contract import Codec, Liveness, Message

__all__ = ["NativeProtocol"]


class NativeProtocol:
    """The protocol and, since it keeps nothing for a session, its codec too."""

    name = SUBPROTOCOL
    liveness = Liveness()

    def new_codec(self) -> Codec:
        """The codec; one serves all sessions."""
        return self

    def receive(self, message: Message) -> Sequence[Command]:
        """See `roomwire.protocols.contract.Codec.receive`."""
        try:
            if isinstance(message, str):
                common = read_common(message)
                # What nearly every message is: an application's, written by one of our own clients.
                if common is not None and not is_reserved(common[0]):
                    return (Call(*common[:4]),)
                envelope = parse(message) if common is None else Envelope(*common)
            else:
                envelope = parse_binary(message)
            if is_reserved(envelope.event):
                return (_reserved(envelope),)
        except InvalidMessage as error:
            return (Invalid(error.message, error.id),)
        return (Call(envelope.event, envelope.room, envelope.id, envelope.data),)

    def send(self, notice: Notice) -> Sequence[Message]:
        """See `roomwire.protocols.contract.Codec.send`."""
        if type(notice) is notices.Sent and notice.binary:
            return (encode_binary(notice.event, notice.data, room=notice.room),)
        return (_WRITERS[type(notice)](notice).decode(),)

    def broadcast(self, publication: Publication) -> Message:
        """See `roomwire.protocols.contract.WireProtocol.broadcast`."""
        p = publication
        if p.binary:
            return encode_binary(p.event, p.data, room=p.room, id=p.id, user=p.user)
        return encode(p.event, room=p.room, id=p.id, user=p.user, data=p.data).decode()


# --- reading -----------------------------------------------------------------------------------


def _reserved(envelope: Envelope) -> Command:
    reader = _READERS.get(envelope.event)
    if envelope.binary:
        raise InvalidMessage("reserved events are text only", envelope.id)
    if reader is None:
        raise InvalidMessage(f"{envelope.event} is a reserved name that clients do not send", envelope.id)
    return reader(envelope)


def _ref(envelope: Envelope) -> str:
    if envelope.id is None:
        raise InvalidMessage(f"{envelope.event} needs an id")
    return envelope.id


def _room(envelope: Envelope) -> str:
    if envelope.room is None:
        raise InvalidMessage(f"{envelope.event} needs a room", envelope.id)
    return envelope.room


def _fields(envelope: Envelope, *known: str) -> Mapping[str, object]:
    value = envelope.value
    if value is None:
        return {}
    if not isinstance(value, dict) or not value.keys() <= set(known):
        expected = f"has the data {' and '.join(known)}, and no other" if known else "has no data"
        raise InvalidMessage(f"{envelope.event} {expected}", envelope.id)
    return value


def _position(envelope: Envelope, value: object) -> Position:
    try:
        return Position.parse(value if isinstance(value, str) else "")
    except InvalidCursor as error:
        raise InvalidMessage(str(error), envelope.id) from None


def _read_join(envelope: Envelope) -> Command:
    fields = _fields(envelope, "since", "state")
    state = fields.get("state", False)
    if not isinstance(state, bool):
        raise InvalidMessage("state is true or false", envelope.id)
    since = None if fields.get("since") is None else _position(envelope, fields["since"])
    return Join(_room(envelope), _ref(envelope), since, state)


def _read_leave(envelope: Envelope) -> Command:
    _fields(envelope)
    return Leave(_room(envelope), envelope.id)


def _read_members(envelope: Envelope) -> Command:
    _fields(envelope)
    return ListMembers(_room(envelope), _ref(envelope))


def _read_rooms(envelope: Envelope) -> Command:
    _fields(envelope)
    return ListRooms(_ref(envelope))


def _read_resume(envelope: Envelope) -> Command:
    rooms = _fields(envelope, "rooms").get("rooms", {})
    if not isinstance(rooms, dict) or not all(map(is_room_name, rooms)):
        raise InvalidMessage("rooms is an object of EVENT_ID by ROOM", envelope.id)
    return Resume({room: _position(envelope, value) for room, value in rooms.items()}, _ref(envelope))


def _read_heartbeat(envelope: Envelope) -> Command:
    return Heartbeat(envelope.id)


_READERS: dict[str, Callable[[Envelope], Command]] = {
    "room.join": _read_join,
    "room.leave": _read_leave,
    "room.members": _read_members,
    "session.rooms": _read_rooms,
    "session.resume": _read_resume,
    "presence.heartbeat": _read_heartbeat,
}


# --- writing -----------------------------------------------------------------------------------


def _status(status: RoomStatus) -> dict[str, object]:
    """A room's outcome as in the welcome and in the reply to a join."""
    fields: dict[str, object] = {} if status.position is None else {"position": str(status.position)}
    fields["recovered"] = status.recovered
    if status.reason is not None:
        fields["reason"] = status.reason
    return fields


def _statuses(rooms: Mapping[str, RoomStatus]) -> dict[str, object]:
    return {room: _status(status) for room, status in rooms.items()}


def _positions(positions: Mapping[str, Position]) -> dict[str, object]:
    return {"positions": {room: str(position) for room, position in positions.items()}} if positions else {}


def _person(person: notices.Person) -> bytes:
    return b'{"user":' + quote(person.user) + b',"info":' + person.info + b"}"


def _members(members: Sequence[notices.Person]) -> bytes:
    if not isinstance(members, notices.Roster):
        return b'{"members":[' + b",".join(map(_person, members)) + b"]}"
    encoded = members.encoded.get(SUBPROTOCOL)
    if encoded is None:
        encoded = members.encoded[SUBPROTOCOL] = _members(list(members))
    return encoded


def _write_welcome(n: notices.Welcome) -> bytes:
    data = {
        "session": n.session,
        "client": n.client,
        "user": n.user,
        "heartbeat": {"interval": n.heartbeat_interval, "timeout": n.heartbeat_timeout},
        "limits": {
            "max_message_size": n.max_message_size,
            "max_event_size": n.max_event_size,
            "idempotency_window": n.idempotency_window,
        },
        "rooms": _statuses(n.rooms),
    }
    return encode("session.welcome", data=dump(data))


def _write_sent(n: notices.Sent) -> bytes:
    return encode(n.event, room=n.room, data=n.data)


def _write_reply(n: notices.Reply) -> bytes:
    return b'{"event":"ack","id":' + quote(n.ref) + b',"data":' + n.data + b"}"


def _write_join_reply(n: notices.JoinReply) -> bytes:
    return encode("ack", id=n.ref, data=dump(_status(n.status)))


def _write_resume_reply(n: notices.ResumeReply) -> bytes:
    return encode("ack", id=n.ref, data=dump({"rooms": _statuses(n.rooms)}))


def _write_members_reply(n: notices.MembersReply) -> bytes:
    return encode("ack", id=n.ref, data=_members(n.members))


def _write_rooms_reply(n: notices.RoomsReply) -> bytes:
    rooms = {room: {"position": str(position)} if position else {} for room, position in n.positions.items()}
    return encode("ack", id=n.ref, data=dump({"rooms": rooms}))


def _write_failed(n: notices.Failed) -> bytes:
    data: dict[str, object] = {"code": n.code, "message": n.message}
    if n.details is not None:
        data["details"] = n.details
    return encode("error", id=n.ref, data=dump(data))


def _write_state(n: notices.RoomState) -> bytes:
    data = b'{"reason":' + quote(n.reason) + b',"state":' + n.state + b"}"
    return encode("room.state", room=n.room, id=str(n.position), data=data)


def _write_joined(n: notices.JoinedRoom) -> bytes:
    return encode("room.joined", room=n.room, data=dump(_status(n.status)))


def _write_removed(n: notices.RemovedFromRoom) -> bytes:
    return encode("room.removed", room=n.room, data=dump({"reason": n.reason}))


def _write_members(n: notices.MembersState) -> bytes:
    return encode("presence.state", room=n.room, data=_members(n.members))


def _write_member_joined(n: notices.MemberJoined) -> bytes:
    return encode("presence.join", room=n.room, data=_person(n.person))


def _write_member_left(n: notices.MemberLeft) -> bytes:
    return encode("presence.leave", room=n.room, data=_person(n.person))


def _write_beat(n: notices.Beat) -> bytes:
    return encode("heartbeat", data=dump(_positions(n.positions)))


def _write_closing(n: notices.ClosingSoon) -> bytes:
    data: dict[str, object] = {
        "code": n.closing.code,
        "reason": n.closing.reason,
        "reconnect": n.closing.reconnect,
        "retry_after": n.closing.retry_after,
    }
    return encode("session.closing", data=dump(data | _positions(n.positions)))


_WRITERS: dict[type[Notice], Callable[..., bytes]] = {
    notices.Welcome: _write_welcome,
    notices.Sent: _write_sent,
    notices.Reply: _write_reply,
    notices.JoinReply: _write_join_reply,
    notices.ResumeReply: _write_resume_reply,
    notices.MembersReply: _write_members_reply,
    notices.RoomsReply: _write_rooms_reply,
    notices.Failed: _write_failed,
    notices.RoomState: _write_state,
    notices.JoinedRoom: _write_joined,
    notices.RemovedFromRoom: _write_removed,
    notices.MembersState: _write_members,
    notices.MemberJoined: _write_member_joined,
    notices.MemberLeft: _write_member_left,
    notices.Beat: _write_beat,
    notices.ClosingSoon: _write_closing,
}
