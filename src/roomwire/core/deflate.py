"""permessage-deflate: what is agreed on in the handshake, and compressing what goes out (RFC 7692).

Two things are always agreed on. ``server_no_context_takeover``: every message is compressed by itself, so
one compressed frame serves all members of a room, and no secret shares a context with what an attacker
chose. ``client_no_context_takeover``: no inflater outlives its message, which keeps 40 KiB off every
idle connection.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from roomwire.core.guards import BoundedDeflate

__all__ = ["COMPRESS_FROM", "MIN_WINDOW_BITS", "OFFER", "Deflate", "accept_deflate", "compress", "negotiate_deflate"]

COMPRESS_FROM = 1024
"""Bytes from which compressing is worth its time."""

OFFER = "permessage-deflate; server_no_context_takeover; client_no_context_takeover; client_max_window_bits"
"""What our own client offers."""

MIN_WINDOW_BITS = 9
"""RFC 7692 allows 8, a window of 256 bytes; zlib cannot compress with it."""

_NAME = "permessage-deflate"
_MAX_WINDOW_BITS = 15
_Parameters: TypeAlias = list[tuple[str, str | None]]

_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"  # noqa: S105 - RFC 9110 section 5.6.2
_EXTENSION = re.compile(rf"[ \t]*({_TOKEN})[ \t]*")
_PARAMETER = re.compile(rf';[ \t]*({_TOKEN})[ \t]*(?:=[ \t]*(?:({_TOKEN})|"({_TOKEN})")[ \t]*)?')
_EMPTY = re.compile(r"[ \t,]*")
_VALUES = {
    "server_no_context_takeover": re.compile(""),
    "client_no_context_takeover": re.compile(""),
    "server_max_window_bits": re.compile("[89]|1[0-5]"),
    "client_max_window_bits": re.compile("(?:[89]|1[0-5])?"),
}


@dataclass(frozen=True, slots=True)
class Deflate:
    """The agreed parameters.

    Attributes:
        response: the value of the response's ``Sec-WebSocket-Extensions``.
        server_max_window_bits: base-two logarithm of the largest window that the server compresses with.
        client_max_window_bits: the same for the client.
    """

    response: str
    server_max_window_bits: int = _MAX_WINDOW_BITS
    client_max_window_bits: int = _MAX_WINDOW_BITS

    def extension(self, max_message_size: int) -> BoundedDeflate:
        """A new inflater for one connection, of messages up to `max_message_size` bytes."""
        return BoundedDeflate(max_message_size)


def compress(payload: bytes, window_bits: int = _MAX_WINDOW_BITS) -> bytes:
    """The payload of a frame that carries a compressed message; set RSV1 on it (RFC 7692 section 7.2.1).

    Args:
        payload: the message.
        window_bits: base-two logarithm of the window, 9 to 15.
    """
    compressor = zlib.compressobj(zlib.Z_DEFAULT_COMPRESSION, zlib.DEFLATED, -window_bits)
    return compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)[:-4]


def negotiate_deflate(offers: Sequence[bytes | str]) -> Deflate | None:
    """A server's answer to a client's offers: the first that is acceptable, or None.

    Args:
        offers: the values of the request's ``Sec-WebSocket-Extensions`` field lines.

    Returns:
        The agreement; None declines the extension, never the connection, also where the header is malformed.
    """
    for name, parameters in _parse(offers) or ():
        if name == _NAME and (deflate := _accept_offer(parameters)) is not None:
            return deflate
    return None


def accept_deflate(response: Sequence[bytes | str]) -> Deflate | None:
    """A client's reading of the server's answer to `OFFER`.

    Args:
        response: the values of the response's ``Sec-WebSocket-Extensions`` field lines.

    Returns:
        The agreement; None where the answer does not follow from our offer, and the connection must
        fail (RFC 7692 section 5.1).
    """
    extensions = _parse(response)
    if extensions is None or len(extensions) != 1 or extensions[0][0] != _NAME:
        return None
    parameters = _validated(extensions[0][1])
    if parameters is None or "server_no_context_takeover" not in parameters:
        return None
    # Without a value it is an offer's word, not an answer's.
    if parameters.get("client_max_window_bits", "") is None:
        return None
    return Deflate(
        ", ".join(_text(response)),
        int(parameters.get("server_max_window_bits") or _MAX_WINDOW_BITS),
        int(parameters.get("client_max_window_bits") or _MAX_WINDOW_BITS),
    )


def _accept_offer(offered: _Parameters) -> Deflate | None:
    parameters = _validated(offered)
    if parameters is None:
        return None
    response = f"{_NAME}; server_no_context_takeover; client_no_context_takeover"
    bits = parameters.get("server_max_window_bits")
    if bits is None:
        return Deflate(response)
    if int(bits) < MIN_WINDOW_BITS:
        return None
    return Deflate(f"{response}; server_max_window_bits={bits}", int(bits))


def _validated(parameters: _Parameters) -> dict[str, str | None] | None:
    """The parameters by name; None where one is unknown, repeated or has a wrong value (RFC 7692 section 7.1)."""
    valid: dict[str, str | None] = {}
    for name, value in parameters:
        pattern = _VALUES.get(name)
        if pattern is None or name in valid or not pattern.fullmatch(value or ""):
            return None
        valid[name] = value
    return valid


def _text(lines: Sequence[bytes | str]) -> list[str]:
    return [line if isinstance(line, str) else line.decode("latin-1") for line in lines]


def _parse(lines: Sequence[bytes | str]) -> list[tuple[str, _Parameters]] | None:
    """The extensions of a header, each with its parameters; None where it is malformed (RFC 6455 section 9.1).

    A quoted value must be a token once it is unquoted, so nothing in it can end it early.
    """
    extensions: list[tuple[str, _Parameters]] = []
    text = ",".join(_text(lines))
    # Empty list elements are passed over (RFC 9110 section 5.6.1.2).
    position = _skip_empty(text, 0)
    while (extension := _EXTENSION.match(text, position)) is not None:
        position = extension.end()
        parameters: _Parameters = []
        while (parameter := _PARAMETER.match(text, position)) is not None:
            position = parameter.end()
            parameters.append((parameter[1], parameter[2] or parameter[3]))
        extensions.append((extension[1], parameters))
        if text[position : position + 1] == ",":
            position = _skip_empty(text, position)
        elif position < len(text):
            return None
    return extensions if position == len(text) else None


def _skip_empty(text: str, position: int) -> int:
    match = _EMPTY.match(text, position)
    return match.end() if match else position
