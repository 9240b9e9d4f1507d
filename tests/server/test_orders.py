"""Orders of the application about a user, while a connection of the user's is being decided or joins."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import anyio
import pytest

from roomwire import Connection
from roomwire.backplanes.contract import Claim, Holder
from roomwire.backplanes.memory import MemoryBackplane
from roomwire.core.positions import Position
from tests.server.chat import Log, make_app
from tests.server.conftest import ROOMS, Serve
from tests.server.live import TIMEOUT, Client, LiveServer, Shell, live_cluster
from tests.server.watching import until

pytestmark = pytest.mark.wire

FORBIDDEN = {"recovered": False, "reason": "forbidden"}


class Gate:
    """Where something on the loop waits until the test lets it go on."""

    def __init__(self) -> None:
        self.reached = anyio.Event()
        self.open = anyio.Event()

    async def wait(self, *_: object) -> None:
        self.reached.set()
        await self.open.wait()


def connecting(server: LiveServer, user: str, **options: Any) -> Future[Client]:
    """A client that connects in a thread of its own."""
    pool = ThreadPoolExecutor(1)
    future = pool.submit(server.connect, user, **options)
    pool.shutdown(wait=False)
    return future


def rooms_of(client: Client) -> set[str]:
    return set(client.request("session.rooms")["data"]["rooms"])


def leaves_nothing(server: LiveServer, user: str) -> None:
    server.call(server.node.farewells.finished)
    until(server, lambda: not server.node.connections)
    assert server.node.connections_of(user) == []
    backplane = server.node.backplane
    assert isinstance(backplane, MemoryBackplane)
    assert backplane.hub.slots.get(user, {}) == {}


# --- while the connect hook runs


def test_a_user_who_is_disconnected_while_the_connect_hook_runs_does_not_come_in(shell: Shell, serve: Serve) -> None:
    """The hook may have read "not banned" before the ban; nothing else would ever close the connection."""
    log, gate = Log(), Gate()
    log.admitted = gate.wait
    app = make_app(log)
    server = serve(shell, app=app)
    future = connecting(server, "ann", welcome=False)
    server.call(gate.reached.wait)
    server.act(app.disconnect, "ann", code=4502, reason="banned")
    server.call(gate.open.set)
    assert future.result(TIMEOUT).closed() == (4502, "banned")
    leaves_nothing(server, "ann")


def test_a_connection_that_its_connect_hook_closes_leaves_nothing_behind(shell: Shell, serve: Serve) -> None:
    log = Log()

    async def close(connection: Connection) -> None:
        await connection.close(4601, "not you")

    log.admitted = close
    server = serve(shell, app=make_app(log))
    client = server.connect("ann", welcome=False)
    assert client.closed() == (4601, "not you")
    leaves_nothing(server, "ann")


def test_a_connection_that_the_hook_refuses_is_expected_no_more_and_releases_nothing(serve: Serve) -> None:
    """Nothing was claimed: a flood of refused requests must not become one of releases at the store."""
    server = serve()
    backplane = server.node.backplane
    released: list[str] = []

    async def release(user: str, holder: Holder) -> None:
        released.append(user)

    backplane.release = release  # type: ignore[method-assign]
    with pytest.raises(Exception, match="403"):
        server.connect("banned")
    leaves_nothing(server, "banned")
    assert released == []


def test_what_the_connect_hook_orders_spares_the_connection_that_it_decides(shell: Shell, serve: Serve) -> None:
    """ "Be here alone" is meant for the others."""
    log = Log()
    app = make_app(log)

    async def alone(connection: Connection) -> None:
        await app.disconnect(connection.user, code=4600)
        await app.remove(connection.user, "chat:general")

    log.admitted = alone
    server = serve(shell, app=app)
    first = server.connect("ann")
    second = server.connect("ann")
    assert first.closed()[0] == 4600
    assert rooms_of(second) == {"chat:general"}
    server.act(app.disconnect, "ann", code=4601)
    assert second.closed()[0] == 4601


def test_what_the_connect_hook_started_does_not_spare_its_connection_for_ever(shell: Shell, serve: Serve) -> None:
    log, gate = Log(), Gate()
    app = make_app(log)
    server = serve(shell, app=app)

    async def begin_to_watch(connection: Connection) -> None:
        async def watch() -> None:
            await gate.wait()
            await app.disconnect(connection.user, code=4502)

        server.node.spawn(watch)  # it has the hook's context, as any task has that a hook starts

    log.admitted = begin_to_watch
    client = server.connect("ann")
    server.call(gate.open.set)
    assert client.closed()[0] == 4502


def test_the_hook_of_one_node_does_not_spare_connections_on_another(shell: Shell) -> None:
    log = Log()
    apps = [make_app(), make_app(log)]

    async def alone(connection: Connection) -> None:
        await apps[1].disconnect(connection.user, code=4600)

    log.admitted = alone
    with live_cluster(apps, shell, rooms=ROOMS) as (one, two):
        old, new = one.connect("ann"), two.connect("ann")
        assert old.closed()[0] == 4600
        assert rooms_of(new) == {"chat:general"}


def test_a_user_who_is_added_and_removed_while_the_hook_runs_is_not_in_the_room(shell: Shell, serve: Serve) -> None:
    log, gate = Log(), Gate()
    log.admitted = gate.wait
    app = make_app(log)
    server = serve(shell, app=app)
    future = connecting(server, "ann")
    server.call(gate.reached.wait)
    for order in (app.add, app.remove, app.add):
        server.act(order, "ann", "chat:two")
    for order in (app.add, app.remove):
        server.act(order, "ann", "chat:three")
    server.call(gate.open.set)
    client = future.result(TIMEOUT)
    assert client.receive_until("room.joined")["room"] == "chat:two"
    assert rooms_of(client) == {"chat:general", "chat:two"}


# --- while a slot is claimed


class SlowClaims(MemoryBackplane):
    """It answers a claim after a while, as any store does that is reached over a network."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = Gate()

    async def claim(self, user: str, holder: Holder, limit: int, *, evict: bool) -> Claim:
        await self.gate.wait()
        return await super().claim(user, holder, limit, evict=evict)


def test_a_connection_that_is_closed_while_it_claims_its_slot_gives_it_back(shell: Shell, serve: Serve) -> None:
    backplane, app = SlowClaims(), make_app()
    server = serve(shell, app=app, backplane=backplane)
    future = connecting(server, "ann", welcome=False)
    server.call(backplane.gate.reached.wait)
    server.act(app.disconnect, "ann")
    server.call(backplane.gate.open.set)
    assert future.result(TIMEOUT).closed()[0] == 4503
    leaves_nothing(server, "ann")


# --- while a join is decided


def test_a_user_who_is_removed_while_the_connect_hook_runs_is_not_in_the_room(shell: Shell, serve: Serve) -> None:
    """The hook may have read the membership before it was taken away."""
    log, gate = Log(), Gate()
    log.admitted = gate.wait
    app = make_app(log)
    server = serve(shell, app=app)
    future = connecting(server, "ann")
    server.call(gate.reached.wait)
    server.act(app.remove, "ann", "chat:general", "banned")
    server.call(gate.open.set)
    client = future.result(TIMEOUT)
    assert client.welcome["rooms"] == {"chat:general": FORBIDDEN}
    assert rooms_of(client) == set()
    assert "chat:general" not in server.node.hub.rooms


@pytest.mark.parametrize("way", ["join", "cursor", "resume"])
def test_a_user_who_is_removed_while_a_policy_is_asked_is_not_in_the_room(shell: Shell, serve: Serve, way: str) -> None:
    log, gate = Log(), Gate()
    log.joining = gate.wait
    app = make_app(log)
    server = serve(shell, app=app)
    if way == "cursor":
        future = connecting(server, "nobody", query="last_event_id=chat:two@a:1")
    else:
        client = server.connect("nobody")
        data = {"rooms": {"chat:two": "a:1"}} if way == "resume" else None
        room = {"room": "chat:two"} if way == "join" else {}
        client.send(f"{'session' if way == 'resume' else 'room'}.{way}", data, id="asked", **room)
    server.call(gate.reached.wait)
    server.act(app.remove, "nobody", "chat:two", "banned")
    server.call(gate.open.set)
    if way == "cursor":
        client = future.result(TIMEOUT)
        assert client.welcome["rooms"] == {"chat:two": FORBIDDEN}
    elif way == "resume":
        assert client.receive_until("ack", id="asked")["data"]["rooms"] == {"chat:two": FORBIDDEN}
    else:
        told = client.receive_until("error", id="asked")["data"]
        assert told == {"code": "forbidden", "message": "taken out of this room"}
    assert rooms_of(client) == set()


class SlowSubscribes(MemoryBackplane):
    """It answers a subscribe to ``chat:two`` after a while."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = Gate()

    async def subscribe(self, room: str) -> Position:
        if room == "chat:two":
            await self.gate.wait()
        return await super().subscribe(room)


@pytest.mark.parametrize("way", ["room.join", "enter"])
def test_a_user_who_is_removed_while_the_room_is_subscribed_is_not_in_it(shell: Shell, serve: Serve, way: str) -> None:
    backplane, app = SlowSubscribes(), make_app()
    server = serve(shell, app=app, backplane=backplane)
    client = server.connect("ann")
    if way == "enter":
        client.send("enter", "chat:two", id="asked")
    else:
        client.send("room.join", room="chat:two", id="asked")
    server.call(backplane.gate.reached.wait)
    server.act(app.remove, "ann", "chat:two")
    server.call(backplane.gate.open.set)
    assert rooms_of(client) == {"chat:general"}
    until(server, lambda: "chat:two" not in server.node.hub.rooms)


def test_a_policy_that_is_asked_after_the_order_decides(shell: Shell, serve: Serve) -> None:
    """Who was taken out, and asks again, is judged by the policy and by nothing else."""
    log, gate = Log(), Gate()

    async def wait_in_the_first(connection: Connection, channel: str) -> None:
        if channel == "one":
            await gate.wait()

    log.joining = wait_in_the_first
    app = make_app(log)
    server = serve(shell, app=app)
    future = connecting(server, "nobody", query="last_event_id=chat:one@a:1,chat:two@a:1")
    server.call(gate.reached.wait)
    server.act(app.remove, "nobody", "chat:two")
    server.call(gate.open.set)
    assert rooms_of(future.result(TIMEOUT)) == {"chat:one", "chat:two"}


def test_what_a_policy_orders_about_its_room_spares_the_connection_that_asks(shell: Shell, serve: Serve) -> None:
    """A room that a user is in with one connection at a time: the newest."""
    log = Log()
    app = make_app(log)

    async def alone(connection: Connection, channel: str) -> None:
        await app.remove(connection.user, f"chat:{channel}", "you are elsewhere")
        await app.remove(connection.user, "chat:general")

    log.joining = alone
    server = serve(shell, app=app)
    first, second = server.connect("ann"), server.connect("ann")
    first.request("room.join", room="chat:two")
    assert rooms_of(first) == {"chat:two"}  # another room than the one that is asked for is left by all
    second.request("room.join", room="chat:two")
    assert first.receive_until("room.removed", room="chat:two")["data"] == {"reason": "you are elsewhere"}
    assert rooms_of(second) == {"chat:two"}
    assert rooms_of(first) == set()


def test_a_policy_may_disconnect_the_user_and_with_it_the_connection_that_asks(shell: Shell, serve: Serve) -> None:
    """It decides about a room, and about nothing else."""
    log = Log()
    app = make_app(log)

    async def ban(connection: Connection, channel: str) -> None:
        await app.disconnect(connection.user, code=4502)

    log.joining = ban
    client = serve(shell, app=app).connect("ann")
    client.send("room.join", room="chat:two", id="asked")
    assert client.closed()[0] == 4502


# --- one after the other


def test_a_user_who_is_added_and_then_removed_is_not_in_the_room(shell: Shell, serve: Serve) -> None:
    app = make_app()
    server = serve(shell, app=app)
    client = server.connect("nobody")

    async def change_of_mind(*rooms: str) -> None:
        for room in rooms:
            await app.add("nobody", room)
            await app.remove("nobody", room)
        await app.add("nobody", "chat:last")

    server.act(change_of_mind, "chat:one", "chat:two")
    assert client.receive_until("room.joined")["room"] == "chat:last"
    assert rooms_of(client) == {"chat:last"}
    until(server, lambda: set(server.node.hub.rooms) == {"chat:last"})


def test_a_user_who_is_added_removed_and_added_is_in_the_room(shell: Shell, serve: Serve) -> None:
    app = make_app()
    server = serve(shell, app=app)
    client = server.connect("nobody")

    async def change_of_mind() -> None:
        for order in (app.add, app.remove, app.add):
            await order("nobody", "chat:two")

    server.act(change_of_mind)
    assert client.receive_until("room.joined")["room"] == "chat:two"
    assert rooms_of(client) == {"chat:two"}


class Faulty(MemoryBackplane):
    """It has a fault."""

    async def subscribe(self, room: str) -> Position:
        if room == "chat:broken":
            raise RuntimeError("a fault of the backplane")
        return await super().subscribe(room)


def test_a_fault_in_an_order_ends_its_connection_and_not_the_node(shell: Shell, serve: Serve) -> None:
    app = make_app()
    server = serve(shell, app=app, backplane=Faulty())
    ann, bob = server.connect("ann"), server.connect("bob")
    server.act(app.add, "ann", "chat:broken")
    assert ann.closed()[0] == 1011
    assert rooms_of(bob) == {"chat:general"}
