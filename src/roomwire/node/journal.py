"""The node's log: structured, one line for each event of a connection's life. What is logged is counted as well.

Fields travel in ``extra={"roomwire": {...}}``. No field ever holds a query string, an Authorization
header, a subprotocol list or a token.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from roomwire.core.errors import Refusal
from roomwire.core.request import RequestHead

if TYPE_CHECKING:
    from roomwire.core.routing import Handler
    from roomwire.node.connection import Connection

__all__ = [
    "answered",
    "connected",
    "declined",
    "disconnected",
    "failed",
    "hung",
    "joined",
    "left",
    "misbehaved",
    "refused",
    "slow",
]

access = logging.getLogger("roomwire.access")
security = logging.getLogger("roomwire.security")
errors = logging.getLogger("roomwire")

_MAX_CODE = 64
"""Characters of a code that are logged: an application may raise any."""
_HELD = "if it does not await, it holds up everybody: make it a def"


def _log(logger: logging.Logger, level: int, event: str, fields: dict[str, object]) -> None:
    logger.log(level, event, extra={"roomwire": {"event": event, **fields}})


def _of(connection: Connection) -> dict[str, object]:
    fields: dict[str, object] = {"connection": connection.id, "user": connection.user, "client": connection.client}
    if connection.read_only:
        fields["stream"] = connection._protocol.name
    return fields


def connected(connection: Connection) -> None:
    """A connection was upgraded."""
    connection._node.counts.opened += 1
    connection._node.counts.streams += connection.read_only
    if access.isEnabledFor(logging.INFO):
        fields = _of(connection) | {"peer": connection.peer, "rooms": len(connection._memberships)}
        _log(access, logging.INFO, "connect", fields)


def refused(head: RequestHead | None, refusal: Refusal, peer: str) -> None:
    """A request was refused. Refusals for its content are a matter of security, others are not."""
    logger = security if refusal.status in (401, 403) else access
    level = logging.WARNING if refusal.status in (401, 403, 429) else logging.INFO
    if logger.isEnabledFor(level):
        fields: dict[str, object] = {"status": refusal.status, "error": refusal.error, "peer": peer}
        if refusal.cause:
            fields["cause"] = refusal.cause
        if head is not None:
            fields["path"] = head.path
        _log(logger, level, "refuse", fields)


def joined(connection: Connection, room: str, recovered: bool | None, reason: str | None, replayed: int) -> None:
    """A connection is live in a room."""
    connection._node.counts.entered(recovered, reason, replayed)
    if access.isEnabledFor(logging.INFO):
        fields = _of(connection) | {"room": room, "recovered": recovered, "replayed": replayed}
        if reason is not None:
            fields["reason"] = reason
        _log(access, logging.INFO, "join", fields)


def left(connection: Connection, room: str, reason: str = "") -> None:
    """A connection left a room and stays open."""
    if access.isEnabledFor(logging.INFO):
        _log(access, logging.INFO, "leave", _of(connection) | {"room": room, "reason": reason})


def declined(connection: Connection, asked: str, room: str | None, code: str, cause: str) -> None:
    """What a client asked for is answered with an error, of which it is told less than the `cause`.

    Args:
        connection: the client's.
        asked: the event by which it asked, a name of at most 128 characters, as the protocol has it.
        room: the room's name, which the protocol bounds alike.
        code: the error's.
        cause: why, in words of ours: neither the event's data nor a text of the application's.
    """
    if access.isEnabledFor(logging.DEBUG):
        # While it is being admitted it has sent no event: its handshake names the rooms.
        asked = "connect" if connection._kind is None else asked
        fields = _of(connection) | {"asked": asked, "room": room, "code": str(code)[:_MAX_CODE], "cause": cause}
        _log(access, logging.DEBUG, "decline", fields)


def disconnected(connection: Connection, seconds: float, sent: int, cause: BaseException | None) -> None:
    """A connection ended, after so many seconds and messages."""
    connection._node.counts.ended(connection, sent)
    if not access.isEnabledFor(logging.INFO):
        return
    closing = connection._closing
    fields = _of(connection) | {
        "code": closing.code if closing else 1006,
        "reason": closing.reason if closing else "",
        "by": connection._by,
        "duration": round(seconds, 3),
        "received": connection._received,
        "sent": sent,
    }
    if cause is not None:
        fields["cause"] = type(cause).__name__
    _log(access, logging.INFO, "disconnect", fields)


def failed(connection: Connection | None, what: str, error: BaseException) -> None:
    """The application, or this node, raised where it should not."""
    fields: dict[str, object] = {"event": "error", "where": what, "error": type(error).__name__}
    if connection is not None:
        fields |= _of(connection)
    errors.error("%s failed", what, exc_info=error, extra={"roomwire": fields})


def answered(head: RequestHead, status: int, size: int, seconds: float) -> None:
    """The fallback's application answered a request; status 0: the peer went before."""
    if access.isEnabledFor(logging.INFO):
        fields: dict[str, object] = {"method": head.method, "path": head.path, "status": status}
        _log(access, logging.INFO, "request", fields | {"duration": round(seconds, 4), "size": size, "peer": head.peer})


def misbehaved(head: RequestHead, problem: BaseException | str) -> None:
    """The fallback's application raised, or its response was not a correct one."""
    fields: dict[str, object] = {"event": "error", "where": "fallback", "method": head.method, "path": head.path}
    if isinstance(problem, BaseException):
        fields["error"] = type(problem).__name__
        errors.error("the fallback failed", exc_info=problem, extra={"roomwire": fields})
    else:
        errors.error("the fallback failed: %s", problem, extra={"roomwire": fields})


def hung(name: str, seconds: float, where: str = "fallback") -> None:
    """A fallback or a lifespan, the application's own, did not shut down within that time."""
    fields: dict[str, object] = {"event": "error", "where": where, "application": name}
    text = "the shutdown of the %s %s did not end within %.1f s: it is cancelled"
    errors.error(text, where, name, seconds, extra={"roomwire": fields})


def slow(connection: Connection, handler: Handler, seconds: float) -> None:
    """A handler took longer than ``limits.handler_warning``.

    Whether an ``async def`` waited or blocked cannot be told without a look at each of its steps, so the record says
    what it would mean. A ``def`` holds up nobody: it had a thread, for which it may have waited.
    """
    blocks = handler.plan is not None and handler.plan.blocks
    fields = _of(connection) | {
        "handler": handler.name,
        "kind": "def in a thread" if blocks else "async def",
        "duration": round(seconds, 3),
    }
    if not blocks:
        fields["hint"] = _HELD
    _log(errors, logging.WARNING, "slow handler", fields)
