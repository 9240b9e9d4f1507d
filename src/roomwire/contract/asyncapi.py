"""An AsyncAPI 3.0 document, as seen from the server: it receives what clients send, and sends what they get.

There is one WebSocket, whose channel is ``connection``. A room is a channel within it, whose address is the pattern
of its names; each message says its room itself. An event stream, over HTTP, is the channel ``stream``. An operation's
name says who does it.
"""

from __future__ import annotations

import re
from typing import Any

from roomwire.contract.bindings import SOCKET, STREAM
from roomwire.contract.model import Contract, Message, RoomKind, shape_of
from roomwire.contract.protocol import FROM_CLIENT, FROM_SERVER, IN_STREAMS, POSITION, envelope
from roomwire.contract.schemas import Schemas, draft_7

__all__ = ["asyncapi"]

Schema = dict[str, Any]

_ID: Schema = {"type": "string", "minLength": 1, "maxLength": 64, "description": "Asks for a reply, which bears it."}
_ROOM: Schema = {"type": "string", "minLength": 1, "maxLength": 128}
_BASE64: Schema = {"type": "string", "contentEncoding": "base64"}
_CORRELATION = {"correlationId": {"location": "$message.payload#/id"}}
_STREAM = (
    "Server-sent events (text/event-stream) of one room, read-only. A message is the data of an event, whose name is "
    "the message's and whose id is the position after which a client resumes."
)
_BINARY = (
    "A binary frame: 4 bytes, big-endian, the length of the JSON object that follows, without data; then the payload."
)


def asyncapi(
    contract: Contract, *, info: Schema, servers: Schema, security: Schema, path: str, stream: str = ""
) -> Schema:
    """The document.

    Args:
        contract: what the application declares.
        info: title, version and description.
        servers: by name, as AsyncAPI has them, without their security. Those of protocol http or https serve event
            streams, the others WebSockets.
        security: security schemes by name. Streams have no ``subprotocol``.
        path: that of the WebSocket.
        stream: that of event streams; "" for none.
    """
    return _Writer(contract, path, stream).document(info, servers, security)


class _Writer:
    def __init__(self, contract: Contract, path: str, stream: str) -> None:
        self._contract = contract
        self._stream = stream
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
        self._taken: set[str] = set()
        self._streamed: list[str] = []
        self._room_keys = {
            shape_of(room.pattern): self._unique(f"room.{_key(room.pattern.text)}") for room in contract.rooms
        }
        self._channels: Schema = {
            "connection": {
                "address": path,
                "title": "The connection",
                "description": "The WebSocket, subprotocol roomwire.v1. Rooms are channels within it.",
                "messages": {},
                "bindings": {"ws": SOCKET},
            }
        }

    def document(self, info: Schema, servers: Schema, security: Schema) -> Schema:
        for room in self._contract.rooms:
            self._channels[self._room_keys[shape_of(room.pattern)]] = self._room_channel(room)
        self._protocol()
        for message in self._contract.messages:
            self._declared(message)
        for room in self._contract.rooms:
            if room.has_state:
                self._state(room)
        if self._stream:
            self._add_stream()
        self._place(servers)
        components = {
            "schemas": {name: draft_7(schema) for name, schema in self._schemas.definitions.items()},
            "messages": dict(sorted(self._messages.items())),
            "securitySchemes": security,
        }
        return {
            "asyncapi": "3.0.0",
            "info": info,
            "defaultContentType": "application/json",
            "servers": {name: {**server, **_security(server, security)} for name, server in servers.items()},
            "channels": self._channels,
            "operations": dict(sorted(self._operations.items())),
            "components": {name: part for name, part in components.items() if part},
        }

    # --- channels

    def _unique(self, key: str) -> str:
        """The key, or one like it: two names may differ in what a key cannot have."""
        name, count = key, 1
        while name in self._taken:
            count += 1
            name = f"{key}_{count}"
        self._taken.add(name)
        return name

    def _place(self, servers: Schema) -> None:
        """Say of each channel which servers have it, where there are several kinds."""
        streaming = [name for name, server in servers.items() if _streams(server)]
        for key, channel in self._channels.items() if streaming else ():
            names = streaming if key == "stream" else [name for name in servers if name not in streaming]
            channel["servers"] = [{"$ref": f"#/servers/{name}"} for name in names]

    def _room_channel(self, room: RoomKind) -> Schema:
        names: list[str] = []
        count = [0]

        def parameter(found: re.Match[str]) -> str:
            name = found[0][1:-1]
            while not name or (found[0] == "*" and name in (*names, *room.pattern.names)):
                count[0] += 1
                name = f"part{count[0]}"
            names.append(name)
            return f"{{{name}}}"

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
        acked = self._add(
            "connection", self._unique(f"{key}.ack"), _message("ack", payload, f"The reply to {key}.", reply=True)
        )
        return [acked, {"$ref": "#/channels/connection/messages/error"}]

    def _declared(self, message: Message) -> None:
        key = _key(message.event) if message.pattern is None else f"{_key(message.event)}.{_key(message.pattern.text)}"
        key = key if self._is_ambiguous(message) else _key(message.event)
        key = self._unique(f"client.{key}" if message.to_server else f"server.{key}")
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
            channel = self._room_keys[shape_of(message.pattern)]
        replies = self._replies(key, self._schema(message.ack, "serialization")) if message.to_server else None
        self._operation("receive" if message.to_server else "send", channel, key, written, replies)
        if self._stream and not message.to_server:
            self._streamed.append(self._in_stream(key, message, written) if message.binary else key)

    def _in_stream(self, key: str, message: Message, written: Schema) -> str:
        """Of a binary event the message that stands in a stream; its key."""
        payload = written["payload"]
        properties = {**payload["properties"], "data": _BASE64, "encoding": {"const": "base64"}}
        payload = {**payload, "properties": properties, "required": [*payload["required"], "data", "encoding"]}
        key = self._unique(f"stream.{key.removeprefix('server.')}")
        self._messages[key] = _message(message.event, payload, message.text)
        return key

    def _add_stream(self) -> None:
        """The channel of event streams; messages are those of the WebSocket, for the most part."""
        keys = [*IN_STREAMS, *self._streamed]
        self._channels["stream"] = {
            "address": self._stream,
            "title": "Event streams",
            "description": _STREAM,
            "messages": {key: {"$ref": f"#/components/messages/{key}"} for key in keys},
        }
        self._operations["send.stream"] = {
            "action": "send",
            "channel": {"$ref": "#/channels/stream"},
            "summary": "What is said in one room, to who only listens.",
            "messages": [{"$ref": f"#/channels/stream/messages/{key}"} for key in keys],
            "bindings": {"http": STREAM},
        }

    def _is_ambiguous(self, message: Message) -> bool:
        return sum((m.event, m.to_server) == (message.event, message.to_server) for m in self._contract.messages) > 1

    def _state(self, room: RoomKind) -> None:
        state = self._schema(room.state, "serialization")
        data = {
            "type": "object",
            "properties": {"reason": {"type": "string"}, "state": {"anyOf": [state, {"type": "null"}]}},
            "required": ["reason", "state"],
        }
        key = self._unique(f"room.state.{_key(room.pattern.text)}")
        payload = envelope("room.state", data, room=_ROOM, id=POSITION, needs_id=True)
        text = "The room's whole state. null: load it anew."
        channel = self._room_keys[shape_of(room.pattern)]
        self._operation("send", channel, key, _message("room.state", payload, text), None)
        self._streamed.append(key)

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


def _streams(server: Schema) -> bool:
    return server["protocol"] in ("http", "https")


def _security(server: Schema, schemes: Schema) -> Schema:
    """What one of a server needs; nothing where no scheme is known."""
    names = [name for name in schemes if name != "subprotocol" or not _streams(server)]
    return {"security": [{"$ref": f"#/components/securitySchemes/{name}"} for name in names]} if names else {}
