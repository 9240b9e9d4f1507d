"""The header, the servers and the guards of every test run."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Iterator

import pytest
from hypothesis import HealthCheck, settings
from playwright.async_api import Browser

from tests.guards import AsyncioErrors, core_coverage, end_children, leaked_children, leaked_threads
from tests.servers import TOOLS, NatsServer, RedisServer, open_browser

# No deadline: it would measure how busy the machine is. The same examples in every run of a CI.
settings.register_profile(
    "roomwire",
    deadline=None,
    derandomize="CI" in os.environ,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("thorough", settings.get_profile("roomwire"), max_examples=2000, derandomize=False)
settings.load_profile("roomwire")

_errors = AsyncioErrors()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--core-gate", action="store_true", help="fail below the wanted coverage of roomwire/core")


def pytest_report_header() -> list[str]:
    return [tool.describe() for tool in TOOLS]


def pytest_configure() -> None:
    logging.getLogger("asyncio").addHandler(_errors)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Runs after the last fixture has ended and before the summary is written."""
    faults = [f"asyncio logged: {message}" for message in _errors.take_all()]
    faults += [f"a thread was left behind: {name}" for name in leaked_threads()]
    children = leaked_children()
    faults += [f"a process was left behind: {pid} {command}" for pid, command in children.items()]
    end_children(children)
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    assert isinstance(reporter, pytest.TerminalReporter)
    if session.config.getoption("--core-gate"):
        reached, wanted, table = core_coverage()
        reporter.ensure_newline()
        reporter.section("coverage of roomwire/core")
        reporter.write(table)
        if reached < wanted:
            faults.append(f"roomwire/core is covered to {reached:.2f} %, wanted are {wanted:g} %")
    for fault in faults:
        reporter.ensure_newline()
        reporter.write_line(f"FAILED {fault}", red=True)
    if faults and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(autouse=True)
def no_asyncio_errors() -> Iterator[None]:
    """A test fails where asyncio had to log an error in its time."""
    yield
    messages = _errors.take()
    if messages:
        pytest.fail("asyncio logged:\n" + "\n".join(messages))


@pytest.fixture(scope="session")
def redis_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="session")
def nats_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with NatsServer(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture
def redis_server(redis_session: RedisServer) -> Iterator[RedisServer]:
    """One Redis for the whole run; what a test did to it is healed after the test."""
    yield redis_session
    redis_session.heal()


@pytest.fixture
def nats_server(nats_session: NatsServer) -> Iterator[NatsServer]:
    """One NATS with JetStream for the whole run; what a test did to it is healed after the test."""
    yield nats_session
    nats_session.heal()


@pytest.fixture(scope="module")
async def browser(anyio_backend: str) -> AsyncIterator[Browser]:
    """A headless Chromium for one module, whose `anyio_backend` (of module scope) is ``"asyncio"``."""
    async with open_browser() as opened:
        yield opened
