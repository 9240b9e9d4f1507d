"""The head of an HTTP request, as every transport presents it to the node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import unquote_plus

__all__ = ["RequestHead"]


@dataclass(frozen=True, slots=True)
class RequestHead:
    """Method, target and headers of a request, before its body.

    Attributes:
        method: ``"GET"`` and so on, upper case as sent.
        path: the target up to the ``?``, still percent-encoded.
        query: the target after the ``?``, still percent-encoded. It may hold a token: never log it.
        headers: names in lower case, values as sent without surrounding white space.
        peer: where the request came from, for logs: ``"127.0.0.1:51324"``, or ``"unix"``.
        secure: whether it came over TLS.
    """

    method: str
    path: str
    query: str = field(repr=False)
    headers: Sequence[tuple[bytes, bytes]] = field(repr=False)
    peer: str = ""
    secure: bool = False

    def header(self, name: bytes) -> bytes | None:
        """A header's value, or None; several field lines are joined by a comma (RFC 9110 section 5.3)."""
        values = [value for key, value in self.headers if key == name]
        return b", ".join(values) if values else None

    def header_values(self, name: bytes) -> list[bytes]:
        """Every field line of a header, in order."""
        return [value for key, value in self.headers if key == name]

    def header_items(self, name: bytes) -> list[str]:
        """The elements of a comma-separated list header, over all its field lines, as ASCII text.

        Elements that are not ASCII are passed over: no name that we know has any.
        """
        items = [item.strip() for value in self.header_values(name) for item in value.split(b",")]
        return [item.decode("ascii") for item in items if item and item.isascii()]

    def query_values(self, name: str) -> list[str]:
        """The values of one query parameter, decoded once; bad UTF-8 is replaced, never an error."""
        if name not in self.query and "%" not in self.query:  # where the name itself may be encoded
            return []
        pairs = (part.partition("=") for part in self.query.split("&"))
        return [unquote_plus(value) for key, _, value in pairs if unquote_plus(key) == name]
