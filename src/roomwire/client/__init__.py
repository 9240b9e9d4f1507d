"""The Python client: it comes back after a break, resumes its rooms, and says where nothing is proven.

    from roomwire.client import Event, StateReset, connect

    async with connect("ws://127.0.0.1:8000/ws", token=fetch_token) as client:
        room = await client.join("chat:general", state=True)
        await room.send("message.send", {"content": "hi"})
        async for item in client:
            match item:
                case Event(name="message.new", data=data): ...
                case StateReset(state=state): ...

It runs on asyncio and trio. `roomwire.client.session` is its half without I/O.
"""

from __future__ import annotations

from roomwire.client.connection import Client, connect
from roomwire.client.engine import Token
from roomwire.client.errors import (
    ConnectionClosed,
    ConnectionRefused,
    MessageTooLarge,
    NoReply,
    QueueFull,
    RequestFailed,
    UnknownOutcome,
)
from roomwire.client.events import (
    Connected,
    Disconnected,
    Event,
    InvalidEvent,
    Item,
    Joined,
    MemberJoined,
    MemberLeft,
    MembersState,
    Recovered,
    Removed,
    ServerError,
    StateReset,
)
from roomwire.client.headers import Headers
from roomwire.client.room import Room
from roomwire.client.session import Options
from roomwire.client.timing import SystemTiming, Timing

__all__ = [
    "Client",
    "Connected",
    "ConnectionClosed",
    "ConnectionRefused",
    "Disconnected",
    "Event",
    "Headers",
    "InvalidEvent",
    "Item",
    "Joined",
    "MemberJoined",
    "MemberLeft",
    "MembersState",
    "MessageTooLarge",
    "NoReply",
    "Options",
    "QueueFull",
    "Recovered",
    "Removed",
    "RequestFailed",
    "Room",
    "ServerError",
    "StateReset",
    "SystemTiming",
    "Timing",
    "Token",
    "UnknownOutcome",
    "connect",
]
