"""A published event, and its body as it travels over a backplane.

    body = version (1 byte) | header length (2 bytes, big-endian) | header | payload

The header is a JSON object with a fixed schema, the payload raw JSON or a binary event's bytes.
A body that does not fit the schema is dropped by whoever reads it, never guessed at: whatever was
read can be written to every client. Only that a payload is JSON, and not just UTF-8, is its writer's
word; to prove it for each event again on each node would cost more than its delivery.

    key   value
    e     the event's name
    u     who published it; left out where no user did
    x     the client id that does not get it; left out where everybody does
    o     the user whose client that is; left out where it is any user's
    b     true for a binary event; left out for JSON
"""

from __future__ import annotations

from typing import Any

from pydantic_core import from_json

from roomwire.core.envelope import dump, quote
from roomwire.core.errors import EventTooLarge, LocalError, RemoteError
from roomwire.core.events import check_event_name, is_event_name, is_reserved
from roomwire.core.identity import is_client_id, is_user
from roomwire.core.positions import Position, check_room_name
from roomwire.core.schema import EventSchema, write_event

__all__ = ["BODY_VERSION", "InvalidBody", "Publication", "compose", "read_body", "write_body"]

BODY_VERSION = 1
_HEAD = 3
_ENVELOPE = 85
"""Bytes of an event's envelope besides names and data: braces, keys, quotes, and the longest event id, which has 41."""
_KEYS = frozenset("euxob")


class InvalidBody(RemoteError):
    """A body from the backplane has an unknown version or another schema."""


class Publication:
    """An event with its position.

    Attributes:
        room: the room's name.
        event: the event's name.
        data: raw JSON, or the payload of a binary event.
        binary: which of the two.
        user: who published it, if a user did.
        exclude: the client id that does not get it, if any.
        exclude_user: the user whose client that is; None where it is any user's.
        position: where it stands in the room's stream; None for an ephemeral event.
    """

    __slots__ = ("binary", "data", "event", "exclude", "exclude_user", "position", "room", "user")

    def __init__(
        self,
        room: str,
        event: str,
        data: bytes,
        *,
        binary: bool = False,
        user: str | None = None,
        exclude: str | None = None,
        exclude_user: str | None = None,
        position: Position | None = None,
    ) -> None:
        self.room = room
        self.event = event
        self.data = data
        self.binary = binary
        self.user = user
        self.exclude = exclude
        self.exclude_user = exclude_user
        self.position = position

    @property
    def id(self) -> str | None:
        """The event id, ``EPOCH:OFFSET``; None for an ephemeral event."""
        return None if self.position is None else str(self.position)

    def excludes(self, user: str, client: str) -> bool:
        """Whether a user's client does not get it."""
        return self.exclude == client and self.exclude_user in (None, user)


def compose(
    room: str,
    event: str | EventSchema[Any],
    data: object,
    *,
    max_size: int,
    user: str | None = None,
    exclude: str | None = None,
    exclude_user: str | None = None,
) -> tuple[Publication, bytes]:
    """An event that is about to be published, still without a position, and its body.

    Args:
        room: its name.
        event: its name, or its declaration, to which the data is held.
        data: `bytes` for a binary event, else whatever pydantic can serialise.
        max_size: bytes of the event as a client gets it (``limits.max_event_size``).
        user: who publishes it; trusted to be a user's id.
        exclude, exclude_user: see `Publication`; the latter means nothing without the former.

    Raises:
        LocalError: the room, the event or the excluded client has no correct name, or the event is declared for
            other rooms; `InvalidData`; `EventTooLarge`.
        ValueError: the data cannot be serialised.
    """
    if isinstance(event, str):
        # What `write_event` does, without the call: for most events there is no declaration.
        check_event_name(event)
        check_room_name(room)
        binary = isinstance(data, bytes)
        payload = data if isinstance(data, bytes) else dump(data)
    else:
        event, payload, binary = write_event(event, room, data)
    if exclude is None:
        exclude_user = None
    elif not is_client_id(exclude):
        raise LocalError(f"{exclude!r} is no client's id, so that it excludes nobody")
    size = len(payload) + len(event) + len(quote(room)) + len(quote(user or "")) + _ENVELOPE
    if size > max_size:
        raise EventTooLarge(f"{event} is {size} bytes; limits.max_event_size is {max_size}: send less, or raise it")
    body = write_body(event, payload, binary=binary, user=user, exclude=exclude, exclude_user=exclude_user)
    publication = Publication(
        room, event, payload, binary=binary, user=user, exclude=exclude, exclude_user=exclude_user
    )
    return publication, body


def write_body(
    event: str,
    data: bytes,
    *,
    binary: bool = False,
    user: str | None = None,
    exclude: str | None = None,
    exclude_user: str | None = None,
) -> bytes:
    """What travels over the backplane. The names are trusted to be correct, and `data` to be JSON unless `binary`."""
    header: dict[str, object] = {"e": event}
    if user is not None:
        header["u"] = user
    if exclude is not None:
        header["x"] = exclude
        if exclude_user is not None:
            header["o"] = exclude_user
    if binary:
        header["b"] = True
    encoded = dump(header)
    return b"".join((bytes((BODY_VERSION,)), len(encoded).to_bytes(2, "big"), encoded, data))


def read_body(room: str, body: bytes, position: Position | None) -> Publication:
    """The inverse of `write_body`.

    Raises:
        InvalidBody: an unknown version, or another schema.
    """
    if len(body) < _HEAD or body[0] != BODY_VERSION:
        raise InvalidBody(f"a body of version {body[0] if body else 'none'}; this node knows {BODY_VERSION}")
    end = _HEAD + int.from_bytes(body[1:_HEAD], "big")
    try:
        header: Any = from_json(body[_HEAD:end], allow_inf_nan=False)
    except ValueError:
        raise InvalidBody("a body without a readable header") from None
    if end > len(body) or not isinstance(header, dict) or not _fits(header):
        raise InvalidBody("a body whose header has another schema")
    data, binary = body[end:], header.get("b", False)
    if not binary:
        try:
            data.decode()
        except UnicodeDecodeError:
            raise InvalidBody("a body whose payload is not UTF-8") from None
    return Publication(
        room,
        header["e"],
        data,
        binary=binary,
        user=header.get("u"),
        exclude=header.get("x"),
        exclude_user=header.get("o"),
        position=position,
    )


def _fits(header: dict[str, Any]) -> bool:
    event, user, exclude, owner = header.get("e"), header.get("u"), header.get("x"), header.get("o")
    return (
        header.keys() <= _KEYS
        and isinstance(event, str)
        and is_event_name(event)
        and not is_reserved(event)
        and (user is None or is_user(user))
        and isinstance(exclude, str | None)
        and (owner is None or (exclude is not None and is_user(owner)))
        and isinstance(header.get("b", False), bool)
    )
