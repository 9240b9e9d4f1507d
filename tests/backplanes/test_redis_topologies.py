"""Sentinel, cluster, TLS, a Unix socket and passwords, against real processes."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
import redis
import trustme

from roomwire.backplanes.contract import Holder, Member
from roomwire.backplanes.redis import RedisBackplane, RedisOptions
from roomwire.backplanes.redis.keys import Keys
from roomwire.core.errors import ConfigError, Unavailable
from roomwire.core.positions import Position
from roomwire.testing.backplane import Recorder
from tests.backplanes.redis_support import POLICY, QUICK, client_of, eventually, started
from tests.servers import RedisServer, free_port

pytestmark = pytest.mark.anyio

ANN = Member("ann", "client-1", "connection-1")


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


def execute(client: redis.Redis, *command: bytes | str | int) -> Any:
    return client.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py has no type for it


class Sentinel(RedisServer):
    """Watches one master."""

    master = 0

    def command(self, port: int) -> Sequence[str]:
        path = self.directory / "sentinel.conf"
        path.write_text(
            f"port {port}\nbind 127.0.0.1\nsentinel monitor chat 127.0.0.1 {self.master} 1\n"
            "sentinel down-after-milliseconds chat 1500\nsentinel failover-timeout chat 3000\n"
        )
        return (str(path), "--sentinel", "--dir", str(self.directory))


class TestSentinel:
    async def test_a_failover_to_a_replica_that_lags_is_another_epoch(self, tmp_path: Path) -> None:
        def replicated() -> bool:
            with client_of(replica) as client:
                info = client.info("replication")
            return bool(info["master_link_status"] == "up" and info["slave_repl_offset"] > 0)

        def known() -> bool:
            with client_of(sentinel) as client:
                return len(client.sentinel_slaves("chat")) == 1

        with ExitStack() as stack:
            master = stack.enter_context(RedisServer(tmp_path / "master"))
            replica = stack.enter_context(RedisServer(tmp_path / "replica", "--replicaof", f"127.0.0.1 {master.port}"))
            sentinel = Sentinel(tmp_path / "sentinel")
            sentinel.master = master.port
            stack.enter_context(sentinel)
            await eventually(replicated)
            await eventually(known)
            url = f"redis+sentinel://127.0.0.1:{free_port()},127.0.0.1:{sentinel.port}/chat"
            async with started(url, **QUICK) as node:
                await node.backplane.subscribe("r")
                shared = await node.backplane.publish("r", b"replicated", key=None, policy=POLICY)
                with client_of(master) as client:
                    assert client.wait(1, 5000) == 1
                    # From here on the replica hears nothing, not even what would wait in its socket.
                    replica.pause()
                    client.client_kill_filter(_type="replica")
                for i in range(10):
                    last = await node.backplane.publish("r", b"%d" % i, key=None, policy=POLICY)
                master.kill()
                replica.resume()
                await node.sink.until(lambda: node.sink.availability[-2:] == [False, True], 30.0)
                assert None in node.sink.interruptions
                with client_of(replica) as client:
                    assert client.hget(Keys(node.prefix).stream("r")[0], "offset") == b"1"
                # In the quiet after it, without a publish: neither what was lost nor what was kept is proven.
                for since in (last, shared, Position(last.epoch, 0)):
                    assert (await node.backplane.history("r", since, 100)).reason == "epoch"
                await node.publish("r", b"after")
                await node.sink.until(lambda: node.sink.bodies("r")[-1:] == [b"after"])

    async def test_a_master_that_no_sentinel_knows(self, tmp_path: Path, redis_server: RedisServer) -> None:
        sentinel = Sentinel(tmp_path)
        sentinel.master = redis_server.port
        with sentinel:
            url = f"redis+sentinel://127.0.0.1:{sentinel.port}/other"
            with pytest.raises(Unavailable, match=r'no master "other": see backplane\.options\.url'):
                async with started(url):
                    pass


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RedisServer]]:
    """Three masters, a third of the slots each."""
    buses = [free_port() for _ in range(3)]
    with ExitStack() as stack:
        servers = [
            stack.enter_context(
                RedisServer(
                    tmp_path_factory.mktemp("cluster"),
                    *("--cluster-enabled", "yes", "--cluster-node-timeout", "2000", "--cluster-port", str(port)),
                )
            )
            for port in buses  # by default 10,000 above the server's own, which may be none
        ]
        bounds = (0, 5461, 10923, 16384)
        for number, server in enumerate(servers):
            with client_of(server) as client:
                execute(client, "CLUSTER ADDSLOTSRANGE", bounds[number], bounds[number + 1] - 1)
                execute(client, "CLUSTER SET-CONFIG-EPOCH", number + 1)
                execute(client, "CLUSTER MEET", "127.0.0.1", servers[0].port, buses[0])
        anyio.run(eventually, lambda: all(covers(server) for server in servers))
        for server in servers:
            with client_of(server) as client:
                # From now on none is given up by the others, which would refuse all: a machine may be slow.
                client.config_set("cluster-node-timeout", 120_000)
        yield servers


def covers(server: RedisServer) -> bool:
    with client_of(server) as client:
        info = execute(client, "CLUSTER INFO")
        return bool(info["cluster_state"] == "ok" and int(info["cluster_known_nodes"]) == 3)


def url_of(cluster: list[RedisServer]) -> str:
    return "redis+cluster://" + ",".join(f"127.0.0.1:{server.port}" for server in cluster)


class TestCluster:
    async def test_rooms_are_on_all_servers_and_two_nodes_share_them(self, cluster: list[RedisServer]) -> None:
        rooms = [f"room-{i}" for i in range(60)]
        async with (
            started(url_of(cluster), name="a") as node,
            started(url_of(cluster), name="b", prefix=node.prefix) as other,
        ):
            async with anyio.create_task_group() as group:
                for room in rooms:
                    group.start_soon(node.backplane.subscribe, room)
            tops = await other.backplane.positions(rooms)
            for room in rooms:
                await other.publish(room, room.encode())
                await other.backplane.publish_ephemeral(room, b"typing")
            await node.sink.until(lambda: len(node.sink.deliveries) + len(node.sink.ephemerals) == 2 * len(rooms))
            for room in rooms:
                page = await node.backplane.history(room, tops[room], 10)
                assert [entry.body for entry in page.entries] == [room.encode()]
            await node.backplane.tell("b", b"order")
            await node.backplane.tell(None, b"all")
            # By two channels, which are on two servers: nothing says which one is read first.
            await other.sink.until(lambda: sorted(other.sink.control) == [b"all", b"order"])
            # Sharded: each channel is known to the server that has its slot, and to no other.
            shards = []
            for server in cluster:
                with client_of(server) as client:
                    assert client.pubsub_channels(f"{node.prefix}*") == []
                    shards.append(len(execute(client, "PUBSUB SHARDCHANNELS", f"{node.prefix}c:*")))
            assert sum(shards) == len(rooms)
            assert min(shards) > 0

    async def test_leases_slots_and_replies(self, cluster: list[RedisServer]) -> None:
        async with started(url_of(cluster)) as node:
            members = [(f"r{i}", ANN) for i in range(20)]
            holders = [(f"user-{i}", Holder("c", "k", "n")) for i in range(20)]
            await node.backplane.enter("entered", ANN)
            assert await node.backplane.refresh(members, holders, limit=1) == []
            assert await node.backplane.members("r7") == [ANN]
            assert sorted(await node.backplane.rooms_of("ann")) == sorted(["entered", *(room for room, _ in members)])
            assert not (await node.backplane.claim("user-3", Holder("d", "l", "n"), 1, evict=False)).granted
            assert (await node.backplane.reserve("k", "f", 5.0)).state == "new"
            assert (await node.backplane.reserve("k", "f", 5.0)).state == "pending"

    async def test_a_slot_that_moves_takes_its_rooms_along(self, cluster: list[RedisServer]) -> None:
        async with started(url_of(cluster), **QUICK) as node:
            start = await node.backplane.subscribe("moving")
            await node.publish("moving", b"1")
            await node.receive("moving", b"1")
            with client_of(cluster[0]) as client:
                slot = execute(client, "CLUSTER KEYSLOT", "{bW92aW5n}")
            old = next(i for i, end in enumerate((5461, 10923, 16384)) if slot < end)
            await anyio.to_thread.run_sync(move, cluster, int(slot), old, (old + 1) % 3)
            # Its history went along, but another server counts now.
            page = await node.backplane.history("moving", start, 10)
            assert page.reason == "epoch"
            await node.publish("moving", b"2")
            await node.sink.until(lambda: node.sink.bodies("moving")[-1:] == [b"2"] or node.sink.interruptions)
            with client_of(cluster[(old + 1) % 3]) as client:
                await eventually(lambda: execute(client, "PUBSUB SHARDCHANNELS", f"{node.prefix}c:*"))
            await node.publish("moving", b"3")
            await node.sink.until(lambda: node.sink.bodies("moving")[-1:] == [b"3"])

    async def test_what_a_link_is_probed_through_may_move(
        self, cluster: list[RedisServer], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The link stays up, though its server would refuse it for a channel that it does not have any more."""
        async with started(url_of(cluster), **QUICK) as node:
            feed = node.backplane._feed
            home, link = next((home, link) for home, link in feed._links.items() if home is not None)
            probe = next(channel for channel in link.channels if channel not in feed._own)
            with client_of(cluster[0]) as client:
                slot = int(execute(client, "CLUSTER KEYSLOT", probe))
            old = next(place for place, server in enumerate(cluster) if server.port == home[1])
            await anyio.to_thread.run_sync(move, cluster, slot, old, (old + 1) % 3)
            await eventually(lambda: probe not in link.channels)
            before, probed = link._heard, feed._probed(home)
            assert list(link.channels)[-1:] == [probed] != [probe]
            await eventually(lambda: link._heard > before + 2 * QUICK["probe_after"])
            assert node.sink.availability == [True]
            # One that has no slots left has no such channel, which is no reason to look for it for ever.
            monkeypatch.setattr(node.backplane._store, "_slots", [("elsewhere", 1)] * 16384)
            with pytest.raises(Unavailable, match="no slots"):
                feed._probed(home)

    async def test_a_channel_that_was_given_away_is_not_forgotten_by_an_old_map(
        self, cluster: list[RedisServer], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with started(url_of(cluster), **QUICK) as node:
            await node.backplane.subscribe("old-map")
            store = node.backplane._store
            assert store is not None
            whole, maps = store._read_map, iter([list(store._slots)])

            async def read_map() -> None:
                """The first server that is asked has not heard of the move."""
                known = next(maps, None)
                if known is None:
                    await whole()
                else:
                    store._slots = known

            monkeypatch.setattr(store, "_read_map", read_map)
            channel = Keys(node.prefix).channel("old-map")
            with client_of(cluster[0]) as client:
                slot = int(execute(client, "CLUSTER KEYSLOT", channel))
            old = next(
                place for place, server in enumerate(cluster) if server.port == (store.home(channel) or ("", 0))[1]
            )
            await anyio.to_thread.run_sync(move, cluster, slot, old, (old + 1) % 3)
            with client_of(cluster[(old + 1) % 3]) as client:
                await eventually(lambda: execute(client, "PUBSUB SHARDCHANNELS", channel))

    async def test_links_to_servers_that_are_gone_are_closed(
        self, cluster: list[RedisServer], redis_server: RedisServer
    ) -> None:
        async with started(url_of(cluster), name="leaver") as node:
            store = node.backplane._store
            assert store is not None
            gone = ("127.0.0.1", redis_server.port)  # as after a fail-over: it is in no map
            assert await store._wire(gone, False).call(("PING",)) == [b"PONG"]
            with client_of(redis_server) as client:

                def names() -> list[str]:
                    return [one["name"] for one in client.client_list()]

                assert "roomwire:leaver" in names()
                store.remap()
                await eventually(lambda: "roomwire:leaver" not in names())
            assert gone not in store._servers
            await node.publish("r", b"1")

    async def test_the_url_says_what_it_is(self, cluster: list[RedisServer], redis_server: RedisServer) -> None:
        for url, wanted in ((cluster[0].url, "redis+cluster://"), (url_of([redis_server]), "redis://")):
            with pytest.raises(
                (ConfigError, Unavailable), match=rf"backplane\.options\.url.*{re.escape(wanted)}|cluster support"
            ):
                async with started(url):
                    pass


def move(cluster: list[RedisServer], slot: int, source: int, target: int) -> None:
    """Move a slot with its keys, as ``redis-cli --cluster reshard`` does."""
    with client_of(cluster[source]) as old, client_of(cluster[target]) as new:
        ids = [execute(client, "CLUSTER MYID").decode() for client in (old, new)]
        execute(new, "CLUSTER SETSLOT", slot, "IMPORTING", ids[0])
        execute(old, "CLUSTER SETSLOT", slot, "MIGRATING", ids[1])
        keys = execute(old, "CLUSTER GETKEYSINSLOT", slot, 100)
        execute(old, "MIGRATE", "127.0.0.1", cluster[target].port, "", 0, 5000, "KEYS", *keys)
        for client in (new, old):
            execute(client, "CLUSTER SETSLOT", slot, "NODE", ids[1])


@asynccontextmanager
async def heard(url: str, **options: Any) -> AsyncIterator[None]:
    """A node that hears itself there."""
    async with started(url, **options) as node:
        await node.backplane.subscribe("r")
        await node.publish("r", b"heard")
        await node.receive("r", b"heard")
        yield


class TestWays:
    async def test_tls_with_certificates_of_both_sides(self, tmp_path: Path) -> None:
        authority = trustme.CA()
        ours, theirs = authority.issue_cert("client"), authority.issue_cert("127.0.0.1")
        files = {name: str(tmp_path / f"{name}.pem") for name in ("ca", "cert", "key", "own_cert", "own_key")}
        authority.cert_pem.write_to_path(files["ca"])
        for chain, cert, key in ((theirs, "cert", "key"), (ours, "own_cert", "own_key")):
            chain.cert_chain_pems[0].write_to_path(files[cert])
            chain.private_key_pem.write_to_path(files[key])
        port = free_port()
        arguments = ("--tls-port", str(port), "--tls-cert-file", files["cert"], "--tls-key-file", files["key"])
        with RedisServer(tmp_path / "redis", *arguments, "--tls-ca-cert-file", files["ca"]):
            url = f"rediss://127.0.0.1:{port}"
            own: dict[str, Any] = {"ssl_certfile": files["own_cert"], "ssl_keyfile": files["own_key"]}
            async with heard(url, ssl_cafile=files["ca"], **own):
                pass
            with pytest.raises(Unavailable, match="cannot be reached"):  # of an authority that nobody knows
                async with started(url, **own):
                    pass

    async def test_a_unix_socket(self, tmp_path: Path) -> None:
        path = tmp_path / "redis.sock"
        with RedisServer(tmp_path / "redis", "--unixsocket", str(path)):
            async with heard(f"unix://{path}"):
                pass

    async def test_passwords_stand_in_the_url_or_in_options(self, redis_server: RedisServer) -> None:
        with client_of(redis_server) as client:
            execute(client, "ACL SETUSER", "chat", "on", ">s3cret", "~own-*", "&own-*", "+@all")
            execute(client, "ACL SETUSER", "blind", "on", ">s3cret", "~*", "+@all", "-info")
            try:
                async with heard(f"redis://chat:s3cret@127.0.0.1:{redis_server.port}"):
                    pass
                async with heard(redis_server.url, username="chat", password="s3cret"):
                    pass
                with pytest.raises(Unavailable, match=r"backplane\.options\.password") as caught:
                    async with started(redis_server, username="chat", password="wrong"):
                        pass
                assert "s3cret" not in str(caught.value)
                with pytest.raises(Unavailable, match="INFO"):
                    async with started(redis_server, username="blind", password="s3cret"):
                        pass
            finally:
                execute(client, "ACL DELUSER", "chat", "blind")

    async def test_a_database_of_its_own(self, redis_server: RedisServer) -> None:
        async with heard(f"{redis_server.url}/3"):
            with redis.Redis(port=redis_server.port, db=3) as client:
                assert client.dbsize() > 0
                client.flushdb()

    async def test_another_service_on_that_port(self, nats_server: object) -> None:
        port = nats_server.port  # type: ignore[attr-defined]  # any server that is no Redis
        backplane = RedisBackplane(
            RedisOptions.model_validate({"url": f"redis://127.0.0.1:{port}", "connect_timeout": 0.5})
        )
        with pytest.raises(Unavailable):
            await backplane.start(Recorder(), "node")
