"""Which web pages may connect.

A browser lets any page open a WebSocket to any server and sends the user's cookies along; the
Origin header is what tells the pages apart (RFC 6455 section 10.2; CWE-1385, cross-site WebSocket
hijacking). It is checked whatever the token's source.

Browsers serialise an origin in one way only (RFC 6454 section 6.2, the URL standard): scheme and
host in lower case, no default port, no path. So a configured entry is brought into that form once,
and what a request says is compared with it byte for byte: every other spelling is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from roomwire.core.errors import ConfigError, HandshakeRefused, Refusal
from roomwire.core.request import RequestHead

__all__ = ["OriginPolicy"]

_DEFAULT_PORTS = {"http": "80", "https": "443"}

# Any scheme: packaged applications have their own, such as capacitor://localhost.
_ORIGIN = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<host>\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(?::(?P<port>0|[1-9][0-9]{0,4}))?"
)
_MAX_SIZE = 512  # a DNS name has at most 253 characters


class OriginPolicy:
    """An allow-list of origins; the server's own is allowed always.

    Args:
        allowed: origins such as ``"https://app.example.com"``, or ``"*"`` for any.

    Raises:
        ConfigError: an entry is not an origin; it is named, with the remedy.
    """

    __slots__ = ("_allowed", "allows_any")

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        entries = list(allowed)
        self.allows_any = "*" in entries
        """Whether every page may connect, the check being off."""
        self._allowed = frozenset(_normalised(entry) for entry in entries if entry != "*")

    def check(self, head: RequestHead) -> None:
        """Returns where the request may go on: no Origin (not a browser), one in the list, or our own.

        Raises:
            HandshakeRefused: 403 ``forbidden``.
        """
        if self.allows_any:
            return
        values = head.header_values(b"origin")
        if not values:
            return
        if len(values) > 1:
            raise _forbidden("several Origin headers")
        origin = values[0].decode("latin-1")
        if origin in self._allowed:
            return
        match = _ORIGIN.fullmatch(origin) if len(origin) <= _MAX_SIZE else None
        if match is None:
            raise _forbidden("the Origin is null or malformed")
        if not _is_own(match, head.header_values(b"host")):
            # Safe to log: the pattern leaves no character that could forge a record.
            raise _forbidden(f"the Origin {origin} is not allowed")


def _is_own(origin: re.Match[str], hosts: Sequence[bytes]) -> bool:
    """Whether the origin's host and port are those the request was sent to (RFC 9110 section 7.2).

    The scheme cannot be compared: TLS often ends at a proxy.
    """
    default = _DEFAULT_PORTS.get(origin["scheme"])
    if default is None or origin["port"] == default or len(hosts) != 1:
        return False
    host = hosts[0].decode("latin-1").lower().removesuffix(":" + default)
    return host == (f"{origin['host']}:{origin['port']}" if origin["port"] else origin["host"])


def _forbidden(cause: str) -> HandshakeRefused:
    return HandshakeRefused(Refusal(403, "forbidden", "the Origin is not allowed", cause=cause))


def _normalised(entry: str) -> str:
    """An entry as a browser would send it."""
    match = _ORIGIN.fullmatch(entry.lower()) if entry.isascii() else None
    if match is None or len(entry) > _MAX_SIZE or int(match["port"] or 0) > 65535 or match["scheme"] in ("ws", "wss"):
        raise ConfigError(f"server.allowed_origins: {entry!r} is not an origin: {_remedy(entry)}")
    scheme, host, port = match["scheme"], match["host"], match["port"]
    return f"{scheme}://{host}" if port in (None, _DEFAULT_PORTS.get(scheme)) else f"{scheme}://{host}:{port}"


def _remedy(entry: str) -> str:
    if entry.lower() == "null":
        return "every sandboxed page and local file has the origin null, so it cannot be allowed"
    if not entry.isascii():
        return "write an international name in its ASCII form, such as 'https://xn--bcher-kva.example'"
    scheme, separator, rest = entry.partition("://")
    if "*" in entry:
        return "name each origin, or '*' alone for any page"
    if scheme.lower() in ("ws", "wss"):
        return f"a page's origin has the scheme of the page: '{scheme.lower().replace('ws', 'http')}://{rest}'"
    if separator and "/" in rest and "@" not in rest:
        return f"leave the path off: '{scheme}://{rest.partition('/')[0]}'"
    return "expected 'scheme://host' or 'scheme://host:port', such as 'https://app.example.com'"
