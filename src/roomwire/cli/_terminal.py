"""A conversation with a server: lines of the terminal to messages, and what comes to lines."""

from __future__ import annotations

import codecs
import dataclasses
import json
import os
import stat
from collections.abc import AsyncIterator, Mapping
from typing import Any

import anyio
import click

from roomwire.cli._output import printable
from roomwire.client import Client, Item, NoReply, QueueFull, RequestFailed
from roomwire.core.errors import ConnectionClosed, LocalError

__all__ = ["HELP", "Conversation", "read_lines"]

HELP = """\
EVENT [JSON]       send it to the current room, such as: message.send {"content": "hi"}
/join ROOM         join a room, which becomes the current one
/leave [ROOM]      leave it
/room [ROOM]       make it the current one; without a name, none
/rooms             the rooms that you are in
/members [ROOM]    who is there
/quit              end"""

_CHUNK = 4096


async def read_lines(fd: int) -> AsyncIterator[str]:
    """The lines of a terminal, pipe or file, without a thread that would outlive us."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    # A file is always readable, and cannot be waited for.
    waits = not stat.S_ISREG(os.fstat(fd).st_mode)
    text = ""
    while True:
        if waits:
            await anyio.wait_readable(fd)
        chunk = os.read(fd, _CHUNK)
        text += decoder.decode(chunk, final=not chunk)
        *lines, text = text.split("\n")
        for line in lines:
            yield line
        if not chunk:
            if text:
                yield text
            return


class Conversation:
    """What one terminal says to a client and hears from it.

    Args:
        client: connected.
        room: the current room.
        as_json: whether what comes is printed as JSON, one object a line.
    """

    def __init__(self, client: Client, room: str | None, *, as_json: bool = False) -> None:
        self._client = client
        self._room = room
        self._as_json = as_json

    async def listen(self) -> None:
        """Print whatever comes, until the client ends."""
        async for item in self._client:
            self._tell(_described(item), type(item).__name__)

    async def say(self, line: str) -> bool:
        """Carry out one line; whether the conversation goes on."""
        line = line.strip()
        try:
            if line in ("/quit", "/exit"):
                return False
            if line.startswith("/"):
                await self._command(*line[1:].split(maxsplit=1))
            elif line:
                await self._send(*line.split(maxsplit=1))
        except ConnectionClosed:
            raise
        except (RequestFailed, NoReply, QueueFull, LocalError, ValueError) as error:
            click.secho(f"error: {printable(_fault(error))}", fg="red", err=True)
        return True

    async def _command(self, name: str = "", argument: str = "") -> None:
        argument = argument.strip()
        match name:
            case "join" if argument:
                # What the server joined by itself has come with its state already.
                await self._client.join(argument, state=not self._client.room(argument).joined)
                self._room = argument
                self._tell({"room": argument}, "Joined")
            case "leave":
                await self._client.leave(self._named(argument))
            case "room":
                self._room = argument or None
            case "rooms":
                self._tell({"rooms": [room.name for room in self._client.rooms]}, "Rooms")
            case "members":
                room = self._named(argument)
                self._tell({"room": room, "members": await self._client.fetch_members(room)}, "Members")
            case _:
                click.echo(HELP, err=True)

    def _named(self, room: str) -> str:
        if not room and self._room is None:
            raise ValueError("name a room, or choose one with /room")
        return room or str(self._room)

    async def _send(self, event: str, data: str = "null") -> None:
        try:
            value = json.loads(data)
        except ValueError as error:
            raise ValueError(f"{event}: its data is not JSON: {error}") from None
        reply = await self._client.send(event, value, room=self._room)
        self._tell({"event": event, "reply": reply}, "Reply")

    def _tell(self, fields: dict[str, Any], kind: str) -> None:
        if self._as_json:
            click.echo(json.dumps({"kind": kind, **fields}, default=_odd))
            return
        shown = " ".join(
            f"{name}={json.dumps(value, ensure_ascii=False, default=_odd)}"
            for name, value in fields.items()
            if value is not None
        )
        click.echo(f"{click.style(kind, bold=True)} {printable(shown)}")


def _fault(error: Exception) -> str:
    """The text of an error, with the details that the server gives: which fields do not fit."""
    if isinstance(error, RequestFailed) and error.details is not None:
        return f"{error} {json.dumps(error.details, ensure_ascii=False)}"
    return str(error)


def _described(item: Item) -> dict[str, Any]:
    fields = {field.name: getattr(item, field.name) for field in dataclasses.fields(item)}
    if (position := fields.get("position")) is not None:
        fields["position"] = str(position)
    return fields


def _odd(value: object) -> object:
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    return dict(value) if isinstance(value, Mapping) else str(value)
