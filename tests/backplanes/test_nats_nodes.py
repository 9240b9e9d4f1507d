"""Two nodes on NATS: an event crosses, presence is told once, the limit of a user holds in both."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import count

import anyio.from_thread
import anyio.to_thread
import pytest
from websockets.exceptions import InvalidStatus

from roomwire.backplanes.contract import HistoryPolicy
from roomwire.backplanes.nats import NatsBackplane
from roomwire.core.limits import Limits
from roomwire.core.policy import RoomPolicy
from tests.backplanes.on_nats import NatsFaults, options_of
from tests.server.chat import make_app
from tests.server.live import Client, LiveServer, make_node, serving
from tests.servers import NatsServer

ROOMS = {"chat:*": RoomPolicy(presence=True, leave_grace=0.0, history_size=100)}
LIMITS = Limits(connections_per_user=5)

_prefixes = count()


@pytest.fixture(scope="module")
def cluster(nats_session: NatsServer) -> Iterator[list[LiveServer]]:
    prefix = f"nodes{next(_prefixes)}"
    with ExitStack() as stack:
        portal = stack.enter_context(anyio.from_thread.start_blocking_portal("asyncio"))
        stack.callback(lambda: portal.call(NatsFaults(nats_session, prefix).lose))
        servers = []
        for number in (1, 2):
            backplane = NatsBackplane(options_of(nats_session.port, prefix, storage="file"))
            node = make_node(make_app(), backplane=backplane, name=f"node-{number}", rooms=ROOMS, limits=LIMITS)
            servers.append(stack.enter_context(serving(node, portal)))
        yield servers


def told(client: Client, what: str, user: str) -> None:
    """Wait until the client is told that of this user; those of an earlier test may still be leaving."""
    while client.receive_until(f"presence.{what}")["data"]["user"] != user:
        pass


def presence(client: Client, *users: str) -> list[tuple[str, str]]:
    """What it is told of these users up to now."""
    events = [e for e in client.events_before("whoami") if e["event"] in ("presence.join", "presence.leave")]
    return [(e["event"], e["data"]["user"]) for e in events if e["data"]["user"] in users]


def test_a_node_tells_the_backplane_the_policies_of_rooms(cluster: list[LiveServer]) -> None:
    backplane = _backplane(cluster[0])
    assert backplane._policies == {"": HistoryPolicy(), "chat:*": HistoryPolicy(100, 3600.0)}
    assert backplane._policy_of("chat:general") == HistoryPolicy(100, 3600.0)
    assert backplane._policy_of("elsewhere") == HistoryPolicy()


def test_an_event_crosses_with_the_same_id(cluster: list[LiveServer]) -> None:
    one, two = cluster
    ann, bob = one.connect("ann"), two.connect("bob")
    (sent,) = one.publish(data={"n": 1})
    assert [client.receive_until("told")["id"] for client in (ann, bob)] == [sent, sent]
    ann.close()
    bob.close()


def test_who_comes_back_on_the_other_node_gets_what_it_missed(cluster: list[LiveServer]) -> None:
    one, two = cluster
    ann = one.connect("ann")
    (seen,) = one.publish(data="seen")
    ann.receive_until("told", data="seen")
    ann.close()
    missed = two.publish(3, data="missed")
    again = two.connect("ann", query=f"last_event_id=chat%3Ageneral%40{seen.replace(':', '%3A')}")
    assert again.welcome["rooms"]["chat:general"]["recovered"] is True
    assert [again.receive_until("told")["id"] for _ in missed] == missed
    again.close()


def test_presence_is_told_once(cluster: list[LiveServer]) -> None:
    one, two = cluster
    carol = one.connect("carol")
    carol.receive_until("presence.state")
    dave = two.connect("dave")
    told(carol, "join", "dave")
    dave.close()
    told(carol, "leave", "dave")
    erin = two.connect("erin")
    told(carol, "join", "erin")
    assert presence(carol, "dave", "erin") == []
    erin.close()
    carol.close()


def test_the_limit_of_a_user_holds_over_both(cluster: list[LiveServer]) -> None:
    def connect(number: int) -> Client | int:
        try:
            return cluster[number % 2].connect("frank")
        except InvalidStatus as error:
            return error.response.status_code

    with ThreadPoolExecutor(10) as pool:
        outcomes = list(pool.map(connect, range(20)))
    clients = [outcome for outcome in outcomes if isinstance(outcome, Client)]
    assert len(clients) == 5
    assert {outcome for outcome in outcomes if not isinstance(outcome, Client)} == {429}
    for client in clients:
        client.close()


def test_clients_stay_while_the_server_is_killed_and_comes_back(
    cluster: list[LiveServer], nats_session: NatsServer
) -> None:
    one, two = cluster
    ann, bob = one.connect("grace"), two.connect("heidi")
    before = [_backplane(server)._link.connects for server in cluster]
    nats_session.restart()
    for server, connects in zip(cluster, before, strict=True):
        server.call(_until_back, server, connects)
    (sent,) = two.publish(data="after")
    for client in (ann, bob):
        assert client.receive_until("told", data="after")["id"] == sent
        # Nobody else is looked for: those of an earlier test may have been leaving when the server was killed.
        events = client.events_before("whoami")
        assert not [e for e in events if e["event"] == "room.state"]
        assert not [e for e in events if e["event"] == "presence.leave" and e["data"]["user"] in ("grace", "heidi")]
    for client in (ann, bob):  # no sooner: the other one is told of it
        client.close()


def _backplane(server: LiveServer) -> NatsBackplane:
    assert isinstance(server.node.backplane, NatsBackplane)
    return server.node.backplane


async def _until_back(server: LiveServer, connects: int) -> None:
    with anyio.fail_after(30):
        while not (server.node.hub.up and _backplane(server)._link.connects > connects):  # noqa: ASYNC110
            await anyio.sleep(0.01)
