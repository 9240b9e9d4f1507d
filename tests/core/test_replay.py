"""Join and resume: each step of `roomwire.core.replay` by its name, on a store that is a list."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from roomwire.core.positions import Position
from roomwire.core.replay import (
    BUFFER_BYTES,
    BUFFER_EVENTS,
    PAGE_EVENTS,
    Budget,
    Finished,
    Outcome,
    ReadHistory,
    RecoverTail,
    Replay,
)
from roomwire.core.tail import RING_EVENTS, Entry, Need, Page, RoomTail

EPOCH = "e"
NOW = 1000.0


def at(offset: int, epoch: str = EPOCH) -> Position:
    return Position(epoch, offset)


def entry(offset: int, size: int = 0) -> Entry:
    return Entry(offset - 1, offset, b"body %d" % offset + b"." * size)


class Store:
    """One room in a store, the tail of a node, and how the node reads the one for the other.

    Offsets up to `top` exist, of which those up to `floor` have expired.
    """

    def __init__(self, top: int = 0, *, seen: int | None = None, size: int = 0) -> None:
        self.epoch = EPOCH
        self.top = top
        self.floor = 0
        self.size = size  # bytes that each body is longer
        self.tail = RoomTail(at(top if seen is None else seen))
        self.replays: list[Replay] = []
        self.reads: list[ReadHistory] = []
        self.recoveries = 0

    def history(self, since: Position, limit: int) -> Page:
        reason = None
        if since.epoch != self.epoch:
            reason = "epoch"
        elif since.offset > self.top:
            reason = "fork"
        elif since.offset < self.floor:
            reason = "too_old"
        last = min(self.top, since.offset + limit)
        entries = [] if reason else [entry(o, self.size) for o in range(since.offset + 1, last + 1)]
        return Page(at(self.top, self.epoch), entries, reason)

    def publish(self, count: int = 1, *, lose: Iterable[int] = ()) -> None:
        """Publish; the deliveries of the offsets in `lose` do not come."""
        for _ in range(count):
            self.top += 1
            if self.top not in lose:
                self.pass_on(self.tail.receive(self.epoch, *entry(self.top, self.size), NOW))

    def pass_on(self, entries: Iterable[Entry]) -> None:
        for one in entries:
            for replay in self.replays:
                replay.live(one)

    def recover(self) -> None:
        self.recoveries += 1
        while self.tail.need is not Need.NONE:
            since = self.tail.begin(NOW)
            if self.tail.need is Need.RESET:
                self.pass_on(self.tail.reset(at(self.top, self.epoch), NOW))
            else:
                self.pass_on(self.tail.recovered(self.history(since, 100), since))

    def join(
        self,
        since: Position | None,
        budget: Budget | None = None,
        *,
        wants_state: bool = False,
        keep_history: bool = True,
    ) -> Replay:
        replay = Replay(self.tail, since, budget or Budget(), wants_state=wants_state, keep_history=keep_history)
        self.replays.append(replay)
        return replay

    def read(self, replay: Replay, step: ReadHistory) -> None:
        self.reads.append(step)
        page = self.history(step.since, step.limit)
        self.pass_on(self.tail.feed(page, step.since))
        replay.page(page)

    def finish(self, replay: Replay) -> Outcome:
        """Run it to its end."""
        while not isinstance(step := replay.step(NOW), Finished):
            if isinstance(step, RecoverTail):
                self.recover()
            else:
                self.read(replay, step)
        return step.outcome

    def resume(self, since: Position | None, budget: Budget | None = None) -> Outcome:
        return self.finish(self.join(since, budget))


def offsets(entries: Iterable[Entry] | None) -> list[int]:
    assert entries is not None
    return [e.offset for e in entries]


def expect_read(step: object) -> ReadHistory:
    assert isinstance(step, ReadHistory)
    return step


class TestOutcome:
    def test_without_a_position(self) -> None:
        store = Store(7)
        assert store.resume(None) == Outcome(at(7), None)
        assert store.reads == []

    def test_with_a_state_that_was_asked_for(self) -> None:
        store = Store(7)
        assert store.finish(store.join(None, wants_state=True)) == Outcome(at(7), None, "requested")

    def test_a_proven_replay_needs_no_state(self) -> None:
        store = Store(7)
        assert store.finish(store.join(at(7), wants_state=True)) == Outcome(at(7), True)

    @pytest.mark.parametrize("since", [None, at(6)])
    def test_a_state_that_is_demanded_later_comes_whatever_is_proven(self, since: Position | None) -> None:
        store = Store(7)
        replay = store.join(since)
        replay.demand("requested")
        replay.demand("another reason")
        assert store.finish(replay) == Outcome(at(7), None if since is None else False, "requested")

    @pytest.mark.parametrize("missed", [0, 1, RING_EVENTS, RING_EVENTS + 1, 999, 1000])
    def test_all_that_was_missed_is_replayed(self, missed: int) -> None:
        store = Store(5)
        store.publish(missed)
        outcome = store.resume(at(5))
        assert (outcome.position, outcome.recovered, outcome.reason) == (at(5 + missed), True, None)
        assert offsets(outcome.replay) == list(range(6, 6 + missed))

    def test_more_than_may_be_replayed(self) -> None:
        store = Store(5)
        store.publish(1001)
        budget = Budget()
        assert store.resume(at(5), budget) == Outcome(at(1006), False, "too_far")
        assert (budget.events, budget.bytes) == (1000, 4_194_304)

    def test_more_bytes_than_may_be_replayed(self) -> None:
        store = Store(0, size=1000)
        store.publish(200)
        assert store.resume(at(0), Budget(bytes=100_000)).reason == "too_far"
        assert store.resume(at(150), Budget(bytes=100_000)).recovered is True

    def test_the_ring_answers_without_the_store(self) -> None:
        store = Store(0)
        store.publish(RING_EVENTS)
        assert store.resume(at(0)).recovered is True
        assert store.reads == []

    def test_the_ring_keeps_to_the_budget(self) -> None:
        store = Store(0)
        store.publish(10)
        assert store.resume(at(0), Budget(events=9)).reason == "too_far"

    def test_longer_absences_are_read_in_pages(self) -> None:
        store = Store(0)
        store.publish(300)
        assert len(store.resume(at(0)).replay) == 300
        # The ring has what comes after the second page.
        assert store.reads == [ReadHistory(at(0), PAGE_EVENTS), ReadHistory(at(PAGE_EVENTS), PAGE_EVENTS)]

    def test_too_old(self) -> None:
        store = Store(0)
        store.publish(200)
        store.floor = 50
        assert store.resume(at(49)) == Outcome(at(200), False, "too_old")
        assert len(store.resume(at(50)).replay) == 150

    def test_another_epoch(self) -> None:
        store = Store(5)
        assert store.resume(at(5, "before")) == Outcome(at(5), False, "epoch")

    def test_ahead_of_the_store(self) -> None:
        store = Store(5)
        assert store.resume(at(6)) == Outcome(at(5), False, "fork")
        assert store.recoveries == 1
        assert store.tail.life == 0

    def test_a_silent_room(self) -> None:
        store = Store(5)
        store.floor = 5
        assert store.resume(at(5)) == Outcome(at(5), True)

    def test_fifty_resumes_in_a_row(self) -> None:
        store = Store(0)
        position = at(0)
        for count in range(50):
            store.publish(count)
            outcome = store.resume(position)
            assert outcome.recovered is True
            assert offsets(outcome.replay) == list(range(position.offset + 1, store.top + 1))
            assert outcome.position is not None
            position = outcome.position

    def test_a_room_without_history(self) -> None:
        store = Store(5)
        store.tail = RoomTail(at(5), ring_events=0)
        store.publish()
        assert store.finish(store.join(at(6), keep_history=False)) == Outcome(at(6), True)
        assert store.finish(store.join(at(5), keep_history=False)) == Outcome(at(6), False, "no_history")
        assert store.finish(store.join(at(6, "f"), keep_history=False)) == Outcome(at(6), False, "no_history")
        assert store.reads == []

    def test_an_outcome_moves_on_with_the_tail(self) -> None:
        store = Store(0)
        store.publish(3)
        replay = store.join(at(0))
        assert offsets(store.finish(replay).replay) == [1, 2, 3]
        store.publish(2)
        outcome = store.finish(replay)
        assert offsets(outcome.replay) == [1, 2, 3, 4, 5]
        assert outcome.position == at(5)

    def test_an_unavailable_history(self) -> None:
        store = Store(0)
        store.publish(200)
        replay = store.join(at(0))
        expect_read(replay.step(NOW))
        replay.unavailable()
        assert store.finish(replay) == Outcome(None, False, "unavailable")
        replay.unavailable()
        assert store.finish(replay).reason == "unavailable"

    def test_a_page_that_comes_after_the_verdict_is_nothing(self) -> None:
        store = Store(0)
        store.publish(200)
        replay = store.join(at(0))
        step = expect_read(replay.step(NOW))
        replay.unavailable()
        store.read(replay, step)
        assert store.finish(replay).reason == "unavailable"
        fresh = store.join(None)
        fresh.page(store.history(at(0), 10))
        assert store.finish(fresh).replay == ()


class TestMerge:
    """What happens while the history is being read."""

    def test_live_events_follow_on_the_page(self) -> None:
        store = Store(0)
        store.publish(200)
        replay = store.join(at(0), Budget(events=210))
        step = expect_read(replay.step(NOW))
        page = store.history(step.since, step.limit)
        store.publish(10)
        store.pass_on(store.tail.feed(page, step.since))
        replay.page(page)
        outcome = store.finish(replay)
        assert offsets(outcome.replay) == list(range(1, 211))
        assert outcome.recovered is True

    def test_copies_of_what_the_page_has_cost_nothing(self) -> None:
        store = Store(0)
        store.publish(200)
        budget = Budget(events=203)
        replay = store.join(at(0), budget)
        expect_read(replay.step(NOW))
        store.publish(3)
        assert budget.events == 200
        outcome = store.finish(replay)
        assert outcome.recovered is True
        assert budget.events == 0
        replay.release()
        assert (budget.events, budget.bytes) == (203, 4_194_304)
        replay.release()
        assert budget.events == 203

    def test_the_buffer_reaches_further_back_than_the_ring(self) -> None:
        store = Store(0)
        replay = store.join(at(0))
        store.publish(RING_EVENTS + 50)
        outcome = store.finish(replay)
        assert offsets(outcome.replay) == list(range(1, RING_EVENTS + 51))
        assert store.reads == []

    def test_a_hole_before_the_buffer_is_read(self) -> None:
        store = Store(0)
        store.publish(10)
        replay = store.join(at(0))
        store.publish(RING_EVENTS + 50)
        assert len(store.finish(replay).replay) == RING_EVENTS + 60
        assert len(store.reads) == 1

    def test_the_buffer_is_bounded_in_events(self) -> None:
        store = Store(0)
        replay = store.join(at(0))
        store.publish(BUFFER_EVENTS)
        assert store.finish(replay).recovered is True
        replay = store.join(at(BUFFER_EVENTS))
        store.publish(BUFFER_EVENTS + 1)
        assert store.finish(replay) == Outcome(at(2 * BUFFER_EVENTS + 1), False, "too_far")

    def test_the_buffer_is_bounded_in_bytes(self) -> None:
        store = Store(0, size=BUFFER_BYTES // 3)
        budget = Budget()
        replay = store.join(at(0), budget)
        store.publish(3)
        assert store.finish(replay).reason == "too_far"
        assert budget.bytes == 4_194_304

    def test_the_budget_bounds_the_buffers_of_all_rooms(self) -> None:
        budget = Budget(events=10)
        stores = [Store(0), Store(0)]
        replays = [store.join(at(0), budget) for store in stores]
        stores[0].publish(6)
        stores[1].publish(6)
        outcomes = [store.finish(replay) for store, replay in zip(stores, replays, strict=True)]
        assert [outcome.recovered for outcome in outcomes] == [True, False]
        assert outcomes[1].reason == "too_far"
        assert budget.events == 4

    def test_who_has_no_position_needs_no_buffer(self) -> None:
        store = Store(0)
        replay = store.join(None)
        store.publish(BUFFER_EVENTS * 2)
        assert store.finish(replay) == Outcome(at(BUFFER_EVENTS * 2), None)

    def test_ephemeral_events_are_for_those_who_are_live(self) -> None:
        store = Store(0)
        replay = store.join(at(0))
        store.pass_on(store.tail.ephemeral(b"typing"))
        store.publish()
        assert offsets(store.finish(replay).replay) == [1]

    def test_a_history_that_lags_is_read_again(self) -> None:
        store = Store(0)
        store.publish(200)
        replay = store.join(at(0))
        for _ in range(2):
            expect_read(replay.step(NOW))
            replay.page(Page(at(0)))
        assert len(store.finish(replay).replay) == 200

    def test_three_times(self) -> None:
        store = Store(0)
        store.publish(200)
        replay = store.join(at(0))
        for _ in range(3):
            expect_read(replay.step(NOW))
            replay.page(Page(at(0)))
        assert store.finish(replay) == Outcome(None, False, "unavailable")

    def test_a_page_that_goes_back_is_a_fork(self) -> None:
        store = Store(0)
        store.publish(200)
        replay = store.join(at(50))
        expect_read(replay.step(NOW))
        replay.page(Page(at(49)))
        assert store.finish(replay).reason == "fork"

    def test_a_page_of_another_epoch(self) -> None:
        store = Store(0)
        store.publish(200)
        replay = store.join(at(50))
        expect_read(replay.step(NOW))
        replay.page(Page(at(60, "f"), [entry(51)]))
        assert store.finish(replay).reason == "epoch"


class TestTail:
    """The tail and the client know different things."""

    def test_a_tail_that_missed_something_is_brought_up_first(self) -> None:
        store = Store(0)
        store.publish(10, lose=[4])
        assert store.tail.position == at(3)
        outcome = store.resume(at(2))
        assert offsets(outcome.replay) == list(range(3, 11))
        assert store.tail.position == outcome.position == at(10)
        assert (store.recoveries, store.reads) == (1, [])

    def test_a_client_that_is_ahead_of_the_tail(self) -> None:
        store = Store(0)
        store.publish(10, lose=range(4, 11))
        assert store.resume(at(8)) == Outcome(at(10), True, None, (entry(9), entry(10)))
        assert store.recoveries == 1

    def test_a_gap_that_opens_again_does_not_hold_it_up(self) -> None:
        store = Store(0)
        store.publish(10, lose=[4])
        replay = store.join(at(2))
        assert isinstance(replay.step(NOW), RecoverTail)
        store.recover()
        store.publish(3, lose=[12])
        outcome = store.finish(replay)
        assert offsets(outcome.replay) == list(range(3, 12))
        assert outcome.position == store.tail.position == at(11)

    def test_who_has_no_position_joins_at_the_tails(self) -> None:
        store = Store(0)
        store.publish(10, lose=[4])
        assert store.resume(None) == Outcome(at(3), None)

    def test_a_tail_that_is_not_subscribed_yet(self) -> None:
        store = Store(5)
        store.tail = RoomTail()
        replay = store.join(at(5))
        assert isinstance(replay.step(NOW), RecoverTail)
        store.tail.reset(at(5), NOW)
        assert store.finish(replay) == Outcome(at(5), True)

    def test_a_tail_that_cannot_be_brought_up(self) -> None:
        replay = Replay(RoomTail(), at(5), Budget())
        steps = [replay.step(NOW) for _ in range(4)]
        assert [type(step) for step in steps] == [RecoverTail, RecoverTail, RecoverTail, Finished]
        assert steps[-1] == Finished(Outcome(None, False, "unavailable"))

    def test_a_client_of_a_newer_epoch_than_the_tail_knows(self) -> None:
        store = Store(5)
        store.epoch, store.top = "f", 3
        outcome = store.resume(at(1, "f"))
        assert (outcome.position, outcome.recovered) == (at(3, "f"), True)
        assert offsets(outcome.replay) == [2, 3]
        assert store.tail.position == at(3, "f")

    def test_what_came_before_a_new_epoch_is_worth_nothing(self) -> None:
        store = Store(5)
        budget = Budget()
        replay = store.join(at(5), budget)
        store.publish(2)
        store.epoch, store.top = "f", 0
        store.publish(1)
        store.recover()
        store.publish(1)
        assert store.finish(replay) == Outcome(at(2, "f"), False, "epoch")
        assert budget.events == 1000

    def test_a_fork_under_a_resume_is_told(self) -> None:
        store = Store(5)
        replay = store.join(at(4))
        store.top = 3
        store.tail.interrupted()
        store.recover()
        assert store.tail.reason == "fork"
        store.publish(3)
        assert store.finish(replay) == Outcome(at(6), False, "fork")

    def test_a_fork_under_a_first_join_is_nothing(self) -> None:
        store = Store(5)
        replay = store.join(None)
        store.top = 3
        store.tail.interrupted()
        store.recover()
        assert store.finish(replay) == Outcome(at(3), None)


class TestReset:
    """A state instead of a replay, and what follows on it."""

    def test_what_came_meanwhile_follows_on_the_state(self) -> None:
        store = Store(5)
        budget = Budget()
        replay = store.join(at(5, "before"), budget)
        assert store.finish(replay).reason == "epoch"
        store.publish(2)
        replay.begin_reset(store.tail.position)
        store.publish(3)
        assert offsets(replay.finish_reset(NOW)) == [8, 9, 10]
        assert budget.events == 997
        replay.release()
        assert budget.events == 1000

    def test_more_than_the_ring_holds(self) -> None:
        store = Store(5)
        replay = store.join(at(5, "before"))
        store.finish(replay)
        replay.begin_reset(store.tail.position)
        store.publish(BUFFER_EVENTS)
        assert offsets(replay.finish_reset(NOW)) == list(range(6, 6 + BUFFER_EVENTS))

    def test_one_retry_then_hopeless(self) -> None:
        store = Store(5)
        budget = Budget()
        replay = store.join(at(5, "before"), budget)
        store.finish(replay)
        replay.begin_reset(store.tail.position)
        store.publish(BUFFER_EVENTS + 1)
        assert replay.finish_reset(NOW) is None
        assert not replay.hopeless
        replay.begin_reset(store.tail.position)
        store.publish(BUFFER_EVENTS + 1)
        assert replay.finish_reset(NOW) is None
        assert replay.hopeless
        assert budget.events == 1000

    def test_the_retry_may_succeed(self) -> None:
        store = Store(5)
        replay = store.join(at(5, "before"))
        store.finish(replay)
        replay.begin_reset(store.tail.position)
        store.publish(BUFFER_EVENTS + 1)
        assert replay.finish_reset(NOW) is None
        replay.begin_reset(store.tail.position)
        store.publish()
        assert len(replay.finish_reset(NOW) or ()) == 1

    def test_a_live_member_of_a_room_that_is_reset(self) -> None:
        store = Store(5)
        replay = Replay.resetting(store.tail, Budget())
        store.replays.append(replay)
        replay.begin_reset(store.tail.position)
        store.publish(2)
        assert offsets(replay.finish_reset(NOW)) == [6, 7]

    def test_a_snapshot_from_before_the_room_was_reset_is_of_no_use(self) -> None:
        store = Store(5)
        replay = store.join(at(5, "before"))
        store.finish(replay)
        replay.begin_reset(store.tail.position)
        store.top = 3
        store.tail.interrupted()
        store.recover()
        assert replay.finish_reset(NOW) is None
        replay.begin_reset(store.tail.position)
        assert replay.finish_reset(NOW) == []

    def test_a_snapshot_that_may_hold_the_branch_that_is_gone(self) -> None:
        store = Store(5)
        replay = store.join(None, wants_state=True)
        store.finish(replay)
        replay.begin_reset(store.tail.position)
        store.publish(2)
        store.top = 5
        store.tail.interrupted()
        store.recover()
        assert store.tail.position == at(5)
        assert replay.finish_reset(NOW) is None

    def test_what_came_of_the_branch_that_is_gone_is_forgotten(self) -> None:
        tail = RoomTail(at(5), ring_events=0)
        replay = Replay.resetting(tail, Budget())
        for old in (entry(6), entry(7)):
            tail.receive(EPOCH, *old, NOW)
            replay.live(old)
        tail.recovered(Page(at(5)), tail.begin(NOW))
        tail.reset(at(5), NOW)
        replay.begin_reset(tail.position)
        new = Entry(5, 6, b"of the new branch")
        tail.receive(EPOCH, *new, NOW)
        replay.live(new)
        assert replay.finish_reset(NOW) == [new]

    def test_what_is_in_the_state_does_not_follow_on_it(self) -> None:
        store = Store(5)
        replay = store.join(None, wants_state=True)
        store.finish(replay)
        store.publish(10)
        replay.begin_reset(store.tail.position)
        store.publish(RING_EVENTS + 10)
        assert offsets(replay.finish_reset(NOW)) == list(range(16, RING_EVENTS + 26))

    def test_a_snapshot_while_the_room_waits_for_its_reset(self) -> None:
        store = Store(5)
        replay = store.join(at(5, "before"))
        store.finish(replay)
        replay.begin_reset(store.tail.position)
        store.tail.recovered(Page(at(3)), store.tail.begin(NOW))
        assert replay.finish_reset(NOW) is None

    def test_a_snapshot_of_another_epoch(self) -> None:
        store = Store(5)
        replay = store.join(at(5, "before"))
        store.finish(replay)
        replay.begin_reset(at(5, "before"))
        assert replay.finish_reset(NOW) is None

    def test_it_begins_before_it_ends(self) -> None:
        store = Store(5)
        replay = store.join(None, wants_state=True)
        store.finish(replay)
        assert replay.finish_reset(NOW) is None

    def test_what_follows_keeps_to_the_budget(self) -> None:
        store = Store(5)
        budget = Budget(events=3)
        replay = store.join(None, budget, wants_state=True)
        store.finish(replay)
        replay.begin_reset(store.tail.position)
        store.publish(4)
        assert replay.finish_reset(NOW) is None
        assert budget.events == 3


class TestBudget:
    def test_both_or_nothing(self) -> None:
        budget = Budget(events=2, bytes=10)
        assert not budget.take(3, 1)
        assert not budget.take(1, 11)
        assert budget.take(2, 10)
        assert not budget.take(0, 1)
        budget.give(2, 10)
        assert (budget.events, budget.bytes) == (2, 10)
