"""Whom to load and what to say: a server's address, the steps after the upgrade, the message and its mark.

Texts are templates with four fields: ``$index`` is the connection's number, ``$token`` its token, ``$stamp`` the
time of sending as 16 hex digits (monotonic nanoseconds), ``$pad`` fills a message up to its size; ``$$`` is a
dollar sign. A frame counts as a delivery where it has the marker, followed by the stamp of the message.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from string import Template

from roomwire.core.errors import LocalError, RoomwireError
from roomwire.core.frames import Opcode, build_masked_frame

__all__ = ["STAMP_DIGITS", "BenchFailed", "Expect", "Message", "Send", "Target", "fill", "masked"]

STAMP_DIGITS = 16

_FIELDS = frozenset({"index", "token", "stamp", "pad"})
# Stand for the fields that are filled later; no JSON text holds them.
_STAMP, _PAD = "\0", "\1"
# RFC 6455 section 5.3 wants it unpredictable for the sake of caches between a browser and a server; here are none.
_KEY = b"\x12\x9a\x56\xe3"


class BenchFailed(RoomwireError):
    """Nothing could be measured, or what was measured would be no figure."""


@dataclass(frozen=True, slots=True)
class Send:
    """A step: send this text, a template without ``$pad``."""

    text: str


@dataclass(frozen=True, slots=True)
class Expect:
    """A step: wait for a message that holds this text; others are passed over."""

    text: str


@dataclass(frozen=True, slots=True)
class Target:
    """A server, and how to talk to it.

    Attributes:
        host: name or address.
        port: TCP port.
        message: what publishers send, a template.
        path: path and query of the upgrade request, a template.
        steps: what each connection does after the upgrade. It is ready when it is through.
        marker: what a delivery holds right before the stamp.
        tokens: for ``$token``, one for each connection, beginning anew at their end.
        headers: further fields of the upgrade request.
        tls: how to verify the server, for ``wss``.
        pids: the server's processes, whose CPU time and memory are told; their descendants count too.
        answers: what is said to a message that is just this and no delivery: the heartbeats of a protocol above.
    """

    host: str
    port: int
    message: str
    path: str = "/"
    steps: tuple[Send | Expect, ...] = ()
    marker: bytes = b"@@"
    tokens: Sequence[str] = ()
    headers: tuple[tuple[str, str], ...] = ()
    tls: ssl.SSLContext | None = None
    pids: tuple[int, ...] = ()
    answers: Mapping[str, str] = field(default_factory=dict)

    def token_of(self, index: int) -> str:
        """The token of a connection; empty where there are none."""
        return self.tokens[index % len(self.tokens)] if self.tokens else ""


def fill(text: str, index: int, token: str, stamp: str = "", pad: str = "") -> str:
    """A template with its fields filled in.

    Raises:
        LocalError: it is no correct template, or has another field.
    """
    template = Template(text)
    if not template.is_valid() or not _FIELDS.issuperset(template.get_identifiers()):
        fields = ", ".join(f"${name}" for name in sorted(_FIELDS))
        raise LocalError(f"{text!r}: expected a text whose fields are {fields}; a dollar sign itself is $$")
    return template.substitute(index=index, token=token, stamp=stamp, pad=pad)


class Message:
    """One connection's message, ready but for the stamp.

    Args:
        text: a template.
        size: bytes of the whole message; a text without ``$pad``, or longer by itself, stays as it is.
        index: the connection's number.
        token: its token.
    """

    __slots__ = ("_pieces",)

    def __init__(self, text: str, size: int, index: int, token: str) -> None:
        filled = fill(text, index, token, _STAMP, _PAD)
        missing = size - len(filled.replace(_PAD, "").replace(_STAMP, "0" * STAMP_DIGITS).encode())
        pads = filled.count(_PAD)
        pad = "x" * (max(missing, 0) // pads) if pads else ""
        self._pieces = filled.replace(_PAD, pad).encode().split(_STAMP.encode())

    def payload(self, stamp: int) -> bytes:
        """The message with this time in it, nanoseconds."""
        return (b"%016x" % stamp).join(self._pieces)

    def frame(self, stamp: int) -> bytes:
        """The same as a client's frame."""
        return masked(Opcode.TEXT, self.payload(stamp))


def masked(opcode: Opcode, payload: bytes) -> bytes:
    """A client's frame."""
    return build_masked_frame(opcode, payload, _KEY)
