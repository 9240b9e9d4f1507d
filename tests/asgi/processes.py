"""Hosts as their command lines start them, each in a folder of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import websockets.sync.client
from websockets.exceptions import InvalidHandshake
from websockets.typing import Subprotocol

from tests.server.live import SECRET, TIMEOUT, Client, make_token

__all__ = ["COMMANDS", "HostProcess"]

ROOT = Path(__file__).parents[2]
CONFIG = f"""
app = "tests.asgi.serving:app"

[auth]
type = "jwt"

[auth.options]
algorithms = ["HS256"]
secret = "{SECRET}"
"""

_UVICORN = "uvicorn tests.asgi.serving:app.asgi --port PORT --log-level debug --ws"
# Hosts write of a connection what they are told to: here all that could hold a token.
_HYPERCORN = (
    "hypercorn tests.asgi.serving:app.asgi --bind 127.0.0.1:PORT --graceful-timeout 1 --access-logfile -"
    " --access-logformat %(R)s~%({authorization}i)s~%({sec-websocket-protocol}i)s"
)
COMMANDS = {
    "uvicorn-sansio": f"{_UVICORN} websockets-sansio",
    "uvicorn-wsproto": f"{_UVICORN} wsproto",
    "hypercorn": f"{_HYPERCORN} --workers 0",
    "hypercorn-worker": _HYPERCORN,
    "hypercorn-trio": f"{_HYPERCORN} --workers 0 --worker-class trio",
    "granian": (
        "granian tests.asgi.serving:app.asgi --interface asgi --port PORT --access-log"
        " --access-log-fmt %(path)s?%(query_string)s~%(header{authorization})s~%(header{sec-websocket-protocol})s"
    ),
}


START = 90.0
"""Seconds until a host has to serve, of which several start at once; reached only where a test fails."""


class HostProcess:
    """One host.

    Args:
        name: of `COMMANDS`.
        folder: its own.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.folder = folder
        self._output = folder / "output"
        (folder / "roomwire.toml").write_text(CONFIG)
        self._held = socket.socket()
        # Not all of them take a socket of ours. As they set one of these options or both, they can have the port, and
        # nobody else meanwhile: no server, and no client, which would be connected to itself.
        self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._held.bind(("127.0.0.1", 0))
        self.port: int = self._held.getsockname()[1]
        program, *arguments = COMMANDS[name].replace("PORT", str(self.port)).split()
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", program, *arguments],
                cwd=folder,
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")]),
                    "PYTHONUNBUFFERED": "1",
                },
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self.tokens: list[str] = []

    def connect(self, user: str, way: str = "header", token: str | None = None) -> Client:
        """A client whose token goes one of the three ways."""
        if token is None:
            token = make_token(user)
            self.tokens.append(token)
        subprotocols = [Subprotocol("roomwire.v1")]
        options: dict[str, Any] = {}
        query = ""
        if way == "header":
            options["additional_headers"] = {"Authorization": f"Bearer {token}"}
        elif way == "query":
            query = f"?token={token}"
        else:
            subprotocols.append(Subprotocol(f"bearer.{token}"))
        connecting = websockets.sync.client.connect(
            f"ws://127.0.0.1:{self.port}/ws{query}",
            subprotocols=subprotocols,
            proxy=None,
            open_timeout=TIMEOUT,
            close_timeout=TIMEOUT,
            **options,
        )
        return Client(connecting.__enter__())

    def wait_until_it_serves(self) -> None:
        deadline = time.monotonic() + START
        while True:
            try:
                self.connect("early", token="none")
            except InvalidHandshake:
                return
            except OSError:
                assert self.process.poll() is None, self.output
                assert time.monotonic() < deadline, self.output
                time.sleep(0.05)

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def release(self) -> None:
        (self.folder / "release").touch()

    @property
    def output(self) -> str:
        return self._output.read_text()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.close()
        self.release()
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(TIMEOUT)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()
