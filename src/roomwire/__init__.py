"""Real-time servers over WebSockets: rooms, presence, and a replay that is proven complete."""

from roomwire.app import App, Member, Router
from roomwire.core.errors import (
    ConfigError,
    ConnectionClosed,
    DeclarationError,
    EventError,
    EventTooLarge,
    LocalError,
    PluginError,
    RemoteError,
    RoomwireError,
    Unavailable,
)
from roomwire.core.injection import Claims, Depends, User
from roomwire.core.publication import Publication
from roomwire.core.schema import InvalidData
from roomwire.event import Event
from roomwire.node import Connection, Node
from roomwire.node.calling import from_thread
from roomwire.publisher import AsyncPublisher, BatchFailed, Draft, Publisher, PublishFailed

__all__ = [
    "App",
    "AsyncPublisher",
    "BatchFailed",
    "Claims",
    "ConfigError",
    "Connection",
    "ConnectionClosed",
    "DeclarationError",
    "Depends",
    "Draft",
    "Event",
    "EventError",
    "EventTooLarge",
    "InvalidData",
    "LocalError",
    "Member",
    "Node",
    "PluginError",
    "Publication",
    "PublishFailed",
    "Publisher",
    "RemoteError",
    "RoomwireError",
    "Router",
    "Unavailable",
    "User",
    "from_thread",
]
