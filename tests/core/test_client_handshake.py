"""A client's side of the opening handshake (RFC 6455 section 4.1)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.protocol import OPEN
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from roomwire.core.deflate import OFFER, Deflate
from roomwire.core.errors import LocalError, Refusal, RemoteError
from roomwire.core.handshake import (
    MAX_BODY,
    Accepted,
    ClientHandshake,
    HandshakeRejected,
    InvalidHandshake,
    RequestParser,
    accept_response,
    check_upgrade,
    refusal_response,
)

NONCE = b"the sample nonce"
KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
TOKENS = ("roomwire.v1", "bearer.SECRET")
DEFLATE = Deflate("permessage-deflate; server_no_context_takeover; client_no_context_takeover")


def started(*, deflate: bool = False) -> ClientHandshake:
    handshake = ClientHandshake("localhost:8000", "/ws?x=1", key=NONCE, subprotocols=TOKENS, deflate=deflate)
    handshake.request()
    return handshake


def answer(*lines: bytes, status: bytes = b"101 Switching Protocols") -> bytes:
    return b"\r\n".join([b"HTTP/1.1 " + status, *lines, b"", b""])


UPGRADE = b"Upgrade: websocket"
CONNECTION = b"Connection: Upgrade"
ACCEPT = b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


class TestRequest41:
    def test_is_one_that_our_server_takes(self) -> None:
        handshake = ClientHandshake(
            "localhost:8000", "/ws?x=1", key=NONCE, subprotocols=TOKENS, headers=[("X-A", "b")], deflate=True
        )
        head = RequestParser().receive(handshake.request())
        assert head is not None
        assert (head.path, head.query, head.header(b"host"), head.header(b"x-a")) == (
            "/ws",
            "x=1",
            b"localhost:8000",
            b"b",
        )
        upgrade = check_upgrade(head)
        assert (upgrade.key, upgrade.subprotocols, upgrade.extensions) == (KEY, TOKENS, [OFFER])

    def test_offers_nothing_of_itself(self) -> None:
        head = RequestParser().receive(ClientHandshake("a", "/", key=NONCE).request())
        assert head is not None
        upgrade = check_upgrade(head)
        assert (upgrade.subprotocols, upgrade.extensions) == ((), [])

    @pytest.mark.parametrize("key", [b"", b"x" * 15, b"x" * 17])
    def test_the_key_has_16_bytes(self, key: bytes) -> None:
        with pytest.raises(LocalError, match="16 bytes"):
            ClientHandshake("a", "/", key=key)

    @pytest.mark.parametrize(
        ("target", "headers"),
        [
            ("/ws SECRET", []),
            ("/ws\r\nX: SECRET", []),
            ("/é?SECRET", []),
            ("/", [("Authorization", "SECRET\r\nX: y")]),
            ("/", [("Authorization", "SECRET é")]),
        ],
    )
    def test_what_is_not_http_is_the_callers_error_and_not_repeated(
        self, target: str, headers: list[tuple[str, str]]
    ) -> None:
        with pytest.raises(LocalError) as caught:
            ClientHandshake("a", target, key=NONCE, headers=headers).request()
        assert "SECRET" not in str(caught.value)
        assert caught.value.__suppress_context__


class TestAccepted41:
    def test_by_our_server(self) -> None:
        handshake = started(deflate=True)
        response = accept_response(KEY, "roomwire.v1", DEFLATE)
        accepted = handshake.receive(response + b"\x81\x01x")
        assert accepted is not None
        assert (accepted.subprotocol, accepted.deflate) == ("roomwire.v1", DEFLATE)
        assert ("upgrade", "websocket") in accepted.headers
        assert handshake.trailing == b"\x81\x01x"

    def test_byte_by_byte_after_other_interim_responses(self) -> None:
        handshake = started()
        data = answer(status=b"103 Early Hints") + accept_response(KEY)
        got = [handshake.receive(data[index : index + 1]) for index in range(len(data))]
        assert got[:-1] == [None] * (len(data) - 1)
        assert isinstance(got[-1], Accepted)
        assert got[-1].subprotocol is None
        assert handshake.trailing == b""

    def test_an_end_behind_it_is_no_end_of_the_handshake(self) -> None:
        handshake = started()
        assert handshake.receive(accept_response(KEY)) is not None
        with pytest.raises(InvalidHandshake):
            handshake.receive_eof()

    def test_no_bytes_are_no_end(self) -> None:
        handshake = started()
        assert handshake.receive(b"") is None
        assert handshake.receive(accept_response(KEY)) is not None

    @pytest.mark.parametrize(
        "lines",
        [
            [CONNECTION, ACCEPT],
            [b"Upgrade: h2c", CONNECTION, ACCEPT],
            [UPGRADE, ACCEPT],
            [UPGRADE, b"Connection: close", ACCEPT],
            [UPGRADE, CONNECTION],
            [UPGRADE, CONNECTION, b"Sec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA="],
            [UPGRADE, CONNECTION, ACCEPT, ACCEPT],
            [UPGRADE, CONNECTION, ACCEPT, b"Sec-WebSocket-Protocol: other"],
            [
                UPGRADE,
                CONNECTION,
                ACCEPT,
                b"Sec-WebSocket-Protocol: roomwire.v1",
                b"Sec-WebSocket-Protocol: roomwire.v1",
            ],
            [UPGRADE, CONNECTION, ACCEPT, b"Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover"],
        ],
    )
    def test_a_101_that_is_not_right_is_refused(self, lines: list[bytes]) -> None:
        with pytest.raises(InvalidHandshake):
            started().receive(answer(*lines))

    def test_an_extension_that_does_not_follow_from_the_offer_is_refused(self) -> None:
        lines = [UPGRADE, CONNECTION, ACCEPT, b"Sec-WebSocket-Extensions: permessage-deflate"]
        with pytest.raises(InvalidHandshake):
            started(deflate=True).receive(answer(*lines))

    def test_an_extension_that_was_offered_may_be_left_out(self) -> None:
        accepted = started(deflate=True).receive(answer(UPGRADE, CONNECTION, ACCEPT))
        assert accepted is not None
        assert accepted.deflate is None


def rejection(feed: Callable[[ClientHandshake], object]) -> HandshakeRejected:
    with pytest.raises(HandshakeRejected) as caught:
        feed(started())
    return caught.value


class TestRejected:
    def test_by_our_server(self) -> None:
        refusal = Refusal(429, "too_many_connections", "five are open", (("Retry-After", "7"),))
        error = rejection(lambda handshake: handshake.receive(refusal_response(refusal)))
        assert (error.status, error.error, error.detail) == (429, "too_many_connections", "five are open")
        assert error.retry_after == 7.0
        assert ("retry-after", "7") in error.headers
        assert str(error) == "429 too_many_connections: five are open"

    @pytest.mark.parametrize(
        "body", [b"", b"<html>", b"[1]", b'"x"', b"null", b"\xff\xfe", b"[" * 10_000, b'{"error": 1, "detail": null}']
    )
    def test_with_a_body_of_some_one_else(self, body: bytes) -> None:
        data = answer(b"Content-Length: " + str(len(body)).encode(), status=b"502 Bad Gateway") + body
        error = rejection(lambda handshake: handshake.receive(data))
        assert (error.status, error.error, error.detail, error.retry_after) == (502, "", "", None)
        assert str(error) == "HTTP status 502"

    def test_with_a_body_in_chunks(self) -> None:
        data = answer(b"Transfer-Encoding: chunked", status=b"404 Not Found")
        chunks = b'7\r\n{"error\r\n4\r\n":"x\r\n2\r\n"}\r\n0\r\n\r\n'
        assert rejection(lambda handshake: handshake.receive(data + chunks)).error == "x"

    def test_with_a_body_that_ends_with_the_link(self) -> None:
        def feed(handshake: ClientHandshake) -> None:
            data = answer(b"Connection: close", status=b"503 Service Unavailable")
            assert handshake.receive(data + b'{"error":"unavailable"') is None
            assert handshake.receive(b"}") is None
            handshake.receive_eof()

        assert rejection(feed).error == "unavailable"

    def test_a_200_is_no_websocket(self) -> None:
        error = rejection(lambda handshake: handshake.receive(answer(b"Content-Length: 0", status=b"200 OK")))
        assert error.status == 200

    def test_a_body_without_an_end_is_not_read_on(self) -> None:
        def feed(handshake: ClientHandshake) -> None:
            handshake.receive(answer(b"Connection: close", status=b"503 Service Unavailable"))
            for _ in range(MAX_BODY // 1024):
                assert handshake.receive(b'{"error":"x"}'.ljust(1024)) is None
            handshake.receive(b" ")

        error = rejection(feed)
        assert (error.status, error.error) == (503, "")

    @pytest.mark.parametrize("value", [b"Wed, 21 Oct 2026 07:28:00 GMT", b"-1", b"1.5", b"\xb2", b"9" * 40])
    def test_a_retry_after_that_is_no_number_of_seconds(self, value: bytes) -> None:
        data = answer(b"Content-Length: 0", b"Retry-After: " + value, status=b"503 Service Unavailable")
        assert rejection(lambda handshake: handshake.receive(data)).retry_after is None


class TestInvalid:
    @pytest.mark.parametrize(
        "data",
        [
            b"\x15\x03\x01\r\n\r\n",
            b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
            answer(b"Content-Length: x", status=b"404 Not Found"),
            b"HTTP/1.1 101 Switching Protocols\r\nx: " + b"y" * 70_000,
        ],
    )
    def test_what_is_not_http(self, data: bytes) -> None:
        with pytest.raises(InvalidHandshake):
            started().receive(data)

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"HTTP/1.1 101 Swit",
            answer(status=b"100 Continue"),
            answer(b"Content-Length: 5", status=b"404 x") + b"abc",
        ],
    )
    def test_the_link_ends_before_the_answer(self, data: bytes) -> None:
        handshake = started()
        assert handshake.receive(data) is None
        with pytest.raises(InvalidHandshake):
            handshake.receive_eof()

    @given(
        st.lists(st.binary(min_size=1, max_size=60), max_size=4),
        st.sampled_from([b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 101 x\r\n"]),
    )
    def test_any_bytes_end_in_an_error_of_the_peer(self, blocks: list[bytes], start: bytes) -> None:
        handshake = started()

        def feed() -> None:
            for block in [start, *blocks]:
                handshake.receive(block)
            handshake.receive_eof()

        with pytest.raises(RemoteError):
            feed()


class TestAgainstWebsocketsServer:
    def test_is_open_after_its_101(self) -> None:
        server = ServerProtocol(subprotocols=[Subprotocol("roomwire.v1")])
        handshake = ClientHandshake("localhost", "/ws", key=NONCE, subprotocols=TOKENS[:1], deflate=True)
        server.receive_data(handshake.request())
        (request,) = server.events_received()
        server.send_response(server.accept(request))  # type: ignore[arg-type]  # the handshake's only event
        server.send_text(b"hello")
        assert server.state is OPEN
        data = b"".join(server.data_to_send())
        accepted = handshake.receive(data)
        assert accepted is not None
        assert (accepted.subprotocol, accepted.deflate) == ("roomwire.v1", None)
        assert handshake.trailing == b"\x81\x05hello"
