"""Positions, the cursor, proofs and membership (docs/reference/protocol.md sections 4 and 5)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from roomwire.client.errors import NoReply, RequestFailed
from roomwire.client.events import Event, Item, Joined, Recovered, Removed, StateReset
from roomwire.client.session import Phase
from roomwire.client.ticket import Ticket
from roomwire.core.errors import LocalError
from roomwire.core.positions import Position
from tests.client.driver import Driver, failure


def proven(position: str) -> dict[str, Any]:
    return {"position": position, "recovered": True}


def unproven(reason: str, position: str | None) -> dict[str, Any]:
    status: dict[str, Any] = {"recovered": False, "reason": reason}
    return status if position is None else status | {"position": position}


def offsets(items: list[Item]) -> list[str | None]:
    return [item.id for item in items if isinstance(item, Event)]


@pytest.fixture
def driver() -> Driver:
    """On an open link, in the room ``a`` at ``e:1``."""
    driver = Driver()
    driver.open()
    driver.be_in("a")
    return driver


class TestDedupe:
    def test_events_come_in_order_each_once(self, driver: Driver) -> None:
        for offset in (2, 3, 3, 2, 5, 4, 6):
            driver.event("a", f"e:{offset}")
        assert offsets(driver.items()) == ["e:2", "e:3", "e:5", "e:6"]

    def test_an_event_at_the_position_of_the_join_was_there_before(self, driver: Driver) -> None:
        driver.event("a", "e:1")
        assert driver.items() == []

    def test_offsets_of_another_epoch_are_not_compared(self, driver: Driver) -> None:
        driver.event("a", "e:900")
        driver.event("a", "f:1")
        driver.event("a", "f:1")
        assert offsets(driver.items()) == ["e:900", "f:1"]

    def test_offsets_are_numbers(self, driver: Driver) -> None:
        driver.event("a", "e:9")
        driver.event("a", "e:10")
        assert offsets(driver.items()) == ["e:9", "e:10"]

    def test_rooms_are_independent(self, driver: Driver) -> None:
        driver.be_in("b", "e:7")
        driver.event("a", "e:2")
        driver.event("b", "e:2")
        assert offsets(driver.items()) == ["e:2"]

    def test_an_ephemeral_event_moves_no_position(self, driver: Driver) -> None:
        driver.event("a", None, "typing", {"from": "bob"})
        driver.event("a", None, "typing", {"from": "bob"})
        assert driver.items() == [Event("typing", {"from": "bob"}, "a")] * 2
        assert driver.position("a") == "e:1"

    def test_an_event_has_all_that_the_server_said(self, driver: Driver) -> None:
        driver.receive("x", room="a", id="e:2", data=[1], user="bob", later_field=1)
        assert driver.items() == [Event("x", [1], "a", "e:2", "bob")]

    def test_an_event_for_this_client_alone_has_no_room(self, driver: Driver) -> None:
        driver.receive("hello", data=1)
        assert driver.items() == [Event("hello", 1)]

    def test_an_event_of_a_room_that_it_is_not_in_is_none_of_its_own(self, driver: Driver) -> None:
        driver.event("z", "e:2")
        assert driver.items() == []


class TestPositionsThatMove:
    def test_a_heartbeat_moves_them(self, driver: Driver) -> None:
        driver.receive("heartbeat", data={"positions": {"a": "e:8", "unknown": "e:9"}})
        driver.event("a", "e:8")
        driver.event("a", "e:9")
        assert offsets(driver.items()) == ["e:9"]

    def test_the_goodbye_moves_them(self, driver: Driver) -> None:
        driver.receive("session.closing", data={"code": 1012, "positions": {"a": "e:8"}})
        driver.lose(1012)
        assert driver.begin()["last_event_id"] == "a@e:8"

    def test_never_backwards_in_an_epoch(self, driver: Driver) -> None:
        driver.event("a", "e:5")
        driver.receive("heartbeat", data={"positions": {"a": "e:4"}})
        assert driver.position("a") == "e:5"

    def test_into_another_epoch(self, driver: Driver) -> None:
        driver.receive("heartbeat", data={"positions": {"a": "f:0"}})
        assert driver.position("a") == "f:0"

    def test_a_room_state_replaces_it_backwards_too(self, driver: Driver) -> None:
        driver.event("a", "e:50")
        driver.receive("room.state", room="a", id="e:10", data={"reason": "fork", "state": [1]})
        driver.event("a", "e:11")
        event = Event("message.new", None, "a", "e:11")
        state = StateReset("a", "fork", [1], Position("e", 10))
        assert driver.items() == [Event("message.new", None, "a", "e:50"), state, event]

    @pytest.mark.parametrize("recovered", [False, None])
    def test_an_unproven_position_replaces_it_backwards_too(self, driver: Driver, recovered: bool | None) -> None:
        driver.event("a", "e:50")
        driver.lose()
        driver.open({"a": {"position": "e:3", "recovered": recovered}})
        driver.event("a", "e:4")
        assert driver.position("a") == "e:4"

    def test_a_proven_position_is_where_the_replay_ends(self, driver: Driver) -> None:
        driver.lose()
        driver.open({"a": proven("e:4")})
        for offset in (2, 3, 4, 5):
            driver.event("a", f"e:{offset}")
        recovered, *events = driver.items()
        assert recovered == Recovered("a", Position("e", 4))
        assert offsets(events) == ["e:2", "e:3", "e:4", "e:5"]


class TestTheCursor:
    def test_the_first_attempt_has_none(self) -> None:
        assert Driver().begin() == {"client": "client-0001"}

    def test_the_client_id_is_the_same_each_time(self, driver: Driver) -> None:
        driver.lose()
        assert driver.begin()["client"] == "client-0001"

    def test_it_names_every_room_with_its_last_position(self, driver: Driver) -> None:
        driver.be_in("b", "f:7")
        driver.event("a", "e:2")
        driver.lose()
        assert driver.begin()["last_event_id"] == "a@e:2,b@f:7"

    def test_a_room_without_an_event_resumes_from_the_join(self, driver: Driver) -> None:
        driver.lose()
        assert driver.begin()["last_event_id"] == "a@e:1"

    def test_a_room_of_the_welcome_resumes_from_there(self) -> None:
        driver = Driver()
        driver.open({"lobby": {"position": "e:4", "recovered": None}})
        driver.lose()
        assert driver.begin()["last_event_id"] == "lobby@e:4"

    def test_it_is_encoded_twice(self, driver: Driver) -> None:
        driver.be_in("chat:a,b", "k3:17")
        driver.leave("a")
        driver.lose()
        target = driver.session.begin(driver.now, "/ws?x=1")
        assert target == "/ws?x=1&client=client-0001&last_event_id=chat%253Aa%252Cb%40k3%3A17"

    def test_a_request_line_of_six_kibibytes_is_the_longest(self) -> None:
        for padding, later in ((0, False), (1, True)):
            driver = Driver()
            driver.open()
            driver.be_in("a")
            driver.lose()
            bare = "GET /ws?client=client-0001&last_event_id=a%40e%3A1 HTTP/1.1\r\n"
            target = driver.session.begin(driver.now, "/ws" + "x" * (6144 - len(bare) + padding))
            assert target.endswith("last_event_id=later") is later
            assert len(f"GET {target} HTTP/1.1\r\n") <= 6144

    def test_an_attempt_that_failed_changes_nothing(self, driver: Driver) -> None:
        driver.lose()
        first = driver.begin()
        driver.session.failed(driver.now, "refused")
        assert driver.begin() == first


class TestResumeByMessage:
    """``last_event_id=later``: the cursor goes into the first message."""

    @pytest.fixture
    def driver(self) -> Driver:
        driver = Driver()
        driver.open({f"{number:03}{'r' * 100}": {"position": f"e:{number}", "recovered": None} for number in range(60)})
        driver.sent()
        driver.session.take_items()
        driver.lose()
        return driver

    def test_the_first_message_is_session_resume(self, driver: Driver) -> None:
        assert driver.begin()["last_event_id"] == "later"
        waiting = driver.send("x")
        driver.join("other")
        driver.welcome()
        message = driver.sent_one()
        assert message["event"] == "session.resume"
        assert message["data"]["rooms"]["007" + "r" * 100] == "e:7"
        assert len(message["data"]["rooms"]) == 60
        assert driver.phase.value == "resuming"
        rooms = {room: {"position": position, "recovered": True} for room, position in message["data"]["rooms"].items()}
        driver.ack(message["id"], {"rooms": rooms})
        assert driver.phase.value == "ready"
        assert len(driver.items(Recovered)) == 60
        assert [m["event"] for m in driver.sent()] == ["room.join", "message.send"]
        assert not waiting.settled

    def test_the_empty_rooms_of_the_welcome_remove_nothing(self, driver: Driver) -> None:
        driver.begin()
        driver.welcome()
        assert driver.items() == []

    def test_the_link_may_break_before_the_reply(self, driver: Driver) -> None:
        driver.begin()
        driver.welcome()
        driver.lose()
        assert driver.begin()["last_event_id"] == "later"

    def test_a_silent_server_is_dead_then_too(self, driver: Driver) -> None:
        driver.begin()
        driver.welcome()
        driver.advance(40)
        assert driver.phase is Phase.WAITING

    @pytest.mark.parametrize("code", ["unavailable", "rate_limited", "internal"])
    def test_a_passing_error_comes_back_with_back_off(self, driver: Driver, code: str) -> None:
        driver.begin()
        driver.welcome()
        driver.error(driver.sent_one()["id"], code)
        assert driver.wait == 2
        assert driver.session.farewell == (1000, "")
        assert driver.begin()["last_event_id"] == "later"

    def test_any_other_is_what_a_400_is(self, driver: Driver) -> None:
        driver.begin()
        driver.welcome()
        driver.error(driver.sent_one()["id"], "too_many_rooms")
        assert driver.wait == 0
        assert "last_event_id" not in driver.begin()
        driver.refuse(400)
        assert driver.phase is Phase.ENDED


class TestUnproven:
    @pytest.mark.parametrize("reason", ["too_old", "epoch", "fork", "too_far", "no_history"])
    def test_the_state_is_handed_over_with_the_reason(self, driver: Driver, reason: str) -> None:
        driver.lose()
        driver.open({"a": unproven(reason, "f:9")})
        assert driver.items() == []
        driver.receive("room.state", room="a", id="f:10", data={"reason": reason, "state": {"n": 1}})
        driver.event("a", "f:10")
        driver.event("a", "f:11")
        state, event = driver.items()
        assert state == StateReset("a", reason, {"n": 1}, Position("f", 10))
        assert event.id == "f:11"

    def test_a_state_of_null_means_reload(self, driver: Driver) -> None:
        driver.receive("room.state", room="a", id="e:3", data={"reason": "too_old", "state": None})
        assert driver.items() == [StateReset("a", "too_old", None, Position("e", 3))]

    def test_the_old_position_is_resumed_from_until_the_state_is_there(self, driver: Driver) -> None:
        """Resuming from the new one would be proven, and the state, which was announced, never come."""
        driver.lose()
        driver.open({"a": unproven("too_far", "e:5000")})
        driver.lose()
        assert driver.begin()["last_event_id"] == "a@e:1"
        driver.welcome({"a": proven("e:3")})
        driver.event("a", "e:2")
        driver.event("a", "e:3")
        assert offsets(driver.items()) == ["e:2", "e:3"]

    def test_after_the_state_its_position_is(self, driver: Driver) -> None:
        driver.lose()
        driver.open({"a": unproven("too_far", "e:5000")})
        driver.receive("room.state", room="a", id="e:5001", data={"reason": "too_far", "state": 1})
        driver.lose()
        assert driver.begin()["last_event_id"] == "a@e:5001"

    def test_unavailable_keeps_the_position(self, driver: Driver) -> None:
        driver.lose()
        driver.open({"a": unproven("unavailable", None)})
        assert driver.position("a") == "e:1"
        driver.lose()
        assert driver.begin()["last_event_id"] == "a@e:1"

    def test_a_first_join_that_is_unavailable_asks_for_the_state_after_a_break(self) -> None:
        driver = Driver()
        driver.open()
        joining = driver.join("a")
        driver.ack(driver.sent_one()["id"], {"recovered": None, "reason": "unavailable"})
        assert joining.settled
        driver.lose()
        driver.open()
        assert driver.sent_one()["data"] == {"state": True}

    @pytest.mark.parametrize("reason", ["forbidden", "too_many_rooms"])
    def test_a_room_that_is_not_joined_again_is_gone(self, driver: Driver, reason: str) -> None:
        driver.lose()
        driver.open({"a": unproven(reason, None)})
        assert driver.items() == [Removed("a", reason)]
        driver.lose()
        assert "last_event_id" not in driver.begin()
        driver.welcome({"never": unproven(reason, None)})
        assert driver.items() == []

    def test_a_null_where_a_cursor_was_sent_is_told(self, driver: Driver) -> None:
        driver.lose()
        driver.open({"a": {"position": "e:9", "recovered": None}})
        assert driver.items() == [StateReset("a", "unproven", None, Position("e", 9))]


class TestJoining:
    def test_a_join_is_acknowledged(self) -> None:
        driver = Driver()
        driver.open()
        ticket = driver.join("a")
        message = driver.sent_one()
        assert message == {"event": "room.join", "id": "1", "room": "a"}
        driver.ack("1", {"position": "e:1", "recovered": None})
        assert failure(ticket) is None
        assert driver.position("a") == "e:1"
        assert driver.items() == []

    def test_its_state_is_handed_over(self) -> None:
        driver = Driver()
        driver.open()
        driver.join("a", state=True)
        assert driver.sent_one()["data"] == {"state": True}
        driver.ack("1", {"position": "e:1", "recovered": None})
        driver.receive("room.state", room="a", id="e:1", data={"reason": "requested", "state": [1, 2]})
        assert driver.items() == [StateReset("a", "requested", [1, 2], Position("e", 1))]

    def test_a_state_that_did_not_come_is_asked_for_again(self) -> None:
        driver = Driver()
        driver.open()
        driver.join("a", state=True)
        driver.ack("1", {"position": "e:1", "recovered": None})
        driver.lose()
        query = driver.open()
        assert "last_event_id" not in query
        assert driver.sent()[-1]["data"] == {"state": True}

    def test_a_refused_join_fails_with_the_code(self) -> None:
        driver = Driver()
        driver.open()
        ticket = driver.join("a")
        driver.error("1", "forbidden", "no")
        error = failure(ticket)
        assert isinstance(error, RequestFailed)
        assert (error.code, error.message) == ("forbidden", "no")
        assert driver.items() == []
        driver.lose()
        driver.open()
        assert driver.sent() == []

    def test_in_the_room_already_it_returns_at_once(self, driver: Driver) -> None:
        assert driver.join("a").settled
        assert driver.sent() == []

    def test_two_joins_share_one_request(self) -> None:
        driver = Driver()
        driver.open()
        first, second = driver.join("a"), driver.join("a")
        driver.ack(driver.sent_one()["id"], {"position": "e:1", "recovered": None})
        assert first.settled
        assert second.settled

    def test_a_join_before_the_first_welcome_waits_for_it(self) -> None:
        driver = Driver()
        ticket = driver.join("a")
        driver.begin()
        assert driver.sent() == []
        driver.welcome()
        assert driver.sent_one()["event"] == "room.join"
        assert not ticket.settled

    def test_a_join_whose_reply_was_lost_is_made_anew(self) -> None:
        """It is not sent again, under its old id: it is another request on another link."""
        driver = Driver()
        driver.open()
        ticket = driver.join("a")
        assert driver.sent_one()["id"] == "1"
        driver.lose()
        driver.open()
        message = driver.sent_one()
        assert (message["event"], message["id"]) == ("room.join", "2")
        driver.ack("1", {"position": "e:9", "recovered": None})
        assert not ticket.settled
        driver.ack("2", {"position": "e:9", "recovered": None})
        assert ticket.settled

    def test_a_join_of_a_room_that_is_being_resumed_waits_for_that(self, driver: Driver) -> None:
        driver.lose()
        ticket = driver.join("a")
        driver.begin()
        assert not ticket.settled
        driver.welcome({"a": proven("e:1")})
        assert ticket.settled
        assert driver.sent() == []

    def test_a_join_of_a_room_that_is_refused_on_resume_fails(self, driver: Driver) -> None:
        driver.lose()
        ticket = driver.join("a")
        driver.open({"a": unproven("forbidden", None)})
        assert isinstance(failure(ticket), RequestFailed)

    def test_a_room_that_the_welcome_left_out_is_joined_anew_with_its_position(self, driver: Driver) -> None:
        driver.lose()
        driver.open()
        message = driver.sent_one()
        assert message["data"] == {"since": "e:1"}
        driver.ack(message["id"], proven("e:2"))
        driver.event("a", "e:2")
        recovered, event = driver.items()
        assert recovered == Recovered("a", Position("e", 2))
        assert event.id == "e:2"

    def test_that_it_cannot_be_joined_anew_is_told(self, driver: Driver) -> None:
        driver.lose()
        driver.open()
        driver.error(driver.sent_one()["id"], "unavailable")
        assert driver.items() == [Removed("a", "unavailable")]

    def test_after_a_400_rooms_come_back_with_their_state(self, driver: Driver) -> None:
        driver.be_in("own", "e:7")
        driver.lose()
        driver.begin()
        driver.refuse(400)
        query = driver.begin()
        assert query == {"client": "client-0001", "state": "1"}
        driver.welcome({"a": {"position": "e:2", "recovered": None}})  # the server joins `a` by itself
        message = driver.sent_one()
        assert (message["room"], message["data"]) == ("own", {"state": True})
        driver.ack(message["id"], {"position": "e:9", "recovered": None})
        for room in ("a", "own"):
            driver.receive("room.state", room=room, id="e:9", data={"reason": "requested", "state": room})
        assert [(i.room, i.state) for i in driver.items(StateReset)] == [("a", "a"), ("own", "own")]
        driver.lose()
        assert driver.begin()["last_event_id"] == "a@e:9,own@e:9"

    @pytest.mark.parametrize("name", ["", "a\nb", "x" * 129, "\ud800"])
    def test_what_is_no_room_is_refused(self, name: str) -> None:
        driver = Driver()
        with pytest.raises(LocalError, match="a room is"):
            driver.join(name)

    def test_a_cancelled_join_leaves_again(self) -> None:
        driver = Driver()
        driver.open()
        ticket = driver.join("a")
        membership = driver.session.rooms.get("a")
        assert membership is not None
        driver.requests.forget_join(membership, ticket)
        assert [m["event"] for m in driver.sent()] == ["room.join", "room.leave"]
        driver.ack("1", {"position": "e:1", "recovered": None})
        driver.event("a", "e:2")
        assert driver.items() == []
        driver.lose()
        assert "last_event_id" not in driver.begin()

    def test_a_cancelled_join_that_was_not_sent_never_is(self) -> None:
        driver = Driver()
        ticket = driver.join("a")
        membership = driver.session.rooms.get("a")
        assert membership is not None
        driver.requests.forget_join(membership, ticket)
        driver.requests.forget_join(membership, ticket)
        driver.open()
        assert driver.sent() == []

    def test_a_cancelled_join_takes_the_room_from_nobody_else(self, driver: Driver) -> None:
        driver.lose()
        ticket = driver.join("a")
        membership = driver.session.rooms.get("a")
        assert membership is not None
        driver.requests.forget_join(membership, ticket)
        assert driver.begin()["last_event_id"] == "a@e:1"


class TestLeaving:
    def test_events_come_until_the_acknowledgement(self, driver: Driver) -> None:
        ticket = driver.leave("a")
        message = driver.sent_one()
        assert message["event"] == "room.leave"
        driver.event("a", "e:2")
        assert len(driver.items()) == 1
        driver.ack(message["id"])
        assert failure(ticket) is None
        assert driver.position("a") is None

    def test_two_leaves_share_one_request(self, driver: Driver) -> None:
        first, second = driver.leave("a"), driver.leave("a")
        driver.ack(driver.sent_one()["id"])
        assert first.settled
        assert second.settled

    def test_a_room_that_it_is_not_in_is_left_already(self, driver: Driver) -> None:
        assert driver.leave("z").settled
        assert driver.sent() == []

    def test_without_a_link_the_room_is_just_not_resumed(self, driver: Driver) -> None:
        driver.lose()
        assert driver.leave("a").settled
        assert "last_event_id" not in driver.begin()

    def test_a_break_leaves_it_too(self, driver: Driver) -> None:
        ticket = driver.leave("a")
        driver.lose()
        assert failure(ticket) is None
        assert "last_event_id" not in driver.begin()

    def test_a_room_that_is_just_being_resumed_is_left_afterwards(self, driver: Driver) -> None:
        driver.lose()
        driver.begin()
        ticket = driver.leave("a")
        driver.welcome({"a": proven("e:1")})
        assert not ticket.settled
        driver.ack(driver.sent_one()["id"])
        assert ticket.settled
        assert driver.session.rooms.get("a") is None

    def test_where_it_was_not_resumed_there_is_nothing_to_leave(self, driver: Driver) -> None:
        driver.lose()
        driver.begin()
        ticket = driver.leave("a")
        driver.welcome()
        assert ticket.settled
        assert driver.sent() == []

    def test_a_join_before_that_takes_it_back(self, driver: Driver) -> None:
        driver.lose()
        driver.begin()
        leaving, joining = driver.leave("a"), driver.join("a")
        assert leaving.settled
        driver.welcome({"a": proven("e:1")})
        assert joining.settled
        assert driver.sent() == []

    def test_a_join_after_a_leave_follows_it(self, driver: Driver) -> None:
        leaving, joining = driver.leave("a"), driver.join("a")
        leave, join = driver.sent()
        assert (leave["event"], join["event"]) == ("room.leave", "room.join")
        assert leaving.settled
        driver.ack(leave["id"])
        driver.event("a", "e:2")  # between the two it is in nobody's room
        driver.ack(join["id"], {"position": "e:2", "recovered": None})
        assert joining.settled
        driver.event("a", "e:3")
        assert offsets(driver.items()) == ["e:3"]

    def test_a_refused_leave_stays(self, driver: Driver) -> None:
        ticket = driver.leave("a")
        driver.error(driver.sent_one()["id"], "rate_limited")
        error = failure(ticket)
        assert isinstance(error, RequestFailed)
        driver.event("a", "e:2")
        assert len(driver.items()) == 1

    def test_who_waited_to_join_is_told(self) -> None:
        driver = Driver()
        joining = driver.join("a")
        driver.leave("a")
        assert isinstance(failure(joining), RequestFailed)


class TestTheServersOwnJoins:
    def test_a_room_of_the_first_welcome(self) -> None:
        driver = Driver()
        driver.open({"lobby": {"position": "e:4", "recovered": None}})
        assert driver.items() == [Joined("lobby")]
        driver.event("lobby", "e:5")
        assert len(driver.items()) == 1

    def test_their_state_on_the_first_load(self) -> None:
        driver = Driver(state=True)
        assert driver.begin()["state"] == "1"
        driver.session.failed(driver.now, "refused")
        assert driver.open({"lobby": {"position": "e:4", "recovered": None}})["state"] == "1"
        driver.receive("room.state", room="lobby", id="e:4", data={"reason": "requested", "state": 1})
        assert driver.items() == [Joined("lobby"), StateReset("lobby", "requested", 1, Position("e", 4))]
        driver.lose()
        assert driver.begin() == {"client": "client-0001", "last_event_id": "lobby@e:4"}

    def test_a_first_load_that_was_cut_is_asked_for_again(self) -> None:
        driver = Driver(state=True)
        driver.open({"lobby": {"position": "e:4", "recovered": None}})
        driver.lose()
        assert driver.begin() == {"client": "client-0001", "state": "1"}

    def test_a_state_that_can_not_come_is_told_to_be_missing(self) -> None:
        """The room was to be joined with its state, and then the server put it there without."""
        driver = Driver()
        driver.open()
        ticket = driver.join("a", state=True)
        driver.receive("room.joined", room="a", data={"position": "e:3", "recovered": None})
        assert ticket.settled
        assert driver.items() == [StateReset("a", "unproven", None, Position("e", 3))]
        driver.ack(driver.sent_one()["id"], {"position": "e:3", "recovered": None})
        driver.lose()
        assert driver.begin()["last_event_id"] == "a@e:3"

    def test_room_joined(self, driver: Driver) -> None:
        driver.receive("room.joined", room="b", data={"position": "e:3", "recovered": None})
        driver.event("b", "e:4")
        joined, event = driver.items()
        assert joined == Joined("b")
        assert event.id == "e:4"

    def test_room_joined_wins_over_a_join_that_is_refused(self) -> None:
        driver = Driver()
        driver.open()
        driver.join("a")
        driver.receive("room.joined", room="a", data={"position": "e:3", "recovered": None})
        driver.error(driver.sent_one()["id"], "conflict")
        driver.event("a", "e:4")
        assert offsets(driver.items()) == ["e:4"]

    def test_room_removed(self, driver: Driver) -> None:
        driver.receive("room.removed", room="a", data={"reason": "banned"})
        driver.event("a", "e:2")
        assert driver.items() == [Removed("a", "banned")]
        driver.lose()
        assert "last_event_id" not in driver.begin()

    def test_room_removed_of_another_room_is_passed_over(self, driver: Driver) -> None:
        driver.receive("room.removed", room="z", data={"reason": "banned"})
        assert driver.items() == []


class TestQuestions:
    def test_members_are_asked_for(self, driver: Driver) -> None:
        ticket = self.ask(driver)
        message = driver.sent_one()
        assert message == {"event": "room.members", "id": message["id"], "room": "a"}
        driver.ack(message["id"], {"members": [{"user": "ann", "info": {"n": 1}}, {"user": "bob"}]})
        assert ticket.result() == {"ann": {"n": 1}, "bob": None}

    def test_an_error_fails_it(self, driver: Driver) -> None:
        ticket = self.ask(driver)
        driver.error(driver.sent_one()["id"], "not_joined")
        assert isinstance(failure(ticket), RequestFailed)

    def test_a_break_fails_it(self, driver: Driver) -> None:
        ticket = self.ask(driver)
        driver.lose()
        assert isinstance(failure(ticket), NoReply)
        driver.open({"a": proven("e:1")})
        assert driver.sent() == []

    def test_without_a_link_it_fails_at_once(self) -> None:
        assert isinstance(failure(self.ask(Driver())), NoReply)

    @staticmethod
    def ask(driver: Driver) -> Ticket:
        ticket = Ticket()
        driver.requests.members("a", ticket)
        return ticket


def test_a_room_has_the_same_name_on_every_way(driver: Driver) -> None:
    """Names are compared as they are, never normalised."""
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    driver.be_in(composed, "e:1")
    driver.session.receive(driver.now, json.dumps({"event": "x", "room": decomposed, "id": "e:2"}))
    assert driver.items() == []
