"""The error tree. Every exception that roomwire raises on purpose hangs from one root.

    RoomwireError
    ├── LocalError                  you misused roomwire: fix the program or the configuration
    │   ├── ConfigError             a setting is missing, unknown or wrong
    │   ├── PluginError             an adapter cannot be found, loaded, or lacks a method
    │   ├── DeclarationError        a handler, room or hook is declared wrongly
    │   ├── (schema) InvalidData    the data of a declared event is not what it is declared to be
    │   ├── EventTooLarge           a publication is larger than ``limits.max_event_size``
    │   └── ConnectionClosed        an operation on a connection that has ended
    ├── RemoteError                 the peer misbehaved; says what to answer
    │   ├── ProtocolViolation       close the WebSocket, with ``code``
    │   ├── HandshakeRefused        answer the request with an HTTP response, its ``refusal``
    │   ├── (auth) TokenError       no credential, or one that does not verify
    │   ├── InvalidMessage          answer the message with an ``error`` event of code ``invalid``
    │   ├── InvalidCursor           a position or a resume cursor is malformed
    │   ├── (publication) InvalidBody          a body from the backplane cannot be read
    │   ├── (handshake) HandshakeRejected      as a client: the server answered with another status
    │   └── (handshake) InvalidHandshake       as a client: the server's 101 is not correct
    ├── EventError                  a handler's own answer: an ``error`` event with ``code``
    └── Unavailable                 the backplane could not do it within its time
        ├── (publisher) PublishFailed          and what to try again with
        └── (publisher) BatchFailed            some events of a batch

No other exception leaves the core, whatever bytes come in.
"""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = [
    "ConfigError",
    "ConnectionClosed",
    "DeclarationError",
    "EventError",
    "EventTooLarge",
    "HandshakeRefused",
    "InvalidCursor",
    "InvalidMessage",
    "LocalError",
    "PluginError",
    "ProtocolViolation",
    "Refusal",
    "RemoteError",
    "RoomwireError",
    "Unavailable",
]


class RoomwireError(Exception):
    """Root of all errors that roomwire raises."""


class LocalError(RoomwireError):
    """The calling program, or its configuration, misused roomwire."""


class ConfigError(LocalError):
    """A setting is missing, unknown or wrong. The message names file, key, expectation and remedy."""


class PluginError(LocalError):
    """An adapter cannot be found or loaded, or does not keep its contract."""


class DeclarationError(LocalError):
    """A handler, a room policy or a hook is declared wrongly."""


class EventTooLarge(LocalError):
    """An event is larger than ``limits.max_event_size`` bytes; nothing was published."""


class ConnectionClosed(LocalError):
    """The connection has ended.

    Attributes:
        code: the WebSocket close code, 1006 where the link broke (RFC 6455 section 7.4.1).
        reason: the close reason, possibly empty.
    """

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(f"the connection is closed ({code}{': ' + reason if reason else ''})")
        self.code = code
        self.reason = reason


class RemoteError(RoomwireError):
    """The peer misbehaved."""


class ProtocolViolation(RemoteError):
    """The peer broke RFC 6455 or a limit.

    Attributes:
        code: the close code to answer with.
        reason: a fixed text that may be shown to the peer.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Refusal:
    """A handshake that was refused, as the HTTP response to send (WIRE section 1).

    Attributes:
        status: HTTP status code.
        error: the machine-readable code of the body, such as ``"unauthorized"``.
        detail: a text for people, the same for every cause that must not be told apart.
        headers: further response headers.
        cause: what really happened, for the log alone. Never a token.
    """

    status: int
    error: str
    detail: str
    headers: tuple[tuple[str, str], ...] = ()
    cause: str = field(default="", compare=False)


class HandshakeRefused(RemoteError):
    """The upgrade request is answered with a plain HTTP response instead of a 101."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(f"{refusal.status} {refusal.error}: {refusal.cause or refusal.detail}")
        self.refusal = refusal


class InvalidMessage(RemoteError):
    """A message is not a correct envelope (WIRE section 2).

    Attributes:
        message: a text that may be shown to the peer.
        id: the message's ``id`` where a usable one was found.
    """

    def __init__(self, message: str, id: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.id = id


class InvalidCursor(RemoteError):
    """A position or a resume cursor is malformed (WIRE section 5)."""


class EventError(RoomwireError):
    """Raise it in a handler to answer the message with an ``error`` event.

    Args:
        code: one of WIRE section 4's codes, or the application's own.
        message: a text for people; it reaches the client as it is.
        details: any JSON value.
    """

    def __init__(self, code: str, message: str = "", details: object = None) -> None:
        super().__init__(f"{code}: {message}" if message else code)
        self.code = code
        self.message = message
        self.details = details


class Unavailable(RoomwireError):
    """The backplane could not carry out an operation within its bounded time.

    Attributes:
        stored: ``False`` when it certainly did not take effect, ``None`` when that is unknown:
            retry with the same key.
    """

    def __init__(self, message: str = "the backplane is unavailable", *, stored: bool | None = False) -> None:
        super().__init__(message)
        self.stored = stored
