"""A chat: two channels, kept in SQLite; who writes, who is here, and nothing lost over a reconnect."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from database import Database
from pydantic import BaseModel, Field

from roomwire import App, Connection

database = Database(Path(__file__).with_name("chat.sqlite3"))


@asynccontextmanager
async def lifespan(app: App) -> AsyncIterator[None]:
    async with database.opened():
        yield


app = App(lifespan=lifespan)


class SendMessage(BaseModel):
    content: str = Field(min_length=1, max_length=4000)


class Sent(BaseModel):
    id: str
    key: int


class NewMessage(BaseModel):
    sender: str = Field(serialization_alias="from")
    content: str
    at: float
    key: int


message_new = app.event("message.new", NewMessage, room="chat:{channel}")


@app.on_connect
async def rooms_of(connection: Connection) -> list[str]:
    """The user's channels, from the database: joined without being asked for."""
    return [f"chat:{channel}" for channel in await database.channels_of(connection.user)]


@app.room("chat:{channel}")
async def may_join(connection: Connection, channel: str) -> bool:
    return await database.is_member(connection.user, channel)


@app.on("message.send", room="chat:{channel}")
async def send_message(connection: Connection, message: SendMessage, channel: str) -> Sent:
    """Stored first, then published: so whoever gets a snapshot of the channel can miss no message.

    A message may be in the snapshot and come live as well; the page knows it by its key.
    """
    at = time.time()
    key = await database.add_message(channel, connection.user, message.content, at)
    new = NewMessage(sender=connection.user, content=message.content, at=at, key=key)
    publication = await message_new.publish(new, channel=channel, exclude=connection)
    assert publication.id is not None  # it is kept in the history, so it has one
    return Sent(id=publication.id, key=key)


@app.on("typing", room="chat:{channel}")
async def typing(connection: Connection, channel: str) -> None:
    """Ephemeral: for those who look now, never stored or replayed."""
    await app.publish(f"chat:{channel}", "typing", {"from": connection.user}, exclude=connection, history=False)


@app.snapshot("chat:{channel}")
async def recent_messages(channel: str) -> list[dict[str, object]]:
    """The whole state, for a page that loads and for a client whose replay cannot be proven."""
    return await database.recent_messages(channel)
