"""What `python -m benchmarks.dashboard` compares: values reach the viewers of each server, at a cost that is told."""

from __future__ import annotations

import pytest
from benchmarks.dashboard import __main__ as dashboard
from benchmarks.dashboard.__main__ import CONTESTANTS, Contestant, Round, play, table


@pytest.mark.parametrize("name", ["roomwire, raw, conflated", "roomwire, uvicorn", "FastAPI loop, newest of each"])
def test_values_come(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dashboard, "WARM_UP", 0.5)
    found = play(CONTESTANTS[name], viewers=3, seconds=0.5)
    assert found.lost == ""
    assert min(found.core, found.value_us, found.share, found.p50) > 0
    assert found.p50 <= found.p99


def test_a_server_that_does_not_start_is_told() -> None:
    found = play(Contestant(("false",), None), viewers=1, seconds=0.1)
    assert "not all viewers could be served" in found.lost


def test_the_table_has_medians() -> None:
    rounds = [Round(core=0.1 * n, value_us=n, share=1.0, p50=2 * n, p99=3 * n, own=0.05) for n in (1, 2, 9)]
    text = table({"one": [*rounds, Round(lost="gone")], "other": [Round(lost="gone\nwhy")]})
    one, other = [[cell.strip() for cell in row.strip("|").split("|")] for row in text.splitlines()[2:]]
    assert one == ["one", "20 %", "2.00", "100 %", "4.00", "6.00", "5 %"]
    assert other[:2] == ["other", "none: gone"]
