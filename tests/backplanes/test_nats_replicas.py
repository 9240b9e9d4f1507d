"""Three servers and three replicas: leaders are asked where replicas may lag, and one of them may die."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack

import anyio.to_thread
import pytest

from roomwire.backplanes.contract import HistoryPolicy, Holder, Member
from roomwire.backplanes.nats import NatsBackplane
from roomwire.backplanes.nats.jetstream import Message
from roomwire.core.errors import Unavailable
from roomwire.core.positions import Position
from tests.backplanes.on_nats import NatsSpace, admin, nats_space, started
from tests.servers import NatsServer, free_port

POLICY = HistoryPolicy(size=100, ttl=600.0)

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[NatsServer]]:
    ports = [free_port() for _ in range(3)]
    routes = ",".join(f"nats://127.0.0.1:{port}" for port in ports)
    with ExitStack() as stack:
        found = []
        for port in ports:
            cluster = ("--cluster_name", "c", "--cluster", f"nats://127.0.0.1:{port}", "--routes", routes)
            server = NatsServer(tmp_path_factory.mktemp("nats-replica"), *cluster, "--no_advertise")
            found.append(stack.enter_context(server))
        yield found


@pytest.fixture
async def space(servers: list[NatsServer]) -> AsyncIterator[NatsSpace]:
    async with nats_space(servers[0]) as space:
        yield space
        for server in servers:
            server.heal()


async def make(space: NatsSpace, servers: list[NatsServer]) -> NatsBackplane:
    urls = [server.url for server in servers]
    options = {"replicas": 3, "partitions": 1, "start_timeout": 30, "request_timeout": 1.0}
    backplane = await space.make(servers=urls, **options)
    backplane.configure({"": POLICY}, lambda room: POLICY)
    return backplane


async def test_copies_that_race_to_the_replicas_are_one(space: NatsSpace, servers: list[NatsServer]) -> None:
    """JetStream refuses a copy while the first one is under way; that is no answer to give."""
    one, other = await make(space, servers), await make(space, servers)
    async with started(one, "a"), started(other, "b"):
        copies = (node.publish("r", b"", key="k", policy=POLICY) for node in (one, other) * 10)
        assert len(set(await asyncio.gather(*copies))) == 1
        assert (await one.claim("ann", Holder("c", "1", "a"), 1, evict=False)).granted
        assert not (await other.claim("ann", Holder("d", "2", "b"), 1, evict=False)).granted
        await one.enter("r", Member("ann", "c", "1"))
        assert (await one.reserve("k", "p", 30.0)).state == "new"
        assert (await other.reserve("k", "p", 30.0)).state == "pending"


async def test_what_a_replica_does_not_know_comes_from_the_leader(
    space: NatsSpace, servers: list[NatsServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    backplane = await make(space, servers)
    async with started(backplane, "a"):
        start = await backplane.subscribe("r")
        for i in range(6):
            last = await backplane.publish("r", b"%d" % i, key=None, policy=POLICY)
        whole, known = backplane._js.batch, 0

        async def lagging(stream: str, body: Mapping[str, object]) -> tuple[list[Message], int]:
            """As a replica answers that has `known` events so far."""
            messages, reached = await whole(stream, body)
            messages = [m._replace(pending=max(0, known - m.seq)) for m in messages if m.seq <= known]
            return messages, min(reached, known)

        monkeypatch.setattr(backplane._js, "batch", lagging)
        for known in range(7):  # noqa: B007  `lagging` looks at it
            page = await backplane.history("r", start, 100)
            assert ([entry.body for entry in page.entries], page.reason) == ([b"%d" % i for i in range(6)], None)
            assert page.top == last
            page = await backplane.history("r", start, 4)
            assert [entry.body for entry in page.entries] == [b"%d" % i for i in range(4)]
            assert page.more


async def test_a_leader_may_die(space: NatsSpace, servers: list[NatsServer]) -> None:
    """Each event that was acknowledged is there once, in order, and was heard or is known to be missing."""
    backplane = await make(space, servers)
    async with started(backplane, "a") as sink:
        start = await backplane.subscribe("r")
        stored: list[Position] = []

        async def publish(number: int) -> None:
            async with asyncio.timeout(40):
                while len(stored) <= number:
                    try:
                        stored.append(await backplane.publish("r", b"%d" % number, key=f"{number}", policy=POLICY))
                    except Unavailable:
                        await asyncio.sleep(0.05)

        for number in range(20):
            await publish(number)
        info = await admin(servers[0].port, f"STREAM.INFO.{space.prefix}_100x600000_0")
        leader = next(server for server in servers if info["cluster"]["leader"] == server._name(server.port))
        leader.kill()
        for number in range(20, 40):
            await publish(number)
        await anyio.to_thread.run_sync(leader.start)
        page = await backplane.history("r", start, 100)
        assert [entry.body for entry in page.entries] == [b"%d" % number for number in range(40)]
        assert [entry.offset for entry in page.entries] == [position.offset for position in stored]
        await sink.until(lambda: sink.bodies("r")[-1:] == [b"39"])
        assert None in sink.interruptions or sink.bodies("r") == [b"%d" % number for number in range(40)]
