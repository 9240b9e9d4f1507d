"""Reading is tolerant, writing is strict (docs/reference/protocol.md section 2)."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from roomwire.client.messages import Incoming, control, message, read
from roomwire.core.envelope import encode_binary, parse, parse_binary
from roomwire.core.errors import ProtocolViolation
from tests.client.driver import Driver


class Note(BaseModel):
    content: str


class TestReading:
    def test_every_field(self) -> None:
        text = '{"event":"x","room":"a","id":"e:1","data":{"n":[1]},"user":"ann"}'
        assert read(text) == Incoming("x", {"n": [1]}, "a", "e:1", "ann")

    def test_the_event_alone(self) -> None:
        assert read('{"event":"x"}') == Incoming("x")

    def test_fields_that_are_not_known_are_passed_over(self) -> None:
        assert read('{"event":"x","later":{"a":1},"data":1}') == Incoming("x", 1)

    def test_nulls_are_as_good_as_nothing(self) -> None:
        assert read('{"event":"x","room":null,"id":null,"user":null}') == Incoming("x")

    def test_a_binary_message(self) -> None:
        payload = encode_binary("image", b"\x00\xff", room="a", id="e:1", user="ann")
        assert read(payload) == Incoming("image", b"\x00\xff", "a", "e:1", "ann")

    def test_an_empty_binary_message(self) -> None:
        assert read(encode_binary("image", b"")) == Incoming("image", b"")

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "x",
            "[]",
            "1",
            "null",
            '"x"',
            "{}",
            '{"event":1}',
            '{"event":"x"',
            '{"event":"x"} 1',
            '{"event":"x","room":1}',
            '{"event":"x","room":""}',
            '{"event":"x","room":"a\\u0000"}',
            '{"event":"x","room":"\\ud800"}',
            '{"event":"x","id":1}',
            '{"event":"x","user":[]}',
            "[" * 100_000,
            '{"event":"x","data":' + "1" * 5000 + "}",
        ],
    )
    def test_what_is_no_envelope_is_refused(self, text: str) -> None:
        with pytest.raises(ProtocolViolation) as caught:
            read(text)
        assert caught.value.code == 1002

    @pytest.mark.parametrize(
        "payload",
        [
            b"",
            b"\x00\x00\x00",
            b"\x00\x00\x00\x00",
            b"\x00\x00\x00\x05{}",
            b"\xff\xff\xff\xff{}",
            b"\x00\x00\x10\x01" + b" " * 5000,
            b"\x00\x00\x00\x02\xff\xff",
            b"\x00\x00\x00\x02{}",
            b"\x00\x00\x00\x01[",
        ],
    )
    def test_a_bad_binary_message_is_refused(self, payload: bytes) -> None:
        with pytest.raises(ProtocolViolation):
            read(payload)

    @given(st.one_of(st.text(), st.binary()))
    def test_nothing_else_is_ever_raised(self, payload: str | bytes) -> None:
        with suppress(ProtocolViolation):
            assert isinstance(read(payload), Incoming)


class TestWriting:
    """What is written is read by the server's own parser."""

    @pytest.mark.parametrize("data", [None, 1, "x", [1, {"a": None}], {"\u00e9": "\u2028"}])
    def test_json(self, data: Any) -> None:
        text = message("note.add", data, id="7", room="caf\u00e9")
        assert isinstance(text, str)
        envelope = parse(text)
        assert (envelope.event, envelope.room, envelope.id, envelope.value) == ("note.add", "caf\u00e9", "7", data)

    def test_a_model(self) -> None:
        text = message("note.add", Note(content="hi"))
        assert isinstance(text, str)
        assert parse(text).value == {"content": "hi"}

    @pytest.mark.parametrize("data", [b"\x00", bytearray(b"\x00"), memoryview(b"\x00")])
    def test_bytes(self, data: object) -> None:
        payload = message("image", data, id="7", room="a")
        assert isinstance(payload, bytes)
        envelope = parse_binary(payload)
        assert (envelope.event, envelope.room, envelope.id, envelope.data) == ("image", "a", "7", b"\x00")

    def test_a_control_message(self) -> None:
        envelope = parse(control("room.join", id="1", room="a", data={"since": "e:1"}))
        assert (envelope.event, envelope.id, envelope.value) == ("room.join", "1", {"since": "e:1"})
        assert control("presence.heartbeat") == '{"event":"presence.heartbeat"}'


class TestBinaryEvents:
    def test_both_ways(self) -> None:
        driver = Driver()
        driver.open()
        driver.be_in("a")
        driver.session.receive(driver.now, encode_binary("image", b"\x01\x02", room="a", id="e:2", user="bob"))
        driver.session.receive(driver.now, encode_binary("image", b"\x01\x02", room="a", id="e:2", user="bob"))
        (event,) = driver.items()
        assert (event.name, event.data, event.room, event.id, event.user) == ("image", b"\x01\x02", "a", "e:2", "bob")
        driver.send(b"\x03", event="image", room="a")
        (payload,) = driver.session.take_outgoing()
        assert isinstance(payload, bytes)
        assert parse_binary(payload).data == b"\x03"


class TestWhatAServerMayNotSay:
    @pytest.mark.parametrize(
        "text",
        [
            '{"event":"x","room":"a","id":"17"}',
            '{"event":"room.state","room":"a"}',
            '{"event":"room.state","room":"a","id":"e:2","data":[]}',
            '{"event":"room.joined","data":{}}',
            '{"event":"room.joined","room":"b","data":{"position":5}}',
            '{"event":"room.joined","room":"b","data":{"position":"e:1","recovered":false,"reason":5}}',
            '{"event":"heartbeat","data":{"positions":{"a":5}}}',
            '{"event":"heartbeat","data":{"positions":{"":"e:1"}}}',
            '{"event":"error","data":{"code":5}}',
            '{"event":"session.closing","data":5}',
        ],
    )
    def test_it_ends_the_connection_with_1002(self, text: str) -> None:
        driver = Driver()
        driver.open()
        driver.be_in("a")
        driver.session.receive(driver.now, text)
        assert driver.session.farewell[0] == 1002
        driver.session.receive(driver.now, '{"event":"x"}')
        assert driver.items() == []

    @pytest.mark.parametrize(
        "message",
        [
            {"event": "session.later", "data": 5},
            {"event": "session.welcome", "data": {"rooms": {"b": {"position": "e:1"}}}},
            {"event": "room.later", "data": 5},
            {"event": "room.later", "room": "a", "data": 5},
            {"event": "heartbeat", "data": {"later": 5}},
            {"event": "session.closing", "data": {"code": "soon"}},
        ],
    )
    def test_what_it_may_say_later_is_passed_over(self, message: object) -> None:
        driver = Driver()
        driver.open()
        driver.be_in("a")
        driver.session.receive(driver.now, json.dumps(message))
        assert driver.items() == []
        assert driver.session.linked
