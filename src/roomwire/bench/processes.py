"""What a process costs, from outside: CPU time and memory of a server and its descendants, on Linux."""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Iterable
from pathlib import Path

from roomwire.core.errors import LocalError

__all__ = ["Processes", "allow_open_files"]

_PROC = Path("/proc")
# proc(5): utime, stime and those of children that were waited for, fields 14 to 17; the second field ends with ")".
_TIMES = slice(11, 15)
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
        """Seconds of CPU time, user and system, in steps of the kernel's clock tick (10 ms as a rule)."""
        ticks = sum(int(field) for pid in self._pids for field in _stat(pid)[_TIMES])
        return ticks / os.sysconf("SC_CLK_TCK")

    def memory(self) -> int:
        """Resident bytes."""
        return sum(_resident(pid) for pid in self._pids)


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
