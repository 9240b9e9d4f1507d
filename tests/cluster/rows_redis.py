"""Rows whose fault only Redis has: losing what it held while it goes on, and fail-overs to a replica that lags."""

from __future__ import annotations

import asyncio
from typing import Any

import redis

from tests.cluster.links import Mode
from tests.cluster.rows_store import each_is_reset
from tests.cluster.run import Run, row
from tests.servers import RedisServer


def _populate(run: Run) -> None:
    run.populate(run.size(30, 200), run.rooms(2), run.size(60.0, 200.0), publishers=run.size(6, 20))


def _command(server: RedisServer, *words: Any) -> Any:
    with redis.Redis(port=server.port, socket_timeout=5.0, decode_responses=True) as client:
        return client.execute_command(*words)


def _store(run: Run) -> RedisServer:
    assert isinstance(run.cluster.store, RedisServer)
    return run.cluster.store


@row("kill-store-persisted", "kill -9 Redis with an append-only file that has every write", on=["redis"])
async def kill_store_persisted(run: Run) -> None:
    _populate(run)
    store = _store(run)
    _command(store, "CONFIG", "SET", "appendfsync", "always", "appendonly", "yes")

    def is_kept() -> bool:
        state = _info(store, "persistence")
        return bool(state["aof_enabled"] and not state["aof_rewrite_in_progress"])

    await run.crowd.until(is_kept, "the file is there")
    before = store.arguments
    store.arguments = ("--appendonly", "yes", "--appendfsync", "always")
    try:
        await run.start()
        await run.blocking(store.restart)
        await run.events(run.size(20, 200))
    finally:
        store.arguments = before
        _command(store, "CONFIG", "SET", "appendonly", "no")
    await each_is_reset(run)


def _info(server: RedisServer, section: str) -> dict[str, Any]:
    with redis.Redis(port=server.port, socket_timeout=5.0) as client:
        found: dict[str, Any] = client.info(section)
        return found


@row("flushall", "FLUSHALL under load", on=["redis"])
async def flushall(run: Run) -> None:
    _populate(run)
    await run.start()
    _command(_store(run), "FLUSHALL")
    await run.events(run.size(20, 200))
    await each_is_reset(run)


@row("flushall-silent", "FLUSHALL, and nothing is published after it", on=["redis"], long_only=True)
async def flushall_silent(run: Run) -> None:
    _populate(run)
    await run.start()
    await run.crowd.hush()
    _command(_store(run), "FLUSHALL")
    await each_is_reset(run)


@row("evicted", "Redis evicts keys of all kinds, since its memory is full", on=["redis"])
async def evicted(run: Run) -> None:
    _populate(run)
    store = _store(run)
    await run.start()
    await run.events(run.size(50, 300))
    _command(store, "CONFIG", "SET", "maxmemory-policy", "allkeys-random", "maxmemory", "1")
    try:
        await run.crowd.until(lambda: int(_info(store, "stats")["evicted_keys"]) > 10, "keys were evicted")
    finally:
        _command(store, "CONFIG", "SET", "maxmemory-policy", "noeviction", "maxmemory", "0")
    run.figures["keys evicted"] = str(_info(store, "stats")["evicted_keys"])
    await run.events(run.size(20, 200))
    run.expected = {"epoch", "too_old", "fork"}


@row("out-of-memory", "Redis is full and evicts nothing: a publish is refused, never acknowledged", on=["redis"])
async def out_of_memory(run: Run) -> None:
    _populate(run)
    store = _store(run)
    await run.start()
    await run.events(20)
    _command(store, "CONFIG", "SET", "maxmemory-policy", "noeviction", "maxmemory", "1")
    try:
        refused = [sum(p.codes.values()) for p in run.crowd.publishers]
        await run.crowd.until(
            lambda: all(sum(p.codes.values()) > was for p, was in zip(run.crowd.publishers, refused, strict=True)),
            "every publisher is refused",
        )
        acked = run.acked
        await asyncio.sleep(run.size(0.3, 5.0))
        run.expect(run.acked == acked, "events were acknowledged while nothing could be stored")
        run.expect(all(member.live for member in run.crowd.members), "clients were disconnected")
    finally:
        _command(store, "CONFIG", "SET", "maxmemory", "0")
    codes = {code for publisher in run.crowd.publishers for code in publisher.codes}
    run.expect(codes == {"unavailable"}, f"publishes were answered with {codes}")
    await run.events(run.size(20, 200))


async def _fail_over(run: Run, *, publish_after: bool) -> None:
    """The old server is killed, and a replica that lacks its last 10 events takes its place."""
    run.populate(run.size(30, 200), run.rooms(2), 40.0, publishers=4)
    store = _store(run)
    feed = run.cluster.open_link(lambda: store.port)
    replica = RedisServer(run.cluster.directory / f"{run.name}-replica")
    await run.blocking(replica.start)
    try:
        _command(store, "CONFIG", "SET", "repl-diskless-sync-delay", "0")
        _command(replica, "REPLICAOF", "127.0.0.1", feed.port)
        await run.start()
        await run.crowd.until(lambda: _info(replica, "replication")["master_link_status"] == "up", "it follows")
        await run.events(20)
        await run.crowd.hush()
        await run.blocking(lambda: feed.set(Mode.STALL))
        for publisher in run.crowd.publishers[:2]:
            for _ in range(10):
                await publisher.tell()
        await run.crowd.until(lambda: not run.crowd.behind(run.crowd.tops()), "all have what the replica lacks")
        # Half of the clients are away while it happens.
        away = [member for member in run.crowd.members if member.rooms][::2]
        for member in away:
            member.cut()
        run.cluster.target = lambda: replica.port
        await run.blocking(store.kill)
        _command(replica, "REPLICAOF", "NO", "ONE")
        if publish_after:
            for publisher in run.crowd.publishers[:2]:
                for _ in range(15):
                    await publisher.tell()
        for member in away:
            member.release()
        await each_is_reset(run)
        run.findings = run.crowd.judge(await run.crowd.settle())
    finally:
        await run.blocking(store.heal)
        run.cluster.target = lambda: store.port
        for link in run.cluster.links:
            await run.blocking(link.cut)
        await run.blocking(replica.stop)


@row("fail-over", "a fail-over to a replica that lags by 10 events, with publishes after it", on=["redis"])
async def fail_over(run: Run) -> None:
    await _fail_over(run, publish_after=True)


@row("fail-over-silent", "the same without a publish after it", on=["redis"])
async def fail_over_silent(run: Run) -> None:
    await _fail_over(run, publish_after=False)
