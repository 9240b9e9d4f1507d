"""``POST /api/publish`` on every shell: who may, what is published, and what is answered."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest

from roomwire.backplanes.memory import MemoryBackplane
from roomwire.core.limits import Limits
from tests.server.live import SHELLS, LiveServer
from tests.server.publishing import EVENT, KEY, OLD_KEY, api_server, post
from tests.server.raw import connect


@pytest.fixture(scope="module", params=SHELLS)
def server(request: pytest.FixtureRequest) -> Iterator[LiveServer]:
    with api_server(SHELLS[request.param], limits=Limits(max_event_size=2000)) as started:
        yield started


class TestAnEvent:
    def test_reaches_the_members_and_its_id_is_answered(self, server: LiveServer) -> None:
        client = server.connect()
        response = post(server, EVENT)
        assert response.status == 200
        assert response.header("content-type") == "application/json"
        message = client.receive_until("told")
        assert message == {**EVENT, "id": response.json["id"]}

    def test_may_bear_a_user_and_leave_a_client_out(self, server: LiveServer) -> None:
        ann = server.connect("ann", query="client=tab-000001")
        bob = server.connect("bob", query="client=tab-000001")
        post(server, {**EVENT, "event": "first", "user": "ann", "exclude": "tab-000001"})
        post(server, {**EVENT, "event": "second"})
        assert bob.receive_until("first")["user"] == "ann"
        seen = [ann.receive()["event"]]
        while seen[-1] != "second":
            seen.append(ann.receive()["event"])
        assert "first" not in seen

    def test_may_be_bytes(self, server: LiveServer) -> None:
        client = server.connect()
        content = base64.b64encode(b"\x00\xff").decode()
        post(server, {"room": "chat:general", "event": "image", "data_base64": content})
        assert client.receive()[-2:] == b"\x00\xff"

    def test_may_be_ephemeral(self, server: LiveServer) -> None:
        client = server.connect()
        assert post(server, {**EVENT, "event": "typing", "history": False}).json == {"id": None}
        assert "id" not in client.receive_until("typing")

    @pytest.mark.parametrize("in_header", [True, False])
    def test_takes_effect_once_with_a_key(self, server: LiveServer, in_header: bool) -> None:
        room = f"chat:once-{in_header}"
        body = {**EVENT, "room": room} if in_header else {**EVENT, "room": room, "key": "order-17"}
        headers = ("Idempotency-Key: order-17",) if in_header else ()
        first, second = post(server, body, *headers), post(server, body, *headers)
        assert (first.status, first.json) == (200, second.json)
        assert first.json["id"].endswith(":1")

    def test_s_own_key_goes_before_the_request_s(self, server: LiveServer) -> None:
        body = {**EVENT, "room": "chat:keys"}
        first = post(server, {**body, "key": "own"}, "Idempotency-Key: common").json
        assert post(server, body, "Idempotency-Key: common").json != first
        assert post(server, {**body, "key": "own"}).json == first

    @pytest.mark.parametrize(
        ("change", "status", "error", "text"),
        [
            ({"room": ""}, 400, "invalid", "no room name"),
            ({"event": "ack"}, 400, "invalid", "belongs to the protocol"),
            ({"exclude": "x"}, 400, "invalid", "no client's id"),
            ({"size": 1}, 400, "invalid", "an unknown field"),
            ({"data": "x" * 3000}, 413, "too_large", "limits.max_event_size is 2000"),
        ],
    )
    def test_that_is_wrong_is_told_what_is(
        self, server: LiveServer, change: dict[str, Any], status: int, error: str, text: str
    ) -> None:
        response = post(server, {**EVENT, **change})
        assert (response.status, response.json["error"]) == (status, error)
        assert text in response.json["detail"]


class TestABatch:
    def test_is_answered_in_its_order(self, server: LiveServer) -> None:
        events = [{**EVENT, "room": f"chat:batch-{number % 2}", "data": number} for number in range(3)]
        response = post(server, events)
        assert response.status == 200
        assert [item["id"].partition(":")[2] for item in response.json] == ["1", "1", "2"]

    def test_says_of_each_what_was_wrong(self, server: LiveServer) -> None:
        response = post(server, [EVENT, {**EVENT, "event": "ack"}, 7])
        assert response.status == 207
        good, reserved, none = response.json
        assert good["id"]
        assert (reserved["error"], none) == ("invalid", {"error": "invalid", "detail": "an event is a JSON object"})

    def test_that_is_wrong_all_through_has_that_status(self, server: LiveServer) -> None:
        assert post(server, [7, 8]).status == 400

    def test_takes_effect_once_with_a_key_for_all(self, server: LiveServer) -> None:
        events = [{**EVENT, "room": "chat:batch-once"}] * 3
        first, second = (post(server, events, "Idempotency-Key: k").json for _ in range(2))
        assert first == second
        assert len({item["id"] for item in first}) == 3

    @pytest.mark.parametrize("size", [0, 4])
    def test_has_a_bound(self, server: LiveServer, size: int) -> None:
        response = post(server, [EVENT] * size)
        assert (response.status, response.json["error"]) == (400, "invalid")


class TestWhoMay:
    @pytest.mark.parametrize(
        "key",
        [
            f"X-API-Key: {KEY}",
            f"x-api-key: {OLD_KEY}",
            f"Authorization: Bearer {KEY}",
            f"Authorization: bearer {OLD_KEY}",
        ],
    )
    def test_whoever_has_a_key(self, server: LiveServer, key: str) -> None:
        assert post(server, EVENT, key=key).status == 200

    @pytest.mark.parametrize(
        "key",
        [
            None,
            "X-API-Key:",
            f"X-API-Key: {KEY[:-1]}",
            f"X-API-Key: {KEY}x",
            f"X-API-Key: {KEY.upper()}",
            f"X-API-Key: {KEY}\r\nX-API-Key: {KEY}",
            f"Authorization: Basic {KEY}",
            f"Authorization: {KEY}",
            f"Authorization: Bearer x\r\nX-API-Key: {KEY}",
            "X-API-Key: \xe9",
        ],
    )
    def test_nobody_else(self, server: LiveServer, key: str | None) -> None:
        response = post(server, EVENT, key=key)
        assert (response.status, response.json["error"]) == (401, "unauthorized")
        assert response.header("www-authenticate") == "Bearer"
        assert KEY not in str(response)

    def test_a_key_in_the_query_is_none(self, server: LiveServer) -> None:
        assert post(server, EVENT, key=None, target=f"/api/publish?api_key={KEY}").status == 401

    def test_it_is_asked_before_the_body_is_read(self, server: LiveServer) -> None:
        head = b"POST /api/publish HTTP/1.1\r\nHost: a\r\nContent-Length: 4000\r\nExpect: 100-continue\r\n\r\n"
        with connect(server.port, head) as link:
            assert link.response().status == 401

    def test_it_is_logged(self, server: LiveServer, caplog: pytest.LogCaptureFixture) -> None:
        post(server, EVENT, key="X-API-Key: guess-0123456789")
        (record,) = [record for record in caplog.records if record.name == "roomwire.security"]
        fields = vars(record)["roomwire"]
        assert (fields["path"], fields["status"]) == ("/api/publish", 401)
        assert "guess" not in caplog.text + json.dumps(fields)


class TestHttp:
    def test_a_client_that_waits_for_100_is_told_to_go_on(self, server: LiveServer) -> None:
        body = json.dumps(EVENT).encode()
        head = f"POST /api/publish HTTP/1.1\r\nHost: a\r\nX-API-Key: {KEY}\r\nContent-Type: application/json\r\n"
        with connect(
            server.port, f"{head}Content-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n".encode()
        ) as link:
            assert link.read(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
            link.send(body)
            assert link.response().status == 200

    @pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"])
    def test_another_method_is_405(self, server: LiveServer, method: str) -> None:
        response = post(server, b"", method=method, framing="")
        assert (response.status, response.header("allow")) == (405, "POST")

    @pytest.mark.parametrize(
        "target",
        [
            "/api/publish/",
            "/api//publish",
            "/API/publish",
            "/api/%70ublish",
            "/api",
            "/ws/../api/publish",
            "//api/publish",
        ],
    )
    def test_another_path_is_404(self, server: LiveServer, target: str) -> None:
        assert post(server, EVENT, target=target).status == 404

    @pytest.mark.parametrize(
        "kind", [None, "text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin-1"]
    )
    def test_another_type_is_415(self, server: LiveServer, kind: str | None) -> None:
        assert post(server, EVENT, kind=kind).status == 415

    def test_json_in_utf_8_may_say_so(self, server: LiveServer) -> None:
        assert post(server, EVENT, kind='Application/JSON;charset="UTF-8"').status == 200
        assert post(server, EVENT, "Content-Encoding: gzip").status == 415

    def test_it_is_404_where_there_is_no_key(self, server: LiveServer) -> None:
        api, server.node.api = server.node.api, None
        try:
            assert post(server, EVENT).status == 404
        finally:
            server.node.api = api


class TestWithoutABackplane:
    @pytest.fixture(autouse=True)
    def cut(self, server: LiveServer) -> Iterator[None]:
        backplane = server.node.backplane
        assert isinstance(backplane, MemoryBackplane)
        server.call(backplane.cut)
        yield
        server.call(backplane.heal)

    def test_an_event_is_503_and_may_be_tried_again(self, server: LiveServer) -> None:
        response = post(server, EVENT, "Idempotency-Key: k")
        assert (response.status, response.json["error"]) == (503, "unavailable")
        assert response.json["detail"] == "the event was not stored: try again with the same key"
        assert response.header("retry-after") == "5"

    def test_a_key_says_nothing_of_an_event_that_is_not_stored(self, server: LiveServer) -> None:
        response = post(server, EVENT | {"history": False, "key": "k"})
        assert (response.status, response.json["detail"]) == (
            503,
            "the event was not stored: ephemeral events have no key, so that a second try may be a second event",
        )

    def test_of_a_batch_nothing_is_tried_behind_it(self, server: LiveServer) -> None:
        response = post(server, [EVENT, EVENT, 7])
        assert (response.status, response.header("retry-after")) == (207, "5")
        assert [item["error"] for item in response.json] == ["unavailable", "unavailable", "invalid"]
        assert response.json[1]["detail"].startswith("not tried")
        # Nor where one that is wrong stands between.
        assert post(server, [EVENT, 7, EVENT]).json[2]["detail"].startswith("not tried")
        assert post(server, [EVENT, EVENT]).status == 503
