"""A node whose backplane publishers reach, in a loop of its own."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from roomwire.backplanes.redis import RedisBackplane, RedisOptions
from tests.publisher.support import HubBackplane
from tests.server.chat import make_app
from tests.server.live import UNHURRIED, LiveServer, live_server
from tests.servers import RedisServer


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    """Everybody who connects is in ``chat:general``."""
    with live_server(make_app(), backplane=HubBackplane()) as started:
        yield started


@pytest.fixture(scope="module")
def redis_options(redis_session: RedisServer) -> dict[str, object]:
    """``[backplane.options]``, in a name space of this module's own."""
    return {"url": redis_session.url, "key_prefix": f"publisher-{secrets.token_hex(4)}:", "command_timeout": 1.0}


@pytest.fixture(scope="module")
def node(redis_options: dict[str, object]) -> Iterator[LiveServer]:
    """A node on Redis."""
    backplane = RedisBackplane(RedisOptions.model_validate(redis_options))
    with live_server(make_app(), backplane=backplane, limits=UNHURRIED) as started:
        yield started
