"""The ring of a room tail: what it can prove to those who come back, and for how long."""

from __future__ import annotations

import pytest

from roomwire.core.positions import Position
from roomwire.core.tail import RING_BYTES, RING_EVENTS, Need, RoomTail
from tests.core.tails import EPOCH, NOW, at, entry, needs, offsets, page, receive


@pytest.fixture
def tail() -> RoomTail:
    return RoomTail(at(10))


class TestRing:
    def test_what_it_can_prove(self, tail: RoomTail) -> None:
        receive(tail, 11, 12, 13)
        assert offsets(tail.since(at(10), NOW)) == [11, 12, 13]
        assert offsets(tail.since(at(12), NOW)) == [13]
        assert tail.since(at(13), NOW) == []

    @pytest.mark.parametrize("position", [at(9), at(14), at(12, "f")])
    def test_what_it_cannot(self, tail: RoomTail, position: Position) -> None:
        receive(tail, 11, 12, 13)
        assert tail.since(position, NOW) is None

    def test_before_any_event(self, tail: RoomTail) -> None:
        assert tail.since(at(10), NOW) == []

    def test_it_is_bounded_in_events(self) -> None:
        tail = RoomTail(at(0), ring_events=1000)
        receive(tail, *range(1, 301))
        assert len(tail.since(at(300 - RING_EVENTS), NOW) or ()) == RING_EVENTS
        assert tail.since(at(300 - RING_EVENTS - 1), NOW) is None

    def test_it_is_bounded_in_bytes(self) -> None:
        tail = RoomTail(at(0))
        half = b"x" * (RING_BYTES // 2)
        for offset in (1, 2, 3):
            tail.receive(EPOCH, offset - 1, offset, half, NOW)
        assert offsets(tail.since(at(1), NOW)) == [2, 3]
        assert tail.since(at(0), NOW) is None

    def test_it_is_no_larger_than_the_history(self) -> None:
        tail = RoomTail(at(0), ring_events=2)
        receive(tail, 1, 2, 3)
        assert offsets(tail.since(at(1), NOW)) == [2, 3]
        assert tail.since(at(0), NOW) is None

    def test_a_room_without_history_has_none(self) -> None:
        tail = RoomTail(at(0), ring_events=0)
        assert receive(tail, 1, 2) == [1, 2]
        assert tail.since(at(2), NOW) == []
        assert tail.since(at(1), NOW) is None
        assert tail.receive(EPOCH, 0, 1, b"another", NOW) == ()
        assert needs(tail) is Need.NONE

    def test_it_proves_over_a_top_that_moved(self, tail: RoomTail) -> None:
        receive(tail, 11)
        tail.recovered(page(50), tail.begin(NOW))
        assert offsets(tail.since(at(10), NOW)) == [11]
        assert tail.since(at(30), NOW) == []

    def test_it_keeps_nothing_longer_than_the_store(self) -> None:
        tail = RoomTail(at(0), NOW, ring_ttl=30.0)
        tail.receive(EPOCH, *entry(1), NOW)
        tail.receive(EPOCH, *entry(2), NOW + 10)
        assert offsets(tail.since(at(0), NOW + 29)) == [1, 2]
        assert tail.since(at(0), NOW + 30) is None
        assert offsets(tail.since(at(1), NOW + 30)) == [2]
        assert tail.since(at(1), NOW + 40) is None
        assert tail.since(at(2), NOW + 40) == []

    def test_what_has_expired_makes_room_for_what_comes(self) -> None:
        tail = RoomTail(at(0), NOW, ring_ttl=30.0)
        tail.receive(EPOCH, *entry(1), NOW)
        tail.receive(EPOCH, *entry(2), NOW + 30)
        assert tail.since(at(0), NOW) is None

    def test_what_was_read_counts_as_old_as_the_event_before_it(self) -> None:
        """It may have been stored at any time since then, and expire any time after that one."""
        tail = RoomTail(at(0), NOW, ring_ttl=30.0)
        tail.receive(EPOCH, *entry(1), NOW + 10)
        tail.recovered(page(2, [2]), tail.begin(NOW + 20))
        assert offsets(tail.since(at(1), NOW + 39)) == [2]
        assert tail.since(at(1), NOW + 40) is None

    def test_what_follows_on_a_read_is_no_older_than_it(self) -> None:
        tail = RoomTail(at(0), NOW, ring_ttl=30.0)
        tail.recovered(page(1, [1]), tail.begin(NOW + 20))
        tail.recovered(page(2, [2]), tail.begin(NOW + 25))
        assert offsets(tail.since(at(1), NOW + 49)) == [2]
        assert tail.since(at(1), NOW + 50) is None

    def test_what_had_to_wait_counts_as_old_as_the_event_before_it(self) -> None:
        tail = RoomTail(at(0), NOW, ring_ttl=30.0)
        tail.receive(EPOCH, *entry(2), NOW + 10)
        tail.receive(EPOCH, *entry(1), NOW + 20)
        assert offsets(tail.since(at(0), NOW + 29)) == [1, 2]
        assert tail.since(at(0), NOW + 30) is None

    def test_a_reset_says_how_old_what_follows_can_be(self) -> None:
        tail = RoomTail(at(0), NOW, ring_ttl=30.0)
        tail.receive("f", 5, 6, b"", NOW)
        assert offsets(tail.reset(at(5, "f"), NOW + 20)) == [6]
        assert offsets(tail.since(at(5, "f"), NOW + 49)) == [6]
        assert tail.since(at(5, "f"), NOW + 50) is None
