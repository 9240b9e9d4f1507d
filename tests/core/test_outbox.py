"""The outbox: bounded in bytes and in messages, but for replays."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roomwire.core.outbox import Outbox


def test_blocks_come_out_in_order() -> None:
    outbox: Outbox[str] = Outbox(100, 10)
    assert not outbox
    for block in "abc":
        assert outbox.push(block, 10, 1)
    assert (len(outbox), outbox.bytes, outbox.messages) == (3, 30, 3)
    assert [outbox.pop() for _ in range(3)] == ["a", "b", "c"]
    assert (len(outbox), outbox.bytes, outbox.messages) == (0, 0, 0)


def test_the_limit_in_bytes() -> None:
    outbox: Outbox[str] = Outbox(100, 10)
    assert outbox.push("a", 60, 1)
    assert not outbox.push("b", 41, 1)
    assert outbox.push("c", 40, 1)
    assert not outbox.push("d", 1, 0)
    assert [outbox.pop(), outbox.pop()] == ["a", "c"]


def test_the_limit_in_messages() -> None:
    outbox: Outbox[str] = Outbox(100, 10)
    assert outbox.push("a", 1, 7)
    assert not outbox.push("b", 1, 4)
    assert outbox.push("c", 1, 3)


def test_what_the_transport_holds_counts() -> None:
    outbox: Outbox[str] = Outbox(100, 10)
    assert not outbox.push("a", 60, 1, held=41)
    assert outbox.push("a", 60, 1, held=40)
    assert outbox.bytes == 60, "what is held is the transport's own"


def test_a_replay_is_queued_whatever_waits_and_takes_no_room() -> None:
    outbox: Outbox[str] = Outbox(100, 10)
    assert outbox.push("a", 100, 10)
    assert outbox.push("replay", 10_000, 1000, held=500, counted=False)
    assert (len(outbox), outbox.bytes, outbox.messages) == (2, 100, 10)
    assert outbox.pop() == "a"
    assert outbox.push("b", 100, 10)
    assert [outbox.pop(), outbox.pop()] == ["replay", "b"]
    assert (outbox.bytes, outbox.messages) == (0, 0)


def test_clear_says_how_many_messages_it_dropped() -> None:
    outbox: Outbox[str] = Outbox(100, 10)
    outbox.push("a", 10, 3)
    outbox.push("b", 10, 4)
    outbox.push("replay", 10, 5, counted=False)
    assert outbox.clear() == 7
    assert (len(outbox), outbox.bytes, outbox.messages, outbox.clear()) == (0, 0, 0, 0)
    assert outbox.push("c", 100, 10)


def test_pop_of_an_empty_one() -> None:
    with pytest.raises(IndexError):
        Outbox[str](100, 10).pop()


pushes = st.tuples(st.integers(0, 60), st.integers(0, 6), st.integers(0, 60), st.booleans())


@given(st.lists(pushes | st.just("pop") | st.just("clear")))
def test_against_a_plain_list(steps: list[tuple[int, int, int, bool] | str]) -> None:
    outbox: Outbox[int] = Outbox(100, 10)
    model: deque[tuple[int, int, int]] = deque()
    for number, step in enumerate(steps):
        if step == "clear":
            assert outbox.clear() == sum(messages for _, _, messages in model)
            model.clear()
        elif isinstance(step, str):
            if model:
                assert outbox.pop() == model.popleft()[0]
        else:
            size, messages, held, counted = step
            fits = (
                sum(s for _, s, _ in model) + size + held <= 100 and sum(m for _, _, m in model) + messages <= 10
            ) or not counted
            assert outbox.push(number, size, messages, held=held, counted=counted) is fits
            if fits:
                model.append((number, size, messages) if counted else (number, 0, 0))
        assert len(outbox) == len(model)
        assert outbox.bytes == sum(size for _, size, _ in model) <= 100
        assert outbox.messages == sum(messages for _, _, messages in model) <= 10
