"""A store whose answers are lost: a message is still handled once, and nobody waits for a lease of nobody."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from roomwire.backplanes.contract import Reservation
from roomwire.backplanes.memory import MemoryBackplane, MemoryHub
from roomwire.core.errors import Unavailable
from roomwire.node.replies import _Running
from roomwire.testing.clock import VirtualClock
from tests.server.chat import Log, make_app
from tests.server.conftest import Serve
from tests.server.live import Client, LiveServer


class Failing(MemoryBackplane):
    """A store that does what it is asked and loses its answer, or does not do it."""

    def __init__(self, hub: MemoryHub | None = None) -> None:
        super().__init__(hub=hub)
        self.loses_answer_of_reserve = False
        self.refuses_to_remember = False

    async def reserve(self, key: str, fingerprint: str, lease: float) -> Reservation:
        reservation = await super().reserve(key, fingerprint, lease)
        if self.loses_answer_of_reserve:
            raise Unavailable("the link broke", stored=None)
        return reservation

    async def remember(self, key: str, fingerprint: str, value: bytes, ttl: float) -> None:
        if self.refuses_to_remember:
            raise Unavailable("the link broke", stored=False)
        await super().remember(key, fingerprint, value, ttl)


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def backplane() -> Failing:
    return Failing()


@pytest.fixture
def server(serve: Serve, log: Log, backplane: Failing) -> LiveServer:
    return serve(app=make_app(log), backplane=backplane, clock=VirtualClock())  # it renews nothing by itself


def say(client: Client, content: str = "hello") -> dict[str, Any]:
    return client.request("message.send", {"content": content}, room="chat:general", id="m1")


def test_a_reservation_whose_answer_was_lost_is_its_nodes_own(server: LiveServer, log: Log, backplane: Failing) -> None:
    ann = server.connect("ann")
    backplane.loses_answer_of_reserve = True
    assert [say(ann)["data"]["code"] for _ in range(2)] == ["unavailable"] * 2
    backplane.loses_answer_of_reserve = False
    assert say(ann)["event"] == "ack"  # at once, and not when the lease has passed
    assert say(ann)["event"] == "ack"
    assert log.handled == [("ann", "hello")]


def test_another_message_under_its_id_is_a_conflict(server: LiveServer, log: Log, backplane: Failing) -> None:
    ann = server.connect("ann")
    say(ann)
    assert say(ann, "other")["data"]["code"] == "conflict"
    assert log.handled == [("ann", "hello")]


def test_a_reply_that_the_store_did_not_take_is_given_by_its_node_and_stored_later(
    server: LiveServer, log: Log, backplane: Failing
) -> None:
    ann = server.connect("ann")
    backplane.refuses_to_remember = True
    first = say(ann)
    assert say(ann) == first
    assert say(ann, "other")["data"]["code"] == "conflict"
    assert len(log.handled) == 1
    backplane.refuses_to_remember = False
    server.act(server.node.replies.renew)
    kept = [reply for reply in backplane.hub.replies._items.values() if reply[1][0] == "done"]
    assert len(kept) == 1
    assert say(ann) == first
    assert len(log.handled) == 1


def test_what_is_kept_for_a_store_that_is_away_has_a_bound(
    server: LiveServer, backplane: Failing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("roomwire.node.replies._UNSAVED", 3)
    ann = server.connect("ann")
    backplane.refuses_to_remember = True
    for number in range(5):
        ann.request("whoami", id=f"w{number}")
    assert len(server.node.replies._unsaved) == 3


def test_leases_of_messages_are_renewed_many_at_a_time(server: LiveServer, backplane: Failing) -> None:
    """And one that cannot be renewed now does not keep the others from it."""
    replies, met, renewed = server.node.replies, anyio.Event(), []

    async def renew(key: str, lease: float) -> None:
        renewed.append(key)
        if len(renewed) == 8:
            met.set()
        with anyio.fail_after(5):
            await met.wait()
        if key == "k0":
            raise Unavailable("the link broke", stored=None)

    backplane.renew = renew  # type: ignore[method-assign]
    for number in range(8):
        running = replies.running[f"k{number}"] = _Running("")
        running.reserved = True
    with pytest.raises(Unavailable):
        server.act(replies.renew)
    assert sorted(renewed) == sorted(replies.running)
    replies.running.clear()
