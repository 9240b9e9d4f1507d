"""``roomwire init``: a project that works as it is."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Project


@pytest.fixture
def empty(project: Project) -> Project:
    for path in project.folder.iterdir():
        path.unlink()
    return project


def test_the_files(empty: Project) -> None:
    result = empty.call("init", "chat", "talk")
    assert (result.exit_code, result.stderr) == (0, "")
    names = {path.name for path in (empty.folder / "talk").iterdir()}
    assert {"app.py", "roomwire.toml", ".env", ".gitignore", "test_chat.py", "requirements.txt", "README.md"} <= names
    assert not [name for name in names if name.endswith((".template", ".sqlite3"))]
    assert "  cd talk\n" in result.stdout


def test_the_default_directory(empty: Project) -> None:
    empty.call("init", "chat")
    assert (empty.folder / "chat" / "app.py").is_file()


def test_every_project_has_a_secret_of_its_own(empty: Project) -> None:
    secrets = set()
    for name in ("one", "two"):
        empty.call("init", "chat", name)
        path = empty.folder / name / ".env"
        match = re.search(r"^CHAT_SECRET=([A-Za-z0-9_-]{64})$", path.read_text(), re.MULTILINE)
        assert match is not None
        secrets.add(match[1])
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
        assert ".env" in (empty.folder / name / ".gitignore").read_text().splitlines()
    assert len(secrets) == 2


def test_the_secret_is_not_printed(empty: Project) -> None:
    result = empty.call("init", "chat")
    secret = (empty.folder / "chat" / ".env").read_text().rpartition("=")[2].strip()
    assert secret not in result.output


def test_nothing_is_written_over(empty: Project) -> None:
    (empty.folder / "chat").mkdir()
    (empty.folder / "chat" / "app.py").write_text("mine")
    result = empty.call("init", "chat")
    assert result.exit_code == 2
    assert result.stderr == ("Error: chat has app.py already: choose another directory, or move them away\n")
    assert [path.name for path in (empty.folder / "chat").iterdir()] == ["app.py"]
    assert (empty.folder / "chat" / "app.py").read_text() == "mine"


def test_an_unknown_template(empty: Project) -> None:
    result = empty.call("init", "shop")
    assert (result.exit_code, "'shop' is not" in result.stderr) == (2, True)


def test_the_application_is_the_example(empty: Project) -> None:
    """Every file of it, but for what running it leaves behind."""
    empty.call("init", "chat")
    left_behind = (".sqlite3", ".sqlite3-shm", ".sqlite3-wal")
    example = Path(__file__).parents[2] / "examples" / "chat"
    files = [path for path in example.iterdir() if path.is_file() and path.suffix not in left_behind]
    assert len(files) >= 4
    for path in files:
        if not path.name.startswith(".") and path.name not in ("README.md", "requirements.txt"):
            assert (empty.folder / "chat" / path.name).read_bytes() == path.read_bytes()


def test_its_configuration_is_safe(empty: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    empty.call("init", "chat")
    done = subprocess.run(
        [sys.executable, "-m", "roomwire.cli", "check", "--strict"],
        cwd=empty.folder / "chat",
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_its_test_passes(empty: Project) -> None:
    empty.call("init", "chat")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "-p", "no:asyncio"],
        cwd=empty.folder / "chat",
        env={name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV"))},
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert done.returncode == 0, done.stdout
    assert "4 passed" in done.stdout
