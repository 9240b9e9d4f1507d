"""Events whose declarations the client was given: their data comes as what these say, or is told not to be that."""

from __future__ import annotations

from typing import assert_type

import pytest
from pydantic import BaseModel

from roomwire import Event as Declared
from roomwire.client import Event, InvalidEvent, Item, connect
from roomwire.core.errors import LocalError
from tests.client.driver import Driver


class MessageNew(BaseModel):
    content: str


MESSAGE_NEW = Declared("message.new", MessageNew, room="chat:{channel}")
PART = Declared("part", bytes)


@pytest.fixture
def driver() -> Driver:
    driver = Driver(events=[MESSAGE_NEW, PART])
    driver.open()
    for room in ("chat:a", "board:1"):
        driver.be_in(room)
    return driver


def content_of(item: Item) -> str | None:
    match item:
        case Event(data=MessageNew() as message):
            assert_type(message, MessageNew)
            return message.content
    return None


def test_data_comes_as_the_model(driver: Driver) -> None:
    driver.event("chat:a", "e:2", data={"content": "hi"})
    (item,) = driver.items()
    assert item == Event("message.new", MessageNew(content="hi"), "chat:a", "e:2")
    assert content_of(item) == "hi"


def test_data_that_does_not_fit_is_told_and_counts_as_received(driver: Driver) -> None:
    driver.event("chat:a", "e:2", data={"content": 7})
    driver.event("chat:a", "e:2", data={"content": "hi"})
    driver.event("chat:a", "e:3", name="part", data="text")
    first, second = driver.items()
    faults = [("content", "Input should be a valid string")]
    assert first == InvalidEvent("message.new", {"content": 7}, faults, "chat:a", "e:2")
    assert (second.name, second.faults) == ("part", [("", "it takes bytes, not JSON")])


def test_other_events_and_other_rooms_come_as_they_are(driver: Driver) -> None:
    driver.event("board:1", "e:2", data={"content": 7})
    driver.event("chat:a", "e:2", name="other", data=7)
    assert [item.data for item in driver.items()] == [{"content": 7}, 7]


async def nowhere() -> None:
    async with connect("ws://127.0.0.1:1/ws", events=[PART, Declared("part", str)]):
        raise AssertionError("it opened")


@pytest.mark.anyio
async def test_an_event_that_is_given_twice() -> None:
    with pytest.raises(LocalError):
        await nowhere()
