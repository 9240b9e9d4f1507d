"""Framing alone, in this process and without a socket: what one frame costs to read and to write."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from roomwire.core.frames import Opcode, Role, build_masked_frame, text_frame
from roomwire.core.websocket import WebSocket

__all__ = ["SIZES", "Framing", "measure_framing"]

SIZES = (16, 128, 1024, 16_384)
"""Bytes of the payloads."""

_KEY = b"\x12\x34\x56\x78"
_SAMPLES = 5
_LIMIT = 65_536


@dataclass(frozen=True, slots=True)
class Framing:
    """What was measured.

    Attributes:
        what: ``read`` for a whole frame, ``read in pieces`` for one that comes in two reads and so takes the slow
            lane, ``write`` for a frame to a client.
        size: bytes of the payload.
        seconds: for one frame, the fastest of several samples.
    """

    what: str
    size: int
    seconds: float


def measure_framing(seconds: float, report: Callable[[str, float], None]) -> Iterator[Framing]:
    """Each kind at each size.

    Args:
        seconds: in all, roughly.
        report: told of the progress.
    """
    kinds = {"read": _read, "read in pieces": _read_in_pieces, "write": _write}
    share = seconds / len(kinds) / len(SIZES) / _SAMPLES
    for number, (what, make) in enumerate(kinds.items()):
        for place, size in enumerate(SIZES):
            report("measuring", (number * len(SIZES) + place) / len(kinds) / len(SIZES))
            yield Framing(what, size, _fastest(make(b"x" * size), share))
    report("measuring", 1.0)


def _machine() -> WebSocket:
    return WebSocket(Role.SERVER, max_message_size=_LIMIT, max_fragments=_LIMIT)


def _read(payload: bytes) -> Callable[[], object]:
    receive, frame = _machine().receive, build_masked_frame(Opcode.TEXT, payload, _KEY)
    return lambda: receive(frame)


def _read_in_pieces(payload: bytes) -> Callable[[], object]:
    receive, frame = _machine().receive, build_masked_frame(Opcode.TEXT, payload, _KEY)
    half = len(frame) // 2
    first, second = frame[:half], frame[half:]
    return lambda: (receive(first), receive(second))


def _write(payload: bytes) -> Callable[[], object]:
    return lambda: text_frame(payload)


def _fastest(call: Callable[[], object], seconds: float) -> float:
    """Seconds of one call: the fastest sample, since all that disturbs makes one slower."""
    clock = time.perf_counter
    rounds = 1
    while True:  # find out how many fill a sample
        begin = clock()
        for _ in range(rounds):
            call()
        spent = clock() - begin
        if spent >= seconds / 2 or rounds >= 1 << 24:
            break
        rounds *= 2
    best = spent / rounds
    for _ in range(_SAMPLES - 1):
        begin = clock()
        for _ in range(rounds):
            call()
        best = min(best, (clock() - begin) / rounds)
    return best
