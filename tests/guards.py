"""What a whole test run must not leave behind, and how much of the core it must have covered."""

from __future__ import annotations

import gc
import importlib
import io
import logging
import os
import pkgutil
import signal
import sys
import threading
from collections.abc import Iterable
from pathlib import Path

from coverage import Coverage, CoverageData

__all__ = ["AsyncioErrors", "CoreMeasure", "core_coverage", "end_children", "leaked_children", "leaked_threads"]

THREAD_GRACE = float(os.environ.get("THREAD_GRACE", "30"))
"""Seconds that a thread which was told to end has for it; reached only where one does not."""


class AsyncioErrors(logging.Handler):
    """Collects what asyncio can only log: an exception never retrieved, a task destroyed while pending."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        cause = f": {record.exc_info[1]!r}" if record.exc_info else ""
        self.messages.append(record.getMessage() + cause)

    def take(self) -> list[str]:
        """The messages since the last call."""
        messages, self.messages = self.messages, []
        return messages

    def take_all(self) -> list[str]:
        """The same after a collection, which finds what was dropped in a cycle."""
        gc.collect()
        return self.take()


def leaked_children() -> dict[int, str]:
    """The command lines of this process's children, by process id; empty where there is no /proc."""
    children: dict[int, str] = {}
    for listing in Path("/proc/self/task").glob("*/children"):
        try:
            pids = [int(pid) for pid in listing.read_text().split()]
        except OSError:  # the thread ended in between
            continue
        for pid in pids:
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            children[pid] = b" ".join(words).decode(errors="replace").strip() or "(ended and not waited for)"
    return children


def end_children(children: dict[int, str]) -> None:
    """Kill and reap what `leaked_children` found."""
    for pid in children:
        try:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass


def leaked_threads() -> list[str]:
    """The names of threads that would keep the process alive."""
    leaked = []
    for thread in threading.enumerate():
        if thread is threading.current_thread() or thread.daemon:
            continue
        thread.join(THREAD_GRACE)
        if thread.is_alive():
            leaked.append(thread.name)
    return leaked


class CoreMeasure:
    """The lines and branches of ``core/`` that this process ran while it was measured.

    The tracer makes everything in its process two to three times as slow, so it is on only where it counts:
    while the core is imported, and in the tests of the core, which have to reach the gate by themselves.
    """

    def __init__(self) -> None:
        self._coverage = Coverage(data_file=None)

    def import_core(self) -> None:
        """Import all of it, measured; nobody may have done so before."""
        assert "roomwire" not in sys.modules
        self.start()
        core = importlib.import_module("roomwire.core")
        for module in pkgutil.iter_modules(core.__path__, "roomwire.core."):
            importlib.import_module(module.name)
        self.stop()

    def start(self) -> None:
        """Measure from here on."""
        self._coverage.start()

    def stop(self) -> None:
        """Measure no more, until the next start."""
        self._coverage.stop()

    def dumps(self) -> bytes:
        """What was measured, for `core_coverage`."""
        return self._coverage.get_data().dumps()


def core_coverage(measured: Iterable[bytes]) -> tuple[float, float, str]:
    """The coverage of ``core/`` by all processes together: reached, wanted, the table."""
    merged = Coverage(data_file=None)
    for dump in measured:
        part = CoverageData(no_disk=True)
        part.loads(dump)
        merged.get_data().update(part)
    wanted = merged.get_option("report:fail_under")
    table = io.StringIO()
    reached = merged.report(file=table)
    return reached, float(str(wanted)), table.getvalue()
