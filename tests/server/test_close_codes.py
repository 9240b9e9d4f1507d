"""Every close code, produced for real and read by a client that nobody here wrote.

What each means is in docs/reference/close-codes.md; which frames a fault of the protocol is answered with, and
how the link ends, is in `tests.server.test_ends`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosedError

from roomwire.core.closing import REASONS, CloseCode, reconnects
from roomwire.core.frames import Opcode
from roomwire.core.limits import Limits
from roomwire.testing.clock import VirtualClock
from tests.server.conftest import Serve
from tests.server.live import Client, LiveServer, Shell, make_token
from tests.server.raw import frame
from tests.server.watching import until

CODES_PAGE = Path(__file__).parents[2] / "docs" / "reference" / "close-codes.md"

PATIENT: dict[str, Any] = {"heartbeat_timeout": 100_000.0, "heartbeat_interval": 50_000.0}
"""Limits of a server whose clock is moved far: what is under test comes before the heartbeat."""

Scenario = Callable[[LiveServer], Client]
SCENARIOS: dict[int, tuple[Limits, Scenario]] = {}

NEVER_SENT = {
    1001: "a node that ends says 1012, since its clients shall come back; an application may send it",
    1003: "text and binary messages are both taken, and there is no third kind; an application may send it",
    1006: "no close frame bears it: it is what a client reports where none came",
}
"""Codes that the server has a name for and never sends of its own accord."""


def scenario(code: int, **limits: Any) -> Callable[[Scenario], Scenario]:
    def note(function: Scenario) -> Scenario:
        assert code not in SCENARIOS
        SCENARIOS[code] = Limits(**limits), function
        return function

    return note


def send_raw(client: Client, data: bytes) -> None:
    """Bytes that the library would not send."""
    client.connection.socket.sendall(data)


@scenario(1000)
def closed_by_the_application(server: LiveServer) -> Client:
    client = server.connect("ann")
    server.call(server.node.app.disconnect, "ann", code=1000)
    return client


@scenario(1002)
def a_reserved_bit(server: LiveServer) -> Client:
    client = server.connect("ann")
    send_raw(client, b"\xff\x80\0\0\0\0")
    return client


@scenario(1007)
def text_that_is_not_utf8(server: LiveServer) -> Client:
    client = server.connect("ann")
    send_raw(client, frame(Opcode.TEXT, b'{"event": "\xff"}'))
    return client


@scenario(1008, max_errors=3)
def too_many_errors(server: LiveServer) -> Client:
    client = server.connect("ann")
    for _ in range(4):
        client.connection.send("this is no JSON")
    return client


@scenario(1009, max_message_size=1000)
def a_message_over_the_limit(server: LiveServer) -> Client:
    client = server.connect("ann")
    client.send("message.send", {"content": "x" * 1000}, room="chat:general")
    return client


@scenario(1011)
def a_fault_of_the_server(server: LiveServer) -> Client:
    client = server.connect("ann")

    def broken(*arguments: object) -> None:
        raise RuntimeError("a fault of ours")

    server.node.joining.leave = broken  # type: ignore[assignment, method-assign]
    client.send("room.leave", id="l1", room="chat:general")
    return client


@scenario(1012)
def a_drain(server: LiveServer) -> Client:
    client = server.connect("ann")
    server.call(server.node.runtime.spawn, server.node.drain.run)
    return client


@scenario(1013, inbox_messages=2, max_read_pause=60.0, **PATIENT)
def a_handler_that_takes_for_ever(server: LiveServer) -> Client:
    client = server.connect("ann")
    for number in range(4):
        client.send("wait", id=f"w{number}", room="chat:general")
    (connection,) = server.call(lambda: list(server.node.connections.values()))
    until(server, lambda: connection._paused)
    server.advance(60.5)
    server.call(server.node.app.log.release.set)  # type: ignore[attr-defined]  # else the drain waits for it
    return client


@scenario(4001, heartbeat_interval=30.0, heartbeat_timeout=90.0)
def no_sign_of_life(server: LiveServer) -> Client:
    client = server.connect("ann")
    server.advance(90.5)
    return client


@scenario(4002, outbox_bytes=100_000)
def a_client_that_does_not_read(server: LiveServer) -> Client:
    # The library reads ahead of its caller only so far, and then leaves the rest in the kernel.
    client = server.connect("ann", max_queue=1)
    (connection,) = server.call(lambda: list(server.node.connections.values()))

    async def flood() -> None:
        while connection.is_open:
            await connection.send("flood", "x" * 50_000)

    server.call(flood)
    return client


@scenario(4003, **PATIENT)
def a_token_that_expires(server: LiveServer) -> Client:
    client = server.connect("ann", token=make_token("ann", ttl=600.0))
    server.advance(601.0)
    return client


@scenario(4004, byte_burst=10_000, bytes_per_second=1.0)
def too_many_bytes(server: LiveServer) -> Client:
    client = server.connect("ann")
    client.send("message.send", {"content": "x" * 10_000}, room="chat:general")
    return client


@scenario(4005, resume_timeout=10.0, **PATIENT)
def no_resume_after_a_promise_of_one(server: LiveServer) -> Client:
    client = server.connect("ann", query="last_event_id=later")
    server.advance(10.5)
    return client


@scenario(4501)
def the_same_client_again(server: LiveServer) -> Client:
    client = server.connect("ann", query="client=tab-000001")
    server.connect("ann", query="client=tab-000001")
    return client


@scenario(4502)
def a_credential_that_was_revoked(server: LiveServer) -> Client:
    client = server.connect("ann")
    server.call(server.node.app.disconnect, "ann", code=4502, reason=REASONS[4502])
    return client


@scenario(4503)
def removed_by_the_application(server: LiveServer) -> Client:
    client = server.connect("ann")
    server.call(server.node.app.disconnect, "ann", reason=REASONS[4503])
    return client


@scenario(4504, idle_timeout=300.0, **PATIENT)
def no_message_for_long(server: LiveServer) -> Client:
    client = server.connect("ann")
    client.request("presence.heartbeat")  # it lives, and says nothing
    server.advance(300.5)
    return client


@scenario(4150)
def a_code_of_the_applications_own(server: LiveServer) -> Client:
    client = server.connect("ann")
    server.call(server.node.app.disconnect, "ann", code=4150, reason="come back later")
    return client


@pytest.mark.parametrize("code", sorted(SCENARIOS))
def test_a_client_sees_the_code(shell: Shell, serve: Serve, code: int) -> None:
    limits, produce = SCENARIOS[code]
    server = serve(shell, clock=VirtualClock(), limits=limits)
    client = produce(server)
    messages: list[Any] = []
    seen = read_to_end(client, messages)
    assert seen == (code, REASONS.get(code, "come back later"))
    closing = [message["data"] for message in messages if is_closing(message)]
    if code in (1002, 1007, 1009, 4002):
        assert closing == []  # the peer cannot be trusted to read on, or cannot keep up
    else:
        assert is_closing(messages[-1])
        assert (closing[0]["code"], closing[0]["reconnect"]) == (code, reconnects(code))
        assert closing[0]["retry_after"] >= 0
    until(server, lambda: not server.node.connections or code == 4501)


def read_to_end(client: Client, messages: list[Any]) -> tuple[int, str]:
    """Everything up to the close, and what the library makes of the close frame."""
    with suppress(ConnectionClosedError):  # which the library raises after every code but 1000 and 1001
        messages.extend(map(json.loads, client.connection))
    received = client.connection.protocol.close_rcvd
    assert received is not None, "the link broke without a close frame"
    return received.code, received.reason


def is_closing(message: Any) -> bool:
    return isinstance(message, dict) and message["event"] == "session.closing"


def test_the_table_is_whole() -> None:
    """Every code has a scenario, or is one that is never sent."""
    own = {int(code) for code in CloseCode}
    assert own <= SCENARIOS.keys() | NEVER_SENT.keys()
    assert not SCENARIOS.keys() & NEVER_SENT.keys()
    documented = {int(code) for code in re.findall(r"^\| (\d{4}) \|", CODES_PAGE.read_text(), re.MULTILINE)}
    assert documented == own - {CloseCode.ABNORMAL}


def test_what_is_never_sent_is_sent_by_no_part_of_the_server() -> None:
    source = Path(__file__).parents[2] / "src" / "roomwire"
    for name in ("GOING_AWAY", "UNSUPPORTED_DATA"):
        users = [path.name for path in source.rglob("*.py") if f"CloseCode.{name}" in path.read_text()]
        assert users == ["closing.py"], name
