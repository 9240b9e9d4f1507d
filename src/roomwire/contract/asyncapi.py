"""An AsyncAPI 3.0 document, as seen from the server: it receives what clients send, and sends what they get.

There is one WebSocket, whose channel is ``connection``. A room is a channel within it, whose address is the pattern
of its names; each message says its room itself. An operation's name says who does it.
"""

from __future__ import annotations

import re
from typing import Any

from roomwire.contract.model import Contract, Message, RoomKind
from roomwire.contract.protocol import FROM_CLIENT, FROM_SERVER, POSITION, envelope
from roomwire.contract.schemas import Schemas, draft_7

__all__ = ["asyncapi"]

Schema = dict[str, Any]

_ID: Schema = {"type": "string", "minLength": 1, "maxLength": 64, "description": "Asks for a reply, which bears it."}
_ROOM: Schema = {"type": "string", "minLength": 1, "maxLength": 128}
_CORRELATION = {"correlationId": {"location": "$message.payload#/id"}}
_BINARY = (
    "A binary frame: 4 bytes, big-endian, the length of the JSON object that follows, without data; then the payload."
)


def asyncapi(contract: Contract, *, info: Schema, servers: Schema, security: Schema, path: str) -> Schema:
    """The document.

    Args:
        contract: what the application declares.
        info: title, version and description.
        servers: by name, as AsyncAPI has them, without their security.
        security: security schemes by name.
        path: that of the WebSocket.
    """
    return _Writer(contract, path).document(info, servers, security)


class _Writer:
    def __init__(self, contract: Contract, path: str) -> None:
        self._contract = contract
        wanted: list[tuple[Any, Any]] = []
        for message in contract.messages:
            if not message.binary:
                wanted.append((message.data, "validation" if message.to_server else "serialization"))
            if message.to_server:
                wanted.append((message.ack, "serialization"))
        wanted += [(room.state, "serialization") for room in contract.rooms if room.has_state]
        self._schemas = Schemas(wanted)
        self._messages: Schema = {}
        self._operations: Schema = {}
        self._channels: Schema = {
            "connection": {
                "address": path,
                "title": "The connection",
                "description": "The WebSocket, subprotocol roomwire.v1. Rooms are channels within it.",
                "messages": {},
                "bindings": {"ws": _BINDING},
            }
        }

    def document(self, info: Schema, servers: Schema, security: Schema) -> Schema:
        for room in self._contract.rooms:
            self._channels[self._room_key(room)] = self._room_channel(room)
        self._protocol()
        for message in self._contract.messages:
            self._declared(message)
        for room in self._contract.rooms:
            if room.has_state:
                self._state(room)
        needed = [{"$ref": f"#/components/securitySchemes/{name}"} for name in security]
        components = {
            "schemas": draft_7(self._schemas.definitions),
            "messages": dict(sorted(self._messages.items())),
            "securitySchemes": security,
        }
        return {
            "asyncapi": "3.0.0",
            "info": info,
            "defaultContentType": "application/json",
            "servers": {
                name: {**server, **({"security": needed} if needed else {})} for name, server in servers.items()
            },
            "channels": self._channels,
            "operations": dict(sorted(self._operations.items())),
            "components": {name: part for name, part in components.items() if part},
        }

    # --- channels

    def _room_key(self, room: RoomKind) -> str:
        return "room." + _key(room.pattern.text)

    def _room_channel(self, room: RoomKind) -> Schema:
        names: list[str] = []

        def parameter(found: re.Match[str]) -> str:
            names.append(found[0][1:-1] or f"part{len(names) + 1}")
            return f"{{{names[-1]}}}"

        address = re.sub(r"\{\w+\}|\*", parameter, room.pattern.text)
        channel: Schema = {"address": address, "title": f"Rooms {room.pattern.text}", "messages": {}}
        if names:
            text = "One or more characters, none of them a colon."
            channel["parameters"] = {name: {"description": text} for name in names}
        return channel

    def _add(self, channel: str, key: str, message: Schema) -> Schema:
        """Put a message into a channel; the reference by which an operation names it."""
        self._messages.setdefault(key, message)
        self._channels[channel]["messages"][key] = {"$ref": f"#/components/messages/{key}"}
        return {"$ref": f"#/channels/{channel}/messages/{key}"}

    def _operation(self, action: str, channel: str, key: str, message: Schema, reply: list[Schema] | None) -> None:
        operation: Schema = {
            "action": action,
            "channel": {"$ref": f"#/channels/{channel}"},
            "messages": [self._add(channel, key, message)],
        }
        if "summary" in message:
            operation["summary"] = message["summary"]
        if reply:
            operation["reply"] = {"channel": {"$ref": "#/channels/connection"}, "messages": reply}
        self._operations[f"{'receive' if action == 'receive' else 'send'}.{key}"] = operation

    # --- messages

    def _protocol(self) -> None:
        for event, (text, data, room, id_) in FROM_SERVER.items():
            schema = {"optional": _ID, "position": POSITION}.get(id_ or "")
            payload = envelope(event, data, room=_ROOM if room else None, id=schema, needs_id=id_ == "position")
            self._operation("send", "connection", event, _message(event, payload, text, reply=event == "error"), None)
        for event, (text, given, ack, needs_room) in FROM_CLIENT.items():
            payload = envelope(event, given, room=_ROOM if needs_room else None, id=_ID, needs_id=event == "room.join")
            replies = None if ack is None else self._replies(event, ack)
            self._operation("receive", "connection", event, _message(event, payload, text, reply=True), replies)

    def _replies(self, key: str, ack: Schema) -> list[Schema]:
        payload = envelope("ack", ack, id=_ID, needs_id=True)
        acked = self._add("connection", f"{key}.ack", _message("ack", payload, f"The reply to {key}.", reply=True))
        return [acked, {"$ref": "#/channels/connection/messages/error"}]

    def _declared(self, message: Message) -> None:
        key = _key(message.event) if message.pattern is None else f"{_key(message.event)}.{_key(message.pattern.text)}"
        key = key if self._is_ambiguous(message) else _key(message.event)
        key = f"client.{key}" if message.to_server else f"server.{key}"
        mode: Any = "validation" if message.to_server else "serialization"
        data = None if message.binary else self._schema(message.data, mode)
        in_room = message.pattern is not None
        payload = envelope(
            message.event,
            data,
            room=_ROOM,
            needs_room=in_room,
            id=_ID if message.to_server else {**POSITION, "description": "The event id; ephemeral events have none."},
            user=not message.to_server,
        )
        if message.to_server and message.data is None:
            payload["required"].remove("data")
        written = _message(message.event, payload, message.text, reply=message.to_server, binary=message.binary)
        channel = "connection"
        if message.pattern is not None:
            channel = next(
                self._room_key(room) for room in self._contract.rooms if _same(room.pattern.text, message.pattern.text)
            )
        replies = self._replies(key, self._schema(message.ack, "serialization")) if message.to_server else None
        self._operation("receive" if message.to_server else "send", channel, key, written, replies)

    def _is_ambiguous(self, message: Message) -> bool:
        return sum((m.event, m.to_server) == (message.event, message.to_server) for m in self._contract.messages) > 1

    def _state(self, room: RoomKind) -> None:
        state = self._schema(room.state, "serialization")
        data = {
            "type": "object",
            "properties": {"reason": {"type": "string"}, "state": {"anyOf": [state, {"type": "null"}]}},
            "required": ["reason", "state"],
        }
        key = f"room.state.{_key(room.pattern.text)}"
        payload = envelope("room.state", data, room=_ROOM, id=POSITION, needs_id=True)
        text = "The room's whole state. null: load it anew."
        self._operation("send", self._room_key(room), key, _message("room.state", payload, text), None)

    def _schema(self, annotation: Any, mode: Any) -> Schema:
        schema: Schema = draft_7(self._schemas.of(annotation, mode))
        return schema


def _message(event: str, payload: Schema, text: str, *, reply: bool = False, binary: bool = False) -> Schema:
    message: Schema = {"name": event, "payload": payload}
    if text:
        message["summary"] = text
    if binary:
        message |= {"contentType": "application/octet-stream", "description": _BINARY}
    return message | (_CORRELATION if reply else {})


def _key(text: str) -> str:
    """A name that a document's keys may have."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", text.replace("*", "any")).strip("_")


def _same(one: str, other: str) -> bool:
    return re.sub(r"\{\w+\}", "*", one) == re.sub(r"\{\w+\}", "*", other)


_BINDING: Schema = {
    "method": "GET",
    "query": {
        "type": "object",
        "properties": {
            "client": {
                "type": "string",
                "pattern": "^[A-Za-z0-9_-]{8,64}$",
                "description": "An id that one client keeps over its reconnects.",
            },
            "last_event_id": {
                "type": "string",
                "description": "The cursor: ROOM@EPOCH:OFFSET, each ROOM percent-encoded, joined by commas; or later.",
            },
            "state": {"const": "1", "description": "Asks for a room.state of the rooms that are joined at once."},
        },
    },
    "bindingVersion": "0.1.0",
}
