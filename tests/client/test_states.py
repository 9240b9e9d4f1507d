"""A state that is asked for in a room that the client is in already (docs/reference/protocol.md section 3)."""

from __future__ import annotations

from typing import Any

import pytest

from roomwire.client.errors import RequestFailed
from roomwire.client.events import Event, Removed, StateReset
from roomwire.core.positions import Position
from tests.client.driver import Driver, failure


@pytest.fixture
def driver() -> Driver:
    """On an open link, in the room ``a`` at ``e:1``."""
    driver = Driver()
    driver.open()
    driver.be_in("a")
    return driver


def test_it_stays_in_the_room_and_the_state_comes_besides(driver: Driver) -> None:
    ticket = driver.join("a", state=True)
    message = driver.sent_one()
    assert (message["event"], message["room"], message["data"]) == ("room.join", "a", {"state": True})
    driver.event("a", "e:2")
    driver.ack(message["id"], {"position": "e:2", "recovered": None})
    assert ticket.settled
    driver.event("a", "e:3")
    driver.receive("room.state", room="a", id="e:2", data={"reason": "requested", "state": [2]})
    driver.event("a", "e:3")
    assert driver.items() == [
        Event("message.new", None, "a", "e:2"),
        Event("message.new", None, "a", "e:3"),
        StateReset("a", "requested", [2], Position("e", 2)),
        Event("message.new", None, "a", "e:3"),  # beyond the state: it was none of it
    ]
    driver.lose()
    assert driver.begin()["last_event_id"] == "a@e:3"


def test_where_the_link_breaks_first_the_next_one_brings_it(driver: Driver) -> None:
    ticket = driver.join("a", state=True)
    driver.event("a", "e:2")
    driver.lose()
    query = driver.open({"a": {"position": "e:2", "recovered": None}})
    assert query["state"] == "1"
    assert "last_event_id" not in query
    assert ticket.settled


def test_one_that_is_refused_leaves_everything_as_it_was(driver: Driver) -> None:
    ticket = driver.join("a", state=True)
    driver.event("a", "e:2")
    driver.error(driver.sent_one()["id"], "rate_limited")
    error = failure(ticket)
    assert isinstance(error, RequestFailed)
    assert error.code == "rate_limited"
    driver.lose()
    query = driver.begin()
    assert query["last_event_id"] == "a@e:2"
    assert "state" not in query


def test_who_is_taken_out_meanwhile_is_told_so_and_stays_out(driver: Driver) -> None:
    ticket = driver.join("a", state=True)
    id_ = driver.sent_one()["id"]
    driver.receive("room.removed", room="a", data={"reason": "enough"})
    error = failure(ticket)
    assert isinstance(error, RequestFailed)
    assert error.code == "enough"
    driver.ack(id_, {"position": "e:2", "recovered": None})  # the server took it for a join
    message = driver.sent_one()
    assert (message["event"], message["room"]) == ("room.leave", "a")
    assert driver.items() == [Removed("a", "enough")]
    driver.error(id_, "internal")  # a second reply would change nothing


def test_a_refusal_after_that_says_nothing_new(driver: Driver) -> None:
    driver.join("a", state=True)
    id_ = driver.sent_one()["id"]
    driver.receive("room.removed", room="a", data={"reason": "enough"})
    driver.error(id_, "forbidden")
    assert driver.items() == [Removed("a", "enough")]
    assert driver.sent() == []


class TestAfterAResumeByMessage:
    """``last_event_id=later`` brings no state."""

    ROOMS = tuple(f"{number:03}{'r' * 100}" for number in range(60))

    @pytest.fixture
    def asked(self) -> tuple[Driver, Any]:
        """A driver whose resume is answered, and what it asked then for the room ``a``."""
        driver = Driver()
        driver.open({room: {"position": "e:1", "recovered": None} for room in (*self.ROOMS, "a")})
        driver.join("a", state=True)
        driver.lose()
        query = driver.begin()
        assert query["last_event_id"] == "later"
        assert "state" not in query
        driver.sent()
        driver.welcome()
        resume = driver.sent_one()
        assert resume["data"]["rooms"].keys() == set(self.ROOMS)
        rooms: dict[str, Any] = {room: {"position": "e:1", "recovered": True} for room in self.ROOMS}
        driver.session.take_items()
        driver.ack(resume["id"], {"rooms": rooms | {"a": {"position": "e:9", "recovered": None}}})
        message = driver.sent_one()
        assert (message["event"], message["room"], message["data"]) == ("room.join", "a", {"state": True})
        assert driver.items(StateReset) == []
        return driver, message["id"]

    def test_it_is_asked_for(self, asked: tuple[Driver, Any]) -> None:
        driver, id_ = asked
        driver.ack(id_, {"position": "e:9", "recovered": None})
        driver.receive("room.state", room="a", id="e:9", data={"reason": "requested", "state": [9]})
        assert driver.items() == [StateReset("a", "requested", [9], Position("e", 9))]

    def test_where_it_is_refused_the_gap_is_told(self, asked: tuple[Driver, Any]) -> None:
        driver, id_ = asked
        driver.error(id_, "rate_limited")
        assert driver.items() == [StateReset("a", "unproven", None, Position("e", 9))]
