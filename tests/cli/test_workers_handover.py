"""Connections that another process accepted, served by a node on every shell, with TLS and without."""

from __future__ import annotations

import json
import logging
import os
import resource
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anyio.from_thread
import pytest
import trustme
from websockets.sync.client import ClientConnection, connect

from roomwire.transports.anyio.handover import Handover
from tests.server.chat import make_app
from tests.server.live import SHELLS, TIMEOUT, Shell, make_node, make_token


class Parent:
    """The other process's end: hands over one end of a pair, and keeps the other as the client's."""

    def __init__(self, near: socket.socket, drain: Callable[[], None]) -> None:
        self.near = near
        self.near.settimeout(TIMEOUT)
        self.drain = drain

    def connected(self) -> tuple[socket.socket, socket.socket]:
        """The client's end, and the one that is still to be handed over."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            theirs = socket.create_connection(listener.getsockname(), timeout=TIMEOUT)
            ours, _ = listener.accept()
        return theirs, ours

    def hand(self, ours: socket.socket) -> None:
        socket.send_fds(self.near, [b"c"], [ours.fileno()])
        ours.close()

    def client(self) -> socket.socket:
        theirs, ours = self.connected()
        self.hand(ours)
        return theirs

    def report(self) -> tuple[int, int]:
        """The next one: taken, open."""
        taken, now_open = struct.unpack("!QQ", self.near.recv(16))
        return taken, now_open


@contextmanager
def serving(shell: Shell, context: ssl.SSLContext | None = None) -> Iterator[Parent]:
    near, far = socket.socketpair()
    node = make_node(make_app(), shell, listen={"handover": far.dup().detach(), "ssl": context})

    async def start(*, task_status: anyio.abc.TaskStatus[None]) -> None:
        await node.serve(ready=lambda addresses: task_status.started())

    with near, far, anyio.from_thread.start_blocking_portal(shell.backend, dict(shell.backend_options)) as portal:
        served, _ = portal.start_task(start)
        yield Parent(near, lambda: portal.call(node.drain.run))
        portal.call(node.drain.run)
        served.result(TIMEOUT)


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest) -> Shell:
    return SHELLS[request.param]


def upgraded(sock: socket.socket, url: str = "ws://localhost/ws", **options: Any) -> ClientConnection:
    headers = {"Authorization": f"Bearer {make_token('ann')}"}
    connection: ClientConnection = connect(url, sock=sock, additional_headers=headers, proxy=None, **options)
    return connection


def test_connections_are_served_and_counted(shell: Shell) -> None:
    with serving(shell) as parent:
        with upgraded(parent.client()) as one, upgraded(parent.client()) as two:
            for connection in (one, two):
                assert json.loads(connection.recv(TIMEOUT))["event"] == "session.welcome"
            while parent.report() != (2, 2):
                pass
        while parent.report() != (2, 0):
            pass


def test_over_tls(shell: Shell) -> None:
    authority = trustme.CA()
    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(ours)
    theirs = ssl.create_default_context()
    authority.configure_trust(theirs)
    with serving(shell, ours) as parent:
        with upgraded(parent.client(), "wss://localhost/ws", ssl=theirs) as connection:
            assert json.loads(connection.recv(TIMEOUT))["event"] == "session.welcome"


def test_a_client_that_is_gone_already(shell: Shell) -> None:
    with serving(shell) as parent:
        parent.client().close()
        with upgraded(parent.client()) as connection:
            assert json.loads(connection.recv(TIMEOUT))["event"] == "session.welcome"


def test_what_is_open_stays_when_no_more_come(shell: Shell) -> None:
    with serving(shell) as parent:
        with upgraded(parent.client()) as connection:
            connection.recv(TIMEOUT)
            parent.near.shutdown(socket.SHUT_WR)
            assert connection.ping().wait(TIMEOUT)


def test_one_that_came_without_its_descriptor_is_lost_and_the_next_is_served(
    shell: Shell, caplog: pytest.LogCaptureFixture
) -> None:
    """As the kernel delivers it to a process that has no descriptor left."""
    with caplog.at_level(logging.ERROR), serving(shell) as parent:
        parent.near.send(b"c")
        with upgraded(parent.client()) as connection:
            connection.recv(TIMEOUT)
    assert caplog.messages == ["cannot accept connections now"]


def test_without_a_descriptor_left_they_wait_and_none_is_lost(
    shell: Shell, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And it is said once, not with each attempt."""
    tries = threading.Semaphore(0)
    accept = Handover.accept

    def counted(handover: Handover) -> tuple[socket.socket, object]:
        tries.release()
        return accept(handover)

    monkeypatch.setattr(Handover, "accept", counted)
    monkeypatch.setattr("roomwire.transports.anyio.accepting._EXHAUSTED_PAUSE", 0.001)
    with caplog.at_level(logging.ERROR), serving(shell) as parent:
        clients = [parent.connected() for _ in range(3)]
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        lowest_free = os.dup(parent.near.fileno())
        os.close(lowest_free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
        try:
            for _, ours in clients:
                parent.hand(ours)
            for _ in range(3):
                assert tries.acquire(timeout=TIMEOUT)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for theirs, _ in clients:
            with upgraded(theirs) as connection:
                assert json.loads(connection.recv(TIMEOUT))["event"] == "session.welcome"
    assert caplog.messages == ["cannot accept connections now"]


def test_who_takes_no_more_says_so(shell: Shell) -> None:
    """The other process has our end as well, so that to close it alone would say nothing."""
    with serving(shell) as parent:
        parent.drain()
        assert parent.near.recv(16) == b""
