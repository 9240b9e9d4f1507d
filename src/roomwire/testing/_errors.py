"""What the test clients raise.

RoomwireError
├── RequestFailed        the server answered with an error: `roomwire.client.RequestFailed`
├── Refused              the server refused the handshake, with an HTTP status
└── LocalError
    └── ConnectionClosed     the server closed the connection
AssertionError
├── NotReceived          what was expected did not come in time
└── Unexpected           something came, and nothing should have
"""

from __future__ import annotations

from collections.abc import Mapping

from roomwire.core.errors import RoomwireError

__all__ = ["NotReceived", "Refused", "Unexpected"]


class Refused(RoomwireError):
    """The server answered the handshake with a plain HTTP response.

    Attributes:
        status: the HTTP status code.
        error: the machine-readable code of the body, such as ``"unauthorized"``; ``""`` where it has none.
        detail: the body's text for people.
        headers: of the response, names in lower case.
    """

    def __init__(self, status: int, error: str, detail: str, headers: Mapping[str, str]) -> None:
        super().__init__(f"{status} {error}: {detail}" if error else f"HTTP status {status}")
        self.status = status
        self.error = error
        self.detail = detail
        self.headers = headers


class NotReceived(AssertionError):
    """What a test waited for did not come within the time-out."""


class Unexpected(AssertionError):
    """Something came that a test says should not."""
