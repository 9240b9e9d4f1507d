"""A room on this node: its members, and the way to all of them.

One publication is one encode, and the same bytes for every member of a kind (wire protocol and
framing). Publications that came within one turn of the loop are joined into one block and written once
to each member.

Whatever many members are told goes out in the room's turns (`roomwire.node.turns`), one after the other:
publications, the state after a reset, who is there. That is what keeps them in order: a state precedes
the events that follow on it, a list of members the changes to it. A turn of the loop takes at most the
budget of `Room.flush`, in writes, of which a large one counts as several; then the loop goes on.

Where the past cannot be trusted any more the room is frozen: no event goes out until its members get a new
state, and of what came meanwhile only that which follows on it. Who is there is told all the same.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING
from zlib import crc32

import anyio

from roomwire.core.notices import Notice, RoomState, Roster
from roomwire.core.policy import RoomPolicy
from roomwire.core.positions import Position
from roomwire.core.publication import Publication
from roomwire.core.replay import BUFFER_BYTES, BUFFER_EVENTS, Replay
from roomwire.core.tail import RoomTail
from roomwire.node.turns import Events, Telling, Turn

if TYPE_CHECKING:
    from roomwire.node.connection import Connection
    from roomwire.node.newest import Newest
    from roomwire.node.presence import Told
    from roomwire.protocols.contract import WireProtocol
    from roomwire.transports.contract import Framing, Link

BLOCK_BYTES = 262_144
"""Bytes of data that are joined into one block: what the kernel does not take of it is held for each slow reader."""

__all__ = ["Freeze", "Kind", "Membership", "Room"]

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
        replay: what it waits for before it is live, or, being live, before it has the state that it asked for;
            None where it waits for nothing.
    """

    __slots__ = ("behind", "connection", "kind", "left", "link", "listed", "replay", "room")

    def __init__(self, room: Room, connection: Connection) -> None:
        self.room = room
        self.connection = connection
        self.replay: Replay | None = None
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


class Room:
    """A room with members on this node.

    Attributes:
        name: its name.
        policy: its policy.
        tail: the end of its stream, once it is subscribed.
        users: joins under way and members; at zero the room may be closed.
        live: the memberships that get its events.
        buffering: those that wait for a replay or a state; some are live as well.
        flushed: the position up to which all live members have got their events.
        frozen: set while a new state is being made for all members; their events wait for it.
        recovery: set when the read of the history that is under way has ended.
        jitter: of the position check.
        early: the last position that was delivered before the answer to the subscribe.
        told: what its members were told about who is there.
        outdated: whether that changed again while they are being told.
        roster: who is there, until a change is heard of.
        changes: how many of them were heard of.
        newest: what who joins is sent at once, where the policy says so.
        lock: held while subscribing and unsubscribing.
    """

    __slots__ = (
        "_pending",
        "_pending_bytes",
        "_turns",
        "buffering",
        "changes",
        "early",
        "flushed",
        "frozen",
        "jitter",
        "live",
        "lock",
        "name",
        "newest",
        "outdated",
        "policy",
        "recovery",
        "roster",
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
        # Checks of many rooms must not come in step, and what was lost is to be there within `SILENCE`, the look at
        # the clock (`roomwire.node.upkeep`) and the read included. The name spreads them well enough.
        self.jitter = 0.6 + 0.25 * (crc32(name.encode()) / 2**32)
        self.recovery: anyio.Event | None = None
        self.early: Position | None = None
        self.told: Told | None = None
        self.outdated = False
        self.roster: Roster | None = None
        self.changes = 0
        self.newest: Newest | None = None
        self.lock = anyio.Lock()
        self._pending: list[Publication] = []
        self._pending_bytes = 0
        self._turns: deque[Turn] = deque()

    # --- the fan-out

    def accept(self, publication: Publication) -> None:
        """A publication in its order; `flush` brings it to the members."""
        self._pending.append(publication)
        self._pending_bytes += len(publication.data)
        freeze = self.frozen
        if freeze is not None and (len(self._pending) > BUFFER_EVENTS or self._pending_bytes > BUFFER_BYTES):
            freeze.overflowed = True
            self._drop_pending()
        elif self._pending_bytes >= BLOCK_BYTES:
            self.seal()

    def tell(
        self, members: list[Membership], notices: Sequence[Notice], then: Callable[[], None] | None = None
    ) -> None:
        """Tell members something that moves no position, after what came so far; `then` is called when all were told.

        `Hub.tell` has it flushed.
        """
        self.seal()
        self._turns.append(Telling(members, notices, then=then))

    @property
    def has_work(self) -> bool:
        """Whether `flush` has something to do."""
        return bool(self._turns or (self._pending and self.frozen is None))

    @property
    def is_telling(self) -> bool:
        """Whether members are still being told something that moves no position."""
        return any(not turn.moves for turn in self._turns)

    @property
    def is_settled(self) -> bool:
        """Whether every live member has all events up to `flushed`, and none after it."""
        return self.frozen is None and not any(turn.moves for turn in self._turns)

    def seal(self) -> None:
        """What came so far is for the members of this moment, not for one who goes live next.

        Nothing in a frozen room: whoever goes live there gets the state as well.
        """
        if self._pending and self.frozen is None:
            self._turns.append(Events(list(self.live), self._pending, self._pending_bytes))
            self._drop_pending()

    def release(self) -> bool:
        """Have `flush` send what waits for a later time; False where nothing does."""
        return False

    def admit(self, membership: Membership) -> None:
        """A member goes live: it has all that came so far."""
        self.seal()
        self.live[membership] = None

    def part(self, membership: Membership) -> None:
        """A member has left."""
        self.live.pop(membership, None)

    def skip(self, membership: Membership) -> None:
        """A live member has all that came so far: it was given the state, and what followed on it."""
        self.seal()
        for turn in self._turns:
            if turn.moves:
                turn.skip(membership)

    def flush(self, budget: int) -> int:
        """Write for at most `budget`, or to one member; returns what it took, a small write being 1."""
        if not self._turns:
            self.seal()
        turn = self._turns[0]
        batch = turn.members[turn.done : turn.done + max(1, budget // turn.cost)]
        turn.done += len(batch)
        turn.write(batch)
        # A write that failed may have closed the room's last connection, and what was on its way.
        if turn.done >= len(turn.members) and self._turns and self._turns[0] is turn:
            self._turns.popleft()
            if turn.last is not None and turn.last.position is not None:
                self.flushed = turn.last.position
            turn.finished()
        return len(batch) * turn.cost

    # --- positions

    def position_of(self, membership: Membership) -> Position | None:
        """Where a live member stands at this moment: `flushed`, or further in the middle of a turn.

        None while the state after a reset is on its way to it: who resumed from a position would never get it.
        """
        position = self.flushed
        for turn in self._turns:
            if turn.moves and not turn.has_served(membership):
                return None if isinstance(turn, Telling) else position
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
        """No event goes out until `thaw`; those on their way are forgotten, since the new state has them."""
        self._turns = deque(turn for turn in self._turns if not turn.moves)
        self._drop_pending()
        self._forget_newest()
        self.frozen = Freeze(reason)
        return self.frozen

    def thaw(self, state: RoomState) -> None:
        """The state for all members, and then what follows on it. `Hub.thaw` has it flushed."""
        self.frozen = None
        self.flushed = state.position
        offset = state.position.offset
        self._pending = [p for p in self._pending if p.position is None or p.position.offset > offset]
        self._pending_bytes = sum(len(p.data) for p in self._pending)
        self._turns.append(Telling(list(self.live), [state], is_state=True))
        for membership in self.live:
            membership.behind = False

    def clear(self) -> None:
        """Forget what is on its way, and a reset."""
        self.frozen = None
        self._turns.clear()
        self._drop_pending()
        self._forget_newest()

    def _forget_newest(self) -> None:
        if self.newest is not None:
            self.newest.clear()

    def _drop_pending(self) -> None:
        self._pending = []
        self._pending_bytes = 0
