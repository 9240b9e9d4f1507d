"""A room on this node: its members, and the way of a publication to all of them.

One publication is one encode, and the same bytes for every member of a kind (wire protocol and
framing). Publications that came within one turn of the loop are joined into one block and written once
to each member. A turn goes out over a snapshot of the members, each looked at again before its
write: who left is passed over, and who went live after the snapshot had its events by replay. Long
fan-outs go on in the next turn of the loop (`Room.flush`'s budget).

Where the past cannot be trusted any more the room is frozen: nothing goes out until its members get a new
state, and of what came meanwhile only that which follows on it.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable
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
    from roomwire.node.presence import Told
    from roomwire.protocols.contract import Message, WireProtocol
    from roomwire.transports.contract import Framing, Link

__all__ = ["Freeze", "Kind", "Membership", "Room", "messages_of"]

logger = logging.getLogger("roomwire")

Kind = tuple["WireProtocol", "Framing"]
"""Connections of one kind can be written the same bytes. One object for each: it is compared by identity."""


class Membership:
    """One connection in one room.

    Attributes:
        room: the room.
        connection: the connection.
        link: its connection's way out while it is live, so that a fan-out touches as few objects as it can;
            None before, and for ever after it left.
        kind: what it can be written, while it is live.
        left: whether it is over.
        behind: its position moved on without an event, and it has not been told yet.
        listed: whether it was told the list of members.
        replay: what it waits for before it is live.
    """

    __slots__ = ("behind", "connection", "kind", "left", "link", "listed", "replay", "room")

    def __init__(self, room: Room, connection: Connection, replay: Replay) -> None:
        self.room = room
        self.connection = connection
        self.replay: Replay | None = replay
        self.link: Link | None = None
        self.kind: Kind | None = None
        self.left = False
        self.behind = False
        self.listed = False

    @property
    def live(self) -> bool:
        """Whether it gets the room's events as they come."""
        return self.link is not None

    def go_live(self) -> None:
        """From now on it gets the room's events; its connection is open."""
        self.link, self.kind = self.connection._link, self.connection._kind


class Freeze:
    """A reset of a room: its members wait for a new state.

    Attributes:
        reason: why, as ``room.state`` says it.
        overflowed: more came meanwhile than may wait; the state has to be made again.
        retried: it was made again once.
    """

    __slots__ = ("overflowed", "reason", "retried")

    def __init__(self, reason: str) -> None:
        self.reason = reason
        self.overflowed = False
        self.retried = False


class _Turn:
    """The publications of one turn of the loop on their way to the members of that moment."""

    __slots__ = ("_blocks", "done", "excluded", "last", "members", "publications")

    def __init__(self, publications: list[Publication], members: list[Membership]) -> None:
        self.publications = publications
        self.members = members
        self.excluded = {p.exclude for p in publications if p.exclude is not None}
        self.last = next((p for p in reversed(publications) if p.position is not None), None)
        self.done = 0
        self._blocks: dict[Kind, Any] = {}

    def block_for(self, kind: Kind | None) -> Any:
        """All of it as members of a kind can be written it; encoded once."""
        assert kind is not None
        block = self._blocks.get(kind)
        if block is None:
            block = self._blocks[kind] = _encode(self.publications, kind)
        return block


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
        frozen: set while a new state is being made for all members; their events wait for it.
        recovery: set when the read of the history that is under way has ended.
        jitter: of the position check.
        told: what its members were told about who is there.
        lock: held while subscribing and unsubscribing.
    """

    __slots__ = (
        "_pending",
        "_pending_bytes",
        "_turns",
        "buffering",
        "flushed",
        "frozen",
        "jitter",
        "live",
        "lock",
        "name",
        "policy",
        "recovery",
        "tail",
        "told",
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
        self.frozen: Freeze | None = None
        # Checks of many rooms must not come in step; the name spreads them well enough.
        self.jitter = 0.8 + 0.4 * (crc32(name.encode()) / 2**32)
        self.recovery: anyio.Event | None = None
        self.told: Told | None = None
        self.lock = anyio.Lock()
        self._pending: list[Publication] = []
        self._pending_bytes = 0
        self._turns: deque[_Turn] = deque()

    # --- the fan-out

    def accept(self, publication: Publication) -> None:
        """A publication in its order; `flush` brings it to the members."""
        self._pending.append(publication)
        self._pending_bytes += len(publication.data)
        freeze = self.frozen
        if freeze is not None and (len(self._pending) > BUFFER_EVENTS or self._pending_bytes > BUFFER_BYTES):
            freeze.overflowed = True
            self._drop_pending()

    @property
    def has_work(self) -> bool:
        """Whether `flush` has something to do."""
        return self.frozen is None and bool(self._pending or self._turns)

    @property
    def is_settled(self) -> bool:
        """Whether every live member has all events up to `flushed`, and none after it."""
        return not self._turns and self.frozen is None

    def seal(self) -> None:
        """What came so far is for the members of this moment, not for one who goes live next.

        Nothing in a frozen room: whoever goes live there gets the state as well.
        """
        if self._pending and self.frozen is None:
            self._turns.append(_Turn(self._pending, list(self.live)))
            self._pending = []
            self._pending_bytes = 0

    def flush(self, budget: int) -> int:
        """Write to at most `budget` members; returns to how many it did."""
        if not self._turns:
            self.seal()
        turn = self._turns[0]
        batch = turn.members[turn.done : turn.done + budget]
        turn.done += len(batch)
        count = len(turn.publications)
        excluded = turn.excluded
        kind = block = None
        for membership in batch:
            link = membership.link
            if link is None:
                continue
            if excluded and membership.connection.client in excluded:
                self._write_partly(membership, turn)
                continue
            if membership.kind is not kind:
                kind = membership.kind
                block = turn.block_for(kind)
            link.write(block, count)
        # A write that failed may have closed the room's last connection, and what was on its way.
        if turn.done >= len(turn.members) and self._turns and self._turns[0] is turn:
            self._turns.popleft()
            if turn.last is not None and turn.last.position is not None:
                self.flushed = turn.last.position
        return len(batch)

    def _write_partly(self, membership: Membership, turn: _Turn) -> None:
        client = membership.connection.client
        publications = [p for p in turn.publications if p.exclude != client]
        if turn.last is not None:
            membership.behind = turn.last.exclude == client
        kind, link = membership.kind, membership.link
        if publications and link is not None and kind is not None:
            link.write(_encode(publications, kind), len(publications))

    # --- positions

    def position_of(self, membership: Membership) -> Position:
        """Where a live member stands at this moment: `flushed`, or further in the middle of a turn."""
        position = self.flushed
        for number, turn in enumerate(self._turns):
            served = membership not in turn.members or (number == 0 and turn.members.index(membership) < turn.done)
            if not served:
                break
            # Who is not among a turn's members went live after it was sealed, beyond its events.
            if turn.last is not None and turn.last.position is not None:
                position = turn.last.position
        return position

    def moved(self, position: Position) -> None:
        """The stream moved on to `position` without an event: the members are told with the next heartbeat."""
        if self.is_settled and not self._pending and position != self.flushed:
            self.flushed = position
            for membership in self.live:
                membership.behind = True

    # --- resets

    def freeze(self, reason: str) -> Freeze:
        """Nothing goes out until `thaw`; what is on its way is forgotten, since the new state has it."""
        self.clear()
        self.frozen = Freeze(reason)
        return self.frozen

    def thaw(self, position: Position) -> None:
        """The members have got the state as of `position`: go on with what follows on it."""
        self.frozen = None
        self.flushed = position
        self._pending = [p for p in self._pending if p.position is None or p.position.offset > position.offset]
        for membership in self.live:
            membership.behind = False

    def clear(self) -> None:
        """Forget what is on its way, and a reset."""
        self.frozen = None
        self._turns.clear()
        self._drop_pending()

    def _drop_pending(self) -> None:
        self._pending = []
        self._pending_bytes = 0


def messages_of(publications: Iterable[Publication], protocol: WireProtocol) -> list[Message]:
    """The messages of publications. One that cannot be written is dropped, for it would be tried again for ever."""
    messages: list[Message] = []
    for publication in publications:
        try:
            messages.append(protocol.broadcast(publication))
        except Exception as error:
            logger.error("%s could not be written and was dropped", publication.event, exc_info=error)
    return messages


def _encode(publications: list[Publication], kind: Kind) -> Any:
    protocol, framing = kind
    return framing.block(messages_of(publications, protocol))
