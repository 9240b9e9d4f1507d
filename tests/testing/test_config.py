"""A FastAPI project with a ``roomwire.toml`` for production, one server for the run, and httpx beside the clients.

Its paths, limits and rules of claims hold; its store, keys and port are not asked for.
"""

from __future__ import annotations

import pytest

from tests.testing.project import BOARD, Project, Run

API = """

import os

import jwt
from fastapi import FastAPI, Header

SECRET = os.environ["BOARD_SECRET"]
api = FastAPI(lifespan=app.asgi.lifespan)


@api.get("/whoami")
async def whoami(authorization: str = Header()) -> str:
    claims = jwt.decode(authorization.removeprefix("Bearer "), SECRET, ["HS256"], audience="board")
    await app.publish("board:x", "asked", claims["sub"])
    return claims["sub"]


api.mount("/", app.asgi)
"""
CONFIG = """
app = "board:app"

[server]
path = "/socket"
port = "env:NO_PORT"
workers = 4
ssl_certfile = "no.pem"
ssl_keyfile = "no.key"
ssl_keyfile_password = "env:NO_PASSWORD"
fallback = "board:api"

[backplane]
type = "redis"

[backplane.options]
url = "env:NO_REDIS"

[auth.options]
algorithms = ["HS256"]
secret = "env:BOARD_SECRET"
audience = "board"
required_claims = ["role"]

[metrics]
enabled = true
token = "env:NO_TOKEN"

[limits]
rooms = 1
"""
TESTS = """
import os

import board  # it reads its secret when it is imported
import httpx
import pytest

from roomwire.testing.kit import Refused, RequestFailed

ports = set()


@pytest.fixture
def http(server):
    ports.add(server.port)
    with httpx.Client(base_url=server.http_url, trust_env=False) as http:
        yield http


def bearer(token):
    return {"Authorization": f"Bearer {token('ann', role='admin')}"}


def test_limits_and_claims(client, server, token):
    ports.add(server.port)
    assert server.url.endswith("/socket")
    assert os.environ["BOARD_NAME"] == "of-the-env-file"
    with pytest.raises(Refused):
        client.connect("ann")
    ann = client.connect(token=token("ann", role="admin"))
    ann.join("board:x")
    with pytest.raises(RequestFailed, match="too_many_rooms"):
        ann.join("board:y")
    assert client.connect("ben", claims={"role": "guest"}).user == "ben"


def test_routes_take_the_same_tokens(client, http, token):
    ben = client.connect("ben", claims={"role": "guest"})
    ben.join("board:x")
    assert http.get("/whoami", headers=bearer(token)).json() == "ann"
    assert ben.expect("asked", room="board:x").data == "ann"


@pytest.mark.parametrize("left_open", [False, True])
def test_an_event_stream(client, http, token, left_open, request):
    ben = client.connect("ben", claims={"role": "guest"})
    ben.join("board:x")
    asked = http.build_request("GET", "/sse", params={"room": "board:x"}, headers=bearer(token))
    response = http.send(asked, stream=True)
    assert response.status_code == 200
    ben.send("note.add", "hi", room="board:x")
    assert any('"hi"' in line for line in response.iter_lines())
    if not left_open:
        response.close()


@pytest.mark.anyio
async def test_async(async_client, server, token):
    async with async_client.connect("ben", claims={"role": "guest"}) as ben:
        await ben.join("board:x")
        async with httpx.AsyncClient(base_url=server.http_url, trust_env=False) as http:
            assert (await http.get("/whoami", headers=bearer(token))).status_code == 200
        await ben.expect("asked")


def test_one_server(server):
    assert ports == {server.port}
"""
NAMES = ["limits_and_claims", "routes_take_the_same_tokens", "one_server"]
NAMES += ["an_event_stream[False]", "an_event_stream[True]", "async[asyncio]", "async[trio]"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    project = Project(tmp_path_factory.mktemp("config"))
    project.write("pytest.ini", "[pytest]\nroomwire_config = roomwire.toml\nroomwire_scope = session\n")
    project.write("roomwire.toml", CONFIG)
    project.write(".env", "BOARD_NAME=of-the-env-file\nBOARD_SECRET=of-production\n")
    project.write("board.py", BOARD + API)
    project.write("test_it.py", TESTS)
    return project.run()


@pytest.mark.parametrize("name", NAMES)
def test_it_passes(run: Run, name: str) -> None:
    assert run.outcomes.get(f"test_{name}") == "PASSED", run.output
