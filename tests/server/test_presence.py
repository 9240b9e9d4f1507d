"""Who is in a room: told once for each user, whoever noticed it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from roomwire.backplanes.contract import Member
from roomwire.backplanes.memory import MemoryBackplane
from roomwire.core.limits import Limits
from roomwire.core.policy import RoomPolicy
from roomwire.node import Node
from roomwire.testing.clock import VirtualClock
from tests.server.chat import Log, make_app
from tests.server.conftest import ROOMS, Serve
from tests.server.live import TIMEOUT, UNHURRIED, Client, LiveServer, live_cluster
from tests.server.watching import until

pytestmark = pytest.mark.wire

GRACE = {"chat:*": RoomPolicy(presence=True, leave_grace=2.0)}


def person(user: str) -> dict[str, Any]:
    return {"user": user, "info": {"name": user.title()}}


def presence(client: Client) -> list[tuple[str, str]]:
    """The changes that came up to now, as (what, who)."""
    events = [e for e in client.events_before("whoami") if e["event"] in ("presence.join", "presence.leave")]
    return [(event["event"].removeprefix("presence."), event["data"]["user"]) for event in events]


def settle(*servers: LiveServer, told: bool = True) -> None:
    """Until everything about presence that was to be done is done on these nodes of one loop.

    Where `told`, members have heard of it, too.
    """

    def is_busy(node: Node) -> bool:
        presence, telling = node.presence, told and any(room.is_telling for room in node.hub.rooms.values())
        chores = presence._looks or presence._entries or presence._graces or node.farewells or node.upkeep._busy
        return bool(chores) or telling

    until(servers[0], lambda: not any(is_busy(server.node) for server in servers))


def members(client: Client, room: str = "chat:general") -> list[str]:
    return [member["user"] for member in client.request("room.members", room=room)["data"]["members"]]


def test_the_list_comes_after_the_join_and_changes_follow(server: LiveServer) -> None:
    ann = server.connect("ann")
    state = ann.receive_until("presence.state")
    assert (state["room"], state["data"]) == ("chat:general", {"members": [person("ann")]})
    bob = server.connect("bob")
    assert bob.receive_until("presence.state")["data"] == {"members": [person("ann"), person("bob")]}
    joined = ann.receive_until("presence.join")
    assert (joined["room"], joined["data"]) == ("chat:general", person("bob"))
    assert "id" not in joined
    bob.close()
    left = ann.receive_until("presence.leave")
    assert (left["room"], left["data"]) == ("chat:general", person("bob"))


def test_a_user_with_two_connections_joins_once_and_leaves_with_the_last(server: LiveServer) -> None:
    ann = server.connect("ann")
    settle(server)
    one, two = server.connect("bob"), server.connect("bob")
    settle(server)
    assert presence(ann) == [("join", "bob")]
    assert members(ann) == ["ann", "bob"]
    one.close()
    until(server, lambda: len(server.node.connections) == 2)
    settle(server)
    assert presence(ann) == []
    two.close()
    assert ann.receive_until("presence.leave")["data"]["user"] == "bob"


def test_a_leave_is_told_after_the_grace(serve: Serve) -> None:
    server = serve(rooms=GRACE, clock=VirtualClock())
    ann = server.connect("ann")
    settle(server)
    bob = server.connect("bob")
    settle(server)
    assert presence(ann) == [("join", "bob")]
    bob.close()
    until(server, lambda: len(server.node.connections) == 1)
    settle(server)
    server.advance(1.9)
    settle(server)
    assert presence(ann) == []
    server.advance(0.2)
    assert ann.receive_until("presence.leave")["data"]["user"] == "bob"


def test_who_is_back_within_the_grace_never_left(serve: Serve) -> None:
    server = serve(rooms=GRACE, clock=VirtualClock())
    ann, bob = server.connect("ann"), server.connect("bob", query="client=bob-phone")
    settle(server)
    presence(ann)
    bob.close()
    until(server, lambda: len(server.node.connections) == 1)
    settle(server)
    server.advance(1)
    server.connect("bob", query="client=bob-phone")
    settle(server)
    server.advance(10)
    settle(server)
    assert presence(ann) == []


def test_who_leaves_a_room_and_joins_it_again_in_the_same_connection_stays(serve: Serve) -> None:
    server = serve(rooms=GRACE, clock=VirtualClock())
    ann, bob = server.connect("ann"), server.connect("bob")
    settle(server)
    presence(ann)
    bob.request("room.leave", room="chat:general")
    settle(server)
    server.advance(1)
    bob.request("room.join", room="chat:general")
    settle(server)
    server.advance(1.5)
    settle(server)
    assert presence(ann) == []
    assert members(ann) == ["ann", "bob"]


def test_leave_and_join_in_one_breath(serve: Serve) -> None:
    server = serve(limits=UNHURRIED)
    ann = server.connect("ann")
    settle(server)
    bob = server.connect("bob")
    for _ in range(20):
        bob.send("room.leave", room="chat:general")
        bob.send("room.join", room="chat:general", id="again")
    bob.events_before("whoami")
    settle(server)
    changes = presence(ann)
    # Whatever was told in between, each change was one, and it is true at the end.
    assert all(one != other for one, other in pairwise(changes))
    assert changes[-1] == ("join", "bob")
    assert members(ann) == ["ann", "bob"]


def test_a_take_over_by_the_same_client_is_no_leave_even_without_a_grace(server: LiveServer) -> None:
    ann = server.connect("ann")
    old = server.connect("bob", query="client=bob-phone")
    settle(server)
    presence(ann)
    new = server.connect("bob", query="client=bob-phone")
    assert old.closed() == (4501, "replaced by another connection")
    settle(server)
    assert presence(ann) == []
    assert members(new) == ["ann", "bob"]


def test_a_room_that_the_new_connection_does_not_enter_is_left_in_the_end(serve: Serve) -> None:
    log = Log()
    server = serve(app=make_app(log), clock=VirtualClock())
    ann = server.connect("ann")
    settle(server)
    server.connect("bob", query="client=bob-phone")
    settle(server)
    log.auto["bob"] = []
    server.connect("bob", query="client=bob-phone")
    settle(server)
    assert presence(ann) == [("join", "bob")]
    server.advance(10.1)
    settle(server)
    assert presence(ann) == [("leave", "bob")]


def test_members_of_a_room_without_presence_are_not_told(serve: Serve) -> None:
    ann = serve().connect("ann")
    ann.request("room.join", room="news:world")
    assert ann.request("room.members", room="news:world")["data"] == {
        "code": "forbidden",
        "message": "this room keeps no list of its members",
    }
    assert not [e for e in ann.events_before("whoami") if e.get("room") == "news:world"]


def test_what_others_are_told_of_a_member_is_its_user_and_info_alone(serve: Serve) -> None:
    server = serve()
    ann = server.connect("ann")
    settle(server)
    server.connect("bob")
    assert set(ann.receive_until("presence.join")["data"]) == {"user", "info"}
    assert {frozenset(m) for m in ann.request("room.members", room="chat:general")["data"]["members"]} == {
        frozenset({"user", "info"})
    }


def test_info_is_json_of_a_limited_size(serve: Serve) -> None:
    from roomwire.core.errors import LocalError

    log = Log()
    server = serve(app=make_app(log))
    server.connect("ann").request("hold")
    connection = log.connections["ann"]
    assert connection.info == {"name": "Ann"}
    with pytest.raises(LocalError, match="has to be JSON"):
        connection.info = object()
    with pytest.raises(LocalError, match="at most 4096"):
        connection.info = "x" * 4096
    assert connection.info == {"name": "Ann"}


def test_a_lease_that_expires_without_a_hint_is_noticed_by_the_sweep(serve: Serve) -> None:
    server = serve(clock=VirtualClock(), limits=UNHURRIED)
    ann = server.connect("ann")
    settle(server)
    backplane = server.node.backplane
    assert isinstance(backplane, MemoryBackplane)
    # Another node's member, which died without a word.
    server.call(backplane.hub.room_leases, "chat:general", 1000.0)
    leases = backplane.hub.presence["chat:general"]
    ghost = Member("ghost", "ghost-phone", "c", b"null")
    leases["ghost", "ghost-phone"] = type(next(iter(leases.values())))(ghost, server.node.clock() + 55)
    server.call(server.node.presence.changed, "chat:general")
    settle(server)
    assert presence(ann) == [("join", "ghost")]
    for _ in range(9):
        server.advance(10)
        ann.send("presence.heartbeat")
        settle(server)
    assert presence(ann) == [("leave", "ghost")]
    assert members(ann) == ["ann"]


def test_after_an_interruption_the_whole_list_comes(serve: Serve) -> None:
    server = serve()
    ann = server.connect("ann")
    ann.receive_until("presence.state")
    server.call(server.node.hub.interrupted, ["chat:general"])
    assert ann.receive_until("presence.state")["data"] == {"members": [person("ann")]}


def test_presence_that_cannot_be_written_is_made_good_by_the_next_refresh(serve: Serve) -> None:
    server = serve(clock=VirtualClock())
    backplane = server.node.backplane
    assert isinstance(backplane, MemoryBackplane)
    enter = backplane.enter

    async def fail(*arguments: Any) -> None:
        from roomwire.core.errors import Unavailable

        raise Unavailable

    backplane.enter = fail  # type: ignore[method-assign, assignment]
    ann = server.connect("ann")
    settle(server)
    assert members(ann) == []
    backplane.enter = enter  # type: ignore[method-assign]
    server.advance(20.5)
    until(server, lambda: not server.node.upkeep._busy)
    assert members(ann) == ["ann"]


def test_a_refresh_that_failed_is_tried_again_soon(serve: Serve) -> None:
    """Leases would lapse, and until it succeeds presence is in doubt."""
    server = serve(clock=VirtualClock())
    backplane, tries = server.node.backplane, []
    refresh = backplane.refresh

    async def fail(*arguments: Any, **named: Any) -> Any:
        from roomwire.core.errors import Unavailable

        tries.append(server.node.clock())
        if len(tries) < 3:
            raise Unavailable
        return await refresh(*arguments, **named)

    backplane.refresh = fail  # type: ignore[method-assign]
    for _ in range(30):
        server.advance(1.0)
        until(server, lambda: not server.node.upkeep._busy)
    assert len(tries) == 3
    assert tries[2] - tries[0] < 8.0


def test_a_thousand_members_cost_no_task_each(serve: Serve) -> None:
    server = serve(limits=Limits(connections_per_user=1000, message_burst=10**6))
    ann = server.connect("ann")
    rooms = [f"chat:{number}" for number in range(99)]
    for room in rooms:
        ann.request("room.join", room=room)
    tasks = server.node.runtime._tasks
    settle(server)
    counts = []
    depart = server.node.depart

    def counting(connection: Any) -> None:
        before = len(tasks)  # type: ignore[arg-type]
        depart(connection)
        counts.append(len(tasks) - before)  # type: ignore[arg-type]

    server.node.depart = counting  # type: ignore[method-assign]
    ann.close()
    until(server, lambda: not server.node.connections)
    # One for the farewell, and those that close the rooms, a bounded number at a time.
    assert counts[0] <= 1 + 64


# --- the list for those who ask


class CountedReads(MemoryBackplane):
    """It counts reads of who is there, and answers one when the test lets it."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0
        self.gate = anyio.Event()
        self.gate.set()

    async def members(self, room: str) -> list[Member]:
        self.reads += 1
        members = await super().members(room)
        await self.gate.wait()
        return members


def test_the_list_is_read_once_until_a_change(server_of_counted: LiveServer) -> None:
    server, backplane = server_of_counted, server_of_counted.node.backplane
    assert isinstance(backplane, CountedReads)
    ann, bob = server.connect("ann"), server.connect("bob")
    settle(server)
    before = backplane.reads
    for client in (ann, bob, ann):
        assert members(client) == ["ann", "bob"]
    assert [member.user for member in server.act(server.node.app.members, "chat:general")] == ["ann", "bob"]
    assert backplane.reads == before
    eve = server.connect("eve")
    settle(server)
    assert members(ann) == ["ann", "bob", "eve"]
    eve.close()
    ann.receive_until("presence.leave")
    assert members(ann) == ["ann", "bob"]
    # What may have been missed is a change, too.
    until(server, lambda: not server.node.presence._looks)
    before = backplane.reads
    server.call(server.node.hub.interrupted, ["chat:general"])
    assert members(ann) == ["ann", "bob"]
    assert backplane.reads > before


def test_who_asks_while_the_list_is_read_shares_the_next_read(server_of_counted: LiveServer) -> None:
    server, backplane = server_of_counted, server_of_counted.node.backplane
    assert isinstance(backplane, CountedReads)
    clients = [server.connect(f"user-{number}") for number in range(5)]
    settle(server)
    room = server.node.hub.rooms["chat:general"]

    async def all_at_once() -> list[list[str]]:
        answers: list[list[str]] = []

        async def ask() -> None:
            answers.append([person.user for person in await server.node.presence.people("chat:general")])
            assert room.roster is None or len(room.roster) == 6

        room.roster, backplane.gate = None, anyio.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            while backplane.reads == before:
                await anyio.lowlevel.checkpoint()
            for _ in range(20):
                group.start_soon(ask)
            # It came after the first read has begun, so that this one's answer is not kept.
            await backplane.enter("chat:general", Member("late", "client-of-late", "connection-of-late"))
            backplane.gate.set()
        return answers

    before = backplane.reads
    answers = server.call(all_at_once)
    everyone = [f"user-{number}" for number in range(5)]
    assert answers == [everyone, *[[*everyone, "late"]] * 20]
    settle(server)
    assert backplane.reads <= before + 3  # the first one, the one that is shared, and the look at the change
    assert members(clients[0]) == [*everyone, "late"]


def test_a_list_that_cannot_be_read_is_unavailable(serve: Serve) -> None:
    server = serve()
    ann = server.connect("ann")
    settle(server)
    backplane = server.node.backplane
    assert isinstance(backplane, MemoryBackplane)
    server.call(backplane.cut)
    server.call(server.node.hub.interrupted, None)
    assert ann.request("room.members", room="chat:general")["data"]["code"] == "unavailable"
    server.call(backplane.heal)
    assert members(ann) == ["ann"]


@pytest.fixture
def server_of_counted(serve: Serve) -> LiveServer:
    # No sweep comes between, which reads as well.
    return serve(backplane=CountedReads(), clock=VirtualClock())


# --- on more nodes


@pytest.fixture
def cluster() -> Iterator[list[LiveServer]]:
    with live_cluster([make_app(), make_app()], rooms=ROOMS) as servers:
        yield servers


def test_presence_over_two_nodes(cluster: list[LiveServer]) -> None:
    one, two = cluster
    ann = one.connect("ann")
    settle(one, two)
    bob = two.connect("bob")
    settle(one, two)
    assert presence(ann) == [("join", "bob")]
    assert members(ann) == members(bob) == ["ann", "bob"]
    # A second connection elsewhere is no second join, and its end no leave.
    other = one.connect("bob")
    settle(one, two)
    other.close()
    until(one, lambda: len(one.node.connections) == 1)
    settle(one, two)
    assert presence(ann) == []
    bob.close()
    assert ann.receive_until("presence.leave")["data"]["user"] == "bob"


def test_a_client_that_moves_to_another_node_does_not_leave(cluster: list[LiveServer]) -> None:
    one, two = cluster
    ann = one.connect("ann")
    old = one.connect("bob", query="client=bob-phone")
    settle(one)
    presence(ann)
    new = two.connect("bob", query="client=bob-phone")
    assert old.closed()[0] == 4501
    settle(one, two)
    assert presence(ann) == []
    assert members(new) == ["ann", "bob"]


def test_the_members_of_a_node_that_is_drained_leave(cluster: list[LiveServer]) -> None:
    one, two = cluster
    ann = one.connect("ann")
    for number in range(5):
        two.connect(f"user-{number}")
    settle(one, two)
    presence(ann)
    two.call(two.node.drain.run)
    two.ended.result(TIMEOUT)
    settle(one)
    assert sorted(presence(ann)) == [("leave", f"user-{number}") for number in range(5)]
