"""Event streams: the request for one, and the format of the HTML Standard, section 9.2."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roomwire.core.errors import HandshakeRefused, Refusal
from roomwire.core.eventstream import ALIVE, MAX_HEARD, StreamRequest, read_stream_request, write_event, write_retry
from roomwire.core.limits import Limits
from roomwire.core.positions import Position
from roomwire.core.request import RequestHead
from roomwire.core.session import Session
from tests.core.streams import Event, Reader, read_all

P7 = Position("E", 7)


def ask(query: str, *ids: bytes) -> StreamRequest:
    return read_stream_request(RequestHead("GET", "/sse", query, [(b"last-event-id", value) for value in ids]))


def refusal_of(query: str, *ids: bytes) -> Refusal:
    with pytest.raises(HandshakeRefused) as caught:
        ask(query, *ids)
    assert (caught.value.refusal.status, caught.value.refusal.error) == (400, "bad_request")
    return caught.value.refusal


class TestTheRequest:
    def test_a_room_alone(self) -> None:
        assert ask("room=chat%3Ag%C3%A9n") == StreamRequest("chat:gén", None, False)

    def test_a_position_in_the_query(self) -> None:
        assert ask("room=r&last_event_id=E:7") == StreamRequest("r", P7, False)

    def test_the_header_decides_since_it_is_newer_than_the_url(self) -> None:
        assert ask("room=r&last_event_id=E:3", b"E:7") == StreamRequest("r", P7, False)
        assert ask("room=r&last_event_id=nonsense", b"E:7") == StreamRequest("r", P7, False)

    def test_an_empty_position_is_none(self) -> None:
        assert ask("room=r&last_event_id=", b"") == StreamRequest("r", None, False)
        assert ask("room=r&last_event_id=E:7", b"") == StreamRequest("r", P7, False)

    def test_a_state(self) -> None:
        assert ask("room=r&state=1") == StreamRequest("r", None, True)
        assert ask("room=r&state=0") == StreamRequest("r", None, False)

    @pytest.mark.parametrize("query", ["", "room=", "room=a&room=a", "room=%00", "room=" + "x" * 129])
    def test_no_room_or_a_bad_one(self, query: str) -> None:
        assert "room" in refusal_of(query).detail

    @pytest.mark.parametrize("value", ["E7", "r@E:7", "later", "E:x", "E:7,E:8", "ü:7"])
    def test_a_bad_position(self, value: str) -> None:
        assert "Last-Event-ID" in refusal_of("room=r", value.encode()).detail
        assert "last_event_id" in refusal_of(f"room=r&last_event_id={value}").detail

    def test_a_position_that_stands_there_twice(self) -> None:
        assert "twice" in refusal_of("room=r", b"E:7", b"E:7").detail
        assert "twice" in refusal_of("room=r&last_event_id=E:7&last_event_id=E:7").detail


class TestTheFormat:
    def test_an_event(self) -> None:
        assert write_event("e", '{"a":1}') == 'event: e\ndata: {"a":1}\n\n'

    def test_with_an_id_and_a_time_to_come_back(self) -> None:
        assert write_event("e", "1", id="E:7", retry=1.25) == "retry: 1250\nid: E:7\nevent: e\ndata: 1\n\n"

    def test_a_time_alone_and_a_sign_of_life_are_no_events(self) -> None:
        reader = Reader()
        assert reader.feed(ALIVE + write_retry(2.0) + ALIVE) == []
        assert (reader.retry, reader.last_event_id) == (2000, "")

    def test_an_id_without_data_is_kept_and_is_no_event(self) -> None:
        """The standard's own words, section 9.2.6: the id is set before it is looked whether there is data."""
        reader = Reader()
        assert reader.feed("id: E:7\n\n") == []
        assert reader.last_event_id == "E:7"

    def test_lines_in_json_become_blanks(self) -> None:
        (event,) = read_all(write_event("e", '{\r\n"a":\r1,\n"b": "\\n"}'))
        assert json.loads(event.data) == {"a": 1, "b": "\n"}

    @pytest.mark.parametrize("end", ["\u0085", "\u2028", "\u2029"])
    def test_what_ends_a_line_elsewhere_becomes_an_escape(self, end: str) -> None:
        text = write_event("e", json.dumps(f"a{end}b", ensure_ascii=False))
        assert text == f'event: e\ndata: "a\\u{ord(end):04x}b"\n\n'
        (event,) = read_all(text)
        assert json.loads(event.data) == f"a{end}b"

    @given(
        st.recursive(st.text() | st.text(alphabet="a\r\n\x0b\x1c\u0085\u2028\u2029ü"), st.lists, max_leaves=5),
        st.data(),
    )
    def test_a_line_is_one_for_every_reader(self, value: object, data: Any) -> None:
        """Also for those that split as `str.splitlines` does, such as httpx."""
        text = json.dumps(value, indent=data.draw(st.sampled_from([None, 0])), ensure_ascii=data.draw(st.booleans()))
        written = write_event("e", text.encode("utf-8", "replace").decode(), id="E:7", retry=1.0)
        assert written.splitlines() == written.split("\n")[:-1]
        (event,) = read_all(written)
        assert json.loads(event.data) == json.loads(text.encode("utf-8", "replace").decode())

    @given(st.recursive(st.none() | st.text() | st.floats(allow_nan=False), st.lists, max_leaves=5), st.data())
    def test_any_json_however_written_is_one_event(self, value: object, data: Any) -> None:
        text = json.dumps(value, indent=data.draw(st.sampled_from([None, 0, 2])), ensure_ascii=data.draw(st.booleans()))
        (event,) = read_all(write_event("e", text.encode("utf-8", "replace").decode(), id="E:7"))
        assert (event.event, event.id) == ("e", "E:7")
        json.loads(event.data)

    @given(st.text(alphabet=st.sampled_from('\r\n:ed at"{}x\0\u2028\ufeff')))
    def test_data_that_is_no_json_makes_no_second_event(self, data: str) -> None:
        """A body from the backplane is its writer's word; whatever it is, it forges neither events nor ids."""
        reader = Reader()
        events = reader.feed(write_event("e", data, id="E:7") + write_event("last", "1"))
        assert [event.event for event in events] == ["e", "last"][2 - len(events) :]
        assert reader.last_event_id == "E:7"

    @given(st.lists(st.integers(1, 40), max_size=30))
    def test_cut_anywhere(self, cuts: list[int]) -> None:
        text = ALIVE + write_event("e", '{"a":"ü"}', id="E:7", retry=1) + write_event("f", "2")
        reader, events, start = Reader(), [], 0
        for size in [*cuts, len(text)]:
            events += reader.feed(text[start : start + size])
            start += size
        assert events == [Event("e", '{"a":"ü"}', "E:7"), Event("f", "2", "E:7")]


class TestTheSessionOfOneWhoCannotSpeak:
    def test_silence_says_nothing(self) -> None:
        session = Session(Limits(idle_timeout=10.0), 0.0, hears=False)
        assert session.next_deadline() == 30.0
        for now in (30.0, 60.0, 90.0, 3600.0):
            assert session.poll(now) == (True, None)

    def test_its_token_expires(self) -> None:
        session = Session(Limits(), 0.0, expires_in=10.0, hears=False)
        _, closing = session.poll(session.next_deadline())
        assert closing is not None and closing.code == 4003

    def test_a_little_that_it_sends_is_dropped_and_more_is_not_borne(self) -> None:
        session = Session(Limits(), 0.0, hears=False)
        assert session.heard(1.0, 0, MAX_HEARD) is None
        closing = session.heard(2.0, 0, 1)
        assert closing is not None and closing.code == 1008
