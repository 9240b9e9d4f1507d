"""Replies: a message with an id takes effect once, and its reply is remembered for further copies.

The first copy reserves the message's key in the store and is handled; its reply is kept there for
``limits.idempotency_window``. A copy that comes meanwhile waits for it, on whatever node it is. What one
user's replies may take up has a bound, ``limits.reply_bytes``, since the handler's answers are as large
as they are and the window is long.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import anyio

from roomwire.core.commands import Call
from roomwire.core.errors import Unavailable
from roomwire.core.idempotency import NOT_REMEMBERED, fingerprint, message_key, read_reply, write_reply
from roomwire.core.limits import TokenBucket
from roomwire.core.notices import Failed, Reply

if TYPE_CHECKING:
    from roomwire.node.connection import Connection
    from roomwire.node.node import Node

__all__ = ["LEASE", "WAIT", "Replies"]

logger = logging.getLogger("roomwire.backplane")

LEASE = 15.0
"""Seconds for which a message being handled is nobody else's; renewed while it is."""
WAIT = 10.0
"""Seconds that a second copy waits for the first one's reply."""
_POLL = 0.25
"""Seconds between two looks for a reply that another node is making."""
_RENEWALS = 64
"""Leases that are renewed at one time."""
_REMEMBERED = 256
"""Bytes that a remembered reply takes up besides itself."""
_UNSAVED = 1024
"""Replies that are kept here, since the store did not take them."""
_BUDGETS = 1024
"""Users with remembered replies between two looks at who has none any more."""

Handle = Callable[["Connection", Call, "str | None"], Awaitable[Reply | Failed | None]]
"""Handles a message; the text is what the keys of its publications are made of."""


class _Running:
    """A message that is being handled here, or about to be, and an event where somebody waits for its end."""

    __slots__ = ("done", "fingerprint", "reserved")

    def __init__(self, fingerprint: str) -> None:
        self.fingerprint = fingerprint
        self.reserved = False
        self.done: anyio.Event | None = None


class Replies:
    """The idempotent messages of a node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        # In what is reserved, so that a reservation whose answer was lost is known as our own.
        self._owner = "@" + secrets.token_hex(8)
        self.running: dict[str, _Running] = {}
        """Those that are being handled here, by key."""
        self._unsaved: dict[str, tuple[str, bytes]] = {}  # fingerprint and reply that the store did not take
        self._budgets: dict[str, TokenBucket] = {}
        self._budgets_kept = _BUDGETS

    async def once(self, connection: Connection, call: Call, handle: Handle) -> Reply | Failed:
        """Handle a message that has an id, or give the first copy's reply.

        Raises:
            Unavailable: the store cannot be reached; nothing was handled.
        """
        ref, backplane = call.ref, self._node.backplane
        assert ref is not None
        key, print_ = message_key(connection.user, connection.client, ref), fingerprint(call)
        running = None if key in self.running else await self._reserve(key, print_, ref)
        if running is None:
            running = await self._wait(key, print_, ref)
        if not isinstance(running, _Running):
            return running
        try:
            budget = self._budget_of(connection.user)
            if budget.is_spent(self._node.runtime.now()):
                await backplane.forget(key)
                return Failed(ref, "rate_limited", "too many replies to remember, slow down")
            # The fingerprint: another message under an id that is free again publishes anew.
            reply = await handle(connection, call, key + print_) or Reply(ref)
            if isinstance(reply, Failed) and reply.code in NOT_REMEMBERED:
                await backplane.forget(key)
                return reply
            value = write_reply(reply)
            budget.charge(self._node.runtime.now(), len(value) + _REMEMBERED)
            try:
                await backplane.remember(key, print_, value, self._node.limits.idempotency_window)
            except Unavailable as error:
                # The message took effect and its sender is told so; a second copy is told by this node alone.
                logger.warning("a reply is kept here until the store takes it: %s", error)
                self._keep(key, print_, value)
            return reply
        except BaseException:
            # Cancelled: the node ends. Another one may handle the message without waiting for the lease.
            with anyio.CancelScope(shield=True), contextlib.suppress(Unavailable):
                await backplane.forget(key)
            raise
        finally:
            self._end(key, running)

    async def renew(self) -> None:
        """Keep the messages that are being handled from becoming somebody else's, and store what could not be stored.

        Raises:
            Unavailable: the store cannot be reached.
        """
        await self._renew_all([key for key, running in self.running.items() if running.reserved])
        for key, (print_, value) in list(self._unsaved.items()):
            await self._node.backplane.remember(key, print_, value, self._node.limits.idempotency_window)
            self._unsaved.pop(key, None)

    async def _renew_all(self, keys: list[str]) -> None:
        """Many at a time: one after the other, thousands would take longer than their leases."""
        rest = iter(keys)
        failures: list[Unavailable] = []

        async def renew_some() -> None:
            for key in rest:
                try:
                    await self._node.backplane.renew(key, LEASE)
                except Unavailable as error:
                    failures.append(error)

        async with anyio.create_task_group() as group:
            for _ in range(min(_RENEWALS, len(keys))):
                group.start_soon(renew_some)
        if failures:
            raise failures[0]

    async def _wait(self, key: str, print_: str, ref: str) -> _Running | Reply | Failed:
        """Another copy is being handled: its reply, or the right to handle this one after all."""
        now = self._node.runtime.now
        deadline = now() + WAIT
        while True:
            first = self.running.get(key)
            if first is not None and first.fingerprint != print_:
                return _conflict(ref)
            if now() >= deadline:
                return Failed(ref, "unavailable", "the first copy of this message is still being handled")
            await self._until_done(first, deadline - now())
            if key not in self.running:
                outcome = await self._reserve(key, print_, ref)
                if outcome is not None:
                    return outcome

    async def _reserve(self, key: str, print_: str, ref: str) -> _Running | Reply | Failed | None:
        """The right to handle a message, to be given back by `_end`; or a reply. None: another copy is handled."""
        known = self._unsaved.get(key) if self._unsaved else None
        if known is not None:
            return read_reply(known[1], ref) if known[0] == print_ else _conflict(ref)
        # From now on, so that a second copy that comes here meanwhile waits for this one.
        running = self.running[key] = _Running(print_)
        mine = print_ + self._owner
        try:
            state, owner, value = await self._node.backplane.reserve(key, mine, LEASE)
            if state == "pending" and owner == mine:
                # An earlier attempt of ours, whose answer was lost: nobody else has it, and nobody handles it.
                await self._node.backplane.renew(key, LEASE)
                state = "new"
            if state == "new":
                running.reserved = True
                return running
        finally:
            if not running.reserved:
                self._end(key, running)
        if owner.partition("@")[0] != print_:
            return _conflict(ref)
        return read_reply(value, ref) if state == "done" else None

    def _end(self, key: str, running: _Running) -> None:
        del self.running[key]
        if running.done is not None:
            running.done.set()

    def _keep(self, key: str, print_: str, value: bytes) -> None:
        """Remember a reply here; the oldest give way."""
        while len(self._unsaved) >= _UNSAVED:
            del self._unsaved[next(iter(self._unsaved))]
        self._unsaved[key] = (print_, value)

    async def _until_done(self, running: _Running | None, seconds: float) -> None:
        """Until the first copy is done here, or a moment where it is handled on another node."""
        if running is None:
            await anyio.sleep(_POLL)
            return
        done = running.done = running.done or anyio.Event()
        with anyio.move_on_after(seconds):
            await done.wait()

    def _budget_of(self, user: str) -> TokenBucket:
        """What the user's remembered replies may take up; kept until it is full again."""
        budget = self._budgets.get(user)
        if budget is None:
            if len(self._budgets) >= self._budgets_kept:
                now = self._node.runtime.now()
                self._budgets = {name: kept for name, kept in self._budgets.items() if not kept.is_full(now)}
                self._budgets_kept = max(_BUDGETS, 2 * len(self._budgets))
            limits = self._node.limits
            budget = TokenBucket(limits.reply_bytes / limits.idempotency_window, limits.reply_bytes)
            self._budgets[user] = budget
        return budget


def _conflict(ref: str) -> Failed:
    return Failed(ref, "conflict", "this id was used for another message")
