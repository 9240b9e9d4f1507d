"""Declared events: what their data is held to, how it is written, and which declaration holds for a room."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, ConfigDict, Field

from roomwire.core.errors import DeclarationError, LocalError
from roomwire.core.patterns import Pattern, PatternTie
from roomwire.core.publication import compose
from roomwire.core.routing import Handler
from roomwire.core.schema import EventSchema, EventTable, InvalidData, write_event


class Author(BaseModel):
    name: str


class Message(BaseModel):
    model_config = ConfigDict(strict=True)

    sender: Author = Field(alias="from")
    at: datetime | None = None


MESSAGE = EventSchema("message.new", Message, room="chat:{channel}")
DATA: dict[str, Any] = {"from": Author(name="ann")}


class TestData:
    def test_it_is_written_as_its_type_says(self) -> None:
        message = Message(**DATA, at=datetime(2026, 1, 2, tzinfo=UTC))
        assert MESSAGE.encode(message) == b'{"from":{"name":"ann"},"at":"2026-01-02T00:00:00Z"}'
        assert MESSAGE.encode(DATA) == b'{"from":{"name":"ann"},"at":null}'

    def test_what_does_not_fit_is_told_by_its_path_and_without_the_data(self) -> None:
        with pytest.raises(InvalidData) as caught:
            MESSAGE.encode({"from": {"name": 4711}})
        assert caught.value.faults == [("from.name", "Input should be a valid string")]
        assert str(caught.value).endswith(" does not fit its declaration: from.name: Input should be a valid string")
        assert "4711" not in str(caught.value)

    def test_of_many_faults_some_are_told(self) -> None:
        with pytest.raises(InvalidData) as caught:
            EventSchema("e", list[int]).encode(["x"] * 100)
        assert [path for path, _ in caught.value.faults] == [str(number) for number in range(20)]

    def test_a_model_that_was_changed_to_what_does_not_fit(self) -> None:
        message = Message(**{**DATA, "from": Author(name="ann")})
        message.sender.name = 4711  # type: ignore[assignment]
        with pytest.raises(InvalidData) as caught:
            MESSAGE.encode(message)
        assert caught.value.faults == [("name", "it was changed to what its type does not allow")]

    def test_what_came_is_read_as_json_also_where_a_model_is_strict(self) -> None:
        read = MESSAGE.read({"from": {"name": "ann"}, "at": "2026-01-02T00:00:00Z"})
        assert read.at == datetime(2026, 1, 2, tzinfo=UTC)
        with pytest.raises(InvalidData, match="from: Field required"):
            MESSAGE.read({})

    @pytest.mark.parametrize("type_", [bytes, Annotated[bytes, Field(max_length=2)]])
    def test_bytes(self, type_: Any) -> None:
        event = EventSchema("file.part", type_)
        assert event.encode(b"ab") == b"ab" == event.read(b"ab")
        with pytest.raises(InvalidData, match="takes bytes, not JSON"):
            event.encode("ab")
        with pytest.raises(InvalidData, match="takes JSON, not bytes"):
            MESSAGE.read(b"")

    def test_no_data(self) -> None:
        event = EventSchema("cleared")
        assert event.encode(None) == b"null"
        with pytest.raises(InvalidData):
            event.encode(1)

    @pytest.mark.parametrize(("name", "data", "room"), [("room.x", str, None), ("e", object(), None), ("e", str, "{")])
    def test_what_cannot_be_declared(self, name: str, data: Any, room: str | None) -> None:
        with pytest.raises(DeclarationError):
            EventSchema(name, data, room=room)

    def test_a_type_that_is_not_complete_yet(self) -> None:
        class Incomplete(BaseModel):
            other: Defined

        with pytest.raises(DeclarationError, match="not defined yet"):
            EventSchema("e", Incomplete)

        class Defined(BaseModel):
            x: int

        Incomplete.model_rebuild()
        assert EventSchema("e", Incomplete).encode({"other": {"x": 1}}) == b'{"other":{"x":1}}'


class TestRooms:
    def test_the_pattern_is_filled(self) -> None:
        assert MESSAGE.room(channel="general") == "chat:general"
        assert EventSchema("e", str, room="{a}-{b}:x").room(a=1, b="2-3") == "1-2-3:x"

    @pytest.mark.parametrize(
        ("pattern", "parameters", "text"),
        [
            ("chat:{channel}", {}, "needs channel"),
            ("chat:{channel}", {"channel": "a", "more": "b"}, "has no parameter more"),
            ("chat:{channel}", {"channel": ""}, "would not be read"),
            ("chat:{channel}", {"channel": "a:b"}, "would not be read"),
            ("{a}-{b}", {"a": "x-y", "b": "z"}, "would not be read"),
            ("chat:*", {}, "without a name"),
            ("chat:{channel}", {"channel": "x" * 200}, "128"),
        ],
    )
    def test_what_makes_no_room(self, pattern: str, parameters: dict[str, str], text: str) -> None:
        with pytest.raises(LocalError, match=text):
            Pattern(pattern).fill(**parameters)

    def test_an_event_is_composed_for_its_rooms_alone(self) -> None:
        publication, _ = compose("chat:a", MESSAGE, DATA, max_size=1000)
        assert (publication.event, publication.data) == ("message.new", b'{"from":{"name":"ann"},"at":null}')
        with pytest.raises(LocalError, match=r"declared for the rooms chat:\{channel\}, not for board:1"):
            compose("board:1", MESSAGE, DATA, max_size=1000)

    @pytest.mark.parametrize("event", ["other", MESSAGE])
    def test_what_is_no_room_s_name_is_told_so(self, event: Any) -> None:
        with pytest.raises(LocalError, match="no room name"):
            write_event(event, "", DATA)

    @pytest.mark.parametrize("name", ["", "ä", "room.joined", "ack"])
    def test_a_name_that_an_application_cannot_use(self, name: str) -> None:
        with pytest.raises(LocalError, match=r"no event name|belongs to the protocol"):
            write_event(name, None, 1)


class TestTable:
    def test_the_most_specific_declaration_holds(self) -> None:
        table = EventTable()
        assert not table
        lobby = EventSchema("e", int, room="chat:lobby")
        chat, anywhere = EventSchema("e", str, room="chat:{c}"), EventSchema("f", str)
        for event in (anywhere, chat, lobby):
            table.add(event)
        assert table.items() == [lobby, chat, anywhere]
        assert (table.find("e", "chat:lobby"), table.find("e", "chat:x")) == (lobby, chat)
        assert (table.find("f", "x"), table.find("f", None), table.find("g", "x")) == (anywhere, anywhere, None)
        with pytest.raises(LocalError, match=r"chat:lobby, chat:\{c\}, not for x"):
            table.find("e", "x")
        with pytest.raises(LocalError, match="no room name"):
            table.find("e", "")
        with pytest.raises(LocalError, match="several rooms"):
            table.find("e", None)

    @pytest.mark.parametrize("room", [None, "chat:{other}"])
    def test_two_for_the_same_rooms(self, room: str | None) -> None:
        table = EventTable()
        table.add(EventSchema("e", str, room=room))
        with pytest.raises(PatternTie):
            table.add(EventSchema("e", str, room=room))


def test_an_ack_is_written_by_the_aliases_too() -> None:
    async def handler() -> Message:
        return Message(**{**DATA, "from": Author(name="ann")})

    handled = Handler("e", handler, object, None)
    assert handled.dump(Message(**{**DATA, "from": Author(name="ann")})) == b'{"from":{"name":"ann"},"at":null}'
