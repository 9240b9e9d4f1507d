"""Keys of idempotent messages, and their replies as they are remembered.

The scope is (user, client, id). Names are the client's and hostile, so a key is a hash over their
lengths and bytes, and over what it is a key of: no choice of names can make two keys meet.
"""

from __future__ import annotations

from hashlib import blake2b

from pydantic_core import from_json

from roomwire.core.commands import Call
from roomwire.core.envelope import dump
from roomwire.core.errors import RemoteError
from roomwire.core.notices import Failed, Reply

__all__ = ["NOT_REMEMBERED", "fingerprint", "message_key", "publish_key", "read_reply", "write_reply"]

NOT_REMEMBERED = frozenset({"unavailable", "rate_limited", "internal"})
"""Failures that may be tried again with the same id."""

_SIZE = 16
"""Bytes of a digest: two of 2**40 keys are the same with a chance of one in 2**49."""


# A hash is begun once for what it is a key of, and copied: its parameters take as long as a short text.
_MESSAGE, _PUBLISH, _JSON, _BYTES = (
    blake2b(digest_size=_SIZE, person=kind) for kind in (b"message", b"publish", b"json", b"bytes")
)


def _digest(begun: blake2b, text: bytes) -> str:
    digest = begun.copy()
    digest.update(text)
    return digest.hexdigest()


def message_key(user: str, client: str, ref: str) -> str:
    """The key of a message."""
    return _digest(_MESSAGE, f"{len(user)} {len(client)} {user}{client}{ref}".encode())


def publish_key(message: str, room: str, number: int) -> str:
    """The key of the `number`-th publish to `room` while the message of that key is handled."""
    return _digest(_PUBLISH, f"{len(message)} {number} {message}{room}".encode())


def fingerprint(call: Call) -> str:
    """What makes a second message with the same id the same message: event, room, and data as it was sent."""
    room = call.room or ""  # no room has an empty name
    head = f"{len(call.event)} {len(room)} {call.event}{room}"
    if isinstance(call.data, bytes):
        return _digest(_BYTES, head.encode() + call.data)
    return _digest(_JSON, (head + call.data).encode())


def write_reply(notice: Reply | Failed) -> bytes:
    """A reply as it is remembered; without its ref, which the second copy has.

    Raises:
        ValueError: a failure's details are not JSON.
    """
    if isinstance(notice, Reply):
        return b"+" + notice.data
    return b"-" + dump([notice.code, notice.message, notice.details])


def read_reply(value: bytes, ref: str) -> Reply | Failed:
    """The inverse of `write_reply`.

    Raises:
        RemoteError: the value has another form.
    """
    kind, text = value[:1], value[1:]
    try:
        content = from_json(text, allow_inf_nan=False)
    except ValueError:
        content = None
        kind = b""
    if kind == b"+":
        return Reply(ref, text)
    if kind == b"-" and isinstance(content, list) and len(content) == 3:
        code, message, details = content
        if isinstance(code, str) and isinstance(message, str):
            return Failed(ref, code, message, details)
    raise RemoteError("a remembered reply cannot be read")
