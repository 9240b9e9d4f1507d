"""Two nodes on one Redis: events, presence, slots and orders across them, and an outage that clients outlive."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import count
from typing import Any

import anyio.from_thread
import pytest

from roomwire import App, Connection
from roomwire.backplanes.redis import RedisBackplane, RedisOptions
from roomwire.core.limits import Limits
from roomwire.core.policy import RoomPolicy
from roomwire.core.request import RequestHead
from tests.backplanes.redis_support import QUICK
from tests.server.live import Client, LiveServer, make_node, serving
from tests.servers import RedisServer

_prefixes = count()
ROOM = "chat:general"
LIMIT = 5


def make_app() -> App:
    app = App()

    @app.room("chat:*")
    async def everybody(connection: Connection) -> bool:
        return True

    @app.on("chat.say")
    async def say(connection: Connection, text: str) -> None:
        await app.publish(ROOM, "said", text)

    return app


class Watched(RedisBackplane):
    """Counts its refreshes."""

    refreshes = 0

    async def refresh(self, *arguments: Any, **options: Any) -> Any:
        lost = await super().refresh(*arguments, **options)
        self.refreshes += 1
        return lost


@pytest.fixture
def nodes(redis_server: RedisServer) -> Iterator[list[LiveServer]]:
    options = RedisOptions.model_validate({"url": redis_server.url, "key_prefix": f"nodes-{next(_prefixes)}:", **QUICK})
    rooms = {"chat:*": RoomPolicy(presence=True, leave_grace=0.0)}
    limits = Limits(connections_per_user=LIMIT)
    with ExitStack() as stack:
        portal = stack.enter_context(anyio.from_thread.start_blocking_portal("asyncio"))
        servers = []
        for name in ("a", "b"):
            node = make_node(make_app(), backplane=Watched(options), name=name, rooms=rooms, limits=limits)
            servers.append(stack.enter_context(serving(node, portal)))
        yield servers


def joined(server: LiveServer, user: str) -> Client:
    """A client in the room that was told who else is."""
    client = server.connect(user)
    assert client.request("room.join", room=ROOM)["event"] == "ack"
    client.receive_until("presence.state")
    return client


def received_until(client: Client, text: str) -> list[dict[str, Any]]:
    """All that comes up to somebody saying `text`."""
    messages: list[dict[str, Any]] = []
    while not messages or (messages[-1]["event"], messages[-1]["data"]) != ("said", text):
        messages.append(client.receive())
    return messages


def test_a_message_goes_from_a_client_of_one_to_a_client_of_the_other(nodes: list[LiveServer]) -> None:
    ann, bob = joined(nodes[0], "ann"), joined(nodes[1], "bob")
    texts = [f"text {number}" for number in range(20)]
    for text in texts:
        assert ann.request("chat.say", text)["event"] == "ack"
    assert [message["data"] for message in received_until(bob, texts[-1]) if message["event"] == "said"] == texts


def test_who_comes_and_goes_is_told_once_to_all(nodes: list[LiveServer]) -> None:
    ann = joined(nodes[0], "ann")
    bob, again = joined(nodes[1], "bob"), joined(nodes[0], "bob")
    again.close()
    bob.close()
    told = [ann.receive_until(f"presence.{what}")["data"]["user"] for what in ("join", "leave")]
    assert told == ["bob", "bob"]
    carl = joined(nodes[1], "carl")
    # The next thing of that kind is that she comes. What is said may overtake it: her node reads who is there first.
    message = ann.receive()
    while not message["event"].startswith("presence."):
        message = ann.receive()
    assert (message["event"], message["data"]["user"]) == ("presence.join", "carl")
    assert carl.request("chat.say", "fence")["event"] == "ack"
    assert [m["event"] for m in received_until(ann, "fence") if m["event"].startswith("presence.")] == []


def test_fifty_racing_connects_fill_the_limit_exactly(nodes: list[LiveServer]) -> None:
    def connect(number: int) -> bool:
        try:
            client = nodes[number % 2].connect("ann", welcome=False)
            return bool(client.receive()["event"] == "session.welcome")
        except Exception:  # noqa: BLE001  however it was refused
            return False

    with ThreadPoolExecutor(10) as pool:
        welcomed = list(pool.map(connect, range(50)))
    assert welcomed.count(True) == LIMIT
    assert sum(len(server.node.connections) for server in nodes) == LIMIT


def test_an_order_reaches_the_connections_of_every_node(nodes: list[LiveServer]) -> None:
    clients = [server.connect("ann") for server in nodes]
    other = nodes[1].connect("bob")
    nodes[0].act(nodes[0].node.app.disconnect, "ann")
    codes = {client.closed()[0] for client in clients}
    assert len(codes) == 1
    assert codes != {1006}
    assert other.request("chat.say", "still here")["event"] == "ack"


def test_clients_outlive_an_outage_and_nobody_leaves(nodes: list[LiveServer], redis_server: RedisServer) -> None:
    async def until_up(up: bool) -> None:
        with anyio.fail_after(20):
            while not all(server.node.hub.up is up for server in nodes):  # noqa: ASYNC110  of the node's own state
                await anyio.sleep(0.01)

    async def until_refreshed() -> None:
        with anyio.fail_after(20):
            while not all(backplane.refreshes > before for backplane, before in refreshes.items()):  # noqa: ASYNC110
                await anyio.sleep(0.01)

    def status() -> list[int]:
        head = RequestHead("GET", "/readyz", "", ())
        answers = [server.call(server.node.respond, head) for server in nodes]
        return [answer.status for answer in answers]

    ann, bob = joined(nodes[0], "ann"), joined(nodes[1], "bob")
    assert bob.request("chat.say", "before")["event"] == "ack"
    received_until(ann, "before")
    refreshes: dict[Watched, int] = {}
    for server in nodes:
        assert isinstance(server.node.backplane, Watched)
        refreshes[server.node.backplane] = server.node.backplane.refreshes
    redis_server.pause()
    nodes[0].portal.call(until_up, False)
    assert status() == [503, 503]
    refused = ann.request("chat.say", "refused")
    assert (refused["event"], refused["data"]["code"]) == ("error", "unavailable")
    redis_server.resume()
    nodes[0].portal.call(until_up, True)
    nodes[0].portal.call(until_refreshed)  # at once: the next one was due in 20 s
    assert status() == [200, 200]
    assert bob.request("chat.say", "after")["event"] == "ack"
    assert "presence.leave" not in [message["event"] for message in received_until(ann, "after")]
