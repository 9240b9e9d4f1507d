"""What a test leaves behind fails the run, in one process and in several; so does too little coverage of the core."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

CAREFUL = """
def test_it():
    pass
"""
CARELESS = """
import asyncio
import subprocess
import sys
import threading

kept = []

def test_it():
    kept.append(subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE))
    threading.Thread(target=threading.Event().wait, name="left", args=(7,)).start()
    failed = asyncio.new_event_loop().create_future()
    failed.set_exception(KeyError("lost"))
    failed.get_loop().close()
    cycle = [failed]
    cycle.append(cycle)
"""


def run(directory: Path, test: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A run of this file of tests under the guards of this folder's `conftest`."""
    (directory / "test_it.py").write_text(test)
    # A run of its own, not a part of the one that this is a worker of.
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environ["THREAD_GRACE"] = "1"
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:benchmark", "-p", "no:cacheprovider"]
    return subprocess.run(
        [*command, "--rootdir", str(directory), "-c", str(ROOT / "pyproject.toml"), *arguments, str(directory)],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


@pytest.mark.parametrize("workers", ["0", "1"])
def test_what_is_left_behind_and_what_is_not_covered_fails_the_run(tmp_path: Path, workers: str) -> None:
    ended = run(tmp_path, CARELESS, "--numprocesses", workers, "--core-gate")
    for fault in (
        "a process was left behind: ",
        "a thread was left behind: left",
        "asyncio logged: Future exception was never retrieved",
        "roomwire/core is covered to ",
    ):
        assert f"FAILED {fault}" in ended.stdout, ended.stdout + ended.stderr
    assert "1 passed" in ended.stdout.splitlines()[-1]
    assert ended.returncode == 1


def test_a_run_that_leaves_nothing_passes(tmp_path: Path) -> None:
    ended = run(tmp_path, CAREFUL, "--numprocesses", "1")
    assert (ended.returncode, ended.stderr) == (0, ""), ended.stdout
