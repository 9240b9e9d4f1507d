"""The life of a link: the welcome, signs of life, pauses (docs/reference/protocol.md sections 4 and 7)."""

from __future__ import annotations

import math

import pytest

from roomwire.client.events import Connected, Disconnected, Event, Recovered
from roomwire.client.session import Options, Phase
from roomwire.core.errors import ConnectionClosed
from tests.client.driver import Driver


@pytest.fixture
def driver() -> Driver:
    driver = Driver()
    driver.open()
    driver.session.take_items()
    return driver


class TestTheWelcome:
    def test_the_first_attempt_is_due_at_once(self) -> None:
        driver = Driver()
        assert driver.phase is Phase.WAITING
        assert driver.session.deadline == -math.inf

    def test_it_makes_the_link_ready(self) -> None:
        driver = Driver()
        driver.begin()
        assert driver.phase.value == "opening"
        driver.welcome()
        assert driver.phase.value == "ready"
        assert driver.session.user == "ann"
        assert driver.session.take_items() == [Connected("s1", "ann")]

    def test_it_is_told_before_the_rooms(self) -> None:
        driver = Driver()
        driver.open()
        driver.be_in("a")
        driver.lose()
        driver.session.take_items()
        driver.open({"a": {"position": "e:1", "recovered": True}})
        assert [type(item) for item in driver.session.take_items()] == [Connected, Recovered]

    def test_anything_else_first_ends_it(self) -> None:
        driver = Driver()
        driver.begin()
        driver.receive("hello")
        with pytest.raises(ConnectionClosed, match=r"1002: the first message is not session\.welcome"):
            raise driver.session.error()

    def test_a_bare_welcome_has_the_defaults(self) -> None:
        driver = Driver()
        driver.begin()
        driver.receive("session.welcome")
        assert driver.phase is Phase.READY
        assert driver.session.deadline == driver.now + 40

    def test_none_in_time_is_a_failed_attempt(self) -> None:
        driver = Driver(options=Options(open_timeout=3))
        driver.begin()
        assert driver.session.deadline == driver.now + 3
        driver.now += 3
        assert driver.session.tick(driver.now) is True
        assert driver.wait == 1
        assert driver.session.take_items() == [Disconnected(1006, "no welcome in time", 1.0)]

    def test_a_tick_before_that_changes_nothing(self) -> None:
        driver = Driver()
        driver.begin()
        assert driver.session.tick(driver.now + 9.9) is False
        assert driver.phase is Phase.OPENING

    def test_a_failed_attempt_says_why(self) -> None:
        driver = Driver()
        driver.begin()
        driver.session.failed(driver.now, "connection refused")
        assert driver.session.take_items() == [Disconnected(1006, "connection refused", 1.0)]


class TestSignsOfLife:
    def test_a_heartbeat_is_answered(self, driver: Driver) -> None:
        driver.receive("heartbeat", data={})
        assert driver.sent() == [{"event": "presence.heartbeat"}]

    def test_silence_of_interval_and_ten_seconds_is_death(self, driver: Driver) -> None:
        driver.advance(39.9)
        assert driver.phase is Phase.READY
        assert driver.session.tick(driver.now + 0.1) is True
        assert driver.session.take_items() == [Disconnected(1006, "the server is silent", 1.0)]

    def test_any_frame_is_a_sign(self, driver: Driver) -> None:
        driver.advance(39)
        driver.session.heard(driver.now)
        driver.advance(39)
        assert driver.phase is Phase.READY

    def test_the_server_says_the_interval(self) -> None:
        driver = Driver()
        driver.begin()
        driver.welcome(heartbeat={"interval": 5, "timeout": 15})
        assert driver.session.deadline == driver.now + 15

    def test_what_waited_to_be_sent_goes_nowhere(self, driver: Driver) -> None:
        driver.receive("heartbeat")
        driver.lose()
        assert driver.sent() == []


class TestPauses:
    """While the application does not read, nothing is read from the socket."""

    def test_silence_says_nothing_then(self, driver: Driver) -> None:
        driver.session.pause(driver.now)
        driver.advance(300)
        assert driver.phase is Phase.READY

    def test_signs_of_life_are_sent_without_being_asked(self, driver: Driver) -> None:
        driver.session.pause(driver.now)
        driver.advance(29.9)
        assert driver.sent() == []
        driver.advance(0.1)
        assert driver.sent() == [{"event": "presence.heartbeat"}]
        driver.advance(60)
        assert len(driver.sent()) == 2

    def test_reading_on_begins_the_silence_anew(self, driver: Driver) -> None:
        driver.session.pause(driver.now)
        driver.advance(100)
        driver.session.unpause(driver.now)
        assert driver.session.deadline == driver.now + 40

    def test_a_tick_in_between_changes_nothing(self, driver: Driver) -> None:
        driver.session.pause(driver.now)
        assert driver.session.tick(driver.now + 29) is False
        assert driver.sent() == []

    def test_the_next_link_is_not_paused(self, driver: Driver) -> None:
        driver.session.pause(driver.now)
        driver.lose()
        driver.open()
        assert driver.session.deadline == driver.now + 40


class TestDeadlines:
    def test_a_backlog_is_not_late_while_the_wait_is_longer(self, driver: Driver) -> None:
        driver.send()
        driver.lose()
        assert driver.session.deadline == driver.session.retry_at
        driver.begin()
        assert driver.session.deadline == driver.now + 10

    def test_whoever_waits_keeps_reading(self, driver: Driver) -> None:
        assert not driver.session.awaits_reply
        driver.send()
        assert driver.session.awaits_reply
        driver.ack("1")
        assert not driver.session.awaits_reply
        driver.lose()
        assert driver.session.awaits_reply  # for the welcome


def test_items_keep_the_order_of_the_messages(driver: Driver) -> None:
    driver.be_in("a")
    driver.event("a", "e:2")
    driver.lose()
    driver.open({"a": {"position": "e:3", "recovered": True}})
    driver.event("a", "e:3")
    kinds = [type(item) for item in driver.session.take_items()]
    assert kinds == [Event, Disconnected, Connected, Recovered, Event]
