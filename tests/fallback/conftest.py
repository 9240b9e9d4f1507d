"""Nodes with a fallback, on every shell."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anyio.from_thread
import pytest

from roomwire import App
from roomwire.node.fallback import Fallback
from tests.fallback.apps import Played
from tests.server.chat import make_app
from tests.server.live import SHELLS, LiveServer, Shell, make_node, serving


@contextmanager
def live_fallback(
    application: Any, shell: Shell = SHELLS["callback-asyncio"], *, app: App | None = None, **options: Any
) -> Iterator[LiveServer]:
    """A node with that application behind it, in a thread."""
    node = make_node(app or make_app(), shell, **options)
    node.fallback = Fallback(node, application, "main:api")
    node.beside.append(node.fallback.lifespan)
    with (
        anyio.from_thread.start_blocking_portal(shell.backend, dict(shell.backend_options)) as portal,
        serving(node, portal) as server,
    ):
        yield server


@pytest.fixture(scope="module", params=list(SHELLS))
def shell(request: pytest.FixtureRequest) -> Shell:
    return SHELLS[request.param]


@pytest.fixture(scope="module")
def hosted(shell: Shell) -> Iterator[tuple[LiveServer, Played]]:
    """One server for a module and a shell."""
    played = Played()
    with live_fallback(played, shell) as server:
        yield server, played


@pytest.fixture
def played(hosted: tuple[LiveServer, Played]) -> Played:
    """The application of `server`, as if it were new."""
    hosted[1].reset()
    return hosted[1]


@pytest.fixture
def server(hosted: tuple[LiveServer, Played], played: Played) -> LiveServer:
    """The played application, on every shell."""
    return hosted[0]
