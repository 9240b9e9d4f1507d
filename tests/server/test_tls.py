"""TLS: the same server behind it, and what becomes of those who do not speak it."""

from __future__ import annotations

import logging
import socket
import ssl
import struct
from typing import Any

import anyio
import pytest
import trustme
import websockets.sync.client

from roomwire.core.closing import CloseCode, Closing
from roomwire.core.frames import Opcode
from roomwire.core.limits import Limits
from roomwire.testing.clock import VirtualClock
from roomwire.transports.anyio import AnyioTransport, accepting, portable
from roomwire.transports.anyio.accepting import Arrival, greet
from roomwire.transports.anyio.carrier import Phase
from roomwire.transports.anyio.door import HANDSHAKES_PER_TURN, Door
from roomwire.transports.anyio.peers import Peer
from roomwire.transports.contract import ListenOptions
from tests.server.conftest import Serve
from tests.server.echoing import EchoServer, echo_server
from tests.server.live import Client, Shell, make_token
from tests.server.raw import TIMEOUT, RawLink, connect, frame, request
from tests.server.watching import carriers, counts_by_turn, until


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def ours(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    return context


@pytest.fixture(scope="module")
def theirs(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.fixture(params=["TLSv1_2", "TLSv1_3"])
def versioned(request: pytest.FixtureRequest, authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    context.minimum_version = context.maximum_version = ssl.TLSVersion[request.param]
    return context


def secure_link(port: int, context: ssl.SSLContext, data: bytes = b"") -> RawLink:
    sock = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT)
    link = RawLink(context.wrap_socket(sock, server_hostname="localhost"))
    if data:
        link.send(data)
    return link


def opened(server: EchoServer, context: ssl.SSLContext) -> RawLink:
    link = secure_link(server.port, context, request("/"))
    link.upgraded()
    return link


def test_a_chat_over_tls(shell: Shell, serve: Serve, ours: ssl.SSLContext, versioned: ssl.SSLContext) -> None:
    server = serve(shell, listen={"ssl": ours})
    assert not server.node.transport.capabilities.writes_directly
    headers = {"Authorization": f"Bearer {make_token('ann')}"}
    with websockets.sync.client.connect(
        f"wss://localhost:{server.port}/ws",
        ssl=versioned,
        sock=socket.create_connection(("127.0.0.1", server.port)),
        additional_headers=headers,
        proxy=None,
        open_timeout=TIMEOUT,
    ) as connection:
        client = Client(connection)
        assert client.receive_until("session.welcome")["data"]["user"] == "ann"
        ack = client.request("message.send", {"content": "x" * 50_000}, room="chat:general")
        assert ack["event"] == "ack"
        server.call(server.node.runtime.spawn, server.node.drain.run)
        assert client.closed()[0] == 1012


def test_a_refusal_over_tls(shell: Shell, serve: Serve, ours: ssl.SSLContext, theirs: ssl.SSLContext) -> None:
    server = serve(shell, listen={"ssl": ours})
    with secure_link(server.port, theirs, request("/ws")) as link:
        response = link.response()
        assert (response.status, response.json["error"]) == (401, "unauthorized")
    until(server, lambda: not carriers(server))


def test_the_request_is_known_to_be_secure(
    shell: Shell, serve: Serve, ours: ssl.SSLContext, theirs: ssl.SSLContext
) -> None:
    server = serve(shell, listen={"ssl": ours})
    seen: list[Any] = []
    authenticate = server.node.authenticator.authenticate

    class Spy:
        async def authenticate(self, head: Any) -> Any:
            seen.append(head)
            return await authenticate(head)

        async def aclose(self) -> None:
            pass

    server.node.authenticator = Spy()  # type: ignore[assignment]
    with secure_link(server.port, theirs, request("/ws", f"Authorization: Bearer {make_token('ann')}")) as link:
        link.upgraded()
    assert [head.secure for head in seen] == [True]


# --- ends


def test_the_peers_close_ends_the_link_at_once(shell: Shell, ours: ssl.SSLContext, versioned: ssl.SSLContext) -> None:
    clock = VirtualClock()  # stands still: no deadline of ours helps
    with (
        echo_server(shell, listen={"ssl": ours}, clock=clock) as server,
        opened(server, versioned) as link,
    ):
        link.send_frame(Opcode.CLOSE, struct.pack("!H", 1000))
        assert list(link.frames()) == [(Opcode.CLOSE, struct.pack("!H", 1000))]
        link.close()
        server.until(lambda: not server.transport.carriers)
        assert server.receiver().ended == (1000, "", True)


def test_our_close_ends_the_link_with_the_peers_answer(
    shell: Shell, ours: ssl.SSLContext, theirs: ssl.SSLContext
) -> None:
    clock = VirtualClock()
    with echo_server(shell, listen={"ssl": ours}, clock=clock) as server, opened(server, theirs) as link:
        server.until(lambda: server.host.receivers and server.receiver().link)
        out = server.receiver().link
        assert out is not None
        server.call(out.close, Closing.of(CloseCode.RESTART))
        assert link.frame() == (Opcode.CLOSE, struct.pack("!H", 1012) + b"restart")
        link.send_frame(Opcode.CLOSE, struct.pack("!H", 1012))
        assert link.frame() is None


def test_the_close_frame_arrives_though_the_peer_keeps_sending(
    shell: Shell, ours: ssl.SSLContext, theirs: ssl.SSLContext
) -> None:
    clock = VirtualClock()
    limits = Limits(max_message_size=1000)
    with (
        echo_server(shell, listen={"ssl": ours}, limits=limits, clock=clock) as server,
        opened(server, theirs) as link,
    ):
        link.send(frame(Opcode.BINARY, b"x" * 1001))
        server.until(lambda: all(carrier.phase is Phase.ENDING for carrier in server.transport.carriers))
        for _ in range(50):
            link.send(b"\xaa" * 65_536)
        assert link.frame() == (Opcode.CLOSE, struct.pack("!H", 1009) + b"message too big")
        server.advance(1.5)
        server.until(lambda: not server.transport.carriers)


def test_a_reset_under_tls(shell: Shell, ours: ssl.SSLContext, theirs: ssl.SSLContext) -> None:
    with echo_server(shell, listen={"ssl": ours}) as server:
        link = opened(server, theirs)
        server.until(lambda: server.host.receivers and server.receiver().link)
        link.reset()
        server.until(lambda: server.receiver().ended)
        assert server.receiver().ended == (1006, "", False)
        server.until(lambda: not server.transport.carriers)


# --- who does not speak TLS


@pytest.mark.parametrize("data", [request("/ws"), b"\x16\x03\x01garbage" * 10, b"\0" * 100])
def test_who_does_not_speak_tls_is_dropped_without_a_traceback(
    shell: Shell, ours: ssl.SSLContext, caplog: pytest.LogCaptureFixture, data: bytes
) -> None:
    caplog.set_level(logging.DEBUG)
    with echo_server(shell, listen={"ssl": ours}) as server:
        with connect(server.port, data) as link:
            answer = link.read_to_end()
            assert not answer.startswith(b"HTTP")  # at the most an alert of TLS
        assert server.host.receivers == []
    assert [record for record in caplog.records if record.exc_info or record.levelno >= logging.WARNING] == []


def test_a_silent_socket_has_the_time_of_a_handshake(shell: Shell, ours: ssl.SSLContext) -> None:
    limits = Limits(handshake_timeout=0.2)
    with echo_server(shell, listen={"ssl": ours}, limits=limits) as server, connect(server.port) as link:
        assert link.read_to_end() == b""


def test_a_client_that_leaves_in_the_tls_handshake(shell: Shell, ours: ssl.SSLContext) -> None:
    with echo_server(shell, listen={"ssl": ours}) as server:
        hello = bytes.fromhex("160301")
        for way in ("close", "half_close", "reset"):
            link = connect(server.port, hello)
            getattr(link, way)()
            if way == "half_close":
                assert link.read_to_end() == b""
                link.close()
        with connect(server.port, b"") as other:
            other.half_close()
            other.read_to_end()


@pytest.mark.parametrize("secure", [False, True])
def test_a_client_that_leaves_between_accept_and_the_first_read(
    shell: Shell,
    ours: ssl.SSLContext,
    theirs: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    secure: bool,
) -> None:
    links: dict[int, RawLink] = {}

    def greet_who_leaves(sock: socket.socket) -> Peer | None:
        port = sock.getpeername()[1]
        peer = greet(sock)
        if port in links:
            links.pop(port).reset()
            with pytest.raises(OSError, match="not connected"):
                sock.getpeername()
        return peer

    def connect_some() -> None:
        for _ in range(3):
            link = connect(server.port)
            links[link.sock.getsockname()[1]] = link

    monkeypatch.setattr(accepting, "greet", greet_who_leaves)
    monkeypatch.setattr(portable, "greet", greet_who_leaves)
    with echo_server(shell, listen={"ssl": ours if secure else None}) as server:
        server.call(connect_some)  # on the server's own loop, so that it accepts none before all are there
        if shell.shell == "callback" and not secure:
            for link in links.values():
                link.reset()  # the loop accepts by itself
            links.clear()
        server.until(lambda: not links and not server.transport.door._inside)
        with opened(server, theirs) if secure else connect(server.port, request("/")):
            server.until(lambda: server.host.receivers and server.receiver().link)
    assert [record.getMessage() for record in caplog.records] == []


def test_a_fault_before_the_tls_handshake_ends_only_that_socket(
    shell: Shell,
    ours: ssl.SSLContext,
    theirs: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail(self: Arrival, door: Door) -> None:
        raise LookupError("planted")

    with echo_server(shell, listen={"ssl": ours}) as server, opened(server, theirs) as link:
        monkeypatch.setattr(Arrival, "turn", fail)
        with connect(server.port) as other:
            assert is_closed(other)
        server.until(lambda: not server.transport.door._inside)
        link.send(frame(Opcode.TEXT, b"still here"))
        assert link.frame() == (Opcode.TEXT, b"still here")
    (record,) = caplog.records
    assert (record.getMessage(), record.levelname, bool(record.exc_info)) == ("a connection failed", "ERROR", True)


# --- the door stands before the TLS handshake


def silent_links(server: EchoServer, count: int) -> list[RawLink]:
    """Clients that have a place at the door, and have sent no byte of their TLS handshake."""
    links = [connect(server.port) for _ in range(count)]
    server.until(lambda: len(server.transport.door._inside) == count)
    return links


def is_closed(link: RawLink) -> bool:
    try:
        return link.read_to_end() == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("name", ["max_pending_per_ip", "max_pending_handshakes"])
def test_who_finds_no_place_before_its_tls_handshake_is_closed(
    shell: Shell, ours: ssl.SSLContext, theirs: ssl.SSLContext, name: str
) -> None:
    limited: dict[str, Any] = {name: 5}
    limits = Limits(handshake_timeout=300.0, **limited)
    with echo_server(shell, listen={"ssl": ours}, limits=limits) as server:
        silent = silent_links(server, 5)
        for hello in (b"", b"\x16\x03\x01", request("/")):
            with connect(server.port, hello) as link:
                assert is_closed(link)
        assert [refusal.status for refusal in server.host.refusals] == [503] * 3
        # One of them goes, or is through: there is a place again.
        silent.pop().close()
        server.until(lambda: len(server.transport.door._inside) == 4)
        with opened(server, theirs):
            server.until(lambda: len(server.transport.door._inside) == 4)
            for link in silent:
                link.close()
        server.until(lambda: not server.transport.door._inside)
    assert server.transport.door._by_address == {}


@pytest.mark.parametrize("data", [request("/ws"), b"\x16\x03\x01garbage" * 10, b""])
def test_a_failed_tls_handshake_gives_its_place_back(shell: Shell, ours: ssl.SSLContext, data: bytes) -> None:
    limits = Limits(handshake_timeout=0.2 if not data else 300.0, max_pending_handshakes=1)
    with echo_server(shell, listen={"ssl": ours}, limits=limits) as server:
        for _ in range(3):
            with connect(server.port, data) as link:
                link.read_to_end()
            server.until(lambda: not server.transport.door._inside)
        assert server.host.refusals == []


def test_the_time_for_a_request_runs_from_accept_and_not_from_the_end_of_the_tls_handshake(
    shell: Shell, ours: ssl.SSLContext, theirs: ssl.SSLContext
) -> None:
    clock = VirtualClock()
    limits = Limits(handshake_timeout=300.0)
    with echo_server(shell, listen={"ssl": ours}, limits=limits, clock=clock) as server:
        (plain,) = silent_links(server, 1)
        server.advance(200.0)
        with RawLink(theirs.wrap_socket(plain.sock, server_hostname="localhost")) as link:
            server.until(lambda: server.transport.carriers)
            server.advance(101.0)
            assert link.read(12) == b"HTTP/1.1 408"


def test_many_tls_handshakes_at_once_are_begun_a_few_in_a_turn(
    shell: Shell, ours: ssl.SSLContext, theirs: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = counts_by_turn(monkeypatch, HANDSHAKES_PER_TURN)
    turn = Arrival.turn

    async def count_begun(arrival: Arrival, door: Door) -> None:
        await turn(arrival, door)
        begun[-1] += 1

    monkeypatch.setattr(Arrival, "turn", count_begun)
    with echo_server(shell, listen={"ssl": ours}) as server:
        # On the server's own loop: it sees none of them before it sees all.
        links = server.call(lambda: [connect(server.port) for _ in range(100)])
        server.until(lambda: sum(begun) == 100)
        # Those that one turn let in begin in the next one, in which as many more can enter.
        assert max(begun) <= 2 * HANDSHAKES_PER_TURN
        for link in links:
            link.close()


def test_who_waits_for_its_tls_handshake_is_closed_at_the_end(shell: Shell, ours: ssl.SSLContext) -> None:
    with echo_server(shell, listen={"ssl": ours}, limits=Limits(handshake_timeout=300.0)) as server:
        (link,) = silent_links(server, 1)
    assert is_closed(link)
    link.close()


def test_auto_takes_the_shell_with_the_cheaper_tls(ours: ssl.SSLContext) -> None:
    chosen: dict[str, bool] = {}

    async def choose(name: str, secure: bool) -> None:
        options = ListenOptions(ssl=ours if secure else None)
        chosen[name] = AnyioTransport(options)._uses_callbacks()

    for secure in (False, True):
        anyio.run(choose, f"asyncio {secure}", secure, backend_options={"use_uvloop": False})
        anyio.run(choose, f"uvloop {secure}", secure, backend_options={"use_uvloop": True})
        anyio.run(choose, f"trio {secure}", secure, backend="trio")
    assert chosen == {
        "asyncio False": True,
        "uvloop False": True,
        "trio False": False,
        "asyncio True": False,
        "uvloop True": True,
        "trio True": False,
    }
