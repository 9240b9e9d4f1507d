"""Inputs: seeds, changed at random in the ways that find faults in parsers."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from itertools import pairwise

__all__ = ["INTERESTING", "mutate", "mutator", "noise", "pieces", "text_noise"]

INTERESTING: Sequence[bytes] = (
    b"", b"\0", b"\xff", b"\x7f", b"\x80", b"\r\n", b"\n", b"\r", b" ", b"\t", b",", b";", b"=", b":", b"\"", b"\\",
    b"{", b"}", b"[", b"]", b"%", b"%00", b"%2C", b"%40", b"%", b"\\u0000", b"\\ud800", b"\\udc00", b"\\ud83d\\ude00",
    b"null", b"true", b"-0", b"1e999", b"-1", b"0", b"18446744073709551616", b"9" * 40, b"NaN", b"Infinity",
    b"\xc3\x28", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", "é".encode(), "\u2028".encode(), "😀".encode(), b"\xef\xbb\xbf",
    b"../", b"*", b">", b"{x}", b"$", b"A" * 130, b"\x7e\xff\xff", b"\x7f" + b"\xff" * 8, b"\0\0\xff\xff",
)  # fmt: skip
"""Pieces with a meaning to some parser."""


def noise(rng: random.Random, most: int = 64) -> bytes:
    """Random bytes, short ones more often."""
    return rng.randbytes(int(rng.random() ** 3 * (most + 1)))


def text_noise(rng: random.Random, most: int = 40) -> str:
    """Random text from all planes, without lone surrogates."""
    below = rng.choice((127, 0x300, 0x110000))
    characters = (rng.randrange(32 if below == 127 else 0, below) for _ in range(rng.randrange(most)))
    return "".join(chr(code) for code in characters if not 0xD800 <= code < 0xE000)


def mutate(rng: random.Random, data: bytes, seeds: Sequence[bytes] = ()) -> bytes:
    """`data` with a few changes; `seeds` are what it may be crossed with."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        at = rng.randrange(len(changed) + 1)
        to = min(len(changed), at + rng.choice((1, 1, 2, 4, rng.randrange(64) + 1)))
        kind = rng.randrange(9)
        if kind == 0 and at < len(changed):
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and at < len(changed):
            changed[at] = rng.randrange(256)
        elif kind == 2:
            del changed[at:to]
        elif kind == 3:
            changed[at:at] = rng.choice(INTERESTING)
        elif kind == 4:
            changed[at:to] = rng.choice(INTERESTING)
        elif kind == 5:
            changed[at:at] = bytes(changed[at:to]) * rng.choice((1, 2, 50))
        elif kind == 6:
            del changed[at:]
        elif kind == 7:
            changed[at:at] = noise(rng)
        elif seeds:
            other = rng.choice(seeds)
            start = rng.randrange(len(other) + 1)
            changed[at:] = other[start:]
    return bytes(changed)


def mutator(seeds: Sequence[bytes], most: int = 64) -> Callable[[random.Random], bytes]:
    """Makes inputs: a seed as it is, a mutated one, seldom noise of up to `most` bytes."""

    def make(rng: random.Random) -> bytes:
        kind = rng.random()
        if kind < 0.1:
            return rng.choice(seeds)
        if kind < 0.95:
            return mutate(rng, rng.choice(seeds), seeds)
        return noise(rng, most)

    return make


def pieces(rng: random.Random, data: bytes) -> list[bytes]:
    """`data`, cut at random: not at all, at a few places, or at every byte."""
    kind = rng.randrange(4)
    if kind == 0 or not data:
        return [data]
    if kind == 1 and len(data) <= 400:
        return [data[at : at + 1] for at in range(len(data))]
    cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randrange(6)))
    edges = [0, *cuts, len(data)]
    return [data[start:stop] for start, stop in pairwise(edges)]
