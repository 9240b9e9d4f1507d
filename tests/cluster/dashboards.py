"""Two nodes with rooms that conflate or have `latest`, and their viewers, in virtual time.

A viewer checks each message as it comes, against all that was ever published: nothing comes twice or to who is
excluded, and what does not come was replaced by a later publication of its key. What it does not check itself is
whether that one comes: that is `Viewer.owes`, in the end.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from random import Random
from typing import Any, NamedTuple
from urllib.parse import quote

from roomwire import App, Connection
from roomwire.auth.jwt import JwtAuthenticator, JwtOptions
from roomwire.auth.origin import OriginPolicy
from roomwire.backplanes.memory import MemoryHub
from roomwire.core.errors import Unavailable
from roomwire.core.limits import Limits
from roomwire.core.policy import RoomPolicy
from roomwire.core.positions import Position
from roomwire.core.publication import read_body
from roomwire.node import Node
from roomwire.protocols.native import NativeProtocol
from tests.cluster.clients import token
from tests.cluster.nodes import SECRET
from tests.cluster.virtual import Pipe, ShakyBackplane, VirtualLoop, VirtualTransport

__all__ = ["RATE", "ROOMS", "VIEWERS", "Dashboards", "Place", "Viewer"]

RATE = 10.0
ROOMS = {
    "conflated": RoomPolicy(conflate_rate=RATE, conflate_key="k", history_size=30),
    "both": RoomPolicy(conflate_rate=RATE, conflate_key="k", latest=True, history_size=30),
    "latest": RoomPolicy(conflate_key="k", latest=True, history_size=6),
}
VIEWERS = ("ann-0001", "bob-0001", "eve-0001", "sue-0001")
LIMITS = Limits(
    heartbeat_interval=5.0, heartbeat_timeout=1e6, messages_per_second=1e6, message_burst=10**6, write_timeout=1e6
)
_SLACK = 1e-6


class Told(NamedTuple):
    """One publication."""

    n: int
    key: str
    exclude: str | None


class SlowPipe(Pipe):
    """A link whose peer may stop reading: what is written meanwhile waits."""

    def __init__(self, viewer: Viewer) -> None:
        super().__init__(viewer.take, viewer.lost)
        self._viewer = viewer
        self._held: list[tuple[str | bytes, ...]] = []
        self.stalled = False
        self.stalled_until = 0.0

    def write(self, block: tuple[str | bytes, ...], messages: int, *, counted: bool = True) -> None:
        if counted and self.closing is None and not self.over:
            self._viewer.wrote(block, stalled=self.stalled)
        if self.stalled:
            self._held.append(block)
        else:
            super().write(block, messages, counted=counted)

    def queued(self) -> int:
        return 10**6 if self.stalled else 0

    def stall(self, stalled: bool) -> None:
        self.stalled = stalled
        if not stalled:
            self.stalled_until = self._viewer.world.loop.time()
            held, self._held = self._held, []
            for block in held:
                super().write(block, len(block))


class Viewer:
    """A client with strict eyes.

    Attributes:
        positions: where it stands, by room.
        bases: what it owes nothing up to: a position without a past.
        seen: what it was sent, by room and epoch.
        owed: of what lay before its join, what it is to be sent.
        resetting: rooms whose state was announced.
    """

    def __init__(self, world: Dashboards, name: str) -> None:
        self.world = world
        self.name = name
        self.user = name.partition("-")[0]
        self.pipe: SlowPipe | None = None
        self.positions: dict[str, Position] = {}
        self.bases: dict[str, int] = {}
        self.heads: dict[str, int] = {}
        self.seen: dict[str, set[int]] = {}
        self.owed: dict[str, set[int]] = {}
        self.resetting: set[str] = set()
        self.live = False
        self.faults: list[str] = []
        self._asked: dict[str, tuple[str, str]] = {}
        self._count = 0
        self._blocks: dict[str, float] = {}
        self._token = token(self.user, ())

    # --- its link

    def connect(self, place: Place) -> None:
        if self.pipe is None and place.up:
            self.pipe = SlowPipe(self)
            self._blocks.clear()
            self.world.task(self._connect(place, self.pipe))

    async def _connect(self, place: Place, pipe: SlowPipe) -> None:
        query = f"client={self.name}&token={self._token}"
        if self.positions:
            cursor = ",".join(f"{room}@{position}" for room, position in self.positions.items())
            query += f"&last_event_id={quote(cursor, safe='')}"
        status = await place.transport.connect(query, pipe)
        if status != 101 and self.pipe is pipe:
            self.pipe = None

    def leave(self) -> None:
        if self.pipe is not None:
            self.pipe.end()

    def lost(self, code: int) -> None:
        self.pipe, self.live = None, False
        self.resetting.clear()

    def ask(self, event: str, room: str, **data: Any) -> None:
        """Send a command; the reply is looked at."""
        if self.pipe is None or not self.live:
            return
        self._count += 1
        id_ = f"ask-{self._count}"
        self._asked[id_] = event, room
        message = {"event": event, "id": id_, "data": data or None}
        if room:
            message["room"] = room
        self.world.loop.call_soon(self.pipe.send, json.dumps(message))

    def wrote(self, block: tuple[str | bytes, ...], *, stalled: bool) -> None:
        """A block of live events was put on its link: no more than `RATE` of them a second."""
        rooms = {room for message in block if (room := json.loads(message).get("room")) and '"n":' in str(message)}
        for room in rooms:
            if not ROOMS[room].conflate_rate:
                continue
            now, pipe = self.world.loop.time(), self.pipe
            if stalled:
                self.fault(f"a block of {room} was put on a link that is not read")
            before = self._blocks.get(room, 0.0)
            served = pipe is not None and now < pipe.stalled_until + 2 / RATE  # it caught up
            if now < before + 1 / RATE - _SLACK and not served and not self.world.draining:
                self.fault(f"blocks of {room} at {before} and {now}")
            self._blocks[room] = now

    def fault(self, text: str) -> None:
        self.faults.append(f"{self.name}: {text}")

    # --- what comes

    def take(self, text: str) -> None:
        message = json.loads(text)
        event, room, data = message["event"], message.get("room"), message.get("data")
        if event == "session.welcome":
            self.live = True
            for name, status in data["rooms"].items():
                self.given(name, status)
        elif event == "ack" and (asked := self._asked.pop(message["id"], None)) is not None:
            self.answered(*asked, data)
        elif event == "room.state":
            self.resetting.discard(room)
            self.stand(room, Position.parse(message["id"]))
        elif event == "heartbeat":
            for name, position in ((data or {}).get("positions") or {}).items():
                self.moved(name, Position.parse(position))
        elif event == "session.closing":
            for name, position in (data.get("positions") or {}).items():
                self.moved(name, Position.parse(position))
        elif event == "told":
            self.told(room, message.get("id"), data)

    def given(self, room: str, status: dict[str, Any]) -> None:
        if status["recovered"] is True:
            return
        if status.get("reason") is not None:
            self.resetting.add(room)
            return
        self.stand(room, Position.parse(status["position"]))
        if ROOMS[room].latest:
            epoch = self.positions[room].epoch
            self.owed[room] = self.world.newest(room, epoch, self.world.kept(room, epoch))

    def stand(self, room: str, position: Position) -> None:
        """A position without what came before."""
        self.positions[room] = position
        self.bases[room] = position.offset
        self.heads[room] = max(self.world.truth.get((room, position.epoch), {}), default=0)
        self.seen[room] = set()
        self.owed[room] = set()

    def answered(self, event: str, room: str, data: dict[str, Any]) -> None:
        if event == "room.join" and room not in self.positions:
            self.given(room, data)
        elif event == "room.join" and room not in self.resetting and data.get("position") is not None:
            self.moved(room, Position.parse(data["position"]), exact=True)
        elif event == "room.leave":
            self.positions.pop(room, None)
        elif event == "session.rooms":
            for name, status in data["rooms"].items():
                if status.get("position") is not None and name in self.positions and name not in self.resetting:
                    self.moved(name, Position.parse(status["position"]), exact=True)

    def moved(self, room: str, position: Position, *, exact: bool = False) -> None:
        """The server says where it stands. It never says less than what came, and nothing is missing up to there."""
        at = self.positions.get(room)
        if at is None:
            return
        if at.epoch != position.epoch:
            if exact:
                self.fault(f"{room}: it is said to stand at {position}, and stands at {at}")
            return
        if exact and position < at:
            self.fault(f"{room}: it is said to stand at {position}, and stands at {at}")
        if position > at:
            self.pass_over(room, position.epoch, at.offset, position.offset + 1)
            self.positions[room] = position

    def told(self, room: str, id_: str | None, data: dict[str, Any]) -> None:
        if id_ is None:
            if data["exclude"] == self.name:
                self.fault(f"{room}: an ephemeral event that excludes it")
            return
        position, at = Position.parse(id_), self.positions.get(room)
        known = self.world.truth[room, position.epoch][position.offset]
        if at is None:
            self.fault(f"{room}: {id_} in a room that it is not in")
            return
        if known.n != data["n"] or known.exclude == self.name:
            self.fault(f"{room}: {id_} has {data}, and is {known}")
        if room in self.resetting:
            self.fault(f"{room}: {id_} instead of a state")
        if at.epoch != position.epoch or position.offset <= at.offset:
            self.fault(f"{room}: {id_} at {at}")
        self.pass_over(room, position.epoch, at.offset, position.offset)
        self.positions[room] = position
        self.seen[room].add(position.offset)

    def pass_over(self, room: str, epoch: str, after: int, before: int) -> None:
        """It was sent nothing between two offsets: what was there for it was replaced."""
        truth = self.world.truth.get((room, epoch), {})
        # A room that does not conflate passes over only what a join with `latest` leaves out.
        last = max(truth, default=0) if ROOMS[room].conflate_rate else self.heads[room]
        for offset in range(after + 1, before):
            told = truth.get(offset)
            if told is None or told.exclude == self.name:
                continue
            if not any(later <= last and truth[later].key == told.key for later in truth if later > offset):
                self.fault(f"{room}: {offset} of {epoch} was passed over, and nothing has replaced it")

    def owes(self, room: str) -> set[int]:
        """What it should have been sent in the end, and was not."""
        position = self.positions[room]
        truth = self.world.truth.get((room, position.epoch), {})
        newest = self.world.newest(room, position.epoch, truth)
        wanted = {o for o in newest if o > self.bases[room] or o in self.owed[room]}
        return {o for o in wanted if truth[o].exclude != self.name} - self.seen[room]


class Place:
    """A place for a node."""

    def __init__(self, world: Dashboards, number: int) -> None:
        self.world = world
        self.number = number
        self.lives = 0
        self.up = self.cut = False

    def start(self) -> None:
        world = self.world
        self.lives += 1
        self.backplane = ShakyBackplane(world.hub, world.chance)
        world.record(self.backplane)
        self.transport = VirtualTransport()
        self.node = Node(
            make_app(),
            backplane=self.backplane,
            authenticator=JwtAuthenticator(JwtOptions.model_validate({"algorithms": ["HS256"], "secret": SECRET})),
            origin=OriginPolicy(()),
            transport=self.transport,
            protocols=[NativeProtocol()],
            name=f"node-{self.number}-{self.lives}",
            limits=LIMITS,
            rooms=ROOMS,
            clock=world.loop.clock,
            drain_timeout=5.0,
            reconnect_spread=1.0,
        )
        self.task = world.task(self.node.serve())
        self.up, self.cut = True, False

    def kill(self) -> None:
        self.up = False
        self.backplane.kill()
        for pipe in self.transport.pipes:
            pipe.receiver = None
            pipe.end()
        self.task.cancel()

    def drain(self) -> None:
        self.up = False
        self.world.draining = True
        self.world.task(self.node.drain.run())


def make_app() -> App:
    app = App()

    @app.on_connect
    async def rooms_of(connection: Connection) -> list[str]:
        return list(ROOMS)

    @app.room("{name}")
    async def may_join(connection: Connection, name: str) -> bool:
        return True

    return app


class Dashboards:
    """All of it.

    Attributes:
        truth: what was ever published, by room and epoch, then by offset.
    """

    def __init__(self, seed: int) -> None:
        self.loop = VirtualLoop()
        self.chance = Random(seed)
        self.hub = MemoryHub(self.loop.clock)
        self.truth: dict[tuple[str, str], dict[int, Told]] = {}
        self.published = 0
        self.draining = False
        self.tasks: set[asyncio.Task[None]] = set()
        self.failures: list[BaseException] = []
        self.places = [Place(self, number) for number in (1, 2)]
        self.viewers = [Viewer(self, name) for name in VIEWERS]
        for place in self.places:
            self.act(place.start)
        self.loop.turns(20)

    def connect(self, viewers: list[Viewer]) -> None:
        """Viewers connect, to one node and the other in turn."""
        for number, viewer in enumerate(viewers):
            self.act(partial(viewer.connect, self.places[number % 2]))

    def record(self, backplane: ShakyBackplane) -> None:
        """Write down what the store takes, in the moment in which it does."""
        inner = backplane.inner
        publish = inner.publish

        async def recording(room: str, body: bytes, **options: Any) -> Position:
            stream = self.hub.stream(room)
            data = json.loads(read_body(room, body, None).data)
            # Before it is delivered, which it is within the call.
            told = Told(data["n"], data["k"], data["exclude"])
            offset, events = stream.offset + 1, self.truth.setdefault((room, stream.epoch), {})
            events[offset] = told
            try:
                return await publish(room, body, **options)
            except Unavailable:
                del events[offset]
                raise

        inner.publish = recording  # type: ignore[method-assign]

    def kept(self, room: str, epoch: str) -> dict[int, Told]:
        """What the store still has."""
        stream = self.hub.stream(room)
        truth = self.truth.get((room, epoch), {})
        return {entry.offset: truth[entry.offset] for _, entry in stream.stored or ()} if stream.epoch == epoch else {}

    def newest(self, room: str, epoch: str, of: dict[int, Told]) -> set[int]:
        """The offsets of the newest of each key."""
        return set({told.key: offset for offset, told in sorted(of.items())}.values())

    def publish(self, place: Place, room: str, key: str, exclude: str | None, *, history: bool = True) -> None:
        """Publish, as an application does; what cannot be stored is not."""
        self.published += 1
        data = {"n": self.published, "k": key, "exclude": exclude}

        async def publish() -> None:
            with suppress(Unavailable):
                await place.node.publish(room, "told", data, exclude=exclude, user=None, history=history, key=None)

        if place.up:
            self.task(publish())

    def task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self.loop.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.failures.append(error)

    def act(self, action: Callable[[], object]) -> None:
        async def run() -> None:
            action()

        self.loop.run_until_complete(run())

    def let_all_through(self) -> None:
        for place in self.places:
            while place.lives and place.backplane.wire:
                place.backplane.let_through()

    def pass_time(self, seconds: float) -> None:
        while seconds > 0:
            self.act(self.let_all_through)
            self.loop.pass_time(min(seconds, 1.0))
            seconds -= 1.0
        self.act(self.let_all_through)

    def close(self) -> None:
        for place in self.places:
            if place.up:
                self.act(place.drain)
        while self.tasks:
            self.loop.run_until_complete(asyncio.wait(set(self.tasks)))
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()
