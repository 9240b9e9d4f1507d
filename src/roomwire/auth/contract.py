"""The authenticator contract: request head in, identity out."""

from __future__ import annotations

from typing import Protocol

from roomwire.core.identity import Identity
from roomwire.core.request import RequestHead

__all__ = ["Authenticator", "OriginCheck"]


class Authenticator(Protocol):
    """Decides who a request comes from, before the upgrade.

    Constructed as ``Adapter(options)`` with an instance of its own ``Options``, a pydantic model.
    """

    async def start(self) -> None:
        """Called once before the first request."""

    async def aclose(self) -> None:
        """Called once after the last request."""

    async def authenticate(self, head: RequestHead) -> Identity:
        """Who it is.

        Raises:
            HandshakeRefused: with status 401, or 503 where it cannot be told now (the issuer's keys
                cannot be fetched). The cause goes into `Refusal.cause` and never holds a token or a
                part of one.
        """
        ...


class OriginCheck(Protocol):
    """Decides whether a page of another origin may connect."""

    def check(self, head: RequestHead) -> None:
        """Nothing where it may, or where the request names no origin.

        Raises:
            HandshakeRefused: with status 403.
        """
        ...
