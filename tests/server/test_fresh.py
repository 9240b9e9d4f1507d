"""Who joins without a position waits for nothing, and yet what happens to the room before the welcome is told right."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from roomwire.core.tail import Need
from roomwire.node.rooms import Membership, Room
from roomwire.testing.clock import VirtualClock
from tests.server.conftest import Serve
from tests.server.live import Client, LiveServer
from tests.server.test_joins import Held
from tests.server.watching import until

pytestmark = pytest.mark.wire


def room_of(server: LiveServer) -> Room:
    return server.node.hub.rooms["chat:general"]


def member(server: LiveServer) -> Membership:
    """The membership of ann, whose welcome is still to come."""
    (connection,) = server.node.connections_of("ann")
    return connection._memberships["chat:general"]


@contextmanager
def deciding(server: LiveServer) -> Iterator[Callable[[], Client]]:
    """Ann is in her first room, and her second one is being read; called, it lets her go on and gives her."""
    held = Held(server)
    with ThreadPoolExecutor(1) as pool:
        future: Future[Client] = pool.submit(server.connect, query="last_event_id=chat:two@another:1")
        until(server, lambda: held.waiting)

        def go_on() -> Client:
            server.call(held.release.set)
            return future.result()

        try:
            yield go_on
        finally:
            server.call(held.release.set)


def test_it_stands_where_the_room_stands_when_it_goes_live(serve: Serve) -> None:
    server = serve()
    with deciding(server) as go_on:
        assert member(server).replay is None
        published = server.publish(3)
        ann = go_on()
    assert ann.welcome["rooms"]["chat:general"] == {"position": published[-1], "recovered": None}
    (later,) = server.publish()
    # What came before is neither replayed nor sent late.
    received = iter(ann.receive, None)
    assert next(m["id"] for m in received if m.get("room") == "chat:general" and "id" in m) == later


def test_a_room_that_is_to_start_anew_by_then_gives_its_state(serve: Serve) -> None:
    server = serve(clock=VirtualClock())  # nor does it heal by itself until then
    with deciding(server) as go_on:

        def lose() -> None:
            tail = room_of(server).tail
            assert tail is not None
            tail._broken = True
            assert tail.need is Need.RESET

        server.call(lose)
        ann = go_on()
    assert ann.welcome["rooms"]["chat:general"]["reason"] == "unavailable"
    assert ann.receive_until("room.state", room="chat:general")["data"]["reason"] == "unavailable"
    until(server, lambda: member(server).live and member(server).replay is None)


def test_it_gets_the_state_that_is_asked_for_meanwhile(serve: Serve) -> None:
    server = serve()
    with deciding(server) as go_on:
        server.call(lambda: server.node.entering.refresh(member(server), "too_far"))
        ann = go_on()
    assert ann.welcome["rooms"]["chat:general"]["reason"] == "too_far"
    assert ann.receive_until("room.state", room="chat:general")["data"]["reason"] == "too_far"
    until(server, lambda: member(server).live and member(server).replay is None)
