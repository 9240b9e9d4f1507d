"""The product's own client, with its resume and its back-off, logging what it hands to an application."""

from __future__ import annotations

from roomwire.client import (
    Connected,
    ConnectionClosed,
    Disconnected,
    Event,
    Recovered,
    Removed,
    StateReset,
    connect,
)
from roomwire.core.positions import Position
from tests.cluster import records
from tests.cluster.clients import token
from tests.cluster.records import Log

__all__ = ["Product"]


class Product:
    """One client through a balancer, since it knows one address; `run` is a task that is cancelled in the end.

    Attributes:
        log: what the application was handed.
        positions, waiting, rooms, live, ended: as a `tests.cluster.clients.Member` has them.
    """

    def __init__(self, name: str, rooms: list[str], port: int) -> None:
        self.name = name
        self.rooms = rooms
        self.log = Log(name)
        self.positions: dict[str, Position] = {}
        self.waiting: dict[str, str] = {}
        self.live = False
        self.ended = False
        self._port = port

    async def run(self) -> None:
        """Connect, and log."""
        url = f"ws://127.0.0.1:{self._port}/ws"
        credential = token(self.name, self.rooms)
        async with connect(url, token=credential, state=True, link_events=True) as client:
            try:
                while True:
                    self._take(await client.receive())
            except ConnectionClosed:
                self.ended = self.log.ended = True

    def _take(self, item: object) -> None:
        log = self.log.records
        match item:
            case Event(name="told", room=str(room), id=str(id_), data=data):
                position = self.positions[room] = Position.parse(id_)
                log.append(records.Event(room, position.epoch, position.offset, data["by"], data["n"]))
            case StateReset(room=room, reason=reason, state=state, position=Position() as position):
                if reason != "requested":
                    log.append(records.Given(room, position, False, reason))
                log.append(records.State(room, position, reason, state))
                self.positions[room] = position
            case Recovered(room=room, position=found):
                log.append(records.Given(room, found, True, None))
            case Removed(room=room):
                log.append(records.Left(room))
            case Connected():
                self.live = True
            case Disconnected():
                self.live = False
