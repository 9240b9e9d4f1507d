"""A server in a process of its own under attack, and the memory that it takes."""

from __future__ import annotations

import resource
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.server.live import make_token
from tests.server.processes import ServingProcess
from tests.server.raw import RawLink, connect, request

MIB = 1024 * 1024


class Victim:
    """A chat that serves, and those who attack it; they are closed with it."""

    def __init__(self, process: ServingProcess, links: ExitStack) -> None:
        self.process = process
        self.port = process.port()
        self._links = links
        self._count = 0

    def open(self, user: str, *headers: str) -> RawLink:
        """A client that has read its welcome."""
        head = request("/ws", f"Authorization: Bearer {make_token(user)}", *headers)
        link = self._links.enter_context(connect(self.port, head))
        link.upgraded()
        link.event("session.welcome")
        return link

    def serves(self, link: RawLink) -> bool:
        """Whether a request of this client's is handled."""
        self._count += 1
        link.send_text("add", id=f"fence-{self._count}", data=[self._count, 1])
        while (ack := link.event("ack"))["id"] != f"fence-{self._count}":
            pass
        return bool(ack["data"] == self._count + 1)

    def memory(self, field: str = "VmRSS") -> int:
        """Bytes that the server holds now; with ``VmHWM`` the most that it ever held."""
        lines = Path(f"/proc/{self.process.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


@contextmanager
def attacked(backend: str = "asyncio", **settings: Mapping[str, Any]) -> Iterator[Victim]:
    """A server until the end of the block."""
    server = {"port": 0, "drain_timeout": 1.0, **settings.pop("server", {})}
    with ServingProcess(backend, {"server": server, **settings}) as process, ExitStack() as links:
        yield Victim(process, links)


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """As many descriptors as the system gives: both ends of each link are in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
