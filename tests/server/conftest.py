"""The application that the server's tests talk to, and servers of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import pytest

from roomwire.core.policy import RoomPolicy
from roomwire.testing.clock import VirtualClock
from tests.server.chat import make_app
from tests.server.live import ASGI_HOSTS, SHELLS, LiveServer, Shell, live_server

ROOMS = {"chat:*": RoomPolicy(presence=True, leave_grace=0.0), "news:*": RoomPolicy(broadcast_only=True)}

USUAL_HOST = "asgi-uvicorn-sansio"
Serve = Callable[..., LiveServer]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every shell on every loop; what is marked as being about the wire alone on an ASGI host too."""
    definition = metafunc.definition
    chosen = any("shell" in str(mark.args[0]) for mark in definition.iter_markers("parametrize"))
    if "shell" in metafunc.fixturenames and not chosen and not hasattr(metafunc.module, "shell"):
        shells = list(SHELLS.values())
        if definition.get_closest_marker("wire") and not definition.get_closest_marker("raw_only"):
            shells += ASGI_HOSTS.values() if definition.get_closest_marker("every_host") else [ASGI_HOSTS[USUAL_HOST]]
        metafunc.parametrize("shell", shells, ids=[shell.name for shell in shells])


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start servers that end with the test."""
    with ExitStack() as stack:

        def start(shell: Shell = SHELLS["callback-asyncio"], **options: Any) -> LiveServer:
            app = options.pop("app", None) or make_app()
            context: AbstractContextManager[LiveServer] = live_server(app, shell, **{"rooms": ROOMS, **options})
            return stack.enter_context(context)

        yield start


@pytest.fixture
def server(shell: Shell, serve: Serve) -> LiveServer:
    """The usual server, on every shell."""
    return serve(shell)


@pytest.fixture
def server_on_clock(shell: Shell, serve: Serve) -> LiveServer:
    """The same with a clock that the test moves."""
    return serve(shell, clock=VirtualClock())
