"""A server's side of the opening handshake (RFC 6455 section 4.2)."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.protocol import OPEN
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from roomwire.core.deflate import Deflate, negotiate_deflate
from roomwire.core.errors import HandshakeRefused, LocalError, Refusal
from roomwire.core.handshake import (
    RequestParser,
    Upgrade,
    accept_response,
    accept_token,
    check_upgrade,
    choose_subprotocol,
    refusal_response,
)
from roomwire.core.request import RequestHead

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
HEADERS = (
    (b"host", b"localhost"),
    (b"upgrade", b"websocket"),
    (b"connection", b"Upgrade"),
    (b"sec-websocket-key", KEY),
    (b"sec-websocket-version", b"13"),
)
V1 = "roomwire.v1"


def head(*headers: tuple[bytes, bytes], method: str = "GET") -> RequestHead:
    """A correct upgrade request, but for the headers that are given: an empty value takes one away."""
    replaced = {name for name, _ in headers}
    kept = [pair for pair in HEADERS if pair[0] not in replaced]
    return RequestHead(method, "/ws", "", (*kept, *(pair for pair in headers if pair[1])))


def refusal_of(request: RequestHead) -> Refusal:
    with pytest.raises(HandshakeRefused) as caught:
        check_upgrade(request)
    return caught.value.refusal


def outcome(request: RequestHead) -> int:
    try:
        check_upgrade(request)
    except HandshakeRefused as error:
        return error.refusal.status
    return 101


class TestUpgrade421:
    def test_a_correct_one(self) -> None:
        assert check_upgrade(head()) == Upgrade(KEY, (), [])

    @pytest.mark.parametrize(
        "headers",
        [
            [(b"connection", b"keep-alive, Upgrade")],  # Firefox
            [(b"connection", b"keep-alive"), (b"connection", b"upgrade")],  # B16: they are one list
            [(b"connection", b"Upgrade"), (b"connection", b"keep-alive")],
            [(b"upgrade", b"WebSocket")],
            [(b"upgrade", b"h2c, websocket")],
            [(b"upgrade", b"h2c"), (b"upgrade", b"websocket")],
        ],
    )
    def test_list_headers_are_joined_and_have_no_case_b16(self, headers: list[tuple[bytes, bytes]]) -> None:
        assert check_upgrade(head(*headers)).key == KEY

    @pytest.mark.parametrize("upgrade", [b"", b"h2c", b"websocket2", b"web socket"])
    @pytest.mark.parametrize("connection", [b"", b"Upgrade"])
    def test_a_plain_get_is_426(self, upgrade: bytes, connection: bytes) -> None:
        refusal = refusal_of(head((b"upgrade", upgrade), (b"connection", connection)))
        assert (refusal.status, refusal.error) == (426, "upgrade_required")
        assert refusal.headers == (("Upgrade", "websocket"), ("Connection", "Upgrade"))
        assert b"Connection: Upgrade, close\r\n" in refusal_response(refusal)
        assert b"Connection: Upgrade\r\n" in refusal_response(refusal, close=False)

    @pytest.mark.parametrize("method", ["POST", "HEAD", "OPTIONS", "get"])
    def test_another_method_is_400(self, method: str) -> None:
        refusal = refusal_of(head(method=method))
        assert (refusal.status, refusal.error) == (400, "bad_request")

    @pytest.mark.parametrize("connection", [b"", b"keep-alive", b"close", b"Upgraded"])
    def test_a_connection_header_without_upgrade_is_400(self, connection: bytes) -> None:
        assert refusal_of(head((b"connection", connection))).status == 400

    @pytest.mark.parametrize(
        "header",
        [
            (b"connection", "Upgrade, é".encode()),
            (b"upgrade", "websocket, é".encode()),
            (b"sec-websocket-protocol", "é".encode()),
            (b"sec-websocket-protocol", b"\xff"),
        ],
    )
    def test_what_is_not_ascii_is_400_b14(self, header: tuple[bytes, bytes]) -> None:
        assert refusal_of(head(header)).status == 400

    @pytest.mark.parametrize("versions", [[b""], [b"8"], [b"14"], [b"13, 8"], [b"13", b"13"], [b"x"], [b"\xff"]])
    def test_another_version_is_400_and_ours_is_named(self, versions: list[bytes]) -> None:
        refusal = refusal_of(head(*((b"sec-websocket-version", version) for version in versions)))
        assert (refusal.status, refusal.headers) == (400, (("Sec-WebSocket-Version", "13"),))

    @pytest.mark.parametrize(
        "keys",
        [
            [b""],
            [KEY, KEY],
            [b"x"],
            [b"a" * 24],
            [b"dGhlIHNhbXBsZSBub25jZQ="],
            [b"dGhlIHNhbXBsZSBub25jZQ==="],
            [b"dGhlIHNhbXBsZSBub25jZ!=="],
            [b"dGhlIHNhbXBs ZSBub25jZQ="],
            [base64.b64encode(b"x" * 17)],
            [base64.b64encode(b"x" * 15)],
            [b"\xff" * 24],
        ],
    )
    def test_the_key_is_the_base64_of_16_bytes_once_b17(self, keys: list[bytes]) -> None:
        assert refusal_of(head(*((b"sec-websocket-key", key) for key in keys))).status == 400

    def test_extensions_are_handed_on_unread_b15(self) -> None:
        offers = [(b"sec-websocket-extensions", b"\xff=@"), (b"sec-websocket-extensions", b"permessage-deflate")]
        upgrade = check_upgrade(head(*offers))
        assert upgrade.extensions == ["\xff=@", "permessage-deflate"]
        assert negotiate_deflate(upgrade.extensions) is None

    @given(
        st.lists(
            st.tuples(
                st.sampled_from([name for name, _ in HEADERS] + [b"sec-websocket-protocol"]), st.binary(max_size=30)
            )
        )
    )
    def test_only_a_refusal_leaves_whatever_the_headers(self, headers: list[tuple[bytes, bytes]]) -> None:
        assert outcome(head(*headers)) in (101, 400, 426)


class TestSubprotocols:
    def test_offers_in_order_over_all_lines(self) -> None:
        lines = [(b"sec-websocket-protocol", b"a , b"), (b"sec-websocket-protocol", b",c,")]
        assert check_upgrade(head(*lines)).subprotocols == ("a", "b", "c")

    @pytest.mark.parametrize("offer", [b"a b", b"a/b", b"bearer.SECRET=", b'"a"', b"a\x7f", b"a, b c"])
    def test_an_offer_that_is_no_token_is_400_and_not_repeated(self, offer: bytes) -> None:
        refusal = refusal_of(head((b"sec-websocket-protocol", offer)))
        assert refusal.status == 400
        assert "SECRET" not in repr(refusal)

    def test_no_token_in_the_repr(self) -> None:
        assert "SECRET" not in repr(check_upgrade(head((b"sec-websocket-protocol", b"roomwire.v1, bearer.SECRET"))))

    @pytest.mark.parametrize(
        ("offers", "known", "selected"),
        [
            ((), (V1,), None),
            ((V1,), (V1,), V1),
            (("other", V1), (V1,), V1),
            (("bearer.T", V1), (V1,), V1),
            ((V1, "bearer.T"), (V1,), V1),
            (("b", "a"), ("a", "b"), "b"),
        ],
    )
    def test_the_first_that_is_known(
        self, offers: tuple[str, ...], known: tuple[str, ...], selected: str | None
    ) -> None:
        assert choose_subprotocol(offers, known) == selected

    @pytest.mark.parametrize("offers", [("other",), ("bearer.SECRET",), ("bearer.SECRET", "x"), ("ROOMWIRE.V1",)])
    def test_none_that_is_known_is_400(self, offers: tuple[str, ...]) -> None:
        with pytest.raises(HandshakeRefused) as caught:
            choose_subprotocol(offers, (V1,))
        assert (caught.value.refusal.status, caught.value.refusal.error) == (400, "bad_request")
        assert "SECRET" not in str(caught.value) + repr(caught.value.refusal)
        assert V1 in caught.value.refusal.detail


class TestAccept422:
    def test_the_rfcs_own_example(self) -> None:
        assert accept_token(KEY) == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

    def test_whole(self) -> None:
        assert accept_response(KEY) == (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
        )

    def test_with_all(self) -> None:
        response = accept_response(KEY, V1, Deflate("permessage-deflate; a=b"))
        assert response.endswith(
            b"\r\nSec-WebSocket-Protocol: roomwire.v1\r\nSec-WebSocket-Extensions: permessage-deflate; a=b\r\n\r\n"
        )

    @pytest.mark.parametrize("name", ["", "a\r\nInjected: b", "a b", "é"])
    def test_a_subprotocol_cannot_carry_a_header_b21(self, name: str) -> None:
        with pytest.raises(LocalError, match="token"):
            accept_response(KEY, name)


class TestAgainstWebsocketsClient:
    @pytest.mark.parametrize("compress", [False, True])
    @pytest.mark.parametrize("subprotocol", [None, V1])
    def test_is_open_after_our_101(self, compress: bool, subprotocol: str | None) -> None:
        client = ClientProtocol(
            parse_uri("ws://localhost:8000/ws?x=1"),
            origin=None,
            extensions=[ClientPerMessageDeflateFactory()] if compress else None,
            subprotocols=[Subprotocol(subprotocol)] if subprotocol else None,
        )
        client.send_request(client.connect())
        request = RequestParser().receive(b"".join(client.data_to_send()))
        assert request is not None
        upgrade = check_upgrade(request)
        deflate = negotiate_deflate(upgrade.extensions)
        client.receive_data(accept_response(upgrade.key, choose_subprotocol(upgrade.subprotocols, [V1]), deflate))
        assert client.handshake_exc is None
        assert client.state is OPEN
        assert client.subprotocol == subprotocol
        assert bool(client.extensions) == compress == (deflate is not None)
