"""The fixtures of the pytest plugin under names that no other plugin has."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from roomwire.app import App
from roomwire.config import Settings
from roomwire.testing._clients import AsyncClient, Client, MakeToken
from roomwire.testing._fixtures import make_async_client, make_client, make_server
from roomwire.testing._plugin import KIT, scope_of
from roomwire.testing._server import Server, TokenMaker

__all__ = ["roomwire_async_client", "roomwire_client", "roomwire_server", "roomwire_token"]


@pytest.fixture(scope=scope_of)
def roomwire_server(pytestconfig: pytest.Config, roomwire_app: App, roomwire_settings: Settings) -> Iterator[Server]:
    """The application on a real port, in a thread of its own."""
    yield from make_server(pytestconfig.stash[KIT], roomwire_app, roomwire_settings)


@pytest.fixture(scope=scope_of)
def roomwire_token(pytestconfig: pytest.Config, roomwire_settings: Settings) -> MakeToken:
    """Makes tokens that the server accepts: ``roomwire_token("ann", role="admin")``."""
    return TokenMaker(roomwire_settings, pytestconfig.stash[KIT].transcript)


@pytest.fixture
def roomwire_client(
    pytestconfig: pytest.Config, roomwire_server: Server, roomwire_token: MakeToken
) -> Iterator[Client]:
    """Connects users in blocking style: ``roomwire_client.connect("ann")``."""
    yield from make_client(pytestconfig.stash[KIT], roomwire_server, roomwire_token)


@pytest.fixture
def roomwire_async_client(
    pytestconfig: pytest.Config, roomwire_server: Server, roomwire_token: MakeToken
) -> Iterator[AsyncClient]:
    """Connects users on asyncio and trio: ``await roomwire_async_client.connect("ann")``."""
    yield from make_async_client(pytestconfig.stash[KIT], roomwire_server, roomwire_token)
