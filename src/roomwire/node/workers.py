"""Workers: carry out one connection's commands, in order, while it has any.

A worker is a task of the node that exists only while its connection has commands; connections do
not wait for each other, and no command sees the context variables that another one set. Every command ends in one
boundary: the application's faults become an ``error`` event, the node's own close the connection with 1011.

The last worker of a turn flushes the rooms at once, before the loop polls again: a lone event leaves
within the wake-up that brought it, and what many connections publish in one turn leaves together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from roomwire.core.commands import Call, Command, Join, Leave, ListMembers, ListRooms, Resume
from roomwire.core.envelope import dump
from roomwire.core.errors import EventError, EventTooLarge, Unavailable
from roomwire.core.notices import Failed, MembersReply, Notice, Reply, RoomsReply
from roomwire.core.routing import Handler
from roomwire.node import journal
from roomwire.node.calling import invoke
from roomwire.node.contexts import in_context
from roomwire.node.scope import Scope

if TYPE_CHECKING:
    from roomwire.node.connection import Connection
    from roomwire.node.node import Node

__all__ = ["Workers"]

_FAILED = "the server failed; it has been logged"
_NOBODY = "nobody handles this event"
_NOT_JOINED = "the connection is not in the room"


class Workers:
    """The workers of a node.

    Attributes:
        scheduled: how many of them have not begun.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self.scheduled = 0
        self._working = 0
        self._idle: anyio.Event | None = None

    def start(self, connection: Connection, command: Command) -> None:
        """A command came for a connection that has no worker."""
        self.scheduled += 1
        self._node.runtime.spawn(self._work, connection, command)

    async def finished(self) -> None:
        """Wait until no handler runs."""
        while self._working or self.scheduled:
            self._idle = anyio.Event()
            await self._idle.wait()
        self._idle = None

    async def _work(self, connection: Connection, first: Command) -> None:
        self.scheduled -= 1
        self._working += 1
        try:
            if not connection._is_over:
                await self._carry_out(connection, first)
            while (command := connection._next_command()) is not None:
                context = connection._context
                assert context is not None  # as long as there is an inbox
                await in_context(context.copy(), self._carry_out(connection, command))
            if self.scheduled == 0:
                self._node.hub.flush_now()
        finally:
            self._working -= 1
            if self._idle is not None and not (self._working or self.scheduled):
                self._idle.set()

    async def _carry_out(self, connection: Connection, command: Command) -> None:
        reply: Notice | None
        try:
            try:
                if type(command) is not Call:
                    reply = await self._control(connection, command)
                elif command.ref is None:
                    reply = await self._handle(connection, command, None)
                else:
                    reply = await self._node.replies.once(connection, command, self._handle)
            except Unavailable:
                reply = Failed(getattr(command, "ref", None), "unavailable", "try again later")
            except EventError as error:
                # It comes from `roomwire.node.joining`, which has logged it.
                reply = self._failed(connection, getattr(command, "ref", None), "room policy", error)
            self._conclude(connection, reply)
        except Exception as error:  # noqa: BLE001  the boundary of a connection
            connection._fail(error)

    def _conclude(self, connection: Connection, reply: Notice | None) -> None:
        if type(reply) is Failed:
            self._node.counts.failure(reply.code)
        else:
            self._node.counts.handled += 1
        if reply is not None:
            connection._tell(reply)

    async def _control(self, connection: Connection, command: Command) -> Notice | None:
        """Carry out a command of the protocol's own; what to answer. None where the reply was sent already."""
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
                    journal.declined(connection, "room.members", command.room, "not_joined", _NOT_JOINED)
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

    async def _handle(self, connection: Connection, call: Call, message: str | None) -> Reply | Failed | None:
        """Run the handler; every outcome of the application's is a reply. None: nothing to tell.

        `message` is what the keys of its publications are made of, where it may be handled twice.
        """
        node = self._node
        found = node.app.router.find(call.event, call.room)
        if found is None:
            unhandled = "the event is not for this room" if node.app.router.knows(call.event) else _NOBODY
            journal.declined(connection, call.event, call.room, "unknown_event", unhandled)
            return Failed(call.ref, "unknown_event", f"{unhandled}: {call.event}")
        handler, path = found
        refusal = None if call.room is None else self._refuse(connection, call, handler, call.room)
        if refusal is not None:
            return refusal
        started = node.runtime.now()
        arguments = None
        try:
            arguments = handler.arguments(connection, path, call.data)
            with Scope(node, connection, message):
                value = await (
                    handler.function(**arguments) if handler.plan is None else invoke(node, handler, arguments)
                )
            return None if call.ref is None else self._reply(call.ref, handler, value)
        except EventError as error:
            cause = "it does not fit what this takes: " if arguments is None else "raised in "
            journal.declined(connection, call.event, call.room, error.code, cause + handler.name)
            return self._failed(connection, call.ref, handler.name, error)
        except Unavailable:
            return Failed(call.ref, "unavailable", "try again later")
        except Exception as error:  # noqa: BLE001  the boundary of the application
            told = node.app.told(error)
            if told is not None:
                cause = f"{type(error).__name__} in {handler.name}"
                journal.declined(connection, call.event, call.room, told.code, cause)
                return self._failed(connection, call.ref, handler.name, told)
            journal.failed(connection, handler.name, error)
            return Failed(call.ref, "internal", _FAILED)
        finally:
            elapsed = node.runtime.now() - started
            if node.meter is not None:
                node.meter.handled(handler.event, elapsed)
            if elapsed > node.limits.handler_warning:
                journal.slow(connection, handler, elapsed)

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

    def _refuse(self, connection: Connection, call: Call, handler: Handler, room: str) -> Failed | None:
        membership = connection._memberships.get(room)
        if membership is not None:
            policy = membership.room.policy
        elif handler.joined and not connection._may_speak_in(room):
            journal.declined(connection, call.event, room, "not_joined", _NOT_JOINED)
            return Failed(call.ref, "not_joined", "join the room first")
        else:
            policy = self._node.policy_of(room)
        if policy.broadcast_only:
            journal.declined(connection, call.event, room, "forbidden", "the room is broadcast_only")
            return Failed(call.ref, "forbidden", "members do not publish in this room")
        return None
