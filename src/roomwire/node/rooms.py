"""A room on this node: its members, and the way of a publication to all of them.

One publication is one encode, and the same bytes for every member of a kind (wire protocol and
framing). Publications that came within one turn of the loop are joined into one block and written once
to each member. A turn goes out over a snapshot of the members, each looked at again before its
write: who left is passed over, and who went live after the snapshot had its events by replay. Long
fan-outs go on in the next turn of the loop (`Room.flush`'s budget).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any
from zlib import crc32

import anyio

from roomwire.core.policy import RoomPolicy
from roomwire.core.positions import Position
from roomwire.core.publication import Publication
from roomwire.core.replay import BUFFER_BYTES, BUFFER_EVENTS, Replay
from roomwire.core.tail import RoomTail

if TYPE_CHECKING:
    from roomwire.node.connection import Connection
    from roomwire.protocols.contract import Message, WireProtocol
    from roomwire.transports.contract import Framing

__all__ = ["Kind", "Membership", "Room"]

Kind = tuple["WireProtocol", "Framing"]


class Membership:
    """One connection in one room.

    Attributes:
        live: whether it gets the room's events as they come; False before, and for ever after it left.
        behind: its position moved on without an event, and it has not been told yet.
        listed: whether it was told the list of members.
        replay: what it waits for before it is live.
    """

    __slots__ = ("behind", "connection", "left", "listed", "live", "replay", "room")

    def __init__(self, room: Room, connection: Connection, replay: Replay) -> None:
        self.room = room
        self.connection = connection
        self.replay: Replay | None = replay
        self.live = False
        self.left = False
        self.behind = False
        self.listed = False


class _Turn:
    """The publications of one turn of the loop on their way to the members of that moment."""

    __slots__ = ("blocks", "done", "excluded", "members", "publications")

    def __init__(self, publications: list[Publication], members: list[Membership]) -> None:
        self.publications = publications
        self.members = members
        self.excluded = {p.exclude for p in publications if p.exclude is not None}
        self.blocks: dict[Kind, Any] = {}
        self.done = 0


class Room:
    """A room with members on this node.

    Attributes:
        name: its name.
        policy: its policy.
        tail: the end of its stream, once it is subscribed.
        users: joins under way and members; at zero the room may be closed.
        live: the memberships that get its events.
        buffering: those that wait for a replay or a state.
        flushed: the position up to which all live members have got their events.
        frozen: a new state is being made for all members; their events wait for it.
        recovery: set when the read of the history that is under way has ended.
        jitter: of the position check.
        lock: held while subscribing and unsubscribing.
    """

    __slots__ = (
        "_pending",
        "_turns",
        "buffering",
        "flushed",
        "frozen",
        "jitter",
        "live",
        "lock",
        "name",
        "policy",
        "presence",
        "recovery",
        "tail",
        "users",
    )

    def __init__(self, name: str, policy: RoomPolicy) -> None:
        self.name = name
        self.policy = policy
        self.tail: RoomTail | None = None
        self.users = 0
        self.live: dict[Membership, None] = {}
        self.buffering: set[Membership] = set()
        self.flushed = Position("", 0)
        self.frozen = False
        # Checks of many rooms must not come in step; the name spreads them well enough.
        self.jitter = 0.8 + 0.4 * (crc32(name.encode()) / 2**32)
        self.recovery: anyio.Event | None = None
        self.presence: Any = None
        self.lock = anyio.Lock()
        self._pending: list[Publication] = []
        self._turns: deque[_Turn] = deque()

    def accept(self, publication: Publication) -> None:
        """A publication in its order; `flush` brings it to the members."""
        self._pending.append(publication)

    @property
    def has_work(self) -> bool:
        """Whether `flush` has something to do."""
        return not self.frozen and bool(self._pending or self._turns)

    @property
    def overfull(self) -> bool:
        """Whether more waits for a frozen room's members than may."""
        return len(self._pending) > BUFFER_EVENTS or sum(len(p.data) for p in self._pending) > BUFFER_BYTES

    @property
    def is_settled(self) -> bool:
        """Whether every live member has all events up to `flushed`, and none after it."""
        return not self._turns

    def seal(self) -> None:
        """What came so far is for the members of this moment, not for one who goes live next."""
        if self._pending:
            self._turns.append(_Turn(self._pending, list(self.live)))
            self._pending = []

    def flush(self, budget: int) -> int:
        """Write to at most `budget` members; returns to how many it did."""
        if not self._turns:
            self.seal()
        turn = self._turns[0]
        batch = turn.members[turn.done : turn.done + budget]
        turn.done += len(batch)
        count = len(turn.publications)
        excluded, blocks = turn.excluded, turn.blocks
        for membership in batch:
            if not membership.live:
                continue
            connection = membership.connection
            if excluded and connection.client in excluded:
                self._write_partly(membership, turn)
                continue
            kind = connection._kind
            block = blocks.get(kind)  # type: ignore[arg-type]  # live members have a kind
            if block is None:
                block = blocks[kind] = _encode(turn.publications, kind)  # type: ignore[index, arg-type]
            link = connection._link
            if link is not None:
                link.write(block, count)
        if turn.done >= len(turn.members):
            self._turns.popleft()
            self._note_position(turn.publications)
        return len(batch)

    def _write_partly(self, membership: Membership, turn: _Turn) -> None:
        client = membership.connection.client
        publications = [p for p in turn.publications if p.exclude != client]
        if turn.publications[-1].exclude == client:
            membership.behind = True
        kind, link = membership.connection._kind, membership.connection._link
        if publications and link is not None and kind is not None:
            link.write(_encode(publications, kind), len(publications))

    def _note_position(self, publications: list[Publication]) -> None:
        for publication in reversed(publications):
            if publication.position is not None:
                self.flushed = publication.position
                return

    def drop_turns(self) -> None:
        """Forget what is on its way: every member gets a new state instead."""
        self._pending.clear()
        self._turns.clear()


def _encode(publications: list[Publication], kind: Kind) -> Any:
    protocol, framing = kind
    messages: list[Message] = [protocol.broadcast(publication) for publication in publications]
    return framing.block(messages)
