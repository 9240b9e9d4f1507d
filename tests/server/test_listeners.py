"""Where a node listens: TCP, Unix sockets, inherited descriptors; and what it says where it cannot."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from roomwire.core.errors import ConfigError
from roomwire.transports.anyio.listeners import Listeners
from roomwire.transports.contract import ListenOptions
from tests.server.conftest import Serve
from tests.server.echoing import echo_server
from tests.server.live import Shell, make_token
from tests.server.processes import ServingProcess
from tests.server.raw import TIMEOUT, RawLink, connect, request


def open_listeners(options: ListenOptions, environ: dict[str, str] | None = None) -> Listeners:
    return Listeners(options, environ or {})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "roomwire.sock"


def unix_link(path: Path) -> RawLink:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(TIMEOUT)
    try:
        sock.connect(str(path))
    except OSError:
        sock.close()
        raise
    return RawLink(sock)


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


# --- TCP


def test_port_0_takes_any_and_tells_which() -> None:
    listeners = open_listeners(ListenOptions(port=0))
    try:
        port = listeners.sockets[0].getsockname()[1]
        assert listeners.addresses == [f"ws://127.0.0.1:{port}"]
    finally:
        listeners.close()


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
def test_ipv6(shell: Shell) -> None:
    with echo_server(shell, listen={"host": "::1"}) as server:
        assert server.addresses == [f"ws://[::1]:{server.port}"]
        with RawLink(socket.create_connection(("::1", server.port), timeout=TIMEOUT)) as link:
            link.send(request("/"))
            link.upgraded()
            (carrier,) = server.call(lambda: list(server.transport.carriers))
            assert carrier.peer.startswith("[::1]:")
            assert carrier.address == "::"


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
def test_a_name_of_both_families_listens_on_one_port_of_both(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_to(monkeypatch, ("127.0.0.1",), ("::1", 0, 0))
    listeners = open_listeners(ListenOptions(host="both.example", port=0))
    try:
        ports = {sock.getsockname()[1] for sock in listeners.sockets}
        assert len(listeners.sockets) == 2
        assert len(ports) == 1
    finally:
        listeners.close()


def resolve_to(monkeypatch: pytest.MonkeyPatch, *addresses: tuple[object, ...]) -> None:
    """Have a name resolve to these: the machine's own resolver is not ours to configure."""

    def getaddrinfo(host: object, port: int, **options: object) -> list[tuple[object, ...]]:
        found: list[tuple[object, ...]] = []
        for host_, *rest in addresses:
            family = socket.AF_INET6 if rest else socket.AF_INET
            found.append((family, socket.SOCK_STREAM, 6, "", (host_, port, *rest)))
        return found

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def test_a_family_that_the_machine_lacks_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    # An address of the documentation's network is nobody's, which the kernel says in the same words.
    resolve_to(monkeypatch, ("192.0.2.1",), ("127.0.0.1",))
    listeners = open_listeners(ListenOptions(host="localhost", port=0))
    try:
        assert [sock.getsockname()[0] for sock in listeners.sockets] == ["127.0.0.1"]
    finally:
        listeners.close()


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"server\.host = '192\.0\.2\.1', server\.port = 0: cannot listen there"):
        open_listeners(ListenOptions(host="192.0.2.1", port=0))


def test_an_unknown_host_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"server\.host = '256\.1\.1\.1', server\.port = 1: the host is not known"):
        open_listeners(ListenOptions(host="256.1.1.1", port=1))


def test_a_port_in_use_is_refused_with_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        expected = rf"server\.port = {port}: cannot listen there: Address already in use; choose another port"
        with pytest.raises(ConfigError, match=expected):
            open_listeners(ListenOptions(port=port))


def test_a_port_that_another_has_bound_and_not_listened_on_yet() -> None:
    """Both can bind it, with SO_REUSEADDR; the second to listen is told."""
    with socket.socket() as rival:
        rival.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        rival.bind(("127.0.0.1", 0))
        port = rival.getsockname()[1]
        listeners = open_listeners(ListenOptions(port=port))
        listeners.close()
        rival.listen()
        with pytest.raises(ConfigError, match="cannot listen there"):
            open_listeners(ListenOptions(port=port))


def test_a_port_can_be_taken_again_at_once_after_the_end(shell: Shell) -> None:
    with echo_server(shell) as first, connect(first.port, request("/")) as link:
        link.upgraded()
        port = first.port
    listeners = open_listeners(ListenOptions(port=port))  # in spite of what is in TIME_WAIT
    listeners.close()


# --- Unix sockets


def test_a_unix_socket_is_served_and_removed_at_the_end(shell: Shell, serve: Serve, path: Path) -> None:
    with echo_server(shell, listen={"uds": str(path)}) as server:
        assert server.addresses == [f"unix:{path}"]
        with unix_link(path) as link:
            link.send(request("/"))
            link.upgraded()
            (carrier,) = server.call(lambda: list(server.transport.carriers))
            assert (carrier.peer, carrier.address) == ("unix", "")
            assert server.call(lambda: carrier._fd) >= 0
    assert not path.exists()


def leave_stale(path: Path) -> None:
    """What a server that was killed leaves behind."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()


def test_a_stale_unix_socket_is_replaced(shell: Shell, path: Path) -> None:
    leave_stale(path)
    with echo_server(shell, listen={"uds": str(path)}), unix_link(path) as link:
        link.send(request("/"))
        link.upgraded()
    assert not path.exists()


def test_a_unix_socket_that_is_answered_on_is_refused_and_stays(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as live:
        live.bind(str(path))
        live.listen(1)
        with pytest.raises(ConfigError, match="another server listens there"):
            open_listeners(ListenOptions(uds=str(path)))
        unix_link(path).close()
        # Its queue is full now: it has a server nevertheless.
        with pytest.raises(BlockingIOError):
            unix_link(path)
        with pytest.raises(ConfigError, match="another server listens there"):
            open_listeners(ListenOptions(uds=str(path)))


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_is_no_socket_is_refused_and_stays(path: Path, kind: str) -> None:
    if kind == "file":
        path.write_text("precious")
    else:
        path.mkdir()
    with pytest.raises(ConfigError, match="a file of that name exists and is no socket"):
        open_listeners(ListenOptions(uds=str(path)))
    assert path.exists()


def test_a_path_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"server\.uds = .*: cannot listen there: No such file or directory"):
        open_listeners(ListenOptions(uds=str(tmp_path / "nowhere" / "x.sock")))
    with pytest.raises(ConfigError, match=r"server\.uds = .*: cannot listen there: AF_UNIX path too long"):
        open_listeners(ListenOptions(uds=str(tmp_path / ("x" * 200))))


def test_a_successors_socket_is_not_removed(path: Path) -> None:
    first = open_listeners(ListenOptions(uds=str(path)))
    path.rename(path.with_suffix(".old"))
    second = open_listeners(ListenOptions(uds=str(path)))
    first.close()
    assert path.exists()
    second.close()
    assert not path.exists()


# --- inherited sockets


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


def test_an_inherited_descriptor_is_served_and_stays_open(shell: Shell, listening: socket.socket) -> None:
    with echo_server(shell, listen={"fd": listening.fileno()}) as server, connect(server.port, request("/")) as link:
        assert server.port == listening.getsockname()[1]
        link.upgraded()
    # It belongs to whoever made it: a successor accepts on it what comes in between.
    listening.setblocking(True)  # whoever serves has it not block
    with connect(listening.getsockname()[1]) as link:
        listening.accept()[0].close()
        assert link.read_to_end() == b""


def test_an_inherited_unix_socket_keeps_its_path(shell: Shell, path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))
        made.listen()
        with echo_server(shell, listen={"fd": made.fileno()}), unix_link(path) as link:
            link.send(request("/"))
            link.upgraded()
        assert path.exists()


def test_a_descriptor_that_is_no_stream_socket_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file:
        with pytest.raises(
            ConfigError, match=rf"server\.fd = {file.fileno()}: descriptor {file.fileno()} is no socket"
        ):
            open_listeners(ListenOptions(fd=file.fileno()))
        closed = os.dup(file.fileno())
        os.close(closed)
        with pytest.raises(ConfigError, match=rf"descriptor {closed} is no socket"):
            open_listeners(ListenOptions(fd=closed))
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with datagrams, pytest.raises(ConfigError, match="is no stream socket"):
        open_listeners(ListenOptions(fd=datagrams.fileno()))


def test_a_connected_socket_cannot_be_listened_on(listening: socket.socket) -> None:
    with connect(listening.getsockname()[1]) as link, pytest.raises(ConfigError, match="cannot listen there"):
        open_listeners(ListenOptions(fd=link.sock.fileno()))


@pytest.mark.parametrize("environ", [{}, {"LISTEN_PID": "1", "LISTEN_FDS": "1"}, {"LISTEN_FDS": "1"}])
def test_listen_fds_for_another_process_are_not_ours(environ: dict[str, str]) -> None:
    listeners = open_listeners(ListenOptions(port=0), environ)
    assert listeners.addresses[0].startswith("ws://127.0.0.1:")
    listeners.close()


def test_listen_fds_that_are_no_number_are_passed_over() -> None:
    environ = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "many"}
    listeners = open_listeners(ListenOptions(port=0), environ)
    assert listeners.addresses[0].startswith("ws://127.0.0.1:")
    listeners.close()


@pytest.mark.parametrize("backend", ["asyncio", "uvloop", "trio"])
def test_a_socket_of_systemd_is_served(backend: str, listening: socket.socket) -> None:
    number = listening.fileno()
    # Queued before the process lives: socket activation loses nobody.
    token = f"Authorization: Bearer {make_token('ann')}"
    with (
        connect(listening.getsockname()[1], request("/ws", token)) as early,
        ServingProcess(backend, {}, "--listen-fds", str(number), pass_fds=[number]) as process,
    ):
        assert process.port() == listening.getsockname()[1]
        early.upgraded()
        early.event("session.welcome")
        process.signal(signal.SIGTERM)
        early.event("session.closing")
        early.close()
        assert process.end()[0] == 0


def test_an_inherited_descriptor_is_not_passed_on_to_children(listening: socket.socket) -> None:
    os.set_inheritable(listening.fileno(), True)
    listeners = open_listeners(ListenOptions(fd=listening.fileno()))
    try:
        assert not os.get_inheritable(listening.fileno())
        code = f"import os; os.fstat({listening.fileno()})"
        child = subprocess.run([sys.executable, "-c", code], close_fds=False, capture_output=True, check=False)
        assert b"Bad file descriptor" in child.stderr
    finally:
        listeners.close()
