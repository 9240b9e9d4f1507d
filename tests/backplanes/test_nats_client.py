"""One connection to NATS: it survives who has given up, and it ends for who asks, whatever nats-py is at."""

from __future__ import annotations

import asyncio
import select
import time

import pytest

from roomwire.backplanes.nats.client import NatsClient
from roomwire.backplanes.nats.link import Link
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


async def test_a_loop_that_stood_still_reads_the_answer_before_it_gives_up(nats_server: NatsServer) -> None:
    client = NatsClient(lambda error: None, lambda text: None)
    await client.open(nats_server.url, options_of(nats_server.port, "rw"), "still", None)
    try:
        await client.round_trip(10.0)
        nats_server.pause()
        patience = 1.0
        trip = asyncio.create_task(client.round_trip(patience))
        while not client._pongs:  # noqa: ASYNC110  in the very turn in which it is sent
            await asyncio.sleep(0)
        nats_server.resume()
        assert client._transport is not None
        sock = client._transport._io_writer.get_extra_info("socket")  # type: ignore[attr-defined]
        select.select([sock], [], [], 60.0)  # the loop does stand still
        time.sleep(1.5 * patience)  # noqa: ASYNC251
        await trip
    finally:
        await client.dispose()


async def test_a_close_in_the_turn_in_which_a_connection_fails_is_not_lost(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`asyncio.wait_for` of Python 3.11 gives its result in place of the cancellation."""
    outcome: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    waits = asyncio.Event()

    async def fail(*arguments: object) -> None:
        waits.set()
        await asyncio.wait_for(outcome, 60.0)

    async def came_up() -> None:
        return

    link = Link(options_of(nats_server.port, "rw", reconnect_wait=60.0), "closing", came_up, lambda: None)
    await link.start()
    monkeypatch.setattr(NatsClient, "open", fail)
    assert link._latest is not None
    await link._latest._process_op_err(OSError("the link broke"))
    await waits.wait()
    outcome.set_exception(OSError("no connection"))
    async with asyncio.timeout(30.0):
        await link.aclose()
