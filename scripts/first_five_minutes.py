"""The first five minutes with a stopwatch: from an empty environment to a message that one client sends another.

The three commands are the tutorial's own (docs/tutorial/first-chat.md): `pip install`, `roomwire init` and
`roomwire dev`, as they stand there, in a fresh virtual environment and without an edit. Only what is installed is a
wheel built from this checkout, in place of the checkout; the port is any free one. Packages come from the package
index as pip is configured, or from its cache.

Then two clients connect with the page's own tokens, Ann sends and Ben receives. All of it together may take
FIRST_MINUTES_LIMIT seconds (default: 60), which is what is promised; set it higher on a slow machine or link. Beyond
that the script fails. Making the empty environment and the wheel is not counted, and printed beside the rest.

Usage: scripts/first_five_minutes.py
"""

# ruff: noqa: S603, T201  it runs what the tutorial says, and prints

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[1]
TUTORIAL = ROOT / "docs" / "tutorial" / "first-chat.md"
LIMIT = float(os.environ.get("FIRST_MINUTES_LIMIT", "60"))
UNCOUNTED = 300.0
"""Seconds for what is not counted."""


class Failed(Exception):
    """A step did not do what the tutorial says."""


class Stopwatch:
    """The steps and their seconds; none may go beyond the limit of all of them."""

    def __init__(self, limit: float) -> None:
        self.steps: list[tuple[str, float]] = []
        self.limit = limit
        self._began = time.monotonic()

    def left(self) -> float:
        """Seconds until the limit."""
        left = self.limit - (time.monotonic() - self._began)
        if left <= 0:
            raise Failed(f"it took longer than {self.limit:g} s")
        return left

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time a step, and print it."""
        began = time.monotonic()
        yield
        self.left()
        seconds = time.monotonic() - began
        self.steps.append((name, seconds))
        print(f"{seconds:6.1f} s  {name}", flush=True)

    def total(self) -> float:
        """Seconds of all steps."""
        return sum(seconds for _, seconds in self.steps)


def commands() -> tuple[str, str, str, str]:
    """The tutorial's commands up to its first `roomwire dev`: install, init, cd, dev."""
    blocks = re.findall(r"^```(?:sh|console)\n(.*?)^```", TUTORIAL.read_text(), re.M | re.S)
    lines = [line.removeprefix("$ ").partition("  #")[0].strip() for block in blocks for line in block.splitlines()]
    found = []
    for start in ("pip install", "roomwire init", "cd", "roomwire dev"):
        matches = [line for line in lines if re.fullmatch(rf"{start}\b[^&|;]*", line)]
        if not matches:
            raise Failed(f"{TUTORIAL.name} has no command that begins with {start!r}")
        found.append(matches[0])
    install, init, folder, dev = found
    return install, init, folder, dev


def run(command: list[str], timeout: float, **options: object) -> None:
    """Run a command to its end; what it printed is shown where it fails."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True, **options
    )  # type: ignore[call-overload]
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        raise Failed(f"{shlex.join(command)}: not done after {timeout:.0f} s") from None
    finally:
        end(process)
    if process.returncode:
        raise Failed(f"{shlex.join(command)} exits with {process.returncode}:\n{output}")


def end(process: subprocess.Popen[str]) -> None:
    """End a process and what it started, by their group."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            continue
        break
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


@contextlib.contextmanager
def started(command: list[str], **options: object) -> Iterator[subprocess.Popen[str]]:
    """A process with pipes, which ends with the block."""
    process = subprocess.Popen(command, text=True, start_new_session=True, stdin=subprocess.PIPE, **options)  # type: ignore[call-overload]
    try:
        yield process
    finally:
        end(process)


def wait_for(pipe: IO[str] | None, pattern: str, timeout: float) -> re.Match[str]:
    """The first line of a pipe that has the pattern; the others are dropped, and shown where it does not come."""
    assert pipe is not None
    seen: list[str] = []
    found: list[re.Match[str]] = []

    def read() -> None:
        for line in pipe:
            seen.append(line)
            if match := re.search(pattern, line):
                found.append(match)
                return

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    reader.join(timeout)
    if not found:
        raise Failed(f"no line with {pattern!r}, but:\n{''.join(seen)}")
    return found[0]


def talk(roomwire: str, url: str, folder: Path, watch: Stopwatch) -> None:
    """Ann sends, Ben receives: with the tokens that the page fetches for its two users."""
    site = "http" + url.removeprefix("ws").rpartition("/")[0]
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{site}/demo/tokens", timeout=10) as answer:
        tokens = {user["user"]: user["token"] for user in json.load(answer)["users"]}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "cwd": folder}
    command = [roomwire, "connect", url, "--room", "chat:general", "--json"]

    def environment(user: str) -> dict[str, str]:
        return {**os.environ, "ROOMWIRE_TOKEN": tokens[user]}

    with (
        started(command, env=environment("ben"), **pipes) as ben,
        started(command, env=environment("ann"), **pipes) as ann,
    ):
        for user, process in (("ben", ben), ("ann", ann)):
            wait_for(process.stderr, f"connected as {user}", watch.left())
        assert ann.stdin is not None
        ann.stdin.write('message.send {"content": "the first message"}\n')
        ann.stdin.flush()
        wait_for(ann.stdout, r'"kind": ?"Reply"', watch.left())
        wait_for(ben.stdout, r'"name": ?"message\.new".*the first message', watch.left())


def main() -> None:
    """Print the seconds of each step.

    Raises:
        Failed: a step failed, or all of them took longer than the limit.
    """
    install, init, enter, dev = commands()
    with tempfile.TemporaryDirectory(prefix="roomwire-first-") as name:
        base = Path(name)
        began = time.monotonic()
        run(
            [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(base)],
            UNCOUNTED,
            cwd=ROOT,
        )
        (wheel,) = base.glob("*.whl")
        venv.create(base / "venv", with_pip=True)
        print(f"{time.monotonic() - began:6.1f} s  a wheel and an empty environment (not counted)", flush=True)
        programs = base / "venv" / "bin"
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("ROOMWIRE_", "PYTHON"))}
        environ = {**kept, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "VIRTUAL_ENV": str(programs.parent)}
        watch = Stopwatch(LIMIT)
        with watch.step(install):
            words = [re.sub(r"^\.(?=\[|$)", str(wheel), word) for word in shlex.split(install)]
            run([str(programs / words[0]), *words[1:]], watch.left(), cwd=base, env=environ)
        with watch.step(init):
            run(
                [shutil.which("roomwire", path=str(programs)) or "", *shlex.split(init)[1:]],
                watch.left(),
                cwd=base,
                env=environ,
            )
        folder = base / shlex.split(enter)[1]
        served = {**environ, "ROOMWIRE_SERVER__PORT": "0"}
        with contextlib.ExitStack() as stack:
            with watch.step(f"{enter} && {dev}"):
                command = [str(programs / "roomwire"), *shlex.split(dev)[1:]]
                server = stack.enter_context(
                    started(command, cwd=folder, env=served, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
                )
                url = wait_for(server.stderr, r"socket\s+(ws://\S+)", watch.left())[1]
            with watch.step("a message from one client to another"):
                talk(str(programs / "roomwire"), url, folder, watch)
    print(f"{watch.total():6.1f} s  in all; the limit is {watch.limit:g} s")


if __name__ == "__main__":
    try:
        main()
    except Failed as failure:
        sys.exit(f"failed: {failure}")
