"""The servers of `tests.server`."""

from __future__ import annotations

from tests.server.conftest import serve, server, server_on_clock, shell

__all__ = ["serve", "server", "server_on_clock", "shell"]
