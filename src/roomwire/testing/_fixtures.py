"""The fixtures of the pytest plugin, under their plain names and under prefixed ones."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from roomwire.app import App
from roomwire.config import Settings
from roomwire.testing._clients import AsyncClient, Client, MakeToken
from roomwire.testing._loading import load_app
from roomwire.testing._plugin import KIT, NAMES, Kit, scope_of
from roomwire.testing._server import Server, TokenMaker, running_server

__all__ = ["PLAIN", "PREFIXED"]

_USES = frozenset({"roomwire_app", *NAMES, *(f"roomwire_{name}" for name in NAMES)})


@pytest.fixture(scope="session")
def roomwire_app(pytestconfig: pytest.Config) -> App:
    """The application under test. Override it where a function makes the application."""
    return load_app(pytestconfig.stash[KIT].target())


@pytest.fixture(scope=scope_of)
def roomwire_settings(pytestconfig: pytest.Config) -> Settings:
    """What the server is made of. Override it for other limits, policies or adapters."""
    return pytestconfig.stash[KIT].loaded().settings


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


def _client(kit: Kit, server: Server, token: MakeToken) -> Iterator[Client]:
    client = Client(server.port, server.path, token, kit.transcript, kit.timeout)
    kit.clients.append(client)
    yield client
    client.abort()
    kit.clients.remove(client)


def _async_client(kit: Kit, server: Server, token: MakeToken) -> Iterator[AsyncClient]:
    client = AsyncClient(server.port, server.path, token, kit.transcript, kit.timeout)
    kit.clients.append(client)
    yield client
    client.abort()
    kit.clients.remove(client)


class _Plain:
    @pytest.fixture(scope=scope_of)
    def server(self, pytestconfig: pytest.Config, roomwire_app: App, roomwire_settings: Settings) -> Iterator[Server]:
        """The application on a real port, in a thread of its own."""
        with running_server(roomwire_app, roomwire_settings, pytestconfig.stash[KIT].transcript) as server:
            yield server

    @pytest.fixture(scope=scope_of)
    def token(self, pytestconfig: pytest.Config, roomwire_settings: Settings) -> MakeToken:
        """Makes tokens that the server accepts: ``token("ann", role="admin")``; ``token.expired("ann")``."""
        return TokenMaker(roomwire_settings, pytestconfig.stash[KIT].transcript)

    @pytest.fixture
    def client(self, pytestconfig: pytest.Config, server: Server, token: MakeToken) -> Iterator[Client]:
        """Connects users in blocking style: ``client.connect("ann")``."""
        yield from _client(pytestconfig.stash[KIT], server, token)

    @pytest.fixture
    def async_client(self, pytestconfig: pytest.Config, server: Server, token: MakeToken) -> Iterator[AsyncClient]:
        """Connects users on asyncio and trio: ``await async_client.connect("ann")``."""
        yield from _async_client(pytestconfig.stash[KIT], server, token)


class _Prefixed:
    @pytest.fixture(scope=scope_of)
    def roomwire_server(
        self, pytestconfig: pytest.Config, roomwire_app: App, roomwire_settings: Settings
    ) -> Iterator[Server]:
        """The application on a real port, in a thread of its own."""
        with running_server(roomwire_app, roomwire_settings, pytestconfig.stash[KIT].transcript) as server:
            yield server

    @pytest.fixture(scope=scope_of)
    def roomwire_token(self, pytestconfig: pytest.Config, roomwire_settings: Settings) -> MakeToken:
        """Makes tokens that the server accepts: ``roomwire_token("ann", role="admin")``."""
        return TokenMaker(roomwire_settings, pytestconfig.stash[KIT].transcript)

    @pytest.fixture
    def roomwire_client(
        self, pytestconfig: pytest.Config, roomwire_server: Server, roomwire_token: MakeToken
    ) -> Iterator[Client]:
        """Connects users in blocking style: ``roomwire_client.connect("ann")``."""
        yield from _client(pytestconfig.stash[KIT], roomwire_server, roomwire_token)

    @pytest.fixture
    def roomwire_async_client(
        self, pytestconfig: pytest.Config, roomwire_server: Server, roomwire_token: MakeToken
    ) -> Iterator[AsyncClient]:
        """Connects users on asyncio and trio: ``await roomwire_async_client.connect("ann")``."""
        yield from _async_client(pytestconfig.stash[KIT], roomwire_server, roomwire_token)


PLAIN = _Plain()
PREFIXED = _Prefixed()
