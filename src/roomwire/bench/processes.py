"""What a process costs, from outside: CPU time and memory of a server and its descendants, on Linux."""

from __future__ import annotations

import re
import resource
import time
from collections.abc import Iterable
from pathlib import Path

from roomwire.core.errors import LocalError

__all__ = ["Processes", "allow_open_files"]

_PROC = Path("/proc")
# The kernel's CPUCLOCK_SCHED: user and system time of all threads, in nanoseconds where proc(5) has ticks of 10 ms.
_SCHED_CLOCK = 2
_SPARE_FILES = 64


class Processes:
    """Some processes with the descendants that they have now.

    Args:
        pids: their ids.

    Attributes:
        known: whether there is anything to read; not without ids, and not without ``/proc``.
    """

    def __init__(self, pids: Iterable[int]) -> None:
        self._pids = _family(pids) if _PROC.joinpath("self", "stat").is_file() else []
        self.known = bool(self._pids)

    def cpu(self) -> float:
        """Seconds of CPU time, user and system, of all their threads."""
        return sum(_cpu(pid) for pid in self._pids)

    def memory(self) -> int:
        """Resident bytes."""
        return sum(_resident(pid) for pid in self._pids)


def _cpu(pid: int) -> float:
    # clock_getcpuclockid(3), of another process.
    try:
        return time.clock_gettime(~pid << 3 | _SCHED_CLOCK)
    except OSError:  # it has ended
        return 0.0


def _stat(pid: int) -> list[str]:
    try:
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:  # it has ended
        return []


def _family(pids: Iterable[int]) -> list[int]:
    children: dict[int, list[int]] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    family = list(pids)
    for pid in family:  # grows while it is walked
        family += children.get(pid, [])
    return family


def _resident(pid: int) -> int:
    # Exact, where the counters of statm and status may lag behind by some pages for each CPU.
    try:
        found = re.search(r"^Rss: +(\d+) kB", (_PROC / str(pid) / "smaps_rollup").read_text(), re.M)
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0


def allow_open_files(connections: int) -> None:
    """Raise this process's limit of open files, which a server that it starts inherits, as far as it may.

    Raises:
        LocalError: so many connections cannot be opened.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = connections + _SPARE_FILES
    if hard != resource.RLIM_INFINITY and needed > hard:
        raise LocalError(f"{connections} connections need {needed} open files, and {hard} are allowed (ulimit -Hn)")
    if soft != resource.RLIM_INFINITY and needed > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
