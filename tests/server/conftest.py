"""The application that the server's tests talk to, and servers of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import pytest

from roomwire.core.policy import RoomPolicy
from roomwire.testing.clock import VirtualClock
from tests.server.chat import make_app
from tests.server.live import SHELLS, LiveServer, Shell, live_server

ROOMS = {"chat:*": RoomPolicy(presence=True, leave_grace=0.0), "news:*": RoomPolicy(broadcast_only=True)}

Serve = Callable[..., LiveServer]


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest) -> Shell:
    """Every shell on every loop."""
    return SHELLS[request.param]


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
