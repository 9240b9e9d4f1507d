"""The dashboard example as a process: under uvicorn, or on raw sockets with FastAPI behind the node."""

from __future__ import annotations

import http.client
import json
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jwt

from tests.servers import Server, Tool

__all__ = ["ROOM", "Dashboard", "copied", "token_of"]

EXAMPLE = Path(__file__).parents[2] / "examples" / "dashboard"
ROOM = "metrics:live"
SECRET = "a secret of the dashboard's tests, long enough"


def copied(directory: Path) -> Path:
    """The example in a folder of its own, with a secret, and more connections for each user."""
    shutil.copytree(EXAMPLE, directory, ignore=shutil.ignore_patterns("__pycache__"))
    (directory / ".env").write_text(
        f'DASHBOARD_SECRET="{SECRET}"\nDASHBOARD_DEMO=1\nROOMWIRE_LIMITS__CONNECTIONS_PER_USER=1000\n'
        "ROOMWIRE_LIMITS__MAX_PENDING_PER_IP=1000\n"
    )
    return directory


def token_of(user: str) -> str:
    return jwt.encode({"sub": user, "exp": time.time() + 3600}, SECRET, "HS256")


class Dashboard(Server):
    """One process of it.

    Args:
        directory: from `copied`.
        raw: whether `roomwire run` serves it; else uvicorn does.
        environment: variables that are put before the command.
    """

    tool = Tool("env", ("env",), "every system has it")
    scheme = "http"

    def __init__(self, directory: Path, *, raw: bool, environment: Sequence[str] = ()) -> None:
        super().__init__(directory)
        self._raw = raw
        self._environment = environment

    def command(self, port: int) -> Sequence[str]:
        # Five hundred clients on one loop may take their time to ask.
        patient = "ROOMWIRE_LIMITS__HANDSHAKE_TIMEOUT=60"
        here = (f"--chdir={self.directory}", patient, *self._environment, sys.executable, "-m")
        if self._raw:
            return (*here, "roomwire.cli", "run", "--port", str(port), "--log-level", "warning")
        return (
            *here,
            "uvicorn",
            "main:api",
            "--port",
            str(port),
            "--ws",
            "websockets-sansio",
            "--log-level",
            "warning",
        )

    def answers(self, port: int, pid: int) -> bool:
        return self.ask("GET", "/healthz", port=port)[0] == 200

    def ask(
        self, method: str, path: str, body: object = None, user: str | None = None, *, port: int | None = None
    ) -> tuple[int, Any]:
        """A request and its answer, decoded."""
        connection = http.client.HTTPConnection("127.0.0.1", port or self.port, timeout=20)
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token_of(user)}"} if user else {})
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            text = response.read()
            return response.status, json.loads(text) if text else None
        finally:
            connection.close()
