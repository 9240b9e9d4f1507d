"""Requests for event streams that are refused, before the response begins; and pages of other origins."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import pytest

from roomwire.auth.tokens import unauthorized
from roomwire.core.errors import Unavailable
from roomwire.core.identity import Identity
from roomwire.core.limits import Limits
from roomwire.core.request import RequestHead
from roomwire.node import Connection
from tests.server.chat import Log, make_app
from tests.server.live import ASGI_HOSTS, SHELLS, LiveServer, live_server, make_token
from tests.server.raw import exchange, request
from tests.server.streaming import Viewers
from tests.server.watching import until

EVERY = {**SHELLS, **ASGI_HOSTS}
ORIGIN = "https://app.example.com"
LOG = Log()


@pytest.fixture(scope="module", params=EVERY)
def server(request: pytest.FixtureRequest) -> Iterator[LiveServer]:
    with live_server(make_app(LOG), EVERY[request.param], origins=(ORIGIN,)) as server:
        yield server


@pytest.fixture
def viewers(server: LiveServer) -> Iterator[Viewers]:
    with Viewers(server) as viewers:
        yield viewers


class TestRefusals:
    @pytest.mark.parametrize(
        ("query", "user", "status", "error"),
        [
            ("", "nobody-else", 400, "bad_request"),
            ("room=", "nobody-else", 400, "bad_request"),
            ("room=chat:a&room=chat:b", "nobody-else", 400, "bad_request"),
            ("room=chat:general&last_event_id=nonsense", "nobody-else", 400, "bad_request"),
            ("room=chat:general&client=short", "nobody-else", 400, "bad_request"),
            ("room=chat:general", "banned", 403, "forbidden"),
            ("room=chat:secret", "nobody-else", 403, "forbidden"),
            ("room=chat:full", "nobody-else", 403, "forbidden"),
            ("room=nowhere", "nobody-else", 403, "forbidden"),
            ("room=numbered:none", "nobody-else", 403, "forbidden"),
            ("room=chat:broken", "nobody-else", 503, "unavailable"),
        ],
    )
    def test_what_is_wrong(self, viewers: Viewers, query: str, user: str, status: int, error: str) -> None:
        refused = viewers.ask(query, user)  # a user of its own: another test's streams may be about to end
        assert (refused.status, refused.json()["error"]) == (status, error)
        assert refused.headers["content-type"] == "application/json"
        assert not viewers.server.node.connections_of(user)

    def test_a_position_in_the_header_that_is_none(self, viewers: Viewers) -> None:
        assert viewers.ask(headers={"Last-Event-ID": "chat:general@E:7"}).status == 400

    @pytest.mark.parametrize(
        "token", ["", "nonsense", make_token("ann", secret="another secret, no shorter than ours")]
    )
    def test_no_token_or_a_bad_one(self, viewers: Viewers, token: str) -> None:
        refused = viewers.ask(token=token)
        assert (refused.status, refused.headers["www-authenticate"]) == (401, "Bearer")

    def test_the_token_in_the_query_and_not_in_a_subprotocol(self, viewers: Viewers) -> None:
        token = make_token("by-query")
        assert viewers.ask(f"room=chat:general&token={token}", token="").status == 200
        headers = {"Sec-WebSocket-Protocol": f"roomwire.v1, bearer.{token}"}
        assert viewers.ask(token="", headers=headers).status == 401

    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
    def test_other_methods(self, viewers: Viewers, method: str) -> None:
        refused = viewers.ask(method=method)
        assert (refused.status, refused.headers["allow"]) == (405, "GET, HEAD")

    def test_a_head_asks_nobody_and_takes_no_place(self, viewers: Viewers) -> None:
        asked = viewers.ask(user="head", method="HEAD")
        assert (asked.status, asked.headers["content-type"]) == (200, "text/event-stream")
        assert "content-length" not in asked.headers and asked.body() == b""
        assert not viewers.server.node.connections_of("head")
        assert viewers.ask(user="head", method="HEAD", token="").status == 401
        assert viewers.ask("", user="head", method="HEAD").status == 400

    def test_a_path_below_it_is_another_one(self, viewers: Viewers) -> None:
        assert viewers.ask(path="/sse/").status == 404

    def test_the_places_of_a_user_are_for_both_kinds(self, server: LiveServer, viewers: Viewers) -> None:
        socket = server.connect("much")
        for _ in range(4):
            viewers.view(user="much")
        refused = viewers.ask(user="much")
        assert (refused.status, refused.json()["error"]) == (429, "too_many_connections")
        assert int(refused.headers["retry-after"]) > 0
        socket.close()
        until(server, lambda: len(server.node.connections_of("much")) == 4)
        viewers.view(user="much")

    def test_who_is_not_let_in_displaces_nobody(self, server: LiveServer, viewers: Viewers) -> None:
        old = viewers.view(user="stays", client="the-same-client")
        assert viewers.ask("room=chat:secret&client=the-same-client", "stays").status == 403
        ids = server.publish(1)
        assert old.take("told", 1) == ids

    def test_the_backplane_is_away(self, viewers: Viewers, monkeypatch: pytest.MonkeyPatch) -> None:
        async def claim(*_: Any, **__: Any) -> Any:
            raise Unavailable

        monkeypatch.setattr(viewers.server.node.backplane, "claim", claim)
        refused = viewers.ask()
        assert (refused.status, int(refused.headers["retry-after"]) > 0) == (503, True)

    def test_a_refusal_is_logged_without_the_query(self, viewers: Viewers, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.INFO, "roomwire"):
            assert viewers.ask(f"room=chat:secret&token={make_token('ann')}", token="").status == 403
        (record,) = [record for record in caplog.records if record.getMessage() == "refuse"]
        fields = vars(record)["roomwire"]
        assert (fields["status"], fields["path"]) == (403, "/sse")
        assert "token" not in caplog.text

    def test_taken_out_while_it_is_decided(self, server: LiveServer, viewers: Viewers) -> None:
        with asked(LOG) as (reached, go_on):
            answers: list[int] = []
            thread = threading.Thread(target=lambda: answers.append(viewers.ask("room=chat:9", "out").status))
            thread.start()
            assert reached.wait(30)
            server.act(server.node.app.remove, "out", "chat:9")
            server.call(go_on)
            thread.join(30)
        assert answers == [403]

    def test_disconnected_while_it_is_decided(self, server: LiveServer, viewers: Viewers) -> None:
        with asked(LOG) as (reached, go_on):
            answers: list[int] = []
            thread = threading.Thread(target=lambda: answers.append(viewers.ask("room=chat:9", "out").status))
            thread.start()
            assert reached.wait(30)
            server.act(server.node.app.disconnect, "out")
            server.call(go_on)
            thread.join(30)
        assert answers == [403]
        assert not server.node.connections_of("out")


@contextmanager
def asked(log: Log) -> Iterator[tuple[threading.Event, Callable[[], None]]]:
    """The policy of a room takes its time: whether it was asked, and what has it answer."""
    reached, release = threading.Event(), anyio.Event()

    async def joining(_: Connection, channel: str) -> None:
        if channel == "9":
            reached.set()
            await release.wait()

    log.joining = joining
    try:
        yield reached, release.set
    finally:
        log.joining = None


class TestPagesOfOtherOrigins:
    def test_one_that_may_connect_may_read_the_answer(self, viewers: Viewers) -> None:
        headers = viewers.ask(headers={"Origin": ORIGIN}).headers
        assert headers["access-control-allow-origin"] == ORIGIN
        assert headers["vary"] == "Origin"
        assert "access-control-allow-credentials" not in headers

    def test_and_why_it_was_refused(self, viewers: Viewers) -> None:
        refused = viewers.ask("room=chat:secret", headers={"Origin": ORIGIN})
        assert (refused.status, refused.headers["access-control-allow-origin"]) == (403, ORIGIN)

    def test_and_when_to_come_back(self, viewers: Viewers) -> None:
        """`Retry-After` is no header that the Fetch Standard lets pages see by itself ("CORS-safelisted")."""
        for _ in range(5):
            viewers.view(user="often")
        refused = viewers.ask(user="often", headers={"Origin": ORIGIN})
        assert (refused.status, int(refused.headers["retry-after"]) > 0) == (429, True)
        assert refused.headers["access-control-expose-headers"] == "Retry-After"
        unknown = viewers.ask("room=chat:broken", headers={"Origin": ORIGIN})
        assert (unknown.status, unknown.headers["access-control-expose-headers"]) == (503, "Retry-After")

    @pytest.mark.parametrize("origin", ["https://evil.example.com", "null", f"{ORIGIN}, https://evil.example.com"])
    def test_another_one_may_not(self, viewers: Viewers, origin: str) -> None:
        refused = viewers.ask(headers={"Origin": origin})
        assert (refused.status, refused.headers["vary"]) == (403, "Origin")
        assert "access-control-allow-origin" not in refused.headers

    @pytest.mark.parametrize("headers", ["authorization", "authorization,cache-control,last-event-id"])
    def test_one_that_may_connect_may_send_a_token_in_a_header(self, viewers: Viewers, headers: str) -> None:
        answer = viewers.ask(method="OPTIONS", token="", headers=asking(ORIGIN, headers))
        assert (answer.status, answer.body()) == (204, b"")
        assert answer.headers["access-control-allow-origin"] == ORIGIN
        assert answer.headers["access-control-allow-methods"] == "GET"
        assert set(headers.split(",")) <= set(answer.headers["access-control-allow-headers"].lower().split(", "))
        assert int(answer.headers["access-control-max-age"]) > 0
        assert answer.headers["vary"] == "Origin"
        # RFC 9110 section 8.6, RFC 9112 section 6.1
        assert not {"content-length", "transfer-encoding"} & set(answer.headers)

    def test_it_is_asked_in_advance_by_any_room(self, viewers: Viewers) -> None:
        """Nothing but the Origin decides: the request itself is answered with what is wrong."""
        assert viewers.ask("", method="OPTIONS", token="", headers=asking(ORIGIN)).status == 204

    @pytest.mark.parametrize("origin", ["https://evil.example.com", "null"])
    def test_another_one_that_asks_in_advance_is_refused(self, viewers: Viewers, origin: str) -> None:
        refused = viewers.ask(method="OPTIONS", token="", headers=asking(origin))
        assert (refused.status, refused.json()["error"], refused.headers["vary"]) == (403, "forbidden", "Origin")
        assert not [name for name in refused.headers if name.startswith("access-control-")]

    @pytest.mark.parametrize("method", ["POST", "OPTIONS"])
    def test_it_may_read_that_a_method_is_another_one(self, viewers: Viewers, method: str) -> None:
        refused = viewers.ask(method=method, headers={"Origin": ORIGIN})
        assert (refused.status, refused.headers["access-control-allow-origin"]) == (405, ORIGIN)
        refused = viewers.ask(method=method, headers={"Origin": "https://evil.example.com"})
        assert (refused.status, refused.headers["vary"]) == (405, "Origin")
        assert "access-control-allow-origin" not in refused.headers

    def test_the_own_origin(self, server: LiveServer, viewers: Viewers) -> None:
        assert viewers.ask(headers={"Origin": f"http://127.0.0.1:{server.port}"}).status == 200


def asking(origin: str, headers: str = "authorization") -> dict[str, str]:
    """What a browser adds to the OPTIONS that it sends in advance."""
    return {
        "Origin": origin,
        "Access-Control-Request-Method": "GET",
        "Access-Control-Request-Headers": headers,
    }


def test_without_a_path_there_are_no_streams() -> None:
    with live_server(make_app(), streams={}) as server:
        assert exchange(server.port, request("/sse?room=chat:general")).status == 404


class ByCookie:
    """An application's own authenticator, for its own pages."""

    async def start(self) -> None:
        pass

    async def aclose(self) -> None:
        pass

    async def authenticate(self, head: RequestHead) -> Identity:
        if head.header(b"cookie") != b"session=ann":
            raise unauthorized("no session")
        return Identity("ann")


def test_what_a_browser_sends_by_itself_counts_for_nothing() -> None:
    """An image of any page can ask for a stream, with the user's cookies and without an Origin."""
    headers = {"Cookie": "session=ann"}
    with live_server(make_app(), authenticator=ByCookie()) as server, Viewers(server) as viewers:
        assert server.connect(token="", headers=headers).welcome["user"] == "ann"
        assert viewers.ask(token="", headers=headers).status == 401


def test_a_full_node() -> None:
    with live_server(make_app(), limits=Limits(max_connections=1)) as server, Viewers(server) as viewers:
        viewers.view(user="first")
        refused = viewers.ask(user="second")
        assert (refused.status, refused.json()["detail"]) == (503, "the server is full")
