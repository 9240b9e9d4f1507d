"""A session's rules: rates, errors, liveness, expiry. Time is an argument."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roomwire.core.closing import CloseCode, Closing
from roomwire.core.commands import Call, Command, Heartbeat, Invalid, Join, Leave, ListMembers, ListRooms, Resume
from roomwire.core.limits import Limits
from roomwire.core.notices import Failed
from roomwire.core.positions import Position
from roomwire.core.session import Session

T = 1000.0
LIMITS = Limits()

CALL = Call("e", "r", "i", "null")
RESUME = Resume({}, "i")
HEARTBEAT = Heartbeat(None)
INVALID = Invalid("a fault", "i")
OTHERS: list[Command] = [Join("r", "i"), Leave("r", None), ListMembers("r", "i"), ListRooms("i")]


def closed(closing: object) -> int | None:
    return closing.code if isinstance(closing, Closing) else None


def test_a_resume_of_too_many_rooms_waits_with_no_more_than_its_refusal_needs() -> None:
    rooms = {f"chat:{number}": Position("e", number) for number in range(1000)}
    resume = Resume(rooms, "i")
    assert Session(LIMITS, T).receive(resume, T) is None
    assert len(resume.rooms) == LIMITS.rooms + 1
    assert resume.rooms.items() <= rooms.items()


class TestHeartbeats:
    def test_the_first_is_due_after_the_interval(self) -> None:
        session = Session(LIMITS, T)
        assert session.next_deadline() == T + 30
        assert session.poll(T + 29.99) == (False, None)
        assert session.poll(T + 30) == (True, None)
        assert session.poll(T + 30) == (False, None)

    def test_they_keep_their_phase(self) -> None:
        session = Session(LIMITS, T)
        for number in range(1, 20):
            session.heard(T + 30 * number, 1, 10)
            # Looked at up to a slot of the wheel late.
            assert session.poll(T + 30 * number + 0.2) == (True, None)
            assert session.poll(T + 30 * number + 29.9) == (False, None)

    def test_a_stall_makes_no_volley(self) -> None:
        session = Session(LIMITS, T)
        session.heard(T + 200, 1, 10)
        assert session.poll(T + 200) == (True, None)
        assert session.poll(T + 214.9) == (False, None)
        assert session.poll(T + 215) == (True, None)
        assert session.poll(T + 244.9) == (False, None)

    def test_they_go_on_while_reading_is_paused(self) -> None:
        session = Session(LIMITS, T)
        session.pause(T + 1)
        assert session.poll(T + 30) == (True, None)


class TestSilence:
    def test_ninety_seconds_exactly(self) -> None:
        session = Session(LIMITS, T)
        for beat in (30, 60):
            session.poll(T + beat)
        assert session.next_deadline() == T + 90
        assert session.poll(T + 89.999)[1] is None
        assert session.poll(T + 90)[1] == Closing.of(CloseCode.HEARTBEAT_MISSED)

    def test_it_has_a_deadline_of_its_own_between_two_heartbeats(self) -> None:
        session = Session(LIMITS, T)
        session.heard(T + 14, 1, 10)
        for beat in (30, 60, 90):
            assert session.poll(T + beat) == (True, None)
        assert session.next_deadline() == T + 104
        assert session.poll(T + 104) == (False, Closing.of(CloseCode.HEARTBEAT_MISSED))

    def test_any_frame_is_a_sign_of_life(self) -> None:
        session = Session(LIMITS, T)
        session.heard(T + 80, 1, 2)
        assert session.poll(T + 169.9)[1] is None
        assert closed(session.poll(T + 170)[1]) == 4001

    def test_our_own_heartbeats_are_none(self) -> None:
        session = Session(LIMITS, T)
        for beat in (30, 60):
            assert session.poll(T + beat)[0]
        assert closed(session.poll(T + 90)[1]) == 4001


class TestPause:
    def test_silence_says_nothing_while_reading_is_paused(self) -> None:
        session = Session(replace(LIMITS, max_read_pause=500.0), T)
        session.pause(T + 10)
        assert session.poll(T + 90)[1] is None
        assert session.poll(T + 509)[1] is None

    def test_it_has_a_limit_of_its_own(self) -> None:
        session = Session(LIMITS, T)
        session.pause(T + 10)
        for beat in (30, 60):
            assert session.poll(T + beat) == (True, None)
        assert session.next_deadline() == T + 70
        assert session.poll(T + 69.9)[1] is None
        assert session.poll(T + 70)[1] == Closing.of(CloseCode.TRY_LATER)

    def test_paused_again_while_paused_does_not_begin_anew(self) -> None:
        session = Session(LIMITS, T)
        session.pause(T)
        session.pause(T + 59)
        assert closed(session.poll(T + 60)[1]) == 1013

    def test_silence_counts_from_the_end_of_the_pause(self) -> None:
        session = Session(LIMITS, T)
        session.pause(T + 10)
        session.resume(T + 60)
        assert session.poll(T + 149.9)[1] is None
        assert closed(session.poll(T + 150)[1]) == 4001

    def test_to_go_on_without_a_pause_is_no_sign_of_life(self) -> None:
        session = Session(LIMITS, T)
        session.resume(T + 80)
        assert closed(session.poll(T + 90)[1]) == 4001

    def test_every_pause_has_the_whole_limit(self) -> None:
        session = Session(LIMITS, T)
        for start in (0, 100, 200):
            session.pause(T + start)
            assert session.poll(T + start + 59)[1] is None
            session.resume(T + start + 59)

    def test_a_token_expires_during_a_pause(self) -> None:
        session = Session(LIMITS, T, expires_in=20)
        session.pause(T + 10)
        assert closed(session.poll(T + 20)[1]) == 4003


class TestExpiry:
    def test_at_its_time(self) -> None:
        session = Session(LIMITS, T, expires_in=12.5)
        assert session.next_deadline() == T + 12.5
        assert session.poll(T + 12.4)[1] is None
        assert session.poll(T + 12.5) == (False, Closing.of(CloseCode.TOKEN_EXPIRED))

    def test_it_wins_over_every_other_cause(self) -> None:
        session = Session(replace(LIMITS, idle_timeout=5.0), T, expires_in=1, must_resume=True)
        assert closed(session.poll(T + 500)[1]) == 4003

    def test_messages_do_not_put_it_off(self) -> None:
        session = Session(LIMITS, T, expires_in=12)
        session.heard(T + 11, 1, 10)
        assert session.receive(CALL, T + 11) is None
        assert closed(session.poll(T + 12)[1]) == 4003

    @pytest.mark.parametrize("expires_in", [0.0, -5.0])
    def test_one_that_has_expired_already(self, expires_in: float) -> None:
        assert closed(Session(LIMITS, T, expires_in=expires_in).poll(T)[1]) == 4003


class TestIdle:
    LIMITS = replace(LIMITS, idle_timeout=20.0)

    def test_off_by_default(self) -> None:
        session = Session(LIMITS, T)
        session.heard(T + 80, 1, 10)
        assert session.poll(T + 100)[1] is None

    def test_without_a_message_of_the_application(self) -> None:
        session = Session(self.LIMITS, T)
        session.heard(T + 19, 1, 10)
        session.receive(HEARTBEAT, T + 19)
        session.receive(Join("r", "i"), T + 19)
        assert session.next_deadline() == T + 20
        assert session.poll(T + 19.9)[1] is None
        assert session.poll(T + 20)[1] == Closing.of(CloseCode.IDLE)

    def test_a_message_puts_it_off(self) -> None:
        session = Session(self.LIMITS, T)
        session.receive(CALL, T + 15)
        assert session.poll(T + 34.9)[1] is None
        assert closed(session.poll(T + 35)[1]) == 4504

    def test_it_is_suspended_while_reading_is_paused(self) -> None:
        session = Session(self.LIMITS, T)
        session.receive(CALL, T + 5)
        session.pause(T + 10)
        assert session.poll(T + 30) == (True, None)
        assert session.next_deadline() == T + 60, "the next heartbeat: nothing in the past"
        session.resume(T + 50)
        assert session.poll(T + 64.9)[1] is None
        assert closed(session.poll(T + 65)[1]) == 4504

    def test_what_came_during_a_pause_counts_from_its_end_at_most(self) -> None:
        session = Session(self.LIMITS, T)
        session.pause(T + 10)
        session.receive(CALL, T + 40)
        session.resume(T + 50)
        assert closed(session.poll(T + 70)[1]) == 4504


class TestThePromiseToResume:
    def test_it_is_kept_within_ten_seconds(self) -> None:
        session = Session(LIMITS, T, must_resume=True)
        assert session.next_deadline() == T + 10
        assert session.poll(T + 9.9)[1] is None
        assert session.poll(T + 10)[1] == Closing.of(CloseCode.NOT_RESUMABLE)

    def test_afterwards_it_is_a_session_like_any_other(self) -> None:
        session = Session(LIMITS, T, must_resume=True)
        assert session.receive(RESUME, T + 9) is None
        assert session.next_deadline() == T + 30
        assert session.poll(T + 10) == (False, None)
        assert session.receive(CALL, T + 11) is None
        assert session.receive(RESUME, T + 12) is None

    @pytest.mark.parametrize("command", [CALL, *OTHERS], ids=lambda command: type(command).__name__)
    def test_another_message_before_it_ends_the_connection(self, command: Command) -> None:
        session = Session(LIMITS, T, must_resume=True)
        assert session.receive(command, T) == Closing(1008, "session.resume has to come first")

    def test_a_heartbeat_may_come_before_it(self) -> None:
        session = Session(LIMITS, T, must_resume=True)
        assert session.receive(HEARTBEAT, T + 1) is None
        assert session.receive(RESUME, T + 2) is None

    def test_one_that_cannot_be_read_is_answered_and_may_be_corrected(self) -> None:
        session = Session(LIMITS, T, must_resume=True)
        assert session.receive(INVALID, T + 1) == Failed("i", "invalid", "a fault")
        assert session.next_deadline() == T + 10
        assert session.receive(RESUME, T + 2) is None

    def test_one_that_comes_too_fast_is_answered_and_may_be_sent_again(self) -> None:
        session = Session(replace(LIMITS, message_burst=1, messages_per_second=1.0), T, must_resume=True)
        assert session.receive(HEARTBEAT, T) is None
        verdict = session.receive(RESUME, T)
        assert isinstance(verdict, Failed)
        assert verdict.code == "rate_limited"
        assert session.next_deadline() == T + 10
        assert session.receive(CALL, T + 2) == Closing(1008, "session.resume has to come first")
        assert session.receive(RESUME, T + 2) is None
        assert session.next_deadline() == T + 30

    def test_nobody_else_has_to(self) -> None:
        assert Session(LIMITS, T).receive(CALL, T) is None


class TestErrors:
    def test_twenty_in_a_minute_are_told_and_the_next_closes(self) -> None:
        session = Session(LIMITS, T)
        for _ in range(20):
            assert session.receive(INVALID, T) == Failed("i", "invalid", "a fault")
        assert session.receive(INVALID, T + 59.9) == Closing.of(CloseCode.POLICY)

    def test_spread_over_the_minute(self) -> None:
        session = Session(LIMITS, T)
        verdicts = [session.receive(INVALID, T + 2.9 * number) for number in range(21)]
        assert [closed(verdict) for verdict in verdicts] == [None] * 20 + [1008]

    def test_a_minute_later_they_are_forgotten(self) -> None:
        session = Session(LIMITS, T)
        for number in range(200):
            assert isinstance(session.receive(INVALID, T + 3 * number), Failed)
        for _ in range(20):
            assert isinstance(session.receive(INVALID, T + 1000), Failed)

    def test_what_may_be_configured(self) -> None:
        session = Session(replace(LIMITS, max_errors=1), T)
        assert isinstance(session.receive(INVALID, T), Failed)
        assert closed(session.receive(INVALID, T)) == 1008

    def test_they_take_nothing_from_the_rate_of_messages(self) -> None:
        session = Session(replace(LIMITS, message_burst=1), T)
        assert isinstance(session.receive(INVALID, T), Failed)
        assert session.receive(CALL, T) is None

    @given(st.lists(st.floats(0, 30), max_size=60))
    def test_against_a_list_of_times(self, gaps: list[float]) -> None:
        session, now, told = Session(replace(LIMITS, max_errors=3), T), T, list[float]()
        for gap in gaps:
            now += gap
            too_many = sum(now - time < 60 for time in told) >= 3
            verdict = session.receive(INVALID, now)
            assert (closed(verdict) == 1008) is too_many
            if too_many:
                break
            told.append(now)


class TestRates:
    @pytest.mark.parametrize("command", [CALL, RESUME, HEARTBEAT, *OTHERS], ids=lambda command: type(command).__name__)
    def test_too_many_messages_are_refused_and_the_connection_stays(self, command: Command) -> None:
        session = Session(LIMITS, T)
        verdicts = [session.receive(command, T) for _ in range(101)]
        assert verdicts[:100] == [None] * 100
        assert verdicts[100] == Failed(getattr(command, "ref", None), "rate_limited", "too many messages, slow down")
        assert session.receive(command, T + 0.02) is None

    def test_too_many_frames(self) -> None:
        session = Session(LIMITS, T)
        assert session.heard(T, 1200, 100) is None
        assert session.heard(T, 1, 1) == Closing.of(CloseCode.RATE_LIMITED)

    def test_too_many_bytes(self) -> None:
        session = Session(LIMITS, T)
        assert session.heard(T, 1, 1_048_576) is None
        assert session.heard(T, 0, 1) == Closing.of(CloseCode.RATE_LIMITED)

    def test_one_message_of_most_fragments_fits(self) -> None:
        assert Session(LIMITS, T).heard(T, LIMITS.max_fragments, LIMITS.max_message_size) is None

    def test_a_steady_client_at_the_rates_is_let_through(self) -> None:
        session = Session(LIMITS, T)
        for tick in range(1000):
            now = T + tick * 0.02
            assert session.heard(now, 4, 5000) is None
            assert session.receive(CALL, now) is None


# --- all of it together ------------------------------------------------------------------------

steps = st.sampled_from(["heard", "call", "invalid", "resume-command", "pause", "resume", "poll", "poll", "poll"])


@given(st.booleans(), st.booleans(), st.none() | st.floats(0, 300), st.lists(st.tuples(steps, st.floats(0, 40))))
def test_a_deadline_is_when_poll_has_something_to_say(
    idle: bool, must_resume: bool, expires_in: float | None, moves: list[tuple[str, float]]
) -> None:
    """Or else a timer would call for ever. And before it, poll says nothing."""
    limits = replace(LIMITS, idle_timeout=25.0 if idle else 0.0)
    session, now = Session(limits, T, expires_in=expires_in, must_resume=must_resume), T
    for step, wait in moves:
        deadline = session.next_deadline()
        assert deadline < math.inf
        now += wait
        if step == "poll":
            due = now >= deadline
            beat, closing = session.poll(now)
            assert (beat or closing is not None) is due
            if closing is not None:
                return
            assert session.next_deadline() > now
        elif step == "heard":
            session.heard(now, 1, 10)
        elif step == "call":
            session.receive(CALL, now)
        elif step == "invalid":
            session.receive(INVALID, now)
        elif step == "resume-command":
            session.receive(RESUME, now)
        elif step == "pause":
            session.pause(now)
        else:
            session.resume(now)
