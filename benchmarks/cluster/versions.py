"""Which versions were compared."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from tests.servers import NATS, NODE, REDIS

from benchmarks.machine import ROOT

__all__ = ["versions"]

_PYTHON = ("python-socketio", "python-engineio", "uvicorn", "websockets", "redis", "nats-py", "uvloop")
_NODE = ("socket.io", "@socket.io/redis-adapter", "redis", "ws")


def versions() -> Iterator[str]:
    """Of everything that takes part, as far as it is installed."""
    yield f"Python {platform.python_version()}"
    for name in _PYTHON:
        try:
            yield f"{name} {version(name)}"
        except PackageNotFoundError:
            continue
    for name in _NODE:
        path = ROOT / "benchmarks" / "peers" / "socketio" / "node_modules" / name / "package.json"
        if path.exists():
            yield f"npm {name} {json.loads(path.read_text())['version']}"
    for tool in (NODE, REDIS, NATS):
        yield f"{tool.name} {tool.describe().partition('(')[2].rstrip(')') or 'missing'}"
