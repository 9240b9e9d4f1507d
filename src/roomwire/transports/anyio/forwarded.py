"""Where a request really came from, when a trusted proxy says so."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from roomwire.core.errors import ConfigError
from roomwire.core.request import RequestHead

__all__ = ["Proxies"]


class Proxies:
    """The proxies whose ``X-Forwarded-For`` and ``X-Forwarded-Proto`` are believed.

    Args:
        trusted: addresses, networks such as ``"10.0.0.0/8"``, or ``"*"`` for any peer.

    Raises:
        ConfigError: an entry is none of these.
    """

    __slots__ = ("_any", "_networks")

    def __init__(self, trusted: Iterable[str]) -> None:
        entries = tuple(trusted)
        self._any = "*" in entries
        try:
            self._networks = [ipaddress.ip_network(entry) for entry in entries if entry != "*"]
        except ValueError as error:
            raise ConfigError(
                f"server.forwarded_allow_ips: expected IP addresses, networks such as 10.0.0.0/8, or '*': {error}"
            ) from None

    def trust(self, host: str) -> bool:
        """Whether a peer is one of them; who may open our Unix socket (an empty host) is."""
        if not host or self._any:
            return True
        address = _address_of(host)
        return address is not None and any(address in network for network in self._networks)

    def client_of(self, head: RequestHead) -> tuple[str, bool]:
        """The client's address, and whether it spoke TLS with the proxy.

        Each proxy appends whom it saw, so the list is read from the right, and the first address that is no
        proxy of ours is the client; what stands left of it, or of anything that is no address, anybody can
        have written. Where every hop is trusted it is the leftmost one.

        Args:
            head: a request from a trusted proxy.

        Returns:
            The address, empty where none is named; and whether the last ``X-Forwarded-Proto`` is of TLS.
        """
        client = ""
        for hop in reversed(head.header_items(b"x-forwarded-for")):
            address = _address_of(hop)
            if address is None:
                break
            client = str(address)
            if not self.trust(client):
                break
        protocols = head.header_items(b"x-forwarded-proto")
        return client, bool(protocols) and protocols[-1].lower() in ("https", "wss")


def _address_of(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """An address; some proxies add the port: ``192.0.2.1:443``, ``[2001:db8::1]:443``."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
