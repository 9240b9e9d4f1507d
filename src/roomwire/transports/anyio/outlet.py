"""Outlet: one socket's way out.

Writing straight to the descriptor is what makes a fan-out run at the kernel's speed, and it has one rule:
never two writers. What the kernel does not take at once goes to the shell, and while the shell holds bytes
(`_blocked`) blocks wait in the outbox, which is drained when the shell says that it holds none. Under TLS
every byte goes through the shell.

The descriptor lives here alone, is read at every write, and is `ENDED` from the moment the link ends: the
kernel gives the number to the next socket.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

from roomwire.core.outbox import Outbox
from roomwire.transports.anyio.accepting import SocketOptions, keep_little_unsent
from roomwire.transports.anyio.flow import WriteStall
from roomwire.transports.contract import Host

__all__ = ["ENDED", "THROUGH_SHELL", "Outlet"]

ENDED = -1
"""In place of a descriptor: nothing goes out any more."""
THROUGH_SHELL = -2
"""In place of a descriptor: the shell writes everything."""


class Outlet:
    """Puts blocks on a socket, in order, with a bounded queue where the peer does not keep up.

    Args:
        host: the node.
        fd: the socket's descriptor, or `THROUGH_SHELL`.
    """

    __slots__ = ("_blocked", "_cork", "_counted", "_fd", "_host", "_on_empty", "_outbox", "_stall")

    def __init__(self, host: Host, fd: int) -> None:
        self._host = host
        self._fd = fd
        self._blocked = False
        self._counted = False  # whether what the shell holds, one block at a time, shows that the peer is slow
        # A list: what is put is collected. Bytes: one block waits for the end of the turn.
        self._cork: list[bytes] | bytes | None = None
        self._outbox: Outbox[bytes] | None = None
        self._stall: WriteStall | None = None
        self._on_empty: Callable[[], object] | None = None

    # --- what a shell offers

    def _hand_over(self, data: bytes) -> None:
        """Take bytes that the kernel did not; `_now_blocked` is called where some of them are held."""
        raise NotImplementedError

    def _held(self) -> int:
        """Bytes that the shell holds."""
        raise NotImplementedError

    def _close_link(self) -> None:
        """Close the link behind the bytes that are held, in a shell that has no descriptor."""
        raise NotImplementedError

    def _cut(self) -> None:
        """Cut the link now; the shell tells of its end soon."""
        raise NotImplementedError

    def socket_options(self) -> SocketOptions:
        """The socket below, for its options."""
        raise NotImplementedError

    # --- what a carrier offers

    def _overflowed(self) -> None:
        """More waits than may; the block was dropped."""
        raise NotImplementedError

    def _broke(self, error: OSError) -> None:
        """The kernel refused a write for good: the peer is gone."""
        raise NotImplementedError

    def _emptied(self) -> None:
        """Nothing is held and nothing waits any more."""
        raise NotImplementedError

    def _arm(self) -> None:
        """A deadline may have moved to an earlier time."""
        raise NotImplementedError

    # --- bytes go out

    def _put(self, block: bytes, messages: int = 0, *, counted: bool = False) -> None:
        """Write a block, or queue it; `counted` where it shows that the peer is slow."""
        if self._cork is not None:
            if isinstance(self._cork, list):
                self._cork.append(block)
                return
            self.release()  # it was first
        if self._blocked:
            self._queue(block, messages, counted=counted)
            return
        fd = self._fd
        if fd < 0:
            if fd == THROUGH_SHELL:
                self._counted = counted
                self._hand_over(block)
            return
        try:
            sent = os.write(fd, block)
        except OSError as error:
            self._not_taken(error, block, counted=counted)
            return
        if sent != len(block):
            self._counted = counted
            self._hand_over(block[sent:])

    def _not_taken(self, error: OSError, block: bytes, *, counted: bool) -> None:
        """The kernel took nothing of a block."""
        if isinstance(error, BlockingIOError):
            self._counted = counted
            self._hand_over(block)
        else:
            self._broke(error)

    def took(self, result: int, block: bytes, *, counted: bool) -> None:
        """The kernel took not all of a block that `roomwire.transports.anyio.spreading` sent: so much, or an error."""
        if result < 0:
            self._not_taken(OSError(-result, os.strerror(-result)), block, counted=counted)
        else:
            self._counted = counted
            self._hand_over(block[result:])

    def _queue(self, block: bytes, messages: int, *, counted: bool) -> None:
        if self._fd == ENDED:
            return
        limits = self._host.limits
        if self._outbox is None:
            self._outbox = Outbox(limits.outbox_bytes, limits.outbox_messages)
        held = self._held() if self._counted else 0
        # Replays and states are bounded where they are asked for. Resets of many rooms are not: who has read
        # none of so many states comes back for the rest.
        unread = self._outbox.uncounted
        too_many = not counted and unread and unread + len(block) > limits.max_unread
        if too_many or not self._outbox.push(block, len(block), messages, held=held, counted=counted):
            self._overflowed()

    def queued(self) -> int:
        """See `roomwire.transports.contract.Link`."""
        if not self._blocked:
            return 0
        outbox = self._outbox
        return self._held() + (outbox.bytes + outbox.uncounted if outbox is not None else 0)

    def uncounted(self) -> int:
        """See `roomwire.transports.contract.Link`."""
        if not self._blocked:
            return 0
        held = 0 if self._counted else self._held()
        return held + (self._outbox.uncounted if self._outbox is not None else 0)

    def when_empty(self, callback: Callable[[], object]) -> None:
        """See `roomwire.transports.contract.Link`."""
        if self._blocked:
            self._on_empty = callback
        else:
            callback()

    def keep_fresh(self) -> None:
        """See `roomwire.transports.contract.FreshLink`."""
        if self._fd != ENDED:
            keep_little_unsent(self.socket_options())

    def _uncork(self) -> None:
        """Write what was put since `_cork` became a list, in one piece."""
        blocks, self._cork = self._cork, None
        if isinstance(blocks, list) and blocks:
            self._put(b"".join(blocks))

    def release(self) -> None:
        """Write the block that waits for the end of the turn, if one does."""
        if isinstance(self._cork, bytes):
            block, self._cork = self._cork, None
            self._put(block, counted=True)

    def _now_blocked(self) -> None:
        """The shell holds bytes."""
        self._blocked = True
        self._stall = WriteStall(self._host.limits, self._host.runtime.now(), self._held())
        self._arm()

    def _now_writable(self) -> None:
        """The shell holds none any more: what waited goes out."""
        self._blocked = False
        self._stall = None
        while self._outbox and not self._blocked:
            before = self._outbox.bytes
            block = self._outbox.pop()
            self._put(block, counted=self._outbox.bytes != before)
        if not self._blocked:
            self._outbox = None
            callback, self._on_empty = self._on_empty, None
            if callback is not None:
                callback()
            self._emptied()

    def _shut_down(self) -> None:
        """Say that nothing follows (TCP's FIN); only while nothing is held.

        Done on the descriptor, since event loops differ in what they make of a peer that is gone already.

        Raises:
            OSError: the peer is gone.
        """
        sock = socket.socket(fileno=self._fd)
        try:
            sock.shutdown(socket.SHUT_WR)
        finally:
            sock.detach()
