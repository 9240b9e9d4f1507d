"""The newest of each key: what a key is, what waits in a room, and what who joins is sent."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roomwire.core.conflation import Conflation, Latest, key_of, newest_of
from roomwire.core.policy import RoomPolicy
from roomwire.core.positions import Position
from roomwire.core.publication import Publication


def told(offset: int, data: Any = None, event: str = "cpu", *, binary: bool = False) -> Publication:
    """A publication; without a number where the offset is 0."""
    position = Position("e", offset) if offset else None
    payload = data if isinstance(data, bytes) else json.dumps(data).encode()
    return Publication("r", event, payload, binary=binary, position=position)


def offsets(publications: list[Publication]) -> list[int]:
    return [0 if p.position is None else p.position.offset for p in publications]


def waiting(conflation: Conflation, after: int = 0) -> list[int]:
    return offsets([item.publication for item in conflation.cut() if item.mark > after])


class TestKeys:
    @pytest.mark.parametrize(
        ("one", "other"),
        [
            (told(1, {"k": "a"}), told(2, {"k": "b"})),
            (told(1, {"k": 1}), told(2, {"k": "1"})),
            (told(1, {"k": 1}), told(2, {"k": True})),
            (told(1, {"k": None}), told(2, {})),
            (told(1, {"k": [1]}), told(2, {"k": [2]})),
            (told(1, {"k": "a"}), told(2, {"k": "a"}, event="ram")),
            (told(1, {"k": "a"}), told(0, {"k": "a"})),
        ],
    )
    def test_are_distinct(self, one: Publication, other: Publication) -> None:
        assert key_of(one, "k") != key_of(other, "k")

    @pytest.mark.parametrize("data", [{"other": 1}, [1, 2], "k", None, 3, b'{"k":', b"\xff", b'["k"]'])
    def test_without_the_field_are_the_name(self, data: Any) -> None:
        assert key_of(told(1, data), "k") == (True, "cpu", None)

    def test_of_binary_events_are_the_name(self) -> None:
        assert key_of(told(1, b'{"k": "a"}', binary=True), "k") == (True, "cpu", None)

    def test_without_a_field_are_the_name(self) -> None:
        assert key_of(told(1, {"k": "a"}), None) == (True, "cpu", None)

    def test_the_newest_of_each_are_in_order(self) -> None:
        events = [told(1, {"k": "a"}), told(2, {"k": "b"}), told(3, {"k": "a"}), told(4, {"k": "c"})]
        assert offsets(newest_of(events, "k")) == [2, 3, 4]


class TestWhatWaits:
    def test_is_the_newest_of_each_key(self) -> None:
        conflation = Conflation("k")
        for offset, key in enumerate("abab", start=1):
            conflation.take(told(offset, {"k": key}))
        assert (conflation.waiting, conflation.head) == (2, 4)
        assert waiting(conflation) == [3, 4]
        assert conflation.waiting == 0

    def test_what_is_kept_for_somebody_is_replaced_too(self) -> None:
        conflation = Conflation("k")
        conflation.take(told(1, {"k": "a"}))
        conflation.take(told(2, {"k": "b"}))
        conflation.cut()
        conflation.take(told(3, {"k": "a"}))
        assert (conflation.kept, conflation.waiting) == (1, 1)
        assert waiting(conflation) == [2, 3]
        conflation.forget(2)
        assert waiting(conflation) == [3]

    def test_what_was_replaced_before_it_was_sent_is_counted_up_to_the_cut(self) -> None:
        conflation = Conflation("k")
        for offset, key in enumerate("abaac", start=1):
            conflation.take(told(offset, {"k": key}))
        assert conflation.replaced == 2
        conflation.cut()
        conflation.take(told(6, {"k": "a"}))  # members in step were sent the one before
        assert conflation.replaced == 0
        conflation.take(told(7, {"k": "a"}))
        assert conflation.replaced == 1

    def test_after_a_state(self) -> None:
        conflation = Conflation("k")
        for offset, key in ((1, "a"), (2, "b"), (0, "a"), (3, "c")):
            conflation.take(told(offset, {"k": key}))
        conflation.follow(2)
        assert waiting(conflation) == [0, 3]

    def test_an_event_without_number_does_not_replace_one_that_is_kept(self) -> None:
        conflation = Conflation()
        for offset in (1, 0, 0):
            conflation.take(told(offset))
        assert waiting(conflation) == [1, 0]

    @given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["take", "take", "cut", "forget"]))))
    def test_it_counts_what_it_has(self, steps: list[tuple[str, str]]) -> None:
        conflation, offset, before = Conflation("k"), 0, 0
        for key, step in steps:
            if step == "take":
                offset += 1
                conflation.take(told(offset, {"k": key * offset}))
            elif step == "cut":
                before = conflation.sent
                conflation.cut()
            else:
                conflation.forget(before)
            items = list(conflation._newest.values())
            fresh = [item.publication for item in items if item.mark > conflation.sent]
            kept = [item.publication for item in items if item.mark <= conflation.sent]
            assert (conflation.waiting, conflation.waiting_bytes) == (len(fresh), sum(len(p.data) for p in fresh))
            assert (conflation.kept, conflation.kept_bytes) == (len(kept), sum(len(p.data) for p in kept))
        conflation.clear()
        assert waiting(conflation) == []


class TestWhoJoins:
    def test_is_sent_the_newest_of_each_key(self) -> None:
        latest = Latest("k")
        for offset, key in ((1, "a"), (2, "b"), (0, "b"), (3, "a")):
            latest.take(told(offset, {"k": key}), 1.0)
        assert offsets(latest.values(1.0)) == [2, 3]

    def test_what_the_history_has_goes_before_what_came(self) -> None:
        latest, older = Latest("k"), Latest("k")
        latest.take(told(7, {"k": "a"}), 1.0)
        latest.take(told(8, {"k": "b"}), 1.0)
        for offset, key in ((3, "c"), (5, "a"), (6, "d")):
            older.take(told(offset, {"k": key}), 1.0)
        version = latest.version
        latest.fill(older)
        assert latest.filled
        assert latest.version > version
        assert offsets(latest.values(1.0)) == [3, 6, 7, 8]

    def test_what_is_older_than_the_history_is_not(self) -> None:
        latest = Latest("k", ttl=60.0)
        latest.take(told(1, {"k": "a"}), 10.0)
        latest.take(told(2, {"k": "b"}), 30.0)
        assert offsets(latest.values(69.0)) == [1, 2]
        version = latest.version
        assert offsets(latest.values(70.0)) == [2]
        assert latest.version > version

    def test_keys_are_bounded(self) -> None:
        latest = Latest("k", max_keys=2)
        for offset, key in ((1, "a"), (2, "b"), (3, "a"), (4, "c")):
            latest.take(told(offset, {"k": key}), 1.0)
        assert offsets(latest.values(1.0)) == [3, 4]
        assert latest.dropped == 1

    def test_bytes_are_bounded(self) -> None:
        latest = Latest("k", max_bytes=100)
        for offset, key in ((1, "a"), (2, "b"), (3, "c")):
            latest.take(told(offset, {"k": key, "x": "x" * 40}), 1.0)
        assert offsets(latest.values(1.0)) == [3]
        latest.clear()
        latest.take(told(4, {"k": "a", "x": "x" * 60}), 1.0)
        assert offsets(latest.values(1.0)) == [4]


class TestConflicts:
    @pytest.mark.parametrize(
        "policy",
        [
            RoomPolicy(),
            RoomPolicy(conflate_rate=0),
            RoomPolicy(conflate_rate=0.01, history_size=0),
            RoomPolicy(conflate_key="k", latest=True),
        ],
    )
    def test_none(self, policy: RoomPolicy) -> None:
        assert list(policy.conflicts()) == []

    @pytest.mark.parametrize(
        ("policy", "keys"),
        [
            (RoomPolicy(conflate_rate=0.001), ["conflate_rate"]),
            (RoomPolicy(conflate_key="k"), ["conflate_key"]),
            (RoomPolicy(conflate_key="k", conflate_rate=0), ["conflate_key"]),
            (RoomPolicy(latest=True, history_size=0), ["latest"]),
        ],
    )
    def test_some(self, policy: RoomPolicy, keys: list[str]) -> None:
        assert [key for key, _ in policy.conflicts()] == keys
