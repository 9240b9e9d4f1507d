"""The clients of one run, its publishers, and the waiting for what they see."""

from __future__ import annotations

import asyncio
import json
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Sequence
from random import Random
from typing import Any

from roomwire.core.positions import Position
from tests.cluster.account import event_of
from tests.cluster.checker import Findings, check
from tests.cluster.clients import Member
from tests.cluster.product import Product
from tests.cluster.records import Event, Given, Log, State

__all__ = ["Crowd", "Publisher", "percentile"]

_POLL = 0.02
_KNOWN = 4096
_PATIENCE = 60.0
"""Seconds for what has to come; reached only where it does not."""
_RETRY = 0.25


def percentile(values: Iterable[float], share: float) -> float:
    """The value below which `share` of them lie; NaN of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


class Publisher:
    """A client that tells a room its events, one at a time, each until it is acknowledged.

    Args:
        member: whose link it uses.
        room: where.
        rate: events a second; how fast the answers come bounds it too.

    Attributes:
        told: its last event's number.
        codes: the errors that it was answered with, over all its tries.
        slowest: the longest wait for a reply to one try, seconds.
        die_at: the number of the event behind which its node is to die.
    """

    def __init__(self, member: Member, room: str, rate: float) -> None:
        self.member = member
        self.room = room
        self.rate = rate
        self.told = 0
        self.codes: dict[str, int] = {}
        self.slowest = 0.0
        self.die_at = 0
        self.stopped = False

    async def run(self) -> None:
        """Until it is stopped."""
        due = time.monotonic()
        while not self.stopped:
            await self.tell()
            due = max(due + 1 / self.rate, time.monotonic() - 1.0)
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def tell(self, *, tries: int | None = None) -> Position | None:
        """One event, until it is acknowledged; None where it was not, after so many tries."""
        self.told += 1
        n, member = self.told, self.member
        data = {"by": member.name, "n": n, "die": n == self.die_at}
        count = 0
        while tries is None or count < tries:
            await member.crowd.until(lambda: member.live or member.ended, "a publisher is connected")
            count += 1
            began = time.monotonic()
            reply = await member.request("tell", room=self.room, data=data, id=f"{member.name}-{self.room}-{n}")
            if reply["event"] == "ack":
                self.slowest = max(self.slowest, time.monotonic() - began)
                position = Position.parse(reply["data"]["id"])
                member.acknowledged(self.room, member.name, n, position)
                return position
            code = reply["data"]["code"]
            self.codes[code] = self.codes.get(code, 0) + 1
            if code != "link":
                self.slowest = max(self.slowest, time.monotonic() - began)
                await asyncio.sleep(_RETRY)
        return None


class Crowd:
    """All clients of one run, on the running loop.

    Args:
        ports: gives the ports of the servers that a client may choose from.
        chance: the run's randomness.
        backoff: the first bound of the back-off, seconds; the protocol's is 1.
        patience: seconds for what is not acknowledged in the end.
    """

    def __init__(
        self, ports: Callable[[], Sequence[int]], chance: Random, *, backoff: float = 1.0, patience: float = _PATIENCE
    ) -> None:
        self.ports = ports
        self.chance = chance
        self.backoff = backoff
        self.patience = patience
        self.members: list[Member] = []
        self.products: list[Product] = []
        self.publishers: list[Publisher] = []
        self.logs: list[Log] = []
        self.known: dict[bytes, Event] = {}
        self.welcomes: list[float] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self.failures: list[str] = []

    # --- making clients

    def member(self, name: str, rooms: Sequence[str], user: str | None = None) -> Member:
        """A further client, which connects at once."""
        member = Member(self, name, rooms, Random(self.chance.random()), user)
        self.members.append(member)
        self.logs.append(member.log)
        member.dial()
        return member

    def publisher(self, name: str, room: str, rate: float) -> Publisher:
        """A further client that publishes and is in no room; `Publisher.run` is not started."""
        publisher = Publisher(self.member(name, ()), room, rate)
        self.publishers.append(publisher)
        return publisher

    def product(self, name: str, rooms: list[str], port: int) -> Product:
        """A further client of the product itself, which connects at once."""
        product = Product(name, rooms, port)
        self.products.append(product)
        self.logs.append(product.log)
        self.task(product.run())
        return product

    def publish(self) -> None:
        """All publishers begin."""
        for publisher in self.publishers:
            publisher.stopped = False
            self.task(publisher.run())

    async def hush(self) -> None:
        """Publishers stop; wait until nothing is under way any more."""
        for publisher in self.publishers:
            publisher.stopped = True
        await self.until(lambda: not self._publishing() and not self.behind(self.tops()), "it is quiet")

    async def settle(self) -> dict[str, Position]:
        """All publishers have stopped, and every client has what was published; one last event in each room.

        What is not acknowledged within `patience` seconds of the end is given up: nobody was promised anything.

        Returns:
            The positions of these last events.
        """
        for publisher in self.publishers:
            publisher.stopped = True
        await self.until(lambda: not self._publishing(), "all is acknowledged", patience=self.patience, must=False)
        for task in self._tasks:
            if task.get_name() == "Publisher.run":
                task.cancel()
        finals: dict[str, Position] = {}
        # By clients that wait for nothing: messages of one client are handled one after the other.
        for number, room in enumerate(dict.fromkeys(publisher.room for publisher in self.publishers)):
            position = await self.publisher(f"last-{number:04}-{os.urandom(4).hex()}", room, 1.0).tell()
            assert position is not None
            finals[room] = position
        await self.until(lambda: not self.behind(finals), "every client has the last event", patience=30.0, must=False)
        return finals

    def _publishing(self) -> bool:
        return any(task.get_name() == "Publisher.run" for task in self._tasks)

    def behind(self, finals: dict[str, Position]) -> list[Member | Product]:
        """Those that do not have the last event of each of their rooms, or wait for a state."""
        clients: list[Member | Product] = [*self.members, *self.products]
        return [
            member
            for member in clients
            if not member.ended
            and (member.waiting or any(_below(member.positions.get(room), finals.get(room)) for room in member.rooms))
        ]

    def tops(self) -> dict[str, Position]:
        """Of each room the position that was acknowledged last."""
        acks = sorted((acked for log in self.logs for acked in log.acked), key=lambda acked: acked.at)
        return {acked.room: acked.position for acked in acks}

    def judge(self, finals: dict[str, Position]) -> Findings:
        """What the logs say."""
        findings = check(self.logs, finals)
        for failure in self.failures:
            findings.note("unreported", "harness", failure)
        return findings

    # --- reading, once for all

    def read(self, payload: bytes) -> Event | dict[str, Any]:
        """A message; what came to one client comes to others with the same bytes."""
        message: dict[str, Any] = json.loads(payload)
        event = event_of(message)
        if event is None:
            return message
        if len(self.known) >= _KNOWN:
            self.known.clear()
        self.known[payload] = event
        return event

    # --- waiting

    def welcomed(self) -> None:
        """A welcome came."""
        self.welcomes.append(time.monotonic())

    def task(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run it beside, until the end of the run."""
        task = asyncio.get_running_loop().create_task(work, name=getattr(work, "__qualname__", "a task"))
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.failures.append(f"{task.get_name()}: {error!r}")

    async def until(
        self, condition: Callable[[], bool], what: str, *, patience: float = _PATIENCE, must: bool = True
    ) -> float:
        """Wait for it; returns how many seconds that took.

        Raises:
            TimeoutError: it did not come to be, and must.
        """
        began = time.monotonic()
        while not condition():
            if time.monotonic() - began > patience:
                if must:
                    raise TimeoutError(f"not within {patience:g} s: {what}")
                break
            await asyncio.sleep(_POLL)
        return time.monotonic() - began

    async def all_live(self, *, patience: float = _PATIENCE) -> float:
        """Wait until every client that has not ended is connected."""
        clients: list[Member | Product] = [*self.members, *self.products]
        return await self.until(
            lambda: all(client.live or client.ended for client in clients),
            "all are connected",
            patience=patience,
        )

    def end(self) -> None:
        """All clients go, without a word."""
        for member in self.members:
            member.end()
        for task in self._tasks:
            task.cancel()

    async def gone(self) -> None:
        """Wait until nothing of the clients is left."""
        while self._tasks:
            await asyncio.wait(self._tasks)
        await self.until(lambda: all(not member.linked for member in self.members), "all links are closed")

    # --- figures

    def recovered(self) -> int:
        """Resumes that were proven so far."""
        return sum(isinstance(r, Given) and r.recovered is True for log in self.logs for r in log.records)

    def reasons(self) -> Counter[str]:
        """Resumes that were not, by reason."""
        given = (r for log in self.logs for r in log.records if isinstance(r, Given) and r.recovered is False)
        return Counter(one.reason or "" for one in given)

    def resets(self) -> Counter[str]:
        """States that replaced a past, by reason."""
        states = (r for log in self.logs for r in log.records if isinstance(r, State) and r.reason != "requested")
        return Counter(state.reason for state in states)

    def times(self, name: str) -> list[float]:
        """All values of a member's list of seconds."""
        return [value for member in self.members for value in getattr(member, name)]

    def handshakes_per_second(self) -> float:
        """The most welcomes in any second."""
        best, start = 0, 0
        for index, at in enumerate(self.welcomes):
            while self.welcomes[start] < at - 1.0:
                start += 1
            best = max(best, index - start + 1)
        return float(best)


def _below(at: Position | None, final: Position | None) -> bool:
    return final is not None and (at is None or at.epoch != final.epoch or at.offset < final.offset)
