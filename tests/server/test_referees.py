"""Clients that nobody here wrote: what they make of our handshake, our frames, our closes and our refusals."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import aiohttp
import anyio
import pytest

from roomwire import Connection
from roomwire.backplanes.memory import MemoryBackplane
from roomwire.core.limits import Limits
from tests.server.conftest import Serve
from tests.server.live import LiveServer, Shell, make_token
from tests.server.referees import REFEREES, Referee, Refused, referee
from tests.server.watching import until


@pytest.fixture(params=REFEREES)
def client(request: pytest.FixtureRequest) -> Iterator[Referee]:
    with referee(request.param) as made:
        yield made


@dataclass(frozen=True)
class Way:
    """How a token is carried."""

    query: Callable[[str], str] = lambda token: ""
    protocols: Callable[[str], list[str]] = lambda token: ["roomwire.v1"]
    headers: Callable[[str], dict[str, str]] = lambda token: {}
    selected: str | None = "roomwire.v1"


WAYS = {
    "header": Way(headers=lambda token: {"Authorization": f"Bearer {token}"}),
    "header, no subprotocol": Way(
        headers=lambda token: {"Authorization": f"Bearer {token}"}, protocols=lambda token: [], selected=None
    ),
    "subprotocol": Way(protocols=lambda token: ["roomwire.v1", f"bearer.{token}"]),
    "query": Way(query=lambda token: f"?token={token}"),
}


def connect(client: Referee, server: LiveServer, way: Way, user: str = "ann") -> None:
    token = make_token(user)
    selected = client.connect(server.url + way.query(token), protocols=way.protocols(token), headers=way.headers(token))
    assert selected == way.selected
    assert client.event("session.welcome")["data"]["user"] == user


def send(client: Referee, event: str, data: object = None, **fields: object) -> None:
    client.send(json.dumps({"event": event, "data": data, **fields}))


def talk(client: Referee, server: LiveServer) -> None:
    """Join a room, send to it and hear from it."""
    send(client, "room.join", id="j1", room="chat:lobby")
    assert client.event("ack")["id"] == "j1"
    bob = server.connect("bob")
    assert bob.request("room.join", room="chat:lobby")["event"] == "ack"
    send(client, "message.send", {"content": "héllo 🌍" * 1000}, id="m1", room="chat:lobby")
    event = bob.receive_until("message.new", room="chat:lobby")
    assert event["data"] == {"from": "ann", "content": "héllo 🌍" * 1000}
    assert client.event("ack")["data"] == {"id": event["id"]}
    bob.send("message.send", {"content": "back"}, room="chat:lobby")
    assert client.event("message.new")["data"] == {"from": "bob", "content": "back"}


@pytest.mark.parametrize("way", WAYS)
def test_each_joins_sends_hears_and_is_closed(serve: Serve, client: Referee, way: str) -> None:
    server = serve()
    connect(client, server, WAYS[way])
    talk(client, server)
    server.call(server.node.app.disconnect, "ann", code=4502, reason="revoked")
    assert client.closed() == (4502, "revoked")


def test_on_every_shell(shell: Shell, serve: Serve, client: Referee) -> None:
    server = serve(shell)
    connect(client, server, WAYS["subprotocol"])
    talk(client, server)
    server.call(server.node.runtime.spawn, server.node.drain.run)
    assert client.closed() == (1012, "restart")


def test_a_close_by_the_client_is_in_order(shell: Shell, serve: Serve, client: Referee) -> None:
    server = serve(shell)
    connect(client, server, WAYS["header"])
    client.close()
    until(server, lambda: not server.node.connections)
    app = server.node.app
    until(server, lambda: app.log.disconnected == ["ann"])  # type: ignore[attr-defined]


# --- what they see of a refusal


ONE_EACH = Limits(connections_per_user=1)


@dataclass(frozen=True)
class Case:
    """A request that is refused, and with what."""

    status: int
    error: str
    path: str = "/ws"
    query: str = ""
    user: str = "ann"
    token: str | None = None
    protocols: tuple[str, ...] = ("roomwire.v1",)
    headers: Mapping[str, str] = field(default_factory=dict)
    answer: Mapping[str, str] = field(default_factory=dict)
    limits: Limits = ONE_EACH
    prepare: Callable[[LiveServer], object] = lambda server: None


def fill(server: LiveServer) -> None:
    server.connect("ann")


def begin_drain(server: LiveServer) -> None:
    """As a node looks between the signal and the end of accepting."""
    server.node.drain.began = True


def cut_the_store_off(server: LiveServer) -> None:
    assert isinstance(server.node.backplane, MemoryBackplane)
    server.node.backplane.cut()


def break_the_hook(server: LiveServer) -> None:
    async def fail(connection: Connection) -> None:
        raise RuntimeError("the database is gone")

    server.node.app.log.admitted = fail  # type: ignore[attr-defined]


CASES = {
    "a head that is too large": Case(431, "bad_request", headers={"X-Padding": "x" * 17_000}),
    "another path": Case(404, "not_found", path="/other"),
    "an unknown subprotocol": Case(400, "bad_request", protocols=("graphql-ws",)),
    "a bad client id": Case(400, "bad_request", query="?client=x"),
    "a bad cursor": Case(400, "bad_request", query="?last_event_id=x"),
    "draining": Case(503, "unavailable", prepare=begin_drain, answer={"retry-after": "*"}),
    "another origin": Case(403, "forbidden", headers={"Origin": "https://evil.example"}),
    "a bad token": Case(401, "unauthorized", token="x", answer={"www-authenticate": "Bearer"}),
    "the connect hook": Case(403, "forbidden", user="banned"),
    "full": Case(503, "unavailable", user="bob", limits=Limits(max_connections=1), prepare=fill),
    "a hook that fails": Case(503, "unavailable", prepare=break_the_hook, answer={"retry-after": "*"}),
    "no store": Case(503, "unavailable", prepare=cut_the_store_off, answer={"retry-after": "*"}),
    "too many connections": Case(429, "too_many_connections", prepare=fill, answer={"retry-after": "*"}),
}


@pytest.mark.parametrize("name", CASES)
def test_each_sees_the_status_of_a_refusal(serve: Serve, client: Referee, name: str) -> None:
    case = CASES[name]
    server = serve(limits=case.limits)
    case.prepare(server) if case.prepare is fill else server.call(case.prepare, server)
    url = server.url.removesuffix("/ws") + case.path + case.query
    headers = {"Authorization": f"Bearer {case.token or make_token(case.user)}", **case.headers}
    try:
        with pytest.raises(Refused) as refused:
            client.connect(url, protocols=case.protocols, headers=headers)
    finally:
        server.node.drain.began = False  # for the real one, which ends this server
    assert refused.value.status == case.status
    if refused.value.body:
        assert json.loads(refused.value.body)["error"] == case.error
    for header, value in case.answer.items():
        assert refused.value.headers[header] == value or value == "*"


def test_every_status_of_the_protocol_is_seen(serve: Serve) -> None:
    server = serve()

    async def get() -> tuple[int, str]:
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{server.port}/ws") as response:
            return response.status, (await response.json())["error"]

    assert anyio.run(get) == (426, "upgrade_required")  # no WebSocket client sends what is answered with it
    assert {case.status for case in CASES.values()} | {426} == {400, 401, 403, 404, 426, 429, 431, 503}
