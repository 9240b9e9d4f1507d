"""The parsers of what a client sends before and after its handshake, and of what the operator writes."""

from __future__ import annotations

import base64
import json
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from roomwire.auth.jwt import JwtAuthenticator, JwtOptions
from roomwire.auth.origin import OriginPolicy
from roomwire.config import load
from roomwire.core import envelope
from roomwire.core.deflate import negotiate_deflate
from roomwire.core.errors import HandshakeRefused, Refusal
from roomwire.core.handshake import (
    Accepted,
    ClientHandshake,
    accept_response,
    check_upgrade,
    choose_subprotocol,
)
from roomwire.core.heads import read_upgrade
from roomwire.core.http import RequestParser, refusal_response
from roomwire.core.positions import format_cursor, parse_cursor
from roomwire.core.request import RequestHead
from roomwire.protocols.native import NativeProtocol
from tests.core.test_heads import read_by_h11
from tests.fuzz.harness import digest
from tests.fuzz.mutation import INTERESTING, mutator, pieces

__all__ = [
    "make_answer",
    "make_binary",
    "make_configuration",
    "make_cursor",
    "make_envelope",
    "make_handshake",
    "open_answer",
    "open_binary",
    "open_configuration",
    "open_cursor",
    "open_envelope",
    "open_handshake",
]

Reader = Callable[[bytes], bool]

SECRET = "a secret of the tests, long enough for HS256"
_KEY = bytes(range(16))
_NATIVE = NativeProtocol()
_SUBPROTOCOLS = (_NATIVE.name,)


def _text(data: bytes) -> str:
    """Any text, lone surrogates included."""
    return data.decode("utf-8", "surrogateescape" if digest(data) % 2 else "replace")


# --- the handshake, as a server


def _request(*lines: str, target: str = "/ws") -> bytes:
    own = ["Host: example.com", "Upgrade: websocket", "Connection: keep-alive, Upgrade", "Sec-WebSocket-Version: 13"]
    key = f"Sec-WebSocket-Key: {base64.b64encode(_KEY).decode()}"
    return ("\r\n".join([f"GET {target} HTTP/1.1", *own, key, *lines]) + "\r\n\r\n").encode()


_JWT = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJhbm4iLCJleHAiOjF9.c2lnbmF0dXJl"
_HEADS: Sequence[bytes] = (
    _request(),
    _request("Sec-WebSocket-Protocol: roomwire.v1, bearer.a.b.c", "Origin: https://example.com"),
    _request("Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits; server_max_window_bits=10"),
    _request('Sec-WebSocket-Extensions: a, permessage-deflate; server_no_context_takeover; x="y", permessage-deflate'),
    _request(f"Authorization: Bearer {_JWT}", "Origin: null"),
    _request(f"Cookie: session={_JWT}", "Origin: https://example.com:443", target="/ws?client=abcdefgh&state=1"),
    _request(target=f"/ws?token={_JWT}&last_event_id=chat%253Aone%40ep%3A7%2Cb%40ep%3A9&x=%ff%"),
    _request("X-Forwarded-For: 10.0.0.1, [2001:db8::1]:443", "Content-Length: 0", "Transfer-Encoding: chunked"),
    b"POST / HTTP/1.1\r\nHost: [::1]:80\r\nContent-Length: 5\r\n\r\nhello",
    b"GET /healthz HTTP/1.0\n\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
)
make_handshake = mutator(_HEADS, 300)


@contextmanager
def open_handshake() -> Iterator[Reader]:
    """Request head, upgrade, subprotocol, extensions, Origin and token, up to the 101, or the refusal."""
    authenticator = JwtAuthenticator(JwtOptions(algorithms=["HS256"], secret=SECRET))  # type: ignore[arg-type]
    origin = OriginPolicy(["https://app.example.com"])

    def read(data: bytes) -> bool:
        parser = RequestParser(max_head=2000, max_headers=20, max_request_line=500)
        lane = read_upgrade(data)
        assert lane is None or lane == read_by_h11(data)
        try:
            head = _head(parser, data)
            if head is None:
                return False
            upgrade = check_upgrade(head)
            subprotocol = choose_subprotocol(upgrade.subprotocols, _SUBPROTOCOLS)
            deflate = negotiate_deflate(upgrade.extensions)
            _answered(accept_response(upgrade.key, subprotocol, deflate), upgrade.key, deflate is not None)
            for name in ("client", "last_event_id", "token", "state"):
                head.query_values(name)
            origin.check(head)
            _run(authenticator, head)
        except HandshakeRefused as refused:
            _check_refusal(refused.refusal)
            raise
        return True

    yield read


def _check_refusal(refusal: Refusal) -> None:
    assert refusal.status in (400, 403, 426, 431)
    assert refusal_response(refusal).startswith(b"HTTP/1.1 %d " % refusal.status)


def _head(parser: RequestParser, data: bytes) -> RequestHead | None:
    rng = random.Random(digest(data))
    fed = b""
    for piece in pieces(rng, data):
        head = parser.receive(piece)
        fed += piece
        if head is not None:
            assert fed.endswith(parser.trailing)
            return head
        assert len(parser._buffer) <= 2000
    return None


def _answered(response: bytes, key: bytes, deflate: bool) -> None:
    """Our 101 is one that a client takes."""
    if base64.b64encode(base64.b64decode(key)) != key:
        return  # the same 16 bytes, spelled as no client of ours would (RFC 4648 section 3.5)
    client = ClientHandshake("example.com", "/", key=base64.b64decode(key), subprotocols=_SUBPROTOCOLS, deflate=deflate)
    client.request()
    # A client offers its own parameters; an answer with server_max_window_bits follows from any of them.
    assert isinstance(client.receive(response), Accepted)


def _run(authenticator: JwtAuthenticator, head: RequestHead) -> None:
    """No token is good here; and with a secret it waits for nothing."""
    with pytest.raises(HandshakeRefused) as refused:
        authenticator.authenticate(head).send(None)
    assert refused.value.refusal.status == 401


# --- the handshake, as a client

_KEY_64 = base64.b64encode(_KEY)
_ANSWERS: Sequence[bytes] = (
    accept_response(_KEY_64),
    accept_response(_KEY_64, "roomwire.v1", negotiate_deflate([b"permessage-deflate"])) + b"\x81\x02{}",
    accept_response(_KEY_64, None, negotiate_deflate([b"permessage-deflate; server_max_window_bits=12"])),
    b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + accept_response(_KEY_64),
    b'HTTP/1.1 401 Unauthorized\r\nContent-Length: 24\r\nWWW-Authenticate: Bearer\r\n\r\n{"error":"unauthorized"}',
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n\r\n<html>",
)
make_answer = mutator(_ANSWERS, 300)


@contextmanager
def open_answer() -> Iterator[Reader]:
    """The answer to a client's handshake."""

    def read(data: bytes) -> bool:
        rng = random.Random(digest(data))
        client = ClientHandshake("example.com", "/ws", key=_KEY, subprotocols=_SUBPROTOCOLS, deflate=True)
        client.request()
        for piece in pieces(rng, data):
            if client.receive(piece) is not None:
                return True
        client.receive_eof()
        return False

    yield read


# --- messages

_MESSAGES: Sequence[bytes] = (
    b'{"event":"message.send","room":"chat:general","id":"m-1","data":{"content":"hi"}}',
    b'{"event": "message.send", "data": [1, -2.5e3, "\\u00e9\\ud83d\\ude00", null, true, {"a": {}}]}',
    '{"data":"é\\n","id":"a b","room":"chat:é","event":"x.y:z_-"}'.encode(),
    b'{"event":"room.join","id":"1","room":"chat:one","data":{"since":"ep:7","state":true}}',
    b'{"event":"room.leave","room":"chat:one"}',
    b'{"event":"room.members","id":"2","room":"chat:one"}',
    b'{"event":"session.rooms","id":"3"}',
    b'{"event":"session.resume","id":"4","data":{"rooms":{"chat:one":"ep:7","b":"ep:9"}}}',
    b'{"event":"presence.heartbeat"}',
    b'{"event":"add","id":"5","data":' + b"[" * 60 + b"]" * 60 + b"}",
    b'{"event":"add","id":"6","data":' + b"9" * 32 + b"}",
)
make_envelope = mutator(_MESSAGES, 200)


@contextmanager
def open_envelope() -> Iterator[Reader]:
    """A text frame's message: the envelope, and the command that it is."""

    def read(data: bytes) -> bool:
        text = _text(data)
        # A codec answers whatever comes; it raises nothing.
        assert _NATIVE.new_codec().receive(text) is not None
        found = envelope.parse(text)
        reference = json.loads(text)
        assert (found.event, found.room, found.id) == tuple(reference.get(key) for key in ("event", "room", "id"))
        assert isinstance(found.data, str)
        assert json.loads(found.data) == found.value == reference.get("data")
        written = envelope.encode(found.event, room=found.room, id=found.id, data=found.data.encode())
        assert envelope.parse(written.decode()) == found
        return True

    yield read


def _binary(header: bytes, payload: bytes) -> bytes:
    return len(header).to_bytes(4, "big") + header + payload


_BINARIES: Sequence[bytes] = (
    _binary(b'{"event":"draw","room":"chat:one","id":"b-1"}', b"\x89PNG\r\n"),
    _binary(b'{"id":"b-2","event":"draw"}', b""),
    _binary(b'{"event":"room.join","id":"b-3"}', b"x"),
    _binary(b'{"event":"draw","data":1}', b"x"),
    _binary(b'{"event":"draw"' + b" " * 4081 + b"}", bytes(100)),
)
make_binary = mutator(_BINARIES, 100)


@contextmanager
def open_binary() -> Iterator[Reader]:
    """A binary frame's message."""

    def read(data: bytes) -> bool:
        assert _NATIVE.new_codec().receive(data) is not None
        found = envelope.parse_binary(data)
        size = int.from_bytes(data[:4], "big")
        assert found.data == found.value == data[4 + size :]
        if len(envelope.encode(found.event, room=found.room, id=found.id)) <= envelope.BINARY_HEADER_MAX:
            written = envelope.encode_binary(found.event, data[4 + size :], room=found.room, id=found.id)
            assert envelope.parse_binary(written) == found
        return True

    yield read


# --- the resume cursor

_CURSORS: Sequence[bytes] = (
    b"chat%3Ageneral@ep:7",
    b"a@e:0,b@e:1,c@AZaz09:9999999999999999",
    b"%C3%A9%40%2C@x:1",
    b",".join(b"r%d@ep:%d" % (number, number) for number in range(100)),
    b"chat%253Ageneral%40ep%3A7%2Cb%40ep%3A9",
    b"later",
)
make_cursor = mutator(_CURSORS, 80)


@contextmanager
def open_cursor() -> Iterator[Reader]:
    """A cursor as it stands in the query, and as it stands after the query was decoded."""

    def read(data: bytes) -> bool:
        text = _text(data)
        head = RequestHead("GET", "/ws", f"last_event_id={text}", ())
        for value in (text, *head.query_values("last_event_id")):
            positions = parse_cursor(value, 100)
            assert 1 <= len(positions) <= 100
            assert parse_cursor(format_cursor(positions), 100) == positions
        return True

    yield read


# --- the configuration

_TOML: Sequence[bytes] = (
    b'app = "app:app"\n[server]\nhost = "0.0.0.0"\nport = 8000\nforwarded_allow_ips = ["10.0.0.0/8"]\n',
    b'[auth]\ntype = "jwt"\n[auth.options]\nalgorithms = ["HS256"]\nsecret = "env:S"\n',
    b'[limits]\nmax_message_size = 65536\nrooms = 5\non_connection_limit = "evict"\nwrite_timeout = 1e3\n',
    b'[rooms."chat:*"]\nhistory_size = 100\npresence = true\nhistory_ttl = 60\n[rooms."{a}-{b}"]\nleave_grace = 1\n',
    b'[backplane]\ntype = "memory"\n[backplane.options]\nurl = "redis://user:hidden@host:6379/0"\n',
    b'[server]\npath = "/ws"\nuds = "/run/x.sock"\nshell = "portable"\nssl_certfile = "file:missing"\nworkers = 2\n',
    b'[logging]\nlevel = "debug"\n[server]\nallowed_origins = ["https://a.example", "*"]\nnode = "a.b_c-1"\n',
)
_ENVIRONMENT = (b"ROOMWIRE_SERVER__PORT=9000", b"ROOMWIRE_LIMITS__ROOMS=5", b"ROOMWIRE_AUTH__OPTIONS={}", b"S=x")
_make_toml = mutator(_TOML, 100)
_make_environment = mutator(_ENVIRONMENT, 40)


def make_configuration(rng: random.Random) -> bytes:
    """A file, and behind a form feed the environment."""
    lines = b"\n".join(_make_environment(rng) for _ in range(rng.randrange(3)))
    words = rng.choice(INTERESTING) if rng.random() < 0.1 else b""
    return _make_toml(rng) + words + b"\f" + lines


@contextmanager
def open_configuration() -> Iterator[Reader]:
    """A configuration file and an environment."""
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        file = directory / "roomwire.toml"

        def read(data: bytes) -> bool:
            toml, _, lines = data.partition(b"\f")
            file.write_bytes(toml)
            pairs = (line.decode("utf-8", "surrogateescape").partition("=") for line in lines.split(b"\n"))
            loaded = load(environ={name: value for name, _, value in pairs if name}, cwd=directory)
            # What is shown of a correct one has every key, and no secret of its options.
            shown = {setting.key for setting in loaded.shown()}
            assert {"server.port", "limits.rooms"} <= shown
            return True

        yield read
