"""A process that serves, from its start to its end: signals, and what the service manager is told."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from roomwire.core.frames import Opcode
from tests.server.live import make_token
from tests.server.processes import ServingProcess
from tests.server.raw import TIMEOUT, RawLink, connect, request

SETTINGS = {"server": {"port": 0, "drain_timeout": 10.0, "reconnect_spread": 4.0}}


def joined(port: int, user: str = "ann") -> RawLink:
    """A client that has read its welcome."""
    link = connect(port, request("/ws", f"Authorization: Bearer {make_token(user)}"))
    link.upgraded()
    link.event("session.welcome")
    return link


@pytest.fixture(params=["asyncio", "uvloop", "trio"])
def backend(request: pytest.FixtureRequest) -> str:
    backend: str = request.param
    return backend


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_drains_and_the_process_ends_with_0(backend: str, number: signal.Signals) -> None:
    with ServingProcess(backend, SETTINGS) as process:
        port = process.port()
        with joined(port) as ann, joined(port, "bob") as bob:
            process.signal(number)
            for link in (ann, bob):
                closing = link.event("session.closing")["data"]
                assert (closing["code"], closing["reconnect"]) == (1012, True)
                assert 0 <= closing["retry_after"] <= 4.0
                found = link.frame()
                assert found == (Opcode.CLOSE, (1012).to_bytes(2, "big") + b"restart")
                link.send_frame(Opcode.CLOSE, (1012).to_bytes(2, "big"))
                assert link.frame() is None
        assert process.end() == (0, ["lifespan ended", "served"])


def test_the_second_signal_ends_at_once(backend: str) -> None:
    with ServingProcess(backend, SETTINGS) as process:
        port = process.port()
        with joined(port) as stubborn:
            process.signal(signal.SIGTERM)
            assert stubborn.event("session.closing")["data"]["code"] == 1012
            process.signal(signal.SIGTERM)  # no answer to the close frame: the drain would wait for it
            assert process.end() == (0, ["lifespan ended", "served"])
            assert list(stubborn.frames())[-1][0] is Opcode.CLOSE


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """A service manager, to be named by ``NOTIFY_SOCKET``."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(TIMEOUT)
        yield sock


def test_a_signal_before_it_serves_ends_it_in_good_order(backend: str, manager: socket.socket) -> None:
    environ = {"NOTIFY_SOCKET": manager.getsockname()}
    with ServingProcess(backend, SETTINGS, "--slow-start", environ=environ) as process:
        assert process.line() == "starting"
        process.signal(signal.SIGTERM)
        assert manager.recv(100) == b"STOPPING=1"
        process.answer()  # a thread of the start waits for it, and none can be cancelled
        code, lines = process.end()
        assert code == 0
        assert lines[-1] == "served"


def test_the_service_manager_is_told(backend: str, manager: socket.socket) -> None:
    with ServingProcess(backend, SETTINGS, environ={"NOTIFY_SOCKET": manager.getsockname()}) as process:
        assert manager.recv(100) == b"READY=1"
        with joined(process.port()):
            process.signal(signal.SIGTERM)
            assert manager.recv(100) == b"STOPPING=1"
        assert process.end()[0] == 0


def test_an_abstract_notify_socket_is_told_too_and_a_missing_one_does_no_harm(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("")  # Linux chooses an abstract name
        manager.settimeout(TIMEOUT)
        name = manager.getsockname()[1:].decode()
        with ServingProcess("asyncio", SETTINGS, environ={"NOTIFY_SOCKET": f"@{name}"}) as process:
            assert manager.recv(100) == b"READY=1"
            process.port()
            process.signal(signal.SIGTERM)
            assert process.end()[0] == 0
    with ServingProcess("asyncio", SETTINGS, environ={"NOTIFY_SOCKET": str(tmp_path / "nobody")}) as process:
        process.port()
        process.signal(signal.SIGTERM)
        assert process.end()[0] == 0


def test_an_address_in_use_ends_it_with_a_configuration_error(backend: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with ServingProcess(backend, {"server": {"port": port}}) as process:
            process.process.wait(TIMEOUT)
            # The error itself, not a group of what task groups made of it.
            expected = f"ConfigError: server.host = '127.0.0.1', server.port = {port}: cannot listen there: "
            assert process.errors().startswith(expected)
            assert process.process.returncode == 1
