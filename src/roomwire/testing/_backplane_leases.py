"""The backplane suite: presence, slots, replies of idempotent messages, and control messages."""

from __future__ import annotations

import anyio
import pytest

from roomwire.backplanes.contract import Claim, Holder, Lost, Member, Reservation
from roomwire.testing._backplane_base import Advance, Base, Node
from roomwire.testing._backplane_streams import HOSTILE_NAMES

__all__ = ["Control", "Presence", "Replies", "Slots"]

ANN = Member("ann", "client-1", "connection-1", b'{"name":"Ann"}')
BOB = Member("bob", "client-2", "connection-2")
ANN_AGAIN = ANN._replace(connection="connection-3")


def holder(client: str, connection: str = "", node: str = "node-a") -> Holder:
    """A slot's holder; one connection of a client, unless it is named."""
    return Holder(client, connection or f"connection of {client}", node)


@pytest.mark.anyio
class Presence(Base):
    """Who is in a room."""

    async def test_members_are_seen_by_all_nodes(self, node: Node, other: Node) -> None:
        await node.backplane.enter("r", ANN)
        await other.backplane.enter("r", BOB)
        for one in (node, other):
            assert await one.backplane.members("r") == [ANN, BOB]
        assert await node.backplane.members("another room") == []

    async def test_entering_twice_is_entering_once(self, node: Node) -> None:
        await node.backplane.enter("r", ANN)
        await node.backplane.enter("r", ANN)
        assert await node.backplane.members("r") == [ANN]

    async def test_two_clients_of_a_user_are_two_leases(self, node: Node) -> None:
        second = Member("ann", "client-9", "connection-9")
        await node.backplane.enter("r", ANN)
        await node.backplane.enter("r", second)
        await node.backplane.leave("r", ANN, 0)
        assert await node.backplane.members("r") == [second]

    async def test_a_returning_client_takes_its_lease_over(self, node: Node, other: Node) -> None:
        await node.backplane.enter("r", ANN)
        await other.backplane.enter("r", ANN_AGAIN)
        assert await node.backplane.members("r") == [ANN_AGAIN]

    async def test_the_late_leave_of_the_old_connection_is_nothing(self, node: Node, other: Node) -> None:
        await node.backplane.enter("r", ANN)
        await other.backplane.enter("r", ANN_AGAIN)
        await node.backplane.leave("r", ANN, 0)
        assert await node.backplane.members("r") == [ANN_AGAIN]
        await other.backplane.leave("r", ANN_AGAIN, 0)
        assert await node.backplane.members("r") == []

    async def test_leaving_what_was_not_entered_is_nothing(self, node: Node) -> None:
        await node.backplane.leave("r", ANN, 0)
        await node.backplane.enter("r", BOB)
        await node.backplane.leave("r", ANN, 0)
        assert await node.backplane.members("r") == [BOB]

    async def test_a_leave_with_grace_ends_after_it(self, node: Node, advance: Advance) -> None:
        await node.backplane.enter("r", ANN)
        await node.backplane.leave("r", ANN, 2.0 * self.pace)
        assert await node.backplane.members("r") == [ANN]
        await advance(3.0 * self.pace)
        assert await node.backplane.members("r") == []

    async def test_who_is_back_within_the_grace_stays(self, node: Node, other: Node, advance: Advance) -> None:
        await node.backplane.enter("r", ANN)
        await node.backplane.leave("r", ANN, 1.0 * self.pace)
        await other.backplane.enter("r", ANN_AGAIN)
        await advance(1.5 * self.pace)
        assert await node.backplane.members("r") == [ANN_AGAIN]
        await node.backplane.leave("r", ANN, 0)
        assert await node.backplane.members("r") == [ANN_AGAIN]

    async def test_nodes_with_members_get_hints(self, node: Node, other: Node) -> None:
        await node.backplane.subscribe("r")
        await other.backplane.enter("r", ANN)
        await node.sink.until(lambda: "r" in node.sink.changes)
        node.sink.changes.clear()
        await other.backplane.leave("r", ANN, 0)
        await node.sink.until(lambda: "r" in node.sink.changes)

    async def test_the_end_of_a_grace_is_hinted(self, node: Node, other: Node, advance: Advance) -> None:
        await node.backplane.subscribe("r")
        await other.backplane.enter("r", ANN)
        await node.sink.until(lambda: "r" in node.sink.changes)
        await other.backplane.leave("r", ANN, 1.0 * self.pace)
        await advance(1.5 * self.pace)
        node.sink.changes.clear()
        await other.backplane.leave("r", ANN, 0)
        await node.sink.until(lambda: "r" in node.sink.changes)
        assert await node.backplane.members("r") == []

    async def test_a_refresh_makes_leases_anew_and_steals_none(self, node: Node, other: Node) -> None:
        await other.backplane.enter("r", ANN_AGAIN)
        assert await node.backplane.refresh([("r", ANN), ("r", BOB)], []) == []
        assert await node.backplane.members("r") == [ANN_AGAIN, BOB]

    async def test_a_lease_lapses_unless_it_is_refreshed(self, node: Node, other: Node, advance: Advance) -> None:
        if self.lease is None:
            pytest.skip("the lease is too long to wait for")
        await node.backplane.enter("r", ANN)
        await other.backplane.enter("r", BOB)
        for _ in range(3):
            await advance(self.lease * 0.6)
            await node.backplane.refresh([("r", ANN)], [])
        assert await node.backplane.members("r") == [ANN]

    async def test_the_rooms_of_a_user(self, node: Node, other: Node) -> None:
        await node.backplane.enter("r", ANN)
        await other.backplane.enter("s", ANN)
        await other.backplane.enter("s", ANN._replace(client="client-9", connection="connection-9"))
        await node.backplane.enter("t", BOB)
        for one in (node, other):
            assert sorted(await one.backplane.rooms_of("ann")) == ["r", "s"]
        await node.backplane.leave("r", ANN, 0)
        assert await other.backplane.rooms_of("ann") == ["s"]
        assert await node.backplane.rooms_of("nobody") == []

    async def test_hostile_rooms_users_and_clients(self, node: Node) -> None:
        for room in HOSTILE_NAMES:
            await node.backplane.enter(room, Member(room, room, room, b'"' + room.encode() + b'"'))
        for name in HOSTILE_NAMES:
            await node.backplane.enter("r", Member(name, "client", "connection"))
            await node.backplane.enter("r", Member("user", name, "connection"))
        for room in HOSTILE_NAMES:
            assert await node.backplane.members(room) == [Member(room, room, room, b'"' + room.encode() + b'"')]
        for name in HOSTILE_NAMES:
            assert sorted(await node.backplane.rooms_of(name)) == sorted([name, "r"])
        members = await node.backplane.members("r")
        assert len(set(members)) == len(members) == 2 * len(HOSTILE_NAMES)
        assert {member.user for member in members} == {*HOSTILE_NAMES, "user"}


@pytest.mark.anyio
class Slots(Base):
    """How many connections a user may have."""

    async def test_the_limit_is_kept_to(self, node: Node, other: Node) -> None:
        assert await node.backplane.claim("ann", holder("c1"), 2, evict=False) == Claim(True)
        assert await other.backplane.claim("ann", holder("c2"), 2, evict=False) == Claim(True)
        assert await node.backplane.claim("ann", holder("c3"), 2, evict=False) == Claim(False)
        assert await node.backplane.claim("bob", holder("c3"), 2, evict=False) == Claim(True)
        await other.backplane.release("ann", holder("c2"))
        assert await node.backplane.claim("ann", holder("c3"), 2, evict=False) == Claim(True)

    async def test_racing_claims_fill_it_exactly(self, node: Node, other: Node) -> None:
        claims: list[Claim] = []

        async def claim(one: Node, client: str) -> None:
            claims.append(await one.backplane.claim("ann", holder(client), 5, evict=False))

        async with anyio.create_task_group() as group:
            for i in range(50):
                group.start_soon(claim, (node, other)[i % 2], f"c{i}")
        assert [claim.granted for claim in claims].count(True) == 5
        assert {claim.displaced for claim in claims} == {None}

    async def test_a_client_takes_its_own_slot_over(self, node: Node, other: Node) -> None:
        old, new = holder("c1", "old"), holder("c1", "new", "node-b")
        await node.backplane.claim("ann", old, 1, evict=False)
        assert await other.backplane.claim("ann", new, 1, evict=False) == Claim(True, old)
        assert await other.backplane.claim("ann", new, 1, evict=False) == Claim(True)
        assert await node.backplane.claim("ann", holder("c2"), 1, evict=False) == Claim(False)

    async def test_the_late_release_of_the_old_connection_is_nothing(self, node: Node, other: Node) -> None:
        old, new = holder("c1", "old"), holder("c1", "new", "node-b")
        await node.backplane.claim("ann", old, 1, evict=False)
        await other.backplane.claim("ann", new, 1, evict=False)
        await node.backplane.release("ann", old)
        await node.backplane.release("nobody", old)
        assert await node.backplane.claim("ann", holder("c2"), 1, evict=False) == Claim(False)
        await other.backplane.release("ann", new)
        assert await node.backplane.claim("ann", holder("c2"), 1, evict=False) == Claim(True)

    async def test_the_oldest_is_evicted(self, node: Node, other: Node) -> None:
        for client in ("c1", "c2"):
            await node.backplane.claim("ann", holder(client), 2, evict=True)
        assert await other.backplane.claim("ann", holder("c3"), 2, evict=True) == Claim(True, holder("c1"))
        assert await other.backplane.claim("ann", holder("c4"), 2, evict=True) == Claim(True, holder("c2"))
        assert await node.backplane.claim("ann", holder("c5"), 2, evict=False) == Claim(False)

    async def test_racing_evictions_name_each_connection_once(self, node: Node, other: Node) -> None:
        claims: list[Claim] = []

        async def claim(one: Node, client: str) -> None:
            claims.append(await one.backplane.claim("ann", holder(client), 3, evict=True))

        async with anyio.create_task_group() as group:
            for i in range(20):
                group.start_soon(claim, (node, other)[i % 2], f"c{i}")
        displaced = [claim.displaced for claim in claims if claim.displaced is not None]
        assert all(claim.granted for claim in claims)
        assert len(set(displaced)) == len(displaced) == 17

    async def test_a_refresh_names_the_slots_that_are_lost(self, node: Node, other: Node) -> None:
        mine = holder("c1", "old")
        await node.backplane.claim("ann", mine, 2, evict=False)
        assert await node.backplane.refresh([], [("ann", mine)], limit=2) == []
        await other.backplane.claim("ann", holder("c1", "new"), 2, evict=False)
        assert await node.backplane.refresh([], [("ann", mine)], limit=2) == [Lost("ann", mine, replaced=True)]
        await other.backplane.claim("ann", holder("c2"), 2, evict=False)
        lapsed = holder("c3")
        assert await node.backplane.refresh([], [("ann", lapsed)], limit=2) == [Lost("ann", lapsed, replaced=False)]
        assert await node.backplane.refresh([], [("bob", lapsed)], limit=2) == []
        assert await other.backplane.claim("bob", holder("c4"), 1, evict=False) == Claim(False)

    async def test_an_evicted_one_is_lost_to_others(self, node: Node, other: Node) -> None:
        mine = holder("c1")
        await node.backplane.claim("ann", mine, 1, evict=True)
        await other.backplane.claim("ann", holder("c2"), 1, evict=True)
        assert await node.backplane.refresh([], [("ann", mine)], limit=1) == [Lost("ann", mine, replaced=False)]

    async def test_a_slot_lapses_unless_it_is_refreshed(self, node: Node, other: Node, advance: Advance) -> None:
        if self.lease is None:
            pytest.skip("the lease is too long to wait for")
        await node.backplane.claim("ann", holder("c1"), 2, evict=False)
        await other.backplane.claim("ann", holder("c2"), 2, evict=False)
        for _ in range(3):
            await advance(self.lease * 0.6)
            assert await node.backplane.refresh([], [("ann", holder("c1"))], limit=2) == []
        assert await node.backplane.claim("ann", holder("c3"), 2, evict=False) == Claim(True)
        assert await node.backplane.claim("ann", holder("c4"), 2, evict=False) == Claim(False)

    async def test_hostile_users_and_clients(self, node: Node) -> None:
        for name in HOSTILE_NAMES:
            mine = Holder(name, name, name)
            assert await node.backplane.claim(name, mine, 1, evict=False) == Claim(True)
            assert await node.backplane.claim("ann", mine, len(HOSTILE_NAMES), evict=False) == Claim(True)
        for name in HOSTILE_NAMES:
            again = await node.backplane.claim(name, Holder(name, "another", name), 1, evict=False)
            assert again == Claim(True, Holder(name, name, name))


@pytest.mark.anyio
class Replies(Base):
    """An idempotent message is handled once."""

    async def test_one_of_many_copies_is_new(self, node: Node, other: Node) -> None:
        states: list[str] = []

        async def reserve(one: Node) -> None:
            states.append((await one.backplane.reserve("k", "print", 30.0)).state)

        async with anyio.create_task_group() as group:
            for i in range(20):
                group.start_soon(reserve, (node, other)[i % 2])
        assert sorted(states) == ["new"] + ["pending"] * 19

    async def test_a_pending_copy_has_the_fingerprint_of_the_first(self, node: Node, other: Node) -> None:
        assert await node.backplane.reserve("k", "first", 30.0) == Reservation("new", "first")
        assert await other.backplane.reserve("k", "second", 30.0) == Reservation("pending", "first")

    async def test_the_reply_is_remembered(self, node: Node, other: Node) -> None:
        value = bytes(range(256)) + b"|\r\n*"
        await node.backplane.reserve("k", "first", 30.0)
        await node.backplane.remember("k", "first", value, 300.0)
        assert await other.backplane.reserve("k", "second", 30.0) == Reservation("done", "first", value)
        assert await other.backplane.reserve("K", "second", 30.0) == Reservation("new", "second")

    async def test_an_empty_reply_is_a_reply(self, node: Node) -> None:
        await node.backplane.reserve("k", "p", 30.0)
        await node.backplane.remember("k", "p", b"", 300.0)
        assert await node.backplane.reserve("k", "p", 30.0) == Reservation("done", "p", b"")

    async def test_a_forgotten_one_is_new_again(self, node: Node, other: Node) -> None:
        await node.backplane.reserve("k", "first", 30.0)
        await node.backplane.forget("k")
        await node.backplane.forget("never seen")
        assert await other.backplane.reserve("k", "second", 30.0) == Reservation("new", "second")

    async def test_a_reply_is_not_forgotten(self, node: Node, other: Node, advance: Advance) -> None:
        await node.backplane.reserve("k", "p", 1.0 * self.pace)
        await advance(1.5 * self.pace)
        # A node that stood still comes to its end when another one has handled the message.
        await other.backplane.reserve("k", "p", 30.0)
        await other.backplane.remember("k", "p", b"reply", 300.0)
        await node.backplane.forget("k")
        assert await node.backplane.reserve("k", "p", 30.0) == Reservation("done", "p", b"reply")

    async def test_the_lease_of_a_dead_node_ends(self, node: Node, other: Node, advance: Advance) -> None:
        await node.backplane.reserve("k", "first", 1.0 * self.pace)
        await advance(1.5 * self.pace)
        assert await other.backplane.reserve("k", "second", 30.0) == Reservation("new", "second")

    async def test_the_lease_of_a_slow_handler_is_renewed(self, node: Node, other: Node, advance: Advance) -> None:
        await node.backplane.reserve("k", "first", 3.0 * self.pace)
        for _ in range(4):
            await advance(1.0 * self.pace)
            await node.backplane.renew("k", 3.0 * self.pace)
        assert await other.backplane.reserve("k", "second", 30.0) == Reservation("pending", "first")

    async def test_a_renewal_makes_nothing(self, node: Node) -> None:
        await node.backplane.renew("k", 30.0)
        assert await node.backplane.reserve("k", "p", 30.0) == Reservation("new", "p")

    async def test_a_reply_ends_with_its_time(self, node: Node, advance: Advance) -> None:
        await node.backplane.reserve("k", "p", 30.0)
        await node.backplane.remember("k", "p", b"reply", 1.0 * self.pace)
        await node.backplane.renew("k", 30.0)
        await advance(1.5 * self.pace)
        assert (await node.backplane.reserve("k", "p", 30.0)).state == "new"

    async def test_hostile_keys(self, node: Node) -> None:
        for name in HOSTILE_NAMES:
            assert (await node.backplane.reserve(name, name, 30.0)).state == "new"
        for name in HOSTILE_NAMES:
            assert await node.backplane.reserve(name, "another", 30.0) == Reservation("pending", name)


@pytest.mark.anyio
class Control(Base):
    """Messages between nodes."""

    async def test_to_one_node(self, node: Node, other: Node) -> None:
        await node.backplane.tell(other.name, b"\x00\r\n\xff")
        await other.sink.until(lambda: other.sink.control)
        assert other.sink.control == [b"\x00\r\n\xff"]
        await other.backplane.tell(other.name, b"to itself")
        await other.sink.until(lambda: len(other.sink.control) == 2)
        assert node.sink.control == []

    async def test_to_all_nodes(self, node: Node, other: Node) -> None:
        await node.backplane.tell(None, b"all")
        await node.sink.until(lambda: node.sink.control == [b"all"])
        await other.sink.until(lambda: other.sink.control == [b"all"])

    async def test_to_a_node_that_is_gone(self, node: Node, other: Node) -> None:
        await node.backplane.tell("nobody", b"lost")
        await other.backplane.aclose()
        await node.backplane.tell(other.name, b"lost")
        await node.backplane.tell(None, b"heard")
        await node.sink.until(lambda: node.sink.control == [b"heard"])
        assert other.sink.control == []
