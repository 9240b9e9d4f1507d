"""One client over all its links, without I/O (docs/reference/protocol.md section 7).

    phase      what it does                                       next
    WAITING    nothing, until `Session.retry_at`                  begin() -> OPENING
    OPENING    dials, shakes hands, waits for the welcome         the welcome -> READY, or RESUMING
    RESUMING   waits for the reply to ``session.resume``          the reply -> READY
    READY      sends, receives                                    the link breaks -> WAITING
    ENDED      fails whatever is asked of it

From OPENING, RESUMING and READY a break, a refusal or a close leads to WAITING, or to ENDED where trying again
would not help. The caller's order for each thing that happens: tell the session, `take_items`,
`take_outgoing`, look at `linked`, and wait for `deadline` at most.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any
from urllib.parse import quote

from roomwire.client.errors import ConnectionRefused, NoReply, RequestFailed
from roomwire.client.events import Connected, Disconnected, Event, InvalidEvent, Item, ServerError
from roomwire.client.messages import (
    Incoming,
    Payload,
    Status,
    bad_message,
    control,
    fields_of,
    position_of,
    positions_of,
    read,
    seconds_of,
    statuses_of,
    text_of,
)
from roomwire.client.outbox import Outbox
from roomwire.client.requests import Requests
from roomwire.client.retry import HEALTHY_AFTER, Retry
from roomwire.client.rooms import Rooms
from roomwire.core.closing import CloseCode, Closing, reconnects
from roomwire.core.errors import ConnectionClosed, LocalError, ProtocolViolation, RoomwireError
from roomwire.core.handshake import HandshakeRejected
from roomwire.core.positions import format_cursor
from roomwire.core.schema import EventSchema, EventTable, InvalidData

__all__ = ["MAX_REQUEST_LINE", "SILENCE", "Options", "Phase", "Session"]

MAX_REQUEST_LINE = 6144
"""Bytes of a request line, beyond which the cursor goes into a message; servers and proxies take 8 KiB."""
SILENCE = 10.0
"""Seconds beyond the heartbeat interval after which a silent server is dead."""
_NO_STATUS = 1005
_PASSING = frozenset({"unavailable", "rate_limited", "internal"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Limits of a client. Sizes are bytes, times seconds."""

    open_timeout: float = 10.0
    """From dialling to the welcome (websockets: open_timeout 10)."""
    close_timeout: float = 5.0
    """From our close frame to the server's."""
    max_unread_events: int = 1000
    """Events that wait for the application; then reading from the socket pauses."""
    max_unread_bytes: int = 4_194_304
    """The same in bytes. Both are what one resume may replay."""
    max_unanswered_messages: int = 1000
    """Messages without a reply, the offline queue included; then `QueueFull`."""
    max_unanswered_bytes: int = 1_048_576
    """The same in bytes."""
    max_incoming_size: int = 4_194_304
    """One message of the server; a larger one ends the connection with 1009."""


class Phase(Enum):
    """Of a session; the module's docstring has the table."""

    WAITING = "waiting"
    OPENING = "opening"
    RESUMING = "resuming"
    READY = "ready"
    ENDED = "ended"


class Session:
    """What one client knows and decides.

    Args:
        client: the client id, which is kept over all links.
        random: gives numbers from 0 to 1, for the jitter.
        options: limits.
        wants_state: whether the rooms that the server joins by itself come with their state.
        events: declarations, to which the data of what comes is held.

    Attributes:
        phase: see the module's docstring.
        retry_at: when the next attempt is due, monotonic seconds.
        user: who the server takes this client for; ``""`` before the first welcome.
        rooms: the rooms.
        farewell: the code and reason to close a link with that the session gave up.
    """

    def __init__(
        self,
        client: str,
        random: Callable[[], float],
        options: Options | None = None,
        *,
        wants_state: bool = False,
        events: Iterable[EventSchema[Any]] = (),
    ) -> None:
        self._client = client
        self._options = options or Options()
        self._retry = Retry(random)
        self._wants_state = wants_state
        self._declared = EventTable()
        for event in events:
            self._declared.add(event)
        self._items: list[Item] = []
        self._outgoing: list[Payload] = []
        self._outbox = Outbox(self._options.max_unanswered_messages, self._options.max_unanswered_bytes)
        self._error: Callable[[], RoomwireError] = lambda: ConnectionClosed(CloseCode.NORMAL)
        self._interval = 30.0
        self._later = self._state_asked = self._cursor_sent = self._paused = False
        self._open_by = self._heard_at = self._beat_at = math.inf
        self._welcomed_at: float | None = None
        self._closing: Closing | None = None
        self.phase = Phase.WAITING
        self.retry_at = -math.inf
        self.user = ""
        self.rooms = Rooms()
        self.farewell: tuple[int, str] = (CloseCode.NORMAL, "")
        self.requests = Requests(self.rooms, self._outbox, self._outgoing.append, self._items.append)

    # --- what the caller asks

    @property
    def linked(self) -> bool:
        """Whether there is a link, or one is being made."""
        return self.phase in (Phase.OPENING, Phase.RESUMING, Phase.READY)

    @property
    def awaits_reply(self) -> bool:
        """Whether somebody would wait for ever if nothing more were read."""
        return self.phase is not Phase.READY or self.requests.waiting

    @property
    def deadline(self) -> float:
        """When to call `tick` at the latest, monotonic seconds."""
        if self.phase is Phase.ENDED:
            return math.inf
        if self.phase is Phase.WAITING:
            return min(self.retry_at, self._outbox.expires_at)
        if self.phase is Phase.OPENING:
            return min(self._open_by, self._outbox.expires_at)
        signs = self._beat_at if self._paused else self._heard_at + self._interval + SILENCE
        slices = self._outbox.slice_due if self.phase is Phase.READY else math.inf
        return min(signs, slices, self._outbox.expires_at)

    def error(self) -> RoomwireError:
        """Why it has ended, as a new exception."""
        return self._error()

    def take_items(self) -> list[Item]:
        """What the application is to be handed, since the last call."""
        items = self._items.copy()
        self._items.clear()
        return items

    @property
    def has_outgoing(self) -> bool:
        """Whether `take_outgoing` has something."""
        return bool(self._outgoing)

    def take_outgoing(self) -> list[Payload]:
        """What is to be sent, since the last call."""
        outgoing = self._outgoing.copy()
        self._outgoing.clear()
        return outgoing

    # --- an attempt

    def begin(self, now: float, target: str) -> str:
        """An attempt begins.

        Args:
            now: monotonic seconds.
            target: path and query without ours.

        Returns:
            The target to request. The token is no part of it.
        """
        self.phase = Phase.OPENING
        self._open_by = now + self._options.open_timeout
        self._welcomed_at = self._closing = None
        self._paused = False
        if self._retry.without_cursor:
            self.rooms.want_all_states()
        self._state_asked = self._wants_state or any(room.wants_state for room in self.rooms)
        target += f"{'&' if '?' in target else '?'}client={self._client}"
        with_state = target + ("&state=1" if self._state_asked else "")
        cursor = self.rooms.cursor()
        self._cursor_sent, self._later = bool(cursor), False
        self.requests.resuming = True
        if not cursor:
            return with_state
        whole = f"{with_state}&last_event_id={quote(format_cursor(cursor), safe='')}"
        self._later = len(f"GET {whole} HTTP/1.1\r\n") > MAX_REQUEST_LINE
        # A resume by message brings no state that was asked for: `_ready` asks room by room.
        return f"{target}&last_event_id=later" if self._later else whole

    def refused(self, now: float, refusal: HandshakeRejected) -> None:
        """The server answered with a plain HTTP response."""
        status, error, detail = refusal.status, refusal.error, refusal.detail
        wait = self._retry.after_refusal(status, refusal.retry_after, cursor=self._cursor_sent)
        if wait is None:
            self.end(lambda: ConnectionRefused(status, error, detail))
        else:
            self._break(now, CloseCode.ABNORMAL, f"refused with {status}", wait)

    def failed(self, now: float, reason: str) -> None:
        """The attempt came to nothing."""
        self._break(now, CloseCode.ABNORMAL, reason, self._retry.after_failure())

    # --- a link

    def heard(self, now: float) -> None:
        """Any frame came."""
        self._heard_at = now

    def pause(self, now: float) -> None:
        """Nothing is read from now on: the application must read first.

        Silence says nothing then, and no heartbeat of the server can be answered, so one is sent in each interval.
        """
        self._paused = True
        self._beat_at = now + self._interval

    def unpause(self, now: float) -> None:
        """Reading goes on."""
        self._paused = False
        self._heard_at = now

    def receive(self, now: float, payload: Payload) -> None:
        """A message came."""
        if not self.linked:
            return  # it was given up, by an earlier message of the same bytes
        self._heard_at = now
        try:
            message = read(payload)
            if self.phase is Phase.OPENING:
                self._welcome(now, message)
            else:
                self._take(message)
        except ProtocolViolation as violation:
            code, reason = violation.code, violation.reason
            self.farewell = (code, reason)
            self.end(lambda: ConnectionClosed(code, reason))

    def lost(self, now: float, code: int, reason: str) -> None:
        """The link has ended.

        Args:
            now: monotonic seconds.
            code: the close code, 1006 where the link broke without one.
            reason: the close reason.
        """
        if not self.linked:
            return  # it was given up before
        closing = self._closing
        if closing is not None and code in (_NO_STATUS, CloseCode.ABNORMAL):
            # The announcement came through and the close frame did not.
            code, reason = closing.code, closing.reason
        if not reconnects(code):
            self.end(lambda: ConnectionClosed(code, reason))
            return
        self._judge_health(now)
        self._break(now, code, reason, self._retry.after_failure(closing.retry_after if closing else None))

    def tick(self, now: float) -> bool:
        """Time has passed.

        Returns:
            Whether the link is given up, and to be cut.
        """
        self._outbox.expire(now)
        if self.phase is Phase.OPENING and now >= self._open_by:
            self.failed(now, "no welcome in time")
            return True
        if self.phase is Phase.READY:
            self._outgoing += self._outbox.release(now)
        if self.phase not in (Phase.RESUMING, Phase.READY):
            return False
        if self._paused:
            if now >= self._beat_at:
                self._beat_at = now + self._interval
                self._outgoing.append(control("presence.heartbeat"))
        elif now >= self._heard_at + self._interval + SILENCE:
            self._judge_health(self._heard_at)
            self._break(now, CloseCode.ABNORMAL, "the server is silent", self._retry.after_failure())
            return True
        return False

    def end(self, error: Callable[[], RoomwireError]) -> None:
        """There will be no further link, and `error` makes the exception that says why."""
        if self.phase is Phase.ENDED:
            return
        self.phase, self._error = Phase.ENDED, error
        self._outgoing.clear()
        self.requests.give_up(error, "the connection ended before the reply came")

    def give_up_waiting(self) -> None:
        """Replies cannot be read, since too many events wait unread: who waits for one is told so."""
        why = "the reply cannot be read: too many events wait for the application to read them"
        self.requests.give_up(lambda: NoReply(why), why)

    def _judge_health(self, until: float) -> None:
        if self._welcomed_at is not None and until - self._welcomed_at >= HEALTHY_AFTER:
            self._retry.was_healthy()

    def _break(self, now: float, code: int, reason: str, wait: float) -> None:
        self.phase = Phase.WAITING
        self.retry_at = now + wait
        self._outgoing.clear()
        self.requests.broke()
        self._items.append(Disconnected(code, reason, wait))

    # --- messages

    def _welcome(self, now: float, message: Incoming) -> None:
        if message.event != "session.welcome":
            raise bad_message("the first message is not session.welcome")
        fields = fields_of(message.data)
        limits = fields_of(fields.get("limits"))
        self._interval = seconds_of(fields_of(fields.get("heartbeat")), "interval", 30.0)
        size = int(seconds_of(limits, "max_message_size", 65_536))
        self._outbox.welcome(size, seconds_of(limits, "idempotency_window", 300.0))
        user = text_of(fields, "user") or ""
        if self.user and user != self.user:
            # What one user wrote is never sent in another's name; nor would its id make it idempotent there.
            why = "the token is another user's now"
            self._outbox.fail_all(lambda: NoReply(why), why)
        self.user = user
        self._welcomed_at = now
        connected = Connected(text_of(fields, "session") or "", self.user)
        statuses = statuses_of(fields.get("rooms"))
        if not self._later:
            self._ready(connected, statuses)
            return
        self.phase = Phase.RESUMING
        positions = {room: str(position) for room, position in self.rooms.cursor().items()}

        def resumed(data: object) -> None:
            self._ready(connected, statuses_of(fields_of(data).get("rooms")))

        def refused(error: RequestFailed) -> None:
            self._resume_refused(self._heard_at, error)

        self.requests.ask("session.resume", resumed, refused, data={"rooms": positions})

    def _ready(self, connected: Connected, statuses: Mapping[str, Status]) -> None:
        self.phase = Phase.READY
        self._retry.succeeded()
        self._items.append(connected)
        wanting = {room.name for room in self.rooms if room.wants_state}
        for name, status in statuses.items():
            state = self._state_asked and status.recovered is None and (not self._later or name in wanting)
            self._items += self.rooms.enter(name, status, state_follows=state)
        self._wants_state = False
        self.requests.ready()
        if self._later:
            for room in self.rooms:
                if room.here and room.wants_state and not room.leaving:
                    self.requests.ask_for_state(room)
        self._outgoing += self._outbox.release(self._heard_at)

    def _resume_refused(self, now: float, error: RequestFailed) -> None:
        """A reply to ``session.resume`` is what a status is to a handshake."""
        passing = error.code in _PASSING
        wait = self._retry.after_failure() if passing else self._retry.after_bad_cursor()
        self._break(now, CloseCode.ABNORMAL, f"not resumed: {error.code}", wait)

    def _take(self, message: Incoming) -> None:
        event = message.event
        if event == "ack":
            self.requests.acknowledged(message.id, message.data)
        elif event == "error":
            self._refused(message)
        elif event == "heartbeat":
            self._outgoing.append(control("presence.heartbeat"))
            self.rooms.move(positions_of(fields_of(message.data).get("positions")))
        elif event.startswith(("room.", "presence.")):
            self._items += self.rooms.receive(message)
        elif event == "session.closing":
            self._announced(fields_of(message.data))
        elif not event.startswith("session."):
            self._event(message)

    def _event(self, message: Incoming) -> None:
        if message.room is not None and message.id is not None:
            room = self.rooms.get(message.room)
            position = position_of(message.id)
            if room is None or not room.here or not room.accepts(position):
                return
        data = message.data
        if self._declared:
            try:
                declared = self._declared.find(message.event, message.room)
                data = data if declared is None else declared.read(data)
            except InvalidData as error:
                where = (message.room, message.id, message.user)
                self._items.append(InvalidEvent(message.event, data, error.faults, *where))
                return
            except LocalError:
                pass  # of another room than those that it is declared for: nothing is said of it
        self._items.append(Event(message.event, data, message.room, message.id, message.user))

    def _refused(self, message: Incoming) -> None:
        fields = fields_of(message.data)
        code, text = text_of(fields, "code") or "internal", text_of(fields, "message") or ""
        details: Any = fields.get("details")
        if message.id is None:
            self._items.append(ServerError(code, text, details))
        else:
            self.requests.refused(message.id, RequestFailed(code, text, details))

    def _announced(self, fields: Mapping[str, Any]) -> None:
        self.rooms.move(positions_of(fields.get("positions")))
        code = fields.get("code")
        if isinstance(code, int) and not isinstance(code, bool):
            self._closing = Closing(code, text_of(fields, "reason") or "", seconds_of(fields, "retry_after", 0.0))
