"""How one asks for a WebSocket or an event stream (docs/reference/protocol.md sections 1 and 8), as AsyncAPI has it."""

from __future__ import annotations

from typing import Any

__all__ = ["SOCKET", "STREAM"]

Schema = dict[str, Any]

_CLIENT: Schema = {
    "type": "string",
    "pattern": "^[A-Za-z0-9_-]{8,64}$",
    "description": "An id that one client keeps over its reconnects.",
}

SOCKET: Schema = {
    "method": "GET",
    "query": {
        "type": "object",
        "properties": {
            "client": _CLIENT,
            "last_event_id": {
                "type": "string",
                "description": "The cursor: ROOM@EPOCH:OFFSET, each ROOM percent-encoded, joined by commas; or later.",
            },
            "state": {"const": "1", "description": "Asks for a room.state of the rooms that are joined at once."},
        },
    },
    "bindingVersion": "0.1.0",
}
"""A channel's, of ``ws``."""

STREAM: Schema = {
    "method": "GET",
    "query": {
        "type": "object",
        "properties": {
            "room": {"type": "string", "minLength": 1, "maxLength": 128},
            "client": _CLIENT,
            "last_event_id": {
                "type": "string",
                "description": "EPOCH:OFFSET, where there is no Last-Event-ID, which goes before it.",
            },
            "state": {"const": "1", "description": "Asks for a room.state where there is no position."},
        },
        "required": ["room"],
    },
    "bindingVersion": "0.3.0",
}
"""An operation's, of ``http``."""
