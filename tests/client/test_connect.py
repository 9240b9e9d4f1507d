"""The client over real sockets: opening, talking, ending."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trustme

from roomwire.client import (
    ConnectionClosed,
    ConnectionRefused,
    Event,
    Joined,
    MembersState,
    NoReply,
    Options,
    RequestFailed,
    StateReset,
    SystemTiming,
    UnknownOutcome,
    connect,
)
from roomwire.core.envelope import encode_binary, parse_binary
from roomwire.core.errors import LocalError
from roomwire.core.positions import Position
from tests.client.server import connected, scripted, serve

pytestmark = pytest.mark.anyio


class TestOpening:
    async def test_it_enters_after_the_welcome(self) -> None:
        async with serve() as server:
            async with connected(server) as (client, link):
                assert client.connected
                assert client.user == "ann"
                assert link.head.header(b"host") == f"localhost:{server.port}".encode()
                assert link.head.header(b"sec-websocket-protocol") == b"roomwire.v1"
                assert len(link.query["client"]) == 22
                assert link.token is None
                assert repr(client) == f"<Client ws://localhost:{server.port}/ws ready>"
            assert not client.connected
            assert link.closed is not None
            assert (link.closed.code, link.closed.by_peer) == (1000, True)

    async def test_over_tls(self) -> None:
        authority = trustme.CA()
        theirs = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("localhost").configure_cert(theirs)
        ours = ssl.create_default_context()
        authority.configure_trust(ours)
        async with serve(tls=theirs) as server, connected(server, ssl_context=ours) as (client, link):
            await link.send("hello")
            assert await client.receive() == Event("hello")

    async def test_over_a_unix_socket(self, tmp_path: Path) -> None:
        path = tmp_path / "socket"
        async with (
            serve(uds=path) as server,
            connected(server, url="ws://chat.example/ws", uds=str(path)) as (client, link),
        ):
            assert link.head.header(b"host") == b"chat.example"
            await link.send("hello")
            assert await client.receive() == Event("hello")

    @pytest.mark.parametrize("headers", [[("X-Shard", "7"), ("X-Note", "a b")], {"X-Shard": "7", "X-Note": "a b"}])
    async def test_further_headers(self, headers: Any) -> None:
        async with serve() as server, connected(server, headers=headers) as (_, link):
            assert link.head.header(b"x-shard") == b"7"
            assert link.head.header(b"x-note") == b"a b"

    @pytest.mark.parametrize(
        ("headers", "text"),
        [
            ("X-Key: hunter2", "headers: expected a mapping, or pairs of names and values, found str"),
            (None, "headers: expected a mapping, or pairs of names and values, found NoneType"),
            (["xy"], "headers: expected a mapping, or pairs of names and values, found str"),
            ([("X-Key", "hunter2", "")], "headers: expected a mapping, or pairs of names and values, found tuple"),
            ({"X Key": "hunter2"}, "headers: 'X Key' is no header's name"),
            ({b"X-Key": "hunter2"}, "headers: b'X-Key' is no header's name"),
            ({"Host": "hunter2"}, "headers: Host is for the client alone to set"),
            ({"Sec-WebSocket-Key": "hunter2"}, "headers: Sec-WebSocket-Key is for the client alone to set"),
            ({"X-Key": 7}, "headers: the value of X-Key is of type int, not str"),
            ({"X-Key": "hunter2\n"}, "headers: the value of X-Key has a character that no header can carry"),
            ({"X-Key": "h\u00fcnter2"}, "headers: the value of X-Key has a character that no header can carry"),
        ],
    )
    async def test_headers_that_cannot_be_sent(self, headers: Any, text: str) -> None:
        """The header is named, and its value, which may be a credential, is not."""
        with pytest.raises(LocalError) as caught:
            async with connect("ws://localhost:9/", headers=headers):
                pytest.fail("those are no headers")
        assert str(caught.value) == text

    async def test_the_first_message_may_come_with_the_handshake(self) -> None:
        async def script() -> None:
            link = await server.accept()
            sent, link.stream = link.stream, Glue(link.stream)  # type: ignore[assignment]  # all that is used of it
            await link.welcome()
            await link.send("hello")
            await link.stream.flush()  # type: ignore[attr-defined]
            link.stream = sent

        async with serve() as server, scripted(server, script) as client:
            assert await client.receive() == Event("hello")

    async def test_cancelled_while_it_connects(self) -> None:
        async with serve() as server:
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as group:

                    async def cancel() -> None:
                        await server.accept()
                        scope.cancel()

                    group.start_soon(cancel)
                    async with connect(server.url):
                        pytest.fail("there was no welcome")

    @pytest.mark.parametrize("url", ["http://localhost/", "ws://localhost/?token=x"])
    async def test_a_bad_url(self, url: str) -> None:
        with pytest.raises(LocalError):
            async with connect(url):
                pytest.fail("that is no URL")


class Glue:
    """Holds back what is sent, so that it leaves in one piece."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._bytes = b""

    async def send(self, data: bytes) -> None:
        self._bytes += data

    async def flush(self) -> None:
        await self._stream.send(self._bytes)


class TestTheToken:
    async def test_a_string_a_function_and_a_coroutine(self) -> None:
        async def fetch() -> str:
            await anyio.lowlevel.checkpoint()
            return "three"

        for token, expected in (("one", "one"), (lambda: "two", "two"), (fetch, "three")):
            async with serve() as server, connected(server, token=token) as (_, link):
                assert link.token == expected
                assert "token" not in link.head.query

    async def test_it_is_in_no_log_and_no_repr(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        async with serve() as server, connected(server, token="hunter2") as (client, link):
            assert link.token == "hunter2"
            assert "hunter2" not in repr(client)
        assert "connected to" in caplog.text
        assert "hunter2" not in caplog.text

    @pytest.mark.parametrize("of_a_function", [False, True])
    @pytest.mark.parametrize(
        ("token", "text"),
        [
            ("", "the token is empty"),
            ("hunter2\n", "the token has a character that no header can carry (a newline at its end?)"),
            ("hunter2\r\nX-Evil: 1", "the token has a character that no header can carry (a newline at its end?)"),
            ("h\u00fcnter2", "the token has a character that no header can carry (a newline at its end?)"),
            (b"hunter2", "the token is of type bytes, not str"),
        ],
    )
    async def test_one_that_cannot_be_sent(self, token: Any, text: str, of_a_function: bool) -> None:
        with pytest.raises(LocalError) as caught:
            async with connect("ws://localhost:9/", token=(lambda: token) if of_a_function else token):
                pytest.fail("that is no token")
        assert str(caught.value) == text

    async def test_what_the_callback_raises_at_first_is_raised(self) -> None:
        def fetch() -> str:
            raise KeyError("no such user")

        with pytest.raises(KeyError, match="no such user"):
            async with connect("ws://localhost:9/", token=fetch):
                pytest.fail("there is no token")


class TestRefusals:
    @pytest.mark.parametrize("status", [403, 404, 426])
    async def test_a_final_one_is_raised(self, status: int) -> None:
        async def script() -> None:
            await (await server.accept()).refuse(status)

        async with serve() as server:
            with pytest.raises(ConnectionRefused) as caught:
                async with scripted(server, script):
                    pytest.fail("it was refused")
        assert (caught.value.status, caught.value.error, caught.value.detail) == (status, "some_code", "no")

    async def test_401_asks_for_another_token_and_then_gives_up(self) -> None:
        tokens = iter(["old", "older", "never asked for"])

        async def script() -> None:
            for _ in range(2):
                await (await server.accept()).refuse(401)

        async with serve() as server:
            with pytest.raises(ConnectionRefused, match="401"):
                async with scripted(server, script, token=lambda: next(tokens)):
                    pytest.fail("it was refused")
            assert [link.token for link in server.links] == ["old", "older"]

    async def test_a_fresh_token_after_401_is_welcome(self) -> None:
        tokens = iter(["old", "new"])

        async def script() -> None:
            await (await server.accept()).refuse(401)
            await (await server.accept()).welcome()

        async with serve() as server, scripted(server, script, token=lambda: next(tokens)) as client:
            assert client.connected
            assert server.links[1].token == "new"

    async def test_another_protocol(self) -> None:
        async def script() -> None:
            await (await server.accept()).upgrade(None)

        async with serve() as server:
            with pytest.raises(ConnectionClosed, match=r"does not speak roomwire\.v1"):
                async with scripted(server, script):
                    pytest.fail("it speaks something else")

    async def test_a_final_close_in_place_of_the_welcome(self) -> None:
        async def script() -> None:
            link = await server.accept()
            await link.upgrade()
            await link.close(4502, "revoked")

        async with serve() as server:
            with pytest.raises(ConnectionClosed, match="4502: revoked"):
                async with scripted(server, script):
                    pytest.fail("it was closed")


class TestTalking:
    async def test_a_room_from_join_to_leave(self) -> None:
        async with serve() as server, connected(server) as (client, link):
            async with anyio.create_task_group() as group:
                group.start_soon(link.join, "chat:a", "e:4")
                room = await client.join("chat:a", state=True)
            assert (room.name, room.joined, room.position) == ("chat:a", True, Position("e", 4))
            assert [room.name for room in client.rooms] == ["chat:a"]
            await link.send("room.state", room="chat:a", id="e:4", data={"reason": "requested", "state": [1]})
            await link.send("presence.state", room="chat:a", data={"members": [{"user": "ann", "info": 1}]})
            await link.event("chat:a", 5, "hi")
            assert await client.receive() == StateReset("chat:a", "requested", [1], Position("e", 4))
            assert await client.receive() == MembersState("chat:a", {"ann": 1})
            assert await client.receive() == Event("message.new", "hi", "chat:a", "e:5")
            assert (room.position, dict(room.members)) == (Position("e", 5), {"ann": 1})
            assert repr(room) == "<Room 'chat:a' joined>"
            async with anyio.create_task_group() as group:
                group.start_soon(room.leave)
                message = await link.receive()
                assert (message["event"], message["room"]) == ("room.leave", "chat:a")
                await link.ack(message["id"])
            assert (room.joined, room.position, dict(room.members)) == (False, None, {})
            assert repr(client.room("chat:a")) == "<Room 'chat:a'>"

    async def test_a_send_and_its_reply(self) -> None:
        async with serve() as server, connected(server) as (client, link), anyio.create_task_group() as group:

            async def reply() -> None:
                message = await link.receive()
                assert (message["event"], message["room"], message["data"]) == ("message.send", "a", {"content": "hi"})
                await link.ack(message["id"], {"id": "e:1"})
                message = await link.receive()
                await link.send("error", id=message["id"], data={"code": "rude", "message": "no", "details": 5})

            group.start_soon(reply)
            assert await client.send("message.send", {"content": "hi"}, room="a") == {"id": "e:1"}
            with pytest.raises(RequestFailed, match="rude: no") as caught:
                await client.room("a").send("message.send")
            assert caught.value.details == 5

    async def test_many_sends_at_once(self) -> None:
        async with serve() as server, connected(server) as (client, link), anyio.create_task_group() as group:
            replies: dict[int, object] = {}

            async def send(number: int) -> None:
                replies[number] = await client.send("double", number)

            for number in range(50):
                group.start_soon(send, number)
            messages = [await link.receive() for _ in range(50)]
            for message in reversed(messages):
                await link.ack(message["id"], message["data"] * 2)
        assert replies == {number: 2 * number for number in range(50)}

    async def test_binary_events_both_ways(self) -> None:
        async with serve() as server, connected(server) as (client, link), anyio.create_task_group() as group:

            async def reply() -> None:
                envelope = parse_binary(await link.receive())
                assert (envelope.event, envelope.data) == ("upload", b"\x00\xff")
                assert envelope.id is not None
                await link.ack(envelope.id, 2)

            group.start_soon(reply)
            assert await client.send("upload", b"\x00\xff") == 2
            await link.stream.send(link.websocket.encode(encode_binary("image", b"\x89PNG")))
            assert await client.receive() == Event("image", b"\x89PNG")

    async def test_a_notification(self) -> None:
        async with serve() as server, connected(server) as (client, link):
            assert await client.room("a").notify("typing", {}) is True
            assert await link.receive() == {"event": "typing", "room": "a", "data": {}}

    async def test_members_are_fetched(self) -> None:
        async with serve() as server, connected(server) as (client, link), anyio.create_task_group() as group:

            async def reply() -> None:
                message = await link.receive()
                await link.ack(message["id"], {"members": [{"user": "bob", "info": None}]})
                await link.receive()
                await link.cut()

            group.start_soon(reply)
            assert await client.room("a").fetch_members() == {"bob": None}
            with pytest.raises(NoReply):
                await client.fetch_members("a")

    async def test_heartbeats_and_pings_are_answered(self) -> None:
        async with serve() as server, connected(server) as (_, link):
            await link.send("heartbeat", data={})
            assert await link.receive() == {"event": "presence.heartbeat"}
            await link.stream.send(link.websocket.ping(b"are you there"))
            pong = b""
            while len(pong) < 6 + len(b"are you there"):
                pong += await link.stream.receive()
            assert pong[0] == 0x8A

    async def test_rooms_of_the_welcome(self) -> None:
        async with (
            serve() as server,
            connected(server, {"lobby": {"position": "e:1", "recovered": None}}) as (client, _),
        ):
            assert await client.receive() == Joined("lobby")

    async def test_compression(self) -> None:
        async with serve() as server, connected(server, compression=True) as (_, link):
            offer = link.head.header(b"sec-websocket-extensions")
            assert offer is not None
            assert offer.startswith(b"permessage-deflate")


class TestCancelling:
    async def test_a_cancelled_receive_loses_nothing(self) -> None:
        async with serve() as server, connected(server) as (client, link):
            for number in range(20):
                with anyio.CancelScope() as scope:
                    async with anyio.create_task_group() as group:
                        group.start_soon(client.receive)
                        await anyio.lowlevel.checkpoint()
                        scope.cancel()
                await link.send("n", data=number)
                assert await client.receive() == Event("n", number)

    async def test_a_cancelled_send_is_forgotten(self) -> None:
        async with serve() as server, connected(server) as (client, link):
            async with anyio.create_task_group() as group:
                group.start_soon(client.send, "x")
                message = await link.receive()
                group.cancel_scope.cancel()
            await link.ack(message["id"])
            await link.send("hello")
            assert await client.receive() == Event("hello")

    async def test_a_cancelled_join_leaves_again(self) -> None:
        async with serve() as server, connected(server) as (client, link):
            async with anyio.create_task_group() as group:
                group.start_soon(client.join, "a")
                assert (await link.receive())["event"] == "room.join"
                group.cancel_scope.cancel()
            assert (await link.receive())["event"] == "room.leave"
            assert client.rooms == []

    async def test_two_tasks_cannot_receive(self) -> None:
        async with serve() as server, connected(server) as (client, _), anyio.create_task_group() as group:
            group.start_soon(client.receive)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(LocalError, match="another task"):
                await client.receive()
            group.cancel_scope.cancel()


class TestTheEnd:
    async def test_a_final_close_is_raised_everywhere(self) -> None:
        async with serve() as server, connected(server) as (client, link), anyio.create_task_group() as group:
            failures: list[type[BaseException]] = []

            async def send() -> None:
                try:
                    await client.send("x")
                except UnknownOutcome as error:
                    failures.append(type(error))

            group.start_soon(send)
            await link.receive()
            await link.send("last")
            await link.close(4502, "revoked")
            assert await client.receive() == Event("last")
            for call in (client.receive, lambda: client.send("x"), lambda: client.join("a"), lambda: client.leave("a")):
                with pytest.raises(ConnectionClosed) as caught:
                    await call()
                assert (caught.value.code, caught.value.reason) == (4502, "revoked")
            with pytest.raises(ConnectionClosed):
                await anext(aiter(client))
            with pytest.raises(ConnectionClosed):
                await client.notify("x")
        assert failures == [UnknownOutcome]

    async def test_ones_own_close_ends_the_iteration(self) -> None:
        async with serve() as server, connected(server) as (client, link):
            seen = []
            await link.send("one")
            await link.send("two")
            async with anyio.create_task_group() as group:
                async for item in client:
                    seen.append(item)
                    if item == Event("two"):
                        group.start_soon(link.drain)
                        await client.aclose()
            assert seen == [Event("one"), Event("two")]
            await client.aclose()
            with pytest.raises(ConnectionClosed, match="1000"):
                await client.send("x")

    async def test_what_the_body_raises_comes_out_as_it_is(self) -> None:
        async with serve() as server:
            with pytest.raises(ZeroDivisionError):
                async with connected(server):
                    raise ZeroDivisionError

    async def test_a_server_that_does_not_answer_the_close_is_left(self) -> None:
        """On this machine's own clock."""
        async with serve() as server:

            async def answer() -> None:
                await (await server.accept()).welcome()

            async with anyio.create_task_group() as group:
                group.start_soon(answer)
                async with connect(server.url, options=Options(close_timeout=0.05), timing=SystemTiming()) as client:
                    assert client.connected
            assert await server.links[0].receive() is None

    async def test_a_message_that_breaks_the_protocol(self) -> None:
        async with serve() as server, connected(server) as (client, link):
            await link.stream.send(link.websocket.encode("[]"))
            with pytest.raises(ConnectionClosed, match="1002"):
                await client.receive()
            assert await link.receive() is None
            assert link.closed is not None
            assert link.closed.code == 1002

    async def test_frames_that_break_the_protocol(self) -> None:
        async with serve() as server, connected(server) as (client, link):
            await link.stream.send(b"\x83\x00")
            with pytest.raises(ConnectionClosed, match="1002"):
                await client.receive()

    async def test_a_message_that_is_too_big(self) -> None:
        async with serve() as server, connected(server, options=Options(max_incoming_size=1000)) as (client, link):
            await link.send("x", data="x" * 1000)
            with pytest.raises(ConnectionClosed, match="1009"):
                await client.receive()
