"""Replies: a message with an id takes effect once, and its reply is remembered for further copies.

The first copy reserves the message's key in the store and is handled; its reply is kept there for
``limits.idempotency_window``. A copy that comes meanwhile waits for it, on whatever node it is. What one
user's replies may take up has a bound, ``limits.reply_bytes``, since the handler's answers are as large
as they are and the window is long.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import anyio

from roomwire.core.commands import Call
from roomwire.core.errors import Unavailable
from roomwire.core.idempotency import NOT_REMEMBERED, fingerprint, message_key, read_reply, write_reply
from roomwire.core.limits import TokenBucket
from roomwire.core.notices import Failed, Reply
from roomwire.node import journal

if TYPE_CHECKING:
    from roomwire.backplanes.contract import Reservation
    from roomwire.node.connection import Connection
    from roomwire.node.node import Node

__all__ = ["LEASE", "WAIT", "Replies"]

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

Handle = Callable[["Connection", Call, "str | None"], Awaitable[Reply | Failed | None]]
"""Handles a message; the text is what the keys of its publications are made of."""


class _Running:
    """A message that is being handled here, and an event where somebody waits for its end."""

    __slots__ = ("done", "fingerprint")

    def __init__(self, fingerprint: str) -> None:
        self.fingerprint = fingerprint
        self.done: anyio.Event | None = None


class Replies:
    """The idempotent messages of a node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.running: dict[str, _Running] = {}
        """Those that are being handled here, by key."""
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
        reservation = None if key in self.running else await backplane.reserve(key, print_, LEASE)
        if reservation is None or reservation.state != "new":
            known = await self._of_first_copy(key, print_, ref, reservation)
            if known is not None:
                return known
        budget = self._budget_of(connection.user)
        if budget.is_spent(self._node.runtime.now()):
            await backplane.forget(key)
            return Failed(ref, "rate_limited", "too many replies to remember, slow down")
        running = self.running[key] = _Running(print_)
        try:
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
                # The message took effect and its sender is told so; only a second copy would not know it.
                journal.failed(None, "remember a reply", error)
            return reply
        except BaseException:
            # Cancelled: the node ends. Another one may handle the message without waiting for the lease.
            with anyio.CancelScope(shield=True), contextlib.suppress(Unavailable):
                await backplane.forget(key)
            raise
        finally:
            del self.running[key]
            if running.done is not None:
                running.done.set()

    async def renew(self) -> None:
        """Keep the messages that are being handled from becoming somebody else's.

        Raises:
            Unavailable: the store cannot be reached.
        """
        for key in list(self.running):
            await self._node.backplane.renew(key, LEASE)

    async def _of_first_copy(
        self, key: str, print_: str, ref: str, reservation: Reservation | None
    ) -> Reply | Failed | None:
        """Wait for the first copy's reply. None where it is ours to handle after all.

        `reservation` is None where the first copy is being handled here: then the message is nobody
        else's, whatever became of its lease.
        """
        now = self._node.runtime.now
        deadline = now() + WAIT
        while True:
            running = self.running.get(key)
            if running is None and reservation is None:
                reservation = await self._node.backplane.reserve(key, print_, LEASE)
                running = self.running.get(key)
            first = running or reservation
            assert first is not None
            if first is reservation and reservation.state == "new":
                return None
            if first.fingerprint != print_:
                return Failed(ref, "conflict", "this id was used for another message")
            if first is reservation and reservation.state == "done":
                return read_reply(reservation.value, ref)
            if now() >= deadline:
                return Failed(ref, "unavailable", "the first copy of this message is still being handled")
            await self._until_done(running, deadline - now())
            reservation = None

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
