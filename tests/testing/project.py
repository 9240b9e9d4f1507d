"""A user's project: a folder with an application, and pytest in it, run as a user runs it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

__all__ = ["BOARD", "INI", "UNUSED", "Project", "Run"]

BOARD = """
from typing import Annotated

from roomwire import App, Connection, Depends

app = App()


def stamp() -> str:
    return "real"


@app.room("board:{name}")
async def may_join(connection: Connection, name: str) -> bool:
    return connection.user != "mallory"


@app.on("note.add", room="board:{name}")
async def add_note(connection: Connection, text: str, name: str, mark: Annotated[str, Depends(stamp)]) -> str:
    await app.publish(f"board:{name}", "note.new", text)
    return mark


@app.on("boom")
async def boom(connection: Connection) -> None:
    raise RuntimeError("the handler broke")
"""
INI = "[pytest]\nroomwire_app = board:app\n"
UNUSED = [word for name in ("cacheprovider", "benchmark", "hypothesispytest", "faker") for word in ("-p", f"no:{name}")]
"""Other plugins of this environment take a second to come up."""


class Run(NamedTuple):
    """What a run printed."""

    output: str

    @property
    def outcomes(self) -> dict[str, str]:
        """By the name of a test and its class: "PASSED", "FAILED" or "ERROR", and both where its teardown failed."""
        found: dict[str, list[str]] = {}
        for outcome, name in re.findall(r"^(PASSED|FAILED|ERROR) \S+?\.py::(\S+)", self.output, re.M):
            found.setdefault(name, []).append(outcome)
        return {name: " ".join(sorted(outcomes)) for name, outcomes in found.items()}

    def report(self, name: str) -> str:
        """The report of a test that failed: what stands below its line."""
        parts = re.split(r"^_{3,} (?:ERROR at \w+ of )?(\S+) _{3,}$", self.output, flags=re.M)
        return "".join(text for found, text in zip(parts[1::2], parts[2::2], strict=True) if found == name)


class Project:
    """It begins with the board's application and no tests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.write("board.py", BOARD)
        self.write("pytest.ini", INI)

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def run(self, *arguments: str, exit_code: int = 0, asyncio: bool = False) -> Run:
        """Run pytest."""
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV", "ROOMWIRE_"))
        }
        foreign = () if asyncio else ("-p", "no:asyncio")
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-rA", "-W", "error", *UNUSED, *foreign, *arguments],
            cwd=self.folder,
            env=kept,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == exit_code, done.stdout
        return Run(done.stdout)
