"""roomwire.v1: commands out of messages, and messages out of notices (docs/reference/protocol.md sections 2 to 6)."""

from __future__ import annotations

import json
import typing
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from roomwire.core import commands, notices
from roomwire.core.closing import CloseCode, Closing
from roomwire.core.commands import Call, Command, Heartbeat, Invalid, Join, Leave, ListMembers, ListRooms, Resume
from roomwire.core.envelope import encode_binary, parse_binary
from roomwire.core.events import RESERVED_EVENTS, RESERVED_PREFIXES, SUBPROTOCOL
from roomwire.core.identity import is_user
from roomwire.core.notices import Notice, Person, RoomStatus, Roster
from roomwire.core.positions import Position, is_room_name
from roomwire.core.publication import InvalidBody, Publication, read_body, write_body
from roomwire.protocols.contract import Codec, Liveness, Message, WireProtocol
from roomwire.protocols.native import NativeProtocol

PROTOCOL = NativeProtocol()
CODEC = PROTOCOL.new_codec()
P7, P9 = Position("E", 7), Position("F", 9)


def receive(message: Message) -> Command:
    (command,) = CODEC.receive(message)
    return command


def sent(notice: Notice) -> Any:
    """What the client sees, as Python values."""
    (message,) = CODEC.send(notice)
    assert isinstance(message, str)
    return json.loads(message)


def text(event: str, **fields: object) -> str:
    return json.dumps({"event": event, **fields})


class TestTheProtocol:
    def test_its_name_and_liveness(self) -> None:
        assert PROTOCOL.name == SUBPROTOCOL == "roomwire.v1"
        assert PROTOCOL.liveness == Liveness(beats=True, any_traffic=True)

    def test_it_keeps_the_contract(self) -> None:
        protocol: WireProtocol = PROTOCOL
        codec: Codec = protocol.new_codec()
        assert codec.receive('{"event":"e"}') == (Call("e", None, None, "null"),)


class TestApplicationMessages:
    def test_all_fields(self) -> None:
        assert receive('{"event":"e","room":"r","id":"i","data":[1]}') == Call("e", "r", "i", "[1]")

    def test_bytes(self) -> None:
        message = encode_binary("e", b"\xff", room="r", id="i")
        assert receive(message) == Call("e", "r", "i", b"\xff")

    @pytest.mark.parametrize("message", ["", "[]", '{"event":"e","x":1}', b"", b"\0\0\0\x01{"])
    def test_what_cannot_be_read(self, message: Message) -> None:
        command = receive(message)
        assert isinstance(command, Invalid)
        assert command.ref is None
        assert command.message

    def test_the_id_of_what_cannot_be_read(self) -> None:
        assert receive('{"event":"e","id":"i","data":NaN}') == Invalid("NaN is not JSON", "i")

    @given(st.text() | st.binary())
    def test_no_error_leaves_it(self, message: Message) -> None:
        assert isinstance(receive(message), Invalid | Call)


class TestJoin:
    def test_the_least(self) -> None:
        assert receive(text("room.join", room="r", id="i")) == Join("r", "i", None, False)

    @pytest.mark.parametrize("data", [None, {}, {"since": None}, {"state": False}])
    def test_nothing_in_data(self, data: object) -> None:
        assert receive(text("room.join", room="r", id="i", data=data)) == Join("r", "i", None, False)

    def test_all_of_it(self) -> None:
        assert receive(text("room.join", room="r", id="i", data={"since": "E:7", "state": True})) == Join(
            "r", "i", P7, True
        )

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (1, "room.join has the data since and state, and no other"),
            ([], "room.join has the data since and state, and no other"),
            ("E:7", "room.join has the data since and state, and no other"),
            ({"x": 1}, "room.join has the data since and state, and no other"),
            ({"state": 1}, "state is true or false"),
            ({"state": None}, "state is true or false"),
            ({"since": 7}, "a position is EPOCH:OFFSET"),
            ({"since": "E"}, "a position is EPOCH:OFFSET"),
            ({"since": "E:-1"}, "a position is EPOCH:OFFSET"),
        ],
    )
    def test_wrong_data(self, data: object, reason: str) -> None:
        command = receive(text("room.join", room="r", id="i", data=data))
        assert isinstance(command, Invalid)
        assert command.ref == "i"
        assert command.message.startswith(reason)

    def test_it_needs_an_id(self) -> None:
        assert receive(text("room.join", room="r")) == Invalid("room.join needs an id", None)

    def test_it_needs_a_room(self) -> None:
        assert receive(text("room.join", id="i")) == Invalid("room.join needs a room", "i")


class TestOtherCommands:
    @pytest.mark.parametrize(
        ("message", "command"),
        [
            (text("room.leave", room="r", id="i"), Leave("r", "i")),
            (text("room.leave", room="r"), Leave("r", None)),
            (text("room.leave", room="r", data={}), Leave("r", None)),
            (text("room.members", room="r", id="i"), ListMembers("r", "i")),
            (text("session.rooms", id="i", data=None), ListRooms("i")),
            (
                text("session.resume", id="i", data={"rooms": {"a": "E:7", "ü,@": "F:9"}}),
                Resume({"a": P7, "ü,@": P9}, "i"),
            ),
            (text("session.resume", id="i", data={"rooms": {}}), Resume({}, "i")),
            (text("session.resume", id="i"), Resume({}, "i")),
            (text("presence.heartbeat"), Heartbeat(None)),
            (text("presence.heartbeat", id="i"), Heartbeat("i")),
        ],
    )
    def test_a_command(self, message: str, command: Command) -> None:
        assert receive(message) == command

    @pytest.mark.parametrize(
        ("message", "command"),
        [
            (text("room.leave", id="i"), Invalid("room.leave needs a room", "i")),
            (text("room.leave", room="r", data={"x": 1}), Invalid("room.leave has no data", None)),
            (text("room.leave", room="r", data=0), Invalid("room.leave has no data", None)),
            (text("room.members", id="i"), Invalid("room.members needs a room", "i")),
            (text("room.members", room="r"), Invalid("room.members needs an id", None)),
            (text("room.members", room="r", id="i", data=[]), Invalid("room.members has no data", "i")),
            (text("session.rooms"), Invalid("session.rooms needs an id", None)),
            (text("session.rooms", id="i", data={"x": 1}), Invalid("session.rooms has no data", "i")),
            (text("session.resume"), Invalid("session.resume needs an id", None)),
            (
                text("session.resume", id="i", data={"rooms": {}, "x": 1}),
                Invalid("session.resume has the data rooms, and no other", "i"),
            ),
            (
                text("session.resume", id="i", data={"rooms": ["r"]}),
                Invalid("rooms is an object of EVENT_ID by ROOM", "i"),
            ),
            (
                text("session.resume", id="i", data={"rooms": {"": "E:7"}}),
                Invalid("rooms is an object of EVENT_ID by ROOM", "i"),
            ),
            (
                text("session.resume", id="i", data={"rooms": {"r": 7}}),
                Invalid("a position is EPOCH:OFFSET, 1 to 24 letters or digits and 1 to 16 digits", "i"),
            ),
        ],
    )
    def test_a_wrong_one(self, message: str, command: Invalid) -> None:
        assert receive(message) == command


RESERVED = [*sorted(RESERVED_EVENTS), *(prefix + "x" for prefix in RESERVED_PREFIXES), "session.welcome", "room.state"]


class TestReservedNames:
    @pytest.mark.parametrize("event", RESERVED)
    def test_a_client_does_not_send_them(self, event: str) -> None:
        assert receive(text(event, id="i")) == Invalid(f"{event} is a reserved name that clients do not send", "i")

    @pytest.mark.parametrize("event", [*RESERVED, "room.join", "presence.heartbeat"])
    def test_none_of_them_is_sent_in_a_binary_frame(self, event: str) -> None:
        message = encode_binary(event, b"", room="r", id="i")
        assert receive(message) == Invalid("reserved events are text only", "i")

    @pytest.mark.parametrize("event", ["room", "rooms.join", "acks", "Error", "session", "heartbeat.x"])
    def test_names_that_only_look_like_them(self, event: str) -> None:
        assert receive(text(event)) == Call(event, None, None, "null")


TOLD: list[tuple[Notice, dict[str, object]]] = [
    (notices.Sent("e", None, b'{"a":1}'), {"event": "e", "data": {"a": 1}}),
    (notices.Sent("e", "r", b"null"), {"event": "e", "room": "r", "data": None}),
    (notices.Reply("i"), {"event": "ack", "id": "i", "data": None}),
    (notices.Reply('"', b'{"a":1}'), {"event": "ack", "id": '"', "data": {"a": 1}}),
    (
        notices.JoinReply("i", RoomStatus(P7, False, "epoch")),
        {"event": "ack", "id": "i", "data": {"position": "E:7", "recovered": False, "reason": "epoch"}},
    ),
    (
        notices.ResumeReply("i", {"r": RoomStatus(P7, True)}),
        {"event": "ack", "id": "i", "data": {"rooms": {"r": {"position": "E:7", "recovered": True}}}},
    ),
    (notices.MembersReply("i", []), {"event": "ack", "id": "i", "data": {"members": []}}),
    (
        notices.MembersReply("i", [Person("ann"), Person('b"', b'{"name":"Bob"}')]),
        {
            "event": "ack",
            "id": "i",
            "data": {"members": [{"user": "ann", "info": None}, {"user": 'b"', "info": {"name": "Bob"}}]},
        },
    ),
    (
        notices.RoomsReply("i", {"r": P7, "ü": P9}),
        {"event": "ack", "id": "i", "data": {"rooms": {"r": {"position": "E:7"}, "ü": {"position": "F:9"}}}},
    ),
    (
        notices.Failed("i", "invalid", "a text"),
        {"event": "error", "id": "i", "data": {"code": "invalid", "message": "a text"}},
    ),
    (
        notices.Failed(None, "own", "", [1]),
        {"event": "error", "data": {"code": "own", "message": "", "details": [1]}},
    ),
    (
        notices.RoomState("r", P7, "too_old"),
        {"event": "room.state", "room": "r", "id": "E:7", "data": {"reason": "too_old", "state": None}},
    ),
    (
        notices.RoomState("r", P7, "requested", b'{"a":[1]}'),
        {"event": "room.state", "room": "r", "id": "E:7", "data": {"reason": "requested", "state": {"a": [1]}}},
    ),
    (
        notices.JoinedRoom("r", RoomStatus(P7)),
        {"event": "room.joined", "room": "r", "data": {"position": "E:7", "recovered": None}},
    ),
    (
        notices.RemovedFromRoom("r", "kicked"),
        {"event": "room.removed", "room": "r", "data": {"reason": "kicked"}},
    ),
    (
        notices.MembersState("r", [Person("ann")]),
        {"event": "presence.state", "room": "r", "data": {"members": [{"user": "ann", "info": None}]}},
    ),
    (
        notices.MemberJoined("r", Person("ann", b"1")),
        {"event": "presence.join", "room": "r", "data": {"user": "ann", "info": 1}},
    ),
    (
        notices.MemberLeft("r", Person("ann", b"1")),
        {"event": "presence.leave", "room": "r", "data": {"user": "ann", "info": 1}},
    ),
    (notices.Beat(), {"event": "heartbeat", "data": {}}),
    (notices.Beat({"r": P7}), {"event": "heartbeat", "data": {"positions": {"r": "E:7"}}}),
    (
        notices.ClosingSoon(Closing.of(CloseCode.RESTART, 2.5)),
        {
            "event": "session.closing",
            "data": {"code": 1012, "reason": "restart", "reconnect": True, "retry_after": 2.5},
        },
    ),
    (
        notices.ClosingSoon(Closing(4600, "bye"), {"r": P7}),
        {
            "event": "session.closing",
            "data": {
                "code": 4600,
                "reason": "bye",
                "reconnect": False,
                "retry_after": 0,
                "positions": {"r": "E:7"},
            },
        },
    ),
]


class TestNotices:
    def test_the_welcome(self) -> None:
        notice = notices.Welcome(
            session="s",
            client="c",
            user="ü",
            heartbeat_interval=30.0,
            heartbeat_timeout=90.0,
            max_message_size=65_536,
            max_event_size=131_072,
            idempotency_window=300.0,
            rooms={
                "new": RoomStatus(P7),
                "proven": RoomStatus(P7, True),
                'not "proven"': RoomStatus(P7, False, "too_old"),
                "refused": RoomStatus(None, False, "forbidden"),
            },
        )
        assert sent(notice) == {
            "event": "session.welcome",
            "data": {
                "session": "s",
                "client": "c",
                "user": "ü",
                "heartbeat": {"interval": 30, "timeout": 90},
                "limits": {"max_message_size": 65_536, "max_event_size": 131_072, "idempotency_window": 300},
                "rooms": {
                    "new": {"position": "E:7", "recovered": None},
                    "proven": {"position": "E:7", "recovered": True},
                    'not "proven"': {"position": "E:7", "recovered": False, "reason": "too_old"},
                    "refused": {"recovered": False, "reason": "forbidden"},
                },
            },
        }

    @pytest.mark.parametrize(("notice", "message"), TOLD, ids=[type(notice).__name__ for notice, _ in TOLD])
    def test_a_notice(self, notice: Notice, message: object) -> None:
        assert sent(notice) == message

    def test_bytes_to_one_client(self) -> None:
        assert CODEC.send(notices.Sent("e", "r", b"\0\xff", binary=True)) == (encode_binary("e", b"\0\xff", room="r"),)

    def test_a_roster_is_written_once(self) -> None:
        roster = Roster([Person("ann"), Person("bob", b'{"name":"Bob"}')])
        reply, state = notices.MembersReply("i", roster), notices.MembersState("r", roster)
        members = [{"user": "ann", "info": None}, {"user": "bob", "info": {"name": "Bob"}}]
        assert sent(reply)["data"] == {"members": members}
        roster[0].user = "whoever"
        assert sent(state)["data"] == sent(reply)["data"] == {"members": members}

    def test_every_notice_has_a_message(self) -> None:
        assert {type(notice) for notice, _ in TOLD} | {notices.Welcome} == set(typing.get_args(Notice))

    def test_every_command_can_come(self) -> None:
        assert {commands.Call, Join, Leave, ListMembers, ListRooms, Resume, Heartbeat, Invalid} == set(
            typing.get_args(Command)
        )


class TestPublications:
    def test_an_event(self) -> None:
        publication = Publication("r", "e", b'{"a":1}', user="ann", exclude="c", position=P7)
        message = PROTOCOL.broadcast(publication)
        assert message == '{"event":"e","room":"r","id":"E:7","user":"ann","data":{"a":1}}'

    def test_an_ephemeral_one_without_a_user(self) -> None:
        assert PROTOCOL.broadcast(Publication("r", "e", b"1")) == '{"event":"e","room":"r","data":1}'

    def test_bytes(self) -> None:
        message = PROTOCOL.broadcast(Publication("r", "e", b"\xff\x00", binary=True, user="ann", position=P7))
        header = b'{"event":"e","room":"r","id":"E:7","user":"ann"}'
        assert message == len(header).to_bytes(4, "big") + header + b"\xff\x00"

    def test_bytes_without_a_user_read_back(self) -> None:
        message = PROTOCOL.broadcast(Publication("r", "e", b"\xff", binary=True, position=P7))
        assert isinstance(message, bytes)
        envelope = parse_binary(message)
        assert (envelope.event, envelope.room, envelope.id, envelope.data) == ("e", "r", "E:7", b"\xff")

    @given(
        st.text().filter(is_room_name),
        st.none() | st.text(min_size=200).filter(is_user),
        st.binary(max_size=8),
        st.booleans(),
    )
    @example("\U0001f600" * 32, "\U0001f600" * 255, b"", True)
    @example('"' * 128, "\\" * 255, b"", True)
    def test_whatever_was_read_from_a_backplane_can_be_written(
        self, room: str, user: str | None, data: bytes, binary: bool
    ) -> None:
        position = Position("E" * 24, 10**16 - 1)
        payload = data if binary else json.dumps(data.hex()).encode()
        body = write_body("e" * 128, payload, binary=binary, user=user)
        message = PROTOCOL.broadcast(read_body(room, body, position))
        header = message[4 : 4 + int.from_bytes(message[:4], "big")] if isinstance(message, bytes) else message
        fields = json.loads(header)
        assert (fields["room"], fields.get("user"), fields["id"]) == (room, user, str(position))

    @given(st.data())
    def test_a_body_that_was_tampered_with_never_fails_the_fan_out(self, data: st.DataObject) -> None:
        body = bytearray(write_body("message.new", b'{"a":"b"}', user="ann", binary=data.draw(st.booleans())))
        for _ in range(data.draw(st.integers(1, 3))):
            body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
        try:
            publication = read_body("r", bytes(body), P7)
        except InvalidBody:
            return
        assert PROTOCOL.broadcast(publication)
