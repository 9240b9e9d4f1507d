"""The defaults of the limits, and the token bucket against a plain count."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from roomwire.core.limits import Limits, TokenBucket

LIMITS = TypeAdapter(Limits)


class TestLimits:
    def test_the_defaults_of_the_protocol(self) -> None:
        limits = Limits()
        assert (limits.heartbeat_interval, limits.heartbeat_timeout) == (30, 90)
        assert (limits.max_message_size, limits.max_event_size) == (65_536, 131_072)
        assert limits.max_state_size == 1_048_576
        assert (limits.connections_per_user, limits.rooms) == (5, 100)
        assert (limits.replay_events, limits.replay_bytes) == (1000, 4_194_304)
        assert (limits.idempotency_window, limits.resume_timeout, limits.max_errors) == (300, 10, 20)

    def test_no_default_makes_another_one_unreachable(self) -> None:
        limits = Limits()
        assert limits.heartbeat_timeout > limits.heartbeat_interval
        assert limits.frame_burst > limits.max_fragments
        assert limits.byte_burst > limits.max_message_size
        assert limits.outbox_bytes > limits.max_event_size
        assert limits.max_pending_handshakes > limits.max_pending_per_ip

    def test_they_cannot_be_changed(self) -> None:
        with pytest.raises(dataclasses.FrozenInstanceError):
            Limits().rooms = 1  # type: ignore[misc]  # what this is about

    @pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Limits)])
    def test_none_of_them_is_negative(self, field: str) -> None:
        with pytest.raises(ValidationError):
            LIMITS.validate_python({field: -1})

    @pytest.mark.parametrize(
        ("field", "value"),
        [("rooms", 0), ("heartbeat_timeout", 0), ("frames_per_second", 0.0), ("write_timeout", float("inf"))],
    )
    def test_what_would_switch_a_limit_off_by_mistake(self, field: str, value: float) -> None:
        with pytest.raises(ValidationError):
            LIMITS.validate_python({field: value})

    @pytest.mark.parametrize("field", ["idle_timeout", "min_byte_rate"])
    def test_two_of_them_can_be_switched_off(self, field: str) -> None:
        assert getattr(LIMITS.validate_python({field: 0}), field) == 0

    def test_what_happens_at_the_limit_of_connections(self) -> None:
        assert LIMITS.validate_python({"on_connection_limit": "evict"}).on_connection_limit == "evict"
        with pytest.raises(ValidationError):
            LIMITS.validate_python({"on_connection_limit": "ignore"})


class TestTokenBucket:
    @pytest.mark.parametrize("now", [0.0, 1.0, 1e6, 1e9])
    def test_a_full_bucket_gives_its_burst_and_no_more(self, now: float) -> None:
        bucket = TokenBucket(rate=50, burst=100)
        assert [bucket.take(now) for _ in range(101)] == [True] * 100 + [False]

    @pytest.mark.parametrize("now", [0.0, 1e6])
    def test_it_fills_at_its_rate(self, now: float) -> None:
        bucket = TokenBucket(rate=4, burst=2)
        assert bucket.take(now, 2)
        assert not bucket.take(now + 0.0625)
        assert bucket.take(now + 0.25)
        assert not bucket.take(now + 0.25)
        assert bucket.take(now + 0.75, 2)
        assert not bucket.take(now + 0.75)

    def test_it_never_holds_more_than_its_burst(self) -> None:
        bucket = TokenBucket(rate=100, burst=3)
        assert not bucket.take(1e6, 4)
        assert bucket.take(1e6, 3)
        assert not bucket.take(1e6)

    def test_a_refusal_takes_nothing(self) -> None:
        bucket = TokenBucket(rate=1, burst=10)
        assert bucket.take(0, 8)
        assert not any(bucket.take(0, 3) for _ in range(100))
        assert bucket.take(0, 2)

    def test_nothing_can_always_be_taken(self) -> None:
        bucket = TokenBucket(rate=1, burst=1)
        assert bucket.take(0)
        assert bucket.take(0, 0)

    def test_time_that_goes_back_gives_nothing(self) -> None:
        bucket = TokenBucket(rate=1, burst=1)
        assert bucket.take(10)
        assert not bucket.take(9)

    @given(
        st.sampled_from([(50, 100), (200, 1200), (262_144, 1_048_576), (1, 1), (0.2, 3)]),
        st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 1_100_000)), max_size=40),
    )
    @example((0.2, 3), [(0, 3), (4999, 1), (1, 1), (5000, 1)])
    def test_against_a_count_of_tokens(self, kind: tuple[float, int], steps: list[tuple[int, int]]) -> None:
        rate, burst = kind
        bucket, tokens, now = TokenBucket(rate, burst), float(burst), 1000.0
        for milliseconds, amount in steps:
            amount = min(amount, 2 * burst)
            now += milliseconds / 1000
            tokens = min(burst, tokens + rate * milliseconds / 1000)
            taken = bucket.take(now, amount)
            # It is up to half a token more generous than the count.
            assert taken <= (amount <= tokens + 0.501)
            assert taken >= (amount <= tokens - 0.001)
            if taken:
                tokens -= amount
