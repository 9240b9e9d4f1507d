"""An application with every kind of type that a contract may hold."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

from roomwire import App, Connection, Event, Router

T = TypeVar("T")


class Mood(Enum):
    GOOD = "good"
    BAD = "bad"


class Cat(BaseModel):
    """A cat */ with an end."""

    kind: Literal["cat"]
    kittens: list[Cat] = []


class Dog(BaseModel):
    kind: Literal["dog"]
    place: tuple[int, str]


class Page(BaseModel, Generic[T]):
    items: list[T]
    next: int | None = None


class MessageNew(BaseModel):
    sender: str = Field(alias="from")
    at: datetime
    mood: Mood = Mood.GOOD
    pet: Annotated[Cat | Dog, Field(discriminator="kind")] | None = None
    tags: dict[str, int] = {}


class SendMessage(BaseModel):
    model_config = ConfigDict(extra="forbid")

    content: str = Field(min_length=1, description="What is said.")
    mood: Mood | None = None


@dataclass
class Sent:
    id: str


class Move(TypedDict):
    x: int
    y: int


router = Router(event_prefix="board.", room_prefix="board:")
moved = router.event("moved", Move, room="{a}:{b}")


@router.on("move", room="{a}:{b}")
async def move(where: Move, a: str, b: str) -> None: ...


SHARED = Event("news", Page[MessageNew])


def make(*, backwards: bool = False) -> App:
    """The application, declared in one order or in the other."""
    app = App()

    async def may_join(connection: Connection, channel: str) -> bool:
        return True

    async def send(message: SendMessage, channel: str) -> Sent:
        """Say something.

        Not told.
        """
        return Sent(id=channel)

    async def shout(message: str) -> int:
        return len(message)

    async def upload(part: bytes) -> Any: ...

    async def ping() -> None: ...

    async def recent(channel: str) -> list[MessageNew]:
        return []

    steps: list[Any] = [
        lambda: app.room("chat:{channel}")(may_join),
        lambda: app.on("message.send", room="chat:{channel}")(send),
        lambda: app.on("message.send", room="chat:lobby")(shout),
        lambda: app.on("upload", joined=False)(upload),
        lambda: app.on("ping")(ping),
        lambda: app.snapshot("chat:{channel}")(recent),
        lambda: app.event("message.new", MessageNew, room="chat:{channel}"),
        lambda: app.event("file.part", bytes),
        lambda: app.event("cleared", room="chat:*"),
        lambda: app.event(SHARED),
        lambda: app.include(router),
    ]
    for step in reversed(steps) if backwards else steps:
        step()
    return app


app = make()
