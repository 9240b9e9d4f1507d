"""An application whose handlers and hooks take dependencies, run in threads, and raise errors of its own.

Annotations are what they are at once, so that handlers may depend on functions beside them.
"""

import contextvars
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

import anyio.lowlevel
from pydantic import BaseModel

from roomwire import App, Claims, Connection, Depends, EventError, Router, Unavailable, User, from_thread

__all__ = ["Gone", "Journal", "Lost", "make_app"]

where: contextvars.ContextVar[str] = contextvars.ContextVar("where", default="nowhere")


class Gone(Exception):
    """What the application's own code raises."""


class Lost(Gone):
    pass


class Role(BaseModel):
    role: str


class Strict(BaseModel):
    number: int


class Journal:
    """What happened, in order, and what holds up a thread."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.entered = threading.Semaphore(0)
        self.release = threading.Event()
        self.threads: set[int] = set()
        self.go = anyio.Event()

    def block(self) -> None:
        """Hold the thread until the test lets it go."""
        self.threads.add(threading.get_ident())
        self.entered.release()
        assert self.release.wait(30)


def make_app(journal: Journal) -> App:
    """An application of its own for each server."""
    app = App()
    for declare in (_declare_dependencies, _declare_threads, _declare_hooks, _declare_errors):
        router = Router()
        declare(router, journal)
        app.include(router)
    return app


def _declare_dependencies(router: Router, journal: Journal) -> None:
    write = journal.lines.append

    async def session(connection: Connection, channel: str) -> AsyncIterator[str]:
        write(f"open {channel}")
        try:
            yield f"session of {connection.user}"
        except Gone as error:
            write(f"rolled back {error}")
            raise
        else:
            await anyio.lowlevel.checkpoint()
            if channel == "full":
                raise EventError("app.conflict", "could not be stored")
            write("committed")

    def cursor(session: Annotated[str, Depends(session)]) -> Iterator[str]:
        write("cursor")
        try:
            yield f"cursor of {session}"
        finally:
            write("cursor closed")

    async def greeting(user: Annotated[str, User]) -> str:
        return f"hello {user}"

    @router.on("ask", room="chat:{channel}", joined=False)
    async def ask(
        data: Any,
        session: Annotated[str, Depends(session)],
        cursor: Annotated[str, Depends(cursor)],
        greeting: Annotated[str, Depends(greeting)],
        claims: Annotated[Role, Claims],
    ) -> list[str]:
        if data == "fail":
            raise Gone("broken")
        write("handled")
        return [session, cursor, greeting, claims.role]

    async def swallow() -> AsyncIterator[None]:
        try:
            yield
        except Gone:
            write("swallowed")

    @router.on("hide")
    async def hide(it: Annotated[None, Depends(swallow)]) -> None:
        raise Gone("seen all the same")


def _declare_threads(router: Router, journal: Journal) -> None:
    @router.on("blocking.publish", room="chat:{channel}")
    def publish(connection: Connection, data: str, channel: str) -> dict[str, Any]:
        journal.threads.add(threading.get_ident())
        found = from_thread(router.publish(f"chat:{channel}", "told", data))
        from_thread(connection.send("echoed", data))
        return {"id": found.id, "user": found.user}

    @router.on("blocking.retry", room="chat:{channel}")
    def retry(channel: str) -> None:
        from_thread(router.publish(f"chat:{channel}", "told", "once"))
        if not journal.lines:
            journal.lines.append("tried")
            raise Unavailable

    @router.on("ping")
    async def ping() -> None: ...

    @router.on("blocking.hold")
    def hold(data: Any) -> str:
        journal.block()
        return "held"

    async def somewhere(connection: Connection) -> None:
        where.set(f"with {connection.user}")

    @router.on("blocking.context")
    def context(it: Annotated[None, Depends(somewhere)]) -> str:
        return where.get()

    def cleaned() -> Iterator[str]:
        try:
            yield "kept"
        finally:
            journal.lines.append("cleaned")

    @router.on("blocking.keep")
    def keep(it: Annotated[str, Depends(cleaned)], data: Any) -> str:
        journal.block()
        journal.lines.append("used")
        return it

    pool = threading.Semaphore(1)

    def pooled() -> Iterator[None]:
        assert pool.acquire(timeout=30)
        try:
            yield
        finally:
            pool.release()

    @router.on("pooled")
    async def use(it: Annotated[None, Depends(pooled)]) -> str:
        await journal.go.wait()
        return "used"

    @router.snapshot("kept:{name}")
    def kept(it: Annotated[str, Depends(cleaned)], name: str) -> str:
        journal.block()
        journal.lines.append("used")
        return it

    @router.on("blocking.coroutine")
    def coroutine() -> Any:
        return anyio.lowlevel.checkpoint()

    @router.on("blocking.stop")
    def stop() -> None:
        raise StopIteration

    @router.on("not.blocking")
    async def asynchronous() -> None:
        from_thread(router.publish("chat:general", "told"))


def _declare_hooks(router: Router, journal: Journal) -> None:
    @router.on_connect
    def rooms_of(connection: Connection) -> list[str]:
        if connection.user == "gone":
            raise Gone("moved away")
        return ["chat:general"]

    @router.on_disconnect
    def goodbye(user: Annotated[str, User]) -> None:
        from_thread(router.publish("chat:general", "left", user))

    @router.room("chat:{channel}")
    def may_join(user: Annotated[str, User], channel: str) -> bool:
        if channel == "gone":
            raise Lost("no such channel")
        return channel != "secret"

    @router.room("kept:*")
    def may_keep() -> bool:
        return True

    @router.snapshot("chat:{channel}")
    def state(channel: str) -> str:
        return f"state of {channel}"


def _declare_errors(router: Router, journal: Journal) -> None:
    @router.error(Gone)
    def gone(error: Gone) -> EventError | None:
        return None if str(error) == "unknown" else EventError("app.gone", str(error))

    @router.error(KeyError)
    def broken(error: KeyError) -> EventError:
        raise ZeroDivisionError

    @router.error(IndexError)
    def liar(error: IndexError) -> EventError:
        return "nonsense"  # type: ignore[return-value]

    @router.on("raise")
    async def fail(name: str) -> None:
        errors: dict[str, Exception] = {
            "gone": Gone("it is"),
            "lost": Lost("so is it"),
            "unknown": Gone("unknown"),
            "broken": KeyError(),
            "liar": IndexError(),
        }
        raise errors[name]

    @router.on("validate")
    async def validate(data: Strict) -> None:
        Strict.model_validate({"number": "none"})
