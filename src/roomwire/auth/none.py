"""No authentication: every connection is a user of its own.

For development, and for rooms that anybody may read. There is nobody to authorise, to ban or to
count: the limit of connections per user cannot bind users that last for one connection, and a
reconnect comes back as somebody else, so that it has neither the idempotency nor the connection
slot of the one before. ``roomwire check`` warns of it.
"""

from __future__ import annotations

import secrets
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from roomwire.core.identity import Identity
from roomwire.core.request import RequestHead

__all__ = ["AnonymousAuthenticator", "AnonymousOptions", "Options"]


class AnonymousOptions(BaseModel):
    """The ``[auth.options]`` of ``auth.type = "anonymous"``.

    Attributes:
        prefix: what every user id begins with, so that none can be taken for an account's.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9._:-]{1,64}$")] = "anonymous-"


Options = AnonymousOptions


class AnonymousAuthenticator:
    """Gives every connection a fresh user id that nobody can guess. Refuses nobody."""

    __slots__ = ("_prefix",)

    Options = AnonymousOptions

    def __init__(self, options: AnonymousOptions | None = None) -> None:
        self._prefix = (options or AnonymousOptions()).prefix

    async def start(self) -> None:
        """Nothing to do."""

    async def aclose(self) -> None:
        """Nothing to do."""

    async def authenticate(self, head: RequestHead) -> Identity:
        """A new user; tokens that the request may carry are not looked at."""
        return Identity(self._prefix + secrets.token_urlsafe(12))
