"""The chat's own database: who may be in which channel, and the messages."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiosqlite

CHANNELS = ("general", "random")
RECENT = 200

SCHEMA = """
CREATE TABLE IF NOT EXISTS members (user TEXT, channel TEXT, PRIMARY KEY (user, channel)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS messages (
    key INTEGER PRIMARY KEY, channel TEXT, sender TEXT, content TEXT, at REAL
);
CREATE INDEX IF NOT EXISTS messages_of_channel ON messages (channel, key);
"""


class Database:
    """One connection, which works in a thread of its own."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: aiosqlite.Connection | None = None

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        async with aiosqlite.connect(self._path) as self._connection:
            await self._connection.execute("PRAGMA journal_mode = WAL")
            await self._connection.executescript(SCHEMA)
            yield
        self._connection = None

    @property
    def _db(self) -> aiosqlite.Connection:
        if self._connection is None:
            raise RuntimeError("the database is not open")
        return self._connection

    async def channels_of(self, user: str) -> list[str]:
        """The user's channels; a newcomer is put into all of them."""
        rows = await self._db.execute_fetchall("SELECT channel FROM members WHERE user = ?", (user,))
        channels = [str(row[0]) for row in rows]
        if not channels:
            await self._db.executemany(
                "INSERT OR IGNORE INTO members VALUES (?, ?)", [(user, channel) for channel in CHANNELS]
            )
            await self._db.commit()
            channels = list(CHANNELS)
        return channels

    async def is_member(self, user: str, channel: str) -> bool:
        rows = await self._db.execute_fetchall("SELECT 1 FROM members WHERE user = ? AND channel = ?", (user, channel))
        return bool(list(rows))

    async def add_message(self, channel: str, sender: str, content: str, at: float) -> int:
        """Keep a message; returns its key."""
        rows = await self._db.execute_insert(
            "INSERT INTO messages (channel, sender, content, at) VALUES (?, ?, ?, ?)", (channel, sender, content, at)
        )
        await self._db.commit()
        assert rows is not None
        return int(rows[0])

    async def recent_messages(self, channel: str) -> list[dict[str, object]]:
        """The last messages of a channel, oldest first."""
        rows = await self._db.execute_fetchall(
            "SELECT key, sender, content, at FROM messages WHERE channel = ? ORDER BY key DESC LIMIT ?",
            (channel, RECENT),
        )
        return [{"key": row[0], "from": row[1], "content": row[2], "at": row[3]} for row in reversed(list(rows))]
