"""The tests of the JavaScript client run by node, and the client in node over real sockets.

The peer here is the `websockets` package with a script; the scenarios against roomwire's own
server stand with the server's tests.
"""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from tests.js.node_client import HERE, NodeClient, NodeClientError, open_node_client
from tests.servers import NODE
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

WELCOME = {
    "session": "s",
    "client": "c",
    "user": "ann",
    "heartbeat": {"interval": 30, "timeout": 90},
    "limits": {"max_message_size": 65536, "max_event_size": 131072, "idempotency_window": 300},
    "rooms": {"r": {"position": "e:5", "recovered": None}},
}

Handler = Callable[[ServerConnection], Awaitable[None]]
Refuse = Callable[[ServerConnection, Request], Response | None]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # websockets knows no other


@asynccontextmanager
async def serving(handler: Handler, refuse: Refuse | None = None) -> AsyncIterator[str]:
    """A server with a script on a free port; gives its address."""
    protocols = [Subprotocol("roomwire.v1")]
    async with serve(handler, "127.0.0.1", 0, subprotocols=protocols, process_request=refuse) as server:
        port: int = next(iter(server.sockets)).getsockname()[1]
        yield f"ws://127.0.0.1:{port}/ws"


async def say(connection: ServerConnection, event: str, **fields: object) -> None:
    await connection.send(json.dumps({"event": event, **fields}))


async def hear(connection: ServerConnection) -> Any:
    return json.loads(await connection.recv())


def query_of(connection: ServerConnection) -> dict[str, list[str]]:
    assert connection.request is not None
    return parse_qs(urlsplit(connection.request.path).query)


def test_unit_tests_pass_in_node() -> None:
    """`node --test`: more than a hundred tests with a scripted server and a clock of their own."""
    command = [str(NODE.require()), "--test", *map(str, sorted(HERE.glob("*.test.js")))]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)
    assert result.returncode == 0, result.stdout[-8000:] + result.stderr[-2000:]
    assert "# fail 0" in result.stdout
    assert "# tests 0" not in result.stdout


@pytest.mark.anyio
async def test_messages_and_events_over_a_real_socket() -> None:
    async def script(connection: ServerConnection) -> None:
        await say(connection, "session.welcome", data=WELCOME)
        message = await hear(connection)
        assert (message["event"], message["room"], message["data"]) == ("message.send", "r", {"content": "hi"})
        # Written at once: ws hands such messages over without a pause between them.
        await say(connection, "ack", id=message["id"], data={"id": "e:6"})
        await say(connection, "message.new", room="r", id="e:7", data={"from": "bob"})
        frame = await connection.recv()
        assert isinstance(frame, bytes)
        size = int.from_bytes(frame[:4], "big")
        assert frame[4 + size :] == b"\x00\xff"
        await connection.send(frame)
        await connection.wait_closed()

    async with serving(script) as url, open_node_client() as client:
        await client.connect(url, token="t")
        await client.wait_state("open")
        assert await client.call("send", event="message.send", data={"content": "hi"}, options={"room": "r"}) == {
            "id": "e:6"
        }
        event = await client.wait_event("message.new")
        assert event["data"] == {"from": "bob"}
        await client.start("sendBytes", event="file.part", data=base64.b64encode(b"\x00\xff").decode())
        event = await client.wait_event("file.part")
        assert event["data"] == {"bytes": base64.b64encode(b"\x00\xff").decode()}
        await client.call("close")


@pytest.mark.anyio
async def test_a_broken_link_is_resumed_and_the_message_sent_again() -> None:
    ids: list[str] = []

    async def script(connection: ServerConnection) -> None:
        query = query_of(connection)
        if not ids:
            await say(connection, "session.welcome", data=WELCOME)
            ids.append((await hear(connection))["id"])
            connection.transport.abort()
            return
        assert query["last_event_id"] == ["r@e:5"]
        rooms = {"r": {"position": "e:6", "recovered": True}}
        await say(connection, "session.welcome", data={**WELCOME, "rooms": rooms})
        await say(connection, "message.new", room="r", id="e:6", data=1)
        ids.append((await hear(connection))["id"])
        await say(connection, "ack", id=ids[-1], data="done")
        await connection.wait_closed()

    async with serving(script) as url, open_node_client() as client:
        await client.connect(url, token="t")
        sent = await client.start("send", event="message.send", data=1)
        await client.wait_state("waiting")
        await client.wait_event("room.recovered", recovered=True, replayed=1)
        assert await client.finish(sent) == "done"
        assert ids[0] == ids[1]


async def refused_with(client: NodeClient, *answers: tuple[HTTPStatus, dict[str, str]]) -> list[str]:
    """Connect `client` to a server that gives these answers, the last one over and over; the tokens that came."""
    tokens: list[str] = []

    def refuse(connection: ServerConnection, request: Request) -> Response:
        status, headers = answers[min(len(tokens), len(answers) - 1)]
        tokens.extend(parse_qs(urlsplit(request.path).query)["token"])
        response = connection.respond(status, "no\n")
        response.headers.update(headers)
        return response

    async def never(connection: ServerConnection) -> None:
        raise AssertionError("refused, and yet it is open")

    async with serving(never, refuse) as url:
        await client.connect(url, token="t")
        await client.wait_event("session.statechange")
    return tokens


@pytest.mark.anyio
async def test_401_is_tried_once_more() -> None:
    async with open_node_client() as client:
        assert await refused_with(client, (HTTPStatus.UNAUTHORIZED, {})) == ["t", "t"]
        state = await client.call("state")
        assert (state["state"], state["error"]["code"]) == ("closed", "unauthorized")
        with pytest.raises(NodeClientError, match="unauthorized"):
            await client.call("send", event="a")


@pytest.mark.anyio
async def test_403_is_final() -> None:
    async with open_node_client() as client:
        assert await refused_with(client, (HTTPStatus.FORBIDDEN, {})) == ["t"]
        assert (await client.call("state"))["error"]["code"] == "forbidden"


@pytest.mark.anyio
async def test_retry_after_of_a_refusal_is_waited_for() -> None:
    async def welcome(connection: ServerConnection) -> None:
        await say(connection, "session.welcome", data=WELCOME)
        await connection.wait_closed()

    refusals = 0

    def refuse_once(connection: ServerConnection, request: Request) -> Response | None:
        nonlocal refusals
        refusals += 1
        if refusals > 1:
            return None
        response = connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, "draining\n")
        response.headers["Retry-After"] = "1"
        return response

    async with serving(welcome, refuse_once) as url, open_node_client() as client:
        await client.connect(url, token="t")
        waiting = await client.wait_state("waiting")
        assert waiting["data"]["delay"] >= 1000
        await client.wait_state("open")


@pytest.mark.anyio
async def test_close_says_1000() -> None:
    codes: list[int | None] = []

    async def script(connection: ServerConnection) -> None:
        await say(connection, "session.welcome", data=WELCOME)
        await connection.wait_closed()
        codes.append(connection.close_code)

    async with serving(script) as url, open_node_client() as client:
        await client.connect(url, token="t")
        await client.wait_state("open")
        await client.call("close")
        assert (await client.call("state"))["state"] == "closed"
    assert codes == [1000]
