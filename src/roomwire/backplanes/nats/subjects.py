"""The names of subjects, streams, buckets and keys. What comes from the application is a `token` in them.

PREFIX.in.SIZExMILLISECONDS.PARTITION.ROOM    what is stored; JetStream alone listens there
PREFIX.live.ROOM                              what was stored, and ephemeral events, and hints
PREFIX.tell.all, PREFIX.tell.to.NODE          control messages
$KV.PREFIX_leases.p.ROOM.USER.CLIENT          presence
$KV.PREFIX_leases.s.USER                      the slots of a user
$KV.PREFIX_leases.n.NODE                      the policies of a node
$KV.PREFIX_replies.r.HASH, .k.HASH            replies of idempotent messages, keys of publications
"""

from __future__ import annotations

import hashlib
from base64 import urlsafe_b64encode
from zlib import crc32

from roomwire.backplanes.contract import HistoryPolicy, token

__all__ = ["Subjects", "digest", "policy_name"]


def digest(*parts: str) -> str:
    """A name of fixed length for names of any; different parts never join into the same."""
    hashed = hashlib.sha256()
    for part in parts:
        raw = part.encode()
        hashed.update(b"%d:" % len(raw))
        hashed.update(raw)
    return urlsafe_b64encode(hashed.digest()).rstrip(b"=").decode()


def policy_name(policy: HistoryPolicy) -> str:
    """A policy as one token."""
    return f"{policy.size}x{round(policy.ttl * 1000)}"


class Subjects:
    """The names of one application."""

    def __init__(self, prefix: str, partitions: int, domain: str | None) -> None:
        self.prefix = prefix
        self.partitions = partitions
        self.api = "$JS.API" if domain is None else f"$JS.{domain}.API"
        self.leases = f"{prefix}_leases"
        self.replies = f"{prefix}_replies"
        self.tell_all = f"{prefix}.tell.all"

    def partition(self, room: str) -> int:
        """Which of a policy's streams has the room."""
        return crc32(room.encode()) % self.partitions

    def stream(self, policy: HistoryPolicy, partition: int) -> str:
        """The name of a stream."""
        return f"{self.prefix}_{policy_name(policy)}_{partition}"

    def stored(self, policy: HistoryPolicy, partition: int, room: str | None = None) -> str:
        """Where a room's events are published to be stored; without a room, all of a stream."""
        last = "*" if room is None else token(room)
        return f"{self.prefix}.in.{policy_name(policy)}.{partition}.{last}"

    def live(self, room: str) -> str:
        """Where a room's events are heard."""
        return f"{self.prefix}.live.{token(room)}"

    @property
    def republished(self) -> str:
        """Where JetStream sends what it stored."""
        return f"{self.prefix}.live.{{{{wildcard(1)}}}}"

    def tell(self, node: str) -> str:
        """Where one node hears control messages."""
        return f"{self.prefix}.tell.to.{token(node)}"

    def member(self, room: str, user: str, client: str) -> str:
        """The key of a presence lease."""
        return f"p.{token(room)}.{token(user)}.{token(client)}"

    def members(self, room: str) -> str:
        """The keys of a room's leases."""
        return f"p.{token(room)}.>"

    def rooms_of(self, user: str) -> str:
        """The keys of a user's leases in any room."""
        return f"p.*.{token(user)}.*"

    def slots(self, user: str) -> str:
        """The key of a user's slots."""
        return f"s.{token(user)}"

    nodes = "n.*"
    """The keys of all nodes."""

    def node(self, name: str) -> str:
        """The key of a node's policies."""
        return f"n.{token(name)}"
