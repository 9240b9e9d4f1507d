"""The fixtures that have one name, and what the others are made of (`_fixtures_plain`, `_fixtures_prefixed`)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from roomwire.app import App
from roomwire.config import Settings
from roomwire.testing._clients import AsyncClient, Client, MakeToken
from roomwire.testing._loading import load_app
from roomwire.testing._plugin import KIT, NAMES, Kit, scope_of
from roomwire.testing._server import Server, running_server

__all__ = ["make_async_client", "make_client", "make_server", "roomwire_app", "roomwire_settings"]

__tracebackhide__ = True  # what fails here is said, and where is of no use

_USES = frozenset({"roomwire_app", *NAMES, *(f"roomwire_{name}" for name in NAMES)})


@pytest.fixture(scope="session")
def roomwire_app(pytestconfig: pytest.Config) -> App:
    """The application under test. Override it where a function makes the application."""
    kit = pytestconfig.stash[KIT]
    with kit.plainly():
        return load_app(kit.target(), kit.folder)


@pytest.fixture(scope=scope_of)
def roomwire_settings(pytestconfig: pytest.Config) -> Settings:
    """What the server is made of. Override it for other limits, policies or adapters."""
    kit = pytestconfig.stash[KIT]
    with kit.plainly():
        return kit.loaded().settings


@pytest.fixture(autouse=True)
def _roomwire_overrides(request: pytest.FixtureRequest) -> Iterator[None]:
    """What a test puts into `App.overrides` goes with it; what fixtures of a wider scope put there stays."""
    if _USES.isdisjoint(request.fixturenames):
        yield
        return
    app: App = request.getfixturevalue("roomwire_app")
    before = dict(app.overrides)
    yield
    for provide in list(app.overrides):
        if provide not in before:
            del app.overrides[provide]
    for provide, other in before.items():
        if app.overrides.get(provide) is not other:
            app.overrides[provide] = other


def make_server(kit: Kit, app: App, settings: Settings) -> Iterator[Server]:
    with kit.plainly(), running_server(app, settings, kit.transcript, kit.timeout) as server:
        yield server


def make_client(kit: Kit, server: Server, token: MakeToken) -> Iterator[Client]:
    client = Client(server.port, server.path, token, kit.transcript, kit.timeout)
    kit.clients.append(client)
    yield client
    _end(kit, server, client)


def make_async_client(kit: Kit, server: Server, token: MakeToken) -> Iterator[AsyncClient]:
    client = AsyncClient(server.port, server.path, token, kit.transcript, kit.timeout)
    kit.clients.append(client)
    yield client
    _end(kit, server, client)


def _end(kit: Kit, server: Server, client: Client | AsyncClient) -> None:
    kit.clients.remove(client)
    sessions = client.abort()
    if kit.outlives_tests:
        server.forget(sessions)
