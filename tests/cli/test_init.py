"""``roomwire init``: a project that works as it is."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.cli.conftest import Project, running

TEMPLATES = ["chat", "dashboard"]


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


@pytest.mark.parametrize("template", TEMPLATES)
def test_every_project_has_a_secret_of_its_own(empty: Project, template: str) -> None:
    secrets = set()
    for name in ("one", "two"):
        empty.call("init", template, name)
        path = empty.folder / name / ".env"
        match = re.search(rf"^{template.upper()}_SECRET=([A-Za-z0-9_-]{{64}})$", path.read_text(), re.MULTILINE)
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


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_application_is_the_example(empty: Project, template: str) -> None:
    """Every file of it, but for what running it leaves behind."""
    empty.call("init", template)
    left_behind = (".sqlite3", ".sqlite3-shm", ".sqlite3-wal", ".pyc")
    example = Path(__file__).parents[2] / "examples" / template
    files = [path for path in example.rglob("*") if path.is_file() and path.suffix not in left_behind]
    assert len(files) >= 4
    for path in files:
        if not path.name.startswith(".") and path.name not in ("README.md", "requirements.txt"):
            assert (empty.folder / template / path.relative_to(example)).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("template", TEMPLATES)
def test_its_configuration_is_safe(empty: Project, template: str) -> None:
    empty.call("init", template)
    done = subprocess.run(
        [sys.executable, "-m", "roomwire.cli", "check", "--strict"],
        cwd=empty.folder / template,
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("template", "tests"), [("chat", 4), ("dashboard", 3)])
def test_its_test_passes(empty: Project, template: str, tests: int) -> None:
    empty.call("init", template)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "-p", "no:asyncio"],
        cwd=empty.folder / template,
        env={name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV"))},
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert done.returncode == 0, done.stdout
    assert f"{tests} passed" in done.stdout


def test_the_dashboard_is_served_by_dev(empty: Project) -> None:
    empty.call("init", "dashboard", ".")
    with running(empty.start("dev", "--no-reload", "--port", "0")) as process:
        page = process.read_until(r"page +(http://\S+)")[1]
        with urllib.request.urlopen(page, timeout=20) as response:
            assert b"static/dashboard.js" in response.read()
        with urllib.request.urlopen(f"{page}demo/tokens", timeout=20) as response:
            token = json.load(response)["users"][0]["token"]
        # The routes of FastAPI verify the same tokens.
        request = urllib.request.Request(f"{page}api/metrics", headers={"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(request, timeout=20) as response:
            assert len(json.load(response)) == 6


def test_dev_makes_up_a_secret_for_the_routes_too(empty: Project) -> None:
    empty.call("init", "dashboard", ".")
    (empty.folder / ".env").unlink()
    with running(empty.start("dev", "--no-reload", "--port", "0")) as process:
        page = process.read_until(r"page +(http://\S+)")[1]
        with urllib.request.urlopen(f"{page}demo/tokens", timeout=20) as response:
            token = json.load(response)["users"][0]["token"]
        request = urllib.request.Request(f"{page}api/metrics", headers={"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(request, timeout=20) as response:
            assert response.status == 200
