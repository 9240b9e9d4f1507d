"""A short run of every target, and that the harness finds what it is there to find."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from mmap import mmap
from pathlib import Path

import pytest

from tests.fuzz.harness import Fault, Grown, Target, fuzz
from tests.fuzz.live import make_live, open_live
from tests.fuzz.targets import TARGETS, plan
from tests.server.live import SHELLS

INPUTS = 12_000
"""Over all targets, some seconds; `make fuzz` feeds a million."""
SEED = 20
CONNECTIONS = 40

SHORT = dict(plan([target for target in TARGETS.values() if target.in_process], INPUTS))


@pytest.mark.parametrize("target", SHORT, ids=lambda target: target.name)
def test_every_input_is_accepted_or_refused(target: Target) -> None:
    report = fuzz(target, SHORT[target], SEED)
    assert report.accepted + sum(report.refused.values()) == SHORT[target]
    # Else it says nothing of the one or the other.
    assert report.accepted > SHORT[target] // 50
    assert sum(report.refused.values()) > SHORT[target] // 50


@pytest.mark.parametrize("shell", SHELLS)
def test_a_server_serves_on_whatever_comes_to_its_port(shell: str) -> None:
    target = Target("live", "", 0, make_live, lambda: open_live(shell), in_process=False)
    assert fuzz(target, CONNECTIONS, SEED).accepted == CONNECTIONS


def test_every_exception_that_may_leave_has_its_reason() -> None:
    for target in TARGETS.values():
        assert all(reason for reason in target.allowed.values()), target.name
        assert not {Exception, ValueError} & set(target.allowed), target.name


def make_bytes(rng: random.Random) -> bytes:
    return rng.randbytes(rng.randrange(1, 30))


def target_of(read: Callable[[bytes], bool]) -> Target:
    @contextmanager
    def opened() -> Iterator[Callable[[bytes], bool]]:
        yield read

    return Target("own", "", 1, make_bytes, opened, {KeyError: "is allowed"})


class TestHarness:
    def test_an_exception_that_is_not_allowed_is_a_fault_with_its_input(self) -> None:
        def read(data: bytes) -> bool:
            if b"\x07" in data:
                raise ValueError("seven")
            raise KeyError

        with pytest.raises(Fault) as caught:
            fuzz(target_of(read), 1000, 1)
        fault = caught.value
        # Made as small as it goes.
        assert (fault.data, fault.seed, fault.target) == (b"\x07", 1, "own")
        assert "--target own --input 07" in str(fault)
        assert "input: b'\\x07'" in str(fault)
        assert "ValueError: seven" in str(fault)
        with pytest.raises(Fault) as again:
            fuzz(target_of(read), 1000, 1)
        assert (again.value.number, again.value.data) == (fault.number, fault.data)

    def test_an_invariant_that_does_not_hold_is_a_fault(self) -> None:
        def read(data: bytes) -> bool:
            assert len(data) < 25
            return True

        with pytest.raises(Fault, match="AssertionError"):
            fuzz(target_of(read), 1000, 1)

    def test_what_is_left_of_each_tenth_input_is_growth(self) -> None:
        kept: list[object] = []

        def read(data: bytes) -> bool:
            if data[0] < 26:
                kept.append(data + b"kept")
            return True

        with pytest.raises(Grown, match="objects were left behind"):
            fuzz(target_of(read), 20_000, 1)

    def test_large_pieces_that_are_kept_are_growth(self) -> None:
        kept: list[object] = []

        def read(data: bytes) -> bool:
            if len(kept) < 400 and data[0] < 8:
                # Pages of its own: what a test before this one has freed would serve for a bytearray.
                kept.append(piece := mmap(-1, 1_000_000))
                piece.write(b"1" * len(piece))
            return True

        with pytest.raises(Grown, match="the process grew by"):
            fuzz(target_of(read), 3000, 1)

    def test_a_good_one_passes_with_its_counts(self) -> None:
        def read(data: bytes) -> bool:
            if data[0] < 128:
                raise KeyError
            return data[0] < 192

        report = fuzz(target_of(read), 4000, 1)
        assert report.inputs == report.accepted + report.refused["KeyError"] + report.refused["refused"]
        assert min(report.accepted, *report.refused.values()) > 700

    def test_the_inputs_are_shared_out_without_a_rest(self) -> None:
        for inputs in (1, 999, 1_000_000):
            assert sum(number for _, number in plan(list(TARGETS.values()), inputs)) == inputs
        assert dict(plan(list(TARGETS.values()), 1_000_000))[TARGETS["live"]] == 2500


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.fuzz", *words],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


class TestCommand:
    def test_a_run_ends_with_a_line_for_each_target(self) -> None:
        ended = run("--inputs", "300", "--seed", "3", "--target", "cursor", "--target", "reply")
        assert (ended.returncode, ended.stderr) == (0, "")
        first, *reports, last = ended.stdout.splitlines()
        assert (first, last) == ("seed 3", "300 inputs, no fault")
        assert [line.split()[0] for line in reports] == ["cursor", "reply"]

    def test_one_input_is_fed_alone(self) -> None:
        words = ("--target", "cursor", "--input")
        assert run(*words, b"a@e:1".hex()).stdout == "accepted\n"
        assert run(*words, "-").stdout == "InvalidCursor\n"
