"""Real applications behind a node, asked by clients that nobody here wrote; and WebSockets beside them."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import urllib.request
from collections.abc import Iterator
from typing import Any

import aiohttp
import httpx
import pytest

from tests.fallback.apps import make_api, make_django, make_litestar, make_starlette
from tests.fallback.conftest import live_fallback
from tests.server.chat import make_app
from tests.server.live import SHELLS, LiveServer, Shell

Api = tuple[LiveServer, httpx.Client, list[str]]


@pytest.fixture(scope="module")
def served(shell: Shell) -> Iterator[Api]:
    """FastAPI on every shell, one server for the module."""
    app, events = make_app(), list[str]()
    with (
        live_fallback(make_api(app, events), shell, app=app) as server,
        httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=30, trust_env=False) as client,
    ):
        yield server, client, events
    assert events[-1] == "shutdown"


def logged(server: LiveServer, caplog: pytest.LogCaptureFixture, message: str) -> logging.LogRecord:
    """The one record with that message, which may be written a moment after the response."""
    while not (found := [record for record in caplog.records if record.message == message]):
        server.call(lambda: None)
    (record,) = found
    return record


class TestFastAPI:
    def test_routes_state_and_errors(self, served: Api) -> None:
        _, client, events = served
        assert events[0] == "startup"
        assert client.get("/items/7", params={"q": "a b"}).json() == {"number": 7, "q": "a b", "greeting": "hello"}
        assert client.get("/blocking").json() == {"in": "a thread"}
        created = client.post("/items", json={"name": "tea", "price": 2.5})
        assert (created.status_code, created.json()) == (201, {"name": "tea", "price": 2.5})
        assert client.post("/items", json={"name": "tea"}).status_code == 422
        assert client.get("/items/x").status_code == 422
        assert client.get("/nowhere").json() == {"detail": "Not Found"}
        assert client.get("/docs").status_code == 200
        # All of it came on one connection.
        assert "date" in created.headers

    def test_a_file_of_some_megabytes_comes_and_goes(self, served: Api) -> None:
        _, client, _ = served
        data = bytes(range(256)) * 16_384
        answer = client.post("/upload", files={"file": ("data.bin", data)}).json()
        assert answer == {"name": "data.bin", "size": len(data), "sum": sum(data) % 65_521}
        large = client.get("/large")
        assert large.content == b"".join(bytes([number]) * 65_536 for number in range(64))
        assert large.headers["transfer-encoding"] == "chunked"

    def test_middleware(self, served: Api) -> None:
        _, client, _ = served
        text = client.get("/text")
        assert text.headers["content-encoding"] == "gzip"
        assert text.json() == {"text": "word " * 1000}
        asked = {"Origin": "https://app.example.com", "Access-Control-Request-Method": "PUT"}
        preflight = client.options("/items", headers=asked)
        assert preflight.headers["access-control-allow-origin"] == "https://app.example.com"
        other = client.options("/items", headers={**asked, "Origin": "https://evil.example"})
        assert other.status_code == 400

    def test_background_tasks_run_behind_the_response(self, served: Api) -> None:
        server, client, events = served
        assert client.post("/background").json() == {"ok": True}
        while "background" not in events:
            server.call(lambda: None)
        assert client.get("/items/1").status_code == 200

    def test_a_stream_is_seen_as_it_comes_and_ends_with_its_reader(self, served: Api) -> None:
        server, client, _ = served
        with client.stream("GET", "/ticks") as response:
            lines = response.iter_lines()
            seen = [next(lines) for _ in range(5)]
        assert seen == ["data: 0", "", "data: 1", "", "data: 2"]
        # Its generator may be left to the garbage collector; the call of the application is over.
        while server.call(lambda: server.node.fallback._running):  # type: ignore[union-attr]
            pass

    def test_what_a_route_raises_is_500_and_logged(self, served: Api, caplog: pytest.LogCaptureFixture) -> None:
        server, client, _ = served
        assert client.get("/fails").status_code == 500
        record = logged(server, caplog, "the fallback failed")
        assert record.exc_info is not None
        assert str(record.exc_info[1]) == "of the route"

    def test_websockets_and_rest_on_one_port(self, served: Api) -> None:
        """What a route publishes comes to the room's members; the socket is the node's own."""
        server, client, _ = served
        member = server.connect("ann")
        answer = client.post("/say/general", params={"text": "from a route"})
        assert answer.status_code == 200
        event = member.receive_until("message.new")
        assert (event["data"], event["id"]) == ("from a route", answer.json()["id"])
        assert client.get("/healthz").json()["status"] == "ok"
        assert client.get("/readyz").json() == {"status": "ready"}

    def test_the_access_log_has_no_query(self, served: Api, caplog: pytest.LogCaptureFixture) -> None:
        server, client, _ = served
        caplog.set_level("DEBUG")
        client.get("/items/9", params={"token": "a-secret", "q": "a-secret"})
        record = logged(server, caplog, "request")
        fields: dict[str, Any] = record.roomwire  # type: ignore[attr-defined]
        assert (fields["method"], fields["path"], fields["status"]) == ("GET", "/items/9", 200)
        assert fields["size"] > 10
        assert fields["duration"] >= 0
        ours = [record for record in caplog.records if record.name.startswith("roomwire")]
        assert not any("a-secret" in str(record.__dict__) for record in ours)


class TestClients:
    def test_curl(self, served: Api) -> None:
        base = f"http://127.0.0.1:{served[0].port}"
        upload = ["-F", "file=@" + __file__, f"{base}/upload"]
        done = subprocess.run(
            ["curl", "-sS", "--fail", f"{base}/items/1", "--next", "-sS", "--fail", *upload],
            capture_output=True,
            check=True,
            timeout=30,
        )
        assert b'"number":1' in done.stdout
        assert b'"name":"test_frameworks.py"' in done.stdout
        again = [f"{base}/items/1", f"{base}/items/2", "-w", "%{num_connects}"]
        kept = subprocess.run(["curl", "-sS", *again], capture_output=True, check=True, timeout=30)
        assert kept.stdout.endswith(b"0")  # the last one came on a connection that was kept

    def test_urllib(self, served: Api) -> None:
        request = urllib.request.Request(
            f"http://127.0.0.1:{served[0].port}/items",
            data=json.dumps({"name": "tea", "price": 1}).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            assert json.load(response) == {"name": "tea", "price": 1.0}

    def test_aiohttp_many_at_once_and_an_upload_in_chunks(self, served: Api) -> None:
        async def run() -> None:
            async with aiohttp.ClientSession(f"http://127.0.0.1:{served[0].port}") as session:

                async def one(number: int) -> Any:
                    async with session.get(f"/items/{number}") as response:
                        return (await response.json())["number"]

                assert await asyncio.gather(*map(one, range(100))) == list(range(100))

                async def pieces() -> Any:
                    for _ in range(50):
                        yield b"x" * 10_000

                form = aiohttp.FormData()
                form.add_field("file", pieces(), filename="a")
                async with session.post("/upload", data=form) as response:
                    assert (await response.json())["size"] == 500_000

        asyncio.run(run())


def test_starlette(shell: Shell) -> None:
    with (
        live_fallback(make_starlette(), shell) as server,
        httpx.Client(base_url=f"http://127.0.0.1:{server.port}", trust_env=False) as client,
    ):
        answer = client.put("/echo?a=b", content=(b"x" * 1000 for _ in range(300))).json()
        assert answer == {"size": 300_000, "method": "PUT", "url": f"http://127.0.0.1:{server.port}/echo?a=b"}
        assert client.head("/echo").content == b""


def test_litestar(shell: Shell) -> None:
    with (
        live_fallback(make_litestar(), shell) as server,
        httpx.Client(base_url=f"http://127.0.0.1:{server.port}", trust_env=False) as client,
    ):
        assert client.get("/shelf").json() == {"number": 3}
        assert client.post("/shelf", json={"a": [1]}).json() == {"a": [1]}
        assert client.put("/shelf").status_code == 405


@pytest.mark.parametrize("name", ["callback-asyncio", "callback-uvloop", "portable-asyncio"])
def test_django_which_has_no_lifespan(name: str) -> None:
    with (
        live_fallback(make_django(), SHELLS[name]) as server,
        httpx.Client(base_url=f"http://127.0.0.1:{server.port}", trust_env=False) as client,
    ):
        assert client.get("/page", params={"a": "b"}).text == "GET /page?a=b 0"
        assert client.post("/page", content=b"x" * 100_000).text == "POST /page 100000"
        assert client.get("/nowhere").status_code == 404
