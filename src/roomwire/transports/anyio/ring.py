"""Ring: one system call that sends the same bytes to many sockets, by Linux's io_uring.

Where a fan-out writes to each socket by itself, the way from Python into the kernel and back costs about a quarter
of each write. Here the kernel is handed a list of up to a thousand sends. They are done before the call returns:
what a socket does not take at once is not waited for, just as with a write. So nothing is under way between two
calls, one buffer serves all sends, and event loops need not know.

Layouts and numbers are those of ``linux/io_uring.h``. One thread uses a ring, and the kernel looks at it within a
call alone, so that plain loads and stores do.
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
import sys
from array import array
from collections.abc import Callable, Sequence

try:
    import ctypes
except ImportError:  # a Python that was built without libffi
    ctypes = None  # type: ignore[assignment]

__all__ = ["LARGEST", "SendRing"]

LARGEST = 65_536
"""Bytes that can be sent at once."""

_SETUP, _ENTER = 425, 426
"""Numbers of the system calls, the same on all architectures but Alpha and MIPS, where they come to an error."""
_SUBMIT_ALL, _SINGLE_ISSUER = 1 << 7, 1 << 12
"""A send that cannot be begun does not hold up those after it; one thread alone submits. Known from Linux 6.0 on: an
older kernel, which may treat a full socket in another way, or need two mappings for the two rings, refuses."""
_GETEVENTS = 1 << 0
_RING_AT, _SENDS_AT = 0, 0x10000000
_OP_SEND = 26
_DONTWAIT, _NOSIGNAL = 0x40, 0x4000
"""The flags of a send, as ``send(2)`` has them on Linux."""

_PARAMETERS = struct.Struct("=30I")
"""entries of both rings, flags, thread, idle time, features, queue, 3 reserved; 10 offsets in each of the rings"""
_SEND = struct.Struct("=BBHiQQIII28x")
"""opcode, flags, priority, descriptor, offset, address, length, flags of the send, number of the slot: the first half
of what comes back with the result, whatever the order of bytes"""
_SEND_WORDS, _DESCRIPTOR, _LENGTH = 16, 1, 6
"""A send in 32-bit words, and which of them are written for each."""
_RESULT_WORDS, _SLOT, _TAKEN = 4, 0, 2
"""A result in 32-bit words, and which of them are read."""
_COUNTER = 0xFFFFFFFF
"""Heads and tails count on, in 32 bits."""


class SendRing:
    """See the module's text.

    Args:
        entries: sends of one call; a power of two.

    Raises:
        OSError: the kernel has no io_uring, or does not let us.
    """

    def __init__(self, entries: int = 1024) -> None:
        self._call = _system_call()
        asked = _PARAMETERS.pack(0, 0, _SUBMIT_ALL | _SINGLE_ISSUER, *[0] * 27)
        parameters = ctypes.create_string_buffer(asked, len(asked))
        self._fd = self._call(_SETUP, entries, ctypes.addressof(parameters), 0, 0, 0, 0)
        if self._fd < 0:
            raise _last_error()
        try:
            granted = _PARAMETERS.unpack(parameters.raw)
            self._entries, self._results = granted[0], granted[1]
            self._map(granted[10:20], granted[20:30])
            # A seccomp profile may refuse this call alone.
            if self._call(_ENTER, self._fd, 0, 0, 0, 0, 0) < 0:
                raise _last_error()
        except BaseException:
            os.close(self._fd)
            raise

    def _map(self, send_at: Sequence[int], result_at: Sequence[int]) -> None:
        """Map both rings, and write into each slot what all sends have in common."""
        entries = self._entries
        self._send_head, self._send_tail = send_at[0] // 4, send_at[1] // 4
        self._result_head, self._result_tail, self._first_result = (result_at[n] // 4 for n in (0, 1, 5))
        order, flags = send_at[6] // 4, mmap.MAP_SHARED | mmap.MAP_POPULATE
        size = max(send_at[6] + entries * 4, result_at[5] + self._results * _RESULT_WORDS * 4)
        ring = memoryview(mmap.mmap(self._fd, size, flags, offset=_RING_AT))
        self._ring, self._signed = ring.cast("I"), ring.cast("i")
        self._ring[order : order + entries] = array("I", range(entries))
        self._buffer = mmap.mmap(-1, LARGEST)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._buffer))
        slots = [_SEND.pack(_OP_SEND, 0, 0, -1, 0, address, 0, _DONTWAIT | _NOSIGNAL, slot) for slot in range(entries)]
        self._sends = memoryview(mmap.mmap(self._fd, entries * _SEND.size, flags, offset=_SENDS_AT)).cast("i")
        self._sends[:] = memoryview(b"".join(slots)).cast("i")

    def close(self) -> None:
        """Give it back; nothing may be sent any more."""
        for view in (self._ring, self._signed, self._sends):
            view.release()  # a mapping has a descriptor of its own, and goes with its last view
        os.close(self._fd)
        self._fd = -1

    def send(self, descriptors: Sequence[int], data: bytes) -> list[int]:
        """Send up to `LARGEST` bytes to each socket: how many it took, or the negative number of an error.

        Raises:
            OSError: the kernel does not say what became of sends that it began. After this, and after whatever
                else cut it short, the ring can only be closed.
        """
        self._buffer[: len(data)] = data
        taken: list[int] = []
        while len(taken) < len(descriptors):
            taken += self._send_some(descriptors, len(taken), len(data))
        return taken

    def _send_some(self, descriptors: Sequence[int], start: int, size: int) -> list[int]:
        """As many as there are slots before the ring begins anew."""
        ring, sends = self._ring, self._sends
        tail = ring[self._send_tail]
        slot = tail % self._entries
        some = array("i", descriptors[start : start + self._entries - slot])
        begin, end = slot * _SEND_WORDS, (slot + len(some)) * _SEND_WORDS
        sends[begin + _DESCRIPTOR : end : _SEND_WORDS] = some
        sends[begin + _LENGTH : end : _SEND_WORDS] = array("i", [size]) * len(some)
        ring[self._send_tail] = (tail + len(some)) & _COUNTER
        done = self._submit(len(some))
        taken = self._column(_TAKEN, done)
        if taken.count(size) != done:
            by_slot = dict(zip(self._column(_SLOT, done), taken, strict=True))
            taken = [by_slot[slot + number] for number in range(done)]
        ring[self._result_head] = (ring[self._result_head] + done) & _COUNTER
        # What the kernel had no memory for was not begun: the same as a socket that takes nothing.
        return taken + [-errno.EAGAIN] * (len(some) - done)

    def _submit(self, count: int) -> int:
        """Have them done; returns how many were begun, and are done."""
        ring = self._ring
        self._call(_ENTER, self._fd, count, count, _GETEVENTS, 0, 0)
        head = ring[self._send_head]
        begun = count - ((ring[self._send_tail] - head) & _COUNTER)
        ring[self._send_tail] = head
        while (ring[self._result_tail] - ring[self._result_head]) & _COUNTER < begun:
            # A signal came, at the most: none of them waits for anything.
            if self._call(_ENTER, self._fd, 0, begun, _GETEVENTS, 0, 0) < 0 and ctypes.get_errno() != errno.EINTR:
                raise _last_error()
        return begun

    def _column(self, word: int, count: int) -> list[int]:
        """One word of each result, in the order in which they came.

        They lie in one piece: there are as many as sends, which do not go over the end, and room for twice as many.
        """
        begin = self._first_result + self._ring[self._result_head] % self._results * _RESULT_WORDS
        return self._signed[begin + word : begin + count * _RESULT_WORDS : _RESULT_WORDS].tolist()


def _system_call() -> Callable[..., int]:
    if sys.platform != "linux" or ctypes is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    call = ctypes.CDLL(None, use_errno=True).syscall
    call.argtypes = [ctypes.c_long] * 7
    call.restype = ctypes.c_long
    return call


def _last_error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
