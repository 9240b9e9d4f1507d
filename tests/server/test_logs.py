"""What the server logs: one structured line for each event of a connection's life, and never a token."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from roomwire.core.frames import Opcode
from roomwire.logs import JsonFormatter, TextFormatter
from tests.server.conftest import Serve
from tests.server.live import LiveServer, Shell, make_token
from tests.server.raw import connect, exchange, request
from tests.server.watching import carriers, until


class Records(logging.Handler):
    """Every record of the process, whoever made it."""

    def __init__(self) -> None:
        super().__init__(logging.NOTSET)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def of(self, event: str) -> list[dict[str, Any]]:
        """The fields of each record of that event."""
        return [entry for entry in map(fields_of, self.records) if entry.get("event") == event]


@pytest.fixture
def logged() -> Iterator[Records]:
    handler = Records()
    root = logging.getLogger()
    loggers = [root, *(logging.getLogger(name) for name in ("asyncio", "uvloop", "h11", "roomwire", "concurrent"))]
    before = [logger.level for logger in loggers]
    root.addHandler(handler)
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
    try:
        yield handler
    finally:
        root.removeHandler(handler)
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def bearer(user: str = "ann") -> str:
    return f"Authorization: Bearer {make_token(user)}"


# --- one line for each event


def test_a_connection_from_its_connect_to_its_disconnect(server: LiveServer, logged: Records) -> None:
    client = server.connect("ann", query="client=tab-000001")
    client.request("room.join", room="news:today")
    client.request("message.send", {"content": "hi"}, room="chat:general")
    client.request("room.leave", room="news:today")
    client.close()
    until(server, lambda: logged.of("disconnect"))
    (connected,) = logged.of("connect")
    id_ = connected["connection"]
    own = {"connection": id_, "user": "ann", "client": "tab-000001"}
    assert own.items() <= connected.items()
    assert connected["peer"].startswith("127.0.0.1:")
    assert [entry["room"] for entry in logged.of("join")] == ["chat:general", "news:today"]
    assert [entry["room"] for entry in logged.of("leave")] == ["news:today"]
    assert all(own.items() <= entry.items() for entry in logged.of("join") + logged.of("leave"))
    (disconnected,) = logged.of("disconnect")
    assert own.items() <= disconnected.items()
    assert (disconnected["code"], disconnected["by"], disconnected["received"]) == (1000, "peer", 3)
    assert disconnected["sent"] >= 4, "the welcome and three acks"
    assert disconnected["duration"] >= 0


def test_who_ended_it_and_how(server: LiveServer, logged: Records) -> None:
    ends: dict[str, tuple[int, str]] = {}

    def disconnected(user: str) -> None:
        until(server, lambda: any(entry["user"] == user for entry in logged.of("disconnect")))
        (entry,) = [entry for entry in logged.of("disconnect") if entry["user"] == user]
        ends[user] = entry["code"], entry["by"]

    with connect(server.port, request("/ws", bearer("resets"))) as link:
        link.upgraded()
        link.event("session.welcome")
        link.reset()
    disconnected("resets")
    with connect(server.port, request("/ws", bearer("vanishes"))) as link:
        link.upgraded()
    disconnected("vanishes")
    with connect(server.port, request("/ws", bearer("errs"))) as link:
        link.upgraded()
        link.send(b"\xff\xff\xff\xff")
        link.close_frame()
    disconnected("errs")
    with connect(server.port, request("/ws", bearer("restarted"))) as link:
        link.upgraded()
        link.event("session.welcome")
        server.call(server.node.runtime.spawn, server.node.drain.run)
        link.event("session.closing")
        link.frame()
        link.send_frame(Opcode.CLOSE, (1012).to_bytes(2, "big"))
        link.frame()
    disconnected("restarted")
    assert ends == {
        "resets": (1006, "link"),
        "vanishes": (1006, "link"),
        "errs": (1002, "server"),
        "restarted": (1012, "server"),
    }


def test_a_refusal_is_one_line_with_its_cause(server: LiveServer, logged: Records) -> None:
    exchange(server.port, request("/ws", "Authorization: Bearer x"))
    exchange(server.port, request("/ws", "Origin: https://evil.example", bearer()))
    exchange(server.port, request("/ws", bearer("banned")))
    exchange(server.port, request("/nowhere", bearer()))
    exchange(server.port, b"\x16\x03\x01")
    refusals = logged.of("refuse")
    assert [entry["status"] for entry in refusals] == [401, 403, 403, 404, 400]
    assert refusals[0]["cause"]
    assert refusals[1]["cause"] == "the Origin https://evil.example is not allowed"
    assert refusals[3]["path"] == "/nowhere"
    assert all(entry["peer"].startswith("127.0.0.1:") for entry in refusals)
    records = {fields_of(record)["status"]: record for record in logged.records if is_refusal(record)}
    levels = {status: record.levelname for status, record in records.items()}
    assert levels == {401: "WARNING", 403: "WARNING", 404: "INFO", 400: "INFO"}
    names = {status: record.name for status, record in records.items()}
    assert names == {401: "roomwire.security", 403: "roomwire.security", 404: "roomwire.access", 400: "roomwire.access"}
    assert logged.of("connect") == []


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    fields: dict[str, Any] = getattr(record, "roomwire", {})
    return fields


def is_refusal(record: logging.LogRecord) -> bool:
    return fields_of(record).get("event") == "refuse"


def test_an_error_of_the_application_is_one_line_with_its_traceback(server: LiveServer, logged: Records) -> None:
    client = server.connect("ann")
    reply = client.request("crash", room="chat:general")
    assert reply["data"]["code"] == "internal"
    (error,) = logged.of("error")
    assert (error["user"], error["error"]) == ("ann", "RuntimeError")
    (record,) = [record for record in logged.records if record.levelno >= logging.ERROR]
    assert record.exc_info is not None
    client.close()


GARBAGE = [
    b"\r\n\r\n",
    b"\0" * 1000,
    b"GET / HTTP/9.9\r\n\r\n",
    b"\x16\x03\x01\x02\x00" + b"\xaa" * 300,
    b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    b"GET " + b"a" * 20_000,
    b"\xff" * 20_000,
    b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"{}\n\n",
]


def test_garbage_leaves_no_traceback(server: LiveServer, logged: Records) -> None:
    for data in GARBAGE:
        assert exchange(server.port, data).status in (400, 404, 431)
    with connect(server.port, request("/ws", bearer())) as link:
        link.upgraded()
        link.send(b"\xff" * 5000)
        link.close_frame()
    for data in (b"", b"GET", GARBAGE[3]):
        connect(server.port, data).reset()
    until(server, lambda: not carriers(server))
    assert [record.getMessage() for record in logged.records if record.exc_info] == []
    assert [record.getMessage() for record in logged.records if record.levelno >= logging.WARNING] == []


# --- never a token


def visible(record: logging.LogRecord) -> str:
    """Everything of a record that any handler could print."""
    parts = [JsonFormatter().format(record), TextFormatter().format(record), logging.Formatter().format(record)]
    return "\n".join([*parts, repr(record.__dict__), repr(record.args), str(record.exc_text), str(record.stack_info)])


def segments(token: str) -> list[str]:
    return [part for part in token.split(".") if len(part) > 3]


DEBUGGED = {
    "callback-asyncio": {"debug": True},
    "callback-uvloop": {"debug": True, "use_uvloop": True},
    "portable-asyncio": {"debug": True},
    "portable-trio": {},
}


class Broken:
    """An authenticator that fails with the request in its frames."""

    async def authenticate(self, head: Any) -> Any:
        raise KeyError("no such key")

    async def aclose(self) -> None:
        pass


def test_no_token_is_in_any_record_whatever_happens(shell: Shell, serve: Serve, logged: Records) -> None:
    debugged = Shell(shell.name, shell.backend, DEBUGGED[shell.name], shell.shell)
    server = serve(debugged)
    tokens: list[str] = []

    def ways(token: str) -> list[bytes]:
        """One request for each source of a token."""
        tokens.append(token)
        return [
            request("/ws", f"Authorization: Bearer {token}"),
            request("/ws", f"Sec-WebSocket-Protocol: roomwire.v1, bearer.{token}"),
            request(f"/ws?token={token}&state=1"),
        ]

    # Good ones: connect, join, leave, an error of the application's, and each kind of end.
    for number, head in enumerate(ways(make_token("nobody"))):
        with connect(server.port, head) as link:
            link.upgraded()
            link.event("session.welcome")
            for name in ("chat:general", "chat:broken"):
                link.send_text("room.join", id=f"j-{name}", room=name)
            link.send_text("crash", id="m1", room="chat:general")
            link.send_text("room.leave", id="l1", room="chat:general")
            while link.event("ack")["id"] != "l1":
                pass
            if number == 0:
                link.send(b"\xff\xff")
                link.close_frame()
            elif number == 1:
                link.reset()
            else:
                link.send_frame(Opcode.CLOSE, (1000).to_bytes(2, "big"))
                link.close_frame()
    # Refused ones, for every kind of reason.
    good = make_token("ann")
    for token in (
        make_token("ann", ttl=-3600.0),
        make_token("ann", secret="x" * 40),
        good + "x",
        f"x{good}",
        good[:-9],
    ):
        for head in ways(token):
            assert exchange(server.port, head).status == 401
    for head in ways(make_token("banned")):
        assert exchange(server.port, head).status == 403
    for head in ways(good):
        query = b"&client=short" if b"?" in head.split(b"\r\n")[0] else b"?client=short"
        assert exchange(server.port, head.replace(b" HTTP/1.1", query + b" HTTP/1.1", 1)).status == 400
        assert exchange(server.port, head.replace(b"GET /ws", b"GET /other")).status == 404
        assert exchange(server.port, head.replace(b"Upgrade: websocket\r\n", b"")).status == 426
        assert exchange(server.port, head.replace(b"Host: 127.0.0.1", b"Host: a b")).status == 400
        assert exchange(server.port, head.replace(b"\r\nHost", b"\r\nX-Broken\r\nHost")).status == 400
        assert exchange(server.port, head.replace(b"HTTP/1.1", b"HTTP/2.0", 1)).status == 400
        assert exchange(server.port, head + b"x" * 5000).status == 400
        assert exchange(server.port, head.replace(b"HTTP/1.1", b"HTTP/1.1\0" + b"a" * 9000, 1)).status in (400, 431)
        assert exchange(server.port, head[:-2] + b"X-Large: " + b"a" * 17_000 + b"\r\n\r\n").status == 431
        connect(server.port, head[:-2]).reset()
    # Faults of ours, with the request in the frames of the traceback.
    server.node.authenticator = Broken()  # type: ignore[assignment]
    for head in ways(good):
        assert exchange(server.port, head).status == 503
    until(server, lambda: not carriers(server))
    server.call(server.node.drain.run)

    events = {fields_of(record).get("event") for record in logged.records}
    assert {"connect", "refuse", "join", "leave", "disconnect", "error"} <= events
    secrets = {segment for token in tokens for segment in segments(token)}
    assert has_any(repr(ways(good)), secrets)  # it would be seen
    leaks = [json.dumps(visible(record))[:300] for record in logged.records if has_any(visible(record), secrets)]
    assert leaks == []
    assert {record.name for record in logged.records} >= {"roomwire", "roomwire.access", "roomwire.security"}


def has_any(text: str, secrets: set[str]) -> bool:
    return any(secret in text for secret in secrets)
