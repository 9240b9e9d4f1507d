from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from tests.auth.support import Clock, KeyServer


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[KeyServer]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with KeyServer() as server:
        yield server
    # A fetch that nobody waited for logs how it ended: not within the next test.
    for thread in threading.enumerate():
        if thread.name == "roomwire-jwks":
            thread.join()
