"""What this machine has, against what the limits may take of it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from roomwire.cli._advice.item import Advice, size
from roomwire.config import Loaded, Settings
from roomwire.core.limits import Limits

if sys.platform != "win32":
    import resource

__all__ = ["advice", "worst_connection"]

_OTHER_FILES = 64
"""Descriptors that are not connections: listeners, the loop, the backplane, what is imported."""
# What docs/explanation/memory.md counts with; tests/server/test_memory.py holds a process to it.
_READ = 262_144
"""Bytes of one read of a socket: what came in it is taken in, though the inbox be full."""
_WIDEST = 4
"""Bytes of a character in a text that has one beyond U+FFFF."""
_DECODED = 37
"""Bytes of the value for one of the JSON text that it is read from: objects in objects."""
_COMMAND = 600
_BLOCK = 200
_OBJECTS = 32_768
_CGROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def worst_connection(limits: Limits) -> int:
    """The most bytes that one connection can make a node hold; docs/explanation/memory.md has the sum."""
    message = limits.max_message_size
    coming_in = 2 * message + _WIDEST * _READ
    waiting = limits.inbox_messages * (_WIDEST * message + _COMMAND)
    handled = (_WIDEST + _DECODED) * message
    going_out = limits.outbox_bytes + _BLOCK * limits.outbox_messages
    catching_up = limits.replay_bytes + _BLOCK * limits.replay_events + 5 * limits.max_state_size
    return coming_in + waiting + handled + going_out + catching_up + _OBJECTS


def advice(loaded: Loaded) -> Iterator[Advice]:
    """What the machine that this is asked on is too small for."""
    yield from _of_descriptors(loaded)
    memory = _memory()
    if memory:
        yield from _of_memory(loaded.settings, memory)


def _of_descriptors(loaded: Loaded) -> Iterator[Advice]:
    # Only where somebody chose the number: the default is a ceiling, not a plan.
    if sys.platform == "win32" or loaded.origin("limits", "max_connections").source == "default":
        return
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    each = 2 if loaded.settings.server.shell == "portable" and loaded.settings.server.ssl_certfile is None else 1
    wanted = loaded.settings.limits.max_connections * each + _OTHER_FILES
    if most != resource.RLIM_INFINITY and wanted > most:
        yield Advice(
            ("limits", "max_connections"),
            f"a process may open {most} files here, and a connection is {'two' if each > 1 else 'one'}",
            f"ulimit -n {wanted}, or LimitNOFILE={wanted} in the service;"
            f" or [limits] max_connections = {max(1, (most - _OTHER_FILES) // each)}",
        )


def _of_memory(settings: Settings, memory: int) -> Iterator[Advice]:
    limits, workers = settings.limits, settings.server.workers
    worst, replies = worst_connection(limits), limits.reply_bytes
    # An account has so many connections in all; who needs none has all those of each worker, and is another
    # user in each.
    if settings.auth.type == "anonymous":
        who, name, count = "anybody", "max_connections", limits.max_connections * workers
        worst, replies, nodes = worst + replies, 0, workers
    else:
        who, name, nodes = "one user", "connections_per_user", 1
        count = min(limits.connections_per_user, limits.max_connections * workers)
    if count * worst + replies > memory:
        what = "the node" if workers == 1 else f"the {workers} workers"
        yield Advice(
            ("limits", name),
            f"{who} may make {what} hold {size(count * worst + replies)}, {size(worst)} for a connection,"
            f" and this machine has {size(memory)}",
            f"[limits] {name} = {max(1, (memory - replies) // worst // nodes)};"
            " or less of inbox_messages, outbox_bytes and replay_bytes",
        )


def _memory() -> int:
    """Bytes of memory that this process may use; 0 where that is not known."""
    found = []
    if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}):
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for name in _CGROUPS:
        try:
            found.append(int(Path(name).read_text()))
        except (OSError, ValueError):  # not there, or "max"
            continue
    return min((value for value in found if value > 0), default=0)
