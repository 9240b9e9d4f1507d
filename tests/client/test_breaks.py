"""The client over links that break, on time that the test moves."""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncIterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from roomwire.client import (
    Client,
    Connected,
    ConnectionClosed,
    ConnectionRefused,
    Disconnected,
    Event,
    Item,
    Options,
    QueueFull,
    Recovered,
    StateReset,
    UnknownOutcome,
)
from roomwire.core.errors import LocalError
from roomwire.core.positions import Position
from tests.client.server import Server, ServerLink, connected, eventually, scripted, serve
from tests.client.timing import VirtualTiming

pytestmark = pytest.mark.anyio


def proven(offset: int) -> dict[str, Any]:
    return {"position": f"e:{offset}", "recovered": True}


@pytest.fixture
def timing() -> VirtualTiming:
    return VirtualTiming()


async def join(client: Client, link: ServerLink, room: str = "a") -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(link.join, room)
        await client.join(room)


async def until(client: Client, kind: type[Item]) -> list[Item]:
    """What comes until, and with, the first item of a kind."""
    items = [await client.receive()]
    while not isinstance(items[-1], kind):
        items.append(await client.receive())
    return items


async def next_link(server: Server, client: Client, timing: VirtualTiming) -> ServerLink:
    """Wait out the back-off, and take the next attempt."""
    disconnected = (await until(client, Disconnected))[-1]
    assert isinstance(disconnected, Disconnected)
    timing.advance(disconnected.retry_in)
    return await server.accept()


class TestResume:
    async def test_nothing_is_lost_or_doubled_over_a_break(self, timing: VirtualTiming) -> None:
        async with serve() as server, connected(server, timing=timing) as (client, link):
            await join(client, link)
            await link.event("a", 2)
            await link.event("a", 3)
            assert [await client.receive(), await client.receive()] == [
                Event("message.new", None, "a", "e:2"),
                Event("message.new", None, "a", "e:3"),
            ]
            await link.cut()
            await eventually(lambda: not client.connected)
            timing.advance(1)
            link = await server.accept()
            assert link.query["last_event_id"] == "a@e:3"
            assert link.query["client"] == server.links[0].query["client"]
            await link.welcome({"a": proven(5)})
            for offset in (3, 4, 4, 5, 6):
                await link.event("a", offset)
            assert await client.receive() == Recovered("a", Position("e", 5))
            ids = [(await client.receive()) for _ in range(3)]
            assert [item.id for item in ids if isinstance(item, Event)] == ["e:4", "e:5", "e:6"]

    async def test_cut_in_the_middle_of_a_message(self, timing: VirtualTiming) -> None:
        async with serve() as server, connected(server, timing=timing, link_events=True) as (client, link):
            await until(client, Connected)
            await join(client, link)
            whole = link.frame("message.new", room="a", id="e:2", data="first")
            half = link.frame("message.new", room="a", id="e:3", data="second")
            await link.stream.send(whole + half[: len(half) // 2])
            await link.cut()
            items = await until(client, Disconnected)
            assert items == [Event("message.new", "first", "a", "e:2"), Disconnected(1006, "", 1.0)]
            timing.advance(1)
            link = await server.accept()
            assert link.query["last_event_id"] == "a@e:2"
            await link.welcome({"a": proven(3)})
            await link.stream.send(link.frame("message.new", room="a", id="e:3", data="second"))
            assert (await until(client, Event))[-1] == Event("message.new", "second", "a", "e:3")

    async def test_events_byte_by_byte(self, timing: VirtualTiming) -> None:
        async with serve() as server, connected(server, timing=timing) as (client, link):
            for byte in link.frame("hello", data="x" * 200):
                await link.stream.send(bytes((byte,)))
            assert await client.receive() == Event("hello", "x" * 200)

    async def test_a_cursor_that_is_too_old(self, timing: VirtualTiming) -> None:
        async with serve() as server, connected(server, timing=timing, link_events=True) as (client, link):
            await join(client, link)
            await link.cut()
            link = await next_link(server, client, timing)
            await link.welcome({"a": {"position": "e:90", "recovered": False, "reason": "too_old"}})
            await link.send("room.state", room="a", id="e:90", data={"reason": "too_old", "state": {"n": 1}})
            await link.event("a", 91)
            items = await until(client, Event)
            assert items[-2:] == [
                StateReset("a", "too_old", {"n": 1}, Position("e", 90)),
                Event("message.new", None, "a", "e:91"),
            ]

    async def test_a_long_cursor_goes_into_the_first_message(self, timing: VirtualTiming) -> None:
        rooms = {f"{number:03}{'r' * 100}": {"position": "e:1", "recovered": None} for number in range(60)}
        async with serve() as server, connected(server, rooms, timing=timing, link_events=True) as (client, link):
            await link.cut()
            link = await next_link(server, client, timing)
            assert link.query["last_event_id"] == "later"
            await link.welcome()
            message = await link.receive()
            assert message["event"] == "session.resume"
            assert message["data"]["rooms"] == dict.fromkeys(rooms, "e:1")
            await link.ack(message["id"], {"rooms": {room: proven(1) for room in rooms}})
            await until(client, Connected)
            assert client.connected

    async def test_a_cursor_that_is_refused(self, timing: VirtualTiming) -> None:
        async with serve() as server, connected(server, timing=timing, link_events=True) as (client, link):
            await join(client, link)
            await link.cut()
            link = await next_link(server, client, timing)
            assert "last_event_id" in link.query
            await link.refuse(400)
            link = await server.accept()
            assert "last_event_id" not in link.query
            await link.refuse(400)
            with pytest.raises(ConnectionRefused, match="400"):
                await until(client, Event)


class TestSending:
    async def test_the_offline_queue_goes_out_after_the_resume(self, timing: VirtualTiming) -> None:
        async with serve() as server, connected(server, timing=timing, link_events=True) as (client, link):
            await join(client, link)
            await link.cut()
            disconnected = (await until(client, Disconnected))[-1]
            assert isinstance(disconnected, Disconnected)
            async with anyio.create_task_group() as group:
                for number in range(3):
                    group.start_soon(client.send, "n", number)
                    await anyio.wait_all_tasks_blocked()
                assert await client.notify("typing") is False
                timing.advance(disconnected.retry_in)
                link = await server.accept()
                await link.welcome({"a": proven(1)})
                for number in range(3):
                    message = await link.receive()
                    assert message["data"] == number
                    await link.ack(message["id"])

    async def test_the_queue_is_bounded(self, timing: VirtualTiming) -> None:
        options = Options(max_unanswered_messages=1)
        async with (
            serve() as server,
            connected(server, timing=timing, options=options) as (client, _),
            anyio.create_task_group() as group,
        ):
            group.start_soon(client.send, "one")
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(QueueFull):
                await client.send("two")
            group.cancel_scope.cancel()

    async def test_a_message_without_a_reply_is_sent_again_with_its_id(self, timing: VirtualTiming) -> None:
        async with serve() as server, connected(server, timing=timing, link_events=True) as (client, link):
            async with anyio.create_task_group() as group:
                replies: list[object] = []

                async def send() -> None:
                    replies.append(await client.send("x", 1))

                group.start_soon(send)
                first = await link.receive()
                await link.cut()
                link = await next_link(server, client, timing)
                await link.welcome()
                assert await link.receive() == first
                await link.ack(first["id"], "done")
            assert replies == ["done"]

    async def test_after_270_seconds_its_outcome_is_unknown(self, timing: VirtualTiming) -> None:
        async with (
            serve() as server,
            connected(server, timing=timing, link_events=True) as (client, link),
            anyio.create_task_group() as group,
        ):

            async def send() -> None:
                with pytest.raises(UnknownOutcome):
                    await client.send("x", 1)

            group.start_soon(send)
            await link.receive()
            await link.cut()
            await until(client, Disconnected)
            timing.advance(1)
            link = await server.accept()
            await link.refuse(503, retry_after=600)
            await until(client, Disconnected)
            timing.advance(269)


class TestClosesAndRefusals:
    async def test_a_drain_is_waited_out(self, timing: VirtualTiming) -> None:
        async with serve() as server, connected(server, timing=timing, link_events=True) as (client, link):
            await join(client, link)
            closing = {"code": 1012, "reason": "restart", "reconnect": True, "retry_after": 6.5}
            await link.send("session.closing", data=closing | {"positions": {"a": "e:7"}})
            await link.close(1012, "restart")
            disconnected = (await until(client, Disconnected))[-1]
            assert disconnected == Disconnected(1012, "restart", 7.5)
            timing.advance(7.5)
            link = await server.accept()
            assert link.query["last_event_id"] == "a@e:7"
            await link.welcome({"a": proven(7)})
            await until(client, Connected)

    async def test_back_off_while_the_server_is_away(self, timing: VirtualTiming) -> None:
        async with serve() as server, connected(server, timing=timing, link_events=True) as (client, link):
            await until(client, Connected)
            await link.cut()
            waits = []
            for _ in range(6):
                disconnected = await client.receive()
                assert isinstance(disconnected, Disconnected)
                waits.append(disconnected.retry_in)
                timing.advance(disconnected.retry_in)
                await server.accept_and_drop()
            assert waits == [1, 2, 4, 8, 16, 30]

    async def test_a_server_that_is_not_there(self, timing: VirtualTiming, caplog: pytest.LogCaptureFixture) -> None:
        async def script() -> None:
            await server.aclose()
            for attempts in (1, 2, 3):
                await eventually(lambda: len(caplog.records) == attempts)  # noqa: B023  done before the next
                timing.advance(30)
            group.cancel_scope.cancel()

        async with serve() as server, anyio.create_task_group() as group, scripted(server, script, timing=timing):
            pytest.fail("nobody is there")
        assert "no link to ws://localhost" in caplog.text
        assert {record.levelno for record in caplog.records} == {logging.WARNING}

    async def test_429_waits_at_least_retry_after(self, timing: VirtualTiming) -> None:
        async with serve() as server, connected(server, timing=timing, link_events=True) as (client, link):
            await link.cut()
            link = await next_link(server, client, timing)
            await link.refuse(429, retry_after=20)
            assert (await until(client, Disconnected))[-1] == Disconnected(1006, "refused with 429", 22.0)

    async def test_a_token_is_asked_for_before_every_attempt(self, timing: VirtualTiming) -> None:
        tokens = iter(["first", "expired", "fresh"])
        options: dict[str, Any] = {"token": lambda: next(tokens), "timing": timing, "link_events": True}
        async with serve() as server, connected(server, **options) as (client, link):
            assert link.token == "first"
            await link.close(4003, "token expired")
            link = await next_link(server, client, timing)
            assert link.token == "expired"
            await link.refuse(401)
            link = await server.accept()
            assert link.token == "fresh"
            await link.welcome()
            await until(client, Connected)

    async def test_a_token_that_cannot_be_fetched_is_a_failed_attempt(self, timing: VirtualTiming) -> None:
        answers: list[str | Exception] = ["first", OSError("secret"), "second"]

        def fetch() -> str:
            answer = answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

        options: dict[str, Any] = {"token": fetch, "timing": timing, "link_events": True}
        async with serve() as server, connected(server, **options) as (client, link):
            await link.cut()
            await until(client, Disconnected)
            timing.advance(1)
            disconnected = await client.receive()
            assert disconnected == Disconnected(1006, "the token callback raised OSError", 2.0)
            timing.advance(2)
            link = await server.accept()
            assert link.token == "second"

    async def test_a_callback_may_give_up(self, timing: VirtualTiming) -> None:
        tokens = iter(["first"])

        def fetch() -> str:
            for token in tokens:
                return token
            raise LocalError("logged out")

        async with serve() as server, connected(server, token=fetch, timing=timing, link_events=True) as (client, link):
            await link.cut()
            await until(client, Disconnected)
            timing.advance(1)
            with pytest.raises(ConnectionClosed, match="the token callback raised LocalError"):
                await client.receive()


class TestDeadServers:
    async def test_silence(self, timing: VirtualTiming) -> None:
        async with serve() as server, connected(server, timing=timing, link_events=True) as (client, link):
            await until(client, Connected)
            await link.send("hello")
            await until(client, Event)
            timing.advance(39.9)
            await anyio.wait_all_tasks_blocked()
            assert client.connected
            timing.advance(0.1)
            assert await client.receive() == Disconnected(1006, "the server is silent", 1.0)
            timing.advance(1)
            await (await server.accept()).welcome()
            await until(client, Connected)

    async def test_no_answer_to_the_handshake(self, timing: VirtualTiming) -> None:
        async with serve() as server, connected(server, timing=timing, link_events=True) as (client, link):
            await link.cut()
            await next_link(server, client, timing)
            timing.advance(10)
            assert (await until(client, Disconnected))[-1] == Disconnected(1006, "no welcome in time", 2.0)

    async def test_a_reset_in_the_handshake(self, timing: VirtualTiming) -> None:
        async with serve() as server, connected(server, timing=timing, link_events=True) as (client, link):
            await link.cut()
            await until(client, Disconnected)
            timing.advance(1)
            await server.accept_and_reset()
            disconnected = (await until(client, Disconnected))[-1]
            assert disconnected == Disconnected(1006, "the connection broke in the handshake", 2.0)

    async def test_no_welcome(self, timing: VirtualTiming) -> None:
        async with serve() as server, connected(server, timing=timing, link_events=True) as (client, link):
            await link.cut()
            link = await next_link(server, client, timing)
            await link.upgrade()
            timing.advance(10)
            assert (await until(client, Disconnected))[-1] == Disconnected(1006, "no welcome in time", 2.0)

    async def test_an_answer_that_is_no_http(self, timing: VirtualTiming) -> None:
        async with serve() as server, connected(server, timing=timing, link_events=True) as (client, link):
            await link.cut()
            link = await next_link(server, client, timing)
            await link.stream.send(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
            disconnected = (await until(client, Disconnected))[-1]
            assert isinstance(disconnected, Disconnected)
            assert "not correct HTTP" in disconnected.reason


class TestUnread:
    """Back-pressure: an application that does not read."""

    async def test_reading_pauses_and_goes_on(self, timing: VirtualTiming) -> None:
        options = Options(max_unread_events=10)
        async with serve() as server, connected(server, timing=timing, options=options) as (client, link):
            unread = client._engine._inbox

            async def flood() -> None:
                for number in range(400):
                    await link.send("n", data=[number, "x" * 60_000])

            async with anyio.create_task_group() as group:
                group.start_soon(flood)
                await eventually(lambda: len(unread) >= 10)
                for _ in range(1000):
                    await anyio.lowlevel.checkpoint()
                assert len(unread) <= 12  # what came with the read that filled it
                assert [item.data[0] async for item in take(client, 400)] == list(range(400))

    async def test_silence_is_no_death_then_and_life_is_shown(self, timing: VirtualTiming) -> None:
        options = Options(max_unread_events=1)
        async with serve() as server, connected(server, timing=timing, options=options) as (client, link):
            await link.send("one")
            await eventually(lambda: len(client._engine._inbox) == 1)
            await link.send("two")
            for _ in range(3):
                timing.advance(30)
                assert await link.receive() == {"event": "presence.heartbeat"}
            assert [item.name async for item in take(client, 2)] == ["one", "two"]
            assert client.connected

    async def test_a_reply_is_read_behind_a_full_inbox(self, timing: VirtualTiming) -> None:
        """Otherwise a loop that awaits `send` in its body would wait for itself."""
        options = Options(max_unread_events=2)
        async with serve() as server, connected(server, timing=timing, options=options) as (client, link):
            async with anyio.create_task_group() as group:

                async def reply() -> None:
                    message = await link.receive()
                    for number in range(4):
                        await link.send("n", data=number)
                    await link.ack(message["id"], "done")

                for number in range(2):
                    await link.send("early", data=number)
                await eventually(lambda: len(client._engine._inbox) == 2)
                group.start_soon(reply)
                assert await client.send("x") == "done"
            assert len([item async for item in take(client, 6)]) == 6

    async def test_but_not_without_a_bound(self, timing: VirtualTiming) -> None:
        options = Options(max_unread_events=2)
        async with serve() as server, connected(server, timing=timing, options=options) as (client, link):
            async with anyio.create_task_group() as group:

                async def flood() -> None:
                    await link.receive()
                    for number in range(8):
                        await link.send("n", data=number)

                group.start_soon(flood)
                with pytest.raises(UnknownOutcome, match="too many events"):
                    await client.send("x")
            assert [item.data async for item in take(client, 8)] == list(range(8))
            assert client.connected

    async def test_a_close_is_quick_all_the_same(self, timing: VirtualTiming) -> None:
        options = Options(max_unread_events=1)
        async with serve() as server, connected(server, timing=timing, options=options) as (client, link):
            await link.send("one")
            await eventually(lambda: len(client._engine._inbox) == 1)
            await link.send("two")
            async with anyio.create_task_group() as group:
                group.start_soon(link.drain)
                await client.aclose()
            assert [item async for item in client] == [Event("one")]

    async def test_a_server_that_does_not_read_slows_notifications(self, timing: VirtualTiming) -> None:
        async with serve() as server, connected(server, timing=timing) as (client, link):
            sent = 0

            async def notify() -> None:
                nonlocal sent
                for _ in range(400):
                    await client.notify("n", secrets.token_hex(30_000))
                    sent += 1

            async with anyio.create_task_group() as group:
                group.start_soon(notify)
                await anyio.wait_all_tasks_blocked()
                stalled_at = sent
                for _ in range(400):
                    await link.receive()
            assert stalled_at < 400
            assert sent == 400


async def take(client: Client, count: int) -> AsyncIterator[Event]:
    for _ in range(count):
        item = await client.receive()
        assert isinstance(item, Event)
        yield item
