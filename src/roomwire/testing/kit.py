"""The test kit: what the fixtures of roomwire's pytest plugin give, for annotations and for fixtures of your own.

The fixtures are on as soon as pytest's configuration has ``roomwire_app`` or ``roomwire_config``; see
docs/how-to/testing.md. This module needs no pytest.
"""

from __future__ import annotations

from roomwire.client import RequestFailed
from roomwire.core.errors import ConnectionClosed
from roomwire.testing._clients import AsyncClient, Client, MakeToken
from roomwire.testing._connections import ANY, AsyncConnection, Connection
from roomwire.testing._errors import NotReceived, Refused, Unexpected
from roomwire.testing._server import Server, TokenMaker, configured, running_server
from roomwire.testing._talk import Message
from roomwire.testing._transcript import Transcript

__all__ = [
    "ANY",
    "AsyncClient",
    "AsyncConnection",
    "Client",
    "Connection",
    "ConnectionClosed",
    "MakeToken",
    "Message",
    "NotReceived",
    "Refused",
    "RequestFailed",
    "Server",
    "TokenMaker",
    "Transcript",
    "Unexpected",
    "configured",
    "running_server",
]
