"""Peers: where a socket comes from, for logs and for limits by address."""

from __future__ import annotations

import ipaddress

__all__ = ["peer_of"]


def peer_of(name: object) -> tuple[str, str]:
    """The peer for logs, and the address that a limit counts by: IPv6 by its /64, Unix sockets not at all."""
    if not isinstance(name, tuple) or len(name) < 2:
        return "unix", ""
    host, port = str(name[0]), name[1]
    if ":" not in host:
        return f"{host}:{port}", host
    try:
        address = ipaddress.IPv6Address(host.partition("%")[0])
    except ValueError:
        return f"[{host}]:{port}", host
    if address.ipv4_mapped is not None:
        return f"{address.ipv4_mapped}:{port}", str(address.ipv4_mapped)
    return f"[{host}]:{port}", str(ipaddress.IPv6Network((address, 64), strict=False).network_address)
