"""One connection to NATS goes on where whoever asked for a sign of life has given up before it came."""

from __future__ import annotations

import asyncio

import pytest

from roomwire.backplanes.nats.client import NatsClient
from tests.backplanes.on_nats import options_of
from tests.servers import NatsServer

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_an_answer_that_nobody_waits_for_any_more_ends_nothing(nats_server: NatsServer) -> None:
    lost: list[BaseException] = []
    client = NatsClient(lost.append, lambda text: None)
    await client.open(nats_server.url, options_of(nats_server.port, "rw"), "late", None)
    try:
        nats_server.pause()
        with pytest.raises(TimeoutError):
            await client.round_trip(0.1)
        nats_server.resume()
        await client.round_trip(10.0)
        heard = asyncio.Event()
        client.listen("said", lambda subject, data, headers: heard.set())
        client.tell("said", b"on")
        async with asyncio.timeout(10.0):
            await heard.wait()
        assert not lost
    finally:
        await client.dispose()
