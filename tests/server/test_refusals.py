"""Refusals before the upgrade: docs/reference/protocol.md section 1.4, on every shell."""

from __future__ import annotations

import base64
import hmac
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import jwt
import pytest

from roomwire import App, Connection, EventError
from roomwire.backplanes.contract import Claim, Holder
from roomwire.backplanes.memory import MemoryBackplane
from roomwire.core.errors import Unavailable
from roomwire.core.limits import Limits
from roomwire.testing.clock import VirtualClock
from tests.server.conftest import Serve
from tests.server.live import SECRET, LiveServer, Shell, make_token
from tests.server.raw import Response, connect, exchange, request
from tests.server.watching import carriers, until

TOKEN = "a.b.c"


class Watch:
    """Counts what of the application ran."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.gone: list[str] = []


def watched_app(watch: Watch) -> App:
    app = App()

    @app.on_connect
    async def admit(connection: Connection) -> list[str] | bool:
        watch.asked.append(connection.user)
        if connection.user == "late":
            raise EventError("app.closed", "we are closed")
        if connection.user == "broken":
            raise RuntimeError("the database is gone")
        if connection.user == "strange":
            return "chat:general"  # type: ignore[return-value]
        return connection.user != "banned"

    @app.on_disconnect
    async def gone(connection: Connection) -> None:
        watch.gone.append(connection.user)

    return app


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def server(shell: Shell, serve: Serve, watch: Watch) -> LiveServer:
    return serve(shell, app=watched_app(watch), limits=Limits(connections_per_user=1))


def bearer(user: str = "ann", **claims: Any) -> str:
    return f"Authorization: Bearer {make_token(user, **claims)}"


def assert_refused(response: Response, status: int, error: str) -> None:
    """One shape for all of them, and not a byte of a WebSocket."""
    assert (response.status, response.json["error"]) == (status, error)
    assert response.header("content-type") == "application/json"
    assert response.header("content-length") == str(len(response.body))
    assert set(response.json) == {"error", "detail"}
    assert isinstance(response.json["detail"], str)
    assert "sec-websocket-accept" not in dict(response.headers)
    assert "close" in (response.header("connection") or "")


# --- each refusal

BAD_UPGRADES = {
    "no Connection: Upgrade": request("/ws", without=("Connection",)),
    "Connection: close": request("/ws", "Connection: close", without=("Connection",)),
    "no version": request("/ws", without=("Sec-WebSocket-Version",)),
    "no key": request("/ws", without=("Sec-WebSocket-Key",)),
    "two keys": request("/ws", "Sec-WebSocket-Key: x3JJHMbDL1EzLkh9GBhXDw=="),
    "a short key": request("/ws", "Sec-WebSocket-Key: c2hvcnQ=", without=("Sec-WebSocket-Key",)),
    "a key that is no base64": request("/ws", "Sec-WebSocket-Key: " + "*" * 24, without=("Sec-WebSocket-Key",)),
    "POST": request("/ws", "Content-Length: 0", method="POST"),
    "HTTP/1.0": request("/ws", version="HTTP/1.0"),
    "no Host": request("/ws", without=("Host",)),
    "two Hosts": request("/ws", "Host: other.example"),
    "an unknown subprotocol": request("/ws", "Sec-WebSocket-Protocol: graphql-ws"),
    "a token as the only subprotocol": request("/ws", "Sec-WebSocket-Protocol: bearer." + TOKEN),
    "a subprotocol that is no token": request("/ws", "Sec-WebSocket-Protocol: a b"),
    "bytes that are not ASCII in Connection": request("/ws", "Connection: \xfcpgrade", without=("Connection",)),
    "a bad client id": request("/ws?client=short", bearer()),
    "two client ids": request("/ws?client=tab-000001&client=tab-000002", bearer()),
    "a bad cursor": request("/ws?last_event_id=nonsense", bearer()),
    "two cursors": request("/ws?last_event_id=r%40e:1&last_event_id=r%40e:2", bearer()),
    "a room twice in the cursor": request("/ws?last_event_id=r%40e:1,r%40e:2", bearer()),
    "101 rooms in the cursor": request("/ws?last_event_id=" + ",".join(f"r{n}%40e:1" for n in range(101)), bearer()),
}


@pytest.mark.parametrize("fault", BAD_UPGRADES)
def test_400_for_an_incorrect_upgrade(server: LiveServer, watch: Watch, fault: str) -> None:
    assert_refused(exchange(server.port, BAD_UPGRADES[fault]), 400, "bad_request")
    assert watch.asked == []


@pytest.mark.parametrize("version", ["8", "14", "13, 8", ""])
def test_400_names_the_version_that_is_spoken(server: LiveServer, version: str) -> None:
    head = request("/ws", f"Sec-WebSocket-Version: {version}", without=("Sec-WebSocket-Version",))
    response = exchange(server.port, head)
    assert_refused(response, 400, "bad_request")
    assert response.header("sec-websocket-version") == "13"


def test_404_for_another_path(server: LiveServer) -> None:
    for path in ("/", "/ws/", "/WS", "/wss", "/%77s", "//ws", "/ws/../ws"):
        assert_refused(exchange(server.port, request(path, bearer())), 404, "not_found")


def test_426_for_a_plain_get(server: LiveServer) -> None:
    response = exchange(server.port, request("/ws", bearer(), without=("Upgrade", "Connection")))
    assert_refused(response, 426, "upgrade_required")
    assert response.header("upgrade") == "websocket"
    assert [item.strip() for item in (response.header("connection") or "").split(",")] == ["Upgrade", "close"]
    other = exchange(server.port, request("/ws", "Upgrade: h2c", without=("Upgrade",)))
    assert_refused(other, 426, "upgrade_required")


def _sign(
    header: dict[str, Any], claims: dict[str, Any], secret: bytes = SECRET.encode(), digest: str = "sha256"
) -> str:
    def encode(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    body = f"{encode(json.dumps(header).encode())}.{encode(json.dumps(claims).encode())}"
    return f"{body}.{encode(hmac.new(secret, body.encode(), digest).digest())}"


def forged_tokens() -> Iterator[tuple[str, str]]:
    """Tokens that a careless server takes, by name."""
    now = int(time.time())
    good = {"sub": "ann", "exp": now + 86_400}
    header = {"alg": "HS256", "typ": "JWT"}
    valid = _sign(header, good)
    head, body, signature = valid.split(".")
    swapped = "A" if signature[0] != "A" else "B"
    yield "another secret", jwt.encode(good, "another secret that is long enough", "HS256")
    yield "alg none", jwt.encode(good, "", "none")
    yield "alg None", _sign({**header, "alg": "None"}, good)
    yield "alg none, with a signature", _sign({**header, "alg": "none"}, good)
    yield "an algorithm that is not configured", jwt.encode(good, SECRET * 2, "HS512")
    yield "HS384 with the right secret", _sign({**header, "alg": "HS384"}, good, digest="sha384")
    yield "an asymmetric algorithm's name", _sign({**header, "alg": "RS256"}, good)
    yield "no algorithm", _sign({"typ": "JWT"}, good)
    yield "no signature", f"{head}.{body}."
    yield "a changed signature", f"{head}.{body}.{swapped}{signature[1:]}"
    yield "changed claims", f"{head}.{_sign(header, {**good, 'sub': 'root'}).split('.')[1]}.{signature}"
    yield "two segments", f"{head}.{body}"
    yield "four segments", f"{valid}.{signature}"
    yield "expired", _sign(header, {**good, "exp": now - 3600})
    yield "no exp", _sign(header, {"sub": "ann"})
    yield "exp as a text", _sign(header, {**good, "exp": "tomorrow"})
    yield "not yet valid", _sign(header, {**good, "nbf": now + 3600})
    yield "no subject", _sign(header, {"exp": now + 86_400})
    yield "a number as subject", _sign(header, {**good, "sub": 7})
    yield "a critical header that nobody knows", _sign({**header, "crit": ["b64"], "b64": False}, good)
    yield "a key that the token brings", _sign({**header, "jwk": {"kty": "oct", "k": "AAAA"}}, good, b"\0\0\0")
    yield "an empty token", ""
    yield "no token at all", "."
    yield "claims that are no object", f"{head}.{base64.urlsafe_b64encode(b'[]').rstrip(b'=').decode()}.{signature}"


FORGED = dict(forged_tokens())


def test_401_is_the_same_for_every_forged_token(server: LiveServer, watch: Watch) -> None:
    assert len(FORGED) >= 20
    answers = {
        name: exchange(server.port, request("/ws", f"Authorization: Bearer {token}")) for name, token in FORGED.items()
    }
    answers["no header"] = exchange(server.port, request("/ws"))
    answers["another scheme"] = exchange(server.port, request("/ws", "Authorization: Basic YW5uOnB3"))
    answers["two headers"] = exchange(server.port, request("/ws", bearer(), bearer("bob")))
    answers["a query token"] = exchange(server.port, request(f"/ws?token={FORGED['alg none']}"))
    answers["two query tokens"] = exchange(server.port, request(f"/ws?token={make_token('ann')}&token=x"))
    offer = f"Sec-WebSocket-Protocol: roomwire.v1, bearer.{FORGED['expired']}"
    answers["a subprotocol token"] = exchange(server.port, request("/ws", offer))
    # A good token in a later source does not make up for a bad one in an earlier one.
    good = make_token("ann")
    answers["header before query"] = exchange(server.port, request(f"/ws?token={good}", "Authorization: Bearer x"))
    first = answers["no header"]
    assert_refused(first, 401, "unauthorized")
    assert first.header("www-authenticate") == "Bearer"
    assert {name: answer for name, answer in answers.items() if answer != first} == {}
    assert watch.asked == []


ORIGINS = [
    "https://app.example.com.evil",
    "https://evil-app.example.com",
    "https://app.example.com:8443",
    "http://app.example.com",
    "https://APP.example.com",
    "https://app.example.com/",
    "https://app.example.com@evil.example",
    "null",
    "",
    "https://app.example.com https://evil.example",
    "file://",
    "http://127.0.0.1.evil",
    "http://127.0.0.1:1",
]


@pytest.mark.parametrize("origin", ORIGINS)
def test_403_for_another_origin_comes_before_401(shell: Shell, serve: Serve, watch: Watch, origin: str) -> None:
    server = serve(shell, app=watched_app(watch), origins=("https://app.example.com",))
    for token in (bearer(), "Authorization: Bearer x"):
        assert_refused(exchange(server.port, request("/ws", f"Origin: {origin}", token)), 403, "forbidden")
    several = request("/ws", "Origin: https://app.example.com", "Origin: https://evil.example", bearer())
    assert_refused(exchange(server.port, several), 403, "forbidden")
    assert watch.asked == []
    for allowed in ("https://app.example.com", "http://127.0.0.1"):
        with connect(server.port, request("/ws", f"Origin: {allowed}", bearer(allowed[:5]))) as link:
            link.upgraded()


def test_403_where_the_connect_hook_says_no(server: LiveServer, watch: Watch) -> None:
    assert_refused(exchange(server.port, request("/ws", bearer("banned"))), 403, "forbidden")
    response = exchange(server.port, request("/ws", bearer("late")))
    assert_refused(response, 403, "forbidden")
    assert response.json["detail"] == "we are closed"
    assert watch.asked == ["banned", "late"]
    assert watch.gone == []


def test_503_where_the_connect_hook_fails(server: LiveServer, watch: Watch) -> None:
    for user in ("broken", "strange"):
        response = exchange(server.port, request("/ws", bearer(user)))
        assert_refused(response, 503, "unavailable")
        assert "database" not in response.json["detail"]
        assert response.header("retry-after") == "5"


def test_429_at_the_connection_limit(server: LiveServer) -> None:
    with connect(server.port, request("/ws?client=tab-000001", bearer())) as first:
        first.upgraded()
        response = exchange(server.port, request("/ws?client=tab-000002", bearer()))
        assert_refused(response, 429, "too_many_connections")
        assert response.header("retry-after") == "5"
        # Another user's slots are its own.
        with connect(server.port, request("/ws", bearer("bob"))) as other:
            other.upgraded()


class DownBackplane(MemoryBackplane):
    """Cannot be reached when a connection wants its slot."""

    async def claim(self, user: str, holder: Holder, limit: int, *, evict: bool) -> Claim:
        raise Unavailable("no route to 10.0.0.7:6379")


def test_503_where_the_backplane_cannot_be_reached(shell: Shell, serve: Serve, watch: Watch) -> None:
    server = serve(shell, app=watched_app(watch), backplane=DownBackplane())
    response = exchange(server.port, request("/ws", bearer()))
    assert_refused(response, 503, "unavailable")
    assert "10.0.0.7" not in response.json["detail"]
    assert response.header("retry-after") == "5"


def test_503_where_the_node_is_full(shell: Shell, serve: Serve, watch: Watch) -> None:
    server = serve(shell, app=watched_app(watch), limits=Limits(max_connections=1))
    with connect(server.port, request("/ws", bearer())) as first:
        first.upgraded()
        response = exchange(server.port, request("/ws", bearer("bob")))
        assert_refused(response, 503, "unavailable")
        assert response.header("retry-after") == "5"


def test_503_while_draining(shell: Shell, serve: Serve, watch: Watch) -> None:
    server = serve(shell, app=watched_app(watch), drain_timeout=30.0)
    with connect(server.port, request("/ws", bearer())) as held, connect(server.port) as late:
        held.upgraded()
        held.event("session.welcome")
        # A request that begins before the drain and is whole only in it; a listening socket is not asked any more.
        until(server, lambda: len(carriers(server)) == 2)
        late.send(request("/ws", bearer("bob"))[:20])
        server.call(server.node.runtime.spawn, server.node.drain.run)
        assert held.event("session.closing")["data"]["code"] == 1012
        late.send(request("/ws", bearer("bob"))[20:])
        response = late.response()
        assert_refused(response, 503, "unavailable")
        assert int(response.header("retry-after") or "") >= 1
        assert watch.asked == ["ann"]


# --- their order

FAULTS: list[tuple[int, Callable[[dict[str, Any]], None]]] = [
    (404, lambda parts: parts.update(path="/other")),
    (426, lambda parts: parts["without"].append("Upgrade")),
    (400, lambda parts: parts["without"].append("Sec-WebSocket-Key")),
    (403, lambda parts: parts["headers"].append("Origin: https://evil.example")),
    (401, lambda parts: parts.update(token="x")),
    (400, lambda parts: parts.update(query="?client=short")),
    (403, lambda parts: parts.update(user="banned")),
    (429, lambda parts: parts.update(user="ann") if parts["user"] == "bob" else None),
]


def test_the_first_fault_in_order_answers(server: LiveServer) -> None:
    with connect(server.port, request("/ws", bearer("ann"))) as holder:
        holder.upgraded()
        for first in range(len(FAULTS)):
            parts: dict[str, Any] = {
                "path": "/ws", "query": "", "without": [], "headers": [], "user": "bob", "token": None,
            }  # fmt: skip
            for _, spoil in FAULTS[first:]:
                spoil(parts)
            token = parts["token"] or make_token(parts["user"])
            target = parts["path"] + parts["query"]
            headers = [*parts["headers"], f"Authorization: Bearer {token}"]
            response = exchange(server.port, request(target, *headers, without=tuple(parts["without"])))
            assert response.status == FAULTS[first][0], (first, response)


def test_draining_comes_before_the_origin(shell: Shell, serve: Serve, watch: Watch) -> None:
    server = serve(shell, app=watched_app(watch), drain_timeout=30.0)
    with connect(server.port, request("/ws", bearer())) as held:
        held.upgraded()
        links = [connect(server.port, b"GET ") for _ in range(3)]
        until(server, lambda: len(carriers(server)) == 4)  # accepted, and not only by the kernel
        server.call(server.node.runtime.spawn, server.node.drain.run)
        held.event("session.closing")
        evil = ("Origin: https://evil.example", "Authorization: Bearer x")
        expected = {503: request("/ws", *evil), 400: request("/ws", *evil, without=("Sec-WebSocket-Key",))}
        expected[404] = request("/other", *evil)
        for link, (status, data) in zip(links, expected.items(), strict=True):
            with link:
                link.send(data[4:])
                assert link.response().status == status


# --- hostile heads

SMUGGLED = {
    "a GET with a body": request("/ws", bearer(), "Content-Length: 4") + b"GET ",
    "a GET with chunks": request("/ws", bearer(), "Transfer-Encoding: chunked") + b"0\r\n\r\n",
    "both lengths": request("/ws", "Content-Length: 0", "Transfer-Encoding: chunked", bearer()),
    "two lengths": request("/ws", "Content-Length: 0", "Content-Length: 5", bearer()),
    "a list of lengths": request("/ws", "Content-Length: 0, 5", bearer()),
    "a negative length": request("/ws", "Content-Length: -1", bearer()),
    "another transfer coding": request("/ws", "Transfer-Encoding: xchunked", bearer()),
    "a blank before the colon": request("/ws", "Authorization : Bearer x", bearer()),
    "a null in a value": request("/ws", "X-Null: a\0b", bearer()),
    "a bare CR in a value": request("/ws", "X-Return: a\rX-Injected: b", bearer()),
    "an empty name": request("/ws", ": x", bearer()),
    "a line without a colon": request("/ws", "nonsense", bearer()),
    "an absolute target of another host": request("http://localhost/ws", bearer()),
    "an absolute target with a user": request("http://ann@127.0.0.1/ws", bearer()),
    "an absolute target of another scheme": request("ftp://127.0.0.1/ws", bearer()),
    "an absolute target without a host": request("http:///ws", bearer(), "Host:", without=("Host",)),
    "an authority as target": request("127.0.0.1:80", bearer(), method="CONNECT"),
    "an asterisk as target": request("*", bearer(), method="OPTIONS"),
    "a blank in the target": request("/ws x", bearer()),
    "a null in the target": request("/ws\0", bearer()),
    "bytes over 127 in the target": request("/ws\xff", bearer()),
    "HTTP/2.0": request("/ws", bearer(), version="HTTP/2.0"),
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a Host with a path": request("/ws", "Host: a/b", bearer(), without=("Host",)),
    "a Host that is not ASCII": request("/ws", "Host: b\xfccher.example", bearer(), without=("Host",)),
    "a long Host": request("/ws", "Host: " + "a" * 300, bearer(), without=("Host",)),
    "a long request line": request("/ws?" + "a" * 9000, bearer()),
    "a TLS hello": bytes.fromhex("16030100c8010000c40303") + b"\0" * 200,
    "a blank line first": b"\r\n" + request("/ws", bearer()),
}


@pytest.mark.parametrize("shape", SMUGGLED)
def test_400_for_a_head_that_could_be_read_in_two_ways(server: LiveServer, watch: Watch, shape: str) -> None:
    assert_refused(exchange(server.port, SMUGGLED[shape]), 400, "bad_request")
    assert watch.asked == []


def test_an_absolute_target_is_a_path_and_a_host(server: LiveServer) -> None:
    assert exchange(server.port, request("http://127.0.0.1/nowhere", bearer())).status == 404
    with connect(server.port, request("http://127.0.0.1/ws", bearer(), "Origin: http://127.0.0.1")) as link:
        link.upgraded()
    # The Origin is compared with what both say.
    for host in ("127.0.0.1", "evil.example"):
        evil = request(f"http://{host}/ws", bearer(), "Origin: http://evil.example")
        assert exchange(server.port, evil).status == (403 if host == "127.0.0.1" else 400)


def test_431_for_a_head_that_is_too_large(shell: Shell, serve: Serve, watch: Watch) -> None:
    server = serve(shell, app=watched_app(watch), clock=VirtualClock())
    many = request("/ws", *(f"X-Header-{n}: a" for n in range(120)), bearer())
    assert_refused(exchange(server.port, many), 431, "bad_request")
    large = request("/ws", *(f"X-Large-{n}: {'a' * 4000}" for n in range(5)), bearer())
    assert_refused(exchange(server.port, large), 431, "bad_request")
    # Never ending: the answer comes while the peer still sends, who is not cut off before the clock goes on.
    with connect(server.port, b"GET /ws HTTP/1.1\r\n") as link:
        for number in range(20):
            link.send(f"X-Endless-{number}: {'a' * 1000}\r\n".encode())
        assert_refused(link.response(), 431, "bad_request")


def test_nothing_of_a_request_comes_back_in_a_header(server: LiveServer) -> None:
    injected = "%0d%0aSet-Cookie:%20a=b"
    for target in (f"/ws?client={injected}", f"/{injected}", f"/ws?token={injected}"):
        response = exchange(server.port, request(target, f"Sec-WebSocket-Protocol: x{injected}"))
        assert response.status in (400, 404)
        names = {"content-type", "content-length", "connection"}
        assert {name for name, _ in response.headers} == names
    accepted = "Sec-WebSocket-Protocol: graphql-ws, roomwire.v1, bearer." + make_token("ann")
    with connect(server.port, request("/ws", accepted)) as link:
        head = link.upgraded()
        assert head.header("sec-websocket-protocol") == "roomwire.v1"


# --- time


def test_a_slow_head_is_ended_at_the_deadline_from_accept(shell: Shell, serve: Serve, watch: Watch) -> None:
    clock = VirtualClock()
    server = serve(shell, app=watched_app(watch), clock=clock, limits=Limits(handshake_timeout=10.0))
    head = request("/ws", bearer())
    with connect(server.port, head[:10]) as slow, connect(server.port) as silent:
        until(server, lambda: len(carriers(server)) == 2)
        server.advance(9.0)
        slow.send(head[10:20])  # a byte now and then does not buy time
        assert len(carriers(server)) == 2
        server.advance(1.5)
        for link in (slow, silent):
            assert_refused(link.response(), 408, "bad_request")
    assert watch.asked == []


def test_a_decision_that_takes_too_long_is_a_503_and_its_yes_is_taken_back(shell: Shell, serve: Serve) -> None:
    clock = VirtualClock()
    app, release = App(), anyio.Event()
    asked: list[str] = []

    @app.on_connect
    async def slowly(connection: Connection) -> bool:
        asked.append(connection.user)
        if len(asked) == 1:
            await release.wait()
        return True

    server = serve(shell, app=app, clock=clock, limits=Limits(handshake_timeout=10.0, connections_per_user=1))
    with connect(server.port, request("/ws", bearer())) as link:
        until(server, lambda: asked == ["ann"])
        server.advance(10.5)
        assert_refused(link.response(), 503, "unavailable")
    server.call(release.set)
    until(server, lambda: server.node.admissions.pending == 0)
    # Its slot is free again, or this would be a 429.
    with connect(server.port, request("/ws", bearer())) as link:
        link.upgraded()
        assert link.event("session.welcome")["data"]["user"] == "ann"
        assert server.call(lambda: len(server.node.connections)) == 1
