"""TypeScript types for the JavaScript client: the models, and what is said by event and by room."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from roomwire.contract.model import Contract, Message, RoomKind
from roomwire.contract.printer import Printer, comment, identifier, key
from roomwire.contract.schemas import Schemas

__all__ = ["typescript"]

_HEAD = """\
/**
 * Made by `roomwire types` from the application's declarations; not to be edited.
 *
 *     const client = connect<ServerEvents, ClientEvents, Rooms>(url);
 */
"""
_OWN = ("ServerEvents", "ClientEvents", "Rooms")


def typescript(contract: Contract) -> str:
    """The module's text."""
    return _Writer(contract).text()


class _Writer:
    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        wanted: list[tuple[Any, Any]] = []
        for message in contract.messages:
            if not message.binary:
                wanted.append((message.data, "validation" if message.to_server else "serialization"))
            wanted.append((message.ack, "serialization"))
        wanted += [(room.state, "serialization") for room in contract.rooms]
        self._schemas = Schemas(wanted)
        self._taken = set(_OWN)
        self._names = {name: identifier(name, self._taken) for name in self._schemas.definitions}
        self._printer = Printer(self._names)

    def text(self) -> str:
        lines: list[str] = []
        for name, schema in self._schemas.definitions.items():
            lines += self._definition(self._names[name], schema)
        messages = self._contract.messages
        lines += self._interface("ServerEvents", self._server(messages, ""), "What the server sends: data by event.")
        lines += self._interface(
            "ClientEvents", self._client(messages, ""), "What clients send: data and ack by event, in whatever room."
        )
        rooms = [(room, identifier(_room_name(room), self._taken)) for room in self._contract.rooms]
        for room, name in rooms:
            lines += self._room(room, name)
        lines += comment("Rooms by their names, the most specific first.")
        lines += ["export type Rooms = [", *(f"  [{_template(room)}, {name}]," for room, name in rooms), "];"]
        return _HEAD + "\n" + "\n".join(lines) + "\n"

    def _definition(self, name: str, schema: dict[str, Any]) -> list[str]:
        lines = comment(schema.get("description"))
        text = self._printer.type_of(schema)
        if schema.get("properties"):
            return [*lines, f"export interface {name} {text}", ""]
        return [*lines, f"export type {name} = {text};", ""]

    def _interface(self, name: str, fields: list[str], text: str) -> list[str]:
        return [*comment(text), f"export interface {name} {{", *fields, "}", ""]

    def _room(self, room: RoomKind, name: str) -> list[str]:
        state = self._printer.type_of(self._schemas.of(room.state, "serialization"), "  ") if room.has_state else "null"
        fields = [
            "  server: {",
            *self._server(room.messages, "  "),
            "  };",
            "  client: {",
            *self._client(room.messages, "  "),
            "  };",
            f"  state: {state};",
        ]
        return self._interface(name, fields, f"The rooms {room.pattern.text}.")

    def _server(self, messages: Iterable[Message], indent: str) -> list[str]:
        events = [message for message in messages if not message.to_server]
        return [
            f"{indent}  {key(name)}: {self._union(self._data(m, indent) for m in events if m.event == name)};"
            for name in sorted({message.event for message in events})
        ]

    def _client(self, messages: Iterable[Message], indent: str) -> list[str]:
        sent = [message for message in messages if message.to_server]
        lines: list[str] = []
        for name in sorted({message.event for message in sent}):
            these = [message for message in sent if message.event == name]
            lines += comment(these[0].text, indent + "  ")
            data = self._union(self._data(message, indent) for message in these)
            ack = self._union(
                self._printer.type_of(self._schemas.of(message.ack, "serialization"), indent) for message in these
            )
            lines.append(f"{indent}  {key(name)}: {{ data: {data}; ack: {ack} }};")
        return lines

    def _data(self, message: Message, indent: str) -> str:
        if message.binary:
            return "Uint8Array"
        if message.to_server and message.data is None:
            return "null"
        mode: Any = "validation" if message.to_server else "serialization"
        return self._printer.type_of(self._schemas.of(message.data, mode), indent)

    def _union(self, parts: Iterable[str]) -> str:
        return " | ".join(dict.fromkeys(parts))


def _room_name(room: RoomKind) -> str:
    words = re.findall(r"[A-Za-z0-9]+", room.pattern.text)
    return "".join(word[0].upper() + word[1:] for word in words) + "Room"


def _template(room: RoomKind) -> str:
    text = json.dumps(room.pattern.text, ensure_ascii=False)[1:-1].replace("`", "\\`").replace("${", "\\${")
    return "`" + re.sub(r"\{[A-Za-z_]\w*\}|\*", "${string}", text) + "`"
