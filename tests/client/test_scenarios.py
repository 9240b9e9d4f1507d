"""One list of scenarios for both clients, against the real server: what section 7 of the protocol promises.

Links are cut by a proxy in between, in the middle of frames too; what each client tells its application must be the
same. `tests.client.test_real_server` and `tests.js.test_server` have what only one of them offers.
"""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack
from typing import Any

import anyio.to_thread
import pytest

from roomwire.core.policy import RoomPolicy
from roomwire.node.drain import Drain
from tests.client.frames import FrameProxy, frame_proxy
from tests.client.players import PLAYERS, ROOM, Player
from tests.server.chat import make_app
from tests.server.live import LiveServer, live_server, make_token
from tests.server.processes import ServingProcess

pytestmark = pytest.mark.anyio

Play = Callable[..., AbstractAsyncContextManager[Player]]
Serve = Callable[..., Awaitable[LiveServer]]


@pytest.fixture(params=PLAYERS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def anyio_backend(kind: str) -> str:
    return PLAYERS[kind][0]


@pytest.fixture
def play(kind: str) -> Play:
    def begin(proxy: FrameProxy, tokens: Sequence[str] = ()) -> AbstractAsyncContextManager[Player]:
        return PLAYERS[kind][1](proxy.url, tokens or [make_token("ann")])

    return begin


@pytest.fixture
def serve() -> Iterator[Serve]:
    with ExitStack() as stack:

        async def start(**policy: Any) -> LiveServer:
            # In a thread: what is made in this loop, trio's perhaps, would belong to it and not to the server's.
            return await anyio.to_thread.run_sync(enter, policy)

        def enter(policy: dict[str, Any]) -> LiveServer:
            rooms = {"chat:*": RoomPolicy(**policy)}
            return stack.enter_context(live_server(make_app(), rooms=rooms, reconnect_spread=1.0))

        yield start


def publish(server: LiveServer, *contents: str) -> None:
    """Messages of somebody else."""
    for content in contents:
        server.act(server.node.app.publish, ROOM, "message.new", {"content": content})


def handled(server: LiveServer) -> list[str]:
    """What the application was told by Ann."""
    return [content for user, content in server.node.app.log.handled if user == "ann"]  # type: ignore[attr-defined]


async def at_the_end(player: Player, server: LiveServer, *contents: str) -> None:
    """These messages were handed over, in this order and each once; a last one shows that nothing follows."""
    publish(server, "the end")
    await player.told("message", "the end")
    assert player.all("message") == [*contents, "the end"]


async def test_a_cut_in_the_middle_of_a_message_of_the_clients(play: Play, serve: Serve) -> None:
    server = await serve()
    async with frame_proxy(server.port) as proxy, play(proxy) as player:
        await player.told("up")
        proxy.cut_in(b"half of this", by_client=True)
        reply = await player.say("half of this")
        assert set(await reply()) == {"id"}
        assert handled(server) == ["half of this"]
        await player.told("recovered")
        assert len(player.all("down")) == 1
        await at_the_end(player, server)


async def test_a_cut_in_the_middle_of_an_event(play: Play, serve: Serve) -> None:
    server = await serve()
    async with frame_proxy(server.port) as proxy, play(proxy) as player:
        await player.told("up")
        proxy.cut_in(b"half of this", by_client=False)
        publish(server, "before", "half of this", "after")
        await player.told("message", "after")
        await player.told("recovered")
        assert len(player.all("down")) == 1
        await at_the_end(player, server, "before", "half of this", "after")


async def test_a_reply_that_is_lost_is_given_again_and_the_message_handled_once(play: Play, serve: Serve) -> None:
    server = await serve()
    async with frame_proxy(server.port) as proxy, play(proxy) as player:
        await player.told("up")
        proxy.cut_in(b'"ack"', by_client=False)
        reply = await player.say("once")
        position = (await reply())["id"]
        assert handled(server) == ["once"]
        assert server.act(server.node.app.publish, ROOM, "message.new", {"content": "next"}).id == _next(position)
        await at_the_end(player, server, "next")
        assert len(player.all("down")) == 1


def _next(position: str) -> str:
    epoch, offset = position.split(":")
    return f"{epoch}:{int(offset) + 1}"


async def test_what_is_delivered_twice_is_handed_over_once(play: Play, serve: Serve) -> None:
    server = await serve()
    async with frame_proxy(server.port) as proxy, play(proxy) as player:
        await player.told("up")
        proxy.twice = b"message.new"
        publish(server, "1", "2")
        proxy.target = None
        await player.told("message", "2")
        proxy.cut()
        publish(server, "3", "4")
        proxy.target = server.port
        await player.told("recovered")
        await at_the_end(player, server, "1", "2", "3", "4")


async def test_messages_wait_for_the_link_and_go_out_in_order_and_once(play: Play, serve: Serve) -> None:
    server = await serve()
    async with frame_proxy(server.port) as proxy, play(proxy) as player:
        await player.told("up")
        proxy.target = None
        proxy.cut()
        await player.until(lambda: player.all("down"))
        replies = [await player.say(content) for content in "abc"]
        publish(server, "missed")
        assert handled(server) == []
        proxy.target = server.port
        ids = [(await reply())["id"] for reply in replies]
        assert handled(server) == ["a", "b", "c"]
        assert [int(id_.split(":")[1]) for id_ in ids] == [2, 3, 4]
        await player.told("recovered")
        await at_the_end(player, server, "missed")


async def test_a_cursor_that_is_too_old_is_answered_with_the_state(play: Play, serve: Serve) -> None:
    server = await serve(history_size=2)
    server.node.app.log.handled.append(("bob", "kept"))  # type: ignore[attr-defined]
    async with frame_proxy(server.port) as proxy, play(proxy) as player:
        await player.told("up")
        publish(server, "0")
        await player.told("message", "0")
        proxy.target = None
        proxy.cut()
        publish(server, "1", "2", "3")
        proxy.target = server.port
        await player.told("state", "too_old", ["kept"])
        assert player.all("recovered") == []
        await at_the_end(player, server, "0")


async def test_a_token_that_has_expired_in_between_is_replaced_by_a_fresh_one(play: Play, serve: Serve) -> None:
    server = await serve()
    good, expired = make_token("ann"), make_token("ann", ttl=-60.0)
    async with frame_proxy(server.port) as proxy, play(proxy, [good, expired, good]) as player:
        await player.told("up")
        proxy.target = None
        proxy.cut()
        publish(server, "missed")
        await player.until(lambda: player.all("down"))
        proxy.target = server.port
        await player.told("recovered")
        await at_the_end(player, server, "missed")


async def test_401_then_a_fresh_token(play: Play, serve: Serve) -> None:
    server = await serve()
    expired = make_token("ann", ttl=-60.0)
    async with frame_proxy(server.port) as proxy, play(proxy, [expired, make_token("ann")]) as player:
        await player.told("up")
        assert player.all("ended") == []
        await at_the_end(player, server)


async def test_401_twice_is_the_end(play: Play, serve: Serve) -> None:
    server = await serve()
    expired = make_token("ann", ttl=-60.0)
    async with frame_proxy(server.port) as proxy, play(proxy, [expired, expired, make_token("ann")]) as player:
        await player.told("ended", 401)
        assert player.all("up") == []


async def test_a_server_that_drains_is_come_back_to_when_it_said(
    play: Play, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Drain, "retry_after", lambda _: 0.25)  # it is any time of a second, zero included
    server, successor = await serve(), await serve()
    async with frame_proxy(server.port) as proxy, play(proxy) as player:
        await player.told("up")
        proxy.target = successor.port
        server.call(server.node.runtime.spawn, server.node.drain.run)
        await player.until(lambda: player.all("down"))
        (closing,) = [message["data"] for message in proxy.said if message["event"] == "session.closing"]
        ((code, delay),) = player.all("down")
        assert (code, closing["code"], closing["reconnect"]) == (1012, 1012, True)
        assert closing["retry_after"] == 0.25
        assert delay == pytest.approx(0.25, abs=1e-3)
        reply = await player.say("after the restart")
        assert set(await reply()) == {"id"}
        assert (handled(server), handled(successor)) == ([], ["after the restart"])
        await player.until(lambda: player.all("state"))
        assert player.all("state")[0][0] == "epoch"


async def test_a_server_that_was_killed_and_started_again(play: Play) -> None:
    settings = {"server": {"port": 0}}
    async with frame_proxy(None) as proxy, play(proxy) as player:
        with ServingProcess("asyncio", settings) as first:
            proxy.target = await anyio.to_thread.run_sync(first.port)
            await player.told("up")
            reply = await player.say("before")
            await reply()
            proxy.target = None
            first.signal(signal.SIGKILL)
            await player.until(lambda: player.all("down"))
        waiting = await player.say("while it was dead")
        with ServingProcess("asyncio", settings) as second:
            proxy.target = await anyio.to_thread.run_sync(second.port)
            await player.until(lambda: player.all("state"))
            ((reason, state),) = player.all("state")
            # What was said before is gone. What was sent since may be handled while the state is made.
            assert reason == "epoch"
            assert state in ([], ["while it was dead"])
            assert player.all("recovered") == []
            assert set(await waiting()) == {"id"}
