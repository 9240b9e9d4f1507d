"""The room tail: each rule of `roomwire.core.tail` by its name."""

from __future__ import annotations

import sys

import pytest

from roomwire.core.positions import Position
from roomwire.core.tail import (
    HELD_BYTES,
    HELD_EVENTS,
    RING_EVENTS,
    SILENCE,
    Entry,
    Need,
    Page,
    RoomTail,
)
from tests.core.tails import EPOCH, NOW, at, body, entry, needs, offsets, page, receive


@pytest.fixture
def tail() -> RoomTail:
    return RoomTail(at(10))


class TestDelivery:
    def test_what_follows_is_passed_on(self, tail: RoomTail) -> None:
        assert receive(tail, 11, 12, 13) == [11, 12, 13]
        assert tail.position == at(13)
        assert needs(tail) is Need.NONE

    def test_offsets_need_not_be_consecutive(self, tail: RoomTail) -> None:
        assert offsets(tail.receive(EPOCH, 7, 90, b"", NOW)) == [90]
        assert offsets(tail.receive(EPOCH, 90, 400, b"", NOW)) == [400]
        assert needs(tail) is Need.NONE

    def test_a_repeated_one_is_dropped(self, tail: RoomTail) -> None:
        assert receive(tail, 11, 12, 11, 12, 12) == [11, 12]
        assert needs(tail) is Need.NONE

    def test_one_from_before_the_start_is_dropped(self, tail: RoomTail) -> None:
        assert tail.receive(EPOCH, 8, 9, b"whatever it was", NOW) == ()
        assert tail.receive(EPOCH, 9, 10, b"whatever it was", NOW) == ()
        assert needs(tail) is Need.NONE

    def test_one_older_than_the_ring_is_dropped(self) -> None:
        tail = RoomTail(at(0))
        receive(tail, *range(1, RING_EVENTS + 2))
        assert tail.receive(EPOCH, 0, 1, b"whatever it was", NOW) == ()
        assert needs(tail) is Need.NONE

    def test_another_event_at_a_known_offset_is_a_fork(self, tail: RoomTail) -> None:
        receive(tail, 11, 12)
        assert tail.receive(EPOCH, 10, 11, b"another", NOW) == ()
        assert needs(tail) is Need.RESET
        assert tail.reason == "fork"

    def test_an_event_where_the_ring_knows_none_is_a_fork(self, tail: RoomTail) -> None:
        tail.receive(EPOCH, 10, 20, b"", NOW)
        assert tail.receive(EPOCH, 10, 15, b"", NOW) == ()
        assert (needs(tail), tail.reason) == (Need.RESET, "fork")

    def test_a_gap_is_held_until_it_is_filled(self, tail: RoomTail) -> None:
        assert receive(tail, 12, 14, 13) == []
        assert needs(tail) is Need.RECOVER
        assert receive(tail, 11) == [11, 12, 13, 14]
        assert needs(tail) is Need.NONE

    def test_a_repeated_one_in_a_gap_is_passed_on_once(self, tail: RoomTail) -> None:
        assert receive(tail, 12, 12, 11, 12) == [11, 12]
        assert needs(tail) is Need.NONE

    def test_a_gap_filled_in_part_still_needs_a_read(self, tail: RoomTail) -> None:
        assert receive(tail, 12, 14, 11) == [11, 12]
        assert needs(tail) is Need.RECOVER

    def test_another_epoch_is_held(self, tail: RoomTail) -> None:
        assert receive(tail, 1, epoch="f") == []
        assert needs(tail) is Need.RECOVER
        assert receive(tail, 11) == [11]
        assert needs(tail) is Need.RECOVER

    def test_a_held_one_that_contradicts_is_a_fork(self, tail: RoomTail) -> None:
        tail.receive(EPOCH, 11, 12, b"of another branch", NOW)
        tail.recovered(page(12, [11, 12]), tail.begin(NOW))
        assert (needs(tail), tail.reason) == (Need.RESET, "fork")

    def test_nothing_is_passed_on_once_a_reset_is_needed(self, tail: RoomTail) -> None:
        receive(tail, 11)
        tail.receive(EPOCH, 10, 11, b"another", NOW)
        assert receive(tail, 12, 13) == []
        assert tail.recovered(page(13, [12, 13]), at(11)) == ()
        assert tail.feed(page(13, [12, 13]), at(11)) == ()
        assert tail.since(at(11), NOW) is None
        assert tail.position == at(11)

    def test_what_is_held_is_bounded_in_events(self, tail: RoomTail) -> None:
        receive(tail, *range(12, 12 + HELD_EVENTS + 5))
        assert tail.dropped == 5
        assert len(receive(tail, 11)) == HELD_EVENTS + 1
        # The dropped ones are not forgotten: they are read.
        assert needs(tail) is Need.RECOVER

    def test_what_is_held_is_bounded_in_bytes(self, tail: RoomTail) -> None:
        half = b"x" * (HELD_BYTES // 2)
        for offset in (12, 13, 14):
            tail.receive(EPOCH, offset - 1, offset, half, NOW)
        assert tail.dropped == 1
        assert offsets(tail.receive(EPOCH, 10, 11, b"", NOW)) == [11, 12, 13]
        receive(tail, 20)
        assert tail.dropped == 1


class TestStart:
    def test_an_unsubscribed_tail_holds(self) -> None:
        tail = RoomTail()
        assert needs(tail) is Need.START
        assert receive(tail, 5, 4, 6) == []
        assert tail.feed(page(6, [5, 6]), at(4)) == ()
        assert offsets(tail.reset(at(4), NOW)) == [5, 6]
        assert needs(tail) is Need.NONE
        assert tail.reason == ""

    def test_it_passes_no_ephemeral_event_on(self) -> None:
        assert RoomTail().ephemeral(b"typing") == ()

    def test_an_idle_tail_has_no_containers(self) -> None:
        tail = RoomTail(at(10))
        containers = [name for name in tail.__slots__ if isinstance(getattr(tail, name), list | dict | set)]
        assert containers == []
        assert not hasattr(tail, "__dict__")
        assert sys.getsizeof(tail) < 250


class TestRecovery:
    def test_a_gap_is_filled_from_the_history(self, tail: RoomTail) -> None:
        receive(tail, 13)
        since = tail.begin(NOW)
        assert since == at(10)
        assert offsets(tail.recovered(page(13, [11, 12, 13]), since)) == [11, 12, 13]
        assert needs(tail) is Need.NONE

    def test_live_events_meanwhile_are_not_repeated(self, tail: RoomTail) -> None:
        tail.interrupted()
        since = tail.begin(NOW)
        assert receive(tail, 11, 12) == [11, 12]
        assert offsets(tail.recovered(page(13, [11, 12, 13]), since)) == [13]
        assert receive(tail, 13, 14) == [14]

    def test_a_page_that_contradicts_is_a_fork(self, tail: RoomTail) -> None:
        since = tail.begin(NOW)
        receive(tail, 11)
        assert tail.recovered(Page(at(12), [Entry(10, 11, b"another"), entry(12)]), since) == []
        assert (needs(tail), tail.reason) == (Need.RESET, "fork")

    def test_what_is_held_follows_on_the_page(self, tail: RoomTail) -> None:
        since = tail.begin(NOW)
        receive(tail, 14, 15)
        assert offsets(tail.recovered(page(13, [11, 12, 13]), since)) == [11, 12, 13, 14, 15]
        assert needs(tail) is Need.NONE

    def test_a_gap_that_came_during_the_read_asks_for_another(self, tail: RoomTail) -> None:
        tail.interrupted()
        since = tail.begin(NOW)
        assert needs(tail) is Need.NONE
        receive(tail, 13)
        tail.recovered(page(11, [11]), since)
        assert needs(tail) is Need.RECOVER
        assert offsets(tail.recovered(page(13, [12, 13]), tail.begin(NOW))) == [12, 13]
        assert needs(tail) is Need.NONE

    def test_what_was_held_before_the_read_and_is_not_found_does_not_exist(self, tail: RoomTail) -> None:
        receive(tail, 13)
        tail.recovered(page(11, [11]), tail.begin(NOW))
        assert needs(tail) is Need.NONE
        assert tail.position == at(11)
        assert receive(tail, 12, 13) == [12, 13]

    def test_a_late_delivery_of_an_old_epoch_is_forgotten_after_the_read(self, tail: RoomTail) -> None:
        receive(tail, 5, epoch="old")
        assert needs(tail) is Need.RECOVER
        assert tail.recovered(page(10), tail.begin(NOW)) == []
        assert needs(tail) is Need.NONE

    def test_a_new_epoch_that_begins_during_the_read_asks_for_another(self, tail: RoomTail) -> None:
        tail.interrupted()
        since = tail.begin(NOW)
        receive(tail, 1, epoch="f")
        tail.recovered(page(10), since)
        assert needs(tail) is Need.RECOVER
        tail.recovered(page(1, reason="epoch", epoch="f"), tail.begin(NOW))
        assert (needs(tail), tail.reason) == (Need.RESET, "epoch")

    def test_pages_go_on(self, tail: RoomTail) -> None:
        receive(tail, 17)
        assert offsets(tail.recovered(page(16, [11, 12, 13]), tail.begin(NOW))) == [11, 12, 13]
        assert needs(tail) is Need.RECOVER
        assert offsets(tail.recovered(page(16, [14, 15, 16]), tail.begin(NOW))) == [14, 15, 16, 17]
        assert needs(tail) is Need.NONE

    def test_pages_go_on_where_nothing_is_held(self, tail: RoomTail) -> None:
        tail.interrupted()
        tail.recovered(page(16, [11, 12]), tail.begin(NOW))
        assert needs(tail) is Need.RECOVER

    def test_the_top_may_move_without_an_event(self, tail: RoomTail) -> None:
        tail.compare(at(50))
        assert tail.recovered(page(50), tail.begin(NOW)) == []
        assert tail.position == at(50)
        assert needs(tail) is Need.NONE
        assert offsets(tail.receive(EPOCH, 9, 60, b"", NOW)) == [60]

    def test_an_older_page_does_not_move_it_back(self, tail: RoomTail) -> None:
        since = tail.begin(NOW)
        receive(tail, 11, 12)
        assert tail.recovered(page(10), since) == []
        assert tail.position == at(12)

    @pytest.mark.parametrize("reason", ["epoch", "fork", "too_old", "no_history"])
    def test_a_page_with_a_reason_is_a_reset(self, tail: RoomTail, reason: str) -> None:
        assert tail.recovered(page(20, reason=reason), tail.begin(NOW)) == ()
        assert (needs(tail), tail.reason) == (Need.RESET, reason)

    def test_a_page_of_another_epoch_is_a_reset(self, tail: RoomTail) -> None:
        tail.recovered(page(20, [19, 20], epoch="f"), tail.begin(NOW))
        assert (needs(tail), tail.reason) == (Need.RESET, "epoch")

    def test_a_top_behind_is_a_fork(self, tail: RoomTail) -> None:
        tail.recovered(page(9), tail.begin(NOW))
        assert (needs(tail), tail.reason) == (Need.RESET, "fork")

    def test_a_read_that_failed_is_needed_again(self, tail: RoomTail) -> None:
        tail.interrupted()
        tail.begin(NOW)
        assert needs(tail) is Need.NONE
        tail.interrupted()
        assert needs(tail) is Need.RECOVER

    def test_a_page_from_before_a_reset_is_nothing(self, tail: RoomTail) -> None:
        since = tail.begin(NOW)
        tail.reset(at(5, "f"), NOW)
        assert tail.recovered(page(11, [11]), since) == ()
        assert tail.position == at(5, "f")


class TestCheck:
    def test_an_equal_position_is_no_doubt(self, tail: RoomTail) -> None:
        tail.compare(at(10))
        assert needs(tail) is Need.NONE

    @pytest.mark.parametrize("top", [at(9), at(11), at(10, "f")])
    def test_a_different_one_is(self, tail: RoomTail, top: Position) -> None:
        tail.compare(top)
        assert needs(tail) is Need.RECOVER

    def test_the_deadline(self, tail: RoomTail) -> None:
        tail.heard(100.0)
        assert not tail.check_due(100.0 + SILENCE - 0.001)
        assert tail.check_due(100.0 + SILENCE)
        tail.heard(110.0, jitter=0.8)
        assert not tail.check_due(117.9)
        assert tail.check_due(118.0)


class TestFeed:
    def test_the_page_of_a_member_that_is_behind(self, tail: RoomTail) -> None:
        assert offsets(tail.feed(page(12, range(3, 13)), at(2))) == [11, 12]
        assert receive(tail, 11, 12, 13) == [13]
        assert needs(tail) is Need.NONE

    def test_a_page_that_does_not_reach_it(self, tail: RoomTail) -> None:
        assert tail.feed(page(12, [3, 4]), at(2)) == []
        assert tail.position == at(10)

    def test_a_page_ahead_of_it_is_a_doubt(self, tail: RoomTail) -> None:
        assert tail.feed(page(14, [13, 14]), at(12)) == ()
        assert tail.position == at(10)
        assert needs(tail) is Need.RECOVER

    def test_a_top_alone_proves_nothing(self, tail: RoomTail) -> None:
        assert tail.feed(page(12), None) == ()
        assert tail.position == at(10)
        assert needs(tail) is Need.RECOVER

    def test_a_top_that_it_has_is_nothing(self, tail: RoomTail) -> None:
        tail.feed(page(10), None)
        tail.feed(page(9), None)
        assert needs(tail) is Need.NONE

    def test_a_page_of_another_epoch_is_a_doubt_and_no_reset(self, tail: RoomTail) -> None:
        assert tail.feed(page(10, epoch="f"), at(10, "f")) == ()
        assert needs(tail) is Need.RECOVER

    def test_what_a_client_claims_is_no_doubt(self, tail: RoomTail) -> None:
        tail.feed(page(10, reason="fork"), at(99))
        tail.feed(page(10, reason="too_old"), at(1))
        assert needs(tail) is Need.NONE

    def test_a_fork_below_it_is_a_doubt(self, tail: RoomTail) -> None:
        tail.feed(page(4, reason="fork"), at(8))
        assert needs(tail) is Need.RECOVER


class TestReset:
    def test_it_starts_anew_with_what_is_held(self, tail: RoomTail) -> None:
        receive(tail, 1, 2, 3, epoch="f")
        tail.recovered(page(1, reason="epoch", epoch="f"), tail.begin(NOW))
        receive(tail, 4, epoch="f")
        assert offsets(tail.reset(at(1, "f"), NOW)) == [2, 3, 4]
        assert tail.position == at(4, "f")
        assert needs(tail) is Need.NONE
        assert tail.life == 1
        assert receive(tail, 5, epoch="f") == [5]

    def test_the_other_branch_is_forgotten(self, tail: RoomTail) -> None:
        receive(tail, 11, 12)
        tail.receive(EPOCH, 10, 11, b"another", NOW)
        assert tail.reset(at(11), NOW) == []
        assert receive(tail, 12) == [12]
        assert tail.since(at(10), NOW) is None

    def test_a_hole_after_it_is_read(self, tail: RoomTail) -> None:
        receive(tail, 7, epoch="f")
        tail.reset(at(5, "f"), NOW)
        assert needs(tail) is Need.RECOVER


class TestEphemeral:
    def test_it_is_passed_on_without_a_number(self, tail: RoomTail) -> None:
        (one,) = tail.ephemeral(b"typing")
        assert one.ephemeral
        assert one.body == b"typing"
        assert not entry(1).ephemeral
        assert tail.position == at(10)

    def test_it_goes_after_what_is_held(self, tail: RoomTail) -> None:
        receive(tail, 12)
        assert tail.ephemeral(b"typing") == ()
        assert [e.body for e in tail.receive(EPOCH, *entry(11), NOW)] == [body(11), body(12), b"typing"]

    def test_it_waits_for_the_whole_gap(self, tail: RoomTail) -> None:
        receive(tail, 12, 14)
        tail.ephemeral(b"typing")
        assert receive(tail, 11) == [11, 12]
        since = tail.begin(NOW)
        assert [e.body for e in tail.recovered(page(14, [13, 14]), since)] == [body(13), body(14), b"typing"]

    def test_it_comes_after_the_page_of_a_joining_member(self, tail: RoomTail) -> None:
        receive(tail, 12)
        tail.ephemeral(b"typing")
        assert [e.body for e in tail.feed(page(12, [11, 12]), at(10))] == [body(11), body(12), b"typing"]

    def test_it_waits_for_a_reset(self, tail: RoomTail) -> None:
        tail.recovered(page(9), tail.begin(NOW))
        assert tail.ephemeral(b"typing") == ()
        assert [e.body for e in tail.reset(at(9), NOW)] == [b"typing"]

    def test_those_that_wait_are_bounded(self, tail: RoomTail) -> None:
        receive(tail, 12)
        for _ in range(HELD_EVENTS + 4):
            tail.ephemeral(b"typing")
        assert tail.dropped == 5
        assert len(tail.receive(EPOCH, *entry(11), NOW)) == HELD_EVENTS + 1
        receive(tail, 14)
        assert tail.ephemeral(b"x" * (HELD_BYTES + 1)) == ()
        assert tail.dropped == 6


class TestPage:
    def test_more(self) -> None:
        assert page(5, [3, 4]).more
        assert not page(5, [4, 5]).more
        assert not page(5).more
