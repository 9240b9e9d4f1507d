"""Every limit, with its unit, its default and the precedent of the default; and the token bucket."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

__all__ = ["UNREAD_STATES", "Limits", "Rate", "Rates", "TokenBucket"]

UNREAD_STATES = 5
"""States of the largest size that may wait for a reader, besides a replay of the largest size: the node makes
four for one connection at a time."""
_EVENT = 200
"""Bytes that an event of a replay has besides its data: names, id, frame."""

PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The ``[limits]`` section of the configuration. Sizes are bytes, times seconds.

    Every limit is applied before anything is buffered, and sizes again after inflation.
    """

    # --- the handshake
    handshake_timeout: PositiveFloat = 10.0
    """From accept to the whole request head (websockets: open_timeout 10)."""
    max_pending_handshakes: PositiveInt = 1000
    """Handshakes at one time in a node, beyond it 503; where TLS is not done yet the socket is closed."""
    max_pending_per_ip: PositiveInt = 200
    """Of these, from one address (IPv6: one /64)."""
    max_connections: PositiveInt = 100_000
    """Open connections in a node, beyond it 503."""

    # --- a connection
    max_message_size: PositiveInt = 65_536
    """Payload bytes of one message from a client, after reassembly and inflation (OWASP: 64 KB)."""
    max_event_size: PositiveInt = 131_072
    """Bytes of one event to a client."""
    max_state_size: PositiveInt = 1_048_576
    """Bytes of one ``room.state``."""
    max_fragments: PositiveInt = 1024
    """Fragments of one message (websockets: 4096)."""
    connections_per_user: PositiveInt = 5
    """Open connections of one user, over all nodes."""
    on_connection_limit: Literal["refuse", "evict"] = "refuse"
    """At that limit: refuse the newcomer with 429, or close the oldest with 4501."""
    rooms: PositiveInt = 100
    """Rooms that one connection may be in."""
    heartbeat_interval: PositiveFloat = 30.0
    """Between two heartbeats to a client."""
    heartbeat_timeout: PositiveFloat = 90.0
    """Silence after which a connection is dead. It has a deadline of its own."""
    idle_timeout: NonNegativeFloat = 0.0
    """Without a message of the application from the client, then 4504; 0: never."""
    close_timeout: PositiveFloat = 5.0
    """From our close frame to the end of TCP, then the link is aborted."""
    max_read_pause: PositiveFloat = 60.0
    """How long a connection's reading may be paused for a slow handler, then 1013."""
    min_byte_rate: NonNegativeFloat = 1024.0
    """Bytes a second while a message is incomplete, after `byte_rate_grace` (slowloris)."""
    byte_rate_grace: PositiveFloat = 10.0
    """From the first byte of a message to the first look at its rate."""

    # --- rates, each a bucket: so many a second, so many at once
    messages_per_second: PositiveFloat = 50.0
    """Above it a message is answered with ``rate_limited``."""
    message_burst: PositiveInt = 100
    bytes_per_second: PositiveFloat = 262_144.0
    """Bytes as they come from the network; above it 4004."""
    byte_burst: PositiveInt = 1_048_576
    """Above `max_message_size`."""
    frames_per_second: PositiveFloat = 200.0
    """Frames of all kinds; above it 4004."""
    frame_burst: PositiveInt = 1200
    """Above `max_fragments`, so that one fragmented message fits."""
    max_errors: PositiveInt = 20
    """Messages that cannot be read, within a minute; one more, and 1008."""

    # --- queues
    inbox_messages: PositiveInt = 64
    """Messages of one connection that wait for its handlers; then its reading is paused."""
    outbox_bytes: PositiveInt = 1_048_576
    """Bytes that wait for a slow reader, those in the transport's buffer included; then 4002."""
    outbox_messages: PositiveInt = 1000
    """Messages that wait for a slow reader; then 4002."""
    write_timeout: PositiveFloat = 30.0
    """A reader that takes not one byte for so long is too slow, whatever it is sent."""

    # --- requests to the application of `server.fallback`
    max_requests: PositiveInt = 1000
    """Requests in flight in a node, beyond it 503; and as many connections that are kept for a further one."""
    max_request_body: NonNegativeInt = 16_777_216
    """Bytes of a body, beyond it 413; 0: any number. It is streamed, so this bounds what the application keeps."""
    keep_alive_timeout: PositiveFloat = 5.0
    """How long a connection is kept for a further request (uvicorn: 5)."""

    # --- rooms and replay
    replay_events: PositiveInt = 1000
    """Events that one resume may replay over all rooms of the connection."""
    replay_bytes: PositiveInt = 4_194_304
    """The same in bytes."""
    snapshot_timeout: PositiveFloat = 5.0
    """For the application to compute a room's state; then it is ``null``: reload."""
    idempotency_window: PositiveFloat = 300.0
    """How long a message's reply is remembered for a second copy, and a publication's key."""
    reply_bytes: PositiveInt = 8_388_608
    """What the remembered replies of one user may take up in a window; then ``rate_limited``."""
    resume_timeout: PositiveFloat = 10.0
    """For the first message after a handshake with ``last_event_id=later``."""
    threads: PositiveInt = 40
    """Handlers, hooks and dependencies of a node that are ``def`` and run at one time, each in a thread (anyio: 40)."""
    handler_warning: PositiveFloat = 1.0
    """A handler that takes longer is logged by name."""

    @property
    def max_unread(self) -> int:
        """Bytes of replays and states that may wait for one reader. They do not count as slowness."""
        return self.replay_bytes + _EVENT * self.replay_events + UNREAD_STATES * self.max_state_size


class Rate:
    """So many tokens a second on average, so many at once: the rule of many buckets.

    A bucket is one float, the time at which it will be full again (the "virtual scheduling"
    form of the generic cell rate algorithm, ITU-T I.371), so an idle bucket costs nothing. It begins full, as 0.0.

    Args:
        rate: tokens a second.
        burst: tokens of a full bucket.

    Attributes:
        cost: seconds for a token.
        burst_seconds: what a bucket may be short of being full.
    """

    __slots__ = ("burst_seconds", "cost")

    def __init__(self, rate: float, burst: float) -> None:
        self.cost = 1.0 / rate
        # Half a token more, so that sums of floats never refuse the last one; tokens are whole.
        self.burst_seconds = (burst + 0.5) / rate

    def taken(self, full_at: float, now: float, amount: int = 1) -> float | None:
        """The bucket `full_at` after `amount` tokens were taken; None where there are too few."""
        full_at = (full_at if full_at > now else now) + amount * self.cost
        return None if full_at - now > self.burst_seconds else full_at


class Rates:
    """The rates that all connections of a node have in common.

    Args:
        limits: the node's.
    """

    __slots__ = ("bytes", "frames", "messages")

    def __init__(self, limits: Limits) -> None:
        self.frames = Rate(limits.frames_per_second, limits.frame_burst)
        self.messages = Rate(limits.messages_per_second, limits.message_burst)
        self.bytes = Rate(limits.bytes_per_second, limits.byte_burst)


class TokenBucket:
    """One bucket with a `Rate` of its own.

    Args:
        rate: tokens a second.
        burst: tokens of a full bucket. A bucket begins full.
    """

    __slots__ = ("_full_at", "_rate")

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = Rate(rate, burst)
        self._full_at = 0.0

    def take(self, now: float, amount: int = 1) -> bool:
        """Take `amount` tokens; False, and nothing taken, where there are too few."""
        full_at = self._rate.taken(self._full_at, now, amount)
        if full_at is None:
            return False
        self._full_at = full_at
        return True

    def charge(self, now: float, amount: int) -> None:
        """Take `amount` tokens, also where there are too few."""
        self._full_at = (self._full_at if self._full_at > now else now) + amount * self._rate.cost

    def is_spent(self, now: float) -> bool:
        """Whether more was charged than there was."""
        return self._full_at - now > self._rate.burst_seconds

    def is_full(self, now: float) -> bool:
        """Whether it is as it began."""
        return self._full_at <= now
