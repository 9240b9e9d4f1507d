"""Messages without a reply: the offline queue, and sending again (docs/reference/protocol.md sections 3.1 and 7)."""

from __future__ import annotations

import math

import pytest

from roomwire.client.errors import MessageTooLarge, NoReply, QueueFull, RequestFailed, UnknownOutcome
from roomwire.client.events import ServerError
from roomwire.client.outbox import SLICE_MESSAGES
from roomwire.client.session import Options, Phase
from roomwire.client.ticket import Ticket
from roomwire.core.errors import ConnectionClosed, LocalError
from tests.client.driver import Driver, failure


@pytest.fixture
def driver() -> Driver:
    """On an open link."""
    driver = Driver()
    driver.open()
    driver.session.take_items()
    return driver


def small(**limits: int) -> Driver:
    return Driver(options=Options(**limits))


class TestReplies:
    def test_an_ack_is_the_result(self, driver: Driver) -> None:
        ticket = driver.send({"content": "hi"}, room="a")
        expected = {"event": "message.send", "id": "1", "room": "a", "data": {"content": "hi"}}
        assert driver.sent_one() == expected
        driver.ack("1", {"id": "e:9"})
        assert ticket.result() == {"id": "e:9"}

    def test_an_error_is_raised(self, driver: Driver) -> None:
        ticket = driver.send()
        driver.receive("error", id="1", data={"code": "rude", "message": "no", "details": [1]})
        error = failure(ticket)
        assert isinstance(error, RequestFailed)
        assert (error.code, error.message, error.details, str(error)) == ("rude", "no", [1], "rude: no")

    def test_an_error_without_a_code_is_internal(self, driver: Driver) -> None:
        ticket = driver.send()
        driver.receive("error", id="1")
        error = failure(ticket)
        assert isinstance(error, RequestFailed)
        assert str(error) == "internal"

    def test_replies_come_in_any_order(self, driver: Driver) -> None:
        first, second = driver.send(), driver.send()
        driver.ack("2", "second")
        driver.ack("1", "first")
        assert (first.result(), second.result()) == ("first", "second")

    def test_a_reply_that_nobody_waits_for_is_passed_over(self, driver: Driver) -> None:
        driver.ack("77")
        driver.error("77", "x")
        driver.receive("ack")
        assert driver.items() == []

    def test_only_the_first_reply_counts(self, driver: Driver) -> None:
        ticket = driver.send()
        driver.ack("1", "first")
        driver.error("1", "x")
        assert ticket.result() == "first"

    def test_an_error_without_an_id_is_handed_over(self, driver: Driver) -> None:
        driver.receive("error", data={"code": "invalid", "message": "what?"})
        assert driver.items() == [ServerError("invalid", "what?")]

    def test_a_ticket_tells_once(self) -> None:
        told = []
        ticket = Ticket(lambda: told.append(ticket.settled))
        ticket.succeed(1)
        ticket.succeed(2)
        ticket.fail(NoReply())
        assert ticket.result() == 1
        assert told == [True]


class TestOffline:
    def test_messages_wait_for_the_resume(self) -> None:
        driver = Driver()
        driver.send("one")
        driver.begin()
        driver.send("two")
        assert driver.sent() == []
        driver.welcome()
        driver.send("three")
        assert [m["data"] for m in driver.sent()] == ["one", "two", "three"]

    def test_joins_go_before_them(self) -> None:
        driver = Driver()
        driver.send(room="a")
        driver.join("a")
        driver.open()
        assert [m["event"] for m in driver.sent()] == ["room.join", "message.send"]

    def test_a_message_stays_ahead_of_what_is_asked_next(self, driver: Driver) -> None:
        driver.be_in("a")
        driver.send(room="a")
        driver.leave("a")
        assert [m["event"] for m in driver.sent()] == ["message.send", "room.leave"]

    def test_the_queue_is_bounded_in_count(self) -> None:
        driver = small(max_unanswered_messages=2)
        driver.send()
        driver.send()
        with pytest.raises(QueueFull, match="2 messages"):
            driver.send()
        driver.open()
        assert len(driver.sent()) == 2

    def test_the_queue_is_bounded_in_bytes(self) -> None:
        driver = small(max_unanswered_bytes=200)
        driver.send("x" * 100)
        with pytest.raises(QueueFull):
            driver.send("x" * 100)

    def test_both_bounds_count_what_was_sent_too(self) -> None:
        """So nothing has to be dropped when the link breaks."""
        driver = small(max_unanswered_messages=1)
        driver.open()
        driver.send()
        with pytest.raises(QueueFull):
            driver.send()
        driver.ack("1")
        driver.send()

    def test_bytes_are_given_back(self) -> None:
        driver = small(max_unanswered_bytes=100)
        driver.open()
        for number in range(1, 10):
            driver.send("x" * 40)
            driver.ack(str(number))

    def test_a_cancelled_message_is_never_sent(self) -> None:
        driver = Driver()
        message = driver.requests.send(driver.now, "x", None, None, Ticket())
        driver.requests.forget(message)
        driver.requests.forget(message)
        driver.open()
        assert driver.sent() == []

    def test_a_queue_never_expires_before_it_was_sent(self) -> None:
        driver = Driver()
        ticket = driver.send()
        driver.begin()
        driver.session.failed(driver.now, "refused")
        driver.now += 10_000
        driver.session.tick(driver.now)
        assert not ticket.settled

    def test_a_notification_wants_a_link(self) -> None:
        driver = Driver()
        assert driver.requests.notify("typing", None, "a") is False
        driver.open()
        assert driver.requests.notify("typing", {}, "a") is True
        assert driver.sent_one() == {"event": "typing", "room": "a", "data": {}}
        assert not driver.requests.waiting


class TestSendingAgain:
    def test_with_the_same_id_after_the_resume(self, driver: Driver) -> None:
        ticket = driver.send("one")
        first = driver.sent_one()
        driver.lose()
        driver.begin()
        assert driver.sent() == []
        driver.welcome()
        assert driver.sent_one() == first
        driver.ack("1", "done")
        assert ticket.result() == "done"

    def test_in_the_order_of_the_first_sending(self, driver: Driver) -> None:
        driver.send("one")
        driver.send("two")
        driver.sent()
        driver.lose()
        driver.send("three")
        driver.open()
        assert [m["data"] for m in driver.sent()] == ["one", "two", "three"]

    def test_an_answered_one_is_not(self, driver: Driver) -> None:
        driver.send()
        driver.ack("1")
        driver.sent()
        driver.lose()
        driver.open()
        assert driver.sent() == []

    def test_a_cancelled_one_is_not(self, driver: Driver) -> None:
        message = driver.requests.send(driver.now, "x", None, None, Ticket())
        driver.sent()
        driver.requests.forget(message)
        driver.lose()
        driver.open()
        assert driver.sent() == []

    def test_after_270_seconds_the_outcome_is_unknown(self, driver: Driver) -> None:
        ticket = driver.send()
        driver.lose()
        driver.session.retry_at = math.inf  # the network is gone
        driver.advance(269.9)
        assert not ticket.settled
        driver.advance(0.1)
        error = failure(ticket)
        assert isinstance(error, UnknownOutcome)
        assert error.code == "unknown_outcome"

    def test_the_first_sending_counts_and_not_the_last(self, driver: Driver) -> None:
        ticket = driver.send()
        for _ in range(3):
            driver.now += 80
            driver.lose()
            driver.open()
        driver.lose()
        driver.session.retry_at = math.inf
        driver.advance(29.9)
        assert not ticket.settled
        driver.advance(0.1)
        assert isinstance(failure(ticket), UnknownOutcome)

    def test_it_is_not_sent_again_in_the_moment_it_expires(self, driver: Driver) -> None:
        ticket = driver.send()
        driver.sent()
        driver.now += 270
        driver.lose()
        driver.open()
        assert driver.sent() == []
        assert isinstance(failure(ticket), UnknownOutcome)

    def test_while_the_link_holds_it_waits_on(self, driver: Driver) -> None:
        ticket = driver.send()
        for _ in range(20):
            driver.advance(30)
            driver.receive("heartbeat")
        assert not ticket.settled

    def test_the_server_says_how_long_it_remembers(self) -> None:
        driver = Driver()
        driver.begin()
        driver.welcome(limits={"idempotency_window": 60})
        ticket = driver.send()
        driver.lose()
        driver.session.retry_at = math.inf
        driver.advance(29.9)
        assert not ticket.settled
        driver.advance(0.1)
        assert isinstance(failure(ticket), UnknownOutcome)

    def test_a_server_that_forgets_at_once_gets_nothing_twice(self) -> None:
        driver = Driver()
        driver.begin()
        driver.welcome(limits={"idempotency_window": 30})
        ticket = driver.send()
        driver.lose()
        driver.advance(0)
        assert isinstance(failure(ticket), UnknownOutcome)

    def test_expired_ones_make_room(self) -> None:
        driver = small(max_unanswered_messages=1)
        driver.open()
        driver.send()
        driver.lose()
        driver.now += 270
        driver.session.tick(driver.now)
        driver.send()

    def test_unavailable_says_nothing_of_a_copy(self, driver: Driver) -> None:
        """The server says so of a copy whose first one has been at work for too long."""
        ticket = driver.send()
        driver.lose()
        driver.open()
        driver.error("1", "unavailable")
        error = failure(ticket)
        assert isinstance(error, UnknownOutcome)
        assert isinstance(error.__cause__, RequestFailed)

    def test_of_a_first_one_it_does(self, driver: Driver) -> None:
        ticket = driver.send()
        driver.error("1", "unavailable")
        assert isinstance(failure(ticket), RequestFailed)

    def test_any_other_error_of_a_copy_is_the_answer(self, driver: Driver) -> None:
        ticket = driver.send()
        driver.lose()
        driver.open()
        driver.error("1", "not_joined")
        assert isinstance(failure(ticket), RequestFailed)


class TestAnotherUser:
    """The token may become that of somebody else."""

    def test_what_one_user_wrote_is_not_sent_in_anothers_name(self, driver: Driver) -> None:
        sent = driver.send("a")
        driver.sent()
        driver.lose()
        waiting = driver.send("b")
        driver.begin()
        driver.welcome(user="bob")
        assert driver.sent() == []
        assert isinstance(failure(sent), UnknownOutcome)
        assert type(failure(waiting)) is NoReply
        assert driver.session.user == "bob"
        driver.send("c")
        assert driver.sent_one()["data"] == "c"

    def test_with_the_same_user_nothing_is_lost(self, driver: Driver) -> None:
        driver.lose()
        driver.send("a")
        driver.begin()
        driver.welcome(user="ann")
        assert driver.sent_one()["data"] == "a"


class TestSlices:
    """A queue goes out below the server's rate limits: what these refuse would be overtaken by what they do not."""

    def test_a_long_queue_goes_out_in_slices(self) -> None:
        driver = Driver()
        for number in range(2 * SLICE_MESSAGES + 1):
            driver.send(number)
        driver.open()
        assert [m["data"] for m in driver.sent()] == list(range(SLICE_MESSAGES))
        driver.advance(0.9)
        assert driver.sent() == []
        driver.advance(0.1)
        assert len(driver.sent()) == SLICE_MESSAGES
        driver.advance(1)
        assert len(driver.sent()) == 1
        assert driver.session.deadline == driver.session._heard_at + 40

    def test_later_messages_queue_up_behind(self) -> None:
        driver = Driver()
        for number in range(SLICE_MESSAGES + 1):
            driver.send(number)
        driver.open()
        driver.send("later")
        assert len(driver.sent()) == SLICE_MESSAGES
        driver.advance(1)
        assert [m["data"] for m in driver.sent()] == [SLICE_MESSAGES, "later"]

    def test_slices_are_bounded_in_bytes(self) -> None:
        driver = Driver()
        for _ in range(5):
            driver.send("x" * 60_000)
        driver.open()
        assert len(driver.sent()) == 2
        driver.advance(1)
        assert len(driver.sent()) == 2

    def test_a_break_begins_anew(self) -> None:
        driver = Driver()
        for number in range(SLICE_MESSAGES + 1):
            driver.send(number)
        driver.open()
        driver.sent()
        driver.lose()
        driver.open()
        assert [m["data"] for m in driver.sent()] == list(range(SLICE_MESSAGES))

    def test_live_messages_go_out_at_once(self, driver: Driver) -> None:
        for number in range(3 * SLICE_MESSAGES):
            driver.send(number)
        assert len(driver.sent()) == 3 * SLICE_MESSAGES


class TestSizes:
    def test_a_message_that_the_server_would_not_take_is_not_sent(self, driver: Driver) -> None:
        """It would close with 1009, for good."""
        overhead = len('{"event":"message.send","id":"1","data":""}')
        driver.send("x" * (65_536 - overhead))
        with pytest.raises(MessageTooLarge):
            driver.send("x" * (65_536 - overhead + 1))
        with pytest.raises(MessageTooLarge):
            driver.requests.notify("x", "x" * 65_536, None)

    def test_bytes_count_and_not_characters(self, driver: Driver) -> None:
        with pytest.raises(MessageTooLarge):
            driver.send("\u00e9" * 40_000)

    def test_what_waited_is_judged_by_the_welcome(self) -> None:
        driver = Driver()
        large, little = driver.send("x" * 2000), driver.send("x")
        driver.begin()
        driver.welcome(limits={"max_message_size": 1000})
        assert isinstance(failure(large), MessageTooLarge)
        assert len(driver.sent()) == 1
        assert not little.settled

    def test_a_larger_limit_holds(self) -> None:
        driver = Driver()
        driver.begin()
        driver.welcome(limits={"max_message_size": 100_000})
        driver.send("x" * 90_000)


class TestWhatCannotBeSent:
    @pytest.mark.parametrize("event", ["", "a b", "\u00e9", "x" * 129, "a\n"])
    def test_a_bad_name(self, driver: Driver, event: str) -> None:
        with pytest.raises(LocalError, match="no event name"):
            driver.send(event=event)

    @pytest.mark.parametrize("event", ["ack", "error", "heartbeat", "room.join", "session.resume", "presence.x"])
    def test_a_name_of_the_protocols_own(self, driver: Driver, event: str) -> None:
        with pytest.raises(LocalError, match="protocol"):
            driver.send(event=event)

    def test_data_that_is_not_json(self, driver: Driver) -> None:
        with pytest.raises(LocalError, match="not JSON"):
            driver.send(object())

    def test_a_bad_room(self, driver: Driver) -> None:
        with pytest.raises(LocalError, match="a room is"):
            driver.send(room="")

    def test_none_of_it_stays_in_the_queue(self, driver: Driver) -> None:
        with pytest.raises(LocalError):
            driver.send(object())
        assert not driver.requests.waiting


class TestTheEnd:
    def test_what_was_sent_has_an_unknown_outcome_and_the_rest_did_not_happen(self, driver: Driver) -> None:
        sent = driver.send()
        driver.lose()
        unsent = driver.send()
        driver.begin()
        driver.refuse(403)
        assert driver.phase is Phase.ENDED
        assert isinstance(failure(sent), UnknownOutcome)
        assert isinstance(failure(unsent), ConnectionClosed)

    def test_each_has_an_exception_of_its_own(self) -> None:
        driver = Driver()
        first, second = driver.send(), driver.send()
        driver.session.end(lambda: ConnectionClosed(1000))
        assert failure(first) is not failure(second)

    def test_giving_up_on_replies_fails_all_who_wait(self, driver: Driver) -> None:
        driver.be_in("a")
        sent, joining, leaving, question = driver.send(), driver.join("b"), driver.leave("a"), Ticket()
        driver.requests.members("a", question)
        driver.session.give_up_waiting()
        assert isinstance(failure(sent), UnknownOutcome)
        for ticket in (joining, leaving, question):
            assert type(failure(ticket)) is NoReply
        driver.lose()
        driver.open()
        assert [m["room"] for m in driver.sent()] == ["b"]  # it is still wanted

    def test_what_was_not_sent_then_is_not_sent_later(self) -> None:
        driver = Driver()
        unsent = driver.send()
        driver.session.give_up_waiting()
        assert type(failure(unsent)) is NoReply
        driver.open()
        assert driver.sent() == []
