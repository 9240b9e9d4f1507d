"""A node whose backplane publishers reach, in a loop of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.publisher.support import HubBackplane
from tests.server.chat import make_app
from tests.server.live import LiveServer, live_server


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    """Everybody who connects is in ``chat:general``."""
    with live_server(make_app(), backplane=HubBackplane()) as started:
        yield started
