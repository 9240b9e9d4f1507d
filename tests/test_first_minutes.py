"""From nothing to a delivered message in three commands: scripts/first_five_minutes.py, which holds itself to 60 s.

The promise is for a machine that does nothing else: `make first-minutes` runs the script so. Here other tests may share
it: the limit is 60 s times the processes of pytest-xdist, or FIRST_MINUTES_LIMIT where that is set. The stopwatch
stands at the end of the run. The packages come from the index, as pip is configured.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "first_five_minutes.py"


PROMISED = 60.0
"""Seconds."""


def limit() -> str:
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    return os.environ.get("FIRST_MINUTES_LIMIT", f"{PROMISED * processes:g}")


@pytest.mark.timeout(600)
def test_three_commands_and_a_message(record_property: Callable[[str, object], None]) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT)],
        env={**os.environ, "FIRST_MINUTES_LIMIT": limit()},
        capture_output=True,
        text=True,
        check=False,
        timeout=590,
    )
    record_property("summary", done.stdout)  # tests/conftest.py prints it at the end of the run
    assert done.returncode == 0, done.stdout + done.stderr
    steps = [line.split(" s  ", 1)[1] for line in done.stdout.splitlines()]
    assert [step.split("  ")[0].split(" ")[0] for step in steps] == ["a", "pip", "roomwire", "cd", "a", "in"], steps


def test_others_that_share_the_machine_have_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FIRST_MINUTES_LIMIT", raising=False)
    monkeypatch.delenv("PYTEST_XDIST_WORKER_COUNT", raising=False)
    assert limit() == "60"
    monkeypatch.setenv("PYTEST_XDIST_WORKER_COUNT", "3")
    assert limit() == "180"
    monkeypatch.setenv("FIRST_MINUTES_LIMIT", "90")
    assert limit() == "90"


def test_more_time_than_promised_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import first_five_minutes as script  # type: ignore[import-not-found]

    with pytest.raises(script.Failed, match="it took longer than 0 s"):
        script.Stopwatch(0.0).left()


def test_the_commands_are_the_tutorials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import first_five_minutes as script

    assert [command.split()[0] for command in script.commands()] == ["pip", "roomwire", "cd", "roomwire"]
