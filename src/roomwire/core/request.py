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
        version: of HTTP, as the response has to have it.
    """

    method: str
    path: str
    query: str = field(repr=False)
    headers: Sequence[tuple[bytes, bytes]] = field(repr=False)
    peer: str = ""
    secure: bool = False
    version: str = "1.1"
    _fields: dict[bytes, list[bytes]] = field(init=False, repr=False, compare=False)
    _parameters: dict[str, list[str]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # A handshake asks for a dozen headers and four parameters.
        fields: dict[bytes, list[bytes]] = {}
        for name, value in self.headers:
            fields.setdefault(name, []).append(value)
        object.__setattr__(self, "_fields", fields)
        object.__setattr__(self, "_parameters", _parse_query(self.query) if self.query else {})

    def header(self, name: bytes) -> bytes | None:
        """A header's value, or None; several field lines are joined by a comma (RFC 9110 section 5.3)."""
        values = self._fields.get(name)
        return b", ".join(values) if values else None

    def header_values(self, name: bytes) -> Sequence[bytes]:
        """Every field line of a header, in order."""
        return self._fields.get(name, [])

    def header_items(self, name: bytes) -> list[str]:
        """The elements of a comma-separated list header, over all its field lines, as ASCII text.

        Elements that are not ASCII are passed over: no name that we know has any.
        """
        items = [item.strip() for value in self.header_values(name) for item in value.split(b",")]
        return [item.decode("ascii") for item in items if item and item.isascii()]

    def query_values(self, name: str) -> Sequence[str]:
        """The values of one query parameter, decoded once; bad UTF-8 is replaced, never an error."""
        return self._parameters.get(name, [])


def _parse_query(query: str) -> dict[str, list[str]]:
    parameters: dict[str, list[str]] = {}
    for part in query.split("&"):
        name, _, value = part.partition("=")
        if "%" in part or "+" in part:
            name, value = unquote_plus(name), unquote_plus(value)
        parameters.setdefault(name, []).append(value)
    return parameters
