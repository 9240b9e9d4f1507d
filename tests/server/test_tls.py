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
from roomwire.transports.anyio import AnyioTransport
from roomwire.transports.anyio.carrier import Phase
from roomwire.transports.contract import ListenOptions
from tests.server.conftest import Serve
from tests.server.echoing import EchoServer, echo_server
from tests.server.live import Client, Shell, make_token
from tests.server.raw import TIMEOUT, RawLink, connect, frame, request
from tests.server.watching import carriers, until


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
