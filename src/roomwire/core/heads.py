"""The fast lane for the head of a WebSocket upgrade, as browsers and the usual clients write it (RFC 9112 section 2).

It takes what both it and h11 read alike, and leaves everything else, and every refusal, to h11, with the same bytes.
So it has no rules of its own to get wrong: what it knows is less than what is correct. A test holds the two equal.
"""

from __future__ import annotations

import re

__all__ = ["Fields", "read_upgrade"]

Fields = tuple[tuple[bytes, bytes], ...]
"""Names in lower case, and values without the white space around them."""

_REQUEST_LINE = re.compile(rb"GET (/[!-~]*) HTTP/1\.1\r\n")
# One blank at the most before the value, and none behind it: no white space is left to be taken off.
_FIELD = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+): ?(|[!-~](?:[ -~]*[!-~])?)\r\n")
_BODY = (b"content-length", b"transfer-encoding")


def read_upgrade(head: bytes) -> tuple[str, Fields] | None:
    """Target and header fields of an upgrade to a WebSocket.

    Args:
        head: from the request line to the blank line, and no further.

    Returns:
        None for any other request, be it correct or not.
    """
    line = _REQUEST_LINE.match(head)
    if line is None:
        return None
    fields: list[tuple[bytes, bytes]] = []
    position, end = line.end(), len(head) - 2
    match = _FIELD.match
    while position < end:
        field = match(head, position)
        if field is None:
            return None
        name, value = field.groups()
        fields.append((name.lower(), value))
        position = field.end()
    if position != end or head[end:] != b"\r\n" or not _is_upgrade(fields):
        return None
    return line[1].decode("ascii"), tuple(fields)


def _is_upgrade(fields: list[tuple[bytes, bytes]]) -> bool:
    """Whether they ask for a WebSocket, have one host, and no body, whose framing is h11's to check."""
    names = [name for name, _ in fields]
    if names.count(b"host") != 1 or names.count(b"upgrade") != 1 or not set(names).isdisjoint(_BODY):
        return False
    return fields[names.index(b"upgrade")][1].lower() == b"websocket"
