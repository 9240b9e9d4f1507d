"""The ASGI transport: connections that a host, such as uvicorn, accepts and frames."""

from roomwire.transports.asgi.transport import AsgiTransport

__all__ = ["AsgiTransport"]
