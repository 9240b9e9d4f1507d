"""The real servers work, and so do their faults."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import anyio
import nats
import pytest
import redis
from nats.errors import Error as NatsError
from playwright.async_api import Browser
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.guards import end_children, leaked_children
from tests.servers import MissingToolError, NatsServer, RedisServer, Tool, free_port

PATIENCE = 20.0
"""Seconds for an answer; reached only where a test fails."""


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"  # Playwright and nats-py know no other


def client_of(server: RedisServer, timeout: float = PATIENCE) -> redis.Redis:
    return redis.Redis(port=server.port, socket_timeout=timeout, retry=Retry(NoBackoff(), 0), decode_responses=True)


class TestRedis:
    def test_it_serves(self, redis_server: RedisServer) -> None:
        with client_of(redis_server) as client:
            assert client.set("key", "value")
            assert client.get("key") == "value"
            assert client.info("server")["process_id"] == redis_server.pid

    def test_it_listens_on_loopback_alone(self, redis_server: RedisServer) -> None:
        with client_of(redis_server) as client:
            assert client.config_get("bind") == {"bind": "127.0.0.1"}

    def test_paused_it_keeps_the_link_and_does_not_answer(self, redis_server: RedisServer) -> None:
        with socket.create_connection(("127.0.0.1", redis_server.port), timeout=PATIENCE) as link:
            link.sendall(b"PING\r\n")
            assert link.recv(100) == b"+PONG\r\n"
            redis_server.pause()
            link.sendall(b"PING\r\n")
            link.settimeout(0.2)
            with pytest.raises(TimeoutError):
                link.recv(100)
            assert redis_server.running
            redis_server.resume()
            link.settimeout(PATIENCE)
            assert link.recv(100) == b"+PONG\r\n"

    def test_killed_it_refuses_and_comes_back_empty_on_its_port(self, redis_server: RedisServer) -> None:
        port, pid = redis_server.port, redis_server.pid
        with client_of(redis_server) as client:
            client.set("key", "value")
            redis_server.kill()
            assert not redis_server.running
            with pytest.raises(redis.ConnectionError):
                client.ping()
            redis_server.restart()
            assert (redis_server.port, redis_server.pid != pid) == (port, True)
            assert client.get("key") is None

    def test_with_persistence_the_data_survives_a_kill(self, tmp_path: Path) -> None:
        with RedisServer(tmp_path, "--appendonly", "yes", "--appendfsync", "always") as server:
            with client_of(server) as client:
                client.set("key", "value")
            server.restart()
            with client_of(server) as client:
                assert client.get("key") == "value"

    @pytest.mark.parametrize("fault", [RedisServer.pause, RedisServer.kill, RedisServer.stop])
    def test_a_fault_is_healed(self, redis_server: RedisServer, fault: object) -> None:
        assert callable(fault)
        fault(redis_server)
        redis_server.heal()
        with client_of(redis_server) as client:
            assert client.ping()

    def test_one_that_cannot_start_says_why_and_leaves_no_process(self, tmp_path: Path) -> None:
        server = RedisServer(tmp_path, "--no-such-option", "1")
        with pytest.raises(RuntimeError, match="no-such-option"):
            server.start()
        assert not server.running


class TestNats:
    @pytest.mark.anyio
    async def test_it_serves_jetstream(self, nats_server: NatsServer) -> None:
        client = await nats.connect(nats_server.url)
        stream = client.jetstream()
        await stream.add_stream(name="EVENTS", subjects=["events.*"])
        ack = await stream.publish("events.one", b"body")
        assert (await stream.get_msg("EVENTS", ack.seq)).data == b"body"
        await stream.delete_stream("EVENTS")
        await client.close()

    @pytest.mark.anyio
    async def test_streams_survive_a_kill(self, nats_server: NatsServer) -> None:
        client = await nats.connect(nats_server.url)
        await client.jetstream().add_stream(name="KEPT", subjects=["kept.*"])
        ack = await client.jetstream().publish("kept.one", b"body")
        await client.close()
        port = nats_server.port
        await anyio.to_thread.run_sync(nats_server.restart)
        assert nats_server.port == port
        client = await nats.connect(nats_server.url)
        assert (await client.jetstream().get_msg("KEPT", ack.seq)).data == b"body"
        await client.jetstream().delete_stream("KEPT")
        await client.close()

    @pytest.mark.anyio
    async def test_paused_it_does_not_answer(self, nats_server: NatsServer) -> None:
        client = await nats.connect(nats_server.url)
        nats_server.pause()
        with pytest.raises((NatsError, TimeoutError)):
            await client.flush(timeout=1)
        nats_server.resume()
        await client.close()


class TestBrowser:
    @pytest.mark.anyio
    async def test_it_runs_a_page(self, browser: Browser) -> None:
        page = await browser.new_page()
        await page.goto("data:text/html,<title>here</title><script>document.title += ' ' + typeof WebSocket</script>")
        assert await page.title() == "here function"
        await page.close()


class TestTools:
    def test_a_missing_one_says_how_to_get_it(self) -> None:
        tool = Tool("thing", ("no-such-program",), "run: apt-get install thing")
        with pytest.raises(MissingToolError, match="no-such-program is on PATH; run: apt-get install thing"):
            tool.require()
        assert tool.describe() == "thing: MISSING; run: apt-get install thing"

    def test_path_comes_before_the_environment(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        program = tmp_path / "pytest"
        program.write_text("#!/bin/sh\necho mine 1.0\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
        assert Tool("thing", ("pytest",), "").describe() == f"thing: {program} (mine 1.0)"
        assert Tool("thing", ("pytest",), "", bundled=True).find() != program

    def test_free_ports_can_be_bound(self) -> None:
        assert 1024 <= free_port() <= 65535


class TestGuards:
    def test_a_child_that_was_left_behind_is_found_and_ended(self) -> None:
        # It answers, so it runs; and it ends by itself when its input is closed.
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as child:
            assert child.stdin is not None
            assert child.stdout is not None
            child.stdin.write(b"here\n")
            assert child.stdout.readline() == b"here\n"
            found = leaked_children()
            assert found[child.pid] == "cat"
            end_children({child.pid: found[child.pid]})
            assert child.pid not in leaked_children()
