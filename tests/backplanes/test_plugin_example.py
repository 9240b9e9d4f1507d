"""The example of a plugin: built and installed as users have it, tested by its own tests, served by two processes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.cli.conftest import Process, running

EXAMPLE = Path(__file__).parents[2] / "examples" / "backplane-plugin"

APP = """
import os

from roomwire import App, Connection

app = App()

@app.on_connect
async def rooms_of(connection: Connection) -> list[str]:
    return ["lobby"]

@app.room("lobby")
async def may_join(connection: Connection) -> bool:
    return True

@app.on("say", room="lobby")
async def say(connection: Connection, text: str) -> int:
    await app.publish("lobby", "said", text)
    return os.getpid()
"""

CONFIG = """
app = "app:app"
[server]
port = 0
[auth]
type = "anonymous"
[backplane]
type = "sqlite"
[backplane.options]
path = "cluster.sqlite3"
"""


def python(*arguments: str, folder: Path, path: Path | None = None) -> str:
    environment = {**os.environ, "PYTHONPATH": str(path or "")}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder into which an installer put the wheel."""
    folder = tmp_path_factory.mktemp("plugin")
    python("-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder), folder=EXAMPLE)
    (wheel,) = folder.glob("*.whl")
    site = folder / "site"
    quiet = ("--quiet", "--disable-pip-version-check", "--no-compile")
    offline = ("--no-deps", "--no-index", "--no-build-isolation")
    python("-m", "pip", "install", *quiet, *offline, "--target", str(site), str(wheel), folder=folder)
    return site


def test_the_package_is_found_by_its_entry_point(installed: Path, tmp_path: Path) -> None:
    rows = json.loads(python("-m", "roomwire.cli", "plugins", "--json", folder=tmp_path, path=installed))
    (row,) = [row for row in rows if row["name"] == "sqlite"]
    assert row == {
        "group": "roomwire.backplanes",
        "name": "sqlite",
        "setting": "backplane.type",
        "class": "roomwire_sqlite:SqliteBackplane",
        "from": "roomwire-sqlite 0.1.0",
        "state": "ok",
    }
    assert (installed / "roomwire_sqlite" / "py.typed").is_file()


@pytest.mark.timeout(240)  # of all of them together, on a machine that does other things as well
def test_its_own_tests_pass_and_none_is_skipped(installed: Path) -> None:
    others = [option for name in ("cacheprovider", "benchmark", "xdist", "asyncio") for option in ("-p", f"no:{name}")]
    arguments = ("-m", "pytest", "-q", *others)
    said = python(*arguments, folder=EXAMPLE, path=installed)
    summary = re.fullmatch(r"(\d+) passed in .*", said.strip().splitlines()[-1])
    assert summary is not None, said
    assert int(summary[1]) > 150  # the suite, on asyncio and on trio


class Cluster:
    """Nodes of one file: processes of ``roomwire run``, in one folder."""

    def __init__(self, folder: Path, installed: Path, stack: ExitStack) -> None:
        self._folder = folder
        self._environment = {"PYTHONPATH": str(installed)}
        self._stack = stack
        (folder / "app.py").write_text(APP)
        (folder / "roomwire.toml").write_text(CONFIG)

    def start(self, *arguments: str) -> tuple[Process, str]:
        """A node or several, and their address."""
        process = self._stack.enter_context(running(Process(["run", *arguments], self._folder, self._environment)))
        return process, process.read_until(r"^roomwire serves app:app on (\S+)")[1]

    def connect(self, node: str, last: str = "") -> User:
        """A client of a node, which comes back where it heard something."""
        cursor = f"?last_event_id={quote(f'lobby@{last}', safe='')}" if last else ""
        return User(self._stack.enter_context(connect(node + cursor, proxy=None)), last)


@pytest.fixture
def cluster(installed: Path) -> Iterator[Cluster]:
    # Not `tmp_path`: sockets lie beside the file, and the path of one may have about a hundred characters.
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="cluster-"))
        yield Cluster(Path(folder), installed, stack)


class User:
    """A client, which knows what it was last told."""

    def __init__(self, link: ClientConnection, last: str) -> None:
        self._link = link
        self.room = self.until("session.welcome")["data"]["rooms"]["lobby"]
        self.last: str = last or self.room["position"]

    def until(self, *events: str) -> dict[str, Any]:
        while True:
            message: dict[str, Any] = json.loads(self._link.recv(timeout=20))
            if message["event"] in events:
                return message

    def hear(self) -> str:
        """The next thing that is said."""
        said = self.until("said")
        self.last = said["id"]
        text: str = said["data"]
        return text

    def say(self, text: str) -> int:
        """Say something, which is acknowledged; so it is stored. Returns the process that did it."""
        self._link.send(json.dumps({"event": "say", "room": "lobby", "data": text, "id": text}))
        said, ack = sorted(
            (self.until("said", "ack"), self.until("said", "ack")), key=lambda one: one["event"] == "ack"
        )
        assert (said["event"], said["data"], ack["event"], ack["id"]) == ("said", text, "ack", text)
        self.last = said["id"]
        process: int = ack["data"]
        return process

    def lose_link(self) -> None:
        with pytest.raises(ConnectionClosed):
            self.until("nothing")


def test_two_processes_are_one_cluster_and_the_death_of_one_loses_nothing(cluster: Cluster) -> None:
    dying, first = cluster.start()
    _, second = cluster.start()
    ann, ben = cluster.connect(first), cluster.connect(second)
    ann.say("from the first")
    assert ben.hear() == "from the first"
    ben.say("from the second")
    assert ann.hear() == "from the second"
    ann.say("acknowledged")
    dying.popen.kill()
    ann.lose_link()
    assert ben.hear() == "acknowledged"
    ben.say("while it was dead")
    # Whether it comes back to the other node, or to the one that died.
    _, restarted = cluster.start()
    back = [cluster.connect(node, ann.last) for node in (second, restarted)]
    for user in back:
        assert user.room["recovered"] is True
        assert user.hear() == "while it was dead"
    ben.say("all are here")
    assert [user.hear() for user in back] == ["all are here"] * 2


def test_workers_of_one_address_are_one_cluster(cluster: Cluster) -> None:
    parent, address = cluster.start("--workers", "2")
    ann, ben = cluster.connect(address), cluster.connect(address)
    of_ann = ann.say("from one worker")
    assert ben.hear() == "from one worker"
    of_ben = ben.say("from the other")
    assert ann.hear() == "from the other"
    assert of_ann != of_ben
    parent.popen.send_signal(signal.SIGTERM)
    for user in (ann, ben):
        user.lose_link()
    assert parent.wait() == 0
