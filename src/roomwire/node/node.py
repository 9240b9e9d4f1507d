"""Node: what one process runs. It wires the parts together and is the transport's `Host`.

The parts know each other through the node: admission (before the upgrade), workers (commands),
joining, entering and states (the way into a room), the hub, its rooms and their healing (the way of a
publication), presence and control (what nodes share), farewells and drain (the end).
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

from roomwire.auth.contract import Authenticator, OriginCheck
from roomwire.backplanes.contract import Backplane, HistoryPolicy
from roomwire.core.closing import CloseCode
from roomwire.core.envelope import dump
from roomwire.core.errors import Refusal
from roomwire.core.limits import Limits
from roomwire.core.notices import Notice
from roomwire.core.orders import ORDERS
from roomwire.core.patterns import Pattern, PatternTable
from roomwire.core.policy import RoomPolicy
from roomwire.core.publication import Publication, compose
from roomwire.core.request import RequestHead
from roomwire.core.schema import EventSchema
from roomwire.core.signatures import name_of
from roomwire.core.wheel import TimerWheel
from roomwire.node import journal, unread
from roomwire.node.admission import Admissions
from roomwire.node.connection import Connection
from roomwire.node.control import Control
from roomwire.node.counts import Counts
from roomwire.node.drain import Drain
from roomwire.node.entering import Entering
from roomwire.node.farewells import Farewells
from roomwire.node.hub import Hub
from roomwire.node.joining import Joining
from roomwire.node.presence import Presence
from roomwire.node.replies import Replies
from roomwire.node.rooms import Kind
from roomwire.node.scope import Scope, current
from roomwire.node.states import States
from roomwire.node.streams import Streams
from roomwire.node.threads import Threads
from roomwire.node.upkeep import Upkeep
from roomwire.node.workers import Workers
from roomwire.runtime import AsyncioRuntime, PortableRuntime, open_runtime
from roomwire.transports.contract import Admission, HttpResponse, Transport, Upload

if TYPE_CHECKING:
    from roomwire.app import App, Lifespan
    from roomwire.node.api import PublishApi
    from roomwire.node.fallback import Fallback
    from roomwire.node.meter import Meter
    from roomwire.protocols.contract import WireProtocol
    from roomwire.transports.contract import Framing

__all__ = ["Node", "running"]

logger = logging.getLogger("roomwire")

Page = Callable[[], HttpResponse]
T = TypeVar("T")

running: list[Node] = []
"""The nodes of this process, for code that runs outside of any handler."""

_DEFAULT_POLICY = RoomPolicy()


class Node:
    """One running node.

    Args:
        app: the application's declarations.
        limits: the limits.
        backplane: the adapter that joins nodes.
        authenticator: the one that says who connects.
        origin: which web pages may connect.
        transport: the one that gets bytes in and out.
        protocols: the wire protocols that may be negotiated.
        rooms: room policies by pattern.
        path: the WebSocket path.
        streams: the wire protocols of read-only event streams, by path.
        name: unique among the nodes of a cluster.
        pages: plain HTTP resources by path.
        drain_timeout: seconds for an orderly end.
        reconnect_spread: seconds over which the clients of a node that ends come back.
        clock: monotonic seconds; another one for tests.

    Attributes:
        counts: what it has done.
        meter: what it times, where metrics are on; set before `serve`.
        metrics: what answers ``/metrics``; None: 404.
        api: what answers ``/api/publish``; None: 404.
        fallback: the application that answers other plain HTTP; None: 404.
        beside: what is entered before it serves, and left when it has drained.
    """

    runtime: AsyncioRuntime | PortableRuntime
    _scope: anyio.CancelScope

    def __init__(
        self,
        app: App,
        *,
        backplane: Backplane,
        authenticator: Authenticator,
        origin: OriginCheck,
        transport: Transport,
        protocols: Sequence[WireProtocol],
        name: str,
        limits: Limits | None = None,
        rooms: Mapping[str, RoomPolicy] | None = None,
        path: str = "/ws",
        streams: Mapping[str, WireProtocol] | None = None,
        pages: Mapping[str, Page] | None = None,
        drain_timeout: float = 25.0,
        reconnect_spread: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.app = app
        self.backplane = backplane
        self.authenticator = authenticator
        self.origin = origin
        self.transport = transport
        self.name = name
        self.limits = limits or Limits()
        self.clock = clock
        self.subprotocols = tuple(protocol.name for protocol in protocols)
        self._protocols = {protocol.name: protocol for protocol in protocols}
        self._default_protocol = protocols[0]
        self._path = path
        self._pages = dict(pages or {})
        self._policies = _table_of(rooms or {})
        self.wheel = TimerWheel()
        self.counts = Counts()
        self.meter: Meter | None = None
        self.metrics: Callable[[RequestHead], HttpResponse] | None = None
        self.api: PublishApi | None = None
        self.fallback: Fallback | None = None
        self.beside: list[Callable[[], AbstractAsyncContextManager[None]]] = []
        self.connections: dict[str, Connection] = {}
        self._by_user: dict[str, set[Connection]] = {}
        self._kinds: dict[Kind, Kind] = {}
        self._shared: dict[tuple[Kind, type[Notice]], Any] = {}
        self.hub = Hub(self)
        self.joining = Joining(self)
        self.entering = Entering(self)
        self.states = States(self)
        self.presence = Presence(self)
        self.control = Control(self)
        self.threads = Threads(self)
        self.workers = Workers(self)
        self.replies = Replies(self)
        self.admissions = Admissions(self)
        self.streams = Streams(self, streams or {})
        self.farewells = Farewells(self)
        self.drain = Drain(self, drain_timeout, reconnect_spread)
        self.upkeep = Upkeep(self)
        self.serving = False
        self._failure: BaseException | None = None

    # --- the life of a node

    async def serve(self, *, ready: Callable[[Sequence[str]], None] = lambda addresses: None) -> None:
        """Serve until cancelled, or until `Drain.run` has ended every connection.

        Args:
            ready: called with the addresses bound, once connections are accepted.

        Raises:
            RoomwireError: an adapter could not start.
            Exception: whatever made one of the node's own callbacks fail.
        """
        self._scope = anyio.CancelScope()
        async with self._open():
            self.serving = True
            self.runtime.spawn(self.upkeep.run)
            try:
                with self._scope:
                    await self.transport.serve(self, ready=ready)
            finally:
                self.serving = False
                with anyio.CancelScope(shield=True):
                    await self.drain.end()
        if self._failure is not None:
            raise self._failure

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            self.runtime = await stack.enter_async_context(open_runtime(self.fault, self.clock))
            stack.push_async_callback(_shielded, self.backplane.aclose)
            self._configure_backplane()
            await self.backplane.start(self.hub, self.name)
            await self.hub.follow_orders()
            stack.push_async_callback(_shielded, self.authenticator.aclose)
            await self.authenticator.start()
            running.append(self)
            stack.callback(running.remove, self)
            token = current.set(Scope(self))
            stack.callback(current.reset, token)
            for beside in self.beside:
                await stack.enter_async_context(beside())
            if self.app.lifespan is not None:
                await stack.enter_async_context(self._bounded(self.app.lifespan))
            self.runtime.settle()
            # No handler outlives what the lifespan closes; each can still give back what it holds in the store.
            stack.push_async_callback(_shielded, self.runtime.drain)
            yield

    @asynccontextmanager
    async def _bounded(self, lifespan: Lifespan) -> AsyncIterator[None]:
        """The application's lifespan; its end is cancelled where it takes longer than what is left of the drain."""
        seconds = math.inf
        with anyio.CancelScope() as scope:  # outside of it, since it may have scopes of its own
            async with lifespan(self.app):
                try:
                    yield
                finally:
                    seconds = self.drain.remaining()
                    scope.deadline = anyio.current_time() + seconds
        if scope.cancelled_caught:
            journal.hung(name_of(lifespan), seconds, "lifespan")

    def _configure_backplane(self) -> None:
        """Tell it the policies, where it is a `roomwire.backplanes.contract.PolicyAware`; it may be wrapped."""
        configure = getattr(self.backplane, "configure", None)
        if configure is not None:
            kept = {pattern.text: _history(policy) for pattern, policy in self._policies.items()}
            configure({"": _history(_DEFAULT_POLICY), **kept}, self.kept)

    def fault(self, error: BaseException, where: str) -> None:
        """A fault in the node's own code: it is logged, and `serve` raises it."""
        journal.failed(None, where, error)
        if self._failure is None:
            self._failure = error
            self._scope.cancel()

    def spawn(self, function: Callable[[], Awaitable[None]]) -> None:
        """Run it as a task of the node."""
        self.runtime.spawn(function)

    def attend(self, connection: Connection, function: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        """Run it as a task on a connection's account: what it raises ends that connection with 1011."""
        self.runtime.spawn(self._attend, connection, function, arguments)

    async def _attend(
        self, connection: Connection, function: Callable[..., Awaitable[None]], arguments: tuple[Any, ...]
    ) -> None:
        try:
            await function(*arguments)
        except Exception as error:  # noqa: BLE001  the boundary of a connection
            connection._fail(error)

    @property
    def draining(self) -> bool:
        """Whether the node is about to end."""
        return self.drain.began

    @property
    def ready(self) -> bool:
        """Whether it is to be sent clients: the backplane is up, and it is not draining."""
        return self.hub.up and not self.draining

    # --- the transport's host

    def path_is_socket(self, path: str) -> bool:
        """See `roomwire.transports.contract.Host`."""
        return path == self._path

    def path_is_stream(self, path: str) -> bool:
        """See `roomwire.transports.contract.Host`."""
        return self.streams.serves(path)

    def respond(self, head: RequestHead) -> HttpResponse | None:
        """See `roomwire.transports.contract.Host`."""
        if head.path == "/healthz":
            return HttpResponse(200, dump({"status": "ok", "loop_lag": round(self.upkeep.lag, 4)}))
        if head.path == "/readyz":
            state = "ready" if self.ready else "draining" if self.draining else "backplane unavailable"
            return HttpResponse(200 if self.ready else 503, dump({"status": state}))
        if head.path == "/metrics" and self.metrics is not None:
            return self.metrics(head)
        page = self._pages.get(head.path)
        return None if page is None else page()

    def wants_body(self, head: RequestHead) -> Upload | None:
        """See `roomwire.transports.contract.Host`."""
        return None if self.api is None else self.api.wants_body(head)

    def at_the_door(self) -> Refusal | None:
        """See `roomwire.transports.contract.Host`."""
        return self.admissions.at_the_door()

    async def admit(self, head: RequestHead, subprotocol: str | None) -> Admission:
        """See `roomwire.transports.contract.Host`."""
        deciding = self.admissions.admit(head, subprotocol)
        return await (deciding if self.meter is None else self._timed(deciding, self.meter))

    async def admit_stream(self, head: RequestHead) -> Admission | HttpResponse:
        """See `roomwire.transports.contract.Host`."""
        deciding = self.streams.admit(head)
        return await (deciding if self.meter is None else self._timed(deciding, self.meter))

    async def _timed(self, deciding: Awaitable[T], meter: Meter) -> T:
        started = meter.clock()
        try:
            return await deciding
        finally:
            meter.handshakes.observe(meter.clock() - started)

    def abandon(self, admission: Admission) -> None:
        """See `roomwire.transports.contract.Host`."""
        admission.receiver.lost(CloseCode.ABNORMAL, "", by_peer=True)

    def refused(self, head: RequestHead | None, refusal: Refusal, peer: str) -> None:
        """See `roomwire.transports.contract.Host`."""
        self.counts.refused(refusal)
        journal.refused(head, refusal, peer)

    def protocol_of(self, subprotocol: str | None) -> WireProtocol:
        """The wire protocol of a selected subprotocol; a client that offered none gets the first one."""
        return self._default_protocol if subprotocol is None else self._protocols[subprotocol]

    # --- connections

    def expect(self, connection: Connection) -> None:
        """A connection is being decided: orders about its user reach it. `depart` is the counterpart."""
        self._by_user.setdefault(connection.user, set()).add(connection)

    def register(self, connection: Connection) -> None:
        """The application lets it in: it counts, and may claim a slot. `forget` is the counterpart."""
        self.connections[connection.id] = connection

    def connections_of(self, user: str) -> list[Connection]:
        """The connections of a user on this node."""
        return list(self._by_user.get(user, ()))

    def depart(self, connection: Connection) -> None:
        """A close begins, or the link broke: the rooms are left and the slot is free."""
        others = self._by_user.get(connection.user)
        if others is not None:
            others.discard(connection)
            if not others:
                del self._by_user[connection.user]
        unread.was_read(connection)
        rooms = self.entering.leave_all(connection)
        if connection.id in self.connections:  # else it has claimed nothing yet
            self.farewells.departed(connection, rooms)

    def forget(self, connection: Connection, *, opened: bool) -> None:
        """The link has ended, or there never was one."""
        self.connections.pop(connection.id, None)
        self.drain.noticed_end()
        if opened:
            self.farewells.ended(connection)

    # --- publishing

    def policy_of(self, room: str) -> RoomPolicy:
        """The policy of a room, from the most specific pattern of the configuration."""
        found = None if room == ORDERS else self._policies.match(room)
        return found[0] if found is not None else _DEFAULT_POLICY

    def kept(self, room: str) -> HistoryPolicy:
        """How much of a room's past is kept."""
        return _history(self.policy_of(room))

    async def publish(
        self,
        room: str,
        event: str | EventSchema[Any],
        data: object,
        *,
        exclude: str | None,
        user: str | None,
        history: bool,
        key: str | None,
        exclude_user: str | None = None,
    ) -> Publication:
        """Publish to a room, cluster-wide; returns when it is stored.

        Raises:
            LocalError: the room or the event has no correct name; `InvalidData`; `EventTooLarge`.
            Unavailable: the backplane did not store it, or may not have.
        """
        if isinstance(event, str) and self.app.events:
            event = self.app.events.find(event, room) or event
        publication, body = compose(
            room,
            event,
            data,
            max_size=self.limits.max_event_size,
            user=user,
            exclude=exclude,
            exclude_user=exclude_user,
        )
        if history:
            kept, window = self.kept(room), self.limits.idempotency_window
            publication.position = await self.backplane.publish(room, body, key=key, policy=kept, window=window)
        else:
            await self.backplane.publish_ephemeral(room, body)
        self.counts.published += history
        self.counts.ephemeral += not history
        return publication

    # --- blocks that are shared

    def kind_of(self, protocol: WireProtocol, framing: Framing) -> Kind:
        """The kind of a connection, one object for all that are alike."""
        kind = (protocol, framing)
        return self._kinds.setdefault(kind, kind)

    def shared_block(self, kind: Kind | None, notice: Notice) -> Any:
        """The block of a notice that is the same for all connections of a kind, and at all times."""
        assert kind is not None
        key = (kind, type(notice))
        block = self._shared.get(key)
        if block is None:
            protocol, framing = kind
            block = self._shared[key] = framing.block(protocol.new_codec().send(notice))
        return block


def _table_of(rooms: Mapping[str, RoomPolicy]) -> PatternTable[RoomPolicy]:
    table: PatternTable[RoomPolicy] = PatternTable()
    for pattern, policy in rooms.items():
        table.add(Pattern(pattern), policy)
    return table


def _history(policy: RoomPolicy) -> HistoryPolicy:
    return HistoryPolicy(policy.history_size, policy.history_ttl)


async def _shielded(close: Callable[[], Any]) -> None:
    with anyio.CancelScope(shield=True):
        await close()
