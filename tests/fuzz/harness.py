"""Runs a target: an input is accepted, refused by an allowed exception, or a fault."""

from __future__ import annotations

import gc
import json
import random
import resource
import sys
import traceback
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from pydantic_core import from_json

__all__ = ["BLOCKS_ALLOWED", "RSS_ALLOWED", "Fault", "Grown", "Report", "Target", "fuzz", "judge"]

BLOCKS_ALLOWED = 500
"""Small objects by which both the second and the last third of a run may grow: caches that were filled late.
One object that leaks from every thirtieth input is more than that in 50,000 of them."""
RSS_ALLOWED = 16 * 1024 * 1024
"""Bytes of the same for the process, whose allocator gives no page back that still holds an object."""
WARM_UP = 200
"""Inputs before the first look at the memory: imports, caches and tables are made on the way."""

Allowed = Mapping[type[Exception], str]


@dataclass(frozen=True, eq=False)
class Target:
    """Something that reads bytes.

    Attributes:
        name: for the command line.
        what: what it feeds.
        share: its part of all inputs, in relation to the other targets.
        make: makes an input.
        open: gives what reads inputs, for as long as the block lasts. It returns whether the input was accepted,
            and raises AssertionError where an invariant does not hold.
        allowed: the exceptions that refuse an input, each with the reason why it may leave.
        in_process: whether what it tests runs in this process, so that its memory is this one's.
    """

    name: str
    what: str
    share: int
    make: Callable[[random.Random], bytes]
    open: Callable[[], AbstractContextManager[Callable[[bytes], bool]]]
    allowed: Allowed = field(default_factory=dict)
    in_process: bool = True


class Fault(Exception):
    """An input that is neither accepted nor refused; its text has all that reproduces it."""

    def __init__(self, target: Target, seed: int, number: int, data: bytes, error: BaseException) -> None:
        self.target = target.name
        self.seed = seed
        self.number = number
        self.data = data
        trace = "".join(traceback.format_exception(error))
        super().__init__(
            f"{target.name}: {type(error).__name__} at input {number} of seed {seed}\n"
            f"reproduce: python -m tests.fuzz --target {target.name} --input {data.hex() or '-'}\n"
            f"input: {data!r}\n{trace}"
        )


class Grown(Exception):
    """Something of the inputs was left behind."""


@dataclass
class Report:
    """The outcome of one target.

    Attributes:
        name: the target's.
        inputs: how many were fed.
        accepted: how many of them were taken as correct.
        refused: how many were refused, by exception.
        blocks: growth of the number of small objects in the second third, or in the last one, where that is less:
            what another thread of this process makes in one of them is no leak.
        rss: the same of the process, bytes.
    """

    name: str
    inputs: int
    accepted: int
    refused: Counter[str]
    blocks: int = 0
    rss: int = 0

    def __str__(self) -> str:
        refused = sum(self.refused.values())
        return (
            f"{self.name:<18}{self.inputs:>10,} inputs {self.accepted:>10,} accepted {refused:>10,} refused"
            f"   growth {self.blocks:+,} objects {self.rss / 1024:+,.0f} KiB"
        )


def judge(target: Target, read: Callable[[bytes], bool], data: bytes) -> str | None:
    """Feed one input: None where it is accepted, else the name of the allowed exception. A fault is raised."""
    try:
        return None if read(data) else "refused"
    except tuple(target.allowed) as refusal:
        return type(refusal).__name__


def fuzz(target: Target, inputs: int, seed: int, progress: Callable[[int], None] = lambda done: None) -> Report:
    """Feed `inputs` made from `seed`.

    Raises:
        Fault: the first input that is neither accepted nor refused.
        Grown: memory did.
    """
    _fill_caches()
    rng = random.Random(f"{target.name} {seed}")
    report = Report(target.name, inputs, 0, Counter())
    with target.open() as read:
        memory = _looks(inputs)
        for number in range(inputs):
            next(memory)
            data = target.make(rng)
            try:
                refusal = judge(target, read, data)
            except Exception as error:  # noqa: BLE001  that is what is looked for
                raise Fault(target, seed, number, shrink(target, read, data, error), error) from None
            if refusal is None:
                report.accepted += 1
            else:
                report.refused[refusal] += 1
            if number % 100 == 0:
                progress(number)
        report.blocks, report.rss = next(memory)
    if target.in_process:
        if report.blocks > BLOCKS_ALLOWED:
            raise Grown(f"{target.name}: {report.blocks} objects were left behind")
        if report.rss > RSS_ALLOWED:
            raise Grown(f"{target.name}: the process grew by {report.rss} bytes")
    return report


def _fill_caches() -> None:
    """pydantic's parser keeps 16,384 short strings for the process, which a run would fill one by one."""
    from_json(json.dumps([f"filled {number}" for number in range(300_000)]))


def _looks(inputs: int) -> Iterator[tuple[int, int]]:
    """Is asked before each input and after the last one; then gives the least growth of a third but the first."""
    warm = WARM_UP if inputs > WARM_UP else 0
    thirds = {warm + (inputs - warm) * part // 3 for part in (1, 2)}
    looks = []
    for number in range(inputs):
        if number in thirds:
            looks.append(_memory())
        yield 0, 0
    looks.append(_memory())
    blocks, rss = ([after[of] - before[of] for before, after in pairwise(looks)] for of in (0, 1))
    yield min(blocks, default=0), min(rss, default=0)


def _memory() -> tuple[int, int]:
    """Small objects of this interpreter, and bytes of this process."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1]) if Path("/proc/self/statm").exists() else 0
    return sys.getallocatedblocks(), pages * resource.getpagesize()


def shrink(target: Target, read: Callable[[bytes], bool], data: bytes, error: BaseException, tries: int = 500) -> bytes:
    """A shorter input with a fault of the same kind."""
    size = len(data) // 2
    while size and tries > 0:
        start = 0
        while start < len(data) and tries > 0:
            tries -= 1
            shorter = data[:start] + data[start + size :]
            try:
                judge(target, read, shorter)
            except Exception as other:  # noqa: BLE001  any fault is looked at
                if type(other) is type(error):
                    data = shorter
                    continue
            start += size
        size //= 2
    return data


def digest(data: bytes) -> int:
    """A number that an input decides, for whatever else has to be chosen."""
    return zlib.crc32(data)
