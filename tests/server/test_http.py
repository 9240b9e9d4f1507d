"""Plain HTTP on the same port: health, the browser client, and nothing else."""

from __future__ import annotations

import json
import re
import socket
from importlib.resources import files

import pytest

from roomwire.testing.clock import VirtualClock
from roomwire.transports.contract import HttpResponse
from tests.server.conftest import Serve
from tests.server.live import LiveServer, Shell, make_token
from tests.server.raw import Response, connect, exchange, request
from tests.server.watching import carriers, until

BROWSER_CLIENT = files("roomwire.client").joinpath("js", "roomwire.js").read_bytes()


def page() -> HttpResponse:
    """As `roomwire.serving` declares it."""
    return HttpResponse(200, BROWSER_CLIENT, "text/javascript; charset=utf-8", (("Cache-Control", "no-cache"),))


def broken() -> HttpResponse:
    raise RuntimeError("the file is gone")


def injecting() -> HttpResponse:
    return HttpResponse(200, b"", headers=(("X-Name", "a\r\nSet-Cookie: b"),))


PAGES = {"/roomwire.js": page, "/broken": broken, "/injecting": injecting}


@pytest.fixture
def server(shell: Shell, serve: Serve) -> LiveServer:
    """On a clock that stands still: an answer that is read slowly is not cut off."""
    return serve(shell, pages=PAGES, clock=VirtualClock())


def ask(server: LiveServer, path: str, method: str = "GET", *headers: str) -> Response:
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", *headers]
    return exchange(server.port, ("\r\n".join(lines) + "\r\n\r\n").encode())


def test_healthz_tells_that_the_loop_turns(server: LiveServer) -> None:
    response = ask(server, "/healthz")
    assert response.status == 200
    assert response.header("content-type") == "application/json"
    assert response.json["status"] == "ok"
    assert response.json["loop_lag"] >= 0


def test_readyz_is_503_while_draining(shell: Shell, serve: Serve) -> None:
    server = serve(shell, drain_timeout=30.0, clock=VirtualClock())
    assert (ask(server, "/readyz").status, ask(server, "/readyz").json) == (200, {"status": "ready"})
    bearer = f"Authorization: Bearer {make_token('ann')}"
    with connect(server.port, request("/ws", bearer)) as held, connect(server.port, b"GET ") as probe:
        held.upgraded()
        held.event("session.welcome")
        until(server, lambda: len(carriers(server)) == 2)  # what is not accepted yet is lost with the listener
        server.call(server.node.runtime.spawn, server.node.drain.run)
        held.event("session.closing")
        probe.send(b"/readyz HTTP/1.1\r\nHost: a\r\n\r\n")
        response = probe.response()
        assert (response.status, response.json) == (503, {"status": "draining"})


def test_readyz_is_503_without_the_backplane(server: LiveServer) -> None:
    server.call(server.node.hub.available, False)
    assert ask(server, "/readyz").status == 503
    assert ask(server, "/healthz").status == 200
    server.call(server.node.hub.available, True)
    assert ask(server, "/readyz").status == 200


def test_health_needs_no_token_and_no_origin(server: LiveServer) -> None:
    assert ask(server, "/healthz", "GET", "Origin: https://evil.example", "Authorization: Bearer x").status == 200
    assert ask(server, "/healthz?token=x").status == 200


def test_the_browser_client_is_served_whole(server: LiveServer) -> None:
    response = ask(server, "/roomwire.js")
    assert response.status == 200
    assert response.header("content-type") == "text/javascript; charset=utf-8"
    assert response.header("cache-control") == "no-cache"
    assert response.header("content-length") == str(len(BROWSER_CLIENT))
    assert response.body == BROWSER_CLIENT


def test_head_is_answered_without_a_body(server: LiveServer) -> None:
    for path in ("/healthz", "/readyz", "/roomwire.js"):
        whole, head = ask(server, path), ask(server, path, "HEAD")
        assert head.status == whole.status == 200
        assert head.body == b""
        assert {name for name, _ in head.headers} == {name for name, _ in whole.headers}
    assert ask(server, "/roomwire.js", "HEAD").header("content-length") == str(len(BROWSER_CLIENT))


@pytest.mark.parametrize(
    "path", ["/", "/healthz/", "/HEALTHZ", "/roomwire.js.map", "/../healthz", "/sse/", "/%68ealthz"]
)
def test_404_for_everything_else(server: LiveServer, path: str) -> None:
    response = ask(server, path)
    assert response.status == 404
    assert response.json == {"error": "not_found", "detail": "nothing is here"}


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "get"])
def test_404_for_other_methods(server: LiveServer, method: str) -> None:
    response = ask(server, "/healthz", method, "Content-Length: 0")
    assert response.status == 404


def test_the_answer_to_a_post_arrives_though_its_body_is_not_read(server: LiveServer) -> None:
    with connect(server.port, b"POST /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 5000000\r\n\r\n") as link:
        for _ in range(20):
            link.send(b"x" * 65_536)
        assert link.response().status == 404


def test_every_answer_ends_the_connection(server: LiveServer) -> None:
    """A second request in the same packet is not read, so nothing can be smuggled behind the first."""
    for path in ("/healthz", "/roomwire.js", "/nowhere"):
        once = f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\n\r\n".encode()
        with connect(server.port, once + b"GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n") as link:
            data = link.read_to_end()
        assert Response.parse(data).header("connection") == "close"
        assert len(re.findall(rb"HTTP/1\.1 \d\d\d", data)) == 1


def test_http_1_0_is_served(server: LiveServer) -> None:
    response = exchange(server.port, b"GET /healthz HTTP/1.0\r\n\r\n")
    assert response.status == 200
    assert json.loads(response.body)["status"] == "ok"


def test_a_client_that_half_closes_behind_its_request_gets_the_whole_answer(server: LiveServer) -> None:
    with connect(server.port) as link:
        link.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        link.send(b"GET /roomwire.js HTTP/1.1\r\nHost: a\r\n\r\n")
        link.half_close()
        assert link.response().body == BROWSER_CLIENT


def test_an_answer_larger_than_the_kernels_buffers_arrives_though_the_client_half_closed(
    shell: Shell, serve: Serve
) -> None:
    large = b"x" * 20_000_000
    pages = {"/large": lambda: HttpResponse(200, large, "application/octet-stream")}
    server = serve(shell, pages=pages, clock=VirtualClock())
    with connect(server.port, b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n") as link:
        link.half_close()
        assert link.response().body == large


@pytest.mark.parametrize("path", ["/broken", "/injecting"])
def test_503_where_the_page_fails(server: LiveServer, path: str) -> None:
    response = ask(server, path)
    assert response.status == 503
    assert response.json == {"error": "unavailable", "detail": "the server failed; it has been logged"}
    assert "set-cookie" not in dict(response.headers)
    assert ask(server, "/healthz").status == 200
