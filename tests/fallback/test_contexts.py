"""Context variables of the application: what it sets for one request is seen in no other."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

from roomwire.core.exchange import HIGH_WATER
from roomwire.transports.anyio.door import HANDSHAKES_PER_TURN
from tests.fallback.apps import respond
from tests.fallback.conftest import live_fallback
from tests.fallback.talking import ask, read_response
from tests.server.live import Shell
from tests.server.raw import connect
from tests.server.watching import carriers, until

user: ContextVar[str] = ContextVar("user", default="nobody")


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Says who was set before it, and sets another one before it reads on."""
    assert scope["type"] == "http"
    before = user.get()
    user.set("ann")
    while (await receive())["more_body"]:
        pass
    await respond(send, before.encode())


BODY = b"x" * (4 * HIGH_WATER)
"""More than waits: what is read of it last is read because the application took what came first."""
UPLOAD = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY


def test_who_takes_a_large_body_is_not_taken_for_who_asks_next(shell: Shell) -> None:
    """A proxy's connection carries the requests of many."""
    with live_fallback(application, shell) as server, connect(server.port) as link:
        for data in (UPLOAD, ask(), UPLOAD, ask()):
            link.send(data)
            assert read_response(link).body == b"nobody"


def test_nor_for_those_who_wait_at_the_door_with_the_next_request(shell: Shell) -> None:
    with live_fallback(application, shell) as server, connect(server.port) as link:
        link.send(UPLOAD)
        assert read_response(link).body == b"nobody"
        others = [connect(server.port) for _ in range(3 * HANDSHAKES_PER_TURN)]
        until(server, lambda: len(carriers(server)) == len(others) + 1)

        def ask_all() -> None:
            # On the server's own loop: it sees none of them before it sees all.
            for each in (link, *others):
                each.send(ask())

        server.call(ask_all)
        for each in (link, *others):
            with each:
                assert read_response(each).body == b"nobody"
