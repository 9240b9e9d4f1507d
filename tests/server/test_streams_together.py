"""Event streams beside what else there is: other nodes, and an application's own HTTP on the port."""

from __future__ import annotations

import http.client
import itertools
import json
from typing import Any

import httpx
import httpx_sse
import pytest

from roomwire.core.limits import Limits
from tests.fallback.conftest import live_fallback
from tests.server.chat import make_app
from tests.server.conftest import ROOMS
from tests.server.live import SHELLS, TIMEOUT, live_cluster, live_server, make_token
from tests.server.streaming import Stream, Viewers
from tests.server.test_resume import lose
from tests.server.watching import until


def test_on_two_nodes() -> None:
    """The places of a user, an order and a resume know no node."""
    limits = Limits(connections_per_user=2)
    with live_cluster([make_app(), make_app()], rooms=ROOMS, limits=limits) as (one, two):
        with Viewers(one) as here, Viewers(two) as there:
            stream, socket = here.view(), two.connect("ann")
            assert there.ask().status == 429
            ids = two.publish(3)
            assert stream.take("told", 3) == ids
            members = two.act(two.node.app.members, "chat:general")
            assert [member.user for member in members] == ["ann"]
            socket.close()
            until(two, lambda: not two.node.connections_of("ann"))
            two.act(two.node.app.disconnect, "ann", code=1012)
            *_, last = stream.rest()
            assert json.loads(last.data)["data"]["code"] == 1012
            ids += one.publish(2)
            assert there.view(since=ids[1]).take("told", 3) == ids[2:]


def test_the_same_client_moves_to_another_node() -> None:
    with live_cluster([make_app(), make_app()], rooms=ROOMS) as (one, two):
        with Viewers(one) as here, Viewers(two) as there:
            old = here.view(client="one-and-the-same")
            old.next()
            there.view(client="one-and-the-same").next()
            (last,) = [event for event in old.rest() if event.event == "session.closing"]
            assert json.loads(last.data)["data"]["code"] == 4501


@pytest.mark.parametrize("shell", SHELLS)
def test_a_store_that_lost_everything(shell: str) -> None:
    """Who is there is given the state, and its position is where the viewer resumes from then on."""
    with live_server(make_app(), SHELLS[shell], rooms=ROOMS) as server, Viewers(server) as viewers:
        stream = viewers.view()
        (old,) = server.publish(1)
        stream.until("told")
        lose(server)
        state = stream.until("room.state")
        assert (state["data"]["reason"], stream.last_event_id) == ("epoch", state["id"])
        ids = server.publish(2)
        assert stream.take("told", 2) == ids
        assert viewers.view(since=state["id"]).take("told", 2) == ids
        assert viewers.view(since=old).until("room.state")["id"] == ids[-1]


def test_more_was_missed_than_one_resume_may_replay() -> None:
    with live_server(make_app(), rooms=ROOMS, limits=Limits(replay_events=10)) as server, Viewers(server) as viewers:
        ids = server.publish(12)
        assert viewers.view(since=ids[1]).take("told", 10) == ids[2:]
        far = viewers.view(since=ids[0])
        assert far.until("room.state")["data"]["reason"] == "too_far"
        assert far.last_event_id == ids[-1]


def test_a_fault_on_its_account_ends_one_stream_and_no_other(caplog: pytest.LogCaptureFixture) -> None:
    with live_server(make_app(), rooms=ROOMS) as server, Viewers(server) as viewers:
        one, other = viewers.view(user="one"), viewers.view(user="other")
        (connection,) = server.node.connections_of("one")
        server.call(connection._fail, RuntimeError("a fault"))
        *_, last = one.rest()
        data = json.loads(last.data)["data"]
        assert (data["code"], data["reconnect"]) == (1011, True)
        ids = server.publish(1)
        assert other.take("told", 1) == ids
    assert "a fault" in caplog.text


def test_a_reader_that_nobody_here_wrote() -> None:
    """httpx-sse splits lines by the standard, and httpx itself as `str.splitlines` does: both see whole events."""
    said = "a\u0085b\u2028c\u2029d\r\ne\x0bf"
    with live_server(make_app()) as server, httpx.Client(timeout=TIMEOUT) as client:
        url = f"http://127.0.0.1:{server.port}/sse?room=chat:general"
        headers = {"Authorization": f"Bearer {make_token('ann')}"}
        with httpx_sse.connect_sse(client, "GET", url, headers=headers) as source:
            events = source.iter_sse()
            first = next(events)
            assert (first.event, first.retry is not None and first.retry >= 1000) == ("session.welcome", True)
            ids = server.publish(2, data=said)
            for id_ in ids:
                event = next(events)
                assert (event.event, event.id, event.json()["data"]) == ("told", id_, said)
        with client.stream("GET", url, headers={**headers, "Last-Event-ID": first.id}) as response:
            data = [line for line in itertools.islice(response.iter_lines(), 11) if line.startswith("data: ")]
        assert [json.loads(line.removeprefix("data: "))["data"] for line in data[1:]] == [said, said]


async def web(scope: Any, receive: Any, send: Any) -> None:
    """An application's own HTTP."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.mark.parametrize("shell", SHELLS)
def test_on_a_connection_that_was_kept_for_a_further_request(shell: str) -> None:
    """Browsers do that with the connection on which the page came."""
    with live_fallback(web, SHELLS[shell], rooms=ROOMS) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=TIMEOUT)
        connection.request("GET", "/page")
        assert connection.getresponse().read() == b"ok"
        kept = connection.sock
        connection.request("GET", f"/sse?room=chat:general&token={make_token('ann')}")
        assert connection.sock is kept
        stream = Stream(connection)
        assert stream.status == 200
        stream.next()
        ids = server.publish(2)
        assert stream.take("told", 2) == ids
        stream.close()
