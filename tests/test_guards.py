"""What a test leaves behind fails the run, in one process and in several; so does too little coverage of the core."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

LEAVES = {
    "a process": (
        "import subprocess as s, sys\nkept.append(s.Popen([sys.executable, '-c', 'input()'], stdin=s.PIPE))",
        "a process was left behind: ",
    ),
    "a thread": (
        "import threading\nthreading.Thread(target=threading.Event().wait, name='left', args=(7,)).start()",
        "a thread was left behind: left",
    ),
    "an error of asyncio": (
        "import asyncio\nfailed = asyncio.new_event_loop().create_future()\nfailed.set_exception(KeyError('lost'))\n"
        "failed.get_loop().close()\ncycle = [failed]\ncycle.append(cycle)",
        "asyncio logged: Future exception was never retrieved",
    ),
}


def run(directory: Path, body: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A run of a test with this body, under the guards of this folder's `conftest`."""
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    (directory / "test_it.py").write_text(f"kept = []\n\n\ndef test_it():\n{lines}\n")
    # A run of its own, not a part of the one that this is a worker of.
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
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


@pytest.mark.parametrize("workers", ["0", "2"])
@pytest.mark.parametrize("what", LEAVES)
def test_what_is_left_behind_fails_the_run(tmp_path: Path, what: str, workers: str) -> None:
    body, fault = LEAVES[what]
    ended = run(tmp_path, body, "--numprocesses", workers)
    assert f"FAILED {fault}" in ended.stdout, ended.stdout + ended.stderr
    assert "1 passed" in ended.stdout.splitlines()[-1]
    assert ended.returncode == 1


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_run_that_leaves_nothing_passes_and_one_that_covers_too_little_does_not(tmp_path: Path, workers: str) -> None:
    assert run(tmp_path, "assert True", "--numprocesses", workers).returncode == 0
    ended = run(tmp_path, "assert True", "--numprocesses", workers, "--core-gate")
    assert "FAILED roomwire/core is covered to " in ended.stdout, ended.stdout + ended.stderr
    assert "1 passed" in ended.stdout.splitlines()[-1]
    assert ended.returncode == 1
