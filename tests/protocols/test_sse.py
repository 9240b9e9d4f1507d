"""Server-sent events: what each notice is in a stream, and after which of them a client resumes where."""

from __future__ import annotations

import json
import typing
from base64 import b64encode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roomwire.core import notices
from roomwire.core.closing import CloseCode, Closing, is_sendable
from roomwire.core.notices import Notice, Person, RoomStatus
from roomwire.core.positions import Position
from roomwire.core.publication import Publication
from roomwire.protocols.contract import Codec, WireProtocol
from roomwire.protocols.native import NativeProtocol
from roomwire.protocols.sse import LEAST_RETRY, STAY_AWAY, SseProtocol
from tests.core.streams import Event, Reader, read_all

PROTOCOL = SseProtocol()
CODEC = PROTOCOL.new_codec()
P7 = Position("E", 7)


def sent(notice: Notice) -> Event:
    (message,) = CODEC.send(notice)
    assert isinstance(message, str)
    (event,) = read_all(message)
    return event


def welcome(status: RoomStatus, retry_after: float = 0.0) -> notices.Welcome:
    return notices.Welcome("s", "c", "u", 30.0, 90.0, 1, 2, 3.0, {"r": status}, retry_after)


def retry_of(notice: Notice) -> int | None:
    (message,) = CODEC.send(notice)
    assert isinstance(message, str)
    reader = Reader()
    reader.feed(message)
    return reader.retry


class TestTheProtocol:
    def test_it_keeps_the_contract_and_hears_nothing(self) -> None:
        protocol: WireProtocol = PROTOCOL
        codec: Codec = protocol.new_codec()
        assert not protocol.liveness.hears and protocol.liveness.beats
        assert codec.receive('{"event":"e"}') == ()


TOLD: list[tuple[Notice, str, str]] = [
    (welcome(RoomStatus(P7)), "session.welcome", "E:7"),
    (welcome(RoomStatus(P7, True)), "session.welcome", ""),
    (notices.Sent("e", None, b"1"), "e", ""),
    (notices.Sent("e", "r", b"1"), "e", ""),
    (notices.RoomState("r", P7, "epoch", b'{"a":1}'), "room.state", "E:7"),
    (notices.RemovedFromRoom("r", "why"), "room.removed", ""),
    (notices.MembersState("r", [Person("ann")]), "presence.state", ""),
    (notices.MemberJoined("r", Person("ann")), "presence.join", ""),
    (notices.MemberLeft("r", Person("ann")), "presence.leave", ""),
    (notices.Beat({"r": P7}), "heartbeat", "E:7"),
    (notices.ClosingSoon(Closing.of(CloseCode.REMOVED)), "session.closing", ""),
    (notices.ClosingSoon(Closing.of(CloseCode.RESTART), {"r": P7}), "session.closing", "E:7"),
]
ANSWERS = {notices.Reply, notices.JoinReply, notices.ResumeReply, notices.MembersReply, notices.RoomsReply}
NEVER = ANSWERS | {notices.Failed, notices.JoinedRoom}
"""What answers a command, or puts into a second room."""


class TestNotices:
    @pytest.mark.parametrize(("notice", "event", "id"), TOLD, ids=[type(notice).__name__ for notice, *_ in TOLD])
    def test_a_notice_is_the_native_message_under_its_name(self, notice: Notice, event: str, id: str) -> None:
        (native,) = NativeProtocol().send(notice)
        assert isinstance(native, str)
        assert sent(notice) == Event(event, native, id)
        assert json.loads(native)["event"] == event

    def test_every_notice_is_told_or_has_nobody_to_go_to(self) -> None:
        assert {type(notice) for notice, *_ in TOLD} | NEVER == set(typing.get_args(Notice))
        assert CODEC.send(notices.Reply("i")) == CODEC.send(notices.Failed("i", "invalid", "")) == ()

    def test_bytes_are_base64_and_say_so(self) -> None:
        event = sent(notices.Sent("e", "r", b"\0\n\xff", binary=True))
        data = b64encode(b"\0\n\xff").decode()
        assert json.loads(event.data) == {"event": "e", "room": "r", "data": data, "encoding": "base64"}

    def test_a_sign_of_life_is_a_comment(self) -> None:
        (message,) = CODEC.send(notices.Beat())
        assert isinstance(message, str)
        reader = Reader()
        assert reader.feed(message) == []
        assert (reader.comments, reader.last_event_id) == (1, "")


class TestPositions:
    @pytest.mark.parametrize("recovered", [None, False])
    def test_nobody_resumes_behind_a_state_that_has_not_come(self, recovered: bool | None) -> None:
        """One who is cut off before the state would never get it."""
        assert sent(welcome(RoomStatus(P7, recovered, awaits_state=True))).id == ""

    def test_nor_behind_a_replay(self) -> None:
        """The position is that of its last event, and one who is cut off before them would never get them."""
        assert sent(welcome(RoomStatus(P7, True))).id == ""

    def test_nor_from_nowhere(self) -> None:
        assert sent(welcome(RoomStatus(None, False, "unavailable"))).id == ""

    def test_an_event(self) -> None:
        message = PROTOCOL.broadcast(Publication("r", "e", b'{"a":1}', user="ann", exclude="c", position=P7))
        assert message == (
            'id: E:7\nevent: e\ndata: {"event":"e","room":"r","id":"E:7","user":"ann","data":{"a":1}}\n\n'
        )

    def test_an_ephemeral_one_leaves_the_position(self) -> None:
        message = PROTOCOL.broadcast(Publication("r", "e", b"[]"))
        assert message == 'event: e\ndata: {"event":"e","room":"r","data":[]}\n\n'

    @given(st.binary(max_size=100))
    def test_a_binary_one(self, data: bytes) -> None:
        message = PROTOCOL.broadcast(Publication("r", "e", data, binary=True, position=P7))
        assert isinstance(message, str)
        (event,) = read_all(message)
        fields: dict[str, Any] = json.loads(event.data)
        assert (event.id, fields.pop("data")) == ("E:7", b64encode(data).decode())
        assert fields == {"event": "e", "room": "r", "id": "E:7", "encoding": "base64"}

    def test_a_payload_of_several_lines_is_one_event(self) -> None:
        message = PROTOCOL.broadcast(Publication("r", "e", b'{"a":1,\n\nevent: forged\ndata: 1\n\n"b":2}', position=P7))
        assert isinstance(message, str)
        (event,) = read_all(message)
        assert event.event == "e"


class TestComingBack:
    def test_the_welcome_says_when(self) -> None:
        assert retry_of(welcome(RoomStatus(P7))) == LEAST_RETRY * 1000
        assert retry_of(welcome(RoomStatus(P7), 2.5)) == LEAST_RETRY * 1000 + 2500

    @pytest.mark.parametrize("code", [code for code in CloseCode if is_sendable(code)])
    def test_a_final_close_keeps_away_and_a_passing_one_does_not(self, code: CloseCode) -> None:
        closing = Closing.of(code)
        assert retry_of(notices.ClosingSoon(closing)) == (None if closing.reconnect else STAY_AWAY * 1000)

    def test_a_restart_has_a_moment_for_each(self) -> None:
        assert retry_of(notices.ClosingSoon(Closing.of(CloseCode.RESTART, 2.5))) == LEAST_RETRY * 1000 + 2500
