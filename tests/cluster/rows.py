"""All rows, in the order of the promises' table."""

from __future__ import annotations

from tests.cluster import rows_clients, rows_nats, rows_nodes, rows_redis, rows_store
from tests.cluster.run import ROWS

__all__ = ["MODULES", "ROWS"]

MODULES = (rows_nodes, rows_store, rows_redis, rows_nats, rows_clients)
