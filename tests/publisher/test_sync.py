"""`Publisher`, against a node on a real Redis: from threads, under a running loop, over forks, and while Redis
is away."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest

from roomwire import BatchFailed, ConfigError, Draft, LocalError, Publisher, PublishFailed, Unavailable
from roomwire.backplanes.redis import RedisBackplane
from tests.publisher.support import HubBackplane, kept
from tests.server.live import LiveServer
from tests.servers import RedisServer, free_port

ROOT = Path(__file__).parents[2]


def publisher_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("roomwire-publisher")]


@pytest.fixture(scope="module")
def publisher(redis_options: dict[str, object]) -> Iterator[Publisher]:
    with Publisher("redis", redis_options) as opened:
        yield opened


class TestFromAnywhere:
    def test_many_threads_publish_at_the_same_time(self, node: LiveServer, publisher: Publisher) -> None:
        """As the views of a web application do: all with one publisher, which nobody opened."""
        client = node.connect()

        def view(thread: int) -> list[str | None]:
            return [publisher.publish("chat:general", "viewed", [thread, number]).id for number in range(25)]

        with ThreadPoolExecutor(8) as pool:
            ids = [one for found in pool.map(view, range(8)) for one in found]
        messages = [client.receive_until("viewed") for _ in range(200)]
        assert sorted(message["data"] for message in messages) == [[t, n] for t in range(8) for n in range(25)]
        assert sorted(map(str, ids)) == sorted(message["id"] for message in messages)
        for thread in range(8):
            assert [message["data"][1] for message in messages if message["data"][0] == thread] == list(range(25))

    @pytest.mark.anyio
    async def test_under_a_running_loop(self, node: LiveServer, publisher: Publisher) -> None:
        """As in a notebook."""
        client = node.connect()
        publication = publisher.publish("chat:general", "noted", 1)
        assert client.receive_until("noted")["id"] == publication.id

    def test_a_batch_and_orders(self, node: LiveServer, publisher: Publisher) -> None:
        client = node.connect("carl")
        drafts = (Draft("chat:general", "counted", number) for number in range(3))
        ids = [publication.id for publication in publisher.publish_many(drafts)]
        assert [client.receive_until("counted")["id"] for _ in range(3)] == ids
        publisher.add("carl", "chat:more")
        client.receive_until("room.joined", room="chat:more")
        publisher.remove("carl", "chat:more")
        client.receive_until("room.removed", room="chat:more")
        publisher.disconnect("carl", code=4502, reason="bye")
        assert client.closed() == (4502, "bye")

    def test_an_ephemeral_event_and_bytes(self, node: LiveServer, publisher: Publisher) -> None:
        client = node.connect()
        assert publisher.publish("chat:general", "typing", history=False).id is None
        publisher.publish("chat:general", "image", b"\x00\xff", user="ann")
        assert "id" not in client.receive_until("typing")
        assert client.receive()[-2:] == b"\x00\xff"

    def test_errors_come_as_they_are(self, publisher: Publisher) -> None:
        with pytest.raises(LocalError, match="no room name"):
            publisher.publish("", "n")
        with pytest.raises(ConfigError, match="nobody would hear"):
            Publisher("memory").publish("r", "n")


class TestWhileRedisIsAway:
    def test_a_publish_outlasts_a_restart(
        self, node: LiveServer, publisher: Publisher, redis_server: RedisServer, redis_options: dict[str, object]
    ) -> None:
        publisher.publish("chat:general", "before")
        with Publisher("redis", redis_options, patience=30) as patient, ThreadPoolExecutor(1) as pool:
            patient.open()
            redis_server.kill()
            pending = pool.submit(patient.publish, "chat:general", "restarted", 1)
            redis_server.restart()
            assert pending.result().id is not None

    def test_what_was_not_answered_is_unknown_and_takes_effect_once(
        self, node: LiveServer, redis_server: RedisServer, redis_options: dict[str, object]
    ) -> None:
        quick = {**redis_options, "command_timeout": 1.0, "connect_timeout": 1.0}
        with Publisher("redis", quick, patience=0) as publisher:
            first = publisher.publish("chat:paused", "n", 0)
            redis_server.pause()
            with pytest.raises(PublishFailed) as failure:
                publisher.publish("chat:paused", "n", 1)
            with pytest.raises(BatchFailed):
                publisher.publish_many([Draft("chat:paused", "n", 2, key="mine")])
            redis_server.resume()
        assert failure.value.stored is None
        with Publisher("redis", redis_options) as publisher:
            second = publisher.publish("chat:paused", "n", 1, key=failure.value.key)
            again = publisher.publish("chat:paused", "n", 1, key=failure.value.key)
        assert first.position is not None
        assert second.position == again.position
        assert second.position is not None
        assert second.position.offset in (first.position.offset + 1, first.position.offset + 2)

    def test_nothing_is_left_where_nothing_listens_and_it_may_open_later(self) -> None:
        publisher = Publisher("redis", {"url": f"redis://127.0.0.1:{free_port()}", "connect_timeout": 0.5})
        for _ in range(2):
            with pytest.raises(Unavailable):
                publisher.publish("r", "n")
        assert publisher._running is None


class TestItsEnd:
    def test_a_closed_one_says_so(self) -> None:
        before = set(publisher_threads())
        with Publisher(HubBackplane) as publisher:
            publisher.publish("sync:closed", "n")
            (thread,) = set(publisher_threads()) - before
        assert not thread.is_alive()
        publisher.close()
        with pytest.raises(LocalError, match="is closed"):
            publisher.publish("sync:closed", "n")
        assert len(kept("sync:closed")) == 1

    def test_one_that_is_dropped_leaves_no_thread(self) -> None:
        before = set(publisher_threads())
        Publisher(HubBackplane).publish("sync:dropped", "n")
        gc.collect()
        for thread in set(publisher_threads()) - before:
            thread.join(10)
        assert set(publisher_threads()) <= before

    def test_a_program_that_forgets_to_close_it_ends_without_a_word(self, redis_options: dict[str, object]) -> None:
        program = (
            "import json, sys\nfrom roomwire import Publisher\n"
            "publisher = Publisher('redis', json.loads(sys.argv[1]))\n"
            "print(publisher.publish('chat:script', 'n', 1).id)\n"
        )
        assert len(run("-c", program, json.dumps(redis_options))) == 1

    def test_a_backplane_that_does_not_close_holds_up_nobody(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Somebody else's, which keeps its contract not."""
        monkeypatch.setattr("roomwire.publisher._thread._END", 0.05)
        asked, leave = threading.Event(), threading.Event()

        class Stuck(HubBackplane):
            async def aclose(self) -> None:
                asked.set()
                await anyio.to_thread.run_sync(leave.wait)

        before = set(publisher_threads())
        publisher = Publisher(Stuck)
        publisher.publish("sync:stuck", "n")
        publisher.close()
        assert asked.wait(20)  # its loop may be slower than the patience of who closes it
        assert caplog.messages == ["the publisher's backplane does not close: it is left behind"]
        leave.set()
        for thread in set(publisher_threads()) - before:
            thread.join(10)
            assert not thread.is_alive()


class TestOverAFork:
    def test_each_process_has_a_link_of_its_own(self, node: LiveServer, redis_options: dict[str, object]) -> None:
        client = node.connect()
        program = str(Path(__file__).with_name("forking.py"))
        ids = run(program, json.dumps(redis_options), "chat:general")
        messages = [client.receive_until("told") for _ in range(9)]
        assert sorted(message["id"] for message in messages) == sorted(ids)
        children = [f"child-{child}-{number}" for child in range(2) for number in range(3)]
        assert sorted(message["data"] for message in messages) == ["after", "before", *children, "meanwhile"]

    def test_what_runs_here_is_left_alone_there(self) -> None:
        """What the hook does in the forked process, in this one."""
        publisher = Publisher(HubBackplane)
        publisher.publish("sync:forked", "n", 1)
        mine = publisher._running
        assert mine is not None
        publisher._lock.acquire()  # another thread was in the middle of a call
        publisher._forked()
        publisher.publish("sync:forked", "n", 2)
        assert publisher._running is not mine
        publisher.close()
        mine.end()
        assert len(kept("sync:forked")) == 2


def run(*arguments: str) -> list[str]:
    """The lines that a Python program prints; it must say nothing else, and end well."""
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=50
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


def test_a_backplane_that_is_made_by_a_function(redis_options: dict[str, Any]) -> None:
    def make() -> RedisBackplane:
        return RedisBackplane(RedisBackplane.Options.model_validate(redis_options))

    with Publisher(make) as publisher:
        assert publisher.publish("chat:made", "n").id is not None
