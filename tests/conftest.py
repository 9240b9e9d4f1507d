"""The header, the servers and the guards of every test run."""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import threading
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from _pytest.faulthandler import fault_handler_stderr_fd_key
from hypothesis import HealthCheck, settings
from playwright.async_api import Browser

from tests.guards import (
    AsyncioErrors,
    CoreMeasure,
    core_coverage,
    end_children,
    leaked_children,
    leaked_threads,
)
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

CORE_TESTS = Path(__file__).parent / "core"

TEARDOWN_LIMIT = 180.0
"""Seconds for the fixtures of one test to end; then the process says where it stands, and ends."""

_errors = AsyncioErrors()
_measure: CoreMeasure | None = None
_from_workers: list[dict[str, Any]] = []
"""What the workers of a parallel run found at their end."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--core-gate", action="store_true", help="fail below the wanted coverage of roomwire/core")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """``-n auto`` is one more than there are processors: a test that waits for a process leaves one free."""
    return (os.cpu_count() or 1) + 1


def pytest_report_header() -> list[str]:
    return [*(tool.describe() for tool in TOOLS), f"io_uring: {ring_state()}"]


def ring_state() -> str:
    """Whether the tests of the ring run, or pass over for want of one."""
    from roomwire.transports.anyio.ring import SendRing  # not before the core is measured

    try:
        SendRing().close()
    except OSError as error:
        return f"not to be had, and not tested: {error}"
    return "granted"


def pytest_configure(config: pytest.Config) -> None:
    global _measure
    logging.getLogger("asyncio").addHandler(_errors)
    # A shell starts what runs in its background with SIGINT ignored, and so would be all that is started from here.
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.getoption("--core-gate") and not distributes(config):
        _measure = CoreMeasure()
        _measure.import_core()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    if _measure is None or not item.path.is_relative_to(CORE_TESTS):
        return (yield)
    _measure.start()
    try:
        return (yield)
    finally:
        _measure.stop()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    """A test that was stopped by its time-out has no other bound for what it left to its fixtures."""
    shown = item.config.stash[fault_handler_stderr_fd_key]  # sys.stderr is captured
    faulthandler.dump_traceback_later(TEARDOWN_LIMIT, exit=True, file=shown)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


def distributes(config: pytest.Config) -> bool:
    """Whether this process runs no test itself: its workers do."""
    return bool(config.getoption("tx", None)) and not hasattr(config, "workerinput")


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    _from_workers.append(getattr(node, "workeroutput", {}))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Runs after the last fixture and the last worker have ended, and before the summary is written."""
    faults = [f"asyncio logged: {message}" for message in _errors.take_all()]
    faults += [f"a thread was left behind: {name}" for name in leaked_threads()]
    children = leaked_children()
    faults += [f"a process was left behind: {pid} {command}" for pid, command in children.items()]
    end_children(children)
    measured = [] if _measure is None else [_measure.dumps()]
    output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if output is not None:
        output.update(faults=faults, measured=measured)
        return
    for other in _from_workers:
        faults += other.get("faults", ["a worker ended before its end"])
        measured += other.get("measured", [])
    report(session, faults, measured)


def report(session: pytest.Session, faults: list[str], measured: list[bytes]) -> None:
    """Say what the run left behind and what of the core it covered, and fail it by that."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    assert isinstance(reporter, pytest.TerminalReporter)
    if session.config.getoption("--core-gate"):
        reached, wanted, table = core_coverage(measured)
        reporter.line("")
        reporter.section("coverage of roomwire/core by its own tests")
        reporter.write(table)
        if reached < wanted:
            faults.append(f"roomwire/core is covered to {reached:.2f} %, wanted are {wanted:g} %")
    for fault in faults:
        reporter.ensure_newline()
        reporter.write_line(f"FAILED {fault}", red=True)
    if faults and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What a test has to say whether it passed or not, as its property `summary`."""
    for report in [report for reports in terminalreporter.stats.values() for report in reports]:
        texts = [text for name, text in getattr(report, "user_properties", ()) if name == "summary"]
        if texts and getattr(report, "when", None) == "call":
            terminalreporter.section(report.nodeid)
            terminalreporter.write("".join(map(str, texts)))


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
