"""What one process runs: connections, rooms, and their ways through the house."""

from roomwire.node.connection import Connection
from roomwire.node.node import Node

__all__ = ["Connection", "Node"]
