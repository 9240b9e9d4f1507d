"""What is measured: docs/reference/metrics.md is made from this table.

A label has few values, which are known beforehand: never the name of a room, a user, a client or a node, nor a
text that a peer sent. The one that the application decides about is `event`, which it declares in its code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["FAMILIES", "Family"]


@dataclass(frozen=True, slots=True)
class Family:
    """One metric.

    Attributes:
        group: under which heading it stands.
        name: as it is exposed; a counter's ends with ``_total``, an info's with ``_info``.
        kind: its type.
        text: what it tells.
        labels: its labels, and what their values are.
    """

    group: str
    name: str
    kind: Literal["counter", "gauge", "histogram", "info"]
    text: str
    labels: Mapping[str, str] = field(default_factory=dict)


_CONNECTIONS = "Connections"
_MESSAGES = "Messages"
_ROOMS = "Rooms and fan-out"
_REPLAY = "Replay and healing"
_FALLBACK = "The fallback"
_BACKPLANE = "Backplane"
_NODE = "The node"

_OUTCOME = (
    "`ok`; a code of [the protocol](protocol.md#41-error-codes) (`invalid`, `rate_limited`, ...); `application` for the"
    " application's own codes"
)
_REASON = "of [the protocol](protocol.md#52-proof); `other` for what a plugin made up"
_OPERATION = "an operation of the [backplane contract](../how-to/backplane.md): `publish`, `history`, `claim`, ..."

FAMILIES: tuple[Family, ...] = (
    Family(_CONNECTIONS, "roomwire_connections", "gauge", "Connections that are open"),
    Family(
        _CONNECTIONS,
        "roomwire_connections_opened_total",
        "counter",
        "Requests that were upgraded, or answered with an event stream",
    ),
    Family(
        _CONNECTIONS,
        "roomwire_connections_closed_total",
        "counter",
        "Connections that ended",
        {
            "code": "the [close code](close-codes.md); `application` for 4100 to 4199 and 4600 to 4699, `other` for"
            " what else a peer may send",
            "by": "who began: `server`, `peer`, or `link` where it broke",
        },
    ),
    Family(
        _CONNECTIONS, "roomwire_streams", "gauge", "Event streams that are open; they are among the connections, too"
    ),
    Family(
        _CONNECTIONS,
        "roomwire_streams_opened_total",
        "counter",
        "Event streams that were opened; they are among the connections, too",
    ),
    Family(
        _CONNECTIONS, "roomwire_reconnects_total", "counter", "Admitted with a cursor: clients that were here before"
    ),
    Family(
        _CONNECTIONS,
        "roomwire_slow_closes_total",
        "counter",
        "Closed with 4002 by the server, since the client did not keep up; they are among those closed, too",
    ),
    Family(
        _CONNECTIONS,
        "roomwire_refusals_total",
        "counter",
        "Requests that were refused. A user with too many connections is the 429",
        {
            "status": "the HTTP status",
            "error": "the code in the answer's body: `bad_request`, `unauthorized`, `too_many_connections`, ...;"
            " `other` for what a plugin made up",
        },
    ),
    Family(
        _CONNECTIONS,
        "roomwire_handshakes_pending",
        "gauge",
        "Sockets whose request is not answered yet; `limits.max_pending_handshakes` is the most",
    ),
    Family(_CONNECTIONS, "roomwire_handshakes_deciding", "gauge", "Those of them about which the node is deciding"),
    Family(
        _CONNECTIONS,
        "roomwire_handshake_seconds",
        "histogram",
        "From a whole request to the node's decision: the token, the connect hook, the slot, the history",
    ),
    Family(_MESSAGES, "roomwire_messages_received_total", "counter", "Messages from clients, heartbeats included"),
    Family(_MESSAGES, "roomwire_messages_sent_total", "counter", "Messages to clients, of all kinds"),
    Family(_MESSAGES, "roomwire_received_bytes_total", "counter", "Bytes of frames from clients, as they came"),
    Family(
        _MESSAGES,
        "roomwire_sent_bytes_total",
        "counter",
        "Bytes of frames to clients, without handshakes, pings, heartbeats and closes. What goes out to a room is"
        " worked out from its block and its members",
    ),
    Family(
        _MESSAGES,
        "roomwire_requests_total",
        "counter",
        "Events for the application, and commands of the protocol, by how they ended",
        {"outcome": _OUTCOME},
    ),
    Family(
        _MESSAGES,
        "roomwire_handler_seconds",
        "histogram",
        "Time in the application's handlers, of which `_count` says how many ran",
        {"event": "the event, as `@app.on` declares it"},
    ),
    Family(_ROOMS, "roomwire_rooms", "gauge", "Rooms with members on this node"),
    Family(_ROOMS, "roomwire_memberships", "gauge", "Members in all of them, once for each room"),
    Family(_ROOMS, "roomwire_presence_leases", "gauge", "Memberships for which this node holds a presence lease"),
    Family(
        _ROOMS,
        "roomwire_publications_total",
        "counter",
        "Published on this node",
        {"kind": "`stored`, or `ephemeral` for `history=False`"},
    ),
    Family(
        _ROOMS,
        "roomwire_deliveries_total",
        "counter",
        "Publications written, once for each member of this node",
    ),
    Family(
        _ROOMS,
        "roomwire_fanout_seconds",
        "histogram",
        "One flush of a room: what came within a turn of the loop, written to its members, or to 512 of them",
    ),
    Family(
        _ROOMS,
        "roomwire_replaced_events_total",
        "counter",
        "Events of rooms with `conflate_rate` that a newer one took the place of before they were sent, so they never"
        " are. Counted with the update that has the newer one",
    ),
    Family(
        _ROOMS,
        "roomwire_passed_over_total",
        "counter",
        "Times that a member of such a room was not sent an update, since it had not read enough of what came before",
    ),
    Family(
        _ROOMS,
        "roomwire_outbox_bytes",
        "gauge",
        "Bytes that wait for clients, those in the transport's buffers included",
    ),
    Family(_ROOMS, "roomwire_slow_readers", "gauge", "Connections for which something waits"),
    Family(
        _REPLAY,
        "roomwire_replays_total",
        "counter",
        "Rooms that were entered with a position, or with a state",
        {
            "outcome": "`replayed`: proven complete; `state`: a `room.state` in its place",
            "reason": f"why a state: {_REASON}. Empty for a replay",
        },
    ),
    Family(_REPLAY, "roomwire_replayed_events_total", "counter", "Events of those replays"),
    Family(
        _REPLAY,
        "roomwire_snapshots_total",
        "counter",
        "States that the application's snapshot hooks were asked for",
        {"outcome": "`made`, or `failed`: it raised, took too long or was too large"},
    ),
    Family(
        _REPLAY,
        "roomwire_history_doubts_total",
        "counter",
        "Times that a room's history was read, because events might have been missed",
    ),
    Family(
        _REPLAY,
        "roomwire_gaps_total",
        "counter",
        "Times that events of a room were missing",
        {"outcome": "`healed`: read from the history, no client noticed; `reset`: gone, every member got a new state"},
    ),
    Family(
        _REPLAY,
        "roomwire_room_resets_total",
        "counter",
        "Rooms whose members all got a new state. A store that went back in time is the `fork`",
        {"reason": _REASON},
    ),
    Family(
        _REPLAY,
        "roomwire_position_checks_total",
        "counter",
        "Positions of silent or doubtful rooms that were compared with the store's",
        {"result": "`same`, or `differed`"},
    ),
    Family(_BACKPLANE, "roomwire_backplane_up", "gauge", "1 while the store can be reached"),
    Family(_BACKPLANE, "roomwire_backplane_outages_total", "counter", "Times that it could not be any more"),
    Family(
        _BACKPLANE,
        "roomwire_backplane_interruptions_total",
        "counter",
        "Times that deliveries may have been lost, such as with each reconnect of the adapter",
    ),
    Family(
        _BACKPLANE,
        "roomwire_backplane_operation_seconds",
        "histogram",
        "One operation, with its failures",
        {"operation": _OPERATION},
    ),
    Family(
        _BACKPLANE,
        "roomwire_backplane_errors_total",
        "counter",
        "Operations that failed",
        {"operation": _OPERATION},
    ),
    Family(
        _BACKPLANE,
        "roomwire_backplane_lag_seconds",
        "histogram",
        "From the call that publishes to the delivery to this same node, of a sample: at most a hundred a second",
    ),
    Family(
        _BACKPLANE,
        "roomwire_backplane_received_total",
        "counter",
        "Publications that were delivered to this node, its own included, for rooms with members here",
        {"kind": "`stored`, or `ephemeral`"},
    ),
    Family(
        _BACKPLANE,
        "roomwire_backplane_dropped_total",
        "counter",
        "What came and could not be read. Anything but 0 means that something else writes into the store",
        {"kind": "`publication`, or `order` for one of a node to the others"},
    ),
    Family(
        _FALLBACK,
        "roomwire_fallback_requests_total",
        "counter",
        "Requests that the application of `server.fallback` answered. What the node refused itself is among the"
        " refusals",
        {
            "method": "`GET`, `HEAD`, `POST`, `PUT`, `PATCH`, `DELETE`, `OPTIONS`; `other`",
            "status": "the class of the HTTP status: `2xx`, `3xx`, `4xx`, `5xx`, which a response that was cut off has"
            " as well; `none` where the client was gone before the first byte; `other`",
        },
    ),
    Family(
        _FALLBACK,
        "roomwire_fallback_requests_pending",
        "gauge",
        "Requests that it has not finished; `limits.max_requests` is the most",
    ),
    Family(
        _FALLBACK,
        "roomwire_fallback_seconds",
        "histogram",
        "From a request's head to the last byte of the response, or to the end of the connection",
    ),
    Family(_NODE, "roomwire_ready", "gauge", "1 while `/readyz` says 200"),
    Family(_NODE, "roomwire_draining", "gauge", "1 from the first signal on"),
    Family(_NODE, "roomwire_loop_lag_seconds", "gauge", "By how much the event loop was late when last looked at"),
    Family(_NODE, "roomwire_loop_delay_seconds", "histogram", "The same, of every look: four a second"),
    Family(_NODE, "roomwire_build_info", "info", "What is running; the value is 1", {"version": "roomwire's"}),
    Family(
        _NODE,
        "roomwire_node_info",
        "info",
        "The node's name, as the log and other nodes have it; the value is 1",
        {"node": "`server.node`, which by default is another one after each start"},
    ),
)
