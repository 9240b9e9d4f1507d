"""``roomwire connect``: lines in, lines out, against a real server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import anyio
import pytest

from roomwire.cli._output import printable
from roomwire.cli._terminal import HELP, read_lines
from tests.cli.conftest import Project, running


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running(Project(tmp_path_factory.mktemp("server")).start("run")) as process:
        yield process.read_until(r"on (\S+)$")[1]


def talk(project: Project, *arguments: str, input: str = "", token: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "roomwire.cli", "connect", *arguments],
        cwd=project.folder,
        env=os.environ | ({"ROOMWIRE_TOKEN": token} if token else {}),
        input=input,
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )


def objects(done: subprocess.CompletedProcess[str], kind: str) -> list[dict[str, object]]:
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return [item for item in found if item["kind"] == kind]


class TestTalking:
    def test_a_message_and_its_reply(self, project: Project, url: str) -> None:
        done = talk(project, url, "--user", "ann", "--room", "lobby", "--json", input='say "hi"\n')
        assert done.returncode == 0
        assert done.stderr == "connected as ann\n"
        assert objects(done, "Reply") == [{"kind": "Reply", "event": "say", "reply": "HI"}]

    def test_what_comes_is_printed(self, project: Project, url: str) -> None:
        command = [sys.executable, "-m", "roomwire.cli", "connect", url, "--user", "ann", "--room", "lobby", "--json"]
        with subprocess.Popen(
            command,
            cwd=project.folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            items = map(json.loads, process.stdout)
            # An event that is published before the state is made is in the state, and does not come as well.
            next(item for item in items if item["kind"] == "StateReset")
            process.stdin.write('say "hi"\n')
            process.stdin.flush()
            # Its reply and the event have no order between them; the input stays open until the event is here.
            event = next(item for item in items if item["kind"] == "Event")
            process.stdin.close()
            rest = process.stdout.read()
        assert "StateReset" not in rest, "what has come with the connection is not asked for again"
        assert (event["name"], event["data"], event["room"], event["user"]) == ("said", "hi", "lobby", "ann")
        assert process.returncode == 0

    def test_for_people(self, project: Project, url: str) -> None:
        done = talk(project, url, "--user", "ann", "--room", "lobby", input='say "hi"')
        assert 'Reply event="say" reply="HI"\n' in done.stdout

    def test_commands(self, project: Project, url: str) -> None:
        lines = "/rooms\n/leave lobby\n/rooms\n/join lobby\n/rooms\n/quit\nsay 1\n"
        done = talk(project, url, "--user", "ann", "--room", "lobby", "--json", input=lines)
        assert [item["rooms"] for item in objects(done, "Rooms")] == [["lobby"], [], ["lobby"]]
        assert objects(done, "Reply") == []

    def test_an_error_ends_nothing(self, project: Project, url: str) -> None:
        errors = {
            "/leave": "error: name a room, or choose one with /room",
            "/members nowhere": "error: ",
            "/join nowhere": "error: forbidden: ",
            "nothing 1": "error: unknown_event: ",
            "ack 1": "error: ",
            "/what": HELP.splitlines()[0],
            "/leave lobby\n/room lobby\nsay 1": "error: not_joined: ",
            "say {": "error: say: its data is not JSON: ",
        }
        done = talk(project, url, "--user", "ann", "--json", input="\n".join([*errors, "/rooms", ""]))
        assert done.returncode == 0
        assert len(objects(done, "Rooms")) == 1
        told = [line for line in done.stderr.splitlines() if line.startswith(("error: ", "EVENT"))]
        assert len(told) == len(errors)
        assert [line for line, start in zip(told, errors.values(), strict=True) if not line.startswith(start)] == []

    def test_of_data_that_does_not_fit_it_says_where(self, project: Project, url: str) -> None:
        done = talk(project, url, "--user", "ann", "--room", "lobby", input="say 1\n")
        assert done.stderr.splitlines()[-1] == (
            """error: invalid: the data does not fit the event's schema [{"loc": [], "type": "string_type"}]"""
        )


class TestTokens:
    def test_from_the_environment(self, project: Project, url: str) -> None:
        token = project.call("token", "new", "ben").stdout.strip()
        done = talk(project, url, token=token)
        assert (done.returncode, done.stderr) == (0, "connected as ben\n")

    @pytest.mark.parametrize(
        ("token", "text"),
        [
            ("", "the token is empty"),
            ("hunter2\n", "the token has a character that no header can carry (a newline at its end?)"),
        ],
    )
    def test_one_that_cannot_be_sent(self, project: Project, token: str, text: str) -> None:
        result = project.call("connect", "ws://127.0.0.1:1/ws", env={"ROOMWIRE_TOKEN": token})
        assert result.exit_code == 2
        assert result.stderr.splitlines()[-1] == f"Error: ROOMWIRE_TOKEN: {text}"

    def test_none(self, project: Project, url: str) -> None:
        done = talk(project, url)
        assert done.returncode == 1
        assert "401 unauthorized" in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr

    @pytest.mark.parametrize(
        "toml",
        [
            '[auth]\ntype = "anonymous"\n',
            '[auth.options]\nalgorithms = ["RS256"]\njwks_url = "https://localhost/keys"\nissuer = "a"\n',
            '[auth.options]\nalgorithms = ["HS256"]\nsecret = "env:CHAT_SECRET"\nrequired_claims = ["tenant"]\n',
        ],
    )
    def test_not_enough_to_make_one_with(self, project: Project, toml: str) -> None:
        project.write("roomwire.toml", toml)
        result = project.call("connect", "ws://127.0.0.1:1/ws", "--user", "ann")
        assert result.exit_code == 2
        assert result.stderr.startswith("Error: --user: the configuration is not enough to make a token with")


class TestAddresses:
    def test_from_the_configuration(self, project: Project, url: str) -> None:
        port = url.removeprefix("ws://127.0.0.1:").partition("/")[0]
        project.configure(f'host = "0.0.0.0"\nport = {port}', replace="port = 0")
        done = talk(project, "--user", "ann")
        assert (done.returncode, done.stderr) == (0, "connected as ann\n")

    def test_a_unix_socket(self, project: Project) -> None:
        with running(project.start("run", "--uds", "chat.sock")) as process:
            process.read_until("roomwire serves")
            project.configure('uds = "chat.sock"', replace="port = 0")
            done = talk(project, "--user", "ann")
            assert (done.returncode, done.stderr) == (0, "connected as ann\n")

    def test_no_url(self, project: Project) -> None:
        result = project.call("connect", "http://127.0.0.1/ws")
        assert result.exit_code == 2
        assert "Traceback" not in result.output


@pytest.mark.anyio
class TestLines:
    @pytest.mark.parametrize(
        ("chunks", "lines"),
        [
            ([b"a\nb\n"], ["a", "b"]),
            ([b"a", b"\nb"], ["a", "b"]),
            (["ü".encode()[:1], "ü".encode()[1:] + b"\n"], ["ü"]),
            ([b"\xff\n"], ["\ufffd"]),
            ([], []),
        ],
    )
    async def test_of_a_pipe(self, chunks: list[bytes], lines: list[str]) -> None:
        reader, writer = os.pipe()
        try:
            found: list[str] = []
            async with anyio.create_task_group() as tasks:

                async def read() -> None:
                    found.extend([line async for line in read_lines(reader)])

                tasks.start_soon(read)
                for chunk in chunks:
                    os.write(writer, chunk)
                    await anyio.wait_writable(writer)
                os.close(writer)
        finally:
            os.close(reader)
        assert found == lines

    async def test_of_a_file(self, project: Project) -> None:
        with project.write("lines", "a\nb").open() as file:
            assert [line async for line in read_lines(file.fileno())] == ["a", "b"]


def test_what_a_terminal_would_obey_is_escaped() -> None:
    assert printable("a\x1b[31m\x9b\nb") == "a\\x1b[31m\\x9b\\nb"
