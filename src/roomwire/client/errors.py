"""What the client raises beside `roomwire.core.errors.ConnectionClosed`.

RoomwireError
├── LocalError
│   ├── QueueFull            too many messages wait for their replies
│   ├── MessageTooLarge      the server would not take the message
│   └── ConnectionClosed     the client has ended for good
│       └── ConnectionRefused    since the server refused it, with an HTTP status
├── RequestFailed            the server answered with an error
└── NoReply                  no reply came; ask again
    └── UnknownOutcome       of a message that may have taken effect
"""

from __future__ import annotations

from roomwire.core.closing import CloseCode
from roomwire.core.errors import ConnectionClosed, LocalError, RoomwireError

__all__ = [
    "ConnectionClosed",
    "ConnectionRefused",
    "MessageTooLarge",
    "NoReply",
    "QueueFull",
    "RequestFailed",
    "UnknownOutcome",
]


class QueueFull(LocalError):
    """As many messages wait for their replies as may; this one was not sent."""


class MessageTooLarge(LocalError):
    """The message is larger than the server takes; it was not sent, since that would end the connection."""


class ConnectionRefused(ConnectionClosed):
    """The server refused the handshake, and trying again would not help.

    Attributes:
        status: the HTTP status code of the refusal.
        error: the refusal's machine-readable code, such as ``"unauthorized"``; ``""`` where it has none.
        detail: its text for people.
    """

    def __init__(self, status: int, error: str = "", detail: str = "") -> None:
        super().__init__(CloseCode.ABNORMAL, f"refused with {status}{' ' + error if error else ''}")
        self.status = status
        self.error = error
        self.detail = detail


class RequestFailed(RoomwireError):
    """The server answered with an ``error`` event.

    Attributes:
        code: the protocol's code, such as ``"forbidden"``, or the application's own.
        message: a text for people.
        details: any JSON value.
    """

    def __init__(self, code: str, message: str = "", details: object = None) -> None:
        super().__init__(f"{code}: {message}" if message else code)
        self.code = code
        self.message = message
        self.details = details


class NoReply(RoomwireError):
    """The link broke before the reply came, or the reply cannot be read since events wait unread."""


class UnknownOutcome(NoReply):
    """The message was sent, and nobody can tell any more whether it took effect.

    The same message sent again is a new one to the server: find out first, or make it harmless.
    """

    code = "unknown_outcome"
