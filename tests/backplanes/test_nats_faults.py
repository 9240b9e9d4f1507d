"""What is noticed of NATS: restarts, streams that are gone, a server that stands still, answers that are lost."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import anyio.to_thread
import pytest

from roomwire.backplanes.contract import HistoryPolicy
from roomwire.backplanes.nats import NatsBackplane
from roomwire.core.errors import Unavailable
from roomwire.core.positions import Position
from roomwire.core.tail import Page
from roomwire.testing.backplane import Recorder
from tests.backplanes.on_nats import NatsSpace, nats_space, started
from tests.servers import NatsServer

POLICY = HistoryPolicy()

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def space(nats_server: NatsServer) -> AsyncIterator[NatsSpace]:
    async with nats_space(nats_server) as space:
        yield space


def bodies(page: Page) -> list[bytes]:
    return [entry.body for entry in page.entries]


async def publish(backplane: NatsBackplane, body: bytes, key: str | None = None) -> Position:
    return await backplane.publish("r", body, key=key, policy=POLICY)


async def back(sink: Recorder) -> None:
    """The link was lost, and is there again."""
    await sink.until(lambda: False in sink.availability and sink.availability[-1] and None in sink.interruptions, 30.0)


class TestRestarts:
    async def test_with_files_the_past_is_still_proven(self, space: NatsSpace) -> None:
        backplane = await space.make(storage="file", servers=[space.server.url])
        async with started(backplane, "a") as sink:
            start = await backplane.subscribe("r")
            await publish(backplane, b"1")
            await anyio.to_thread.run_sync(space.server.restart)
            await back(sink)
            page = await backplane.history("r", start, 10)
            assert (bodies(page), page.reason, page.top.epoch) == ([b"1"], None, start.epoch)
            await publish(backplane, b"2")
            await sink.until(lambda: sink.bodies("r") == [b"1", b"2"])
            assert sink.of("r")[1].previous == sink.of("r")[0].offset

    async def test_without_files_it_is_another_epoch(self, space: NatsSpace) -> None:
        backplane = await space.make(servers=[space.server.url])
        async with started(backplane, "a") as sink:
            start = await backplane.subscribe("r")
            await publish(backplane, b"1")
            await anyio.to_thread.run_sync(space.server.restart)
            await back(sink)
            assert (await backplane.history("r", start, 10)).reason == "epoch"
            assert (await backplane.positions(["r"]))["r"].epoch != start.epoch

    async def test_a_server_that_stands_still_is_noticed(self, space: NatsSpace) -> None:
        backplane = await space.make(
            servers=[space.server.url],
            connect_timeout=1.5,
            request_timeout=1.5,
            operation_timeout=1.5,
            probe_timeout=1.5,
        )
        async with started(backplane, "a") as sink:
            await backplane.subscribe("r")
            start = await publish(backplane, b"before")
            space.server.pause()
            with pytest.raises(Unavailable) as unknown:
                await publish(backplane, b"asked", key="k")
            assert unknown.value.stored is None
            await sink.until(lambda: sink.availability[-1] is False, 30.0)
            with pytest.raises(Unavailable) as refused:
                await publish(backplane, b"not asked")
            assert refused.value.stored is False
            space.server.resume()
            await back(sink)
            await publish(backplane, b"asked", key="k")
            assert bodies(await backplane.history("r", start, 10)) == [b"asked"]


class TestLostAnswers:
    async def test_a_publish_without_an_answer_is_unknown_and_its_retry_finds_it(self, space: NatsSpace) -> None:
        backplane = await space.make(request_timeout=1.0, operation_timeout=1.5, probe_interval=30)
        async with started(backplane, "a"), started(other := await space.make(), "b"):
            start = await publish(backplane, b"before")
            space.faults.proxies[backplane].silent = True
            with pytest.raises(Unavailable) as caught:
                await publish(backplane, b"once", key="k")
            assert caught.value.stored is None
            page = await other.history("r", start, 10)
            assert bodies(page) == [b"once"]  # it was tried twice
            space.faults.proxies[backplane].silent = False
            assert await publish(other, b"once", key="k") == page.top
            assert bodies(await other.history("r", start, 10)) == [b"once"]

    async def test_a_first_publish_that_never_left_was_not_stored(self, space: NatsSpace) -> None:
        backplane = await space.make(request_timeout=1.0, operation_timeout=1.5, probe_interval=30)
        async with started(backplane, "a"):
            space.faults.proxies[backplane].silent = True
            with pytest.raises(Unavailable) as caught:
                await publish(backplane, b"asked where the stream stands")
            assert caught.value.stored is False

    async def test_nothing_that_was_refused_is_sent_later(self, space: NatsSpace) -> None:
        backplane = await space.make()
        async with started(backplane, "a") as sink:
            start = await backplane.subscribe("r")
            await space.faults.cut(backplane)
            await sink.until(lambda: sink.availability[-1] is False)
            for _ in range(20):
                with pytest.raises(Unavailable) as caught:
                    await publish(backplane, b"refused")
                assert caught.value.stored is False
            for operation in (
                backplane.publish_ephemeral("r", b""),
                backplane.tell(None, b""),
                backplane.subscribe("s"),
            ):
                with pytest.raises(Unavailable):
                    await operation
            await space.faults.heal(backplane)
            await back(sink)
            await publish(backplane, b"sent")
            await sink.until(lambda: sink.of("r"))
            assert sink.bodies("r") == [b"sent"]
            assert bodies(await backplane.history("r", start, 10)) == [b"sent"]


class TestStreamsThatAreGone:
    async def test_made_anew_by_another_node(self, space: NatsSpace) -> None:
        """The first delivery of the new life counts from the beginning: it is asked why at once."""
        backplane, other = await space.make(), await space.make()
        async with started(backplane, "a") as sink, started(other, "b"):
            start = await backplane.subscribe("r")
            for body in (b"1", b"2", b"3"):
                last = await publish(backplane, body)
            await space.faults.lose()
            new = await publish(other, b"new")
            assert new.epoch != last.epoch
            await sink.until(lambda: ["r"] in sink.interruptions)
            assert (await backplane.positions(["r"]))["r"] == new
            assert (await backplane.history("r", start, 10)).reason == "epoch"
            page = await backplane.history("r", Position(new.epoch, 0), 10)
            assert (bodies(page), page.reason) == ([b"new"], None)

    async def test_found_by_the_position_check_alone(self, space: NatsSpace) -> None:
        backplane = await space.make()
        async with started(backplane, "a") as sink:
            start = await backplane.subscribe("r")
            await space.faults.lose()
            top = (await backplane.positions(["r"]))["r"]
            assert top.epoch != start.epoch
            assert ["r"] in sink.interruptions
            assert (await backplane.history("r", start, 10)).reason == "epoch"

    async def test_leases_go_on_where_the_bucket_is_gone(self, space: NatsSpace) -> None:
        backplane = await space.make()
        async with started(backplane, "a"):
            await backplane.reserve("k", "p", 30.0)
            await space.faults.lose()
            assert await backplane.rooms_of("ann") == []
            assert (await backplane.reserve("k", "p", 30.0)).state == "new"

    async def test_a_position_above_a_stream_that_lost_its_end_is_seen(self, space: NatsSpace) -> None:
        """The node has delivered more than the leader knows: the check says so, and the history calls it a fork."""
        backplane = await space.make()
        async with started(backplane, "a"):
            start = await backplane.subscribe("r")
            backplane._rooms.agree("r", Position(start.epoch, 7))
            assert (await backplane.positions(["r"]))["r"] == start
            assert (await backplane.history("r", Position(start.epoch, 7), 10)).reason == "fork"
