"""Keys of idempotent messages, and their replies as they are remembered.

The scope is (user, client, id). Names are the client's and hostile, so a key is a hash over their
lengths and bytes: no choice of names can make two scopes meet.
"""

from __future__ import annotations

import json
from hashlib import blake2b

from roomwire.core.commands import Call
from roomwire.core.envelope import dump
from roomwire.core.errors import RemoteError
from roomwire.core.notices import Failed, Reply

__all__ = ["NOT_REMEMBERED", "fingerprint", "message_key", "publish_key", "read_reply", "write_reply"]

NOT_REMEMBERED = frozenset({"unavailable", "rate_limited", "internal"})
"""Failures that may be tried again with the same id."""

_SIZE = 16


def _digest(*parts: bytes) -> str:
    digest = blake2b(digest_size=_SIZE)
    for part in parts:
        digest.update(len(part).to_bytes(4, "big"))
        digest.update(part)
    return digest.hexdigest()


def message_key(user: str, client: str, ref: str) -> str:
    """The key of a message."""
    return _digest(user.encode(), client.encode(), ref.encode())


def publish_key(message: str, room: str, number: int) -> str:
    """The key of the `number`-th publish to `room` while the message of that key is handled."""
    return _digest(message.encode(), room.encode(), number.to_bytes(4, "big"))


def fingerprint(call: Call) -> str:
    """What makes a second message with the same id the same message: event, room and data."""
    data = call.data if isinstance(call.data, bytes) else call.data.encode()
    return _digest(call.event.encode(), (call.room or "").encode(), data)


def write_reply(notice: Reply | Failed) -> bytes:
    """A reply as it is remembered; without its ref, which the second copy has."""
    if isinstance(notice, Reply):
        return b"+" + notice.data
    return b"-" + dump([notice.code, notice.message, notice.details])


def read_reply(value: bytes, ref: str) -> Reply | Failed:
    """The inverse of `write_reply`.

    Raises:
        RemoteError: the value has another form.
    """
    if value[:1] == b"+":
        return Reply(ref, value[1:])
    try:
        code, message, details = json.loads(value[1:])
    except (ValueError, TypeError):
        raise RemoteError("a remembered reply cannot be read") from None
    return Failed(ref, str(code), str(message), details)
