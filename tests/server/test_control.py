"""Slots, take-overs, and what the application does to its users wherever they are."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import anyio
import pytest
from websockets.datastructures import Headers
from websockets.exceptions import InvalidStatus

from roomwire.backplanes.memory import MemoryBackplane
from roomwire.core.errors import LocalError, Unavailable
from roomwire.core.limits import Limits
from roomwire.testing.clock import VirtualClock
from tests.server.chat import Log, make_app
from tests.server.conftest import ROOMS, Serve
from tests.server.live import LiveServer, live_cluster
from tests.server.watching import until

pytestmark = pytest.mark.wire


def refusal(server: LiveServer, user: str = "ann", query: str = "") -> tuple[int, Headers]:
    """The status and headers of a refusal."""
    with pytest.raises(InvalidStatus) as caught:
        server.connect(user, query=query)
    return caught.value.response.status_code, caught.value.response.headers


# --- slots


def test_the_sixth_connection_of_a_user_is_refused(server: LiveServer) -> None:
    for _ in range(5):
        server.connect("ann")
    status, headers = refusal(server)
    assert status == 429
    assert int(headers["Retry-After"]) > 0
    server.connect("bob")
    assert len(server.node.connections) == 6


def test_a_slot_is_free_when_the_close_begins(serve: Serve) -> None:
    """Also before the peer has answered it, which this one never does."""
    server = serve(limits=Limits(connections_per_user=1))
    sock = server.raw(server.upgrade_request("ann"))
    until(server, lambda: any(c.is_open for c in server.node.connections.values()))
    server.act(server.node.app.disconnect, "ann", code=4100)
    until(server, lambda: not server.node.farewells)
    server.connect("ann")
    assert len(server.node.connections) == 2
    sock.close()


def test_a_slot_is_taken_over_by_the_same_client(server: LiveServer) -> None:
    clients = [server.connect("ann", query=f"client=client-{number}") for number in range(5)]
    server.connect("ann", query="client=client-3")
    assert clients[3].receive_until("session.closing")["data"]["reconnect"] is False
    assert clients[3].closed() == (4501, "replaced by another connection")
    assert refusal(server, query="client=client-9")[0] == 429


def test_evict_closes_the_oldest(server: LiveServer, serve: Serve, shell: Any) -> None:
    evicting = serve(shell, limits=Limits(on_connection_limit="evict", connections_per_user=2))
    first, second = evicting.connect("ann"), evicting.connect("ann")
    third = evicting.connect("ann")
    assert first.closed() == (4501, "replaced by another connection")
    assert second.request("whoami")["event"] == third.request("whoami")["event"] == "ack"


def test_a_late_release_by_the_old_connection_does_nothing(serve: Serve) -> None:
    server = serve(limits=Limits(connections_per_user=1))
    for _ in range(10):
        server.connect("ann", query="client=ann-phone")
    until(server, lambda: not server.node.farewells)
    assert refusal(server, query="client=ann-tablet")[0] == 429


def test_a_refused_handshake_gives_its_slot_back(serve: Serve) -> None:
    log = Log()
    log.auto["ann"] = ["chat:one"]
    server = serve(app=make_app(log), limits=Limits(connections_per_user=1, max_connections=1))
    bob = server.connect("bob")
    assert refusal(server)[0] == 503
    until(server, lambda: not server.node.farewells)
    bob.close()
    until(server, lambda: not server.node.connections)
    server.connect("ann")


def test_a_slot_is_given_back_when_the_rooms_cannot_be_had(serve: Serve) -> None:
    server = serve(limits=Limits(connections_per_user=1))
    backplane = server.node.backplane
    subscribe = backplane.subscribe

    async def fail(room: str) -> Any:
        raise Unavailable

    backplane.subscribe = fail  # type: ignore[method-assign]
    assert refusal(server)[0] == 503
    backplane.subscribe = subscribe  # type: ignore[method-assign]
    until(server, lambda: not server.node.farewells)
    assert server.connect("ann").welcome["rooms"]["chat:general"]["recovered"] is None


def test_two_connects_of_one_client_at_once_leave_one_connection(serve: Serve) -> None:
    """The first one is still being admitted when the second one takes its slot."""
    log = Log()
    gate, waiting = anyio.Event(), []
    server = serve(app=make_app(log))

    async def join(connection: Any, channel: str) -> None:
        waiting.append(connection.id)
        if len(waiting) == 1:
            await gate.wait()

    log.joining = join
    position = server.connect("eve").welcome["rooms"]["chat:general"]["position"]
    query = f"client=ann-phone&last_event_id=chat:two@{position}"
    slow: list[Any] = []
    thread = threading.Thread(
        target=lambda: slow.append(server.connect("ann", query=query, welcome=False)), daemon=True
    )
    thread.start()
    until(server, lambda: waiting)
    quick = server.connect("ann", query="client=ann-phone")
    server.call(gate.set)
    thread.join(10)
    assert slow[0].closed()[0] == 4501
    assert quick.request("whoami")["event"] == "ack"
    until(server, lambda: len(server.node.connections) == 2)


def test_a_slot_that_lapsed_and_was_taken_closes_the_newest(serve: Serve) -> None:
    server = serve(clock=VirtualClock(), limits=Limits(connections_per_user=1))
    ann = server.connect("ann", query="client=ann-phone")
    backplane = server.node.backplane
    assert isinstance(backplane, MemoryBackplane)
    backplane.hub.slots.clear()
    server.connect("ann", query="client=ann-tablet")
    server.advance(20.5)
    assert ann.closed()[0] == 4004


# --- what the application does


def test_disconnect_closes_all_connections_of_a_user(server: LiveServer) -> None:
    mine, others = [server.connect("ann") for _ in range(3)], server.connect("bob")
    server.act(server.node.app.disconnect, "ann", code=4502, reason="revoked")
    for client in mine:
        assert client.receive_until("session.closing")["data"]["reconnect"] is False
        assert client.closed() == (4502, "revoked")
    assert others.request("whoami")["event"] == "ack"


def test_disconnect_has_a_code_of_its_own(serve: Serve) -> None:
    server = serve()
    ann = server.connect("ann")
    server.act(server.node.app.disconnect, "ann")
    assert ann.closed()[0] == 4503
    with pytest.raises(LocalError, match="1006 cannot be sent"):
        server.act(server.node.app.disconnect, "ann", code=1006)


def test_add_and_remove_a_user(server: LiveServer) -> None:
    clients = [server.connect("ann") for _ in range(2)]
    server.act(server.node.app.add, "ann", "chat:secret")
    assert {client.receive_until("room.joined")["room"] for client in clients} == {"chat:secret"}
    ids = server.publish(1, "chat:secret")
    assert [client.receive_until("told")["id"] for client in clients] == ids * 2
    server.act(server.node.app.remove, "ann", "chat:secret", "over")
    assert {client.receive_until("room.removed")["data"]["reason"] for client in clients} == {"over"}
    server.publish(1, "chat:secret")
    assert not [e for e in clients[0].events_before("whoami") if e["event"] == "told"]


def test_add_twice_is_told_once(serve: Serve) -> None:
    server = serve()
    ann = server.connect("ann")
    for _ in range(2):
        server.act(server.node.app.add, "ann", "chat:two")
    (connection,) = server.node.connections_of("ann")
    until(server, lambda: not connection._ways)  # into the room
    assert [e["event"] for e in ann.events_before("whoami")].count("room.joined") == 1


def test_a_user_that_is_added_while_its_handshake_is_decided_is_in(serve: Serve) -> None:
    log = Log()
    gate, waiting = anyio.Event(), []
    server = serve(app=make_app(log))

    async def join(connection: Any, channel: str) -> None:
        waiting.append(channel)
        await gate.wait()

    log.joining = join
    clients: list[Any] = []
    thread = threading.Thread(
        target=lambda: clients.append(server.connect("ann", query="last_event_id=chat:two@a:1")), daemon=True
    )
    thread.start()
    until(server, lambda: waiting)
    server.act(server.node.app.add, "ann", "chat:late")
    server.act(server.node.app.remove, "ann", "chat:general", "over")
    server.call(gate.set)
    thread.join(10)
    assert clients[0].receive_until("room.joined")["room"] == "chat:late"
    assert clients[0].welcome["rooms"]["chat:general"] == {"recovered": False, "reason": "forbidden"}


def test_a_user_that_is_disconnected_while_its_handshake_is_decided_is_closed(serve: Serve) -> None:
    log = Log()
    gate, waiting = anyio.Event(), []
    server = serve(app=make_app(log))

    async def join(connection: Any, channel: str) -> None:
        waiting.append(channel)
        await gate.wait()

    log.joining = join
    clients: list[Any] = []
    thread = threading.Thread(
        target=lambda: clients.append(server.connect("ann", query="last_event_id=chat:two@a:1", welcome=False)),
        daemon=True,
    )
    thread.start()
    until(server, lambda: waiting)
    server.act(server.node.app.disconnect, "ann", code=4502, reason="revoked")
    server.call(gate.set)
    thread.join(10)
    assert clients[0].closed() == (4502, "revoked")


def test_names_of_rooms_are_checked_where_the_application_gives_them(serve: Serve) -> None:
    server = serve()
    for function in (server.node.app.add, server.node.app.remove):
        with pytest.raises(LocalError, match="is no room name"):
            server.act(function, "ann", "\r\nPUB")
    with pytest.raises(LocalError, match="is no room name"):
        server.act(server.node.app.publish, "x" * 129, "told")
    with pytest.raises(LocalError, match="belongs to the protocol"):
        server.act(server.node.app.publish, "chat:general", "room.state")
    with pytest.raises(LocalError, match="is no client's id"):
        server.act(server.node.app.publish, "chat:general", "told", exclude="x" * 65)


def test_members_and_rooms_of(serve: Serve) -> None:
    server = serve()
    ann = server.connect("ann")
    ann.request("room.join", room="chat:two")
    server.connect("bob")
    until(server, lambda: not (server.node.presence._looks or server.node.presence._entries))
    found = server.act(server.node.app.members, "chat:general")
    assert [(member.user, member.info) for member in found] == [
        ("ann", b'{"name":"Ann"}'),
        ("bob", b'{"name":"Bob"}'),
    ]
    assert sorted(server.act(server.node.app.rooms_of, "ann")) == ["chat:general", "chat:two"]


def test_on_disconnect_is_called_whoever_ended_it(server: LiveServer) -> None:
    log = server.node.app.log  # type: ignore[attr-defined]
    server.connect("by-itself").close()
    server.connect("broken").connection.socket.close()
    server.connect("closed")
    server.act(server.node.app.disconnect, "closed")
    server.close_clients()
    until(server, lambda: len(log.disconnected) == 3)
    assert sorted(log.disconnected) == ["broken", "by-itself", "closed"]


def test_a_disconnect_hook_that_raises_is_logged(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    log = Log()

    async def fail(connection: Any) -> None:
        raise RuntimeError("the database is gone")

    log.goodbye = fail
    server = serve(app=make_app(log))
    server.connect("ann").close()
    until(server, lambda: not (server.node.connections or server.node.farewells))
    assert "the database is gone" in caplog.text
    assert server.connect("bob").request("whoami")["event"] == "ack"


# --- on two nodes


@pytest.fixture
def cluster() -> Iterator[list[LiveServer]]:
    with live_cluster([make_app(), make_app()], rooms=ROOMS, limits=Limits(connections_per_user=3)) as servers:
        yield servers


def test_an_event_reaches_the_members_on_all_nodes(cluster: list[LiveServer]) -> None:
    one, two = cluster
    ann, bob = one.connect("ann"), two.connect("bob")
    sent = ann.request("message.send", {"content": "hi"}, room="chat:general")["data"]["id"]
    assert bob.receive_until("message.new")["id"] == sent
    ids = two.publish(2)
    assert [client.receive_until("told")["id"] for client in (ann, bob)] == [ids[0]] * 2


def test_slots_are_counted_over_all_nodes(cluster: list[LiveServer]) -> None:
    one, two = cluster
    one.connect("ann")
    two.connect("ann")
    one.connect("ann")
    assert refusal(two)[0] == 429
    assert refusal(one)[0] == 429


def test_a_client_that_comes_to_another_node_closes_its_old_connection(cluster: list[LiveServer]) -> None:
    one, two = cluster
    old = one.connect("ann", query="client=ann-phone")
    two.connect("ann", query="client=ann-phone")
    assert old.closed() == (4501, "replaced by another connection")


@pytest.mark.parametrize(("policy", "code"), [("refuse", 4004), ("evict", 4501)])
def test_a_slot_that_went_to_another_client_says_so(policy: Any, code: int) -> None:
    """The message to the evicted one may be lost; with a passing code it would come back and evict another."""
    limits = Limits(connections_per_user=1, on_connection_limit=policy)
    with live_cluster([make_app(), make_app()], rooms=ROOMS, limits=limits) as (one, two):
        old = one.connect("ann", query="client=ann-phone")
        one.node.control.told = lambda body: None  # type: ignore[method-assign]  # a lost control message
        backplane = one.node.backplane
        assert isinstance(backplane, MemoryBackplane)
        if policy == "refuse":
            backplane.hub.slots.clear()  # it lapsed
        new = two.connect("ann", query="client=ann-tablet")
        one.call(one.node.upkeep._refresh)
        assert old.closed()[0] == code
        assert new.request("whoami")["event"] == "ack"


def test_who_lost_its_slot_to_its_own_client_is_replaced_and_not_rate_limited(cluster: list[LiveServer]) -> None:
    """With a passing code it would come back, and throw out the connection that took its place (section 1.5)."""
    one, two = cluster
    old = one.connect("ann", query="client=ann-phone")
    one.node.control.told = lambda body: None  # type: ignore[method-assign]  # a lost control message
    new = two.connect("ann", query="client=ann-phone")
    one.call(one.node.upkeep._refresh)
    assert old.closed() == (4501, "replaced by another connection")
    assert new.request("whoami")["event"] == "ack"


def test_control_messages_reach_all_nodes(cluster: list[LiveServer]) -> None:
    one, two = cluster
    here, there = one.connect("ann"), two.connect("ann")
    one.act(one.node.app.add, "ann", "chat:two")
    assert {client.receive_until("room.joined")["room"] for client in (here, there)} == {"chat:two"}
    two.act(two.node.app.remove, "ann", "chat:two", "over")
    assert {client.receive_until("room.removed")["room"] for client in (here, there)} == {"chat:two"}
    one.act(one.node.app.disconnect, "ann", code=4600, reason="bye")
    assert [client.closed() for client in (here, there)] == [(4600, "bye")] * 2


def test_a_limit_holds_against_connects_that_race_on_two_nodes(cluster: list[LiveServer]) -> None:
    outcomes: list[int] = []

    def connect(server: LiveServer) -> None:
        try:
            server.connect("ann")
        except InvalidStatus as error:
            outcomes.append(error.response.status_code)
        else:
            outcomes.append(101)

    threads = [threading.Thread(target=connect, args=(cluster[number % 2],)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert (outcomes.count(101), outcomes.count(429)) == (3, 17)
