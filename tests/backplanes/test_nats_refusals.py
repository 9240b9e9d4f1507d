"""A NATS that is reached and yet stores nothing, answers nothing or is something else: nobody leaves, all is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import anyio.to_thread
import pytest

from roomwire.backplanes.contract import HistoryPolicy, Holder, Member
from roomwire.backplanes.nats import NatsBackplane, kv, link
from roomwire.backplanes.nats.replies import _name
from roomwire.core.errors import Unavailable
from tests.backplanes.on_nats import NatsSpace, admin, nats_space, options_of, started
from tests.servers import NatsServer, free_port

pytestmark = pytest.mark.anyio

ANN = Member("ann", "c", "1")
POLICY = HistoryPolicy()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def space(nats_server: NatsServer) -> AsyncIterator[NatsSpace]:
    async with nats_space(nats_server) as space:
        yield space


async def end_of_lease(backplane: NatsBackplane) -> float:
    """When what was refreshed last ends, by the store's clock."""
    item = next(iter((await backplane._buckets[0].scan("p.>")).values()))
    assert item.value is not None
    return float(item.value.rsplit(b",", 1)[1].rstrip(b"]"))


async def until_time(backplane: NatsBackplane, time: float) -> None:
    """Wait until the store's clock has passed it."""
    await asyncio.sleep(time - backplane._clock.now() + 0.05)


class TestLeases:
    async def test_nobody_leaves_while_no_lease_can_be_stored(self, space: NatsSpace) -> None:
        """The link is up all the time; it is the bucket that has no room, as one without a leader."""
        backplane = await space.make(lease=0.6)
        async with started(backplane, "a") as sink:
            await backplane.subscribe("r")
            await backplane.enter("r", ANN)
            name = f"KV_{space.prefix}_leases"
            config = (await admin(space.server.port, f"STREAM.INFO.{name}"))["config"]
            full = await admin(space.server.port, f"STREAM.UPDATE.{name}", {**config, "max_msg_size": 1})
            assert "error" not in full
            with pytest.raises(Unavailable):
                await backplane.refresh([("r", ANN)], [])
            await until_time(backplane, await end_of_lease(backplane))
            assert await backplane.members("r") == [ANN]
            await admin(space.server.port, f"STREAM.UPDATE.{name}", config)
            # Others may have had no chance to refresh theirs.
            assert await backplane.refresh([], []) == []
            assert await backplane.members("r") == [ANN]
            assert sink.availability == [True]

    async def test_an_outage_that_comes_again_at_once_is_the_same(self, space: NatsSpace) -> None:
        backplane = await space.make(lease=0.6)
        async with started(backplane, "a") as sink:
            await backplane.enter("r", ANN)
            for times in (1, 2):
                if times == 1:
                    end = await end_of_lease(backplane)
                await space.faults.cut(backplane)
                await sink.until(lambda: sink.availability[-1:] == [False])
                if times == 1:
                    await until_time(backplane, end)
                await space.faults.heal(backplane)
                await sink.until(lambda: sink.availability[-1:] == [True])
            assert await backplane.members("r") == [ANN]

    async def test_what_the_server_deleted_in_an_outage_has_not_left(
        self, space: NatsSpace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(kv, "SLACK", 1)
        monkeypatch.setattr(kv, "FORGIVENESS", 1.5)
        backplane = await space.make(lease=0.9)
        other = await space.make()
        async with started(backplane, "a") as sink, started(other, "b"):
            await backplane.enter("r", ANN)
            await space.faults.cut(backplane)
            await sink.until(lambda: sink.availability[-1:] == [False])
            async with asyncio.timeout(30):
                await until_deleted(other)
            # The outage has begun some time after the lease, and is as long when the server may have deleted it.
            await until_time(backplane, backplane._clock._outage + kv.SLACK)
            await space.faults.heal(backplane)
            await sink.until(lambda: sink.availability[-1:] == [True])
            with pytest.raises(Unavailable, match="before all nodes"):
                await backplane.members("r")
            await backplane.refresh([("r", ANN)], [])
            await asyncio.sleep(backplane._clock._forgiving_until - backplane._clock.now())
            await backplane.refresh([("r", ANN)], [])
            assert await backplane.members("r") == [ANN]

    @pytest.mark.parametrize("record", [b"{", b"[]", b"7", b'[1,2,3,"",0,"soon"]', b'[["c","1"]]', b"\xff\n"])
    async def test_a_record_of_somebody_else_ends_no_node(self, space: NatsSpace, record: bytes) -> None:
        backplane = await space.make()
        async with started(backplane, "a"):
            leases, replies = backplane._buckets
            expires, member = leases.clock.now() + 60, backplane._subjects.member("r", "ann", "c")
            names = [(leases, member), (leases, backplane._subjects.slots("ann")), (leases, "n.other")]
            for bucket, name in [*names, (replies, _name("r", "k")), (replies, _name("k", "r", "k"))]:
                await bucket.write(name, record, expires, None)
            assert await backplane.members("r") == []
            await backplane.leave("r", ANN, 0.0)
            await backplane.refresh([("r", ANN)], [("ann", Holder("c", "1", "a"))], limit=1)
            assert await backplane.members("r") == [ANN]
            assert not (await backplane.claim("ann", Holder("d", "2", "a"), 1, evict=False)).granted
            assert (await backplane.reserve("k", "p", 5.0)).state == "new"
            position = await backplane.publish("r", b"", key="k", policy=POLICY, window=5.0)
            assert await backplane.publish("r", b"", key="k", policy=POLICY, window=5.0) == position
            backplane._agreement._policies = {"": [1, 1.0]}
            await backplane._agreement.compare()
            assert backplane.bodies.dropped


async def until_deleted(backplane: NatsBackplane) -> None:
    for _ in range(1000):
        if all(item.value is None for item in (await backplane._buckets[0].scan("p.>")).values()):
            return
        await asyncio.sleep(0.02)
    pytest.fail("the server deletes nothing")


class TestLink:
    async def test_an_order_that_may_be_lost_is_told_to_who_gave_it(self, space: NatsSpace) -> None:
        backplane = await space.make(request_timeout=1.0)
        async with started(backplane, "a") as sink:
            await backplane.tell(None, b"heard")
            await sink.until(lambda: sink.control == [b"heard"])
            space.faults.proxies[backplane].silent = True
            with pytest.raises(Unavailable) as caught:
                await backplane.tell(None, b"who knows")
            assert caught.value.stored is None
            telling = asyncio.create_task(backplane.tell(None, b"who knows"))
            await asyncio.sleep(0)
            space.faults.proxies[backplane].cut()
            with pytest.raises(Unavailable):
                await telling
            space.faults.proxies[backplane].silent = False

    async def test_a_peer_that_is_no_nats_does_not_end_the_tries(self, space: NatsSpace) -> None:
        backplane = await space.make()
        proxy, tries = space.faults.proxies[backplane], asyncio.Event()

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"INFO []\r\n")  # JSON, but no object
            await reader.read()
            tries.set()
            writer.close()

        stranger = await asyncio.start_server(talk, "127.0.0.1", 0)
        async with stranger, started(backplane, "a") as sink:
            proxy._target, port = stranger.sockets[0].getsockname()[1], proxy._target
            proxy.cut()
            async with asyncio.timeout(20):
                await tries.wait()
            proxy._target = port
            await sink.until(lambda: sink.availability == [True, False, True])

    async def test_servers_that_are_gone_for_good_are_forgotten(self, tmp_path: Path) -> None:
        """They are told by the others, and each of them would cost time in every round."""
        routes = [f"nats://127.0.0.1:{free_port()}" for _ in range(2)]

        def server(place: int, name: str) -> NatsServer:
            cluster = ("--cluster_name", "c", "--cluster", routes[place], "--routes", ",".join(routes))
            return NatsServer(tmp_path / name, *cluster)

        async def nothing() -> None:
            return None

        with server(0, "stays") as stays:
            node = link.Link(options_of(stays.port, "z"), "node", nothing, lambda: None)
            await node.start()
            goes = server(1, "goes")
            await anyio.to_thread.run_sync(goes.start)
            try:
                await reconnect_until(node, lambda: len(node._servers) == 2)
                await anyio.to_thread.run_sync(goes.stop)
                await reconnect_until(node, lambda: node._servers == [stays.url])
            finally:
                goes.stop()
                await node.aclose()


async def reconnect_until(node: link.Link, condition: Callable[[], bool]) -> None:
    """A server tells who else there is when it is connected to."""
    for _ in range(200):
        if condition():
            return
        if node._latest is not None:
            await node._latest.dispose()
            node._lost.set()
        await asyncio.sleep(0.05)
    pytest.fail(f"it knows of {node._servers}")


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    directory = tmp_path_factory.mktemp("nats-strict")
    rights = 'permissions: { publish: [">"], subscribe: ["rw.tell.>", "_INBOX.>"] }'
    (directory / "nats.conf").write_text(
        f'accounts: {{ chat: {{ jetstream: enabled, users: [ {{ user: deaf, password: "p", {rights} }} ] }} }}'
    )
    with NatsServer(directory, "-c", str(directory / "nats.conf")) as server:
        yield server


async def test_every_room_that_may_not_be_heard_is_refused(strict: NatsServer) -> None:
    """Not only as many as are logged."""
    backplane = NatsBackplane(options_of(strict.port, "rw", user="deaf", password="p"))
    async with started(backplane, "a"):
        for number in range(link._TELL_DENIALS + 3):
            with pytest.raises(Unavailable, match="does not permit a subscription"):
                await backplane.subscribe(f"r{number}")
