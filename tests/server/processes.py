"""A server in a process of its own, and what it says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).parents[2]
END_TIMEOUT = 40.0


class ServingProcess:
    """`tests.tools.serve_chat`, which serves or is about to.

    Args:
        backend: ``"asyncio"``, ``"uvloop"`` or ``"trio"``.
        settings: sections of the configuration.
        arguments: further ones.
        environ: added to the environment.
        pass_fds: descriptors that it inherits.
    """

    def __init__(
        self,
        backend: str,
        settings: Mapping[str, Any],
        *arguments: str,
        environ: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.tools.serve_chat", backend, json.dumps(settings), *arguments],
            cwd=ROOT,
            env={**os.environ, "PYTHONWARNINGS": "error", **(environ or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=pass_fds,
            text=True,
        )

    def line(self) -> str:
        """The next line that it says, waiting for it."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"it ended: {self.errors()}"
        return line.rstrip("\n")

    def port(self) -> int:
        """Where it serves; the next line has it."""
        return int(self.line().rpartition(":")[2])

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def answer(self) -> None:
        """Let a slow start go on."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self) -> tuple[int, list[str]]:
        """Wait for its end: the exit code, and the lines that were not read."""
        out, _ = self.process.communicate(timeout=END_TIMEOUT)
        return self.process.returncode, out.splitlines()

    def errors(self) -> str:
        """What it wrote to stderr, after its end."""
        self.process.wait(END_TIMEOUT)
        assert self.process.stderr is not None
        return self.process.stderr.read()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()
