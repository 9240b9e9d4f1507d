"""Names in the store. The letter of a key is its schema; what is hostile in a name passes through `token`.

All keys of a room share its hash tag, and so does its channel: on a cluster they are on one server, and one script
may touch them all. Channels carry `VERSION`, a kind, and what belongs to it.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode
from hashlib import blake2b

from roomwire.backplanes.contract import token

__all__ = ["EPHEMERAL", "EVENT", "HINT", "KINDS", "PROBE", "TOLD", "VERSION", "Keys", "untoken"]

VERSION = b"\x01"
"""The schema of what channels carry."""
EVENT = b"\x01e"  # EPOCH|OFFSET|body; written by publish.lua
EPHEMERAL = b"\x01p"  # body
HINT = b"\x01c"  # written by the scripts of presence
TOLD = b"\x01t"  # body
PROBE = b"\x01?"
KINDS = frozenset((EVENT, EPHEMERAL, HINT, TOLD, PROBE))


def untoken(text: bytes) -> str:
    """The inverse of `token`."""
    return urlsafe_b64decode(text + b"=" * (-len(text) % 4)).decode()


def _digest(text: str) -> str:
    # Keys are of any length, and a hash of theirs is not.
    return blake2b(text.encode(), digest_size=16).hexdigest()


class Keys:
    """Makes the names.

    Args:
        prefix: in front of each, so that others may use the same store.
    """

    __slots__ = ("_prefix",)

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix

    def _key(self, kind: str, tag: str, rest: str = "") -> bytes:
        return f"{self._prefix}{kind}:{{{tag}}}{rest}".encode()

    def stream(self, room: str) -> tuple[bytes, bytes]:
        """Of a room's epoch and offset, and of its history."""
        tag = token(room)
        return self._key("m", tag), self._key("h", tag)

    def published(self, room: str, key: str) -> bytes:
        """Of the position of what was published under `key`."""
        return self._key("i", token(room), f":{_digest(key)}")

    def channel(self, room: str) -> bytes:
        """What a room's members are told through."""
        return self._key("c", token(room))

    def leases(self, room: str) -> tuple[bytes, bytes]:
        """Of who is in a room, and of the infos."""
        tag = token(room)
        return self._key("p", tag), self._key("q", tag)

    def index(self, user: str) -> bytes:
        """Of the rooms that a user is in."""
        return self._key("u", token(user))

    def slots(self, user: str) -> bytes:
        """Of a user's slots."""
        return self._key("s", token(user))

    def reply(self, key: str) -> bytes:
        """Of an idempotent message."""
        return self._key("r", _digest(key))

    def node(self, name: str) -> bytes:
        """The channel of one node."""
        return self._key("n", token(name))

    def nodes(self) -> bytes:
        """The channel of all nodes."""
        return self._key("n", "*")
