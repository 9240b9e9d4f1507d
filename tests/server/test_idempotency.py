"""The same id twice takes effect once, whenever, wherever and however often it comes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from roomwire import Connection
from roomwire.backplanes.memory import MemoryBackplane
from roomwire.core.errors import Unavailable
from roomwire.core.limits import Limits
from roomwire.node.replies import LEASE
from roomwire.testing.clock import VirtualClock
from tests.server.chat import Log, make_app
from tests.server.conftest import ROOMS, Serve
from tests.server.live import Client, LiveServer, Shell, live_cluster
from tests.server.watching import until

pytestmark = pytest.mark.wire

HELLO = {"content": "hello"}


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def live(serve: Serve, log: Log) -> LiveServer:
    return serve(app=make_app(log))


def send(client: Client, id_: str, content: str = "hello") -> dict[str, object]:
    reply: dict[str, object] = client.request("message.send", {"content": content}, room="chat:general", id=id_)
    return reply


def test_the_same_id_is_handled_once_and_gets_the_same_ack(server: LiveServer) -> None:
    log = server.node.app.log  # type: ignore[attr-defined]
    ann, bob = server.connect("ann"), server.connect("bob")
    first = send(ann, "m1")
    assert send(ann, "m1") == first
    assert log.handled == [("ann", "hello")]
    assert len([e for e in bob.events_before("whoami") if e["event"] == "message.new"]) == 1


def test_an_error_of_the_application_is_remembered(live: LiveServer) -> None:
    ann = live.connect("ann")
    expected = {"code": "app.too_late", "message": "the game is over", "details": {"since": 3}}
    assert [ann.request("refuse", id="r1")["data"] for _ in range(2)] == [expected, expected]


def test_what_was_invalid_is_remembered(live: LiveServer) -> None:
    ann = live.connect("ann")
    first = ann.request("add", "not numbers", id="a1")
    assert first["data"]["code"] == "invalid"
    assert ann.request("add", "not numbers", id="a1") == first


def test_internal_is_not_remembered(live: LiveServer, log: Log) -> None:
    ann = live.connect("ann")
    assert ann.request("crash", id="c1")["data"]["code"] == "internal"
    # Handled anew: not a conflict, which the fingerprint of a remembered one would give.
    assert ann.request("add", [1, 2], id="c1")["data"] == 3


def test_rate_limited_is_not_remembered(serve: Serve) -> None:
    server = serve(limits=Limits(message_burst=2, messages_per_second=1), clock=VirtualClock())
    ann = server.connect("ann")
    ann.request("whoami")
    ann.request("whoami")
    assert ann.request("add", [1, 2], id="a1")["data"] == {
        "code": "rate_limited",
        "message": "too many messages, slow down",
    }
    server.advance(2)
    assert ann.request("add", [1, 2], id="a1")["data"] == 3


def test_unavailable_is_not_remembered(live: LiveServer, log: Log) -> None:
    ann = live.connect("ann")
    backplane = live.node.backplane
    publish = backplane.publish

    async def fail(*arguments: object, **options: object) -> None:
        raise Unavailable

    backplane.publish = fail  # type: ignore[assignment, method-assign]
    assert send(ann, "m1")["data"] == {"code": "unavailable", "message": "try again later"}
    backplane.publish = publish  # type: ignore[method-assign]
    assert send(ann, "m1")["event"] == "ack"
    assert log.handled == [("ann", "hello")] * 2


@pytest.mark.parametrize(
    ("event", "data", "room"),
    [
        ("message.send", {"content": "other"}, "chat:general"),
        ("everyone", HELLO, "chat:general"),
        ("message.send", HELLO, "chat:two"),
        ("message.send", HELLO, None),
    ],
)
def test_the_same_id_for_another_message_is_a_conflict(
    live: LiveServer, log: Log, event: str, data: object, room: str | None
) -> None:
    ann = live.connect("ann")
    ann.request("room.join", room="chat:two")
    send(ann, "m1")
    fields = {"id": "m1"} | ({} if room is None else {"room": room})
    reply = ann.request(event, data, **fields)
    assert reply["data"] == {"code": "conflict", "message": "this id was used for another message"}
    assert log.handled == [("ann", "hello")]


def test_after_a_reconnect_with_the_same_client_id(live: LiveServer, log: Log) -> None:
    first = send(live.connect("ann", query="client=ann-phone"), "m1")
    assert send(live.connect("ann", query="client=ann-phone"), "m1") == first
    assert log.handled == [("ann", "hello")]


def test_another_client_and_another_user_are_independent(live: LiveServer, log: Log) -> None:
    send(live.connect("ann", query="client=ann-phone"), "m1")
    send(live.connect("ann", query="client=ann-tablet"), "m1")
    send(live.connect("bob", query="client=ann-phone"), "m1")
    assert log.handled == [("ann", "hello"), ("ann", "hello"), ("bob", "hello")]


def test_after_the_window_it_is_handled_again(serve: Serve, log: Log) -> None:
    server = serve(app=make_app(log), clock=VirtualClock())
    ann = server.connect("ann", query="client=ann-phone")
    send(ann, "m1")
    server.advance(299)
    send(server.connect("ann", query="client=ann-phone"), "m1")
    assert len(log.handled) == 1
    server.advance(2)
    send(server.connect("ann", query="client=ann-phone"), "m1")
    assert len(log.handled) == 2


def test_a_copy_that_comes_while_the_first_is_handled_waits_for_its_reply(server: LiveServer) -> None:
    log = server.node.app.log  # type: ignore[attr-defined]
    first = server.connect("ann", query="client=ann-phone")
    first.send("wait", id="w1")
    until(server, lambda: log.handled)
    # The link breaks; the client comes back and sends again what has no reply.
    second = server.connect("ann", query="client=ann-phone")
    second.send("wait", id="w1")
    until(server, lambda: any(first.done for first in server.node.replies.running.values()))
    server.call(log.release.set)
    assert second.receive_until("ack", id="w1")["data"] == "done"
    assert log.handled == [("ann", "wait")]


def test_another_message_with_the_id_of_one_being_handled_is_a_conflict_at_once(live: LiveServer, log: Log) -> None:
    live.connect("ann", query="client=ann-phone").send("wait", id="w1")
    until(live, lambda: log.handled)
    second = live.connect("ann", query="client=ann-phone")
    assert second.request("add", [1, 2], id="w1")["data"]["code"] == "conflict"
    live.call(log.release.set)


def test_a_copy_waits_10_seconds_at_the_most(live: LiveServer, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roomwire.node.replies.WAIT", 0.05)
    live.connect("ann", query="client=ann-phone").send("wait", id="w1")
    until(live, lambda: log.handled)
    second = live.connect("ann", query="client=ann-phone")
    assert second.request("wait", id="w1")["data"] == {
        "code": "unavailable",
        "message": "the first copy of this message is still being handled",
    }
    live.call(log.release.set)


def test_a_message_without_an_id_is_handled_each_time_and_only_its_error_is_told(live: LiveServer, log: Log) -> None:
    ann = live.connect("ann")
    for _ in range(2):
        ann.send("message.send", HELLO, room="chat:general")
    assert not [e for e in ann.events_before("whoami") if e["event"] == "ack"]
    assert len(log.handled) == 2
    ann.send("refuse")
    error = ann.receive_until("error")
    assert "id" not in error
    assert error["data"]["code"] == "app.too_late"


def test_ids_of_the_protocols_own_messages_only_match_replies(live: LiveServer) -> None:
    ann = live.connect("ann")
    assert ann.request("session.rooms", id="x")["event"] == "ack"
    assert ann.request("room.leave", room="chat:general", id="x")["event"] == "ack"
    assert ann.request("session.rooms", id="x")["data"] == {"rooms": {}}


def test_a_reply_that_cannot_be_remembered_is_given_all_the_same(live: LiveServer) -> None:
    ann = live.connect("ann")

    async def fail(*arguments: object) -> None:
        raise Unavailable

    live.node.backplane.remember = fail  # type: ignore[method-assign, assignment]
    assert ann.request("add", [1, 2], id="a1")["data"] == 3


def test_the_lease_of_a_long_handling_is_renewed(serve: Serve, log: Log) -> None:
    server = serve(app=make_app(log), clock=VirtualClock())
    server.connect("ann", query="client=ann-phone").send("wait", id="w1")
    until(server, lambda: log.handled)
    for _ in range(6):
        server.advance(5)
        until(server, lambda: not server.node.upkeep._busy)
    server.connect("ann", query="client=ann-phone").send("wait", id="w1")
    until(server, lambda: any(first.done for first in server.node.replies.running.values()))
    server.call(log.release.set)
    assert log.handled == [("ann", "wait")]


# --- on more nodes


@pytest.fixture
def cluster(log: Log) -> Iterator[list[LiveServer]]:
    with live_cluster([make_app(log), make_app(log)], rooms=ROOMS) as servers:
        yield servers


def test_the_same_id_on_another_node_is_handled_once(cluster: list[LiveServer], log: Log) -> None:
    one, two = cluster
    first = send(one.connect("ann", query="client=ann-phone"), "m1")
    assert send(two.connect("ann", query="client=ann-phone"), "m1") == first
    assert log.handled == [("ann", "hello")]


def test_a_copy_on_another_node_waits_for_the_first(
    cluster: list[LiveServer], log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("roomwire.node.replies._POLL", 0.01)
    one, two = cluster
    one.connect("ann", query="client=ann-phone").send("wait", id="w1")
    until(one, lambda: log.handled)
    second = two.connect("ann", query="client=ann-phone")
    second.send("wait", id="w1")
    until(two, lambda: two.node.workers._working == 1)
    two.call(log.release.set)
    assert second.receive_until("ack", id="w1")["data"] == "done"
    assert log.handled == [("ann", "wait")]


def test_a_handler_that_runs_again_after_its_node_died_publishes_once(cluster: list[LiveServer], log: Log) -> None:
    """The reply and the lease of the first run are lost; what it published is not."""
    one, two = cluster
    bob = two.connect("bob")
    first = send(one.connect("ann", query="client=ann-phone"), "m1")
    backplane = two.node.backplane
    assert isinstance(backplane, MemoryBackplane)
    backplane.hub.replies = type(backplane.hub.replies)()
    assert send(two.connect("ann", query="client=ann-phone"), "m1") == first
    assert log.handled == [("ann", "hello")] * 2
    assert len([e for e in bob.events_before("whoami") if e["event"] == "message.new"]) == 1


class Interrupted(MemoryBackplane):
    """Its leases cannot be renewed for a while, such as while a store restarts."""

    down = False

    async def renew(self, key: str, lease: float) -> None:
        if self.down:
            raise Unavailable
        await super().renew(key, lease)


def test_a_node_handles_a_message_once_although_its_lease_lapsed(shell: Shell, serve: Serve) -> None:
    """A handler runs a second time only if its node died in it; this one lives."""
    log, clock = Log(), VirtualClock()
    backplane = Interrupted(clock=clock)
    server = serve(shell, app=make_app(log), clock=clock, backplane=backplane)
    first = server.connect(query="client=client-of-ann")
    first.send("wait", id="m1")
    first.request("presence.heartbeat")  # which is answered while the handler runs
    backplane.down = True
    server.advance(LEASE + 1)
    backplane.down = False
    second = server.connect(query="client=client-of-ann")
    second.send("wait", id="m1")
    second.request("presence.heartbeat")
    server.call(log.release.set)
    assert second.receive_until("ack", id="m1")["data"] == "done"
    assert log.handled == [("ann", "wait")]


def test_an_id_may_be_used_anew_after_the_window(shell: Shell, serve: Serve) -> None:
    """With a short window, too: what is acknowledged then is stored."""
    clock = VirtualClock()
    server = serve(shell, clock=clock, limits=Limits(idempotency_window=60.0))
    client = server.connect()
    first = client.request("publish", {"data": 1}, room="chat:general", id="m1")
    server.advance(61.0)
    second = client.request("publish", {"data": 2}, room="chat:general", id="m1")
    assert (first["event"], second["event"]) == ("ack", "ack")
    assert second["data"] != first["data"]


def test_an_id_whose_failure_is_not_remembered_does_not_swallow_another_message(shell: Shell, serve: Serve) -> None:
    """After ``internal`` the id is free; a message with other data is another message."""
    app = make_app()

    @app.on("publish.and.fail")
    async def fail(connection: Connection, data: Any) -> str | None:
        publication = await app.publish("chat:general", "told", data)
        if data == "first":
            raise RuntimeError("after the publish")
        return publication.id

    server = serve(shell, app=app)
    client = server.connect()
    assert client.request("publish.and.fail", "first", id="m1")["data"]["code"] == "internal"
    reply = client.request("publish.and.fail", "second", id="m1")
    if reply["event"] == "ack":
        heard = server.connect("bob", query=f"last_event_id=chat%253Ageneral%40{reply['data'].partition(':')[0]}:0")
        told = [m["data"] for m in heard.events_before("session.rooms") if m["event"] == "told"]
        assert told == ["first", "second"]
    else:
        assert reply["data"]["code"] == "conflict"


def test_what_is_remembered_of_one_user_has_a_bound(shell: Shell, serve: Serve) -> None:
    """Whatever the handler returns; the bound fills up again over the window."""
    app = make_app()

    @app.on("large")
    async def large(size: int) -> str:
        return "x" * size

    clock = VirtualClock()
    server = serve(shell, app=app, clock=clock, limits=Limits(reply_bytes=10_000, idempotency_window=100.0))
    client, other = server.connect(), server.connect("bob")
    first = client.request("large", 6000, id="m1")
    assert first["event"] == client.request("large", 6000, id="m2")["event"] == "ack"
    assert client.request("large", 6000, id="m3")["data"]["code"] == "rate_limited"
    assert client.request("large", 6000, id="m1") == first, "what is remembered is still told"
    assert other.request("large", 6000, id="m1")["event"] == "ack"
    server.advance(50.0)
    assert client.request("large", 6000, id="m3")["event"] == "ack"
