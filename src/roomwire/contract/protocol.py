"""The protocol's own messages (docs/reference/protocol.md sections 3 and 4), as JSON Schemas."""

from __future__ import annotations

from typing import Any

__all__ = ["ERROR", "FROM_CLIENT", "FROM_SERVER", "IN_STREAMS", "POSITION", "envelope", "status"]

Schema = dict[str, Any]

POSITION: Schema = {"type": "string", "pattern": "^[A-Za-z0-9]{1,24}:[0-9]{1,16}$", "description": "EPOCH:OFFSET"}
_TEXT: Schema = {"type": "string"}
_NUMBER: Schema = {"type": "number"}
_INTEGER: Schema = {"type": "integer"}
_ANY: Schema = {}
_CODES = (
    "invalid, unknown_event, unauthorized, forbidden, not_found, not_joined, rate_limited, too_many_rooms, conflict,"
    " unavailable, internal"
)


def _object(required: dict[str, Schema], optional: dict[str, Schema] | None = None) -> Schema:
    """Further fields may come: a client ignores those that it does not know."""
    return {"type": "object", "properties": {**required, **(optional or {})}, "required": list(required)}


def _by_room(schema: Schema) -> Schema:
    return {"type": "object", "additionalProperties": schema}


status = _object(
    {"recovered": {"type": ["boolean", "null"]}},
    {"position": {**POSITION, "type": ["string", "null"]}, "reason": _TEXT},
)
_MEMBER = _object({"user": _TEXT, "info": _ANY})
_MEMBERS = _object({"members": {"type": "array", "items": _MEMBER}})
_AT = _object({}, {"position": POSITION})
_ROOMS = _object({"rooms": _by_room(status)})

ERROR = _object(
    {
        "code": {"type": "string", "description": f"One of {_CODES}, or the application's own."},
        "message": {"type": "string", "description": "A text for people."},
    },
    {"details": _ANY},
)

FROM_CLIENT: dict[str, tuple[str, Schema | None, Schema | None, bool]] = {
    "room.join": (
        "Enter a room. The replay or a room.state follows the ack, then live events.",
        _object({}, {"since": POSITION, "state": {"const": True}}),
        status,
        True,
    ),
    "room.leave": ("Leave a room.", None, _ANY, True),
    "room.members": ("Who is in a room, over all nodes.", None, _MEMBERS, True),
    "session.rooms": (
        "The rooms of this connection.",
        None,
        _object({"rooms": _by_room(_AT)}),
        False,
    ),
    "session.resume": (
        "Resume rooms after last_event_id=later.",
        _object({"rooms": _by_room(POSITION)}),
        _ROOMS,
        False,
    ),
    "presence.heartbeat": ("A sign of life: the answer to each heartbeat.", None, None, False),
}
"""By event: what it is for, its data, that of its ack (None: it asks for none), and whether it concerns a room."""

FROM_SERVER: dict[str, tuple[str, Schema, str | None, str | None]] = {
    "session.welcome": (
        "Always the first message.",
        _object(
            {
                "session": _TEXT,
                "client": _TEXT,
                "user": _TEXT,
                "heartbeat": _object({"interval": _NUMBER, "timeout": _NUMBER}),
                "limits": _object(
                    {"max_message_size": _INTEGER, "max_event_size": _INTEGER, "idempotency_window": _NUMBER}
                ),
                "rooms": _by_room(status),
            }
        ),
        None,
        None,
    ),
    "error": ("A message was refused; with the message's id, where it had one.", ERROR, None, "optional"),
    "room.state": (
        "A full refresh: a replay could not be proven, or it was asked for.",
        _object({"reason": _TEXT, "state": _ANY}),
        "room",
        "position",
    ),
    "room.joined": ("The server put this client into the room.", status, "room", None),
    "room.removed": ("The server took it out.", _object({"reason": _TEXT}), "room", None),
    "presence.state": ("All who are in the room; replaces what was known.", _MEMBERS, "room", None),
    "presence.join": ("A user's first connection came into the room.", _MEMBER, "room", None),
    "presence.leave": ("A user's last connection left it.", _MEMBER, "room", None),
    "heartbeat": (
        "Answer it with presence.heartbeat. Take the positions over.",
        _object({}, {"positions": _by_room(POSITION)}),
        None,
        None,
    ),
    "session.closing": (
        "The last message before a close that the server begins.",
        _object(
            {"code": _INTEGER, "reason": _TEXT, "reconnect": {"type": "boolean"}},
            {"retry_after": _NUMBER, "positions": _by_room(POSITION)},
        ),
        None,
        None,
    ),
}
"""By event: what it means, its data, whether it has a room, and its id: None, ``optional`` or ``position``."""

IN_STREAMS = (
    "session.welcome",
    "room.state",
    "room.removed",
    "presence.state",
    "presence.join",
    "presence.leave",
    "heartbeat",
    "session.closing",
)
"""Those of `FROM_SERVER` that an event stream has (section 8)."""


def envelope(
    event: str,
    data: Schema | None,
    *,
    room: Schema | None = None,
    needs_room: bool = True,
    id: Schema | None = None,
    needs_id: bool = False,
    user: bool = False,
) -> Schema:
    """The JSON object of a text frame (section 2.1); with `data` None, one without data."""
    properties: Schema = {"event": {"type": "string", "const": event}}
    required = ["event"]
    for name, schema, needed in (("room", room, needs_room), ("id", id, needs_id), ("data", data, True)):
        if schema is not None:
            properties[name] = schema
            required += [name] if needed else []
    if user:
        properties["user"] = {"type": "string", "description": "Who published it, where a user did."}
    return {"type": "object", "properties": properties, "required": required}
