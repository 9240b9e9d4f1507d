"""`roomwire check` and `roomwire run` with a configuration that is for an ASGI host."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from roomwire.cli import main
from tests.server.live import SECRET

CONFIG = f"""
app = "chat:app"

[auth]
type = "jwt"

[auth.options]
algorithms = ["HS256"]
secret = "{SECRET}"

[server]
transport = "asgi"
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "chat.py").write_text("from roomwire import App\n\napp = App()\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def roomwire(folder: Path, more: str, *arguments: str) -> Result:
    (folder / "roomwire.toml").write_text(CONFIG + more)
    return CliRunner().invoke(main, arguments)


@pytest.mark.parametrize("command", ["run", "dev"])
def test_it_is_not_served_without_a_host(folder: Path, command: str) -> None:
    done = roomwire(folder, "", command, *(["--no-reload"] if command == "dev" else []))
    assert done.exit_code == 2
    for part in ("server.transport", "roomwire.toml", "`uvicorn chat:app.asgi`", "ROOMWIRE_SERVER__TRANSPORT=anyio"):
        assert part in done.output


def test_it_is_checked(folder: Path) -> None:
    done = roomwire(folder, "", "check")
    assert done.exit_code == 0
    assert "server." not in done.output


@pytest.mark.parametrize(
    "line", ['host = "0.0.0.0"', "port = 9000", "backlog = 10", "compression = true", "proxy_headers = true"]
)
def test_what_the_host_has_to_be_told_is_warned_of(folder: Path, line: str) -> None:
    done = roomwire(folder, line, "check")
    name = line.partition(" ")[0]
    assert f'warning: server.{name}: with transport = "asgi" nothing reads it' in done.output
    assert f"[server] leave out {name}" in done.output


def test_what_is_not_the_hosts_is_still_looked_at(folder: Path) -> None:
    assert "warning: server.drain_timeout" in roomwire(folder, "drain_timeout = 60", "check").output
    assert "warning: metrics.token" in roomwire(folder, "[metrics]\nenabled = true", "check").output
