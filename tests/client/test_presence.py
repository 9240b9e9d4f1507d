"""Who is in a room (docs/reference/protocol.md section 4)."""

from __future__ import annotations

import pytest

from roomwire.client.events import MemberJoined, MemberLeft, MembersState
from roomwire.client.session import Phase
from tests.client.driver import Driver, Json


def person(user: str, info: object = None) -> Json:
    return {"user": user, "info": info}


@pytest.fixture
def driver() -> Driver:
    driver = Driver()
    driver.open()
    driver.be_in("a")
    driver.receive("presence.state", room="a", data={"members": [person("ann", 1), person("bob")]})
    return driver


def members(driver: Driver) -> Json | None:
    membership = driver.session.rooms.get("a")
    return None if membership is None else membership.members


def test_the_whole_list(driver: Driver) -> None:
    assert members(driver) == {"ann": 1, "bob": None}
    assert driver.items() == [MembersState("a", {"ann": 1, "bob": None})]


def test_a_later_list_replaces_it(driver: Driver) -> None:
    driver.receive("presence.state", room="a", data={"members": [person("cem")]})
    assert members(driver) == {"cem": None}


def test_one_comes_and_goes(driver: Driver) -> None:
    driver.items()
    driver.receive("presence.join", room="a", data=person("cem", {"n": 1}))
    driver.receive("presence.leave", room="a", data=person("ann", 1))
    assert members(driver) == {"bob": None, "cem": {"n": 1}}
    assert driver.items() == [MemberJoined("a", "cem", {"n": 1}), MemberLeft("a", "ann", 1)]


def test_what_is_known_already_is_no_news(driver: Driver) -> None:
    driver.items()
    driver.receive("presence.join", room="a", data=person("ann", 1))
    driver.receive("presence.leave", room="a", data=person("cem"))
    assert driver.items() == []


def test_another_info_is(driver: Driver) -> None:
    driver.items()
    driver.receive("presence.join", room="a", data=person("ann", 2))
    assert members(driver) == {"ann": 2, "bob": None}
    assert driver.items() == [MemberJoined("a", "ann", 2)]


def test_what_was_handed_over_does_not_change_later(driver: Driver) -> None:
    (state,) = driver.items()
    driver.receive("presence.join", room="a", data=person("cem"))
    assert state.members == {"ann": 1, "bob": None}


def test_a_break_keeps_the_list_until_the_next_one(driver: Driver) -> None:
    driver.lose()
    assert members(driver) == {"ann": 1, "bob": None}
    driver.open({"a": {"position": "e:1", "recovered": True}})
    driver.receive("presence.state", room="a", data={"members": []})
    assert members(driver) == {}


def test_presence_moves_no_position(driver: Driver) -> None:
    assert driver.position("a") == "e:1"


def test_a_room_that_it_is_not_in_has_no_members(driver: Driver) -> None:
    driver.items()
    driver.receive("presence.join", room="z", data=person("ann"))
    assert driver.items() == []


def test_kinds_that_are_not_known_are_passed_over(driver: Driver) -> None:
    driver.items()
    driver.receive("presence.moved", room="a", data=[1, 2])
    driver.receive("presence.moved", room="a", data={"later": 1})
    assert driver.items() == []


@pytest.mark.parametrize("data", [{}, {"members": 1}, {"members": [1]}, {"members": [{}]}, {"members": [{"user": 1}]}])
def test_what_is_no_list_breaks_the_protocol(driver: Driver, data: Json) -> None:
    driver.receive("presence.state", room="a", data=data)
    assert driver.phase is Phase.ENDED
