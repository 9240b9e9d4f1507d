"""The opening handshake (RFC 6455 section 4): a server's checks and its 101, and a client's request.

A refusal is a plain HTTP response, always before any 101. The 101 itself is a constant template: all that
varies in it is computed, or is one of our own names.
"""

from __future__ import annotations

import binascii
import hashlib
import json
import re
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NoReturn

import h11

from roomwire.core.deflate import OFFER, Deflate, accept_deflate
from roomwire.core.errors import HandshakeRefused, LocalError, Refusal, RemoteError
from roomwire.core.http import RequestParser, http_response, refusal_response
from roomwire.core.request import RequestHead

__all__ = [
    "MAX_TRAILING",
    "Accepted",
    "ClientHandshake",
    "HandshakeRejected",
    "InvalidHandshake",
    "RequestParser",
    "Upgrade",
    "accept_response",
    "accept_token",
    "check_upgrade",
    "choose_subprotocol",
    "http_response",
    "refusal_response",
]

MAX_TRAILING = 4096
"""Bytes behind a request head that may wait for the decision; a client sends none (RFC 6455 section 4.1)."""
MAX_BODY = 65_536
"""Bytes of a refusal's body that a client reads."""
_MAX_RESPONSE_HEAD = 65_536

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")


@dataclass(frozen=True, slots=True)
class Upgrade:
    """What a correct upgrade request asks for.

    Attributes:
        key: the ``Sec-WebSocket-Key`` as sent.
        subprotocols: what the client offers, in its order of preference. It may hold a token: never log it.
        extensions: the values of the ``Sec-WebSocket-Extensions`` field lines.
    """

    key: bytes
    subprotocols: tuple[str, ...] = field(repr=False)
    extensions: list[str]


def _refuse(detail: str, status: int = 400, error: str = "bad_request", *headers: tuple[str, str]) -> NoReturn:
    raise HandshakeRefused(Refusal(status, error, detail, headers))


def check_upgrade(head: RequestHead) -> Upgrade:
    """Whether a request is a correct WebSocket upgrade (RFC 6455 section 4.2.1).

    Raises:
        HandshakeRefused: 426 for a plain GET, else 400.
    """
    if head.method != "GET":
        _refuse("a WebSocket is opened by GET")
    if not _has_token(head, b"upgrade", b"websocket"):
        # RFC 9110 section 15.5.22: the response MUST name the protocol.
        detail = "this is a WebSocket endpoint"
        _refuse(detail, 426, "upgrade_required", ("Upgrade", "websocket"), ("Connection", "Upgrade"))
    if not _has_token(head, b"connection", b"upgrade"):
        _refuse("the Connection header does not say Upgrade")
    if head.header_values(b"sec-websocket-version") != [b"13"]:
        # RFC 6455 section 4.4: the response names the version that is spoken.
        _refuse("the WebSocket version must be 13", 400, "bad_request", ("Sec-WebSocket-Version", "13"))
    extensions = [value.decode("latin-1") for value in head.header_values(b"sec-websocket-extensions")]
    return Upgrade(_checked_key(head), _offered_subprotocols(head), extensions)


def _has_token(head: RequestHead, name: bytes, token: bytes) -> bool:
    values = head.header_values(name)
    if len(values) == 1 and values[0].lower() == token:
        return True
    if not all(value.isascii() for value in values):
        _refuse(f"the {name.decode().title()} header is not valid")
    return any(item.strip().lower() == token for value in values for item in value.split(b","))


def _checked_key(head: RequestHead) -> bytes:
    keys = head.header_values(b"sec-websocket-key")
    try:
        if len(keys) == 1 and len(keys[0]) == 24 and len(binascii.a2b_base64(keys[0], strict_mode=True)) == 16:
            return keys[0]
    except binascii.Error:
        pass
    _refuse("Sec-WebSocket-Key must be the base64 of 16 bytes, once")


def _offered_subprotocols(head: RequestHead) -> tuple[str, ...]:
    offered: list[str] = []
    for value in head.header_values(b"sec-websocket-protocol"):
        for item in value.decode("latin-1").split(","):
            name = item.strip(" \t")
            # The text never names what was offered: it may be a token.
            if name and not _TOKEN.fullmatch(name):
                _refuse("the Sec-WebSocket-Protocol header is not valid")
            if name:
                offered.append(name)
    return tuple(offered)


def choose_subprotocol(offers: Sequence[str], known: Sequence[str]) -> str | None:
    """Select a subprotocol (docs/reference/protocol.md section 1).

    Args:
        offers: the client's, in its order of preference. ``bearer.T`` carries a token and is no offer.
        known: ours.

    Returns:
        The first offer that is known, to be echoed; None where nothing was offered.

    Raises:
        HandshakeRefused: 400: none of the offers is known, and a browser fails a connection that selects none.
    """
    for offer in offers:
        if offer in known:
            return offer
    if offers:
        _refuse(f"none of the offered subprotocols is known; offer one of: {', '.join(known)}")
    return None


def accept_token(key: bytes) -> bytes:
    """The ``Sec-WebSocket-Accept`` of a ``Sec-WebSocket-Key`` (RFC 6455 section 4.2.2)."""
    return b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())


def accept_response(key: bytes, subprotocol: str | None = None, deflate: Deflate | None = None) -> bytes:
    """The 101 response (RFC 6455 section 4.2.2).

    Args:
        key: the request's, from `check_upgrade`.
        subprotocol: one of our own names, from `choose_subprotocol`.
        deflate: the agreement, if any.

    Raises:
        LocalError: `subprotocol` is no token, so it cannot be one of our names.
    """
    lines = [
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ",
        accept_token(key),
    ]
    if subprotocol is not None:
        if not _TOKEN.fullmatch(subprotocol):
            raise LocalError("a subprotocol is a token of RFC 9110 section 5.6.2")
        lines.append(b"\r\nSec-WebSocket-Protocol: " + subprotocol.encode("ascii"))
    if deflate is not None:
        lines.append(b"\r\nSec-WebSocket-Extensions: " + deflate.response.encode("ascii"))
    lines.append(b"\r\n\r\n")
    return b"".join(lines)


@dataclass(frozen=True, slots=True)
class Accepted:
    """The server's 101.

    Attributes:
        subprotocol: what it selected of our offers.
        headers: of the response, names in lower case.
        deflate: the agreement on permessage-deflate.
    """

    subprotocol: str | None
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    deflate: Deflate | None = None


class InvalidHandshake(RemoteError):
    """What the server answered is not a correct answer to our handshake, or it answered nothing."""


class HandshakeRejected(RemoteError):
    """The server answered with a plain HTTP response.

    Attributes:
        status: its status code.
        headers: its headers, names in lower case.
        error: the machine-readable code of its body, ``""`` where the body is not a roomwire server's.
        detail: the body's text for people.
    """

    def __init__(self, status: int, headers: tuple[tuple[str, str], ...], body: bytes = b"") -> None:
        self.status = status
        self.headers = headers
        self.error, self.detail = _read_refusal(body)
        super().__init__(f"{status} {self.error}: {self.detail}" if self.error else f"HTTP status {status}")

    @property
    def retry_after(self) -> float | None:
        """Seconds that the server asks to wait; a date in its place is not read, since nobody knows our clock."""
        value = dict(self.headers).get("retry-after", "")
        return float(value) if value.isascii() and value.isdigit() and len(value) < 10 else None


def _read_refusal(body: bytes) -> tuple[str, str]:
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        return "", ""
    if not isinstance(fields, dict):
        return "", ""
    error, detail = fields.get("error"), fields.get("detail")
    return error if isinstance(error, str) else "", detail if isinstance(detail, str) else ""


class ClientHandshake:
    """A client's side of the handshake (RFC 6455 section 4.1): `request` once, then `receive` until it answers.

    Args:
        host: the value of ``Host``, with the port where that is not the scheme's own.
        target: path and query.
        key: 16 unpredictable bytes.
        subprotocols: offers in order of preference, a ``bearer.T`` included.
        headers: further request headers.
        deflate: whether to offer permessage-deflate.

    Attributes:
        trailing: bytes behind the 101, the first ones of the WebSocket.

    Raises:
        LocalError: `key` has not 16 bytes.
    """

    __slots__ = ("_body", "_deflate", "_fields", "_h11", "_key", "_response", "_subprotocols", "_target", "trailing")

    def __init__(
        self,
        host: str,
        target: str,
        *,
        key: bytes,
        subprotocols: Sequence[str] = (),
        headers: Sequence[tuple[str, str]] = (),
        deflate: bool = False,
    ) -> None:
        if len(key) != 16:
            raise LocalError("the key of a handshake has 16 bytes")
        self._key = b64encode(key)
        self._target = target
        self._subprotocols = tuple(subprotocols)
        self._deflate = deflate
        self._fields = [("Host", host), ("Upgrade", "websocket"), ("Connection", "Upgrade")]
        self._fields += [("Sec-WebSocket-Version", "13"), ("Sec-WebSocket-Key", self._key.decode())]
        if subprotocols:
            self._fields.append(("Sec-WebSocket-Protocol", ", ".join(subprotocols)))
        if deflate:
            self._fields.append(("Sec-WebSocket-Extensions", OFFER))
        self._fields += headers
        self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_RESPONSE_HEAD)
        self._response: h11.Response | None = None
        self._body = bytearray()
        self.trailing = b""

    def request(self) -> bytes:
        """The request to send.

        Raises:
            LocalError: the target or a header is not correct. The text names neither: both may hold a token.
        """
        try:
            head = self._h11.send(h11.Request(method="GET", target=self._target, headers=self._fields))
        except (h11.LocalProtocolError, UnicodeEncodeError):
            raise LocalError("the target or a header of the handshake is not correct HTTP") from None
        self._h11.send(h11.EndOfMessage())
        return head or b""

    def receive(self, data: bytes) -> Accepted | None:
        """Bytes came from the network.

        Returns:
            The server's 101, checked; None while its answer is not complete.

        Raises:
            HandshakeRejected: the server refused.
            InvalidHandshake: the answer is not correct; nothing may be fed after it.
        """
        # To h11 no bytes mean the end.
        return self._read(data) if data else None

    def receive_eof(self) -> NoReturn:
        """The link ended before the handshake did.

        Raises:
            HandshakeRejected: the server refused, with a body that ends with the link.
            InvalidHandshake: there is no answer, or no whole one.
        """
        self._read(b"")
        raise InvalidHandshake("the connection ended in the handshake")

    def _read(self, data: bytes) -> Accepted | None:
        try:
            self._h11.receive_data(data)
            while True:
                event = self._h11.next_event()
                if isinstance(event, h11.InformationalResponse):
                    if event.status_code == 101:
                        return self._accept(event)
                elif isinstance(event, h11.Response):
                    self._response = event
                elif isinstance(event, h11.Data):
                    self._take_body(event.data)
                elif isinstance(event, h11.EndOfMessage):
                    self._reject()
                else:
                    return None
        except h11.RemoteProtocolError:
            raise InvalidHandshake("the server's answer is not correct HTTP, or not whole") from None

    def _take_body(self, data: bytes) -> None:
        self._body += data
        if len(self._body) > MAX_BODY:
            self._body.clear()
            self._reject()

    def _reject(self) -> NoReturn:
        assert self._response is not None  # h11 gives the head before the body
        raise HandshakeRejected(self._response.status_code, _headers_of(self._response), bytes(self._body))

    def _accept(self, response: h11.InformationalResponse) -> Accepted:
        headers = _headers_of(response)
        if "websocket" not in _list_of(headers, "upgrade") or "upgrade" not in _list_of(headers, "connection"):
            raise InvalidHandshake("the server switched to something else than a WebSocket")
        if _values_of(headers, "sec-websocket-accept") != [accept_token(self._key).decode()]:
            raise InvalidHandshake("Sec-WebSocket-Accept is not the answer to our key")
        selected = _values_of(headers, "sec-websocket-protocol")
        if len(selected) > 1 or not set(selected) <= set(self._subprotocols):
            raise InvalidHandshake("the server selected a subprotocol that was not offered")
        self.trailing = self._h11.trailing_data[0]
        return Accepted(selected[0] if selected else None, headers, self._agree_on_deflate(headers))

    def _agree_on_deflate(self, headers: tuple[tuple[str, str], ...]) -> Deflate | None:
        extensions = _values_of(headers, "sec-websocket-extensions")
        if not extensions:
            return None
        deflate = accept_deflate(extensions) if self._deflate else None
        if deflate is None:
            raise InvalidHandshake("the server selected an extension that was not offered")
        return deflate


def _headers_of(response: h11.Response | h11.InformationalResponse) -> tuple[tuple[str, str], ...]:
    return tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in response.headers)


def _values_of(headers: tuple[tuple[str, str], ...], name: str) -> list[str]:
    return [value for key, value in headers if key == name]


def _list_of(headers: tuple[tuple[str, str], ...], name: str) -> list[str]:
    return [item.strip().lower() for value in _values_of(headers, name) for item in value.split(",")]
