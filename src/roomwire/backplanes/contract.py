"""The backplane contract: how nodes share events, history, presence, slots and replies.

A backplane carries bytes between nodes, keeps each room's recent past, and holds leases. Local
fan-out, room policy, authorisation and encoding are not its business. All names (rooms, users,
clients) are the application's and hostile: an adapter that puts them into keys or subjects passes
them through `token` first, always.

Every coroutine ends within a bounded time, with its result or with `Unavailable`; none of them
hides a queue. Sink methods are plain functions, called on the node's event loop; they neither
block nor raise. Times are seconds. `roomwire.testing.backplane` is this contract as tests.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from roomwire.core.positions import Position
from roomwire.core.tail import Page

__all__ = [
    "KEY_WINDOW",
    "Backplane",
    "Capabilities",
    "Claim",
    "HistoryPolicy",
    "Holder",
    "Lost",
    "Member",
    "PolicyAware",
    "Reservation",
    "Sink",
    "token",
]


def token(name: str) -> str:
    """A name as it may stand in a key or a subject: base64url of its UTF-8 bytes, no padding.

    Always encoded, never "verbatim if safe": that would not be injective.
    """
    return base64.urlsafe_b64encode(name.encode()).rstrip(b"=").decode()


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a backplane can do; tests and the support table ask for these, never for names."""

    history: bool = True
    presence: bool = True
    slots: bool = True
    replies: bool = True
    multi_node: bool = True
    survives_restart: bool = True


KEY_WINDOW = 300.0
"""Seconds for which a publication's key is known, where nothing else is said."""


class HistoryPolicy(NamedTuple):
    """How much of a room's past is kept: at most `size` events, none older than `ttl` seconds.

    With `size` 0 events are numbered and sent but not stored.
    """

    size: int = 1000
    ttl: float = 3600.0


class Member(NamedTuple):
    """One connection's presence in a room. The lease belongs to (user, client)."""

    user: str
    client: str
    connection: str
    info: bytes = b"null"
    """What the application tells others of the member, as JSON."""


class Holder(NamedTuple):
    """Who holds a connection slot. The slot belongs to `client`, within the scope of a user."""

    client: str
    connection: str
    node: str


class Claim(NamedTuple):
    """The answer to `Backplane.claim`."""

    granted: bool
    displaced: Holder | None = None
    """The connection that lost its slot to this claim and is to be closed, on whatever node it is."""


class Lost(NamedTuple):
    """A slot that `Backplane.refresh` did not extend."""

    user: str
    holder: Holder
    """Whose connection is to be closed."""
    replaced: bool
    """Whether its own client holds the slot by now, in another connection; else others took the user's slots."""


class Reservation(NamedTuple):
    """The answer to `Backplane.reserve`.

    ``"new"``: handle it, then `remember` or `forget`. ``"pending"``: another copy is being handled.
    ``"done"``: `value` is the reply. `fingerprint` is that of the first copy.
    """

    state: Literal["new", "pending", "done"]
    fingerprint: str
    value: bytes = b""


class Sink(Protocol):
    """What a backplane calls; given at `Backplane.start`."""

    def deliver(self, room: str, epoch: str, previous: int, offset: int, body: bytes) -> None:
        """A stored (or at least numbered) publication; `previous` is the room's one before it."""

    def ephemeral(self, room: str, body: bytes) -> None:
        """A publication without number or store."""

    def interrupted(self, rooms: Collection[str] | None) -> None:
        """Something may have been missed in `rooms`, or anywhere (``None``)."""

    def changed(self, room: str) -> None:
        """A hint that the presence of `room` changed. Hints may come late, twice, or without cause."""

    def available(self, up: bool) -> None:
        """Whether the store can be reached now."""

    def told(self, body: bytes) -> None:
        """A control message from a node (this one included)."""


class Backplane(Protocol):
    """See the module's text. Adapters are constructed as ``Adapter(options)``, see `roomwire.plugins`."""

    @property
    def capabilities(self) -> Capabilities:
        """What it can do."""
        ...

    async def start(self, sink: Sink, node: str) -> None:
        """Connect. `node` is this node's unique name. Called once, before anything else."""

    async def aclose(self) -> None:
        """Disconnect; the leases of this node are left to be released by it or to expire."""

    async def publish(
        self, room: str, body: bytes, *, key: str | None, policy: HistoryPolicy, window: float = KEY_WINDOW
    ) -> Position:
        """Atomically: dedupe by `key`, number, store, send to all nodes (this one too).

        Returns after storing. A retry with the same `key` within `window` seconds returns the first position
        and sends nothing. Raises `Unavailable`, with ``stored=None`` where the outcome is unknown.
        """
        ...

    async def publish_ephemeral(self, room: str, body: bytes) -> None:
        """Send to all nodes without number or store; it moves no position."""

    async def subscribe(self, room: str) -> Position:
        """Returns the top position once live delivery is certain: all after it will be delivered."""
        ...

    async def unsubscribe(self, room: str) -> None:
        """End the live delivery. Deliveries already under way may still come."""

    async def history(self, room: str, since: Position | None, limit: int) -> Page:
        """At most `limit` publications after `since`, in order, with the top position.

        `since` ``None``, or `limit` 0, gives the top alone and proves nothing. A page that does not
        follow on `since` says why in `Page.reason`, and has no entries.
        """
        ...

    async def positions(self, rooms: Sequence[str]) -> dict[str, Position]:
        """The top positions of many rooms in one round trip; keeps their streams from expiring."""
        ...

    async def enter(self, room: str, member: Member) -> None:
        """Take or take over the presence lease of (user, client) in `room`."""

    async def leave(self, room: str, member: Member, grace: float) -> None:
        """Let the lease end in `grace` seconds; nothing where another connection holds it by now.

        With `grace` 0 it ends now, and all nodes with members in `room` get a hint. After another
        grace, which ends without a sound, the node calls again with 0.
        """

    async def members(self, room: str) -> list[Member]:
        """The leases that have not expired, oldest first."""
        ...

    async def rooms_of(self, user: str) -> list[str]:
        """The rooms in which any connection of `user` has a lease."""
        ...

    async def claim(self, user: str, holder: Holder, limit: int, *, evict: bool) -> Claim:
        """Take one of the `limit` slots of `user`, atomically.

        The same client takes its slot over. Full: not granted, or with `evict` the oldest is displaced.
        """
        ...

    async def release(self, user: str, holder: Holder) -> None:
        """Free the slot; nothing where another connection holds it by now."""

    async def refresh(
        self,
        members: Iterable[tuple[str, Member]],
        slots: Iterable[tuple[str, Holder]],
        *,
        limit: int | None = None,
    ) -> list[Lost]:
        """Extend (or make anew) the leases of this node: (room, member) and (user, holder) pairs.

        A lease that another connection holds by now stays its own. Returns the slots that this node
        does not have any more, since another connection of their client holds them, or since they lapsed
        or went to others, and `limit` others are taken by now: their connections are to be closed.
        """
        ...

    async def reserve(self, key: str, fingerprint: str, lease: float) -> Reservation:
        """Begin an idempotent message; "new" for exactly one caller until `lease` has passed."""
        ...

    async def renew(self, key: str, lease: float) -> None:
        """The handling goes on: extend the pending lease."""

    async def remember(self, key: str, fingerprint: str, value: bytes, ttl: float) -> None:
        """The reply, for `ttl` seconds."""

    async def forget(self, key: str) -> None:
        """The outcome may be tried again: drop the reservation. A reply that is remembered stays."""

    async def tell(self, node: str | None, body: bytes) -> None:
        """Send a control message to one node, or to all (this one too)."""


@runtime_checkable
class PolicyAware(Protocol):
    """What a backplane has besides, that needs a room's policy before the first publication in it.

    Such a one is a store whose limits are those of a place where several rooms are kept. All nodes have to
    say the same of a room.
    """

    def configure(self, policies: Mapping[str, HistoryPolicy], policy_of: Callable[[str], HistoryPolicy]) -> None:
        """Called once by a node, before `Backplane.start`: the policies by pattern, and how to find a room's.

        The pattern ``""`` has the policy of rooms that no pattern of the configuration matches.

        Without it every room has the default policy, except in `Backplane.publish`, which is given one.
        """
