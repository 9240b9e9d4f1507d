"""The timer wheel: never early, late by one slot at most, and nothing an owner does stops it."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roomwire.core.wheel import TimerWheel

SLOT = 0.25


class Owner:
    """Has a deadline, and notes when it was called."""

    def __init__(self, deadline: float = math.inf, then: Callable[[Owner], None] | None = None) -> None:
        self.wheel_slot = 0
        self.deadline = deadline
        self.calls: list[float] = []
        self.asked = 0
        self.then = then

    def next_deadline(self) -> float:
        self.asked += 1
        return self.deadline

    def expire(self, now: float) -> None:
        self.calls.append(now)
        self.deadline = math.inf
        if self.then is not None:
            self.then(self)


def test_an_empty_wheel_wants_nothing() -> None:
    wheel = TimerWheel(SLOT)
    assert wheel.next_time() == math.inf
    wheel.advance(1e9)


def test_an_owner_is_called_at_its_deadline_and_not_before() -> None:
    wheel, owner = TimerWheel(SLOT), Owner(10.1)
    wheel.arm(owner)
    assert wheel.next_time() == 10.25
    for now in (0.0, 10.0, 10.1, 10.2):
        wheel.advance(now)
        assert owner.calls == []
    wheel.advance(10.25)
    assert owner.calls == [10.25]
    assert wheel.next_time() == math.inf
    assert owner.wheel_slot == 0


def test_a_deadline_on_a_slot_is_kept_exactly() -> None:
    wheel, owner = TimerWheel(SLOT), Owner(10.0)
    wheel.arm(owner)
    wheel.advance(10.0)
    assert owner.calls == [10.0]


def test_an_owner_without_a_deadline_is_not_noted() -> None:
    wheel, owner = TimerWheel(SLOT), Owner()
    wheel.arm(owner)
    assert (owner.wheel_slot, wheel.next_time()) == (0, math.inf)


def test_a_deadline_that_moves_to_a_later_time_costs_nothing_until_its_slot() -> None:
    wheel, owner = TimerWheel(SLOT), Owner(10.0)
    wheel.arm(owner)
    slot = owner.wheel_slot
    for deadline in (11.0, 12.0, math.inf, 13.0):
        owner.deadline = deadline
        wheel.arm(owner)
        assert owner.wheel_slot == slot
    wheel.advance(10.0)
    assert owner.calls == []
    assert wheel.next_time() == 13.0
    wheel.advance(13.0)
    assert owner.calls == [13.0]


def test_a_deadline_that_moves_to_an_earlier_time_is_noted_anew() -> None:
    wheel, owner = TimerWheel(SLOT), Owner(10.0)
    wheel.arm(owner)
    owner.deadline = 5.0
    wheel.arm(owner)
    assert wheel.next_time() == 5.0
    wheel.advance(5.0)
    wheel.advance(10.0)
    assert owner.calls == [5.0]


def test_a_deadline_that_went_away_is_forgotten_at_its_slot() -> None:
    wheel, owner = TimerWheel(SLOT), Owner(10.0)
    wheel.arm(owner)
    owner.deadline = math.inf
    wheel.advance(10.0)
    assert owner.calls == []
    assert owner.wheel_slot == 0


def test_a_disarmed_owner_is_not_called() -> None:
    wheel, owner, other = TimerWheel(SLOT), Owner(10.0), Owner(10.0)
    wheel.arm(owner)
    wheel.arm(other)
    wheel.disarm(owner)
    wheel.disarm(owner)
    wheel.advance(20.0)
    assert (owner.calls, other.calls) == ([], [20.0])


def test_disarm_of_one_that_was_never_armed() -> None:
    owner = Owner(1.0)
    TimerWheel(SLOT).disarm(owner)
    assert owner.wheel_slot == 0


def test_an_owner_that_another_one_disarms_in_the_same_slot_is_not_called() -> None:
    wheel = TimerWheel(SLOT)
    owners = [Owner(10.0) for _ in range(8)]

    def disarm_the_others(owner: Owner) -> None:
        for other in owners:
            if other is not owner:
                wheel.disarm(other)

    for owner in owners:
        owner.then = disarm_the_others
        wheel.arm(owner)
    wheel.advance(10.0)
    assert sum(len(owner.calls) for owner in owners) == 1
    assert all(owner.wheel_slot == 0 for owner in owners)
    assert wheel.next_time() == math.inf


def test_an_owner_that_keeps_a_deadline_in_the_past_does_not_stop_the_wheel() -> None:
    def stay(owner: Owner) -> None:
        owner.deadline = 1.0

    wheel, owner = TimerWheel(SLOT), Owner(1.0, stay)
    wheel.arm(owner)
    wheel.advance(10.0)
    assert owner.calls == [10.0]
    wheel.advance(10.1)
    assert owner.calls == [10.0], "once for each slot of time"
    wheel.advance(10.25)
    assert owner.calls == [10.0, 10.25]


def test_an_owner_may_arm_itself_and_others_while_it_is_called() -> None:
    wheel, late = TimerWheel(SLOT), Owner(12.0)

    def again(owner: Owner) -> None:
        owner.deadline = 11.0
        wheel.arm(owner)
        wheel.arm(late)

    owner = Owner(10.0, again)
    wheel.arm(owner)
    wheel.advance(10.0)
    owner.then = None
    wheel.advance(11.0)
    wheel.advance(12.0)
    assert (owner.calls, late.calls) == ([10.0, 11.0], [12.0])


def test_one_that_raises_loses_nobody_else() -> None:
    def fail(owner: Owner) -> None:
        raise ZeroDivisionError

    wheel = TimerWheel(SLOT)
    owners = [Owner(10.0, fail) for _ in range(3)]
    for owner in owners:
        wheel.arm(owner)
    for _ in owners:
        with pytest.raises(ZeroDivisionError):
            wheel.advance(10.0)
    wheel.advance(10.0)
    assert [owner.calls for owner in owners] == [[10.0]] * 3


def test_time_that_stands_still_or_goes_back_is_harmless() -> None:
    wheel, owner = TimerWheel(SLOT), Owner(10.0)
    wheel.advance(20.0)
    wheel.arm(owner)
    wheel.advance(19.0)
    wheel.advance(20.0)
    assert owner.calls == []
    wheel.advance(20.25)
    assert owner.calls == [20.25]


def test_busy_owners_cost_the_wheel_one_look_for_each_noted_deadline() -> None:
    wheel, owner = TimerWheel(SLOT), Owner(30.0)
    wheel.arm(owner)
    owner.asked = 0
    for tick in range(1, 120 * 4):
        now = tick * SLOT
        owner.deadline = now + 30.0
        wheel.advance(now)
    assert owner.asked <= 10
    assert owner.calls == []


times = st.floats(0.0, 100.0)


@given(st.sampled_from([0.25, 0.1, 1 / 3, 1.0]), st.lists(times, min_size=1, max_size=20), times)
def test_never_early_and_late_by_one_slot_at_most(resolution: float, deadlines: list[float], start: float) -> None:
    wheel = TimerWheel(resolution)
    wheel.advance(start)
    owners = [Owner(start + deadline) for deadline in deadlines]
    for owner in owners:
        wheel.arm(owner)
    last = start
    while (now := wheel.next_time()) != math.inf:
        assert now > last
        last = now
        wheel.advance(now)
    for owner, deadline in zip(owners, deadlines, strict=True):
        (called,) = owner.calls
        assert start + deadline <= called
        assert called <= start + deadline + resolution * (1 + 1e-6)


@given(st.data())
def test_against_a_list_of_deadlines(data: st.DataObject) -> None:
    """Arming, moving, disarming and waiting in any order: called are those whose deadline has passed."""
    wheel = TimerWheel(SLOT)
    owners = [Owner() for _ in range(4)]
    armed: set[Owner] = set()
    now = 0.0
    for _ in range(data.draw(st.integers(1, 30))):
        owner = data.draw(st.sampled_from(owners))
        step = data.draw(st.sampled_from(["arm", "disarm", "later", "wait"]))
        if step == "arm":
            owner.deadline = now + data.draw(st.floats(0.0, 5.0))
            wheel.arm(owner)
            armed.add(owner)
        elif step == "disarm":
            wheel.disarm(owner)
            armed.discard(owner)
        elif step == "later" and owner in armed:
            owner.deadline += data.draw(st.floats(0.0, 5.0))
        else:
            now += data.draw(st.floats(0.0, 5.0))
            wheel.advance(now)
            for each in list(armed):
                if each.calls:
                    assert each.calls == [now]
                    each.calls.clear()
                    armed.discard(each)
                else:
                    assert each.deadline > now - SLOT
    assert all(not owner.calls for owner in owners)
