"""The wire protocol contract: commands in, notices out, pure.

A `WireProtocol` is one immutable object of a node; a `Codec` belongs to one session and may keep
state (partial packets, numbering). Neither awaits, reads a clock or touches a socket. A message
is `str` for a text frame and `bytes` for a binary one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from roomwire.core.commands import Command
from roomwire.core.notices import Notice
from roomwire.core.publication import Publication

__all__ = ["Codec", "Liveness", "Message", "WireProtocol"]

Message = str | bytes
"""A whole message: `str` goes into a text frame, `bytes` into a binary one."""


@dataclass(frozen=True, slots=True)
class Liveness:
    """How a wire protocol finds a dead peer; data, not code.

    Attributes:
        beats: whether the codec has a message for `Beat`, sent every ``limits.heartbeat_interval``.
        any_traffic: whether any frame counts as a sign of life, pongs included.
        hears: whether a client can say anything. One that cannot is read-only: its silence says nothing, a
            dead one is found by what it does not take, and it is in the room of its request and no other.
    """

    beats: bool = True
    any_traffic: bool = True
    hears: bool = True


class Codec(Protocol):
    """One session's view of a wire protocol."""

    def receive(self, message: Message) -> Sequence[Command]:
        """The commands in a message, 0 to n of them; what is malformed becomes `Invalid`."""
        ...

    def send(self, notice: Notice) -> Sequence[Message]:
        """The messages that tell `notice`, 0 to n of them, to be sent side by side."""
        ...


class WireProtocol(Protocol):
    """What is negotiated in the handshake. Constructed without arguments."""

    @property
    def name(self) -> str:
        """Its subprotocol, such as ``"roomwire.v1"``; also the key of shared encodings."""
        ...

    @property
    def liveness(self) -> Liveness:
        """How a dead peer is found."""
        ...

    def new_codec(self) -> Codec:
        """A codec for a new session."""
        ...

    def broadcast(self, publication: Publication) -> Message:
        """The message for every member: pure, made once and shared by all sessions."""
        ...
