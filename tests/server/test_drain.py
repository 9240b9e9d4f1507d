"""The ends of a node: asked, cancelled, failed; and what must not be left behind by connections."""

from __future__ import annotations

import gc
import threading
from collections import Counter
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from roomwire import App
from roomwire.backplanes.memory import MemoryBackplane, MemoryHub
from roomwire.core.limits import Limits
from roomwire.node import Connection
from roomwire.node.rooms import Membership, Room
from roomwire.runtime import AsyncioRuntime
from roomwire.transports.anyio.carrier import Carrier
from tests.server.chat import Log, make_app
from tests.server.conftest import ROOMS, Serve
from tests.server.live import TIMEOUT, UNHURRIED, Client, LiveServer, Shell, make_node, serving
from tests.server.test_resume import query
from tests.server.watching import until


def drain(server: LiveServer) -> None:
    """Drain, without waiting for its end."""
    server.call(server.node.runtime.spawn, server.node.drain.run)


# --- a drain


def test_a_drain_closes_every_client_with_1012_and_a_moment_of_its_own(shell: Shell, serve: Serve) -> None:
    server = serve(shell, reconnect_spread=5.0)
    clients = [server.connect(f"user-{number}") for number in range(20)]
    drain(server)
    moments = set()
    for client in clients:
        closing = client.receive_until("session.closing")["data"]
        assert (closing["code"], closing["reason"], closing["reconnect"]) == (1012, "restart", True)
        assert 0 <= closing["retry_after"] <= 5
        moments.add(closing["retry_after"])
        assert client.closed() == (1012, "restart")
    assert len(moments) > 10
    assert server.ended.result(10) is None
    assert not server.node.connections
    log: Log = server.node.app.log  # type: ignore[attr-defined]
    assert len(log.disconnected) == 20


def test_a_drain_under_load_loses_no_acknowledged_message(shell: Shell) -> None:
    """200 clients that send as fast as they are answered: who had an ack finds its message in the history."""
    hub = MemoryHub()
    acked: list[str] = []
    closes: Counter[int] = Counter()
    lock = threading.Lock()
    with anyio.from_thread.start_blocking_portal(shell.backend, dict(shell.backend_options)) as portal:
        first = make_node(
            make_app(),
            shell,
            backplane=MemoryBackplane(hub=hub),
            name="node-1",
            limits=UNHURRIED,
            rooms={},
            drain_timeout=TIMEOUT,  # 200 clients answer its closes in threads of this process
        )
        with serving(first, portal) as server:
            clients = [server.connect(f"user-{number}") for number in range(200)]
            position = clients[0].welcome["rooms"]["chat:general"]["position"]
            senders = [
                threading.Thread(target=send_until_closed, args=(client, acked, closes, lock)) for client in clients[:8]
            ]
            for sender in senders:
                sender.start()
            until(server, lambda: len(acked) > 50)
            drain(server)
            for sender in senders:
                sender.join(TIMEOUT)
            for client in clients[8:]:
                closes[client.closed()[0]] += 1
            assert server.ended.result(TIMEOUT) is None
        assert closes == {1012: 200}
        second = make_node(make_app(), shell, backplane=MemoryBackplane(hub=hub), name="node-2", rooms={})
        with serving(second, portal) as server:
            back = server.connect("reader", query=query({"chat:general": position}))
            assert back.welcome["rooms"]["chat:general"]["recovered"] is True
            stored = {e["id"] for e in back.events_before("whoami") if e["event"] == "message.new"}
    assert set(acked) <= stored


def send_until_closed(client: Client, acked: list[str], closes: Counter[int], lock: threading.Lock) -> None:
    number = 0
    try:
        while number < 100:
            number += 1
            reply = client.request("message.send", {"content": str(number)}, room="chat:general")
            with lock:
                acked.append(reply["data"]["id"])
        client.closed()
    except ConnectionClosed:
        pass
    with lock:
        closes[client.closed()[0]] += 1


def test_during_a_drain_nobody_new_is_admitted(shell: Shell, serve: Serve) -> None:
    server = serve(shell)
    log: Log = server.node.app.log  # type: ignore[attr-defined]
    gate, waiting = anyio.Event(), []

    async def hold(connection: Connection) -> None:
        waiting.append(connection)
        await gate.wait()

    log.admitted = hold
    refusals: list[Any] = []
    thread = threading.Thread(target=lambda: refusals.append(refusal(server)))
    thread.start()
    until(server, lambda: waiting)
    drain(server)
    until(server, lambda: server.node.draining)
    server.call(gate.set)
    thread.join(10)
    assert refusals == [503]
    assert server.ended.result(10) is None


def refusal(server: LiveServer) -> int:
    with pytest.raises(InvalidStatus) as caught:
        server.connect("late")
    return caught.value.response.status_code


def test_a_drain_waits_for_handlers_within_its_time(serve: Serve) -> None:
    log = Log()
    server = serve(app=make_app(log))
    ann = server.connect("ann", query="client=ann-phone")
    ann.send("wait", id="w")
    until(server, lambda: log.handled)
    drain(server)
    assert ann.closed()[0] == 1012
    until(server, lambda: not server.node.connections)
    assert not server.ended.done()
    backplane = server.node.backplane
    assert isinstance(backplane, MemoryBackplane)
    replies = backplane.hub.replies
    server.call(log.release.set)
    assert server.ended.result(10) is None
    # Handled to the end, and its reply remembered for the client's second try elsewhere.
    assert [item[1][0] for item in replies._items.values()] == ["done"]


def test_a_drain_ends_in_time_whatever_hangs(shell: Shell, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roomwire.node.drain._FAREWELL", 0.1)
    log = Log()

    async def hang(connection: Connection) -> None:
        await anyio.sleep_forever()

    log.goodbye = hang
    server = serve(shell, app=make_app(log), drain_timeout=0.2, limits=Limits(close_timeout=60))
    # One whose peer never answers the close, one with a handler that never ends.
    sock = server.raw(server.upgrade_request("silent"))
    server.connect("ann").send("wait", id="w")
    until(server, lambda: len([c for c in server.node.connections.values() if c.is_open]) == 2 and log.handled)
    drain(server)
    assert server.ended.result(10) is None
    sock.close()


def test_a_drain_gives_back_slots_and_presence(shell: Shell) -> None:
    hub = MemoryHub()
    with anyio.from_thread.start_blocking_portal(shell.backend, dict(shell.backend_options)) as portal:
        node = make_node(make_app(), shell, backplane=MemoryBackplane(hub=hub), rooms=ROOMS)
        with serving(node, portal) as server:
            for number in range(10):
                server.connect(f"user-{number}")
            drain(server)
            assert server.ended.result(10) is None
    assert not any(hub.slots.values())
    assert not any(hub.presence.values())


def test_a_lifespan_whose_end_hangs_is_cancelled_when_the_time_of_the_drain_is_over(
    shell: Shell, serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("roomwire.node.drain._FAREWELL", 0.1)
    cancelled: list[str] = []

    @asynccontextmanager
    async def hangs(app: App) -> Any:
        async with anyio.create_task_group():  # it may have scopes of its own
            yield
            try:
                await anyio.sleep_forever()
            except anyio.get_cancelled_exc_class():
                cancelled.append("closed all the same")
                raise

    server = serve(shell, app=make_app(lifespan=hangs), drain_timeout=0.2)
    server.connect("ann")
    drain(server)
    assert server.ended.result(10) is None
    assert cancelled == ["closed all the same"]
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert "hangs did not end within 0." in record.getMessage()


def test_the_lifespan_ends_after_the_last_disconnect_hook(shell: Shell, serve: Serve) -> None:
    order: list[str] = []
    log = Log()

    @asynccontextmanager
    async def lifespan(app: App) -> Any:
        order.append("begun")
        yield
        order.append("ended")

    async def goodbye(connection: Connection) -> None:
        await anyio.lowlevel.checkpoint()
        order.append("goodbye")

    log.goodbye = goodbye
    server = serve(shell, app=make_app(log, lifespan=lifespan))
    for _ in range(3):
        server.connect("ann")
    drain(server)
    assert server.ended.result(10) is None
    assert order == ["begun", "goodbye", "goodbye", "goodbye", "ended"]


# --- a cancelled node


def test_serve_that_is_cancelled_leaves_nothing(shell: Shell) -> None:
    log = Log()
    node = make_node(make_app(log), shell, rooms=ROOMS)
    ports: list[int] = []

    async def run(*, task_status: anyio.abc.TaskStatus[anyio.CancelScope]) -> None:
        with anyio.CancelScope() as scope:

            def ready(addresses: Any) -> None:
                ports.append(int(addresses[0].rpartition(":")[2]))
                task_status.started(scope)

            await node.serve(ready=ready)

    with anyio.from_thread.start_blocking_portal(shell.backend, dict(shell.backend_options)) as portal:
        future, scope = portal.start_task(run)
        server = LiveServer(node, ports[0], portal)
        ann = server.connect("ann")
        ann.send("wait", id="w")
        until(server, lambda: log.handled)
        portal.call(scope.cancel)
        future.result(10)
        assert ann.closed()[0] in (1006, 1001, 1012)
        if isinstance(node.runtime, AsyncioRuntime):
            assert not node.runtime._tasks
        server.close_clients()
    assert log.disconnected == ["ann"]
    assert not node.connections


def test_an_adapter_that_cannot_start_is_told_as_it_is(shell: Shell) -> None:
    from roomwire.core.errors import ConfigError

    node = make_node(make_app(), shell, listen={"host": "192.0.2.1"})

    async def run() -> None:
        await node.serve()

    with anyio.from_thread.start_blocking_portal(shell.backend, dict(shell.backend_options)) as portal:
        with pytest.raises(ConfigError, match="cannot listen there"):
            portal.call(run)


def test_a_lifespan_that_fails_is_told_as_it_is(shell: Shell) -> None:
    @asynccontextmanager
    async def lifespan(app: App) -> Any:
        raise RuntimeError("no database")
        yield

    node = make_node(make_app(lifespan=lifespan), shell)
    with anyio.from_thread.start_blocking_portal(shell.backend, dict(shell.backend_options)) as portal:
        with pytest.raises(RuntimeError, match="no database"):
            portal.call(node.serve)


# --- what connections leave behind


def counts() -> Counter[str]:
    gc.collect()
    kinds = (Connection, Carrier, Room, Membership)
    return Counter(kind.__name__ for found in gc.get_objects() for kind in kinds if isinstance(found, kind))


def test_1000_connections_leave_nothing_behind(shell: Shell, serve: Serve) -> None:
    server = serve(shell, limits=UNHURRIED)
    before = counts()
    for turn in range(250):
        links = [server.raw(server.upgrade_request(f"user-{turn}-{number}")) for number in range(4)]
        if turn % 2:
            until(server, lambda: len(server.node.connections) == 4)
        for link in links:
            link.close()
    until(server, lambda: not (server.node.connections or server.node.farewells or server.node.hub.rooms))
    node, transport = server.node, server.node.transport
    until(server, lambda: not transport.carriers)  # type: ignore[attr-defined]
    presence = node.presence
    until(server, lambda: not (presence._looks or presence._entries or presence._ends))
    assert not (node._by_user or node.hub._dirty or node.replies.running or node.states._next)
    assert node.wheel._slots == {} or not any(node.wheel._slots.values())
    if isinstance(node.runtime, AsyncioRuntime):
        tasks = node.runtime._tasks
        until(server, lambda: len(tasks) <= 2)  # upkeep's
    # The task of the last one may have a turn to go.
    until(server, lambda: counts() <= before)
