"""The application on roomwire's nodes: all but the publisher are in one room, and it need not be."""

from __future__ import annotations

from pydantic import BaseModel

from roomwire import App, Connection

app = App()


class Text(BaseModel):
    content: str


@app.on_connect
async def rooms_of(connection: Connection) -> list[str]:
    return [] if connection.user == "publisher" else ["bench:room"]


@app.room("bench:{name}")
async def may_join(connection: Connection, name: str) -> bool:
    return True


@app.on("say", room="bench:{name}", joined=False)
async def say(connection: Connection, text: Text, name: str) -> None:
    await app.publish(f"bench:{name}", "said", text)
