"""Many seeds of the machine in `tests.core.test_replay_machine`, of rooms and resumes; the same in every run."""

from __future__ import annotations

import pytest
from hypothesis import seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.core.test_replay_machine import World

EXAMPLES = 500


@pytest.mark.parametrize("number", range(1, 5))
def test_streams_hold_to_their_model(number: int) -> None:
    world = seed(number)(type(f"World{number}", (World,), {}))
    run_state_machine_as_test(world, settings=settings(max_examples=EXAMPLES, stateful_step_count=25, database=None))
