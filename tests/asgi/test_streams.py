"""Event streams on real hosts, where they differ from raw sockets: who stops reading, who is gone, and what is held."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.asgi.support import COLUMNS, says
from tests.asgi.test_backpressure import OUTBOX, narrow_server
from tests.server.live import TIMEOUT, LiveServer, make_token
from tests.server.raw import RawLink
from tests.server.streaming import Viewers, ask
from tests.server.watching import until


@pytest.fixture(scope="module", params=COLUMNS[1:])
def host(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def server(host: str) -> Iterator[LiveServer]:
    with narrow_server(host) as server:
        yield server


@pytest.fixture
def links() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def stalled_viewer(server: LiveServer, links: ExitStack, user: str) -> RawLink:
    """It has asked, and reads nothing."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.settimeout(TIMEOUT)
    sock.connect(("127.0.0.1", server.port))
    link = links.enter_context(RawLink(sock))
    head = f"GET /sse?room=chat:general&token={make_token(user)} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    link.send(head.encode())
    until(server, lambda: [connection for connection in server.node.connections_of(user) if connection.is_open])
    return link


def ends_of(caplog: pytest.LogCaptureFixture, user: str) -> list[dict[str, object]]:
    fields = [vars(record)["roomwire"] for record in caplog.records if record.getMessage() == "disconnect"]
    return [field for field in fields if field["user"] == user]


def test_one_who_stops_reading_is_too_slow_and_the_others_get_everything(
    server: LiveServer, links: ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    stalled_viewer(server, links, "stalled")
    with Viewers(server) as viewers, caplog.at_level(logging.INFO, "roomwire"):
        others = [viewers.view(user=f"user-{number}") for number in range(3)]
        (connection,) = server.node.connections_of("stalled")
        link = connection._link
        assert link is not None
        count = most = 0
        while server.node.connections_of("stalled"):
            assert count < 8000, "it takes everything"
            ids = server.publish(5, data="x" * 2000)
            count += 5
            for stream in others:
                assert stream.take("told", 5) == ids
            most = max(most, server.call(link.queued))
        assert OUTBOX / 2 < most <= OUTBOX
        assert server.call(link.queued) <= 12_000  # a block that the host has; the rest was dropped
        server.advance(6.0)
        until(server, lambda: ends_of(caplog, "stalled"))
    (end,) = ends_of(caplog, "stalled")
    assert (end["code"], end["by"], end["stream"]) == (4002, "server", "sse")


def test_a_viewer_that_is_gone(server: LiveServer, host: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "roomwire"), Viewers(server) as viewers:
        stream = viewers.view(user="leaves")
        stream.next()
        stream.close()
        until(server, lambda: ends_of(caplog, "leaves"))
    (end,) = ends_of(caplog, "leaves")
    assert str(end["code"]) == says("a viewer's end is seen as", host)
    assert (end["by"], end["stream"]) == ("peer", "sse")


def test_a_host_compresses_nothing_and_frames_by_itself(server: LiveServer, links: ExitStack) -> None:
    with Viewers(server) as viewers:
        stream = viewers.view(user="framed")
        assert stream.headers["transfer-encoding"] == "chunked"
        assert "content-encoding" not in stream.headers
        server.act(server.node.app.disconnect, "framed")
        *_, last = stream.rest()
    assert json.loads(last.data)["data"]["reconnect"] is False


def test_a_host_that_outlives_its_node_has_viewers_come_back(host: str) -> None:
    """It listens on until it is told to end. What else is asked of it is answered with 503."""
    with narrow_server(host) as server:
        server.call(server.node.drain.run)
        server.ended.result(TIMEOUT)
        stream = ask(server.port)
        assert (stream.status, stream.headers["content-type"]) == (200, "text/event-stream")
        assert stream.body().startswith(b"retry: ")
        stream.close()
        plain = ask(server.port, path="/healthz")
        assert plain.status == 503
        plain.close()
