"""The values of a node's metrics, at the moment of asking. Nothing here changes anything."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Protocol, runtime_checkable

from roomwire.core.closing import CloseCode
from roomwire.node import Node
from roomwire.node.counts import ERRORS, OK, REASONS, Histogram
from roomwire.node.meter import METHODS, Meter

__all__ = ["Values", "read"]

Values = Mapping[tuple[str, ...], float | Histogram]
"""By the values of the labels, in their order."""

# A series that begins at its first increase hides that one from `rate`: what is known to come begins with 0.
_CLOSED = (
    *((str(int(code)), "server") for code in CloseCode if code != CloseCode.ABNORMAL),
    ("1000", "peer"),
    ("1001", "peer"),
    ("1006", "link"),
)
_REFUSED = (
    (400, "bad_request"),
    (401, "unauthorized"),
    (403, "forbidden"),
    (404, "not_found"),
    (408, "bad_request"),
    (426, "upgrade_required"),
    (429, "too_many_connections"),
    (431, "bad_request"),
    (503, "unavailable"),
)
_ANSWERED = tuple((method, f"{kind}xx") for method in sorted(METHODS) for kind in range(2, 6))
_TOO_SLOW = str(int(CloseCode.TOO_SLOW)), "server"


@runtime_checkable
class _HasDoor(Protocol):
    """A transport that knows how many of its sockets are still in their handshake."""

    @property
    def pending(self) -> int: ...


def read(node: Node, meter: Meter) -> dict[str, Values]:
    """The values of every family, by its name."""
    return {
        **_connections(node, meter),
        **_messages(node, meter),
        **_rooms(node, meter),
        **_fallback(node, meter),
        **_others(node, meter),
    }


def _one(value: float | Histogram) -> Values:
    return {(): value}


def _from_zero(known: Iterable[tuple[str, ...]], counted: Mapping[Any, int]) -> Values:
    return {**dict.fromkeys(known, 0), **counted}


def _connections(node: Node, meter: Meter) -> dict[str, Values]:
    counts, deciding = node.counts, node.admissions.pending
    transport: object = node.transport
    refused = {(str(status), error): count for (status, error), count in counts.refusals.items()}
    return {
        "roomwire_connections": _one(counts.opened - counts.closed.total()),
        "roomwire_connections_opened_total": _one(counts.opened),
        "roomwire_connections_closed_total": _from_zero(_CLOSED, counts.closed),
        "roomwire_reconnects_total": _one(counts.reconnects),
        "roomwire_slow_closes_total": _one(counts.closed[_TOO_SLOW]),
        "roomwire_refusals_total": _from_zero(((str(status), error) for status, error in _REFUSED), refused),
        "roomwire_handshakes_pending": _one(transport.pending if isinstance(transport, _HasDoor) else deciding),
        "roomwire_handshakes_deciding": _one(deciding),
        "roomwire_handshake_seconds": _one(meter.handshakes),
    }


def _messages(node: Node, meter: Meter) -> dict[str, Values]:
    counts = node.counts
    received, sent, queued, slow = counts.received, counts.sent, 0, 0
    for connection in node.connections.values():
        received += connection._received
        link = connection._link
        if link is not None:
            sent += link.sent
            if waiting := link.queued():
                queued += waiting
                slow += 1
    outcomes = {(code,): count for code, count in counts.failed.items()} | {(OK,): counts.handled}
    return {
        "roomwire_messages_received_total": _one(received),
        "roomwire_messages_sent_total": _one(sent),
        "roomwire_received_bytes_total": _one(counts.received_bytes),
        "roomwire_sent_bytes_total": _one(meter.sent_bytes),
        "roomwire_requests_total": _from_zero(((code,) for code in sorted(ERRORS)), outcomes),
        "roomwire_handler_seconds": {(event,): histogram for event, histogram in meter.handlers.items()},
        "roomwire_streams": _one(counts.streams - counts.streams_closed),
        "roomwire_streams_opened_total": _one(counts.streams),
        "roomwire_outbox_bytes": _one(queued),
        "roomwire_slow_readers": _one(slow),
    }


def _rooms(node: Node, meter: Meter) -> dict[str, Values]:
    counts = node.counts
    rooms = members = leases = 0
    for room in node.hub.rooms.values():
        here = len(room.live)
        if here:
            rooms += 1
            members += here
            if room.policy.presence:
                leases += here
    states = {("state", reason): 0 for reason in sorted(REASONS)}
    return {
        "roomwire_rooms": _one(rooms),
        "roomwire_memberships": _one(members),
        "roomwire_presence_leases": _one(leases),
        "roomwire_publications_total": {("stored",): counts.published, ("ephemeral",): counts.ephemeral},
        "roomwire_deliveries_total": _one(meter.deliveries),
        "roomwire_fanout_seconds": _one(meter.fanout),
        "roomwire_replaced_events_total": _one(meter.replaced),
        "roomwire_passed_over_total": _one(meter.passed),
        "roomwire_replays_total": _from_zero((("replayed", ""), *states), counts.replays),
        "roomwire_replayed_events_total": _one(counts.replayed),
        "roomwire_snapshots_total": {("made",): counts.snapshots, ("failed",): counts.snapshots_failed},
        "roomwire_history_doubts_total": _one(counts.doubts),
        "roomwire_gaps_total": {("healed",): counts.healed, ("reset",): counts.resets.total()},
        "roomwire_room_resets_total": _from_zero(
            ((reason,) for reason in sorted(REASONS - {"requested", "too_far"})),
            {(reason,): count for reason, count in counts.resets.items()},
        ),
        "roomwire_position_checks_total": {
            ("same",): counts.checks - counts.differed,
            ("differed",): counts.differed,
        },
    }


def _fallback(node: Node, meter: Meter) -> dict[str, Values]:
    return {
        "roomwire_fallback_requests_total": _from_zero(_ANSWERED, meter.answers),
        "roomwire_fallback_requests_pending": _one(0 if node.fallback is None else node.fallback._running),
        "roomwire_fallback_seconds": _one(meter.answering),
    }


def _others(node: Node, meter: Meter) -> dict[str, Values]:
    counts = node.counts
    failed = meter.unavailable
    return {
        "roomwire_backplane_up": _one(node.hub.up),
        "roomwire_backplane_outages_total": _one(counts.outages),
        "roomwire_backplane_interruptions_total": _one(counts.interruptions),
        "roomwire_backplane_operation_seconds": {(name,): kept for name, kept in meter.operations.items()},
        "roomwire_backplane_errors_total": {(name,): failed[name] for name in meter.operations},
        "roomwire_backplane_lag_seconds": _one(meter.delivery),
        "roomwire_backplane_received_total": {
            ("stored",): counts.delivered,
            ("ephemeral",): counts.delivered_ephemeral,
        },
        "roomwire_backplane_dropped_total": {
            ("publication",): node.hub.dropped,
            ("order",): node.control.dropped,
        },
        "roomwire_ready": _one(node.ready),
        "roomwire_draining": _one(node.draining),
        "roomwire_loop_lag_seconds": _one(node.upkeep.lag),
        "roomwire_loop_delay_seconds": _one(meter.lag),
        "roomwire_build_info": {(_version(),): 1},
        "roomwire_node_info": {(node.name,): 1},
    }


@cache
def _version() -> str:
    try:
        return version("roomwire")
    except PackageNotFoundError:  # run from a folder of sources
        return "unknown"
