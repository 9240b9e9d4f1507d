"""The table of targets: what reads bytes that a stranger wrote, and the exceptions that may leave it."""

from __future__ import annotations

from collections.abc import Sequence

from roomwire.core.api import InvalidRequest
from roomwire.core.errors import ConfigError, HandshakeRefused, InvalidCursor, InvalidMessage, RemoteError
from roomwire.core.handshake import HandshakeRejected, InvalidHandshake
from roomwire.core.publication import InvalidBody
from tests.fuzz import backplane, exchanging, frames, live, parsers, publishing, streaming
from tests.fuzz.harness import Target

__all__ = ["TARGETS", "plan"]

_ALL = [
    Target(
        "frames",
        "core.websocket.WebSocket.receive, both roles, with and without deflate, cut anywhere",
        40,
        frames.make_frames,
        frames.open_frames,
        {},  # it never raises: a fault of the peer's is an event
    ),
    Target(
        "handshake",
        "request head, upgrade, subprotocol, extensions, Origin, token",
        13,
        parsers.make_handshake,
        parsers.open_handshake,
        {HandshakeRefused: "the request is answered with the HTTP response that it holds"},
    ),
    Target(
        "answer",
        "a server's answer to a client's handshake",
        5,
        parsers.make_answer,
        parsers.open_answer,
        {
            InvalidHandshake: "the answer is not one to our handshake: the client gives up or comes back",
            HandshakeRejected: "the server said no, with a status that the client acts on",
        },
    ),
    Target(
        "envelope",
        "the text message and its command",
        13,
        parsers.make_envelope,
        parsers.open_envelope,
        {InvalidMessage: "the message is answered with an error of the code invalid"},
    ),
    Target(
        "binary-envelope",
        "the binary message",
        7,
        parsers.make_binary,
        parsers.open_binary,
        {InvalidMessage: "the message is answered with an error of the code invalid"},
    ),
    Target(
        "cursor",
        "last_event_id, in the query and decoded",
        7,
        parsers.make_cursor,
        parsers.open_cursor,
        {InvalidCursor: "the request is answered with 400"},
    ),
    Target(
        "stream",
        "the request for an event stream, by its query and Last-Event-ID",
        3,
        streaming.make_stream,
        streaming.open_stream,
        {HandshakeRefused: "the request is answered with the HTTP response that it holds"},
    ),
    Target(
        "configuration",
        "roomwire.toml and the environment",
        2,
        parsers.make_configuration,
        parsers.open_configuration,
        {ConfigError: "the start stops, and every problem is named"},
    ),
    Target(
        "body",
        "an event's body from the backplane, up to the message for the clients",
        6,
        backplane.make_body,
        backplane.open_body,
        {InvalidBody: "the event is dropped, counted, and logged once"},
    ),
    Target(
        "control",
        "a control message from another node",
        4,
        backplane.make_control,
        backplane.open_control,
        {},  # what cannot be read is dropped, counted, and logged once
    ),
    Target(
        "reply",
        "a remembered reply from the backplane",
        3,
        backplane.make_reply,
        backplane.open_reply,
        {RemoteError: "the connection that asked for it is closed with 1011"},
    ),
    Target(
        "request",
        "the body of a request to publish, up to what goes to the backplane",
        4,
        publishing.make_request,
        publishing.open_request,
        {InvalidRequest: "the request is answered with 400"},
    ),
    Target(
        "upload",
        "a request with a body, by its length or in chunks",
        3,
        publishing.make_upload,
        publishing.open_upload,
        {HandshakeRefused: "the request is answered with the HTTP response that it holds"},
    ),
    Target(
        "exchange",
        "a request to the fallback: its body, the response, and what is left for the next one",
        4,
        exchanging.make_exchange,
        exchanging.open_exchange,
        {HandshakeRefused: "the request is answered with the HTTP response that it holds"},
    ),
    Target(
        "live",
        "a server's port, before the handshake and behind it, while it serves others",
        0,
        live.make_live,
        live.open_live,
        {},  # nothing is raised here: a fault is what the server logs, or that it does not serve on
        in_process=False,
    ),
]

TARGETS = {target.name: target for target in _ALL}
LIVE_EVERY = 400
"""Of so many inputs of a run, one is a connection to the live server."""


def plan(targets: Sequence[Target], inputs: int) -> list[tuple[Target, int]]:
    """How many of all inputs each target gets."""
    if len(targets) == 1:
        return [(targets[0], inputs)]
    shares = sum(target.share for target in targets) or 1
    lives = [target for target in targets if not target.share]
    left = inputs - len(lives) * (inputs // LIVE_EVERY)
    planned = [(t, left * t.share // shares if t.share else inputs // LIVE_EVERY) for t in targets]
    # What the divisions left over.
    first, count = planned[0]
    planned[0] = (first, count + inputs - sum(number for _, number in planned))
    return planned
