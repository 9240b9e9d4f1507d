"""The checker finds every kind of fault that is planted in logs without any, and nothing in those without."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from roomwire.core.positions import Position
from tests.cluster.checker import Findings, check
from tests.cluster.records import Acked, Event, Given, Left, Log, Moved, Record, State

ROOM = "big:one"


def at(offset: int, epoch: str = "e") -> Position:
    return Position(epoch, offset)


def event(offset: int, epoch: str = "e", by: str = "pub") -> Event:
    """The publisher's nth event is at offset n, but in the second epoch, where it is at n - 100."""
    return Event(ROOM, epoch, offset, by, offset if epoch == "e" else offset + 100)


def acked(offset: int, epoch: str = "e") -> Acked:
    n = offset if epoch == "e" else offset + 100
    return Acked(ROOM, "pub", n, at(offset, epoch), float(n))


def publisher(last: int = 20, second: int = 0) -> Log:
    acks = [acked(n) for n in range(1, last + 1)] + [acked(n, "f") for n in range(1, second + 1)]
    return Log("pub", acked=acks)


def joined(offset: int = 0, epoch: str = "e") -> Given:
    return Given(ROOM, at(offset, epoch), None, None)


def member(*records: Record) -> Log:
    return Log("ann", list(records))


def through(first: int, last: int, epoch: str = "e") -> list[Record]:
    return [event(offset, epoch) for offset in range(first, last + 1)]


def whole() -> list[Record]:
    """All twenty, with a resume in between that is proven."""
    return [joined(), *through(1, 8), Given(ROOM, at(12), True, None), *through(9, 20)]


def judge(records: list[Record], final: Position | None = None, second: int = 0) -> Findings:
    return check([publisher(second=second), member(*records)], {ROOM: final or at(20)})


def only(findings: Findings, **counts: int) -> None:
    kinds = ("lost", "doubled", "reordered", "forked", "misacked", "unreported")
    assert {kind: getattr(findings, kind) for kind in kinds if getattr(findings, kind)} == counts, findings.cases


def reset(reason: str = "epoch", known: int = 20, second: int = 0) -> list[Record]:
    """What a client is told whose stream was made anew."""
    return [Given(ROOM, at(second, "f"), False, reason), State(ROOM, at(second, "f"), reason, {"pub": known})]


class TestNothingIsFound:
    def test_in_a_log_with_all_events(self) -> None:
        findings = judge(whole())
        only(findings)
        assert (findings.events, findings.acked, findings.recovered, findings.faults) == (20, 20, 1, 0)

    def test_before_the_position_that_was_given(self) -> None:
        only(judge([joined(15), *through(16, 20)]))

    def test_where_a_heartbeat_moves_the_position_over_offsets_of_no_event(self) -> None:
        log = publisher()
        del log.acked[4]
        only(check([log, member(joined(), *through(1, 4), Moved(ROOM, at(5)), *through(6, 20))], {ROOM: at(20)}))

    def test_in_a_reset_that_is_told_with_a_state_that_holds_all(self) -> None:
        findings = judge([joined(), *through(1, 8), *reset(), *through(1, 5, "f")], at(5, "f"), second=5)
        only(findings)
        assert findings.resets == {"epoch": 1}

    def test_where_an_event_is_in_the_state_and_comes_after_it(self) -> None:
        only(judge([joined(), State(ROOM, at(10), "requested", {"pub": 12}), *through(11, 20)]))

    def test_where_a_client_is_told_to_reload(self) -> None:
        only(judge([joined(), *through(1, 3), *reset()[:1], State(ROOM, at(20), "too_old", None)]))

    def test_in_events_without_an_acknowledgement(self) -> None:
        only(judge([*whole(), event(21)]))

    def test_after_the_client_was_told_to_go(self) -> None:
        log = member(joined(), *through(1, 5))
        log.ended = True
        only(check([publisher(), log], {ROOM: at(20)}))

    def test_after_it_left_the_room(self) -> None:
        only(judge([joined(), *through(1, 5), Left(ROOM)]))

    def test_where_a_message_is_acknowledged_twice_alike(self) -> None:
        log = publisher()
        log.acked.append(log.acked[3])
        only(check([log, member(*whole())], {ROOM: at(20)}))

    def test_where_the_acknowledgement_of_a_life_before_comes_late(self) -> None:
        log = publisher(0, second=5)
        log.acked.append(Acked(ROOM, "late", 1, at(1), 999.0))
        states = [State(ROOM, at(epoch == "e", epoch), "epoch", {"late": 1}) for epoch in ("e", "f")]
        only(check([log, member(joined(), *states, *through(1, 5, "f"))], {ROOM: at(5, "f")}))


class TestLost:
    def test_an_event_in_the_middle(self) -> None:
        records = whole()
        records.remove(event(5))
        only(judge(records), lost=1)

    def test_the_first_ones_after_a_resume(self) -> None:
        records = [record for record in whole() if record not in (event(9), event(10))]
        only(judge(records), lost=2)

    def test_one_that_only_another_client_has_seen(self) -> None:
        log = publisher()
        del log.acked[6]
        records = whole()
        records.remove(event(7))
        other = member(*whole())
        only(check([log, member(*records), other], {ROOM: at(20)}), lost=1)

    def test_one_that_a_heartbeat_passes_over(self) -> None:
        only(judge([joined(), *through(1, 18), Moved(ROOM, at(20))]), lost=2)

    def test_one_that_the_state_should_hold(self) -> None:
        only(judge([joined(), *through(1, 8), *reset(known=18)], at(0, "f")), lost=2)

    def test_one_behind_the_state(self) -> None:
        only(judge([joined(), State(ROOM, at(10), "requested", {"pub": 10}), *through(12, 20)]), lost=1)

    def test_one_of_a_client_that_was_told_to_go(self) -> None:
        log = member(joined(), event(1), event(3))
        log.ended = True
        only(check([publisher(), log]), lost=1)


class TestDoubled:
    def test_an_event_that_comes_again(self) -> None:
        records = whole()
        records.insert(6, event(5))
        only(judge(records), doubled=1)

    def test_a_replay_that_begins_too_early(self) -> None:
        records = whole()
        records[10:10] = through(7, 8)
        only(judge(records), doubled=2)

    def test_a_message_that_was_published_twice(self) -> None:
        again = Event(ROOM, "e", 21, "pub", 20)
        only(judge([*whole(), again]), doubled=1)

    def test_not_in_another_life_of_the_room(self) -> None:
        again = Event(ROOM, "f", 1, "pub", 20)
        only(judge([joined(), *through(1, 19), *reset(), again], at(1, "f")))


class TestReordered:
    def test_two_events_change_places(self) -> None:
        records = whole()
        records[3], records[4] = records[4], records[3]
        only(judge(records), reordered=1)

    def test_the_stream_itself_is_in_another_order(self) -> None:
        log = publisher(2)
        log.acked = [Acked(ROOM, "pub", 2, at(1), 2.0), Acked(ROOM, "pub", 1, at(2), 1.0)]
        seen = [Event(ROOM, "e", 1, "pub", 2), Event(ROOM, "e", 2, "pub", 1)]
        only(check([log, member(joined(), *seen)], {ROOM: at(2)}), reordered=1)


class TestForkedAndMisacked:
    def test_two_events_at_one_position(self) -> None:
        other = Log("bob", [joined(20), event(21, by="one")])
        only(check([publisher(), member(*whole(), event(21, by="two")), other], {ROOM: at(20)}), forked=1)

    def test_an_acknowledgement_that_differs_from_the_first(self) -> None:
        log = publisher()
        log.acked.append(log.acked[3]._replace(position=at(33), at=99.0))
        only(check([log, member(*whole())], {ROOM: at(20)}), misacked=1)

    def test_two_messages_acknowledged_with_one_position(self) -> None:
        log = publisher()
        log.acked.append(Acked(ROOM, "pub", 21, at(20), 99.0))
        only(check([log, member(*whole())], {ROOM: at(20)}), misacked=1)


class TestUnreported:
    def test_events_of_another_life(self) -> None:
        only(judge([joined(), *through(1, 20), *through(1, 5, "f")], at(5, "f"), second=5), unreported=1)

    def test_events_where_a_state_was_announced(self) -> None:
        broken = [joined(), *through(1, 20), reset()[0], *through(1, 5, "f")]
        only(judge(broken, at(5, "f"), second=5), unreported=1)

    def test_a_state_that_was_announced_and_never_comes(self) -> None:
        only(judge([joined(), *through(1, 20), reset()[0]], at(0, "f")), unreported=1)

    def test_a_proof_without_a_position(self) -> None:
        only(judge([Given(ROOM, at(0), True, None), joined(), *through(1, 20)]), unreported=1)

    def test_a_proof_over_two_lives(self) -> None:
        only(judge([*whole(), Given(ROOM, at(20, "f"), True, None)]), unreported=1)

    def test_a_place_that_was_lost(self) -> None:
        only(judge([*whole(), joined(20)]), unreported=1)

    def test_a_client_that_stays_behind(self) -> None:
        only(judge([joined(), *through(1, 19)]), unreported=1)

    def test_a_client_that_stays_in_the_life_before(self) -> None:
        only(judge(whole(), at(5, "f"), second=5), unreported=1)

    def test_a_room_that_it_was_never_told_to_be_in(self) -> None:
        only(judge(through(1, 20)), unreported=1)


def _drop(records: list[Record], index: int) -> str:
    del records[index]
    return "lost"


def _repeat(records: list[Record], index: int) -> str:
    records.insert(index + 1, records[index])
    return "doubled"


def _swap(records: list[Record], index: int) -> str:
    records[index], records[index + 1] = records[index + 1], records[index]
    return "reordered"


@pytest.mark.parametrize("plant", [_drop, _repeat, _swap])
def test_a_fault_anywhere_in_a_long_run_is_found(plant: Callable[[list[Record], int], str]) -> None:
    chance = random.Random(plant.__name__)
    for _ in range(50):
        records: list[Record] = [joined(), *through(1, 300)]
        kind = plant(records, chance.randrange(1, 300))
        assert getattr(check([publisher(300), member(*records)], {ROOM: at(300)}), kind) == 1
