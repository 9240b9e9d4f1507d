"""A publisher holds data to a declaration that it is given: it writes what the type says, and what does not fit it
does not store. `Publisher` shares its code with `AsyncPublisher`, which acts in the node's loop here."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from pydantic import BaseModel, Field

from roomwire import AsyncPublisher, Draft, Event, InvalidData, LocalError, Publisher
from tests.publisher.support import HubBackplane, kept
from tests.server.live import LiveServer


class Note(BaseModel):
    author: str = Field(alias="by", default="nobody")
    text: str


NOTE = Event("note", Note, room="chat:{channel}")
PART = Event("part", bytes)
CLEARED = Event("cleared")

Publish = Callable[..., Any]


@pytest.fixture(params=["async", "sync"])
def publish(request: pytest.FixtureRequest, server: LiveServer, redis_options: dict[str, object]) -> Publish:
    """`publish` or, with drafts, `publish_many` of one of the publishers."""
    if request.param == "sync":
        return lambda *given: _sync(redis_options, given)

    def publish(*given: Any) -> Any:
        async def run() -> Any:
            async with AsyncPublisher(HubBackplane) as publisher:
                return await _asked(publisher, given)

        return server.call(run)

    return publish


def _asked(publisher: AsyncPublisher, given: tuple[Any, ...]) -> Awaitable[Any]:
    return publisher.publish_many(given) if isinstance(given[0], Draft) else publisher.publish(*given)


def _sync(options: dict[str, object], given: tuple[Any, ...]) -> Any:
    with Publisher("redis", options) as publisher:
        return publisher.publish_many(given) if isinstance(given[0], Draft) else publisher.publish(*given)


@pytest.fixture
def room() -> str:
    return f"chat:{secrets.token_hex(4)}"


def test_it_is_written_as_its_type_says(publish: Publish, room: str) -> None:
    expected = b'{"by":"nobody","text":"hi"}'
    for data in (Note(text="hi"), {"text": "hi", "more": 1}):
        publication = publish(room, NOTE, data)
        assert (publication.event, publication.data) == ("note", expected)
    (many,) = publish(Draft(room, NOTE, Note(text="hi")))
    assert (many.event, many.data, many.id.partition(":")[2]) == ("note", expected, "3")
    assert publish(room, PART, b"ab").binary
    assert publish(room, CLEARED).data == b"null"


@pytest.mark.parametrize(
    ("event", "data", "faults"),
    [
        (NOTE, {"text": 7}, [("text", "Input should be a valid string")]),
        (NOTE, {"by": "ann"}, [("text", "Field required")]),
        (PART, "ab", [("", "it takes bytes, not JSON")]),
        (CLEARED, 1, [("", "Input should be None")]),
    ],
)
def test_what_does_not_fit_is_not_stored(
    publish: Publish, room: str, event: Any, data: Any, faults: list[tuple[str, str]]
) -> None:
    with pytest.raises(InvalidData) as caught:
        publish(room, event, data)
    assert caught.value.faults == faults
    with pytest.raises(InvalidData) as caught:
        publish(Draft(room, NOTE, Note(text="hi")), Draft(room, event, data))
    assert caught.value.__notes__ == ["in event 1 of the batch"]
    # Of the batch the first one neither: this is the room's first.
    assert publish(room, "fence").id.partition(":")[2] == "1"


def test_nor_in_a_room_that_it_is_not_declared_for(publish: Publish) -> None:
    with pytest.raises(LocalError, match=r"declared for the rooms chat:\{channel\}, not for board:1"):
        publish("board:1", NOTE, Note(text="hi"))


def test_an_event_s_own_room(publish: Publish, room: str) -> None:
    channel = room.partition(":")[2]
    assert publish(NOTE.room(channel=channel), NOTE, Note(text="hi")).room == room
    with pytest.raises(LocalError, match="needs channel"):
        NOTE.room()


def test_members_get_it(server: LiveServer) -> None:
    async def run() -> None:
        async with AsyncPublisher(HubBackplane) as publisher:
            await publisher.publish("chat:general", NOTE, Note(text="all"))

    client = server.connect()
    server.call(run)
    assert client.receive_until("note")["data"] == {"by": "nobody", "text": "all"}
    assert kept("chat:general")[-1].data == b'{"by":"nobody","text":"all"}'
    client.close()
