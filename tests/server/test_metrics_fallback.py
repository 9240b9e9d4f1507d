"""What is counted of requests that the fallback answers: by asking it, on both shells, on one server for each."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import anyio
import pytest

from roomwire.core.limits import Limits
from tests.server.live import TIMEOUT, LiveServer, Shell
from tests.server.raw import connect
from tests.server.scraping import BOTH, Scrape, ask, measured_server
from tests.server.watching import until


class Api:
    """An ASGI application that answers with the status at the end of the path.

    What is before it says how: `held` when the gate is open, `cut` with half of it, `raises` not at all, `leaves`
    when the client is gone.
    """

    gate: anyio.Event

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        how, _, status = scope["path"].strip("/").rpartition("/")
        if how == "held":
            await self.gate.wait()
        elif how == "leaves":
            while (await receive())["type"] != "http.disconnect":
                pass
            return
        elif how == "raises":
            raise RuntimeError("of the route")
        await send({"type": "http.response.start", "status": int(status), "headers": [(b"content-length", b"4")]})
        if how == "cut":
            await send({"type": "http.response.body", "body": b"ha", "more_body": True})
            raise RuntimeError("in the middle")
        await send({"type": "http.response.body", "body": b"full"})


API = Api()


@pytest.fixture(scope="module", params=BOTH, ids=lambda shell: shell.name)
def serving(request: pytest.FixtureRequest) -> Iterator[LiveServer]:
    shell: Shell = request.param
    with measured_server(shell, fallback=API, limits=Limits(max_requests=2, max_request_body=10)) as server:
        yield server


@pytest.fixture
def server(serving: LiveServer) -> Iterator[LiveServer]:
    API.gate = anyio.Event()
    yield serving
    serving.call(API.gate.set)
    idle(serving)


def idle(server: LiveServer) -> None:
    until(server, lambda: server.node.fallback._running == 0)  # type: ignore[union-attr]


def request(link: http.client.HTTPConnection, method: str, path: str, body: bytes | None = None) -> int:
    """The status of a request, on a connection that goes on."""
    link.request(method, path, body)
    response = link.getresponse()
    response.read()
    return response.status


def link_to(server: LiveServer) -> closing[http.client.HTTPConnection]:
    return closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=TIMEOUT))


def of_the_fallback(grown: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in grown.items() if name.startswith("fallback")}


def test_by_method_and_class_of_the_status(server: LiveServer) -> None:
    before = Scrape(server)
    with link_to(server) as link:  # one connection for all: a request is counted, and not a connection
        for method, status in (
            ("GET", 200),
            ("GET", 204),
            ("GET", 404),
            ("HEAD", 200),
            ("POST", 201),
            ("PUT", 304),
            ("PATCH", 503),
            ("DELETE", 299),
            ("OPTIONS", 200),
            ("get", 200),
            ("BREW", 418),
            ("GET", 799),
        ):
            assert request(link, method, f"/{status}") == status
    after = Scrape(server)
    assert of_the_fallback(after.since(before)) == {
        "fallback_requests_total{method=GET,status=2xx}": 2,
        "fallback_requests_total{method=GET,status=4xx}": 1,
        "fallback_requests_total{method=HEAD,status=2xx}": 1,
        "fallback_requests_total{method=POST,status=2xx}": 1,
        "fallback_requests_total{method=PUT,status=3xx}": 1,
        "fallback_requests_total{method=PATCH,status=5xx}": 1,
        "fallback_requests_total{method=DELETE,status=2xx}": 1,
        "fallback_requests_total{method=OPTIONS,status=2xx}": 1,
        "fallback_requests_total{method=other,status=2xx}": 1,
        "fallback_requests_total{method=other,status=4xx}": 1,
        "fallback_requests_total{method=GET,status=other}": 1,
        "fallback_seconds_count": 12,
    }


def test_what_is_in_flight_and_how_long_it_took(server: LiveServer) -> None:
    before = Scrape(server)
    held = [connect(server.port, b"GET /held/200 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n") for _ in range(2)]
    until(server, lambda: server.node.fallback._running == 2)  # type: ignore[union-attr]
    during = Scrape(server)
    assert during("fallback_requests_pending") == 2
    assert of_the_fallback(during.since(before)) == {"fallback_requests_pending": 2}
    server.advance(3.0)
    server.call(API.gate.set)
    for link in held:
        with link.sock:
            assert link.response().body == b"full"
    idle(server)
    after = Scrape(server)
    assert after("fallback_requests_pending") == 0
    assert after("fallback_seconds_count") - before("fallback_seconds_count") == 2
    assert after("fallback_seconds_sum") - before("fallback_seconds_sum") == 6.0
    assert after("fallback_seconds_bucket", le=5.0) - after("fallback_seconds_bucket", le=2.5) == 2


def test_what_fails_and_who_leaves(server: LiveServer) -> None:
    before = Scrape(server)
    with link_to(server) as link:
        assert request(link, "GET", "/raises/200") == 500
    with link_to(server) as link, pytest.raises(http.client.IncompleteRead):
        request(link, "POST", "/cut/200")
    with connect(server.port, b"GET /leaves/200 HTTP/1.1\r\nHost: h\r\n\r\n"):
        until(server, lambda: server.node.fallback._running == 1)  # type: ignore[union-attr]
    idle(server)
    assert of_the_fallback(Scrape(server).since(before)) == {
        "fallback_requests_total{method=GET,status=5xx}": 1,
        "fallback_requests_total{method=POST,status=2xx}": 1,
        "fallback_requests_total{method=GET,status=none}": 1,
        "fallback_seconds_count": 3,
    }


def test_what_the_node_answers_or_refuses_itself_is_not_the_fallbacks(server: LiveServer) -> None:
    before = Scrape(server)
    assert ask(server.port, path="/healthz").status == 200
    assert ask(server.port, path="/ws").status == 426
    with link_to(server) as link:
        assert request(link, "POST", "/200", b"x" * 11) == 413
    held = [connect(server.port, b"GET /leaves/200 HTTP/1.1\r\nHost: h\r\n\r\n") for _ in range(2)]
    until(server, lambda: server.node.fallback._running == 2)  # type: ignore[union-attr]
    with link_to(server) as link:
        assert request(link, "GET", "/200") == 503
    grown = Scrape(server).since(before)
    assert of_the_fallback(grown) == {"fallback_requests_pending": 2}
    assert grown["refusals_total{error=unavailable,status=503}"] == 1
    assert grown["refusals_total{error=too_large,status=413}"] == 1
    for peer in held:
        peer.sock.close()


def test_paths_headers_and_methods_of_others_add_no_series(server: LiveServer) -> None:
    def visit(number: int) -> None:
        with link_to(server) as link:
            assert request(link, f"H0ST1LE{number}", f"/h0st1le{number}/200?h0st1le={number}") == 200
            assert request(link, "GET", f"/h0st1le{number}/{600 + number}") == 600 + number

    visit(0)
    first = Scrape(server).series.keys()
    for number in range(1, 6):
        visit(number)
    assert Scrape(server).series.keys() == first
    assert b"h0st1le" not in ask(server.port).body.lower()
