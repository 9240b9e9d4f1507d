"""Tails, replays and the memory backplane under every order of events that Hypothesis can think of.

Two nodes share a store; their links lose, repeat, delay and reorder deliveries; whatever awaits in
the real node is a generator here, which goes on when a rule says so. The model is one tree of events
for each room: an event knows the one before it, so that a store that went back in time is a branch.

What must hold: a client that gets an event has all events before it, each once (but for those that
exclude it), or was told a reset with a reason. In the end all who are connected have everything.
"""

from __future__ import annotations

from collections.abc import Coroutine, Generator, Iterable
from typing import Any, TypeVar, cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from roomwire.backplanes.contract import HistoryPolicy
from roomwire.backplanes.memory import MemoryBackplane, MemoryHub
from roomwire.core.errors import Unavailable
from roomwire.core.positions import Position
from roomwire.core.replay import Budget, Finished, Outcome, ReadHistory, RecoverTail, Replay
from roomwire.core.tail import Entry, Need, RoomTail
from roomwire.testing.backplane import Recorder
from roomwire.testing.clock import VirtualClock

T = TypeVar("T")
Task = Generator[None, None, None]

ROOMS = ("r", "s")
CLIENTS = ("ann", "bob", "eve")
NODES = (0, 1)
POLICIES = {"r": HistoryPolicy(size=8, ttl=60.0), "s": HistoryPolicy(size=40, ttl=600.0)}
BUDGET = 14  # events: small, so that it matters
RING = 4


def finish(coroutine: Coroutine[Any, Any, T]) -> T:
    """What the memory backplane answers; it never suspends."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return cast("T", stop.value)
    raise AssertionError("it suspended")


class Event:
    """An event in the tree of its room. The root of a tree is the beginning of an epoch."""

    def __init__(self, before: Event | None, number: int, exclude: str | None = None) -> None:
        self.before = before
        self.number = number
        self.exclude = exclude
        self.offset: int = 0 if before is None else before.offset + 1

    def is_before(self, other: Event | None) -> bool:
        while other is not None and other is not self:
            other = other.before
        return other is self


class Member:
    """One client in one room, and what it knows."""

    def __init__(self, client: str, room: str) -> None:
        self.client = client
        self.room = room
        self.position: Position | None = None
        self.head: Event | None = None  # it has all up to here
        self.session = 0
        self.node: Node | None = None
        self.live = False
        self.replay: Replay | None = None
        self.budget = Budget(events=BUDGET)
        self.resets: list[str] = []

    def get(self, event: Event, epoch: str) -> None:
        """The node has an event for it; it is sent where it does not exclude the client."""
        if event.exclude == self.client:
            return
        self.check(event.before)
        self.head, self.position = event, Position(epoch, event.offset)

    def check(self, before: Event | None) -> None:
        """It has `before`, and so all events up to there that are for it."""
        while before is not self.head:
            assert before is not None, "an event was missed, repeated, or of another branch"
            assert before.exclude == self.client, f"event {before.number} was missed"
            before = before.before

    def told(self, reason: str, position: Position | None, head: Event | None) -> None:
        self.resets.append(reason)
        if position is not None:
            self.position, self.head = position, head


class Room:
    """A room on a node, as far as it matters here."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.tail = RoomTail(ring_events=RING, ring_ttl=POLICIES[name].ttl)
        self.head: Event | None = None  # what the tail passed on last
        self.members: set[Member] = set()
        self.recovering = False


class Node:
    """A node whose link to the store is a list of deliveries under way."""

    def __init__(self, world: World, index: int) -> None:
        self.world = world
        self.rooms: dict[str, Room] = {}
        self.wire: list[tuple[str, str, int, int, bytes]] = []
        self.up = True
        self.sink = Link(self)
        self.backplane = MemoryBackplane(hub=world.hub)
        finish(self.backplane.start(self.sink, f"node-{index}"))

    # --- from the link to the members

    def deliver(self, index: int) -> None:
        name, epoch, previous, offset, body = self.wire.pop(index)
        room = self.rooms.get(name)
        if room is None:
            return
        if offset < 0:
            self.pass_on(room, room.tail.ephemeral(body))
        else:
            self.pass_on(room, room.tail.receive(epoch, previous, offset, body, self.world.clock()))
        self.heal(room)

    def pass_on(self, room: Room, entries: Iterable[Entry]) -> None:
        epoch = room.tail.position.epoch
        for entry in entries:
            if not entry.ephemeral:
                event = self.world.events[int(entry.body)]
                assert event.before is room.head, "the tail passed on a hole or a repetition"
                room.head = event
            for member in room.members:
                if member.live and not entry.ephemeral:
                    member.get(event, epoch)
                elif member.replay is not None:
                    member.replay.live(entry)

    # --- what awaits

    def heal(self, room: Room) -> None:
        if not room.recovering and room.tail.need in (Need.RECOVER, Need.RESET):
            room.recovering = True
            self.world.tasks.append(self.recover(room))

    def recover(self, room: Room) -> Task:
        while self.rooms.get(room.name) is room and room.tail.need is not Need.NONE:
            since = room.tail.begin(self.world.clock())
            reset = room.tail.need is Need.RESET
            yield
            try:
                page = finish(self.backplane.history(room.name, None if reset else since, 0 if reset else 5))
            except Unavailable:
                room.tail.interrupted()
                break
            head = self.world.truth[room.name]
            yield
            if reset:
                self.reset(room, page.top, head)
            else:
                self.pass_on(room, room.tail.recovered(page, since))
        room.recovering = False

    def reset(self, room: Room, top: Position, head: Event) -> None:
        reason = room.tail.reason
        entries = room.tail.reset(top, self.world.clock())
        room.head = head
        for member in room.members:
            if member.live:
                member.live = False
                member.replay = Replay.resetting(room.tail, member.budget)
                self.world.tasks.append(self.give_state(member, room, member.session, reason))
        self.pass_on(room, entries)

    def enter(self, member: Member, *, keeps_position: bool) -> None:
        """A client comes to a room."""
        room = self.rooms.get(member.room)
        if room is None:
            room = self.rooms[member.room] = Room(member.room)
        room.members.add(member)
        member.node = self
        position = member.position if keeps_position else None
        self.world.tasks.append(self.join(member, room, member.session, position))

    def subscribe(self, member: Member, room: Room, session: int) -> Task:
        yield
        if member.session != session:
            return
        try:
            top = finish(self.backplane.subscribe(room.name))
        except Unavailable:
            self.world.leave(member, session)
            return
        head = self.world.truth[room.name]
        yield
        if room.tail.need is Need.START and self.rooms.get(room.name) is room:
            entries = room.tail.reset(top, self.world.clock())
            room.head = head
            self.pass_on(room, entries)
            self.heal(room)

    def join(self, member: Member, room: Room, session: int, position: Position | None) -> Task:
        if member.session == session and room.tail.need is Need.START:
            yield from self.subscribe(member, room, session)
        if member.session != session:
            return
        member.replay = Replay(room.tail, position, member.budget)
        yield from self.finish(member, room, session)
        if member.session == session:
            # The client's other rooms are not done yet, and when they are, this outcome may not hold any more.
            yield
        if member.session == session:
            outcome = yield from self.finish(member, room, session)
            if outcome is not None:
                self.welcome(member, room, outcome)

    def finish(self, member: Member, room: Room, session: int) -> Generator[None, None, Outcome | None]:
        """What the replay ends with; nothing where the client is gone before."""
        replay = member.replay
        assert replay is not None
        while not isinstance(step := replay.step(self.world.clock()), Finished):
            try:
                if isinstance(step, RecoverTail):
                    yield from self.bring_up(room)
                else:
                    yield from self.read(member, room, step)
            except Unavailable:
                replay.unavailable()
            if member.session != session:
                return None
        return step.outcome

    def bring_up(self, room: Room) -> Task:
        self.heal(room)
        while room.recovering:
            yield
        if room.tail.need is not Need.NONE and not self.up:
            raise Unavailable

    def read(self, member: Member, room: Room, step: ReadHistory) -> Task:
        replay = member.replay
        assert replay is not None
        yield
        page = finish(self.backplane.history(room.name, step.since, step.limit))
        yield
        if member.replay is replay:
            self.pass_on(room, room.tail.feed(page, step.since))
            self.heal(room)
            replay.page(page)

    def welcome(self, member: Member, room: Room, outcome: Outcome) -> None:
        if outcome.recovered is None and outcome.reason is None:
            assert outcome.position == room.tail.position
            member.position, member.head = outcome.position, room.head
            self.go_live(member, room)
        elif outcome.recovered:
            assert outcome.position is not None
            for entry in outcome.replay:
                assert not entry.ephemeral
                member.get(self.world.events[int(entry.body)], outcome.position.epoch)
            self.go_live(member, room)
        else:
            assert outcome.reason is not None
            member.told(outcome.reason, outcome.position, room.head)
            self.world.tasks.append(self.give_state(member, room, member.session, outcome.reason))

    def go_live(self, member: Member, room: Room) -> None:
        member.check(room.head)
        assert member.replay is not None
        member.replay.release()
        assert (member.budget.events, member.budget.bytes) == (BUDGET, 4_194_304)
        member.replay = None
        member.live = True

    def give_state(self, member: Member, room: Room, session: int, reason: str) -> Task:
        replay = member.replay
        if member.session != session or replay is None:
            return
        while True:
            while room.tail.need in (Need.START, Need.RESET):
                self.heal(room)
                yield
                if member.session != session:
                    return
            position, head = room.tail.position, room.head
            replay.begin_reset(position)
            yield
            if member.session != session:
                return
            entries = replay.finish_reset(self.world.clock())
            if entries is not None:
                break
            if replay.hopeless:
                self.world.leave(member, session)
                return
        member.told(reason, position, head)
        for entry in entries:
            member.get(self.world.events[int(entry.body)], position.epoch)
        self.go_live(member, room)


class Link(Recorder):
    """Puts deliveries on their way instead of delivering them."""

    def __init__(self, node: Node) -> None:
        super().__init__()
        self.node = node

    def deliver(self, room: str, epoch: str, previous: int, offset: int, body: bytes) -> None:
        self.node.wire.append((room, epoch, previous, offset, body))

    def ephemeral(self, room: str, body: bytes) -> None:
        self.node.wire.append((room, "", -1, -1, body))

    def interrupted(self, rooms: object) -> None:
        for room in self.node.rooms.values():
            room.tail.interrupted()
            self.node.heal(room)


nodes = st.sampled_from(NODES)
rooms = st.sampled_from(ROOMS)
members = st.integers(0, len(CLIENTS) * len(ROOMS) - 1)
exclusions = st.sampled_from([None, None, *CLIENTS])
mostly = st.sampled_from([True, True, True, False])
indexes = st.integers(0, 40)
steps = st.lists(st.integers(0, 20), max_size=8)


class World(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.clock = VirtualClock()
        self.hub = MemoryHub(self.clock)
        self.events: list[Event] = []
        self.truth = {room: Event(None, -1) for room in ROOMS}
        self.tasks: list[Task] = []
        self.nodes = [Node(self, index) for index in NODES]
        self.members = [Member(client, room) for client in CLIENTS for room in ROOMS]
        self.rewound: set[str] = set()

    def leave(self, member: Member, session: int) -> None:
        """The client is gone, unless it is back already."""
        if member.session != session or member.node is None:
            return
        member.session += 1
        if member.replay is not None:
            member.replay.release()
            member.replay = None
        room = member.node.rooms[member.room]
        room.members.discard(member)
        if not room.members:
            del member.node.rooms[member.room]
            if member.node.up:
                finish(member.node.backplane.unsubscribe(member.room))
        member.live = False
        member.node = None

    def run(self, task: Task) -> None:
        try:
            next(task)
        except StopIteration:
            self.tasks.remove(task)

    def settle(self) -> None:
        """Everything that is under way arrives."""
        while self.tasks or any(node.wire for node in self.nodes):
            for node in self.nodes:
                while node.wire:
                    node.deliver(0)
            for task in list(self.tasks):
                self.run(task)

    # --- clients

    @rule(member=members, node=nodes, keeps=mostly, steps=steps)
    def connect(self, member: int, node: int, keeps: bool, steps: list[int]) -> None:
        one = self.members[member]
        if one.node is None:
            self.nodes[node].enter(one, keeps_position=keeps)
        self.go_on(steps)

    @rule(
        member=members, node=nodes, missed=st.sampled_from([0, 1, 2, 3, 5, 7, 12, 20]), exclude=exclusions, steps=steps
    )
    def come_back(self, member: int, node: int, missed: int, exclude: str | None, steps: list[int]) -> None:
        """A client is away for some events; it need not come back to the same node, nor at a quiet time."""
        one = self.members[member]
        self.leave(one, one.session)
        self.publish(1 - node, one.room, missed, exclude)
        self.nodes[node].enter(one, keeps_position=True)
        self.go_on(steps)

    @rule(member=members)
    def disconnect(self, member: int) -> None:
        self.leave(self.members[member], self.members[member].session)

    @rule(member=members)
    def heartbeat(self, member: int) -> None:
        """The client hears of the position that moved on without an event for it."""
        one = self.members[member]
        if one.live and one.node is not None:
            room = one.node.rooms[one.room]
            one.check(room.head)
            one.position, one.head = room.tail.position, room.head

    @rule(node=nodes, room=rooms, count=st.sampled_from([0, 1, 1, 1, 2, 5, 20]), exclude=exclusions)
    def publish(self, node: int, room: str, count: int, exclude: str | None) -> None:
        if room in self.rewound and not self.go_on_after_rewind(room):
            return
        backplane = self.nodes[node].backplane
        try:
            finish(backplane.publish_ephemeral(room, b"typing"))
            for _ in range(count):
                event = Event(self.truth[room], len(self.events), exclude)
                self.events.append(event)
                body = b"%d" % event.number
                position = finish(backplane.publish(room, body, key=str(event.number), policy=POLICIES[room]))
                assert position.offset == event.offset
                self.truth[room] = event
        except Unavailable:
            assert not self.nodes[node].up

    def go_on_after_rewind(self, name: str) -> bool:
        """Whether a new branch may begin, which is when all nodes know of it.

        That is the hole which (epoch, offset) alone has: once the new branch has overtaken a position
        on the old one, nothing tells them apart. Stores close it with a new epoch; here the clients
        that were away come back without their position.
        """
        known = [node.rooms[name] for node in self.nodes if name in node.rooms]
        truth = self.truth[name]
        if self.tasks or any(
            room.tail.need is not Need.NONE or room.head is None or not room.head.is_before(truth) for room in known
        ):
            return False
        for member in self.members:
            if member.room == name and member.head is not None and not member.head.is_before(truth):
                member.position = member.head = None
        self.rewound.discard(name)
        return True

    # --- the link

    @rule(node=nodes, room=rooms, action=st.sampled_from(["order", "order", "any", "lose", "repeat"]), index=indexes)
    def link(self, node: int, room: str, action: str, index: int) -> None:
        wire = self.nodes[node].wire
        if not wire:
            return
        if action == "order":
            for delivery in [delivery for delivery in wire if delivery[0] == room]:
                self.nodes[node].deliver(wire.index(delivery))
        elif action == "any":
            self.nodes[node].deliver(index % len(wire))
        elif action == "lose":
            first = index % len(wire)
            del wire[first : first + 3]
        else:
            wire.append(wire[index % len(wire)])

    @rule(node=nodes, lost=st.booleans())
    def interrupt(self, node: int, lost: bool) -> None:
        if lost:
            self.nodes[node].wire.clear()
        self.nodes[node].sink.interrupted(None)

    @rule(node=nodes)
    def cut_or_mend(self, node: int) -> None:
        one = self.nodes[node]
        one.up = not one.up
        if one.up:
            one.backplane.heal()
        else:
            one.backplane.cut()

    # --- the store

    @rule(
        room=rooms,
        fault=st.sampled_from(["age", "age", "expire", "lose", "rewind", "rewind"]),
        count=st.integers(1, 10),
    )
    def store(self, room: str, fault: str, count: int) -> None:
        if fault == "age":
            self.clock.advance(count)
        elif fault == "expire":
            self.clock.advance(POLICIES[room].ttl)
        elif fault == "lose":
            self.hub.lose()
            self.truth = {room: Event(None, -1) for room in ROOMS}
            self.rewound.clear()
        else:
            self.rewind(room, count)

    def rewind(self, room: str, count: int) -> None:
        """A fail-over to a replica that lagged: the link breaks, and what the old server sent is gone."""
        for _ in range(count):
            self.truth[room] = self.truth[room].before or self.truth[room]
        offset = self.truth[room].offset
        self.hub.rewind(room, offset)
        self.rewound.add(room)
        for node in self.nodes:
            node.wire = [one for one in node.wire if one[0] != room or one[3] <= offset]
            node.sink.interrupted(None)

    # --- the nodes

    @rule(steps=steps)
    def go_on(self, steps: list[int]) -> None:
        """Some of what awaits goes on; the largest step is to the end of all."""
        for step in steps:
            if step == 20 and all(node.up for node in self.nodes):
                self.settle()
            elif self.tasks:
                self.run(self.tasks[step % len(self.tasks)])

    @rule(node=nodes)
    def check_positions(self, node: int) -> None:
        one = self.nodes[node]
        if one.up:
            for name, top in finish(one.backplane.positions(list(one.rooms))).items():
                one.rooms[name].tail.compare(top)
                one.heal(one.rooms[name])

    # --- what must hold

    @invariant()
    def a_live_member_is_where_its_tail_is(self) -> None:
        for member in self.members:
            if member.live and member.node is not None:
                member.check(member.node.rooms[member.room].head)

    def teardown(self) -> None:
        """The world calms down: everyone who is connected has everything."""
        for node in NODES:
            if not self.nodes[node].up:
                self.cut_or_mend(node)
        self.settle()
        for node in NODES:
            self.check_positions(node)
        self.settle()
        for member in self.members:
            if member.node is not None:
                assert member.live
                room = member.node.rooms[member.room]
                assert room.tail.need is Need.NONE
                assert room.head is self.truth[member.room]
                assert room.tail.position == finish(member.node.backplane.positions([member.room]))[member.room]
            assert member.budget.events == BUDGET


World.TestCase.settings = settings(stateful_step_count=80, max_examples=settings().max_examples * 3 // 2)
# The thorough profile takes minutes.
TestWorld = pytest.mark.timeout(900)(World.TestCase)
