"""Where a request really came from, when a trusted proxy says so."""

from __future__ import annotations

from collections.abc import Collection

from roomwire.core.request import RequestHead

__all__ = ["forwarded_peer"]


def forwarded_peer(head: RequestHead, trusted: Collection[str]) -> tuple[str, bool]:
    """The client's address, and whether it spoke TLS with the proxy.

    ``X-Forwarded-For`` is read from the right: each proxy appends whom it saw, so the last address
    that is not a proxy of ours is the client; what stands left of it anybody can have written.

    Args:
        head: the request, from a trusted proxy.
        trusted: addresses of our proxies; ``*`` trusts all.
    """
    hops = head.header_items(b"x-forwarded-for")
    peer = next((hop for hop in reversed(hops) if hop not in trusted), hops[0] if hops else "")
    if "*" in trusted and hops:
        peer = hops[0]
    protocols = head.header_items(b"x-forwarded-proto")
    return peer, bool(protocols) and protocols[-1].lower() in ("https", "wss")
