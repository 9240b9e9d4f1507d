"""Mounted in other applications: their routes and ours on one port, at the root and under a prefix."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anyio.from_thread
import pytest
import websockets.sync.client
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from roomwire.core.errors import LocalError
from tests.asgi.mounting import FRAMEWORKS, asgi_app
from tests.asgi.playing import websocket_scope
from tests.server.hosts import HOSTS
from tests.server.live import TIMEOUT, Client, make_token
from tests.server.streaming import ask

PREFIXES = {"root": "", "prefix": "/realtime/v1"}
# Starlette's own server has no part in it, and each framework meets one implementation of uvicorn's.
HOST = HOSTS["uvicorn-sansio"]


@pytest.fixture(scope="module")
def portal() -> Iterator[anyio.from_thread.BlockingPortal]:
    with anyio.from_thread.start_blocking_portal("asyncio") as opened:
        yield opened


@pytest.fixture(params=[(name, where) for name in FRAMEWORKS for where in PREFIXES], ids="-".join)
def site(request: pytest.FixtureRequest, portal: anyio.from_thread.BlockingPortal) -> Iterator[Site]:
    name, where = request.param
    with served(portal, FRAMEWORKS[name], PREFIXES[where]) as site:
        yield site


class Site:
    """What is served, and a way to it."""

    def __init__(self, port: int, prefix: str, chat: Any) -> None:
        self.port = port
        self.prefix = prefix
        self.chat = chat

    def connect(self, user: str = "ann", path: str = "/ws", token: str | None = None) -> Any:
        token = make_token(user) if token is None else token
        url = f"ws://127.0.0.1:{self.port}{self.prefix}{path}?token={token}"
        return websockets.sync.client.connect(
            url,
            subprotocols=[Subprotocol("roomwire.v1")],
            proxy=None,
            open_timeout=TIMEOUT,
            close_timeout=TIMEOUT,
        )

    def get(self, path: str, method: str = "GET", body: bytes | None = None, **headers: str) -> tuple[int, Any]:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", method=method, data=body, headers=headers
        )
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
                return response.status, json.loads(response.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read() or b"null")


@contextmanager
def served(portal: anyio.from_thread.BlockingPortal, framework: Any, prefix: str, **sections: Any) -> Iterator[Site]:
    chat = asgi_app(**sections)
    application = framework(chat, prefix)
    with portal.wrap_async_context_manager(HOST(application, lifespan=True)) as port:
        yield Site(port, prefix, chat)


def test_an_event_goes_round_and_the_frameworks_routes_are_beside_it(site: Site) -> None:
    with site.connect("ann") as one, site.connect("bob") as other:
        ann, bob = Client(one), Client(other)
        assert ann.receive()["data"]["user"] == "ann"
        assert bob.receive()["data"]["user"] == "bob"
        assert set(ann.request("message.send", {"content": "hello"}, room="chat:general")["data"]) == {"id"}
        assert bob.receive()["data"] == {"from": "ann", "content": "hello"}
    assert site.get("/hello") == (200, ["hello"])
    assert site.get(f"{site.prefix}/healthz")[0] == 200


def test_an_event_stream(site: Site) -> None:
    with site.connect("ann") as one:
        ann = Client(one)
        ann.receive()
        viewer = ask(site.port, f"room=chat:general&token={make_token('viewer')}", path=f"{site.prefix}/sse")
        assert (viewer.status, viewer.next().event) == (200, "session.welcome")
        ann.request("message.send", {"content": "hello"}, room="chat:general")
        assert viewer.until("message.new")["data"] == {"from": "ann", "content": "hello"}
        viewer.close()


def test_what_a_browser_asks_before_a_stream_passes_the_framework(site: Site) -> None:
    asking = {"Origin": f"http://127.0.0.1:{site.port}", "Access-Control-Request-Method": "GET"}
    answer = ask(site.port, method="OPTIONS", path=f"{site.prefix}/sse", headers=asking)
    assert (answer.status, answer.headers["access-control-allow-origin"]) == (204, asking["Origin"])
    answer.close()


def test_a_refusal_has_its_status_and_its_body(site: Site) -> None:
    with pytest.raises(InvalidStatus) as caught, site.connect(token="nothing"):
        pass
    assert caught.value.response.status_code == 401
    assert json.loads(caught.value.response.body or b"")["error"] == "unauthorized"
    with pytest.raises(InvalidStatus) as caught, site.connect(path="/elsewhere"):
        pass
    assert caught.value.response.status_code in (403, 404)  # ours, or the framework's own


def test_it_ends_with_the_framework(portal: anyio.from_thread.BlockingPortal) -> None:
    with served(portal, FRAMEWORKS["fastapi"], "") as site:
        connection = site.connect().__enter__()
        client = Client(connection)
        client.receive()
        node = site.chat.node
        # A host with handlers of signals would drain before: this one closes all, and then ends the lifespan.
        portal.call(node.drain.run)
        assert client.receive()["data"] == {
            "code": 1012,
            "reason": "restart",
            "reconnect": True,
            "retry_after": pytest.approx(2.5, abs=2.6),
        }
        with pytest.raises(ConnectionClosed) as closed:
            client.receive()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012
        # The framework's routes go on, and ours say that they do not.
        assert site.get("/hello") == (200, ["hello"])
        assert site.get("/readyz")[0] == 503
        with pytest.raises(InvalidStatus) as caught, site.connect():
            pass
        assert caught.value.response.status_code == 503
        assert caught.value.response.headers["Retry-After"]
        connection.close()
    assert site.chat.node is None


def test_a_node_that_fails_ends_nothing_but_itself(portal: anyio.from_thread.BlockingPortal) -> None:
    chat = asgi_app()
    application = FRAMEWORKS["starlette"](chat, "/live")

    async def fail() -> None:
        assert chat.node is not None
        chat.node.fault(ZeroDivisionError("of a test"), "a callback")

    with portal.wrap_async_context_manager(HOST(application, lifespan=True)) as port:
        site = Site(port, "/live", chat)
        with site.connect() as connection:
            client = Client(connection)
            client.receive()
            portal.call(fail)
            client.closed()
        assert site.get("/hello") == (200, ["hello"])
        assert site.get("/live/healthz")[0] == 503
        with pytest.raises(InvalidStatus) as caught, site.connect():
            pass
        assert caught.value.response.status_code == 503


def test_a_mount_without_a_lifespan_says_what_is_missing(portal: anyio.from_thread.BlockingPortal) -> None:
    from fastapi import FastAPI

    chat = asgi_app()
    api = FastAPI()
    api.mount("/", chat)

    async def connect() -> None:
        await api(websocket_scope(), None, None)  # type: ignore[arg-type]

    with pytest.raises(LocalError, match=r"lifespan=app\.asgi\.lifespan"):
        portal.call(connect)


class TestPlainRequests:
    @pytest.fixture
    def plain(self, portal: anyio.from_thread.BlockingPortal) -> Iterator[Site]:
        api = {"keys": ["a-key-of-the-tests-that-is-long-enough"], "max_body": 1000}
        with served(portal, FRAMEWORKS["fastapi"], "", api=api, metrics={"enabled": True}) as site:
            yield site

    def test_a_plain_get_on_the_path_of_the_socket(self, plain: Site) -> None:
        assert plain.get("/ws") == (426, {"error": "upgrade_required", "detail": "this is a WebSocket endpoint"})
        assert plain.get("/nowhere")[0] == 404

    def test_the_publish_api(self, plain: Site) -> None:
        headers = {"X-API-Key": "a-key-of-the-tests-that-is-long-enough", "Content-Type": "application/json"}
        with plain.connect() as connection:
            client = Client(connection)
            client.receive()
            body = json.dumps({"room": "chat:general", "event": "told", "data": 1}).encode()
            status, answer = plain.get("/api/publish", "POST", body, **headers)
            assert status == 200
            assert client.receive_until("told")["id"] == answer["id"]
        assert plain.get("/api/publish", "POST", b"[" + b" " * 1000, **headers)[0] == 413
        assert plain.get("/api/publish", "POST", b"{}")[0] == 401
