"""Where a client connects to: a URL (RFC 6455 section 3), or a Unix socket."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from urllib.parse import SplitResult, parse_qsl, quote, urlsplit

import anyio
from anyio.abc import ByteStream

from roomwire.core.errors import LocalError

__all__ = ["Endpoint"]

_PORTS = {"ws": 80, "wss": 443}
_OURS = frozenset({"client", "last_event_id", "state", "token"})
# What may stand unencoded in a path, and "%" since what is encoded already stays as it is.
_PATH = "/%:@!$&'()*+,;=~"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server's address.

    Attributes:
        url: for people: without its query, which may hold what is nobody's business.
        host: the name or address to dial, and to verify a certificate for.
        port: TCP port.
        tls: whether to speak TLS.
        target: path and query to request.
        host_header: the value of ``Host``.
        uds: the path of a Unix socket to dial in place of host and port.
    """

    url: str
    host: str
    port: int
    tls: bool
    target: str = field(repr=False)
    host_header: str
    uds: str | None = None

    @classmethod
    def parse(cls, url: str, uds: str | None = None) -> Endpoint:
        """Read ``ws://host[:port]/path`` or ``wss://...``.

        Raises:
            LocalError: it is no such URL, or holds what has its own place. The text does not repeat the URL.
        """
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            raise LocalError("the URL is not correct") from None
        _check(parts)
        if not host:
            raise LocalError("the URL names no host")
        if not host.isascii():
            try:
                host = host.encode("idna").decode()
            except UnicodeError:
                raise LocalError("the URL's host is no domain name") from None
        bracketed = f"[{host}]" if ":" in host else host
        netloc = bracketed if port is None or port == _PORTS[parts.scheme] else f"{bracketed}:{port}"
        path = quote(parts.path or "/", safe=_PATH)
        target = path + (f"?{quote(parts.query, safe=_PATH + '?')}" if parts.query else "")
        return cls(
            url=f"{parts.scheme}://{netloc}{path}",
            host=host,
            port=_PORTS[parts.scheme] if port is None else port,
            tls=parts.scheme == "wss",
            target=target,
            host_header=netloc,
            uds=uds,
        )

    async def dial(self, ssl_context: ssl.SSLContext | None) -> ByteStream:
        """Open a connection.

        Raises:
            OSError: it cannot be opened; TLS included.
        """
        if self.uds is None and self.tls:
            # Without close_notify a stream ends as an error would; WebSocket has a close of its own.
            return await anyio.connect_tcp(
                self.host, self.port, tls=True, ssl_context=ssl_context, tls_standard_compatible=False
            )
        if self.uds is None:
            return await anyio.connect_tcp(self.host, self.port)
        return await anyio.connect_unix(self.uds)


def _check(parts: SplitResult) -> None:
    if parts.scheme not in _PORTS:
        raise LocalError("the URL begins with ws:// or wss://")
    if parts.username is not None or parts.password is not None:
        raise LocalError("the URL holds a user or a password; pass a token instead")
    if parts.fragment:
        raise LocalError("the URL has a fragment")  # RFC 6455 section 3: MUST NOT
    ours = sorted(_OURS.intersection(name for name, _ in parse_qsl(parts.query, keep_blank_values=True)))
    if ours:
        raise LocalError(f"the URL's query has {', '.join(ours)}, which the client adds or sends otherwise")
