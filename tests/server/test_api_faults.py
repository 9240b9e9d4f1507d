"""``POST /api/publish`` under bad input and bad times: what is refused, what is waited for, what is cut off."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Iterator
from typing import Any

import pytest
import trustme

from roomwire.testing.clock import VirtualClock
from tests.server.live import SHELLS, LiveServer, Shell
from tests.server.publishing import EVENT, KEY, HeldBackplane, api_server, post, request
from tests.server.raw import TIMEOUT, RawLink, connect, exchange
from tests.server.watching import carriers, until

EXPECT = "Expect: 100-continue"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
CHUNKED = "Transfer-Encoding: chunked"


def chunks(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


@pytest.fixture(scope="module", params=SHELLS)
def server(request: pytest.FixtureRequest) -> Iterator[LiveServer]:
    with api_server(SHELLS[request.param], clock=VirtualClock()) as started:
        yield started


@pytest.fixture
def held(server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> HeldBackplane:
    """A backplane that holds up what is published; the store is the server's own."""
    backplane: Any = server.call(HeldBackplane)
    server.call(backplane.start, server.node.hub, "held")
    monkeypatch.setattr(server.node, "backplane", backplane)
    return backplane  # type: ignore[no-any-return]


class TestABody:
    def test_may_come_in_chunks(self, server: LiveServer) -> None:
        body = json.dumps(EVENT).encode()
        assert post(server, chunks(body[:7], body[7:]), framing=CHUNKED).status == 200

    def test_may_come_byte_by_byte(self, server: LiveServer) -> None:
        data = request(EVENT)
        with connect(server.port) as link:
            for at in range(len(data)):
                link.send(data[at : at + 1])
            assert link.response().status == 200

    def test_may_be_as_large_as_its_bound(self, server: LiveServer) -> None:
        body = json.dumps(EVENT).encode()
        assert post(server, body + b" " * (4096 - len(body))).status == 200
        assert post(server, body + b" " * (4097 - len(body))).status == 413

    @pytest.mark.parametrize("framing", ["Content-Length: 5000000", CHUNKED])
    def test_that_is_too_large_is_answered_though_it_is_not_read(self, server: LiveServer, framing: str) -> None:
        start = b"" if framing != CHUNKED else b"4c4b40\r\n"
        with connect(server.port, request(start, framing=framing)) as link:
            for _ in range(20):
                link.send(b"x" * 65_536)
            response = link.response()
        assert (response.status, response.json["error"]) == (413, "too_large")

    def test_of_crumbs_is_refused_before_it_costs(self, server: LiveServer) -> None:
        assert post(server, chunks(*[b"x"] * 2000), framing=CHUNKED).status == 413

    @pytest.mark.parametrize(
        ("body", "framing"),
        [
            (b"zz\r\n", CHUNKED),
            (b"5\r\nhelloo", CHUNKED),
            (b"0\r\n\r\n", f"Content-Length: 5\r\n{CHUNKED}"),
            (b"", "Content-Length: x"),
            (b"", "Content-Length: -1"),
            (b"hello", "Content-Length: 5\r\nContent-Length: 6"),
            (b"", "Transfer-Encoding: gzip"),
            (b"{", None),
            (b"", None),
            (b"", ""),
            (b"[" * 4000, None),
            (b"\xff\xfe", None),
        ],
    )
    def test_that_is_wrong_is_400(self, server: LiveServer, body: bytes, framing: str | None) -> None:
        response = post(server, body, framing=framing)
        assert (response.status, response.header("connection")) == (400, "close")

    def test_of_a_header_key_that_is_wrong(self, server: LiveServer) -> None:
        assert post(server, EVENT, "Idempotency-Key: \xe9").status == 400
        assert post(server, EVENT, "Idempotency-Key: " + "x" * 256).status == 400

    def test_is_the_only_request_of_its_connection(self, server: LiveServer) -> None:
        response = exchange(server.port, request(EVENT, "Connection: keep-alive") + request(EVENT))
        assert response.status == 200
        assert set(json.loads(response.body)) == {"id"}

    def test_that_never_ends_leaves_no_trace(self, server: LiveServer) -> None:
        with connect(server.port, request(b"", EXPECT, framing="Content-Length: 100")) as link:
            assert link.read(len(CONTINUE)) == CONTINUE
            link.reset()
        assert post(server, EVENT).status == 200


class TestTime:
    def test_a_body_that_does_not_come_is_408(self, server: LiveServer) -> None:
        with connect(server.port, request(b"", EXPECT, framing="Content-Length: 100")) as link:
            assert link.read(len(CONTINUE)) == CONTINUE
            link.send(b"{")
            server.advance(server.node.limits.handshake_timeout + 1)
            assert link.response().status == 408

    def test_an_answer_that_does_not_come_is_503_and_its_publish_is_cancelled(
        self, server: LiveServer, held: HeldBackplane
    ) -> None:
        with connect(server.port, request(EVENT)) as link:
            server.call(held.asked.wait)
            server.advance(server.node.limits.handshake_timeout + 1)
            response = link.response()
        assert (response.status, response.header("retry-after")) == (503, "5")
        server.call(held.was_cancelled.wait)

    def test_a_client_that_goes_away_has_published_all_the_same(self, server: LiveServer, held: HeldBackplane) -> None:
        client = server.connect()
        with connect(server.port, request({**EVENT, "event": "late"})) as link:
            server.call(held.asked.wait)
            link.reset()
        server.call(held.may_go_on.set)
        client.receive_until("late")

    def test_two_requests_do_not_wait_for_each_other(self, server: LiveServer, held: HeldBackplane) -> None:
        with connect(server.port, request(EVENT)) as link:
            server.call(held.asked.wait)
            assert post(server, {**EVENT, "history": False}).status == 200
            server.call(held.may_go_on.set)
            assert link.response().status == 200


class TestTheNode:
    def test_a_fault_of_ours_is_503_and_says_nothing(self, server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
        async def fail(*arguments: object, **options: object) -> None:
            raise RuntimeError("a secret")

        monkeypatch.setattr(server.node, "publish", fail)
        response = post(server, EVENT)
        assert response.status == 503
        assert "secret" not in str(response)

    def test_who_is_at_the_door_is_counted(self, server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(server.node.admissions, "pending", server.node.limits.max_pending_handshakes)
        assert post(server, EVENT).status == 503


@pytest.mark.parametrize("shell", SHELLS.values(), ids=SHELLS)
def test_a_drain_waits_for_what_is_being_published(shell: Shell) -> None:
    with api_server(shell) as server:
        held = server.call(HeldBackplane)
        server.call(held.start, server.node.hub, "held")
        server.node.backplane = held
        with connect(server.port, request(EVENT)) as link, connect(server.port) as late:
            server.call(held.asked.wait)
            until(server, lambda: len(carriers(server)) == 2)
            drained = server.portal.start_task_soon(server.node.drain.run)
            until(server, lambda: server.node.draining)
            late.send(request(EVENT, key=f"Authorization: Bearer {KEY}"))
            refused = late.response()
            assert (refused.status, refused.json["detail"]) == (503, "the server is shutting down")
            assert not drained.done()
            server.call(held.may_go_on.set)
            assert link.response().status == 200
            drained.result()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.mark.parametrize("shell", SHELLS.values(), ids=SHELLS)
def test_it_is_the_same_over_tls(shell: Shell, authority: trustme.CA) -> None:
    ours, theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(ours)
    authority.configure_trust(theirs)
    body = json.dumps(EVENT).encode()

    def link_to(server: LiveServer, data: bytes) -> RawLink:
        sock = socket.create_connection(("127.0.0.1", server.port), timeout=TIMEOUT)
        link = RawLink(theirs.wrap_socket(sock, server_hostname="localhost"))
        link.send(data)
        return link

    with api_server(shell, listen={"ssl": ours}) as server:
        with link_to(server, request(b"", EXPECT, framing=f"Content-Length: {len(body)}")) as link:
            assert link.read(len(CONTINUE)) == CONTINUE
            link.send(body)
            assert link.response().status == 200
