"""What the application was told, in one file for all nodes: the database of a real one.

A line is appended in one write, so that neither a node that is killed nor one that is stopped leaves a lock or
half a line. The state of a room is, for each publisher, the number of its last event. Publishers send one event at
a time, so that says which events the state holds.
"""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["LEDGER", "Ledger"]

LEDGER = "CLUSTER_LEDGER"
"""The environment's name for the ledger's path."""


class Ledger:
    """What was told, in a file for all nodes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = os.open(path, os.O_CREAT | os.O_APPEND | os.O_RDWR, 0o600)
        self._read = 0
        self._rest = b""
        self._rooms: dict[str, dict[str, int]] = {}

    def add(self, room: str, by: str, n: int) -> None:
        """Keep an event, before it is published."""
        os.write(self._file, f"{room}\t{by}\t{n}\n".encode())

    def state(self, room: str) -> dict[str, int]:
        """The number of each publisher's last event in a room."""
        while data := os.pread(self._file, 1 << 20, self._read):
            self._read += len(data)
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                name, by, n = line.decode().split("\t")
                known = self._rooms.setdefault(name, {})
                known[by] = max(known.get(by, 0), int(n))
        return dict(self._rooms.get(room, {}))

    def first(self, name: str) -> bool:
        """Whether nobody has asked for this name before, on any node."""
        try:
            os.close(os.open(f"{self._path}.{name}", os.O_CREAT | os.O_EXCL, 0o600))
        except FileExistsError:
            return False
        return True
