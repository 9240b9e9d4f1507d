"""The servers of `tests.server`, on every shell."""

from __future__ import annotations

import pytest

from tests.server.conftest import serve, server, server_on_clock
from tests.server.live import SHELLS, Shell

__all__ = ["serve", "server", "server_on_clock", "shell"]


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest) -> Shell:
    """Every shell on every loop."""
    return SHELLS[request.param]
