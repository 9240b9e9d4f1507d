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
_READ = 262_144
"""Bytes that one read of a socket may give (docs/explanation/memory.md)."""
_CGROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def worst_connection(limits: Limits) -> int:
    """The most bytes that one connection can make a node hold; docs/explanation/memory.md has the sum."""
    inbox = limits.inbox_messages * limits.max_message_size
    return limits.max_message_size + inbox + limits.outbox_bytes + limits.replay_bytes + limits.max_state_size + _READ


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
    limits = settings.limits
    worst = worst_connection(limits)
    anonymous = settings.auth.type == "anonymous"
    # An account has so many connections; who needs none has them all.
    name = "max_connections" if anonymous else "connections_per_user"
    count = min(getattr(limits, name), limits.max_connections)
    if count * worst > memory:
        who = "anybody" if anonymous else "one user"
        yield Advice(
            ("limits", name),
            f"{who} may make the node hold {size(count * worst)}, {size(worst)} for a connection,"
            f" and this machine has {size(memory)}",
            f"[limits] {name} = {max(1, memory // worst)}; or less of inbox_messages, outbox_bytes and replay_bytes",
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
