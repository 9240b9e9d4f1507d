"""Contexts: a coroutine that is run step by step with context variables of its own, within the task that awaits it.

A task has one context from its start to its end. A worker that handles several messages gives each of them another.
"""

from __future__ import annotations

import types
from collections.abc import Coroutine, Generator
from contextvars import Context
from typing import Any, TypeVar

__all__ = ["in_context"]

T = TypeVar("T")


@types.coroutine
def in_context(context: Context, coroutine: Coroutine[Any, Any, T]) -> Generator[Any, Any, T]:
    """What the coroutine returns or raises; what it sets in a context variable, it sets in `context`."""
    step: Any = coroutine.send
    argument: Any = None
    while True:
        try:
            awaited = context.run(step, argument)
        except StopIteration as stop:
            result: T = stop.value
            return result
        try:
            argument = yield awaited
            step = coroutine.send
        except BaseException as error:  # noqa: BLE001  it is the coroutine's
            step, argument = coroutine.throw, error
