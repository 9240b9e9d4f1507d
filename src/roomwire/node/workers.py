"""Workers: carry out one connection's commands, in order, while it has any.

A worker is a task of the node that exists only while its connection has commands; connections do
not wait for each other. Every command ends in one boundary: the application's faults become
an ``error`` event, the node's own close the connection with 1011.

The last worker of a turn flushes the rooms at once, before the loop polls again: a lone event leaves
within the wake-up that brought it, and what many connections publish in one turn leaves together.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import anyio

from roomwire.core.commands import Call, Command, Join, Leave, ListMembers, ListRooms, Resume
from roomwire.core.envelope import dump
from roomwire.core.errors import EventError, EventTooLarge, Unavailable
from roomwire.core.idempotency import NOT_REMEMBERED, fingerprint, message_key, read_reply, write_reply
from roomwire.core.limits import TokenBucket
from roomwire.core.notices import Failed, MembersReply, Notice, Reply, RoomsReply
from roomwire.core.routing import Handler
from roomwire.node import journal
from roomwire.node.scope import Scope

if TYPE_CHECKING:
    from roomwire.node.connection import Connection
    from roomwire.node.node import Node

__all__ = ["Workers"]

LEASE = 15.0
"""Seconds for which a message being handled is nobody else's; renewed while it is."""
WAIT = 10.0
"""Seconds that a second copy waits for the first one's reply."""
_POLL = 0.25
"""Seconds between two looks for a reply that another node is making."""
_REMEMBERED = 256
"""Bytes that a remembered reply takes up besides itself."""
_BUDGETS = 1024
"""Users with remembered replies between two looks at who has none any more."""
_FAILED = "the server failed; it has been logged"


class _Running:
    """An idempotent message that is being handled, and an event where somebody waits for its end."""

    __slots__ = ("done", "fingerprint")

    def __init__(self, fingerprint: str) -> None:
        self.fingerprint = fingerprint
        self.done: anyio.Event | None = None


class Workers:
    """The workers of a node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._scheduled = 0
        self._working = 0
        self._idle: anyio.Event | None = None
        self._budgets: dict[str, TokenBucket] = {}
        self._budgets_kept = _BUDGETS
        self.running: dict[str, _Running] = {}
        """Idempotent messages being handled on this node, by key."""

    def start(self, connection: Connection, command: Command) -> None:
        """A command came for a connection that has no worker."""
        self._scheduled += 1
        self._node.runtime.spawn(self._work, connection, command)

    async def finished(self) -> None:
        """Wait until no handler runs."""
        while self._working or self._scheduled:
            self._idle = anyio.Event()
            await self._idle.wait()
        self._idle = None

    async def _work(self, connection: Connection, first: Command) -> None:
        self._scheduled -= 1
        self._working += 1
        try:
            command = connection._next_command() if connection._is_over else first
            while command is not None:
                try:
                    if isinstance(command, Call):
                        await self._call(connection, command)
                    else:
                        await self._carry_out(connection, command)
                except Exception as error:  # noqa: BLE001  the boundary of a connection
                    connection._fail(error)
                command = connection._next_command()
            if self._scheduled == 0:
                self._node.hub.flush_now()
        finally:
            self._working -= 1
            if self._idle is not None and not (self._working or self._scheduled):
                self._idle.set()

    async def _carry_out(self, connection: Connection, command: Command) -> None:
        """The protocol's own commands."""
        try:
            reply: Notice | None = await self._control(connection, command)
        except Unavailable:
            reply = Failed(getattr(command, "ref", None), "unavailable", "try again later")
        except EventError as error:
            reply = self._failed(connection, getattr(command, "ref", None), "room policy", error)
        if reply is not None:
            connection._tell(reply)

    async def _control(self, connection: Connection, command: Command) -> Notice | None:
        """What to answer. None where the reply was sent already."""
        node = self._node
        match command:
            case Join():
                await node.joining.join(connection, command)
                return None
            case Leave():
                node.joining.leave(connection, command.room)
                return None if command.ref is None else Reply(command.ref)
            case ListMembers():
                if command.room not in connection._memberships:
                    return Failed(command.ref, "not_joined", "join the room first")
                return MembersReply(command.ref, await node.presence.people(command.room))
            case ListRooms():
                positions = {name: node.joining.position_of(m) for name, m in connection._memberships.items()}
                return RoomsReply(command.ref, positions)
            case Resume():
                await node.joining.resume(connection, command)
                return None
            case _:
                raise AssertionError(f"{command} is no control command")

    # --- the application's messages

    async def _call(self, connection: Connection, call: Call) -> None:
        found = self._node.app.router.find(call.event, call.room)
        if call.ref is None:
            reply = await self._handle(connection, call, found, None)
            if isinstance(reply, Failed):
                connection._tell(reply)
            return
        key = message_key(connection.user, connection.client, call.ref)
        try:
            reply = await self._once(connection, call, found, key)
        except Unavailable:
            reply = Failed(call.ref, "unavailable", "try again later")
        connection._tell(reply)

    async def _once(
        self, connection: Connection, call: Call, found: tuple[Handler, dict[str, str]] | None, key: str
    ) -> Reply | Failed:
        """Handle an idempotent message, or give the first copy's reply."""
        assert call.ref is not None
        print_ = fingerprint(call)
        known = await self._reserve(key, print_, call.ref)
        if known is not None:
            return known
        budget = self._budget_of(connection.user)
        if budget.is_spent(self._node.runtime.now()):
            await self._node.backplane.forget(key)
            return Failed(call.ref, "rate_limited", "too many replies to remember, slow down")
        running = self.running[key] = _Running(print_)
        try:
            # The same id for another message, once it is free again, publishes anew.
            reply = await self._handle(connection, call, found, key + print_) or Reply(call.ref)
            if isinstance(reply, Failed) and reply.code in NOT_REMEMBERED:
                await self._node.backplane.forget(key)
            else:
                await self._remember(key, print_, reply, budget)
        except BaseException:
            # Cancelled: the node ends. Another one may handle the message without waiting for the lease.
            with anyio.CancelScope(shield=True), contextlib.suppress(Unavailable):
                await self._node.backplane.forget(key)
            raise
        finally:
            del self.running[key]
            if running.done is not None:
                running.done.set()
        return reply

    async def _reserve(self, key: str, print_: str, ref: str) -> Reply | Failed | None:
        """None where the message is ours to handle, else what to answer."""
        now, deadline = self._node.runtime.now, 0.0
        while True:
            # One that is being handled here is nobody else's, whatever became of its lease.
            running = self.running.get(key)
            if running is not None:
                first = running.fingerprint
            else:
                reservation = await self._node.backplane.reserve(key, print_, LEASE)
                if reservation.state == "new":
                    return None
                if reservation.state == "done" and reservation.fingerprint == print_:
                    return read_reply(reservation.value, ref)
                first = reservation.fingerprint
            if first != print_:
                return Failed(ref, "conflict", "this id was used for another message")
            deadline = deadline or now() + WAIT
            if now() >= deadline:
                return Failed(ref, "unavailable", "the first copy of this message is still being handled")
            await self._until_done(key, deadline - now())

    def _budget_of(self, user: str) -> TokenBucket:
        """What the user's remembered replies may take up; kept until it is full again."""
        budget = self._budgets.get(user)
        if budget is None:
            if len(self._budgets) >= self._budgets_kept:
                now = self._node.runtime.now()
                self._budgets = {user: kept for user, kept in self._budgets.items() if not kept.is_full(now)}
                self._budgets_kept = max(_BUDGETS, 2 * len(self._budgets))
            limits = self._node.limits
            budget = TokenBucket(limits.reply_bytes / limits.idempotency_window, limits.reply_bytes)
            self._budgets[user] = budget
        return budget

    async def _remember(self, key: str, print_: str, reply: Reply | Failed, budget: TokenBucket) -> None:
        window = self._node.limits.idempotency_window
        value = write_reply(reply)
        budget.charge(self._node.runtime.now(), len(value) + _REMEMBERED)
        try:
            await self._node.backplane.remember(key, print_, value, window)
        except Unavailable as error:
            # The message took effect and its sender is told so; only a second copy would not know it.
            journal.failed(None, "remember a reply", error)

    async def _until_done(self, key: str, seconds: float) -> None:
        """Until the first copy is done here, or a moment where it is handled on another node."""
        running = self.running.get(key)
        if running is None:
            await anyio.sleep(_POLL)
            return
        done = running.done = running.done or anyio.Event()
        with anyio.move_on_after(seconds):
            await done.wait()

    async def _handle(
        self,
        connection: Connection,
        call: Call,
        found: tuple[Handler, dict[str, str]] | None,
        message: str | None,
    ) -> Reply | Failed | None:
        """Run the handler; every outcome of the application's is a reply. None: nothing to tell."""
        refusal = self._refuse(connection, call, found)
        if refusal is not None:
            return refusal
        assert found is not None
        handler, path = found
        node = self._node
        started = node.runtime.now()
        try:
            arguments = handler.arguments(connection, path, call.data)
            with Scope(node, connection, message):
                value = await handler.function(**arguments)
            return None if call.ref is None else self._reply(call.ref, handler, value)
        except EventError as error:
            return self._failed(connection, call.ref, handler.name, error)
        except Unavailable:
            return Failed(call.ref, "unavailable", "try again later")
        except Exception as error:  # noqa: BLE001  the boundary of the application
            journal.failed(connection, handler.name, error)
            return Failed(call.ref, "internal", _FAILED)
        finally:
            elapsed = node.runtime.now() - started
            if elapsed > node.limits.handler_warning:
                journal.slow(connection, handler.name, elapsed)

    def _reply(self, ref: str, handler: Handler, value: object) -> Reply:
        data = handler.dump(value)
        limit = self._node.limits.max_event_size
        if len(data) > limit:
            raise EventTooLarge(f"{handler.name} returned {len(data)} bytes; limits.max_event_size is {limit}")
        return Reply(ref, data)

    def _failed(self, connection: Connection, ref: str | None, where: str, error: EventError) -> Failed:
        """What the application raised on purpose; its details may be anything."""
        try:
            dump([error.code, error.message, error.details])
        except ValueError as fault:
            journal.failed(connection, where, fault)
            return Failed(ref, "internal", _FAILED)
        return Failed(ref, error.code, error.message, error.details)

    def _refuse(
        self, connection: Connection, call: Call, found: tuple[Handler, dict[str, str]] | None
    ) -> Failed | None:
        if found is None:
            known = self._node.app.router.knows(call.event)
            text = "the event is not for this room" if known else "nobody handles this event"
            return Failed(call.ref, "unknown_event", text)
        if call.room is None:
            return None
        if found[0].joined and not connection._may_speak_in(call.room):
            return Failed(call.ref, "not_joined", "join the room first")
        if self._node.policy_of(call.room).broadcast_only:
            return Failed(call.ref, "forbidden", "members do not publish in this room")
        return None
