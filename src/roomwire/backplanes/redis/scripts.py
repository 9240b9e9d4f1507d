"""The Lua scripts, each read with the functions that it shares with others in front of it.

They run on Redis 6.2 and later: no ``#!lua`` line, which 6.2 does not know. A write that may be refused for want
of memory comes first in each, so that nothing is half-done.
"""

from __future__ import annotations

from functools import cache
from hashlib import sha1
from importlib.resources import files
from typing import NamedTuple

__all__ = [
    "CLAIM",
    "ENTER",
    "FORGET",
    "HISTORY",
    "INDEX",
    "INDEXED",
    "LEAVE",
    "MEMBERS",
    "POSITIONS",
    "PUBLISH",
    "REFRESH_MEMBERS",
    "REFRESH_SLOTS",
    "RELEASE",
    "RENEW",
    "RESERVE",
    "Script",
]


class Script(NamedTuple):
    """A script and the name by which a server that has seen it knows it."""

    source: bytes
    sha: bytes


@cache
def _read(name: str) -> bytes:
    return files(__package__).joinpath("lua", f"{name}.lua").read_bytes()


def _script(name: str, shared: str = "") -> Script:
    source = (_read(shared) if shared else b"") + _read(name)
    return Script(source, sha1(source, usedforsecurity=False).hexdigest().encode())  # Redis names scripts so


PUBLISH = _script("publish", "_life")
POSITIONS = _script("positions", "_life")
HISTORY = _script("history", "_life")
MEMBERS = _script("members", "_life")
ENTER = _script("enter", "_leases")
LEAVE = _script("leave", "_leases")
REFRESH_MEMBERS = _script("refresh_members", "_leases")
INDEX = _script("index", "_leases")
INDEXED = _script("indexed", "_leases")
CLAIM = _script("claim", "_slots")
RELEASE = _script("release", "_slots")
REFRESH_SLOTS = _script("refresh_slots", "_slots")
RESERVE = _script("reserve")
RENEW = _script("renew")
FORGET = _script("forget")
