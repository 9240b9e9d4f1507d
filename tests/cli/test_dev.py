"""``roomwire dev`` and ``--reload``: the page, the users, and a new process when a file changes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect

from roomwire.cli._reload import can_reload, is_watched, supervise
from roomwire.core.errors import ConfigError
from tests.cli.conftest import Process, Project, running


def banner_of(process: Process) -> dict[str, str]:
    """Its lines by their labels."""
    process.read_until("Ctrl-C drains and ends")
    lines = [line.strip().split("  ", 1) for line in process.seen.splitlines() if "  " in line.strip()]
    return {label: value.strip() for label, value in lines}


def fetch(url: str) -> tuple[str, bytes]:
    with urllib.request.urlopen(url, timeout=20) as response:
        return response.headers["Content-Type"], response.read()


class TestPage:
    def test_the_page_and_its_users(self, project: Project) -> None:
        project.write("index.html", "<h1>chat</h1>")
        with running(project.start("dev", "--no-reload")) as process:
            banner = banner_of(process)
            assert banner["Ann"] == banner["page"] + "?user=ann"
            assert banner["Ben"] == banner["page"] + "?user=ben"
            assert fetch(banner["page"]) == ("text/html; charset=utf-8", b"<h1>chat</h1>")
            kind, body = fetch(banner["page"] + "demo/tokens")
            users = json.loads(body)["users"]
            assert kind == "application/json"
            assert [(user["user"], user["name"]) for user in users] == [("ann", "Ann"), ("ben", "Ben")]
            for user in users:
                with connect(f"{banner['socket']}?token={user['token']}") as connection:
                    assert json.loads(connection.recv())["data"]["user"] == user["user"]
            process.interrupt()
            assert process.wait() == 0

    def test_without_a_page_the_tokens_are_printed(self, project: Project) -> None:
        with running(project.start("dev", "--no-reload")) as process:
            banner = banner_of(process)
            assert "page" not in banner
            with connect(f"{banner['socket']}?token={banner['token of Ann']}") as connection:
                assert json.loads(connection.recv())["data"]["user"] == "ann"

    def test_run_hands_out_no_tokens(self, project: Project) -> None:
        project.write("index.html", "<h1>chat</h1>")
        with running(project.start("run")) as process:
            address = process.read_until(r"on (\S+)$")[1]
            site = "http" + address.removeprefix("ws").removesuffix("/ws")
            for path in ("/", "/demo/tokens"):
                with pytest.raises(urllib.error.HTTPError, match="404"):
                    fetch(site + path)


class TestKindness:
    @pytest.mark.parametrize("toml", ['app = "chatapp:app"\n[server]\nport = 0\n', None])
    def test_a_secret_is_made_up(self, project: Project, toml: str | None) -> None:
        """Where nothing is said of authentication, or the variable of the secret is not set."""
        (project.folder / ".env").unlink()
        if toml is not None:
            project.write("roomwire.toml", toml)
        with running(project.start("dev", "--no-reload")) as process:
            banner = banner_of(process)
            with connect(f"{banner['socket']}?token={banner['token of Ann']}") as connection:
                assert json.loads(connection.recv())["data"]["user"] == "ann"

    def test_run_makes_up_nothing(self, project: Project) -> None:
        (project.folder / ".env").unlink()
        with running(project.start("run")) as process:
            assert process.wait() == 2
        assert "the environment variable CHAT_SECRET is not set" in process.seen

    def test_without_tokens(self, project: Project) -> None:
        project.write("roomwire.toml", 'app = "chatapp:app"\n[server]\nport = 0\n[auth]\ntype = "anonymous"\n')
        project.write("index.html", "<h1>chat</h1>")
        with running(project.start("dev", "--no-reload")) as process:
            banner = banner_of(process)
            assert "Ann" not in banner
            assert fetch(banner["page"])[1] == b"<h1>chat</h1>"

    def test_this_machine_only(self, project: Project) -> None:
        result = project.call("dev", "--no-reload", "--host", "0.0.0.0")
        assert result.exit_code == 2
        assert result.stderr == (
            "Error: --host: `roomwire dev` hands out tokens, so it serves this machine only:"
            " use 127.0.0.1, or `roomwire run`\n"
        )


class TestReload:
    @pytest.mark.parametrize("command", [["dev"], ["run", "--reload"]])
    def test_a_change_starts_it_anew(self, project: Project, command: list[str]) -> None:
        with running(project.start(*command)) as process:
            process.read_until("chatapp:app")
            project.write("chatapp.py", "1 / 0\n")
            process.read_until("^chatapp.py changed: starting anew$")
            process.read_until("importing chatapp failed: ZeroDivisionError")
            process.read_until("^the server has ended: waiting for a change, or Ctrl-C$")
            project.write("chatapp.py", "from roomwire import App\napp = App()\n")
            process.read_until("^chatapp.py changed: starting anew$")
            process.read_until("chatapp:app")
            if command == ["dev"]:
                process.read_until("Ctrl-C drains")
            process.interrupt()
            assert process.wait() == 0

    def test_it_watches_before_anything_is_read(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """Else a change in between would never be seen."""
        steps: list[str] = []

        def watch(*paths: Path, **options: object) -> Iterator[set[object]]:
            steps.append("watch")
            yield set()

        class Started(subprocess.Popen[bytes]):
            def __init__(self, command: list[str], **options: Any) -> None:
                steps.append("start")
                super().__init__(command, **options)

        monkeypatch.setattr("watchfiles.watch", watch)
        monkeypatch.setattr(subprocess, "Popen", Started)
        assert supervise(["version"], [tmp_path]) == 0
        assert steps == ["watch", "start"]

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_signal_before_anything_has_started(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: signal.Signals
    ) -> None:
        def watch(*paths: Path, **options: object) -> Iterator[set[object]]:
            signal.raise_signal(number)
            return iter(())

        monkeypatch.setattr("watchfiles.watch", watch)
        assert supervise(["version"], [tmp_path]) == 128 + number

    def test_whoever_kills_the_supervisor_kills_the_server(self, project: Project) -> None:
        """Else it would keep the port, and the next start would fail."""
        with running(project.start("dev")) as process:
            address = banner_of(process)["socket"]
            process.popen.kill()
            process.wait()  # up to the end of stderr, which the server holds too
            with pytest.raises(ConnectionRefusedError):
                connect(address)

    def test_an_inherited_socket_is_taken_over_by_each_process(self, project: Project) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            descriptor = listening.fileno()
            os.set_inheritable(descriptor, True)
            command = ("run", "--reload", "--fd", str(descriptor))
            with running(project.start(*command, pass_fds=[descriptor])) as process:
                address = process.read_until(r"on (\S+)$")[1]
                assert f":{listening.getsockname()[1]}/" in address
                (project.folder / "chatapp.py").touch()
                process.read_until("starting anew")
                assert process.read_until(r"on (\S+)$")[1] == address
                process.interrupt()
                assert process.wait() == 0

    @pytest.mark.parametrize(
        ("path", "watched"),
        [
            ("/x/app.py", True),
            ("/x/roomwire.toml", True),
            ("/x/.env", True),
            ("/x/dev.env", True),
            ("/x/app.pyc", False),
            ("/x/chat.sqlite3", False),
            ("/x/index.html", False),
        ],
    )
    def test_which_changes_matter(self, path: str, watched: bool) -> None:
        assert is_watched(path) is watched

    def test_without_watchfiles(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def hide(name: str) -> object:
            return None if name == "watchfiles" else find_spec(name)

        monkeypatch.setattr("importlib.util.find_spec", hide)
        assert can_reload() is False
        with pytest.raises(ConfigError, match=r'^--reload needs watchfiles: pip install "roomwire\[cli\]"$'):
            supervise(["run"], [Path()])
