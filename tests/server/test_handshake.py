"""The opening handshake: how the bytes come, what comes with them, and what the client does meanwhile."""

from __future__ import annotations

import base64
import json
import os
import zlib

import pytest

from roomwire import App, Connection
from roomwire.core.frames import Opcode
from roomwire.core.handshake import accept_token
from roomwire.core.limits import Limits
from roomwire.testing.clock import VirtualClock
from roomwire.transports.anyio.carrier import Phase
from tests.server.chat import Log, make_app
from tests.server.conftest import Serve
from tests.server.live import LiveServer, Shell, make_token
from tests.server.raw import ACCEPT, connect, exchange, frame, request
from tests.server.watching import carriers, only_carrier, until


def bearer(user: str = "ann") -> str:
    return f"Authorization: Bearer {make_token(user)}"


def text(event: str, **fields: object) -> bytes:
    return frame(Opcode.TEXT, json.dumps({"event": event, **fields}).encode())


# --- the 101


def test_the_101_is_rfc_6455s(server: LiveServer) -> None:
    with connect(server.port, request("/ws", bearer())) as link:
        assert dict(link.upgraded().headers) == {
            "upgrade": "websocket",
            "connection": "Upgrade",
            "sec-websocket-accept": ACCEPT,
        }
        assert link.event("session.welcome")["data"]["user"] == "ann"


@pytest.mark.parametrize(
    ("offer", "selected"),
    [
        (None, None),
        ("roomwire.v1", "roomwire.v1"),
        ("other, roomwire.v1", "roomwire.v1"),
        ("roomwire.v1, bearer.{token}", "roomwire.v1"),
        ("bearer.{token} ,\troomwire.v1", "roomwire.v1"),
    ],
)
def test_the_subprotocol_that_is_selected(server: LiveServer, offer: str | None, selected: str | None) -> None:
    token = make_token("ann")
    headers = [] if offer is None else [f"Sec-WebSocket-Protocol: {offer.format(token=token)}"]
    with connect(server.port, request(f"/ws?token={token}", *headers)) as link:
        assert link.upgraded().header("sec-websocket-protocol") == selected
        link.event("session.welcome")


@pytest.mark.parametrize(
    "headers",
    [
        ["Connection: keep-alive, Upgrade", "Upgrade: WebSocket"],
        ["Connection: keep-alive", "Connection: UPGRADE", "Upgrade: h2c, websocket"],
        ["connection:upgrade", "UPGRADE:\twebsocket "],
    ],
)
def test_list_headers_are_joined_and_case_does_not_matter(server: LiveServer, headers: list[str]) -> None:
    with connect(server.port, request("/ws", *headers, bearer(), without=("Connection", "Upgrade"))) as link:
        link.upgraded()


def test_each_key_has_its_own_answer(server: LiveServer) -> None:
    key = base64.b64encode(os.urandom(16))
    head = request("/ws", f"Sec-WebSocket-Key: {key.decode()}", bearer(), without=("Sec-WebSocket-Key",))
    with connect(server.port, head) as link:
        assert link.upgraded().header("sec-websocket-accept") == accept_token(key).decode()


# --- how the bytes come


def test_a_head_may_come_byte_by_byte(server: LiveServer) -> None:
    data = request("/ws", bearer()) + text("add", data=[1, 2], id="m1")
    with connect(server.port) as link:
        for position in range(len(data)):
            link.send(data[position : position + 1])
        link.upgraded()
        assert link.event("ack") == {"event": "ack", "id": "m1", "data": 3}


def test_frames_behind_the_handshake_are_read_after_the_welcome(server: LiveServer) -> None:
    pipelined = text("add", data=[1, 2], id="m1") + text("add", data=[3, 4], id="m2")
    half = text("add", data=[5, 6], id="m3")
    with connect(server.port, request("/ws", bearer()) + pipelined + half[:7]) as link:
        link.upgraded()
        first = link.frame()
        assert first is not None
        assert json.loads(first[1])["event"] == "session.welcome"
        assert link.event("ack")["data"] == 3
        assert link.event("ack")["data"] == 7
        link.send(half[7:])
        assert link.event("ack")["data"] == 11


def test_what_is_sent_while_the_node_decides_waits_in_the_kernel(shell: Shell, serve: Serve) -> None:
    app, deciding = App(), Log()

    @app.on_connect
    async def slowly(connection: Connection) -> None:
        deciding.handled.append((connection.user, "asked"))
        await deciding.release.wait()

    @app.on("add")
    async def add(connection: Connection, numbers: tuple[int, int]) -> int:
        return sum(numbers)

    server = serve(shell, app=app, limits=Limits(message_burst=1000))
    with connect(server.port, request("/ws", bearer())) as link:
        until(server, lambda: deciding.handled)
        count = 200  # more bytes than may be pipelined behind a head
        for number in range(count):
            link.send(text("presence.heartbeat", id=f"m{number}"))
        assert server.call(lambda: only_carrier(server).phase) is Phase.DECIDING
        server.call(deciding.release.set)
        link.upgraded()
        link.event("session.welcome")
        assert [link.event("ack")["id"] for _ in range(count)] == [f"m{number}" for number in range(count)]


def test_more_than_4_kib_before_the_101_is_refused(server: LiveServer) -> None:
    response = exchange(server.port, request("/ws", bearer()) + text("add", data=["x" * 5000], id="m1"))
    assert response.status == 400
    assert response.json["error"] == "bad_request"
    assert server.call(lambda: len(server.node.connections)) == 0


# --- a client that goes away


@pytest.mark.parametrize("sent", [b"", b"GET", request("/ws", bearer())[:-2]])
def test_a_head_that_ends_early_leaves_nothing_behind(server: LiveServer, sent: bytes) -> None:
    with connect(server.port, sent) as link:
        link.half_close()
        assert link.read_to_end() == b""
    until(server, lambda: not carriers(server))


def test_a_client_that_resets_in_its_head_leaves_nothing_behind(server: LiveServer) -> None:
    for sent in (b"", b"GET /ws HT", request("/nowhere"), b"\x16\x03\x01"):
        link = connect(server.port, sent)
        link.reset()
    until(server, lambda: not carriers(server))
    with connect(server.port, request("/ws", bearer())) as link:
        link.upgraded()


@pytest.mark.parametrize("how", ["reset", "close", "half_close"])
def test_a_client_that_goes_while_the_hook_runs_keeps_no_slot_and_no_room(shell: Shell, serve: Serve, how: str) -> None:
    app, log = App(), Log()

    @app.on_connect
    async def slowly(connection: Connection) -> list[str]:
        log.handled.append((connection.user, "asked"))
        if len(log.handled) == 1:
            await log.release.wait()
        return ["chat:general"]

    @app.room("chat:{channel}")
    async def may_join(connection: Connection, channel: str) -> bool:
        return True

    server = serve(shell, app=app, limits=Limits(connections_per_user=1))
    link = connect(server.port, request("/ws", bearer()))
    until(server, lambda: log.handled)
    getattr(link, how)()
    server.call(log.release.set)
    node = server.node
    until(server, lambda: not (carriers(server) or node.connections or node.hub.rooms or node.farewells))
    link.close()
    # The slot is free: the user's next connection gets it under another client id.
    with connect(server.port, request("/ws", bearer())) as again:
        again.upgraded()
        assert list(again.event("session.welcome")["data"]["rooms"]) == ["chat:general"]


def test_a_node_that_ends_while_the_hook_runs_leaves_nothing_behind(shell: Shell, serve: Serve) -> None:
    app, log = App(), Log()

    @app.on_connect
    async def never(connection: Connection) -> None:
        log.handled.append((connection.user, "asked"))
        await log.release.wait()

    server = serve(shell, app=app, drain_timeout=0.1)
    with connect(server.port, request("/ws", bearer())) as link:
        until(server, lambda: log.handled)
        server.call(server.node.drain.run)
        assert link.read_to_end() == b""
    assert not carriers(server)


# --- faults of ours


class FaultyAuthenticator:
    """An adapter with a fault."""

    async def start(self) -> None:
        pass

    async def aclose(self) -> None:
        pass

    async def authenticate(self, head: object) -> object:
        raise KeyError("kid")


def test_a_fault_in_an_adapter_refuses_one_request_and_no_other(shell: Shell, serve: Serve) -> None:
    server = serve(shell)
    good, server.node.authenticator = server.node.authenticator, FaultyAuthenticator()  # type: ignore[assignment]
    response = exchange(server.port, request("/ws", bearer()))
    assert (response.status, response.json["error"]) == (503, "unavailable")
    assert "kid" not in response.json["detail"]
    server.node.authenticator = good
    with connect(server.port, request("/ws", bearer())) as link:
        link.upgraded()
        link.event("session.welcome")


def test_time_at_the_door_counts_towards_the_deadline(shell: Shell, serve: Serve) -> None:
    clock = VirtualClock()
    server = serve(shell, app=make_app(), clock=clock, limits=Limits(handshake_timeout=10.0, heartbeat_interval=300.0))
    with connect(server.port, request("/ws", bearer())) as link:
        link.upgraded()
        link.event("session.welcome")
        server.advance(60.0)  # no deadline of the handshake is left over
        link.send(text("add", data=[1, 2], id="m1"))
        assert link.event("ack")["data"] == 3


# --- permessage-deflate


def test_compression_is_off_unless_configured(server: LiveServer) -> None:
    with connect(server.port, request("/ws", "Sec-WebSocket-Extensions: permessage-deflate", bearer())) as link:
        assert link.upgraded().header("sec-websocket-extensions") is None


def test_what_pays_is_compressed_in_both_directions(shell: Shell, serve: Serve) -> None:
    server = serve(shell, listen={"compression": True})
    ann = server.connect("ann", compression="deflate")
    plain, bob = server.connect("plain"), server.connect("bob", compression="deflate")
    (extension,) = ann.connection.protocol.extensions
    assert extension.name == "permessage-deflate"
    for content in ("short", "long " * 5000):
        assert ann.request("message.send", {"content": content}, room="chat:general")["event"] == "ack"
        for client in (bob, plain):
            assert client.receive_until("message.new")["data"] == {"from": "ann", "content": content}


def test_a_shared_block_is_smaller_where_it_was_agreed_on(shell: Shell, serve: Serve) -> None:
    server = serve(shell, listen={"compression": True})
    offer = "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover"
    with connect(server.port, request("/ws", offer, bearer("bob"))) as link:
        assert "permessage-deflate" in (link.upgraded().header("sec-websocket-extensions") or "")
        ann = server.connect("ann")
        ann.request("message.send", {"content": "long " * 5000}, room="chat:general")
        while True:
            head = link.read(2)
            size = int.from_bytes(link.read(2), "big") if head[1] == 126 else head[1]
            payload = link.read(size)
            if head[0] & 0x40:
                break
        data = zlib.decompressobj(-15).decompress(payload + b"\0\0\xff\xff")
        assert json.loads(data)["data"]["content"] == "long " * 5000
        assert len(payload) < 1000
