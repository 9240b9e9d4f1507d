"""Limits and rooms: values that undo what a limit is for, and values that shut out clients which keep all rules."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

from roomwire.cli._advice.item import Advice, size
from roomwire.config import Settings
from roomwire.core.limits import Limits
from roomwire.core.policy import RoomPolicy

__all__ = ["advice"]

# nginx, AWS and most other proxies close what is silent for 60 seconds.
_PROXY_IDLE = 60.0
_MONTH = 30 * 86_400.0
_LONG_HISTORY = 10_000
_DEFAULTS = Limits()
_SECONDS = frozenset(field.name for field in fields(Limits) if isinstance(getattr(_DEFAULTS, field.name), float)) - {
    "messages_per_second",
    "bytes_per_second",
    "frames_per_second",
    "min_byte_rate",
}

_MOST: dict[str, tuple[float, str]] = {
    "handshake_timeout": (30, "a socket that says nothing holds a place at the door as long"),
    "max_pending_handshakes": (100_000, "sockets that nobody knows yet may take that much"),
    "max_message_size": (1_048_576, "every connection may make the server hold as much"),
    "max_event_size": (4_194_304, "every event may have the server send as much to every member"),
    "max_state_size": (16_777_216, "every join may make the server send as much"),
    "max_fragments": (65_536, "empty fragments cost the server more than their sender"),
    "connections_per_user": (1000, "one user may take them all"),
    "rooms": (10_000, "every join costs the backplane work"),
    "heartbeat_timeout": (180, "who is gone stays in the rooms, and keeps slot and memory, as long"),
    "close_timeout": (30, "a peer that does not answer a close is kept as long"),
    "max_read_pause": (300, "a peer that is not read cannot be told from one that is gone"),
    "byte_rate_grace": (60, "a message may trickle in as long"),
    "messages_per_second": (10_000, "one client may keep a core busy"),
    "message_burst": (100_000, "one client may keep a core busy for seconds"),
    "bytes_per_second": (104_857_600, "one client may fill the line"),
    "byte_burst": (268_435_456, "one client may fill the line for seconds"),
    "frames_per_second": (50_000, "one client may keep a core busy"),
    "frame_burst": (500_000, "one client may keep a core busy for seconds"),
    "max_errors": (1000, "a client that sends nothing but rubbish is listened to for so long"),
    "outbox_bytes": (16_777_216, "every slow reader may make the server hold as much"),
    "outbox_messages": (100_000, "every slow reader may make the server hold as many"),
    "write_timeout": (120, "a reader that takes nothing keeps its outbox as long"),
    "replay_events": (100_000, "clients that come back at once make the server read as many for each of them"),
    "replay_bytes": (67_108_864, "clients that come back at once make the server hold as much for each of them"),
    "reply_bytes": (268_435_456, "every user may make the backplane hold as much"),
    "snapshot_timeout": (30, "a client shows nothing of the room as long"),
    "idempotency_window": (86_400, "every reply to a message with an id is kept as long"),
    "resume_timeout": (60, "a connection that never says where it was is kept as long"),
    "handler_warning": (30, "a handler that holds up its connection stays unseen"),
}

_LEAST: dict[str, tuple[float, str]] = {
    "handshake_timeout": (2, "clients on a slow network are refused"),
    "heartbeat_interval": (5, "it wakes phones, and a node with many connections does little else"),
    "min_byte_rate": (64, "a message may trickle in for ever, and its memory is held"),
    "messages_per_second": (1, "clients that only answer and join are refused"),
    "idempotency_window": (
        120,
        "after a break clients send a message again up to 30 seconds before its end, not later",
    ),
    "write_timeout": (5, "a phone that changes its network is closed"),
    "max_read_pause": (5, "one slow handler closes its connection"),
}


def advice(settings: Settings) -> Iterator[Advice]:
    """What a reviewer would ask about limits and rooms."""
    yield from _of_single_limits(settings.limits)
    yield from _of_heartbeats(settings.limits, streams=bool(settings.server.sse_path))
    yield from _of_pairs(settings.limits)
    for pattern, policy in settings.rooms.items():
        yield from _of_room(settings, pattern, policy)


def _of_single_limits(limits: Limits) -> Iterator[Advice]:
    for name, (most, text) in _MOST.items():
        value = getattr(limits, name)
        if value > most:
            unit = " seconds are" if name in _SECONDS else " is"
            yield Advice(("limits", name), f"{_plain(value)}{unit} a lot: {text}", f"[limits] {name} = {most}, or less")
    for name, (least, text) in _LEAST.items():
        value = getattr(limits, name)
        if value < least:
            unit = " seconds are" if name in _SECONDS else " is"
            default = _plain(getattr(_DEFAULTS, name))
            yield Advice(("limits", name), f"{_plain(value)}{unit} little: {text}", f"[limits] {name} = {default}")


def _plain(value: float) -> str:
    """A number as one would write it: ``100000``, ``0.5``."""
    return str(int(value)) if value == int(value) else f"{value:g}"


def _of_heartbeats(limits: Limits, *, streams: bool) -> Iterator[Advice]:
    if limits.heartbeat_interval >= _PROXY_IDLE:
        yield Advice(
            ("limits", "heartbeat_interval"),
            f"proxies close connections that are silent for {_PROXY_IDLE:g} seconds",
            "[limits] heartbeat_interval = 30",
        )
    if limits.heartbeat_timeout < 2 * limits.heartbeat_interval:
        yield Advice(
            ("limits", "heartbeat_timeout"),
            "a single lost heartbeat ends a connection",
            f"[limits] heartbeat_timeout = {3 * limits.heartbeat_interval:g}",
        )
    if 0 < limits.idle_timeout < 60:
        yield Advice(
            ("limits", "idle_timeout"),
            f"{limits.idle_timeout:g} seconds are little: who only reads is closed, and does not come back by itself",
            "[limits] idle_timeout = 0, or more than 60",
        )
    elif limits.idle_timeout and streams:
        yield Advice(
            ("limits", "idle_timeout"),
            "it closes no event stream, whose client cannot say anything: they stay open as long as they are read",
            '[server] sse_path = "", or [limits] idle_timeout = 0',
        )


def _of_pairs(limits: Limits) -> Iterator[Advice]:
    inbox = limits.inbox_messages * limits.max_message_size
    if inbox > 67_108_864:
        yield Advice(
            ("limits", "inbox_messages"),
            f"while its handler hangs, a connection may have {size(inbox)} waiting for it",
            f"[limits] inbox_messages = {max(1, 67_108_864 // limits.max_message_size)}, or less",
        )
    if limits.min_byte_rate > limits.bytes_per_second / 4:
        yield Advice(
            ("limits", "min_byte_rate"),
            "nearly as much as bytes_per_second: who sends a large message can hardly keep both",
            f"[limits] min_byte_rate = {_DEFAULTS.min_byte_rate:g}",
        )


def _of_room(settings: Settings, pattern: str, policy: RoomPolicy) -> Iterator[Advice]:
    table = f'[rooms."{pattern}"]'
    path = ("rooms", pattern)
    most = policy.history_size * settings.limits.max_event_size
    if most > 2**30:
        yield Advice(
            (*path, "history_size"),
            f"each of these rooms may keep {size(most)} of events",
            f"{table} history_size = {2**30 // settings.limits.max_event_size}, or less",
        )
    if policy.history_ttl > _MONTH:
        text = f"what people wrote is kept for {policy.history_ttl / 86_400:.0f} days, whatever they delete"
        yield Advice((*path, "history_ttl"), text, f"{table} history_ttl = {_MONTH:.0f}, or less")
    if policy.conflate_rate and policy.conflate_rate > 60:
        text = f"{policy.conflate_rate:g} updates a second are more than a screen shows, each a write to every member"
        yield Advice((*path, "conflate_rate"), text, f"{table} conflate_rate = 10")
    if policy.latest and policy.history_size > _LONG_HISTORY:
        text = f"the first who joins a room waits until a node has read {policy.history_size:,} events"
        yield Advice((*path, "latest"), text, f"{table} history_size = {_LONG_HISTORY}, or less")
    if policy.presence and pattern.strip("*:") == "":
        text = "who is where is told in every room: n members are sent n joins and n leaves each"
        yield Advice((*path, "presence"), text, '[rooms."NAME:*"] presence = true for the rooms that show it')
    if policy.presence and policy.leave_grace < 0.5:
        text = "every reload of a page is told to all members as a leave and a join"
        yield Advice((*path, "leave_grace"), text, f"{table} leave_grace = 2")
    if policy.presence and policy.leave_grace > 60:
        text = f"who has left is shown for {policy.leave_grace:g} seconds more"
        yield Advice((*path, "leave_grace"), text, f"{table} leave_grace = 2")
