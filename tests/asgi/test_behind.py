"""One FastAPI application with one configuration: behind the node (`server.fallback`), in front of it (`app.asgi`)."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anyio.from_thread
import pytest
import websockets.sync.client
from websockets.typing import Subprotocol

from roomwire.asgi import AsgiApp
from roomwire.config import Loaded
from roomwire.node.node import Node
from roomwire.serving import build_node
from tests.asgi.mounting import FRAMEWORKS, settings
from tests.server.chat import make_app
from tests.server.hosts import HOSTS
from tests.server.live import TIMEOUT, Client, make_token

# What `server.fallback` names here: it is looked up by name, as the command line does.
chat = make_app()
mounted = AsgiApp(chat, loaded=Loaded(settings(server={"port": 0, "fallback": "tests.asgi.test_behind:api"}), None))
api = FRAMEWORKS["fastapi"](mounted, "")


@contextmanager
def behind(portal: anyio.from_thread.BlockingPortal) -> Iterator[tuple[int, Node]]:
    assert mounted._loaded is not None
    node = build_node(chat, mounted._loaded.settings)

    async def start(*, task_status: anyio.abc.TaskStatus[str]) -> None:
        await node.serve(ready=lambda addresses: task_status.started(addresses[0]))

    future, address = portal.start_task(start)
    yield int(address.rpartition(":")[2]), node
    portal.call(node.drain.run)
    future.result(TIMEOUT)


@pytest.fixture(scope="module", params=["behind", "in front"])
def port(request: pytest.FixtureRequest) -> Iterator[int]:
    with anyio.from_thread.start_blocking_portal() as portal:
        if request.param == "in front":
            with portal.wrap_async_context_manager(HOSTS["uvicorn-sansio"](api, lifespan=True)) as port:
                assert mounted.node is not None
                yield port
        else:
            with behind(portal) as (port, node):
                assert mounted.node is node  # the one that serves: no second one was started
                yield port
        assert mounted.node is None


def test_the_routes_and_the_rooms(port: int) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/hello", timeout=TIMEOUT) as response:
        assert json.load(response) == ["hello"]
    url = f"ws://127.0.0.1:{port}/ws?token={make_token('ann')}"
    options: dict[str, Any] = {"proxy": None, "open_timeout": TIMEOUT}
    with websockets.sync.client.connect(url, subprotocols=[Subprotocol("roomwire.v1")], **options) as connection:
        ann = Client(connection)
        assert ann.receive()["data"]["user"] == "ann"
        assert set(ann.request("message.send", {"content": "hello"}, room="chat:general")["data"]) == {"id"}


def test_what_nobody_has(port: int) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/nowhere", timeout=TIMEOUT)
    with caught.value as error:
        assert (error.code, json.load(error)["error"]) == (404, "not_found")
