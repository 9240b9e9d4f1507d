"""Peers: where a socket comes from, for logs, for trust and for limits by address."""

from __future__ import annotations

import ipaddress
import socket
from typing import NamedTuple

__all__ = ["Peer", "group_of", "peer_of"]


class Peer(NamedTuple):
    """The other end of a socket.

    Attributes:
        name: for logs, such as ``"127.0.0.1:51324"``.
        host: its address without the port; empty for a Unix socket, ``"?"`` where it is not known.
        group: what a limit by address counts by; empty where it counts by nothing.
    """

    name: str
    host: str
    group: str


_UNIX = Peer("unix", "", "")
_UNKNOWN = Peer("?", "?", "?")


def peer_of(family: int, name: object) -> Peer:
    """From a socket's family and its ``getpeername()``; a peer that is gone already has no name."""
    if family == socket.AF_UNIX:
        return _UNIX
    if not isinstance(name, tuple) or len(name) < 2:
        return _UNKNOWN
    host, port = name[0], name[1]
    if ":" not in host:
        return Peer(f"{host}:{port}", host, host)
    host = host.partition("%")[0]
    # A socket for both families shows an IPv4 peer as ::ffff:192.0.2.1.
    mapped = ipaddress.IPv6Address(host).ipv4_mapped
    if mapped is not None:
        return Peer(f"{mapped}:{port}", str(mapped), str(mapped))
    return Peer(f"[{host}]:{port}", host, group_of(host))


def group_of(host: str) -> str:
    """What a limit by address counts by: one IPv4 address; of IPv6 a /64, which is what one customer gets."""
    if ":" not in host:
        return host
    return str(ipaddress.IPv6Network((host, 64), strict=False).network_address)
