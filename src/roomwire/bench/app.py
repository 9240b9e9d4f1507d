"""The application that is measured: a room for all, one event for everybody in it, and two that answer.

Nothing in it is faster than in yours: users come with a token, messages are validated by pydantic, and what is
published is kept for a replay.
"""

from __future__ import annotations

from pydantic import BaseModel

from roomwire.app import App
from roomwire.node.connection import Connection

__all__ = ["Text", "app"]

app = App()


class Text(BaseModel):
    """The data of every message."""

    content: str


@app.on_connect
async def rooms_of(connection: Connection) -> list[str]:
    """All are in one room."""
    return ["bench:room"]


@app.room("bench:{name}")
async def may_join(connection: Connection, name: str) -> bool:
    """And nobody is kept out of another."""
    return True


@app.on("say", room="bench:{name}")
async def say(connection: Connection, text: Text, name: str) -> str | None:
    """To everybody in the room."""
    published = await app.publish(f"bench:{name}", "said", text)
    return published.id


@app.on("echo", room="bench:{name}")
async def echo(connection: Connection, text: Text, name: str) -> Text:
    """The ack holds what came."""
    return text


@app.on("whisper", room="bench:{name}")
async def whisper(connection: Connection, text: Text, name: str) -> None:
    """The same for a message without an id, which has no ack."""
    await connection.send("whispered", text)
