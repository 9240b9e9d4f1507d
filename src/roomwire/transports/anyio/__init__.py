"""Raw sockets over anyio: two shells around one carrier."""

from roomwire.transports.anyio.transport import AnyioTransport

__all__ = ["AnyioTransport"]
