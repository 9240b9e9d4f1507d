"""What an application may not declare or call: each line is an error to mypy and to pyright.

An error that disappears is one itself: the comment that expects it is unused then. The module is read
by the type checkers (`tests.typing.test_typing`) and never run.
"""

from __future__ import annotations

from roomwire import App, Connection, Depends, EventError, Publisher, Router, from_thread

app = App()


@app.on  # type: ignore[arg-type]
async def without_an_event(connection: Connection) -> None: ...


@app.on(7)  # type: ignore[arg-type]
async def an_event_that_is_no_name() -> None: ...


@app.on("e", "chat:*")  # type: ignore[call-arg]
async def a_room_that_is_not_named() -> None: ...


@app.on("e", room=7)  # type: ignore[arg-type]
async def a_pattern_that_is_no_text() -> None: ...


@app.room("a")  # type: ignore[type-var]
async def a_policy_that_forgets_to_answer(connection: Connection) -> None: ...


@app.room("b")  # type: ignore[type-var]
async def a_policy_that_answers_with_a_text(connection: Connection) -> str:
    return "yes"


@app.room("c")  # type: ignore[type-var]
def a_blocking_policy_that_answers_with_a_text(connection: Connection) -> str:
    return "yes"


@app.room  # type: ignore[arg-type]
async def a_policy_without_a_pattern(connection: Connection) -> bool:
    return True


@app.snapshot(7)  # type: ignore[arg-type]
def a_snapshot_of_no_pattern() -> list[str]:
    return []


@app.on_connect  # type: ignore[type-var]
async def a_connect_hook_that_returns_a_number(connection: Connection) -> int:
    return 403


@app.on_connect  # type: ignore[type-var]
async def a_connect_hook_that_returns_numbers(connection: Connection) -> list[int]:
    return [1]


@app.on_connect  # type: ignore[type-var]
def a_blocking_connect_hook_that_returns_a_number(connection: Connection) -> int:
    return 403


@app.on_connect()  # type: ignore[call-arg, untyped-decorator]
async def a_connect_hook_with_parentheses(connection: Connection) -> None: ...


@app.on_disconnect  # type: ignore[type-var]
async def a_disconnect_hook_that_returns(connection: Connection) -> bool:
    return True


@app.on_disconnect  # type: ignore[type-var]
def a_blocking_disconnect_hook_that_returns(connection: Connection) -> bool:
    return True


@app.error(KeyError)  # type: ignore[arg-type]
def an_answer_to_another_error(error: ValueError) -> EventError:
    return EventError("missing")


@app.error(KeyError)  # type: ignore[arg-type]
def an_answer_that_is_a_text(error: KeyError) -> str:
    return "missing"


@app.error(KeyError)  # type: ignore[arg-type]
async def an_answer_that_waits(error: KeyError) -> EventError:
    return EventError("missing")


@app.error("KeyError")  # type: ignore[arg-type]
def an_answer_to_a_text(error: KeyError) -> EventError:
    return EventError("missing")


@app.error(int)  # type: ignore[type-var]
def an_answer_to_what_is_no_error(error: int) -> EventError:
    return EventError("missing")


@app.on("typed", room="chat:{channel}")
async def typed(connection: Connection, channel: str, number: int) -> str:
    return channel * number


async def the_types_of_a_handler_still_hold(connection: Connection) -> None:
    await typed(connection, "a", "1")  # type: ignore[arg-type]
    await typed(connection, "a")  # type: ignore[call-arg]
    await typed(connection, "a", number=1, more=2)  # type: ignore[call-arg]
    number: int = await typed(connection, "a", 1)  # type: ignore[assignment]
    del number


def what_cannot_be_put_together(connection: Connection) -> None:
    Depends("get_session")  # type: ignore[arg-type]
    Depends(typed, False)  # type: ignore[call-arg]
    Depends(typed, use_cache="no")  # type: ignore[arg-type]
    app.include(app)  # type: ignore[arg-type]
    app.include("handlers")  # type: ignore[arg-type]
    app.overrides["typed"] = typed  # type: ignore[index]
    app.overrides[typed] = 7  # type: ignore[assignment]
    Router("chat.")  # type: ignore[call-arg]
    Router(event_prefix=7)  # type: ignore[arg-type]
    from_thread(app.publish)  # type: ignore[arg-type]
    from_thread(typed(connection, "a", 1)).add("b")  # type: ignore[attr-defined]


async def what_an_application_cannot_call(connection: Connection) -> None:
    await app.publish("r", 7)  # type: ignore[call-overload]
    await app.publish("r", "e", 1, "c")  # type: ignore[call-overload]
    await app.publish("r", "e", exclude=7)  # type: ignore[call-overload]
    await app.publish("r", "e", history="no")  # type: ignore[call-overload]
    await app.disconnect(7)  # type: ignore[arg-type]
    await app.disconnect("u", 4100)  # type: ignore[call-arg]
    await app.members()  # type: ignore[call-arg]
    await connection.join(7)  # type: ignore[arg-type]
    connection.rooms = frozenset()  # type: ignore[misc]
    App(None)  # type: ignore[call-arg]
    App(lifespan=typed)  # type: ignore[arg-type]


number = app.event("number", int, room="r:{a}")
empty = app.event("empty")


async def what_a_declared_event_is_not(connection: Connection, publisher: Publisher) -> None:
    await number.publish("text", a="b")  # type: ignore[arg-type]
    await number.publish(1, a=b"")  # type: ignore[arg-type]
    await empty.publish(1)  # type: ignore[call-overload]
    await app.publish("r:b", number, "text")  # type: ignore[misc]
    await app.publish("r:b", number)  # type: ignore[arg-type]
    await connection.send(number, "text")  # type: ignore[misc]
    publisher.publish("r:b", number, "text")  # type: ignore[misc]
    app.event(7)  # type: ignore[call-overload]
