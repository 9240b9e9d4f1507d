"""What README.md and the tutorial tell a reader to do, done: with the command line, a real server and our client."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from roomwire.client import Client, Event, Recovered, StateReset, connect
from tests.pages import blocks_of
from tests.servers import RedisServer, free_port

ROOT = Path(__file__).parents[1]
PATIENCE = 50.0
"""Seconds; reached only where a test fails."""

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def files_of(page: str, directory: Path) -> None:
    for block in blocks_of((ROOT / page).read_text()):
        if block.file is not None:
            (directory / block.file).write_text(block.text)


def roomwire(*arguments: str, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "roomwire.cli", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@contextmanager
def serving(*arguments: str, cwd: Path, port: int = 0) -> Iterator[dict[str, str]]:
    """``roomwire dev`` and what its banner says; it is drained at the end and has to exit with 0."""
    command = [sys.executable, "-m", "roomwire.cli", "dev", *arguments, "--port", str(port), "--no-reload"]
    environment = {**os.environ, "NO_COLOR": "1"}
    process = subprocess.Popen(command, cwd=cwd, env=environment, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        banner: dict[str, str] = {}
        lines: list[str] = []
        for line in process.stderr:
            lines.append(line)
            if match := re.fullmatch(r"  (\S.*?) {2,}(\S+)\n", line):
                banner[match[1]] = match[2]
            if "Ctrl-C" in line:
                break
        assert "socket" in banner, "".join(lines)
        yield banner
        process.send_signal(signal.SIGTERM)
        rest = process.communicate(timeout=PATIENCE)[1]
        assert process.returncode == 0, rest
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


async def test_the_readmes_board(tmp_path: Path) -> None:
    files_of("README.md", tmp_path)
    with serving("board:app", cwd=tmp_path) as banner, anyio.fail_after(PATIENCE):
        url = banner["socket"]
        async with (
            connect(url, token=banner["token of Ann"]) as ann,
            connect(url, token=banner["token of Ben"]) as ben,
        ):
            room = await ann.join("board:team")
            await ben.join("board:team")
            id_ = await room.send("note.add", {"text": "hello"})
            assert await ben.receive() == Event("note.new", {"text": "hello"}, "board:team", id_, "ann")
            await ben.leave("board:team")
            await ben.join("board:team", state=True)
            state = await ben.receive()
            assert isinstance(state, StateReset)
            assert state.state == ["hello"]


async def test_the_tutorials_chat_and_its_bot(tmp_path: Path) -> None:
    roomwire("init", "chat", "demo1", cwd=tmp_path)
    project = tmp_path / "demo1"
    files_of("docs/tutorial/python-client.md", project)

    def fresh_token() -> str:
        return roomwire("token", "new", "ann", cwd=project)

    port = free_port()
    with anyio.fail_after(2 * PATIENCE):
        with serving(cwd=project, port=port) as banner:
            token = roomwire("token", "new", "bot", cwd=project)
            async with await anyio.open_process(
                [sys.executable, "bot.py", banner["socket"], token], cwd=project, stderr=subprocess.PIPE
            ) as bot:
                try:
                    assert bot.stdout is not None
                    printed = b""
                    while printed.count(b"\n") < 2:
                        printed += await bot.stdout.receive()
                    assert sorted(printed.decode().split("\n")) == [
                        "",
                        "chat:general has 0 messages",
                        "chat:random has 0 messages",
                    ]
                    async with connect(banner["socket"], token=fresh_token()) as ann:
                        await ann.send("message.send", {"content": "ping"}, room="chat:general")
                        answer = await next_event(ann, "message.new")
                        assert (answer["from"], answer["content"]) == ("bot", "pong")
                finally:
                    bot.terminate()
        await the_server_is_killed_and_started_again(project, port, fresh_token())


async def the_server_is_killed_and_started_again(project: Path, port: int, token: str) -> None:
    """The stream is a new one, and the client is told so; the messages are those of the database."""
    with ExitStack() as running:
        banner = running.enter_context(serving(cwd=project, port=port))
        async with connect(banner["socket"], token=token) as ann:
            await ann.send("message.send", {"content": "before"}, room="chat:general")
            await anyio.to_thread.run_sync(running.close)
            running.enter_context(serving(cwd=project, port=port))
            while True:
                item = await ann.receive()
                assert not isinstance(item, Recovered), "nothing of the old stream can be proven"
                if isinstance(item, StateReset) and item.room == "chat:general":
                    break
            assert item.reason == "epoch"
            assert [message["content"] for message in item.state] == ["ping", "pong", "before"]


async def test_the_tutorials_chat_on_redis(tmp_path: Path, redis_server: RedisServer) -> None:
    """One line: a new process proves that nothing is missing, and a second one has the same rooms."""
    roomwire("init", "chat", "demo1", cwd=tmp_path)
    project = tmp_path / "demo1"
    line = 'type = "memory"                # one process, no server'
    options = f'type = "redis"\noptions = {{ url = "{redis_server.url}/0", key_prefix = "tutorial:" }}'
    text = (project / "roomwire.toml").read_text()
    assert line in text
    (project / "roomwire.toml").write_text(text.replace(line, options))
    token = roomwire("token", "new", "ann", cwd=project)
    port = free_port()
    with anyio.fail_after(2 * PATIENCE), ExitStack() as running:
        first = running.enter_context(serving(cwd=project, port=port))
        async with connect(first["socket"], token=token) as ann:
            await ann.send("message.send", {"content": "before"}, room="chat:general")
            await anyio.to_thread.run_sync(running.close)
            running.enter_context(serving(cwd=project, port=port))
            while True:
                item = await ann.receive()
                assert not isinstance(item, StateReset)
                if isinstance(item, Recovered) and item.room == "chat:general":
                    break
            second = running.enter_context(serving(cwd=project))
            async with connect(second["socket"], token=roomwire("token", "new", "ben", cwd=project)) as ben:
                await ann.send("message.send", {"content": "after"}, room="chat:general")
                assert (await next_event(ben, "message.new"))["content"] == "after"
            await anyio.to_thread.run_sync(running.close)


async def next_event(client: Client, name: str) -> dict[str, str]:
    while True:
        item = await client.receive()
        if isinstance(item, Event) and item.name == name:
            data: dict[str, str] = item.data
            return data
