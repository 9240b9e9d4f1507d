"""The application that is measured. Users come with a token, data is validated, events are kept for a replay."""

from pydantic import BaseModel

from roomwire import App, Connection

app = App()


class Text(BaseModel):
    content: str


@app.on_connect
async def rooms_of(connection: Connection) -> list[str]:
    return ["bench:room"]


@app.room("bench:{name}")
async def may_join(connection: Connection, name: str) -> bool:
    return True


@app.on("say", room="bench:{name}")
async def say(connection: Connection, text: Text, name: str) -> str | None:
    published = await app.publish(f"bench:{name}", "said", text)
    return published.id


@app.on("echo", room="bench:{name}")
async def echo(connection: Connection, text: Text, name: str) -> Text:
    return text


@app.on("whisper", room="bench:{name}")
async def whisper(connection: Connection, text: Text, name: str) -> None:
    await connection.send("whispered", text)
