"""The pytest plugin in a project of its own, run as a user runs it: a process of pytest in the project's folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

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

UNUSED = [word for name in ("cacheprovider", "benchmark", "hypothesispytest", "faker") for word in ("-p", f"no:{name}")]
"""Other plugins of this environment take a second to come up."""
INI = "[pytest]\nroomwire_app = board:app\n"

TALK = """
async def talk(client):
    async with client.connect("ann") as ann:
        ben = await client.connect("ben")
        await ann.join("board:x")
        await ben.join("board:x")
        assert await ann.send("note.add", "hi", room="board:x") == "real"
        note = await ben.expect("note.new", room="board:x", user="ann")
        assert note.data == "hi"
        await ann.expect("note.new")
        await ann.assert_silent()
        await ben.assert_silent()
"""


class Project:
    """A folder with an application, and pytest in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.write("board.py", BOARD)
        self.write("pytest.ini", INI)

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def run(self, *arguments: str, exit_code: int = 0) -> str:
        """What pytest prints."""
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV", "ROOMWIRE_"))
        }
        program = [sys.executable, "-m", "pytest", "-W", "error", *UNUSED]
        foreign = () if "asyncio" in arguments else ("-p", "no:asyncio")
        done = subprocess.run(
            [*program, *foreign, *(argument for argument in arguments if argument != "asyncio")],
            cwd=self.folder,
            env=kept,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == exit_code, done.stdout
        return done.stdout


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_without_a_word_in_the_configuration_it_does_nothing(project: Project) -> None:
    """Not even the package is imported, and the names are free."""
    project.write("pytest.ini", "[pytest]\n")
    project.write(
        "test_it.py",
        """
import sys


def test_nothing(request):
    assert not [name for name in sys.modules if name.startswith("roomwire")]
    assert "_roomwire_pytest" in sys.modules
    assert "roomwire" not in " ".join(request.fixturenames)


def test_no_client(client):
    pass
""",
    )
    output = project.run(exit_code=1)
    assert "fixture 'client' not found" in output
    assert "1 passed, 1 error" in output
    assert "roomwire:" not in output


def test_a_test_without_async(project: Project) -> None:
    project.write(
        "test_it.py",
        """
import socket
import threading

import pytest

from roomwire.testing.kit import NotReceived, Refused, RequestFailed, Unexpected


def test_messages(client, server):
    ann, ben = client.connect("ann"), client.connect("ben")
    for one in (ann, ben):
        assert one.join("board:x")["recovered"] is None
    assert ann.send("note.add", "hi", room="board:x") == "real"
    with pytest.raises(Unexpected, match="ben#2"):  # he has read nothing since: only the fence brings it
        ben.assert_silent("note.new")
    assert ben.expect("note.new", user="ann").data == "hi"
    ben.assert_silent()
    with pytest.raises(Unexpected, match="note.new in board:x: 'hi'"):
        ann.assert_silent()
    ann.assert_silent("other")
    server.call(server.app.publish, "board:x", "told", 1)
    assert ben.expect("told", data=1).room == "board:x"
    ben.leave("board:x")
    with pytest.raises(RequestFailed, match="not_joined"):
        ben.send("note.add", "hi", room="board:x")
    ben.send_raw("no JSON")
    assert ben.expect("error").data["code"] == "invalid"
    server.call(server.app.disconnect, "ben")
    assert ben.expect_close()[0] == 4503


def test_refusals(client, token):
    for wrong in (None, token.expired("ann"), token.forged("ann"), "nonsense"):
        with pytest.raises(Refused) as refused:
            client.connect("ann", token=wrong)
        assert (refused.value.status, refused.value.error) == (401, "unauthorized")
    with pytest.raises(Refused) as refused:
        client.connect("ann", headers={"Origin": "https://elsewhere.example"})
    assert refused.value.status == 403
    with pytest.raises(RequestFailed, match="forbidden"):
        client.connect("mallory").join("board:x")


def test_coming_back(client):
    ann, ben = client.connect("ann"), client.connect("ben")
    ann.join("board:x")
    ben.join("board:x")
    ben.drop()
    ann.send("note.add", "missed", room="board:x")
    ben = client.reconnect(ben)
    assert ben.welcome["rooms"]["board:x"]["recovered"] is True
    assert ben.expect("note.new").data == "missed"


def test_the_failure_of_a_handler_is_the_cause(client):
    with pytest.raises(RequestFailed, match="internal") as failed:
        client.connect("ann").send("boom")
    assert repr(failed.value.__cause__) == "RuntimeError('the handler broke')"


ended = []


def test_one_server(server, client):
    client.connect("ann")
    ended.append(server.port)


def test_has_ended_after_its_test():
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", ended[0]))
    assert threading.active_count() == 1
""",
    )
    assert "6 passed" in project.run()


def test_a_failure_has_the_transcript(project: Project) -> None:
    """Both directions, all clients, the server's log with the handler's traceback; and no token anywhere."""
    project.write(
        "test_it.py",
        """
def test_late(client, token):
    secret = token("ann")
    print("SECRET", secret)
    ann, ben = client.connect("ann", token=secret), client.connect("ben", query={"token": token("ben")})
    ben.join("board:x")
    ann.notify("boom")
    ben.expect("note.new", timeout=0.1)


def test_next(client):
    assert client.connect("zoe").closed
""",
    )
    output = project.run("--showlocals", "--show-capture=all", exit_code=1)
    assert "NotReceived: ben#2: note.new did not come within 0.1 s; what came and is unread:" in output
    sections = re.split(r"-+ roomwire transcript -+\n", output)
    assert len(sections) == 3
    for line in (
        r"ann#1 +-> GET /ws Authorization: Bearer \[token\]",
        r"ben#2 +-> GET /ws\?token=\[token\]",
        r"ann#1 +<- 101 roomwire\.v1",
        r'ben#2 +-> \{"event":"room\.join"',
        r'ben#2 +<- \{"event":"ack"',
        r'ann#1 +-> \{"event":"boom"',
        r"server +ERROR +roomwire: boom failed",
        r"RuntimeError: the handler broke",
        # Nobody read it: it is there all the same.
        r'ann#1 +<- \{"event":"error"',
    ):
        assert re.search(line, sections[1]), line
    assert "zoe#1" in sections[2]
    assert "ann#1" not in sections[2]
    printed = re.search(r"SECRET (\S+)", output)
    assert printed is not None
    assert output.count(printed[1]) == 1, "only what the test printed itself"
    assert "_sockets.py" not in output, "the report shows the test's lines"


def test_a_server_that_does_not_start_is_the_failure(project: Project) -> None:
    project.write(
        "board.py",
        "from contextlib import asynccontextmanager\nfrom roomwire import App\n\n@asynccontextmanager\n"
        "async def lifespan(app):\n    raise RuntimeError('no database')\n    yield\n\napp = App(lifespan=lifespan)\n",
    )
    project.write("test_it.py", "def test_it(client):\n    pass\n")
    output = project.run(exit_code=1)
    assert "RuntimeError: no database" in output
    assert "1 error" in output


@pytest.mark.parametrize("mode", ["strict", "auto"])
def test_pytest_asyncio(project: Project, mode: str) -> None:
    """Also where the loops of two tests, and of a fixture of a wider scope, are not the same."""
    project.write("pytest.ini", INI + f"asyncio_mode = {mode}\nasyncio_default_fixture_loop_scope = function\n")
    mark = "@pytest.mark.asyncio\n" if mode == "strict" else ""
    fixture = "pytest_asyncio.fixture(loop_scope='session')"
    project.write(
        "test_it.py",
        f"import pytest\nimport pytest_asyncio\n{TALK}\n\n@{fixture}\nasync def ann(async_client):\n"
        "    return await async_client.connect('ann')\n\n\n"
        f"{mark}async def test_one(async_client):\n    await talk(async_client)\n\n\n"
        f"{mark}async def test_two(async_client):\n    await async_client.connect('left-open')\n\n\n"
        f"{mark}async def test_other_loop(ann):\n    await ann.join('board:x')\n    await ann.fence()\n",
    )
    assert "3 passed" in project.run("asyncio")


def test_anyio_on_both_backends(project: Project) -> None:
    """Several operations at once, and a cancelled one, which takes no message with it."""
    project.write(
        "test_it.py",
        f"import anyio\nimport pytest\n{TALK}\n\npytestmark = pytest.mark.anyio\n\n\n"
        "async def test_one(async_client):\n    await talk(async_client)\n\n\n"
        """async def test_at_once(async_client):
    ann = await async_client.connect("ann")
    await ann.join("board:x")
    found = []

    async def look_for(data):
        found.append((await ann.expect("note.new", data=data)).data)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(look_for, "one")
        tasks.start_soon(look_for, "two")
        await anyio.lowlevel.checkpoint()
        await ann.send("note.add", "two", room="board:x")
        await ann.send("note.add", "one", room="board:x")
    assert sorted(found) == ["one", "two"]
    with anyio.move_on_after(0):
        await ann.expect("note.new")
    await ann.send("note.add", "three", room="board:x")
    assert (await ann.expect("note.new")).data == "three"
""",
    )
    assert "4 passed" in project.run()


def test_in_parallel(project: Project) -> None:
    project.write(
        "test_it.py",
        "import pytest\n\n\n@pytest.mark.parametrize('n', range(6))\ndef test_it(client, n):\n"
        "    ann = client.connect('ann')\n    ann.join('board:x')\n    ann.send('note.add', 'hi', room='board:x')\n"
        "    ann.expect('note.new')\n    ann.assert_silent()\n    assert n != 5\n",
    )
    output = project.run("-n", "2", exit_code=1)
    assert "1 failed, 5 passed" in output
    assert "roomwire transcript" in output


def test_overrides_end_with_the_test(project: Project) -> None:
    """Of a test and of its fixtures; what a module's fixture put there stays for the module."""
    project.write("pytest.ini", INI + "roomwire_scope = module\n")
    project.write(
        "test_it.py",
        """
import pytest

import board


@pytest.fixture(scope="module", autouse=True)
def for_the_module():
    board.app.overrides[board.stamp] = lambda: "module"
    yield
    del board.app.overrides[board.stamp]


@pytest.fixture
def for_the_test():
    board.app.overrides[board.stamp] = lambda: "test"


def mark(client):
    ann = client.connect("ann")
    ann.join("board:x")
    return ann.send("note.add", "hi", room="board:x")


ports = set()


def test_one(for_the_test, client, server):
    assert mark(client) == "test"
    ports.add(server.port)


def test_two(client, server):
    assert mark(client) == "module"
    ports.add(server.port)
    assert len(ports) == 1
""",
    )
    assert "2 passed" in project.run()


class TestNames:
    """Another plugin has a `client` too."""

    @pytest.fixture
    def crowded(self, project: Project) -> Project:
        project.write("other.py", "import pytest\n\n\n@pytest.fixture\ndef client():\n    return 'theirs'\n")
        return project

    def test_a_collision_is_told(self, crowded: Project) -> None:
        output = crowded.run("-p", "other", exit_code=4)
        assert "the fixtures client are other's as well as roomwire's: set roomwire_fixtures = prefixed" in output

    def test_prefixed(self, crowded: Project) -> None:
        crowded.write("pytest.ini", INI + "roomwire_fixtures = prefixed\n")
        crowded.write(
            "test_it.py",
            "def test_it(client, roomwire_client, roomwire_server, roomwire_token, roomwire_async_client):\n"
            "    assert client == 'theirs'\n    ann = roomwire_client.connect(token=roomwire_token('ann'))\n"
            "    assert ann.user == 'ann'\n",
        )
        assert "1 passed" in crowded.run("-p", "other")

    def test_off(self, crowded: Project) -> None:
        crowded.write("pytest.ini", INI + "roomwire_fixtures = off\n")
        crowded.write("test_it.py", "def test_it(client):\n    assert client == 'theirs'\n")
        assert "1 passed" in crowded.run("-p", "other")

    def test_a_conftest_goes_before_it(self, project: Project) -> None:
        project.write("conftest.py", "import pytest\n\n\n@pytest.fixture\ndef client():\n    return 'mine'\n")
        project.write("test_it.py", "def test_it(client, server):\n    assert client == 'mine'\n")
        assert "1 passed" in project.run()


def test_the_configuration_of_the_user(project: Project) -> None:
    """Its app, path, limits and claims; its keys are never asked for, and ``.env`` reaches the application."""
    project.write("pytest.ini", "[pytest]\nroomwire_config = roomwire.toml\n")
    project.write(
        "roomwire.toml",
        'app = "board:app"\n[server]\npath = "/socket"\nport = 1\n[backplane]\ntype = "redis"\n'
        '[backplane.options]\nurl = "env:NO_REDIS"\n[auth.options]\nalgorithms = ["RS256"]\n'
        'public_key = "env:NO_KEY"\naudience = "board"\nrequired_claims = ["role"]\n[limits]\nrooms = 1\n',
    )
    project.write(".env", "BOARD_NAME=of-the-env-file\n")
    project.write(
        "test_it.py",
        """
import os

import pytest

from roomwire.testing.kit import Refused, RequestFailed


def test_it(client, server, token):
    assert server.url.endswith("/socket")
    assert os.environ["BOARD_NAME"] == "of-the-env-file"
    with pytest.raises(Refused):
        client.connect("ann")
    ann = client.connect(token=token("ann", role="admin"))
    ann.join("board:x")
    with pytest.raises(RequestFailed, match="too_many_rooms"):
        ann.join("board:y")
    assert client.connect("ben", claims={"role": "guest"}).user == "ben"
""",
    )
    assert "1 passed" in project.run()


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("roomwire_fixtures = some", "roomwire_fixtures: expected plain, prefixed or off, found 'some'"),
        ("roomwire_scope = galaxy", "roomwire_scope: expected one of function,"),
        ("roomwire_timeout = soon", "roomwire_timeout: expected a number of seconds, found 'soon'"),
    ],
)
def test_a_wrong_option_is_told(project: Project, option: str, text: str) -> None:
    project.write("pytest.ini", INI + option + "\n")
    assert text in project.run(exit_code=4)
