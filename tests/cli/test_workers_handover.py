"""Connections that another process accepted, served by a node on every shell, with TLS and without."""

from __future__ import annotations

import json
import logging
import socket
import ssl
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anyio.from_thread
import pytest
import trustme
from websockets.sync.client import ClientConnection, connect

from tests.server.chat import make_app
from tests.server.live import SHELLS, TIMEOUT, Shell, make_node, make_token


class Parent:
    """The other process's end: hands over one end of a pair, and keeps the other as the client's."""

    def __init__(self, near: socket.socket) -> None:
        self.near = near
        self.near.settimeout(TIMEOUT)

    def client(self) -> socket.socket:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            theirs = socket.create_connection(listener.getsockname(), timeout=TIMEOUT)
            ours, _ = listener.accept()
        socket.send_fds(self.near, [b"c"], [ours.fileno()])
        ours.close()
        return theirs

    def report(self) -> tuple[int, int]:
        """The next one: taken, open."""
        taken, now_open = struct.unpack("!QQ", self.near.recv(16))
        return taken, now_open


@contextmanager
def serving(shell: Shell, context: ssl.SSLContext | None = None) -> Iterator[Parent]:
    near, far = socket.socketpair()
    node = make_node(make_app(), shell, listen={"handover": far.detach(), "ssl": context})

    async def start(*, task_status: anyio.abc.TaskStatus[None]) -> None:
        await node.serve(ready=lambda addresses: task_status.started())

    with near, anyio.from_thread.start_blocking_portal(shell.backend, dict(shell.backend_options)) as portal:
        served, _ = portal.start_task(start)
        yield Parent(near)
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
