"""An application whose types, events and rooms are as hard to write down as they may be."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Annotated, Any, Generic, Literal, NamedTuple, NotRequired, TypeVar
from uuid import UUID

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, RootModel, create_model
from typing_extensions import TypeAliasType, TypedDict

from roomwire import App, Event

T = TypeVar("T")


class Tree(BaseModel):
    """*/ an end, `${x}`
    and another one */ of\u2028lines."""

    value: int
    children: list[Tree] = []
    parent: Tree | None = None


class Cat(BaseModel):
    kind: Literal["cat"]


class Dog(BaseModel):
    kind: Literal["dog", "hound"]


class Colour(Enum):
    RED = "red"
    ODD = 'b"l\\u`${e'
    ONE = 1


class Rank(IntEnum):
    LOW = 1
    HIGH = 2


class Pair(Enum):
    """JSON has no such constant that TypeScript can name."""

    A = (1, 2)


class Fields(BaseModel):
    dashed: int = Field(alias="a-b", description="First */ line\nand second.")
    reserved: str = Field(alias="class")
    digit: int = Field(alias="1st")
    quoted: int = Field(alias='q"x\\')
    inherited: int = Field(alias="constructor")
    either: int = Field(validation_alias=AliasChoices("one", "other"))
    default: tuple[int, str] = (1, "")
    discriminator: int = 0
    examples: list[int] = Field(default_factory=list)
    optional: int | None = None
    needed: int | None
    endless: float = float("inf")
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]
    colour: Colour = Colour.RED
    rank: Rank
    pair: Pair
    literal: Literal[1, "a", None, True, Colour.RED]
    few: tuple[int, str | None]
    many: tuple[int, ...]
    none: tuple[()]
    by_name: dict[str, Cat]
    by_number: dict[int, Cat]
    deep: dict[str, dict[str, list[int | None]]]
    nested: list[tuple[int | None, list[Literal["x", "y"]]]]
    at: datetime
    day: date
    span: timedelta
    amount: Decimal
    raw: bytes
    id: UUID
    different: frozenset[str]
    whatever: Any
    act: Callable[[], int]
    hidden: int = Field(default=0, exclude=True)


class More(BaseModel):
    model_config = ConfigDict(extra="allow")

    a: int


class Nothing(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Recursive(RootModel["dict[str, Recursive] | int"]): ...


class Page(BaseModel, Generic[T]):
    items: list[T]


class Loose(TypedDict):
    x: int
    y: NotRequired[str]


class Named(NamedTuple):
    a: int
    b: str = ""


@dataclass
class Data:
    a: int
    b: list[str] = field(default_factory=list)


Json = TypeAliasType("Json", "dict[str, Json] | list[Json] | str | int | float | bool | None")


def _local(name: str) -> Any:
    class Local(BaseModel): ...

    return create_model("Local", __base__=Local, **{name: (int, ...)})  # type: ignore[call-overload]


# What TypeScript, the client or the contract itself has a use for, and names that are one without what it lacks.
NAMES = """
    string bigint symbol undefined object unknown never any type namespace let arguments eval await static Promise
    Array Date Uint8Array Rooms ServerEvents ClientEvents ChatChannelRoom Straße Ünï Öní
""".split()  # noqa: SIM905  a list of words reads better as one
TYPES: list[Any] = [
    *(create_model(name, e=(int, ...)) for name in NAMES),
    create_model("Same", __module__="one", a=(int, ...)),
    create_model("Same", __module__="two", b=(str, ...)),
    *map(_local, "ab"),
]
DATA: dict[str, Any] = {
    "tree": Tree,
    "fields": Fields,
    "more": More,
    "nothing": Nothing,
    "recursive": Recursive,
    "page": Page[Page[Cat]],
    "page.of.optional": Page[int | None],
    "loose": Loose,
    "named": Named,
    "data": Data,
    "json": Json,
    "none": None,
    "bytes": bytes,
    "text": str | None,
}
EVENTS = ["a-b", "a:b", "a_b", "class", "constructor", "toString", "1", "-", ".", "x.ack", "x"]
ROOMS = [
    "chat:{channel}",
    "a`b:{x}",
    "a_b:{x}",
    'q"r',
    "back\\slash:{x}",
    "ü:{x}",
    "😀:{x}",
    "x-{part1}-*",
    "*:*",
    "chat-channel",
    "chat channel:*",
    "a/b",
    "$",
    "z$:{x}",
    "z\\$:{x}",
    "*/:{x}",
]


def _handler(data: Any) -> Any:
    async def handle(message: Any) -> Any: ...

    handle.__annotations__ = {"message": data, "return": None if data is bytes else data}
    handle.__doc__ = "What */ is `said` ${here}\nin two lines."
    return handle


def make(seed: int = 0) -> App:
    """The application, declared in an order that depends on the seed."""
    app = App()
    steps: list[Any] = [lambda event=event: app.on(event, joined=False)(_handler(int)) for event in EVENTS]
    steps += [lambda name=name: app.event(name, DATA[name]) for name in DATA]
    steps += [lambda n=n, t=t: app.event(f"type.{n}", t) for n, t in enumerate(TYPES)]
    steps += [
        lambda name=name: app.on(name, joined=False)(_handler(DATA[name])) for name in DATA if DATA[name] is not None
    ]
    steps += [
        lambda room=room, number=number: app.event(
            Event("in.room", Cat if room == "*:*" else TYPES[number % 2], room=room)
        )
        for number, room in enumerate(ROOMS)
    ]
    steps += [lambda room=room: app.on("in.room", room=re.sub(r"\{\w+\}", "*", room))(_handler(int)) for room in ROOMS]
    steps += [lambda event=event: app.event(event, int) for event in EVENTS]
    random.Random(seed).shuffle(steps)
    for step in steps:
        step()
    return app
