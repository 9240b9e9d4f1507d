"""A roomwire backplane in an SQLite file: the workers of one machine are one cluster, without a server."""

from __future__ import annotations

from roomwire_sqlite.backplane import SqliteBackplane, SqliteOptions

__all__ = ["SqliteBackplane", "SqliteOptions"]
