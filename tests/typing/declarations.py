"""What an application may declare, and that decorators leave a function's own type as it is.

Read by mypy and pyright (`tests.typing.test_typing`), and imported: what types has to be accepted at
run time too.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any, assert_type

from pydantic import BaseModel
from typing_extensions import TypedDict

from roomwire import (
    App,
    Claims,
    Connection,
    Depends,
    Event,
    EventError,
    Member,
    Publication,
    Publisher,
    Router,
    User,
    from_thread,
)


@asynccontextmanager
async def lifespan(app: App) -> AsyncGenerator[None, None]:
    yield


app = App(lifespan=lifespan)


class SendMessage(BaseModel):
    content: str


class Draw(TypedDict):
    x: int
    y: int


@dataclass
class Vote:
    choice: str


@app.on_connect
async def rooms_of(connection: Connection) -> list[str]:
    return [f"user:{connection.user}"]


@app.on_disconnect
async def goodbye(connection: Connection) -> None: ...


@app.room("chat:{channel}")
async def may_join(connection: Connection, channel: str) -> bool:
    return channel != "closed"


@app.room("public:*")
async def anybody() -> bool:
    return True


@app.snapshot("chat:{channel}")
async def recent(channel: str) -> list[dict[str, str]]:
    return [{"channel": channel}]


@app.on("message.send", room="chat:{channel}")
async def send_message(connection: Connection, message: SendMessage, channel: str) -> dict[str, str | None]:
    publication = await app.publish(f"chat:{channel}", "message.new", message, exclude=connection)
    assert_type(publication, Publication)
    assert_type(publication.id, str | None)
    return {"id": publication.id}


@app.on("draw", room="board:{number}", joined=False)
async def draw(number: int, where: Draw) -> None: ...


@app.on("vote")
async def vote(vote: Vote, *, connection: Connection) -> int:
    return len(vote.choice)


@app.on("upload")
async def upload(data: bytes) -> int:
    return len(data)


@app.on("echo")
async def echo(data: Any) -> Any:
    return data


@app.on("ping")
async def ping() -> None: ...


router = Router(event_prefix="poll.", room_prefix="poll:")


class Session:
    def __init__(self, settings: Annotated[str, Depends(lambda: "settings")]) -> None:
        self.settings = settings


async def get_session(session: Annotated[Session, Depends()]) -> AsyncGenerator[Session, None]:
    yield session


def get_cursor(session: Annotated[Session, Depends(get_session)], user: Annotated[str, User]) -> Generator[str, None]:
    yield session.settings + user


@router.on("open", room="{name}")
def blocking(
    cursor: Annotated[str, Depends(get_cursor, use_cache=False)], data: int, name: str, claims: Annotated[Draw, Claims]
) -> str:
    assert_type(cursor, str)
    assert_type(claims, Draw)
    assert_type(from_thread(router.publish(f"poll:{name}", "opened", data)), Publication)
    return from_thread(app.members(name))[0].user


@router.room("{name}")
def may_vote(name: str, user: Annotated[int, User]) -> bool:
    return user > 7


@router.snapshot("{name}")
def votes(name: str) -> list[str]:
    return [name]


@Router().on_disconnect
def gone(connection: Connection) -> None: ...


@router.error(KeyError)
def missing(error: KeyError) -> EventError:
    return EventError("missing", str(error))


@app.error(LookupError)
def lookup(error: LookupError) -> EventError | None: ...


app.include(router)
app.overrides[get_session] = lambda: Session("fake")


async def decorated_functions_are_what_they_were(connection: Connection) -> None:
    assert_type(await rooms_of(connection), list[str])
    assert_type(await may_join(connection, "a"), bool)
    assert_type(await may_join(connection=connection, channel="a"), bool)
    assert_type(await recent("a"), list[dict[str, str]])
    assert_type(await send_message(connection, SendMessage(content="hi"), "a"), dict[str, str | None])
    assert_type(await send_message(connection, channel="a", message=SendMessage(content="hi")), dict[str, str | None])
    assert_type(await vote(Vote("a"), connection=connection), int)
    assert_type(await upload(b""), int)
    await draw(1, {"x": 1, "y": 2})
    assert_type(blocking("c", 1, "a", {"x": 1, "y": 2}), str)
    assert_type(may_vote("a", 1), bool)
    assert_type(votes("a"), list[str])
    await ping()
    await goodbye(connection)
    handler: Callable[[Connection, SendMessage, str], Coroutine[Any, Any, dict[str, str | None]]] = send_message
    del handler


async def what_an_application_calls(connection: Connection) -> None:
    assert_type(await app.publish("r", "e"), Publication)
    assert_type(await app.publish("r", "e", b"", exclude="client", history=False, key="k"), Publication)
    assert_type(await app.members("r"), list[Member])
    assert_type(await app.rooms_of("u"), list[str])
    await app.disconnect("u", code=4100, reason="later")
    await app.add("u", "r")
    await app.remove("u", "r", "gone")
    assert_type(connection.user, str)
    assert_type(connection.rooms, frozenset[str])
    await connection.join("r")
    await connection.leave("r")
    await connection.send("e", {"a": 1}, room="r")
    await connection.close(4600, "bye")


message_new = app.event("message.new", SendMessage, room="chat:{channel}")
drawn = router.event("drawn", list[int])
either: Event[int | str] = app.event("either", int | str)
cleared = app.event("cleared", room="chat:{channel}")
shared = app.event(Event("part", bytes))


async def what_can_be_done_with_a_declared_event(connection: Connection, publisher: Publisher) -> None:
    assert_type(message_new, Event[SendMessage])
    assert_type(drawn, Event[list[int]])
    assert_type(cleared, Event[None])
    assert_type(shared, Event[bytes])
    assert_type(await message_new.publish(SendMessage(content="hi"), channel="a", exclude=connection), Publication)
    assert_type(await cleared.publish(channel="a"), Publication)
    assert_type(message_new.room(channel="a"), str)
    assert_type(message_new.validate({}), SendMessage)
    await app.publish("chat:a", message_new, SendMessage(content="hi"), history=False)
    await router.publish("r", drawn, [1])
    await app.publish("r", either, "text")
    await app.publish("chat:a", cleared)
    await connection.send(shared, b"")
    publisher.publish("chat:a", message_new, SendMessage(content="hi"))


def hooks_that_say_yes_or_no() -> Sequence[App]:
    one, other, third = App(), App(), App()

    @one.on_connect
    async def allow(connection: Connection) -> bool:
        return connection.user != "mallory"

    @other.on_connect
    async def join(connection: Connection) -> set[str] | bool:
        return {connection.user} if connection.user else False

    @third.on_connect
    async def note() -> None: ...

    @Router().on_connect
    def blocking() -> list[str] | bool:
        return False

    return one, other, third
