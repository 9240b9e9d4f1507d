"""A room as the application holds it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from roomwire.client.rooms import Membership
from roomwire.core.positions import Position

if TYPE_CHECKING:
    from roomwire.client.connection import Client

__all__ = ["Room"]


class Room:
    """A room of a client, from `Client.join` or `Client.room`.

    It is a view: what it shows is always the present.
    """

    __slots__ = ("_client", "_name")

    def __init__(self, client: Client, name: str) -> None:
        self._client = client
        self._name = name

    def __repr__(self) -> str:
        return f"<Room {self._name!r}{' joined' if self.joined else ''}>"

    @property
    def name(self) -> str:
        """Its name."""
        return self._name

    @property
    def joined(self) -> bool:
        """Whether the server has this client in the room at this moment."""
        membership = self._membership
        return membership is not None and membership.here

    @property
    def position(self) -> Position | None:
        """The last event of the room that was received."""
        membership = self._membership
        return membership.position if membership is not None else None

    @property
    def members(self) -> Mapping[str, Any]:
        """Who is there, by user, each with its info; as last known while there is no link.

        Empty where the room has no presence; `fetch_members` asks the server.
        """
        membership = self._membership
        return MappingProxyType(membership.members) if membership is not None else {}

    async def send(self, event: str, data: object = None) -> Any:
        """See `Client.send`."""
        return await self._client.send(event, data, room=self._name)

    async def notify(self, event: str, data: object = None) -> bool:
        """See `Client.notify`."""
        return await self._client.notify(event, data, room=self._name)

    async def fetch_members(self) -> dict[str, Any]:
        """See `Client.fetch_members`."""
        return await self._client.fetch_members(self._name)

    async def leave(self) -> None:
        """See `Client.leave`."""
        await self._client.leave(self._name)

    @property
    def _membership(self) -> Membership | None:
        return self._client._membership(self._name)
