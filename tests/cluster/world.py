"""Two nodes on one store, and the clients of the machine in `tests.cluster.test_machine`; time is virtual."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Sequence
from random import Random
from typing import Any

from pydantic import BaseModel

from roomwire import App, Connection
from roomwire.auth.jwt import JwtAuthenticator, JwtOptions
from roomwire.auth.origin import OriginPolicy
from roomwire.backplanes.memory import MemoryHub
from roomwire.core.limits import Limits
from roomwire.core.policy import RoomPolicy
from roomwire.core.positions import Position
from roomwire.node import Node
from roomwire.protocols.native import NativeProtocol
from tests.cluster.account import Account, event_of
from tests.cluster.clients import token
from tests.cluster.nodes import SECRET
from tests.cluster.records import Acked
from tests.cluster.virtual import Pipe, ShakyBackplane, VirtualLoop, VirtualTransport

__all__ = ["CLIENTS", "ROOMS", "SLOTS", "Player", "Station", "World"]

ROOMS = ("r", "s")
CLIENTS = {"ann-0001": "ann", "ann-0002": "ann", "ann-0003": "ann", "bob-0001": "bob", "eve-0001": "eve"}
SLOTS = 2
"""Connections of one user: ann has a client too many."""
POLICIES = {
    "r": RoomPolicy(history_size=8, history_ttl=60.0, presence=True, leave_grace=1.0),
    "s": RoomPolicy(history_size=200, history_ttl=600.0, presence=True, leave_grace=0.0),
}
LIMITS = Limits(
    connections_per_user=SLOTS,
    heartbeat_interval=5.0,
    heartbeat_timeout=15.0,
    replay_events=25,
    messages_per_second=1e6,
    message_burst=10**6,
)


class Told(BaseModel):
    by: str
    n: int


def make_app(ledger: dict[str, dict[str, int]]) -> App:
    """As `tests.cluster.app`; its database is a dict."""
    app = App()

    @app.on_connect
    async def rooms_of(connection: Connection) -> list[str]:
        return list(ROOMS)

    @app.room("{name}")
    async def may_join(connection: Connection, name: str) -> bool:
        return True

    @app.on("tell", room="{name}", joined=False)
    async def tell(connection: Connection, told: Told, name: str) -> dict[str, str | None]:
        known = ledger.setdefault(name, {})
        known[told.by] = max(known.get(told.by, 0), told.n)
        publication = await app.publish(name, "told", told)
        return {"id": publication.id}

    @app.snapshot("{name}")
    async def state(name: str) -> dict[str, int]:
        return dict(ledger.get(name, {}))

    return app


class Station:
    """A place for a node: after a kill or a drain another one takes it."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.number = number
        self.lives = 0
        self.up = False
        self.cut = False

    def start(self) -> None:
        """A node begins to serve."""
        world = self.world
        self.lives += 1
        self.backplane = ShakyBackplane(world.hub, world.chance)
        self.transport = VirtualTransport()
        self.node = Node(
            make_app(world.ledger),
            backplane=self.backplane,
            authenticator=JwtAuthenticator(JwtOptions.model_validate({"algorithms": ["HS256"], "secret": SECRET})),
            origin=OriginPolicy(()),
            transport=self.transport,
            protocols=[NativeProtocol()],
            name=f"node-{self.number}-{self.lives}",
            limits=LIMITS,
            rooms=POLICIES,
            clock=world.loop.clock,
            drain_timeout=5.0,
            reconnect_spread=1.0,
        )
        self.task = world.task(self.node.serve())
        self.up, self.cut = True, False

    def kill(self) -> None:
        """As by SIGKILL: nothing more of it reaches the store or a client."""
        self.up = False
        self.backplane.kill()
        for pipe in self.transport.pipes:
            pipe.receiver = None
            pipe.end()
        self.task.cancel()

    def drain(self) -> None:
        """As by SIGTERM."""
        self.up = False
        self.world.task(self.node.drain.run())


class Player(Account):
    """A client that tells the rooms its events, one at a time, each until it is acknowledged."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(name)
        self.world = world
        self.user = CLIENTS[name]
        self.pipe: Pipe | None = None
        self.station: Station | None = None
        self.refusals: list[int] = []
        self.final = False
        self._token = token(self.user, ())
        self._told: dict[str, int] = {}
        self._queue: list[tuple[str, int]] = []
        self._asked = 0

    def connect(self, station: Station) -> None:
        """Begin a handshake, where it has no link."""
        if self.pipe is None and station.up and not self.final:
            self.pipe, self.station = Pipe(self._take, self._lost), station
            self.world.task(self._connect(station, self.pipe))

    async def _connect(self, station: Station, pipe: Pipe) -> None:
        status = await station.transport.connect(self.target(self._token), pipe)
        if status != 101 and self.pipe is pipe:
            self.refusals.append(status)
            self.pipe = None

    def leave(self) -> None:
        """The link breaks."""
        if self.pipe is not None:
            self.pipe.end()

    def _lost(self, code: int) -> None:
        self.pipe = None
        self.broke()

    def _take(self, text: str) -> None:
        message = json.loads(text)
        self.take(event_of(message) or message)
        self._tell_on()

    def write(self, text: bytes) -> None:
        if self.pipe is not None:
            # The node must not be called from within its own write.
            self.world.loop.call_soon(self.pipe.send, text.decode())

    # --- its events

    @property
    def busy(self) -> bool:
        """Whether an event of it is not acknowledged."""
        return bool(self._queue)

    def tell(self, room: str) -> None:
        """Tell a room the next event."""
        self._told[room] = self._told.get(room, 0) + 1
        self._queue.append((room, self._told[room]))
        self._tell_on()

    def _tell_on(self) -> None:
        if not (self.live and self._queue) or self._requests:
            return
        room, n = self._queue[0]
        data = {"by": self.name, "n": n}
        self.send("tell", self._answered, id=f"{self.name}-{room}-{n}", room=room, data=data)

    def _answered(self, message: dict[str, Any]) -> None:
        if message["event"] == "ack":
            room, n = self._queue.pop(0)
            at = self.world.loop.time()
            self.world.acks += 1
            position = Position.parse(message["data"]["id"])
            self.log.acked.append(Acked(room, self.name, n, position, at + self.world.acks * 1e-6))
        else:
            code = message["data"]["code"]
            assert code in ("unavailable", "link"), message
        self.world.loop.call_later(0.1, self._tell_on)


class World:
    """All of it. Actions are carried out within the loop."""

    def __init__(self, seed: int) -> None:
        self.loop = VirtualLoop()
        self.chance = Random(seed)
        self.hub = MemoryHub(self.loop.clock)
        self.ledger: dict[str, dict[str, int]] = {}
        self.acks = 0
        self.tasks: set[asyncio.Task[None]] = set()
        self.failures: list[BaseException] = []
        self.stations = [Station(self, number) for number in (1, 2)]
        self.players = [Player(self, name) for name in CLIENTS]
        self.cut_ever = False
        for station in self.stations:
            self.act(station.start)
        self.loop.turns(20)

    def task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run it beside; what it raises fails the machine."""
        task = self.loop.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.failures.append(error)

    def act(self, action: Callable[[], object]) -> None:
        """Do something within the loop, as what happens to nodes does."""

        async def run() -> None:
            action()

        self.loop.run_until_complete(run())

    def connect(self, players: Sequence[Player], shift: int = 0) -> None:
        """Players connect, to one node and the other in turn."""

        def connect() -> None:
            for number, player in enumerate(players, start=shift):
                player.connect(self.stations[number % len(self.stations)])

        self.act(connect)

    def tell(self, player: Player, room: str, count: int = 1) -> None:
        """A player tells a room so many events."""

        def tell() -> None:
            for _ in range(count):
                player.tell(room)

        self.act(tell)

    def let_all_through(self) -> None:
        """Every delivery under way arrives, in order."""
        for station in self.stations:
            if station.lives:
                while station.backplane.wire:
                    station.backplane.let_through()

    def pass_time(self, seconds: float) -> None:
        """Deliveries arrive, and time passes, in steps of a second at most."""
        while seconds > 0:
            self.act(self.let_all_through)
            self.loop.pass_time(min(seconds, 1.0))
            seconds -= 1.0
        self.act(self.let_all_through)

    def close(self) -> None:
        """The end of all."""
        for station in self.stations:
            if station.up:
                self.act(station.drain)
        while self.tasks:
            self.loop.run_until_complete(asyncio.wait(set(self.tasks)))
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()
