"""Back-off, and what a refusal or a close means (docs/reference/protocol.md sections 6 and 7)."""

from __future__ import annotations

import pytest

from roomwire.client.errors import ConnectionClosed, ConnectionRefused
from roomwire.client.events import Connected, Disconnected
from roomwire.client.retry import Backoff
from roomwire.client.session import Phase
from tests.client.driver import Driver


class TestBackoff:
    def test_the_bound_doubles_up_to_thirty_seconds(self) -> None:
        backoff = Backoff(lambda: 1.0)
        assert [backoff.next() for _ in range(7)] == [1, 2, 4, 8, 16, 30, 30]

    def test_each_wait_has_full_jitter(self) -> None:
        chances = iter([0.0, 0.5, 0.25])
        backoff = Backoff(lambda: next(chances))
        assert [backoff.next() for _ in range(3)] == [0, 1, 1]

    def test_a_reset_begins_anew(self) -> None:
        backoff = Backoff(lambda: 1.0)
        backoff.next()
        backoff.next()
        backoff.reset()
        assert backoff.next() == 1

    def test_a_connection_resets_it_after_ten_seconds(self) -> None:
        driver = Driver()
        for _ in range(3):
            driver.begin()
            driver.session.failed(driver.now, "refused")
        driver.open()
        driver.now += 9.9
        driver.lose()
        assert driver.wait == pytest.approx(8)
        driver.open()
        driver.now += 10
        driver.lose()
        assert driver.wait == pytest.approx(1)

    def test_silence_is_not_health(self) -> None:
        driver = Driver()
        driver.begin()
        driver.session.failed(driver.now, "refused")
        driver.open()
        driver.advance(40)  # the welcome was the last that came
        assert driver.wait == pytest.approx(2)

    def test_what_was_heard_before_the_silence_is(self) -> None:
        driver = Driver()
        driver.begin()
        driver.session.failed(driver.now, "refused")
        driver.open()
        driver.advance(30)
        driver.receive("heartbeat")
        driver.advance(40)
        assert driver.wait == pytest.approx(1)

    def test_a_connection_that_is_closed_at_once_does_not(self) -> None:
        driver = Driver()
        waits = []
        for _ in range(4):
            driver.open()
            driver.lose(1013)
            waits.append(driver.wait)
        assert waits == pytest.approx([1, 2, 4, 8])


class TestRefusals:
    def test_401_asks_for_a_token_once_more_at_once(self) -> None:
        driver = Driver()
        driver.begin()
        driver.refuse(401)
        assert driver.wait == 0

    def test_a_second_401_gives_up(self) -> None:
        driver = Driver()
        for _ in range(2):
            driver.begin()
            driver.refuse(401)
        assert driver.phase is Phase.ENDED
        error = driver.session.error()
        assert isinstance(error, ConnectionRefused)
        assert error.status == 401

    def test_a_503_between_two_401_does_not_hide_the_first(self) -> None:
        driver = Driver()
        for status in (401, 503, 401):
            driver.begin()
            driver.refuse(status)
        assert driver.phase is Phase.ENDED

    def test_a_welcome_in_between_does(self) -> None:
        driver = Driver()
        driver.begin()
        driver.refuse(401)
        driver.open()
        driver.lose()
        driver.begin()
        driver.refuse(401)
        assert driver.wait == 0

    def test_400_tries_once_more_without_the_cursor(self) -> None:
        driver = Driver()
        driver.open()
        driver.be_in("a")
        driver.lose()
        assert "last_event_id" in driver.begin()
        driver.refuse(400)
        assert driver.wait == 0
        query = driver.begin()
        assert "last_event_id" not in query
        assert query["state"] == "1"  # nothing is proven now: the rooms that the server joins come with their state

    def test_a_second_400_gives_up(self) -> None:
        driver = Driver()
        driver.open()
        driver.be_in("a")
        driver.lose()
        for _ in range(2):
            driver.begin()
            driver.refuse(400)
        assert driver.phase is Phase.ENDED

    def test_it_stays_without_the_cursor_until_a_welcome(self) -> None:
        driver = Driver()
        driver.open()
        driver.be_in("a")
        driver.lose()
        for status in (400, 503):
            driver.begin()
            driver.refuse(status)
        assert "last_event_id" not in driver.begin()

    def test_400_without_a_cursor_is_about_something_else(self) -> None:
        driver = Driver()
        driver.begin()
        driver.refuse(400)
        assert driver.phase is Phase.ENDED

    @pytest.mark.parametrize("status", [403, 404, 426])
    def test_these_give_up(self, status: int) -> None:
        driver = Driver()
        driver.begin()
        driver.refuse(status)
        error = driver.session.error()
        assert isinstance(error, ConnectionRefused)
        assert (error.status, error.code) == (status, 1006)

    @pytest.mark.parametrize("status", [302, 402, 408, 429, 500, 502, 503])
    def test_any_other_waits_at_least_retry_after(self, status: int) -> None:
        driver = Driver()
        driver.chance = 0.25
        driver.begin()
        driver.refuse(status, retry_after=7)
        assert driver.wait == pytest.approx(7.25)

    def test_without_retry_after_there_is_the_back_off(self) -> None:
        driver = Driver()
        driver.begin()
        driver.refuse(429)
        assert driver.wait == 1


class TestCloses:
    @pytest.mark.parametrize("code", [1000, 1002, 1003, 1007, 1008, 1009, 4500, 4501, 4502, 4503, 4650, 4999])
    def test_a_final_code_ends_it(self, code: int) -> None:
        driver = Driver()
        driver.open()
        driver.lose(code, "go")
        error = driver.session.error()
        assert isinstance(error, ConnectionClosed)
        assert (error.code, error.reason) == (code, "go")

    @pytest.mark.parametrize("code", [1001, 1005, 1006, 1011, 1012, 1013, 1014, 3000, 4000, 4001, 4003, 4150, 4499])
    def test_any_other_comes_back(self, code: int) -> None:
        driver = Driver()
        driver.open()
        driver.lose(code)
        assert driver.wait == 1
        connected, disconnected = driver.session.take_items()
        assert isinstance(connected, Connected)
        assert disconnected == Disconnected(code, "", 1.0)

    def test_retry_after_of_session_closing_is_waited_for(self) -> None:
        driver = Driver()
        driver.chance = 0.5
        driver.open()
        closing = {"code": 1012, "reason": "restart", "reconnect": True, "retry_after": 4.5}
        driver.receive("session.closing", data=closing)
        driver.lose(1012, "restart")
        assert driver.wait == pytest.approx(5)

    def test_it_holds_for_that_close_only(self) -> None:
        driver = Driver()
        driver.open()
        driver.receive("session.closing", data={"code": 1012, "retry_after": 100})
        driver.lose(1012)
        driver.open()
        driver.lose(1012)
        assert driver.wait == pytest.approx(2)

    @pytest.mark.parametrize("hint", [None, -1, "5", True, 1e12])
    def test_a_senseless_hint_is_none(self, hint: object) -> None:
        driver = Driver()
        driver.open()
        driver.receive("session.closing", data={"code": 1012, "retry_after": hint})
        driver.lose(1012)
        assert driver.wait == 1

    def test_the_announced_code_counts_where_the_close_frame_was_lost(self) -> None:
        """Coming back after a lost 4501 would take the slot from the newer connection, for ever in turn."""
        driver = Driver()
        driver.open()
        driver.receive("session.closing", data={"code": 4501, "reason": "replaced", "reconnect": False})
        driver.lose(1006)
        error = driver.session.error()
        assert isinstance(error, ConnectionClosed)
        assert (error.code, error.reason) == (4501, "replaced")

    def test_the_close_frame_counts_where_both_came(self) -> None:
        driver = Driver()
        driver.open()
        driver.receive("session.closing", data={"code": 1012})
        driver.lose(4502)
        assert driver.phase is Phase.ENDED

    def test_a_final_close_fails_what_waits(self) -> None:
        driver = Driver()
        driver.open()
        joining = driver.join("a")
        driver.lose(4502, "revoked")
        with pytest.raises(ConnectionClosed, match="4502: revoked"):
            joining.result()

    def test_what_comes_after_the_end_changes_nothing(self) -> None:
        driver = Driver()
        driver.open()
        driver.lose(4502)
        driver.lose(1006)
        driver.session.end(lambda: ConnectionClosed(1000))
        driver.event("a", "e:1")
        assert driver.items() == []
        assert driver.session.deadline == float("inf")
        error = driver.session.error()
        assert isinstance(error, ConnectionClosed)
        assert error.code == 4502
