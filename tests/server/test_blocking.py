"""Handlers, hooks and dependencies that are a ``def``: they run in threads, act from there, and are never too many."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import pytest

from roomwire import LocalError, from_thread
from roomwire.core.limits import Limits
from roomwire.node.threads import Place, _Work
from tests.server.conftest import Serve
from tests.server.injecting import Journal, make_app
from tests.server.live import SHELLS, LiveServer
from tests.server.watching import until

FAILED = "the server failed; it has been logged"
ON_EACH_LOOP = pytest.mark.parametrize("loop", ["callback-asyncio", "callback-uvloop", "portable-trio"])


@pytest.fixture
def journal() -> Iterator[Journal]:
    journal = Journal()
    yield journal
    journal.release.set()


@pytest.fixture
def time_limits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, anyio.CancelScope]]:
    """The time limits that were set, and their scopes: the time is over when the test says so, be the machine busy."""
    limits: list[tuple[float, anyio.CancelScope]] = []
    fail_after = anyio.fail_after

    @contextmanager
    def limited(seconds: float) -> Iterator[None]:
        with fail_after(None) as scope:
            limits.append((seconds, scope))
            yield

    monkeypatch.setattr(anyio, "fail_after", limited)
    return limits


def start(serve: Serve, journal: Journal, loop: str = "callback-asyncio", **options: Any) -> LiveServer:
    return serve(SHELLS[loop], app=make_app(journal), **options)


class TestWhatRunsInThreads:
    @pytest.mark.wire
    def test_a_handler_publishes_and_sends_from_there(self, shell: Any, serve: Serve, journal: Journal) -> None:
        server = serve(shell, app=make_app(journal))
        ann, ben = server.connect("ann"), server.connect("ben")
        ack = ann.request("blocking.publish", "hi", room="chat:general")
        told = ben.receive_until("told")
        assert (told["data"], told["id"], told["user"]) == ("hi", ack["data"]["id"], "ann")
        assert ack["data"]["user"] == "ann"
        assert journal.threads.isdisjoint({threading.get_ident(), server.call(threading.get_ident)})

    def test_a_message_that_comes_twice_publishes_once(self, serve: Serve, journal: Journal) -> None:
        server = start(serve, journal)
        ann, ben = server.connect("ann"), server.connect("ben")
        answers = [ann.request("blocking.retry", room="chat:general", id="one-and-the-same") for _ in range(2)]
        assert answers[0]["data"]["code"] == "unavailable"
        assert answers[1]["event"] == "ack"
        assert [event["data"] for event in ben.events_before("ping") if event["event"] == "told"] == ["once"]

    @ON_EACH_LOOP
    def test_hooks_policies_and_snapshots(self, serve: Serve, journal: Journal, loop: str) -> None:
        server = start(serve, journal, loop)
        ann = server.connect("ann", query="state=1")
        assert ann.receive_until("room.state")["data"]["state"] == "state of general"
        assert ann.request("room.join", room="chat:secret")["data"]["code"] == "forbidden"
        assert ann.request("room.join", room="chat:open")["event"] == "ack"
        server.connect("ben").close()
        assert ann.receive_until("left")["data"] == "ben"

    def test_context_variables_come_along(self, serve: Serve, journal: Journal) -> None:
        assert start(serve, journal).connect("ann").request("blocking.context")["data"] == "with ann"

    def test_other_connections_go_on_meanwhile(self, serve: Serve, journal: Journal) -> None:
        server = start(serve, journal)
        ann, ben = server.connect("ann"), server.connect("ben")
        ann.send("blocking.hold", id="held")
        assert journal.entered.acquire(timeout=30)
        assert ben.request("blocking.context")["data"] == "with ben"
        journal.release.set()
        assert ann.receive_until("ack", id="held")["data"] == "held"

    def test_slow_ones_are_logged_by_name(
        self, serve: Serve, journal: Journal, caplog: pytest.LogCaptureFixture
    ) -> None:
        server = start(serve, journal, limits=Limits(handler_warning=1e-9))
        server.connect("ann").request("blocking.context")
        fields = [record.roomwire for record in caplog.records if hasattr(record, "roomwire")]
        (entry,) = [entry for entry in fields if "handler" in entry]
        assert entry["handler"].rpartition(".")[2] == "context"
        assert (entry["kind"], "hint" in entry) == ("def in a thread", False)


class TestFaults:
    @pytest.mark.parametrize(
        ("event", "logged"),
        [
            ("blocking.coroutine", "returned a coroutine: make it an async def"),
            ("blocking.stop", "StopIteration"),
            ("not.blocking", "from_thread is for what the node runs in a thread: await it instead"),
        ],
    )
    @ON_EACH_LOOP
    def test_they_are_the_applications(
        self, serve: Serve, journal: Journal, loop: str, event: str, logged: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        ann = start(serve, journal, loop).connect("ann")
        assert ann.request(event)["data"] == {"code": "internal", "message": FAILED}
        assert logged in caplog.text

    def test_from_a_thread_of_somebody_elses(self) -> None:
        async def nothing() -> None: ...

        with pytest.raises(LocalError, match="await it instead"):
            from_thread(nothing())


class TestPlaces:
    def test_there_are_so_many_and_others_wait(self, serve: Serve, journal: Journal) -> None:
        server = start(serve, journal, limits=Limits(threads=2, connections_per_user=9))
        clients = [server.connect("ann") for _ in range(4)]
        for client in clients:
            client.send("blocking.hold", id="held")
        assert all(journal.entered.acquire(timeout=30) for _ in range(2))
        until(server, lambda: server.node.threads.waiting == 2)
        assert (server.node.threads.used, len(journal.threads)) == (2, 2)
        journal.release.set()
        assert {client.receive_until("ack", id="held")["data"] for client in clients} == {"held"}
        assert server.call(lambda: server.node.threads.used) == 0

    def test_whoever_holds_what_others_wait_for_needs_no_further_place(self, serve: Serve, journal: Journal) -> None:
        """Else two that wait for the only connection of a pool would keep out the one that has to give it back."""
        server = start(serve, journal, limits=Limits(threads=2, connections_per_user=9))
        clients = [server.connect("ann") for _ in range(4)]
        for number, client in enumerate(clients):
            client.send("pooled", id="pooled")
            until(server, functools.partial(are_used, server, min(2, number + 1)))
        server.call(journal.go.set)
        assert {client.receive_until("ack", id="pooled")["data"] for client in clients} == {"used"}

    @ON_EACH_LOOP
    def test_a_snapshot_that_takes_too_long_keeps_its_place_until_it_ends(
        self, serve: Serve, journal: Journal, loop: str, time_limits: list[tuple[float, anyio.CancelScope]]
    ) -> None:
        server = start(serve, journal, loop, limits=Limits(snapshot_timeout=7.0))
        ann = server.connect("ann")
        ann.request("room.join", {"state": True}, room="kept:a")
        assert journal.entered.acquire(timeout=30)
        ((seconds, scope),) = time_limits
        assert seconds == 7.0
        server.call(lambda: setattr(scope, "deadline", anyio.current_time()))
        assert ann.receive_until("room.state")["data"]["state"] is None
        assert server.call(lambda: server.node.threads.used) == 1
        assert journal.lines == []
        journal.release.set()
        until(server, lambda: server.node.threads.used == 0)
        assert journal.lines == ["used", "cleaned"]

    def test_work_that_is_given_up_before_it_begins_never_does(self, serve: Serve, journal: Journal) -> None:
        server = start(serve, journal)
        called: list[int] = []

        async def leave() -> bool:
            place: Place = server.node.threads.place()
            async with place:
                place._work = work = _Work(lambda: called.append(1))
            work()
            return bool(called)

        assert not server.call(leave)
        assert server.call(lambda: server.node.threads.used) == 0


class TestTheEnd:
    @ON_EACH_LOOP
    def test_a_drain_waits_for_threads(self, serve: Serve, journal: Journal, loop: str) -> None:
        server = start(serve, journal, loop)
        ann = server.connect("ann")
        ann.send("blocking.keep")
        assert journal.entered.acquire(timeout=30)
        server.call(server.node.runtime.spawn, server.node.drain.run)
        assert ann.closed()[0] == 1012
        assert not server.ended.done()
        journal.release.set()
        server.ended.result(30)
        assert journal.lines == ["used", "cleaned"]

    @ON_EACH_LOOP
    def test_but_within_its_time(self, serve: Serve, journal: Journal, loop: str) -> None:
        server = start(serve, journal, loop, drain_timeout=0.05)
        ann = server.connect("ann")
        ann.send("blocking.keep")
        assert journal.entered.acquire(timeout=30)
        server.call(server.node.runtime.spawn, server.node.drain.run)
        server.ended.result(30)
        assert journal.lines == []
        journal.release.set()


def are_used(server: LiveServer, places: int) -> bool:
    return server.node.threads.used == places
