"""The public API as mypy and pyright see it: right uses type, and each wrong one is an error."""

from __future__ import annotations

import gc
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from mypy import api as mypy
from tests.typing import declarations

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
FILES = ("declarations.py", "mistakes.py")
COMMENT = re.compile(r"  # type: ignore\[.*\]$", re.MULTILINE)

# A checker reads the whole package; on a cold cache and a busy machine that takes its time.
pytestmark = pytest.mark.timeout(300)


def run_mypy() -> str:
    """What mypy says. In this process it is quicker; what it sets for the process is set back for the tests behind."""
    files = [str(HERE / name) for name in FILES]
    depth, thresholds = sys.getrecursionlimit(), gc.get_threshold()
    try:
        report, errors, _ = mypy.run(["--config-file", str(ROOT / "pyproject.toml"), *files])
    finally:
        sys.setrecursionlimit(depth)
        gc.set_threshold(*thresholds)
    return report + errors


def run_pyright(directory: Path, sources: dict[str, str]) -> list[str]:
    """The errors that pyright, at its strictest, finds in modules; each begins with ``file:line:``."""
    for name, source in sources.items():
        (directory / name).write_text(source)
    config = {
        "extraPaths": [str(ROOT / "src")],
        "typeCheckingMode": "strict",
        "reportUnnecessaryTypeIgnoreComment": "error",
        "reportUnusedFunction": "none",  # they are there for their decorators' sake
    }
    (directory / "pyrightconfig.json").write_text(json.dumps(config))
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, "-p", str(directory)]
    # The node that is there, instead of one that pyright would fetch.
    environment = os.environ | {"PYRIGHT_PYTHON_GLOBAL_NODE": "1", "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    report = json.loads(done.stdout)
    assert report["summary"]["filesAnalyzed"] == len(sources), done.stdout
    return [
        f"{Path(found['file']).name}:{found['range']['start']['line'] + 1}: {found['message']}"
        for found in report["generalDiagnostics"]
        if found["severity"] == "error"
    ]


def test_right_uses_are_accepted_at_run_time_too() -> None:
    events = ("message.send", "draw", "vote", "upload", "echo", "ping")
    assert all(map(declarations.app.router.knows, events))
    assert len(declarations.hooks_that_say_yes_or_no()) == 3


def test_mypy() -> None:
    """Strict, so that a comment which expects an error that is none is told as unused."""
    assert run_mypy() == "Success: no issues found in 2 source files\n"


def test_pyright(tmp_path: Path) -> None:
    assert run_pyright(tmp_path, {name: (HERE / name).read_text() for name in FILES}) == []


def test_pyright_finds_each_mistake_without_being_told(tmp_path: Path) -> None:
    source = (HERE / "mistakes.py").read_text()
    found = run_pyright(tmp_path, {"mistakes.py": COMMENT.sub("", source)})
    marked = {number for number, line in enumerate(source.splitlines(), start=1) if COMMENT.search(line)}
    assert len(marked) > 20
    assert {int(error.split(":")[1]) for error in found} == marked
