"""The made-up measurements: the same for a seed, believable, and what a spike does to them."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

NOW = 1_800_000_000.0


@pytest.fixture(scope="module")
def fleets() -> Any:
    path = Path(__file__).parents[2] / "examples" / "dashboard" / "fleet.py"
    spec = importlib.util.spec_from_file_location("fleet_of_the_example", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def begun(fleets: Any, seed: int = 7, now: float = NOW) -> Any:
    fleet = fleets.Fleet(seed=seed)
    fleet.begin(now)
    return fleet


def test_a_seed_makes_the_same_fleet(fleets: Any) -> None:
    one, same, other = (begun(fleets, seed).measure(NOW + 1) for seed in (7, 7, 8))
    assert one == same
    assert one != other


@pytest.mark.parametrize(("fraction", "told"), [(0.0, 0.0), (0.25, 0.25), (0.9996, 1.0)])
def test_the_minute_before_is_there(fleets: Any, fraction: float, told: float) -> None:
    """Whatever part of a second it is, also one that is rounded to the next."""
    recent = begun(fleets, now=NOW + fraction).recent()
    assert set(recent) == {f"{region}-{number}" for region in ("fra", "iad", "sin") for number in (1, 2)}
    for measurements in recent.values():
        assert [each.at for each in measurements] == [NOW + told - 60 + second for second in range(1, 60)]


def test_many_measurements_of_a_second_are_kept_once(fleets: Any) -> None:
    fleet = begun(fleets)
    for tick in range(200):
        fleet.measure(NOW + tick / 50)
    for measurements in fleet.recent().values():
        assert len({int(each.at) for each in measurements}) == len(measurements) <= 60
    assert {each.count for each in fleet.newest().values()} == {259}


def test_ten_minutes_are_believable(fleets: Any) -> None:
    fleet = begun(fleets)
    for tick in range(6000):
        for each in fleet.measure(NOW + tick / 10):
            assert 0 < each.rps < 1000
            assert 20 < each.p95 < 2000
            assert 0 <= each.errors < 20
            assert 0 < each.cpu <= 100
            assert each.queue >= 0


def test_a_spike_fills_the_queues_and_passes(fleets: Any) -> None:
    fleet = begun(fleets)
    before = fleet.measure(NOW + 0.1)
    fleet.spike(2.1, NOW + 8)
    for tick in range(2, 80):
        during = fleet.measure(NOW + tick / 10)
    for tick in range(80, 400):
        after = fleet.measure(NOW + tick / 10)
    for calm, busy, later in zip(before, during, after, strict=True):
        assert busy.rps > 1.2 * calm.rps
        assert busy.queue > 10 * calm.queue
        assert busy.p95 > 1.5 * calm.p95
        assert later.queue < busy.queue
        assert later.p95 < busy.p95


def test_no_regions_no_hosts(fleets: Any) -> None:
    fleet = fleets.Fleet([], seed=1)
    fleet.begin(NOW)
    assert (len(fleet), fleet.measure(NOW), fleet.recent()) == (0, [], {})
