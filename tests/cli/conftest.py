"""A project in a folder of its own, the command line within it, and real server processes."""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from roomwire.cli import main

SECRET = "correct-horse-battery-staple-0123456789"

APP = """
from roomwire import App, Connection

app = App()
made = 0

@app.on_connect
async def rooms_of(connection: Connection) -> list[str]:
    return ["lobby"]

@app.room("lobby")
async def may_join(connection: Connection) -> bool:
    return True

@app.on("say", room="lobby")
async def say(connection: Connection, text: str) -> str:
    await app.publish("lobby", "said", text)
    return text.upper()

def make():
    return app

def make_nothing():
    return 3

def fail():
    raise RuntimeError("no database")

class Namespace:
    app = app
"""

CONFIG = """
app = "chatapp:app"

[server]
port = 0

[auth.options]
algorithms = ["HS256"]
secret = "env:CHAT_SECRET"
"""


class Project:
    """A folder with an application and its configuration, which is the working directory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.write("chatapp.py", APP)
        self.write("roomwire.toml", CONFIG)
        self.write(".env", f"CHAT_SECRET={SECRET}\n")

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text)
        return path

    def configure(self, addition: str, *, replace: str = "") -> None:
        """The configuration with a line replaced, or with something added."""
        self.write("roomwire.toml", CONFIG.replace(replace, addition) if replace else CONFIG + addition)

    def call(self, *arguments: str, input: str | None = None, env: dict[str, str] | None = None) -> Result:
        """The command line, in this process."""
        return CliRunner().invoke(main, list(arguments), input=input, env=env, prog_name="roomwire")

    def start(self, *arguments: str, env: dict[str, str] | None = None, pass_fds: Sequence[int] = ()) -> Process:
        """The command line, as a process."""
        return Process(list(arguments), self.folder, env or {}, pass_fds)


class Process:
    """A ``roomwire`` process whose stderr is read as it comes."""

    def __init__(self, arguments: list[str], folder: Path, env: dict[str, str], pass_fds: Sequence[int] = ()) -> None:
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "roomwire.cli", *arguments],
            cwd=folder,
            env=os.environ | env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=pass_fds,
            text=True,
        )
        self.seen = ""
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        # Nobody reads between two calls of ours, and a full pipe would hold up the process.
        self._pump = threading.Thread(target=self._read)
        self._pump.start()

    def _read(self) -> None:
        assert self.popen.stderr is not None
        for line in self.popen.stderr:
            self._lines.put(line)
        self._lines.put("")

    def _next_line(self) -> str:
        """The next line of stderr; empty at its end."""
        line = self._lines.get()
        self.seen += line
        return line

    def read_until(self, pattern: str) -> re.Match[str]:
        """Read stderr up to a line that matches."""
        while line := self._next_line():
            if (match := re.search(pattern, line)) is not None:
                return match
        raise AssertionError(f"{pattern!r} never came; the process said:\n{self.seen}")

    def interrupt(self) -> None:
        self.popen.send_signal(signal.SIGINT)

    def wait(self) -> int:
        """Read the rest, wait for the end, give the exit code."""
        while self._next_line():
            pass
        return self.popen.wait()

    @property
    def stdout(self) -> str:
        assert self.popen.stdout is not None
        return self.popen.stdout.read()

    def end(self) -> None:
        if self.popen.poll() is None:
            self.popen.kill()
        self._pump.join()
        for stream in (self.popen.stdout, self.popen.stderr):
            assert stream is not None
            stream.close()
        self.popen.wait()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    environ = dict(os.environ)
    for name in environ:
        if name.startswith(("ROOMWIRE_", "CHAT_")):
            monkeypatch.delenv(name)
    yield Project(tmp_path)
    for name in [name for name in sys.modules if name.startswith("chatapp")]:
        del sys.modules[name]
    os.environ.clear()
    os.environ.update(environ)


@contextmanager
def running(process: Process) -> Iterator[Process]:
    """The process, which is gone afterwards whatever happens."""
    try:
        yield process
    finally:
        process.end()
