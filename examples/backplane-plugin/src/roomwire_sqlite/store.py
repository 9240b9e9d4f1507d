"""The file: what the nodes of one machine share, as plain synchronous SQL.

`roomwire_sqlite.worker` calls it in its thread and makes the transactions. Three ideas carry it:

- **One log.** All that nodes have to hear of is a row of the table ``log``, numbered by ``seq``: publications,
  ephemeral events, hints, control messages. SQLite has one writer at a time, so ``seq`` grows in the order of the
  commits, and a node that has read up to ``seq`` misses nothing if it asks for what is above. A room's history is
  the part of the log that has the room's name; rows that are no history stay for `LIVE` seconds.
- **A room's numbering has an epoch of its own**, random, made with its row in ``streams``. A row that was deleted, in
  whatever way, can only come back with another epoch.
- **The file has a home**: this boot of the machine, and the inode. In another one it begins anew. After a power cut
  commits may be missing (``synchronous = NORMAL`` syncs at checkpoints only), in a copy or a backup they are missing
  for sure, and the monotonic clock has started again. What the nodes would tell clients of such a past is not proven.

Names are bound as parameters, never part of a statement, and compared byte by byte: so none of them needs
`roomwire.backplanes.contract.token`. Times are seconds of the machine's monotonic clock, which all processes share.
"""

from __future__ import annotations

import fcntl
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

from roomwire.backplanes.contract import HistoryPolicy
from roomwire.core.errors import LocalError
from roomwire.core.positions import Position
from roomwire.core.tail import Entry, Page

__all__ = ["LIVE", "NEWS_ROWS", "News", "Store", "nodes_folder"]

LIVE = 30.0
"""Seconds for which the nodes can read what is no history (any more); who comes later has missed something."""
STREAM_TTL = 86_400.0
"""Seconds that a room's numbering outlives its last use, which is longer than clients are expected to be away."""
_TOUCHED_FOR = 3600.0  # a use within this time after another one is not written down
NEWS_ROWS = 128
"""Rows of one look into the log: what a node takes in within one turn of its loop."""
SWEEP_ROWS = 2000
"""Rows of each table that one sweep deletes: it holds the lock for some ten milliseconds."""

_APPLICATION_ID = 0x72770001  # "rw" and the version of the schema

_TABLES = ("streams", "log", "keys", "replies", "members", "slots")  # each has the column `expires`
_SCHEMA = (
    f"PRAGMA application_id = {_APPLICATION_ID}",
    "CREATE TABLE life (id TEXT NOT NULL, home TEXT NOT NULL)",
    """CREATE TABLE streams (
        room TEXT PRIMARY KEY, epoch TEXT NOT NULL DEFAULT (lower(hex(randomblob(8)))), offset INTEGER NOT NULL,
        size INTEGER NOT NULL, expires REAL NOT NULL) WITHOUT ROWID""",
    # AUTOINCREMENT: the number of a deleted row is never given again.
    """CREATE TABLE log (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, name TEXT, epoch TEXT, offset INTEGER,
        body BLOB, until REAL, expires REAL NOT NULL)""",
    "CREATE INDEX log_history ON log (name, offset) WHERE kind = 'event'",
    """CREATE TABLE keys (
        room TEXT, key TEXT, epoch TEXT NOT NULL, offset INTEGER NOT NULL, expires REAL NOT NULL,
        PRIMARY KEY (room, key)) WITHOUT ROWID""",
    "CREATE TABLE replies (key TEXT PRIMARY KEY, fingerprint TEXT NOT NULL, value BLOB, expires REAL NOT NULL)",
    # Of these two the rowid is the order in which they came.
    """CREATE TABLE members (
        room TEXT, user TEXT, client TEXT, connection TEXT NOT NULL, info BLOB NOT NULL, expires REAL NOT NULL,
        PRIMARY KEY (room, user, client))""",
    "CREATE INDEX members_of_user ON members (user, room)",
    """CREATE TABLE slots (
        user TEXT, client TEXT, connection TEXT NOT NULL, node TEXT NOT NULL, expires REAL NOT NULL,
        PRIMARY KEY (user, client))""",
    *(f"CREATE INDEX {table}_expire ON {table} (expires)" for table in _TABLES),
)


class News(NamedTuple):
    """A row of the log. `name` is a room, or of a control message the node that it is for, None for all."""

    seq: int
    kind: Literal["event", "ephemeral", "changed", "told"]
    name: str | None
    epoch: str
    offset: int
    body: bytes


def nodes_folder(path: Path) -> Path:
    """The folder beside the file in which the nodes have their sockets, and the lock under which it is opened."""
    return path.with_name(f"{path.name}-nodes")


class Store:
    """One connection to the file, for one thread.

    Args:
        path: the file; it is made where there is none.
        busy_timeout: seconds to wait for another process that writes.
        clock: seconds.

    Raises:
        LocalError: there is a database of somebody else's.
        OSError: the folder cannot be reached.
        sqlite3.Error: the file cannot.
    """

    def __init__(self, path: Path, busy_timeout: float, clock: Callable[[], float]) -> None:
        self.path = path
        self.clock = clock
        self.logged = False
        """Whether something was put into the log, and the other nodes are not yet told so."""
        folder = nodes_folder(path)
        folder.mkdir(exist_ok=True)
        with _locked(folder / "lock", busy_timeout):
            if not path.exists():
                # What is left of a file that was deleted must not meet its successor.
                for suffix in ("-wal", "-shm"):
                    path.with_name(path.name + suffix).unlink(missing_ok=True)
            self._db = sqlite3.connect(path, timeout=busy_timeout, isolation_level=None)
            try:
                self._set_up()
            except BaseException:
                self._db.close()
                raise

    def _set_up(self) -> None:
        (version,) = self.one("PRAGMA application_id")
        (tables,) = self.one("SELECT count(*) FROM sqlite_master")
        if version != _APPLICATION_ID and tables:
            raise LocalError("it is a database of another application, or of another version of this one")
        self.run("PRAGMA journal_mode = WAL")
        self.run("PRAGMA synchronous = NORMAL")
        with self.transaction(writing=True):
            if not tables:
                for statement in _SCHEMA:
                    self.run(statement)
            self._inode = self.path.stat().st_ino
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
            home = f"{boot} {self._inode}"
            if self.one("SELECT id FROM life WHERE home = ?", home) is None:
                for table in ("life", *_TABLES):
                    self.run(f"DELETE FROM {table}")  # noqa: S608  a name of ours
                self.run("INSERT INTO life VALUES (?, ?)", secrets.token_hex(8), home)
            (self.life,) = self.one("SELECT id FROM life")

    @property
    def in_place(self) -> bool:
        """Whether the path still leads to this file. May raise OSError."""
        try:
            return self.path.stat().st_ino == self._inode
        except FileNotFoundError:
            return False

    def close(self) -> None:
        """Close the connection."""
        self._db.close()

    @contextmanager
    def transaction(self, *, writing: bool) -> Iterator[None]:
        """All of it or nothing; with `writing` it is the machine's only one from its beginning."""
        self.run("BEGIN IMMEDIATE" if writing else "BEGIN")
        try:
            yield
            self.run("COMMIT")
        except BaseException:
            if self._db.in_transaction:  # SQLite has ended it by itself where the disk is full or broken
                self.run("ROLLBACK")
            raise

    def run(self, statement: str, *values: object) -> sqlite3.Cursor:
        """Execute a statement."""
        return self._db.execute(statement, values)

    def one(self, statement: str, *values: object) -> Any:
        """Its first row, or None."""
        return self._db.execute(statement, values).fetchone()

    # --- the log

    def log(
        self,
        kind: str,
        name: str | None,
        body: bytes = b"",
        epoch: str = "",
        offset: int = -1,
        kept: float = 0.0,
    ) -> None:
        """Put a row into the log, which is history for `kept` seconds."""
        now = self.clock()
        self.run(
            "INSERT INTO log (kind, name, epoch, offset, body, until, expires) VALUES (?, ?, ?, ?, ?, ?, ?)",
            *(kind, name, epoch, offset, body, now + kept, now + max(kept, LIVE)),
        )
        self.logged = True

    def end_of_log(self) -> int:
        """The number of the last row that ever was."""
        (seq,) = self.one("SELECT seq FROM sqlite_sequence WHERE name = 'log'") or (0,)
        return int(seq)

    def news(self, after: int) -> list[News]:
        """The next rows above `after`."""
        rows = self.run(
            "SELECT seq, kind, name, epoch, offset, body FROM log WHERE seq > ? ORDER BY seq LIMIT ?", after, NEWS_ROWS
        )
        return [News(*row) for row in rows]

    # --- streams

    def publish(self, room: str, body: bytes, key: str | None, policy: HistoryPolicy, window: float) -> Position:
        """See the contract."""
        now = self.clock()
        if key is not None:
            known = self.one(
                "SELECT epoch, offset FROM keys WHERE room = ? AND key = ? AND expires > ?", room, key, now
            )
            if known is not None:
                return Position(*known)
        epoch, offset = self.one(
            "INSERT INTO streams (room, offset, size, expires) VALUES (?, 1, ?, ?) ON CONFLICT (room) DO UPDATE"
            " SET offset = offset + 1, size = excluded.size, expires = max(expires, excluded.expires)"
            " RETURNING epoch, offset",
            *(room, policy.size, now + max(STREAM_TTL, policy.ttl)),
        )
        self.log("event", room, body, epoch, offset, policy.ttl if policy.size else 0.0)
        if offset > policy.size > 0:
            # What falls out of the history may not yet have been read by all nodes.
            self.run(
                "UPDATE log SET expires = ? WHERE kind = 'event' AND name = ? AND offset = ? AND epoch = ?",
                *(now + LIVE, room, offset - policy.size, epoch),
            )
        if key is not None:
            self.run("INSERT OR REPLACE INTO keys VALUES (?, ?, ?, ?, ?)", room, key, epoch, offset, now + window)
        return Position(epoch, offset)

    def publish_ephemeral(self, room: str, body: bytes) -> None:
        """See the contract."""
        self.log("ephemeral", room, body)

    def tell(self, node: str | None, body: bytes) -> None:
        """See the contract."""
        self.log("told", node, body)

    def tops(self, rooms: Iterable[str]) -> dict[str, Position]:
        """Where the rooms stand; without those that have to be touched first."""
        fresh = self.clock() + STREAM_TTL - _TOUCHED_FOR
        known = "SELECT epoch, offset FROM streams WHERE room = ? AND expires > ?"
        found = ((room, self.one(known, room, fresh)) for room in rooms)
        return {room: Position(*top) for room, top in found if top is not None}

    def touch(self, rooms: Iterable[str]) -> dict[str, Position]:
        """Where the rooms stand, which from now on have a numbering, and keep it for `STREAM_TTL`."""
        expires = self.clock() + STREAM_TTL
        used = (
            "INSERT INTO streams (room, offset, size, expires) VALUES (?, 0, 1, ?) ON CONFLICT (room) DO UPDATE"
            " SET expires = max(expires, excluded.expires) RETURNING epoch, offset"
        )
        return {room: Position(*self.one(used, room, expires)) for room in rooms}

    def page(self, room: str, since: Position | None, limit: int) -> Page | None:
        """See the contract of `history`; None where the room has to be touched first."""
        stream = self.one("SELECT epoch, offset, size FROM streams WHERE room = ?", room)
        if stream is None:
            return None
        epoch, last, size = stream
        top = Position(epoch, last)
        if since is None or limit <= 0:
            return Page(top)
        missing = last - since.offset
        if since.epoch != epoch or missing < 0:
            return Page(top, (), "epoch" if since.epoch != epoch else "fork")
        if missing > size:
            return Page(top, (), "too_old" if size else "no_history")
        rows = self.run(
            "SELECT offset, body FROM log WHERE kind = 'event' AND name = ? AND offset > ? AND epoch = ? AND until > ?"
            " ORDER BY offset LIMIT ?",
            *(room, since.offset, epoch, self.clock(), limit),
        )
        entries = [Entry(offset - 1, offset, body) for offset, body in rows]
        # Offsets are consecutive, so these are the ones that have to be there.
        wanted = range(since.offset + 1, since.offset + 1 + min(missing, limit))
        if [entry.offset for entry in entries] != list(wanted):
            return Page(top, (), "too_old")
        return Page(top, entries)

    # --- what nobody asks for any more

    def has_expired(self) -> bool:
        """Whether a sweep would find something."""
        now = self.clock()
        due = (f"SELECT 1 FROM {table} WHERE expires <= ? LIMIT 1" for table in _TABLES)  # noqa: S608  names of ours
        return any(self.one(statement, now) is not None for statement in due)

    def sweep(self) -> None:
        """Delete what has expired, and hint at leases that have."""
        now = self.clock()
        lapsed = self.run("SELECT DISTINCT room FROM members WHERE expires <= ?", now).fetchall()
        for table in _TABLES:
            column = {"streams": "room", "keys": "(room, key)", "log": "seq"}.get(table, "rowid")
            few = f"SELECT {column.strip('()')} FROM {table} WHERE expires <= ? LIMIT {SWEEP_ROWS}"  # noqa: S608
            self.run(f"DELETE FROM {table} WHERE {column} IN ({few})", now)  # noqa: S608  names and a number of ours
        for (room,) in lapsed:
            self.log("changed", room)


@contextmanager
def _locked(path: Path, timeout: float) -> Iterator[None]:
    """Hold the lock under which the file is opened: one process at a time finds out whether it is there."""
    deadline = time.monotonic() + timeout
    with path.open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{path}: another process holds the lock for more than {timeout:g} s") from None
                time.sleep(0.005)  # in the worker's thread, of another process's opening
        yield
