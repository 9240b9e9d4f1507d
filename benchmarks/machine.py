"""What all benchmarks over sockets share: where they run, and who their users are."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from roomwire.auth.jwt import JwtOptions, issue

__all__ = ["ROOT", "SECRET", "pinned", "processors", "tokens_of"]

ROOT = Path(__file__).parents[1]
SECRET = "not-a-secret-since-it-guards-a-benchmark-alone"


def tokens_of(users: Iterable[str]) -> list[str]:
    """One for each of them."""
    options = JwtOptions.model_validate({"algorithms": ["HS256"], "secret": SECRET})
    return [issue(options, user, ttl=3600) for user in users]


def processors() -> tuple[set[int], set[int]]:
    """One for the generator and one for the servers; all for both where there is one, or none can be chosen."""
    if not hasattr(os, "sched_getaffinity"):
        return set(), set()
    first, *rest = sorted(os.sched_getaffinity(0))
    return ({rest[-1]}, {first}) if rest else ({first}, {first})


@contextmanager
def pinned(processors: set[int]) -> Iterator[None]:
    """This thread, and what it starts meanwhile, runs on these."""
    if not processors:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, processors)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
