"""A server process of ours: started on a free loopback port, ended by its id."""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from roomwire.bench.target import BenchFailed

__all__ = ["ServerProcess"]

HOST = "127.0.0.1"
BACKLOG = 4096
PATIENCE = 10.0
"""Seconds for an orderly end, before it is killed."""
_TAIL = 2000


class ServerProcess:
    """A process that serves on a socket which we have bound and which is listening already.

    So its port is known, and a client may connect before it is up. Use it as a context manager.

    Args:
        command: what to run; ``{fd}`` in it is the number of the socket's descriptor, ``{lifeline}`` that of a pipe
            which ends when we are gone, however that came about.
        environment: its environment, ours by default.
        folder: its working directory, ours by default.
        cpus: the processors that it may use, where the system can be told so.

    Attributes:
        host: loopback.
        port: where it listens.
        pid: its process id.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
        cpus: Collection[int] | None = None,
    ) -> None:
        self.host = HOST
        # A file, since a pipe that nobody reads would hold the server up.
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  closed in `stop`
        lifeline, self._lifeline = os.pipe()
        with socket.create_server((HOST, 0), backlog=BACKLOG) as listener:
            self.port: int = listener.getsockname()[1]
            numbers = {"{fd}": str(listener.fileno()), "{lifeline}": str(lifeline)}
            self._process = subprocess.Popen(  # noqa: S603  the caller's own server
                [numbers.get(word, word) for word in command],
                pass_fds=(listener.fileno(), lifeline),
                env=environment,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=subprocess.STDOUT,
                # A Ctrl-C of the terminal is for us, and we end it.
                process_group=0,
            )
        os.close(lifeline)
        self.pid = self._process.pid
        if cpus is not None and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(self.pid, cpus)

    @property
    def running(self) -> bool:
        """Whether it has not ended by itself."""
        return self._process.poll() is None

    def output(self) -> str:
        """The end of what it has printed."""
        size = self._output.seek(0, os.SEEK_END)
        self._output.seek(max(size - _TAIL, 0))
        return self._output.read().decode(errors="replace").strip()

    def explain(self, error: BenchFailed) -> BenchFailed:
        """The same failure, with what the server says of it."""
        said = self.output()
        return BenchFailed(f"{error}\nthe server said:\n{said}" if said else str(error))

    def stop(self) -> None:
        """End it, and wait until it is gone."""
        try:
            self._process.terminate()
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self._process.kill()
            self._process.wait()
            self._output.close()
            os.close(self._lifeline)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
