"""All rows, in the order of the promises' table."""

from __future__ import annotations

from tests.cluster import rows_clients, rows_nats, rows_nodes, rows_redis, rows_store  # noqa: F401  they declare them
from tests.cluster.run import ROWS

__all__ = ["KINDS", "ROWS"]

KINDS = ("nodes", "clients", "store")
"""Whose fault it is: `Row.kind`."""
