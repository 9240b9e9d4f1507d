"""Reload: a supervisor that runs the same command as a child process, and starts it anew when a file changes."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import click

from roomwire.core.errors import ConfigError

__all__ = ["can_reload", "supervise"]

_SUFFIXES = {".py", ".toml", ".env"}
_PATIENCE = 30.0
"""Seconds for a drain, before the old process is killed."""
_LOOK = 1
"""Milliseconds without a change after which we are told so: the watcher's next step, of which it makes 20 a second."""


def can_reload() -> bool:
    """Whether the library that watches files is installed."""
    return importlib.util.find_spec("watchfiles") is not None


def is_watched(path: str) -> bool:
    """Whether a change of this file matters."""
    return Path(path).suffix in _SUFFIXES or Path(path).name == ".env"


def supervise(command: list[str], paths: list[Path], *, descriptor: int | None = None) -> int:
    """Run a command of ours until a signal ends it; start it anew when a file changes.

    Args:
        command: the arguments of ``roomwire``.
        paths: files and folders to watch.
        descriptor: an open socket that it takes over, in each process anew.

    Returns:
        The exit code.

    Raises:
        ConfigError: the library that watches files is not installed.
    """
    if not can_reload():
        raise ConfigError('--reload needs watchfiles: pip install "roomwire[cli]"')
    return _Supervisor(command, () if descriptor is None else (descriptor,)).run(paths)


class _Supervisor:
    def __init__(self, command: list[str], descriptors: tuple[int, ...]) -> None:
        # Its other end is closed when we are gone, however that came about.
        self._lifeline = os.pipe()
        self._command = [sys.executable, "-m", "roomwire.cli._child", str(self._lifeline[0]), *command]
        self._descriptors = (self._lifeline[0], *descriptors)
        self._stop = threading.Event()
        self._signal = 0
        self._child: subprocess.Popen[bytes] | None = None

    def _start(self) -> None:
        # In a group of its own: a Ctrl-C of the terminal reaches it through us, and only once.
        self._child = subprocess.Popen(  # noqa: S603  the command that we are
            self._command, process_group=0, pass_fds=self._descriptors
        )
        if self._stop.is_set():  # the signal came before there was a child to get it
            self._child.terminate()

    def _runs(self) -> bool:
        return self._child is not None and self._child.poll() is None

    def run(self, paths: list[Path]) -> int:
        from watchfiles import watch

        told = False
        with self._forwarding():
            try:
                for changes in watch(
                    *paths,
                    watch_filter=lambda _, path: is_watched(path),
                    stop_event=self._stop,
                    rust_timeout=_LOOK,
                    yield_on_timeout=True,
                    raise_interrupt=False,
                ):
                    if self._child is None:
                        self._start()  # not before: a change of what it has read, and nobody watches, is never seen
                    elif changes:
                        names = ", ".join(sorted({Path(path).name for _, path in changes}))
                        click.echo(f"{names} changed: starting anew", err=True)
                        self._end()
                        self._start()
                        told = False
                    elif not self._runs() and not told:
                        told = True
                        click.echo("the server has ended: waiting for a change, or Ctrl-C", err=True)
                code = -self._signal if self._child is None else self._child.wait()
                return code if code >= 0 else 128 - code  # ended by a signal, in a shell's spelling
            finally:
                self._end()
                for end in self._lifeline:
                    os.close(end)

    @contextmanager
    def _forwarding(self) -> Iterator[None]:
        def forward(number: int, frame: FrameType | None) -> None:
            self._signal = number
            self._stop.set()
            if self._child is not None and self._child.poll() is None:
                self._child.send_signal(number)

        numbers = (signal.SIGINT, signal.SIGTERM)
        before = [signal.signal(number, forward) for number in numbers]
        try:
            yield
        finally:
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler)

    def _end(self) -> None:
        if self._child is not None and self._child.poll() is None:
            self._child.terminate()
            try:
                self._child.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait()
