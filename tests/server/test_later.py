"""`last_event_id=later`: the cursor comes with `session.resume`, and the auto-joined rooms come with the first one."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from roomwire.backplanes.memory import MemoryBackplane
from roomwire.core.limits import Limits
from roomwire.testing.clock import VirtualClock
from tests.server.chat import Log, make_app
from tests.server.conftest import Serve
from tests.server.live import Client, LiveServer, Shell

pytestmark = pytest.mark.wire

LATER = "last_event_id=later"
NOT_RESUMABLE = (4005, "not resumable now")


def resume(client: Client, **rooms: str) -> dict[str, Any]:
    """The reply to a resume of rooms of the chat."""
    positions = {f"chat:{channel}": position for channel, position in rooms.items()}
    reply: dict[str, Any] = client.request("session.resume", {"rooms": positions})["data"]
    return reply


def test_nothing_is_joined_until_session_resume(server: LiveServer) -> None:
    position = server.connect("ann").welcome["rooms"]["chat:general"]["position"]
    ids = server.publish(2)
    back = server.connect("ann", query=LATER)
    assert back.welcome["rooms"] == {}
    assert resume(back, general=position) == {"rooms": {"chat:general": {"position": ids[-1], "recovered": True}}}
    assert [back.receive_until("told")["id"] for _ in ids] == ids


def test_rooms_of_the_hook_come_with_session_resume(serve: Serve) -> None:
    log = Log()
    log.auto["ann"] = ["chat:one", "chat:two"]
    server = serve(app=make_app(log))
    back = server.connect("ann", query=LATER)
    epoch = server.call(server.node.backplane.subscribe, "chat:one").epoch
    assert resume(back, one=f"{epoch}:0", secret=f"{epoch}:0")["rooms"] == {
        "chat:one": {"position": f"{epoch}:0", "recovered": True},
        "chat:two": {"position": f"{epoch}:0", "recovered": None},
        "chat:secret": {"recovered": False, "reason": "forbidden"},
    }


def test_state_1_holds_for_the_rooms_that_come_with_the_resume(shell: Shell, serve: Serve) -> None:
    log = Log()
    log.auto["ann"] = ["chat:one", "chat:two"]
    server = serve(shell, app=make_app(log))
    back = server.connect("ann", query=f"state=1&{LATER}")
    epoch = server.call(server.node.backplane.subscribe, "chat:one").epoch
    rooms = resume(back, one=f"{epoch}:0", three=f"{epoch}:0")["rooms"]
    # What is in the cursor is replayed, and the state is of those that begin here.
    assert {room: status["recovered"] for room, status in rooms.items()} == {
        "chat:one": True,
        "chat:two": None,
        "chat:three": True,
    }
    state = back.receive_until("room.state")
    assert (state["room"], state["data"]) == ("chat:two", {"reason": "requested", "state": []})
    assert not [e for e in back.events_before("whoami") if e["event"] == "room.state"]


def test_another_first_message_is_a_breach(serve: Serve) -> None:
    back = serve().connect("ann", query=LATER)
    back.send("whoami")
    assert back.closed() == (1008, "session.resume has to come first")


def test_a_resume_that_does_not_come_in_10_seconds(serve: Serve) -> None:
    server = serve(clock=VirtualClock())
    back = server.connect("ann", query=LATER)
    server.advance(9.9)
    assert not [e for e in back.events_before("presence.heartbeat") if e["event"] != "ack"]
    server.advance(0.5)
    assert back.receive_until("session.closing")["data"]["code"] == 4005
    assert back.closed()[0] == 4005


def test_a_resume_of_a_room_that_one_is_in_is_a_conflict(serve: Serve) -> None:
    ann = serve().connect("ann")
    assert resume(ann, general=ann.welcome["rooms"]["chat:general"]["position"])["code"] == "conflict"
    assert ann.request("whoami")["event"] == "ack"


# --- the first one has one try


def test_the_first_resume_that_fails_is_told_and_closed_and_the_next_connection_has_all(serve: Serve) -> None:
    server = serve()
    back = server.connect("ann", query=LATER)
    backplane = server.node.backplane
    assert isinstance(backplane, MemoryBackplane)
    server.call(backplane.cut)
    back.send("session.resume", {"rooms": {}}, id="first")
    assert back.receive_until("error", id="first")["data"]["code"] == "unavailable"
    assert back.receive_until("session.closing")["data"]["reconnect"] is True
    assert back.closed() == NOT_RESUMABLE
    server.call(backplane.heal)
    assert list(resume(server.connect("ann", query=LATER))["rooms"]) == ["chat:general"]


@pytest.mark.parametrize("code", ["too_many_rooms", "conflict"])
def test_the_first_resume_is_the_only_one_that_brings_the_rooms_of_the_hook(
    shell: Shell, serve: Serve, code: str
) -> None:
    """The hook allowed them when the connection came. Kept for a second try, its word would be good for hours."""
    log = Log()
    app = make_app(log)
    server = serve(shell, app=app, limits=Limits(rooms=3))
    back = server.connect("ann", query=LATER)
    if code == "conflict":
        server.act(app.add, "ann", "chat:0")
        back.receive_until("room.joined")
    count = 1 if code == "conflict" else 4
    resumes = [{"rooms": {f"chat:{number}": "a:0" for number in range(count)}}, {"rooms": {}}]
    # At once: the second one is there before the first one is answered, or comes behind the close that answers it.
    with suppress(ConnectionClosed):
        for number, data in enumerate(resumes):
            back.send("session.resume", data, id=str(number))
    assert back.receive_until("error")["data"]["code"] == code
    assert [message["event"] for message in rest_of(back)] == ["session.closing"]
    assert back.closed() == NOT_RESUMABLE


def rest_of(client: Client) -> list[dict[str, Any]]:
    """All messages up to the announcement of the close."""
    messages: list[dict[str, Any]] = []
    while not messages or messages[-1]["event"] != "session.closing":
        messages.append(client.receive())
    return messages


def test_a_resume_later_on_may_fail(serve: Serve) -> None:
    """It brings no rooms of the hook's, so that nothing is lost with it."""
    back = serve(limits=Limits(rooms=3)).connect("ann", query=LATER)
    assert list(resume(back)["rooms"]) == ["chat:general"]
    assert resume(back, one="a:0", two="a:0", three="a:0", four="a:0")["code"] == "too_many_rooms"
    assert list(resume(back, one="a:0")["rooms"]) == ["chat:one"]


# --- what the application orders in between


def test_a_user_who_is_removed_before_the_resume_is_not_put_in_by_it(shell: Shell, serve: Serve) -> None:
    app = make_app()
    server = serve(shell, app=app)
    client = server.connect("ann", query=LATER)
    server.act(app.remove, "ann", "chat:general", "banned")
    assert resume(client)["rooms"] == {"chat:general": {"recovered": False, "reason": "forbidden"}}
    assert client.request("session.rooms")["data"]["rooms"] == {}
    server.publish()
    assert not [e for e in client.events_before("whoami") if e["event"] == "told"]


def test_a_user_who_is_removed_and_added_before_the_resume_is_in(shell: Shell, serve: Serve) -> None:
    app = make_app()
    server = serve(shell, app=app)
    client = server.connect("ann", query=LATER)
    server.act(app.remove, "ann", "chat:general", "banned")
    server.act(app.add, "ann", "chat:general")
    client.receive_until("room.joined")
    assert resume(client)["rooms"] == {"chat:general": {"recovered": False, "reason": "unavailable"}}
    assert client.receive_until("room.state")["data"]["reason"] == "unavailable"
    assert list(client.request("session.rooms")["data"]["rooms"]) == ["chat:general"]
