"""Event streams (docs/reference/protocol.md section 8) on every shell and every ASGI host: what comes, and what is
resumed. One server for each; a test has a room and users of its own."""

from __future__ import annotations

import itertools
import json
import socket
from base64 import b64encode
from collections.abc import Iterator

import pytest

from roomwire.core.errors import EventTooLarge
from roomwire.core.limits import Limits
from roomwire.core.policy import RoomPolicy
from roomwire.testing.clock import VirtualClock
from tests.server.chat import make_app
from tests.server.live import ASGI_HOSTS, SHELLS, LiveServer, live_server, make_token
from tests.server.streaming import Viewers
from tests.server.watching import until

EVERY = {**SHELLS, **ASGI_HOSTS}
ROOMS = {
    "chat:*": RoomPolicy(),
    "news:*": RoomPolicy(presence=True, leave_grace=0.0),
    "numbered:*": RoomPolicy(latest=True),
    "news:fast-*": RoomPolicy(conflate_rate=100.0),
}

_numbers = itertools.count()


@pytest.fixture(scope="module", params=EVERY)
def server(request: pytest.FixtureRequest) -> Iterator[LiveServer]:
    options = {"rooms": ROOMS, "limits": Limits(max_event_size=300_000), "clock": VirtualClock()}
    with live_server(make_app(), EVERY[request.param], **options) as server:
        yield server


@pytest.fixture
def viewers(server: LiveServer) -> Iterator[Viewers]:
    with Viewers(server) as viewers:
        yield viewers


@pytest.fixture
def room() -> str:
    return f"chat:{next(_numbers)}"


@pytest.fixture
def user() -> str:
    return f"user-{next(_numbers)}"


class TestWhatComes:
    def test_the_answer_is_kept_and_changed_by_nobody(self, viewers: Viewers, room: str, user: str) -> None:
        headers = viewers.view(room, user).headers
        assert headers["content-type"] == "text/event-stream"
        assert headers["cache-control"] == "no-store, no-transform"
        assert headers["x-accel-buffering"] == "no"
        assert "content-encoding" not in headers and "content-length" not in headers

    def test_the_welcome_is_first_and_says_where_the_viewer_stands(
        self, viewers: Viewers, room: str, user: str
    ) -> None:
        stream = viewers.view(room, user, client="client-of-a-test")
        event = stream.next()
        data = json.loads(event.data)["data"]
        assert event.event == "session.welcome"
        assert (data["user"], data["client"]) == (user, "client-of-a-test")
        assert data["rooms"] == {room: {"position": event.id, "recovered": None}}
        assert stream.reader.retry is not None and stream.reader.retry >= 1000

    def test_events_are_the_native_messages(self, server: LiveServer, viewers: Viewers, room: str, user: str) -> None:
        stream, socket = viewers.view(room, user), server.connect(user)
        socket.request("room.join", room=room)
        ids = server.publish(3, room, {"text": "line\nline\r\n\u2028ü"})
        for id_ in ids:
            native = socket.receive_until("told")
            assert stream.until("told") == native
            assert stream.last_event_id == native["id"] == id_
        socket.close()

    def test_an_ephemeral_event_leaves_the_position(
        self, server: LiveServer, viewers: Viewers, room: str, user: str
    ) -> None:
        stream = viewers.view(room, user)
        (id_,) = server.publish(1, room)
        server.act(server.node.app.publish, room, "typing", 1, history=False)
        assert "id" not in stream.until("typing")
        assert stream.last_event_id == id_

    def test_bytes_are_base64(self, server: LiveServer, viewers: Viewers, room: str, user: str) -> None:
        stream = viewers.view(room, user)
        server.act(server.node.app.publish, room, "drawn", b"\0\n\xff")
        message = stream.until("drawn")
        assert (message["data"], message["encoding"]) == (b64encode(b"\0\n\xff").decode(), "base64")

    def test_what_the_application_sends_to_one(
        self, server: LiveServer, viewers: Viewers, room: str, user: str
    ) -> None:
        stream = viewers.view(room, user)
        stream.next()
        (connection,) = server.node.connections_of(user)
        assert connection.read_only
        server.act(connection.send, "hint", {"a": 1})
        server.act(connection.send, "picture", b"\0")
        # The limit is for the native message; base64 is larger by a third.
        server.act(connection.send, "large", b"x" * 299_000)
        with pytest.raises(EventTooLarge):
            server.act(connection.send, "large", b"x" * 300_000)
        assert stream.until("hint") == {"event": "hint", "data": {"a": 1}}
        assert stream.until("picture") == {"event": "picture", "data": "AA==", "encoding": "base64"}
        assert len(stream.until("large")["data"]) == 398_668

    def test_who_is_there_and_a_viewer_is_one_of_them(self, server: LiveServer, viewers: Viewers, user: str) -> None:
        room, other = f"news:{user}", f"{user}-other"
        stream = viewers.view(room, user)
        assert [p["user"] for p in stream.until("presence.state")["data"]["members"]] == [user]
        second = viewers.view(room, other)
        assert stream.until("presence.join")["data"]["user"] == other
        second.close()
        assert stream.until("presence.leave")["data"]["user"] == other

    def test_a_large_event_and_those_behind_it(
        self, server: LiveServer, viewers: Viewers, room: str, user: str
    ) -> None:
        stream = viewers.view(room, user)
        server.publish(1, room, "x" * 250_000)
        assert len(stream.until("told")["data"]) == 250_000
        ids = server.publish(50, room)
        assert stream.take("told", 50) == ids

    def test_a_sign_of_life_is_a_comment(self, server: LiveServer, viewers: Viewers, room: str, user: str) -> None:
        stream = viewers.view(room, user)
        stream.next()
        for _ in range(4):  # past the heartbeat's time-out, which is for those who can answer
            server.advance(31.0)
            stream.comment()
        (id_,) = server.publish(1, room)
        assert stream.take("told", 1) == [id_]


class TestResuming:
    def test_from_the_last_event(self, server: LiveServer, viewers: Viewers, room: str, user: str) -> None:
        stream = viewers.view(room, user)
        server.publish(2, room)
        stream.take("told", 2)
        since = stream.last_event_id
        stream.close()
        missed = server.publish(3, room)
        again = viewers.view(room, user, since=since)
        assert again.until("session.welcome")["data"]["rooms"][room]["recovered"] is True
        assert again.take("told", 3) == missed
        assert server.publish(1, room) == again.take("told", 1)

    def test_from_the_welcome_where_nothing_came_yet(
        self, server: LiveServer, viewers: Viewers, room: str, user: str
    ) -> None:
        stream = viewers.view(room, user)
        stream.next()
        since = stream.last_event_id
        stream.close()
        missed = server.publish(3, room)
        assert viewers.view(room, user, since=since).take("told", 3) == missed

    def test_by_the_query_and_the_header_is_newer(
        self, server: LiveServer, viewers: Viewers, room: str, user: str
    ) -> None:
        first, *others = server.publish(4, room)
        assert viewers.view(room, user, last_event_id=first).take("told", 3) == others
        assert viewers.view(room, user, since=others[1], last_event_id=first).take("told", 1) == others[2:]

    def test_whoever_is_cut_off_anywhere_gets_the_rest(
        self, server: LiveServer, viewers: Viewers, room: str, user: str
    ) -> None:
        """After the welcome, each event of a replay, and a live one: the last id that a client has is one from which
        nothing is missing and nothing comes twice."""
        first, *others = server.publish(4, room)
        stream = viewers.view(room, user, since=first, client="cut-off-anywhere")
        events = [stream.next() for _ in range(4)]
        others += server.publish(1, room)
        events.append(stream.next())
        had, last = [], first
        for event in events:
            last = event.id or last
            had += [event.id] if event.event == "told" else []
            rest = [id_ for id_ in others if id_ not in had]
            again = viewers.view(room, user, since=last, client="cut-off-anywhere")
            again.next()
            assert again.take("told", len(rest)) == rest
        assert had == others

    def test_the_newest_of_each_key_and_who_is_cut_off_before_them(
        self, server: LiveServer, viewers: Viewers, user: str
    ) -> None:
        """A room with ``latest``: its welcome stands before what follows at once."""
        room = f"numbered:{next(_numbers) + 1}"

        async def publish(event: str) -> str:
            return (await server.node.app.publish(room, event, 1)).id or ""

        ids = [server.act(publish, event) for event in ("a", "b", "b", "a", "b")]
        stream = viewers.view(room, user)
        welcome = stream.next()
        assert [stream.next().id for _ in range(2)] == ids[-2:]
        again = viewers.view(room, user, since=welcome.id)
        again.next()
        assert [again.next().id for _ in range(2)] == ids[-2:]

    def test_a_room_that_conflates(self, server: LiveServer, viewers: Viewers, user: str) -> None:
        room = f"news:fast-{user}"
        stream = viewers.view(room, user)
        ids = server.publish(50, room)
        seen = []
        while ids[-1] not in seen:
            server.advance(0.02)
            seen.append(stream.next().id)
        assert seen == sorted(seen, key=lambda id_: int(id_.rpartition(":")[2]))
        assert len(seen) < 10
        again = viewers.view(room, user, since=stream.last_event_id)
        again.next()
        ids = server.publish(1, room)
        server.advance(0.02)
        assert again.next().id == ids[0]

    def test_500_events(self, server: LiveServer, viewers: Viewers, room: str, user: str) -> None:
        first, *others = server.publish(501, room, "x" * 100)
        assert viewers.view(room, user, since=first).take("told", 500) == others

    def test_what_cannot_be_proven_becomes_a_state_and_only_that_has_the_position(
        self, server: LiveServer, viewers: Viewers, room: str, user: str
    ) -> None:
        (id_,) = server.publish(1, room)
        stream = viewers.view(room, user, since="another:1")
        welcome = stream.next()
        assert json.loads(welcome.data)["data"]["rooms"][room]["reason"] == "epoch"
        assert welcome.id == ""
        state = stream.until("room.state")
        assert (state["data"]["reason"], state["id"], stream.last_event_id) == ("epoch", id_, id_)

    def test_a_state_is_asked_for_on_the_first_load_alone(
        self, server: LiveServer, viewers: Viewers, room: str, user: str
    ) -> None:
        (id_,) = server.publish(1, room)
        stream = viewers.view(room, user, state="1")
        assert stream.next().id == ""
        assert stream.until("room.state")["data"] == {"reason": "requested", "state": []}
        assert stream.last_event_id == id_
        again = viewers.view(room, user, since=id_, state="1")
        assert again.next().event == "session.welcome"
        server.publish(1, room)
        assert again.next().event == "told"

    def test_a_position_that_moved_without_an_event(
        self, server: LiveServer, viewers: Viewers, room: str, user: str
    ) -> None:
        stream = viewers.view(room, user, client="excluded-one")
        other = viewers.view(room, f"{user}-2")

        async def publish() -> str:
            return (await server.node.app.publish(room, "told", 1, exclude="excluded-one")).id or ""

        id_ = server.act(publish)
        assert other.take("told", 1) == [id_]
        server.advance(31.0)
        assert stream.until("heartbeat")["data"] == {"positions": {room: id_}}
        assert stream.last_event_id == id_


class TestTheEnd:
    def test_a_viewer_that_goes_away_leaves_nothing_behind(
        self, server: LiveServer, viewers: Viewers, room: str, user: str
    ) -> None:
        stream = viewers.view(room, user)
        stream.next()
        stream.close()
        until(server, lambda: not server.node.connections_of(user) and room not in server.node.hub.rooms)

    def test_a_viewer_that_closes_its_half_ends_the_stream(self, server: LiveServer, room: str, user: str) -> None:
        head = f"GET /sse?room={room}&token={make_token(user)} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
        with server.raw(head.encode()) as sock:
            received = b""
            while b"session.welcome" not in received:
                received += sock.recv(65_536)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(65_536):
                pass
        until(server, lambda: not server.node.connections_of(user))

    def test_a_final_close_says_so_and_keeps_away(
        self, server: LiveServer, viewers: Viewers, room: str, user: str
    ) -> None:
        stream = viewers.view(room, user)
        server.act(server.node.app.disconnect, user, code=4605, reason="grüße")
        *_, last = stream.rest()
        assert (last.event, json.loads(last.data)["data"]["code"]) == ("session.closing", 4605)
        assert stream.reader.retry == 86_400_000

    def test_a_passing_close_leaves_the_time_to_come_back(
        self, server: LiveServer, viewers: Viewers, room: str, user: str
    ) -> None:
        stream = viewers.view(room, user, ttl=100.0)
        stream.next()
        retry = stream.reader.retry
        server.advance(200.0)
        *_, last = stream.rest()
        assert json.loads(last.data)["data"]["code"] == 4003
        assert stream.reader.retry == retry

    def test_who_is_taken_out_of_the_room_has_nothing_left(
        self, server: LiveServer, viewers: Viewers, room: str, user: str
    ) -> None:
        stream = viewers.view(room, user)
        server.act(server.node.app.remove, user, room)
        events = [event.event for event in stream.rest()]
        assert events == ["session.welcome", "room.removed", "session.closing"]

    def test_the_same_client_takes_over(self, server: LiveServer, viewers: Viewers, room: str, user: str) -> None:
        old = viewers.view(room, user, client="one-and-the-same")
        old.next()
        new = viewers.view(room, user, client="one-and-the-same")
        (last,) = old.rest()
        assert json.loads(last.data)["data"]["code"] == 4501
        ids = server.publish(1, room)
        assert new.take("told", 1) == ids

    def test_orders_to_enter_other_rooms_are_for_others(
        self, server: LiveServer, viewers: Viewers, room: str, user: str
    ) -> None:
        stream = viewers.view(room, user)
        server.act(server.node.app.add, user, f"{room}-2")
        server.publish(1, f"{room}-2")
        server.publish(1, room)
        assert [stream.next().event, stream.until("told")["room"]] == ["session.welcome", room]
