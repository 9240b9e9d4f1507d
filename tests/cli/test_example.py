"""The example as it is shipped: in its folder, with its own settings, and what it says on the wire."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

from tests.cli.conftest import Process, Project, running

CHAT = Path(__file__).parents[2] / "examples" / "chat"
ROOM = "chat:general"


@pytest.fixture
def example(project: Project) -> Project:
    """A copy of the example, and nothing in the environment."""
    for path in project.folder.iterdir():
        path.unlink()
    unwanted = shutil.ignore_patterns("*.sqlite3*", "__pycache__")
    shutil.copytree(CHAT, project.folder, ignore=unwanted, dirs_exist_ok=True)
    return project


@pytest.fixture
def server(example: Project) -> Iterator[str]:
    with running(start(example)) as process:
        yield process.read_until(r"^roomwire serves app:app on (\S+)$")[1]


def start(example: Project) -> Process:
    return example.start("run", "app:app", "--port", "0")


class User:
    """A connection of the `websockets` package, by a token that the command line makes."""

    def __init__(self, example: Project, url: str, name: str) -> None:
        token = example.call("token", "new", name).output.strip()
        self._connecting = connect(f"{url}?token={token}&state=1", proxy=None)

    def __enter__(self) -> User:
        self.connection: ClientConnection = self._connecting.__enter__()
        self.welcome = self.until("session.welcome")["data"]
        # What happens before the state is made is in the state, or not for it.
        self.state = self.until("room.state")["data"]["state"]
        return self

    def __exit__(self, *exception: Any) -> None:
        self._connecting.__exit__(*exception)

    def until(self, event: str, **fields: Any) -> dict[str, Any]:
        """The next message of that event, in the one room if in any; what comes before it is dropped."""
        while True:
            message: dict[str, Any] = json.loads(self.connection.recv(timeout=10))
            if message["event"] == event and message.get("room", ROOM) == ROOM and fields.items() <= message.items():
                return message

    def say(self, event: str, data: object, **fields: Any) -> None:
        self.connection.send(json.dumps({"event": event, "room": ROOM, "data": data, **fields}))


def test_two_users_talk(example: Project, server: str) -> None:
    with User(example, server, "ann") as ann, User(example, server, "ben") as ben:
        assert set(ann.welcome["rooms"]) == {"chat:general", "chat:random"}
        ben.say("typing", {})
        assert ann.until("typing")["data"] == {"from": "ben"}
        ben.say("message.send", {"content": "hello"}, id="m1")
        new = ann.until("message.new")
        assert (new["data"]["from"], new["data"]["content"]) == ("ben", "hello")
        assert ben.until("ack", id="m1")["data"]["id"] == new["id"]
        ben.say("room.members", None, id="q1")
        members = ben.until("ack", id="q1")["data"]["members"]
        assert {member["user"] for member in members} == {"ann", "ben"}
        ann.say("message.send", {"content": "and to you"}, id="m2")
        # Ben's own message did not come to him: the next one that does is Ann's.
        assert ben.until("message.new")["data"]["content"] == "and to you"
        ann.say("message.send", {"content": ""}, id="m3")
        assert ann.until("error", id="m3")["data"]["code"] == "invalid"


def test_the_messages_outlive_the_page_and_the_server(example: Project) -> None:
    for number in range(2):
        with running(start(example)) as process:
            url = process.read_until(r"^roomwire serves app:app on (\S+)$")[1]
            with User(example, url, "ann") as ann:
                assert [message["content"] for message in ann.state] == ["kept"] * number
                ann.say("message.send", {"content": "kept"}, id="m1")
                ann.until("ack", id="m1")
            process.popen.kill()
            process.popen.wait()
