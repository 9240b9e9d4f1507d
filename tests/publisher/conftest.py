"""A node whose backplane publishers reach, in a loop of its own."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import anyio
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
def redis_node(redis_options: dict[str, object]) -> Iterator[LiveServer]:
    backplane = RedisBackplane(RedisOptions.model_validate(redis_options))
    with live_server(make_app(), backplane=backplane, limits=UNHURRIED) as started:
        yield started


@pytest.fixture
def node(redis_node: LiveServer) -> LiveServer:
    """A node on Redis, which has got over what the test before did to that."""

    async def until_up() -> None:
        with anyio.fail_after(30):
            while not redis_node.node.hub.up:  # noqa: ASYNC110  of the node's own state
                await anyio.sleep(0.01)

    redis_node.call(until_up)
    return redis_node
