"""One uvicorn and one raw process for each module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.examples.dashboard import Dashboard, copied


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"  # playwright knows no other


@pytest.fixture(scope="module", params=["raw", "uvicorn"])
def dashboard(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dashboard]:
    directory = copied(tmp_path_factory.mktemp("dashboard") / "project")
    with Dashboard(directory, raw=request.param == "raw") as server:
        yield server
