"""Serves the chat of the server's tests in a process of its own: for signals, inherited sockets and service managers.

    python -m tests.tools.serve_chat asyncio '{"server": {"port": 0}}'

Prints the addresses as one line when it accepts connections. With ``--listen-fds N`` it presents descriptor N as
systemd would. Lifespan and hooks say what they do on stdout.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from roomwire import App
from roomwire.config import Settings
from roomwire.core.errors import ConfigError
from roomwire.serving import serve
from tests.server.chat import make_app
from tests.server.live import SECRET


def _say(*words: str) -> None:
    print(*words, flush=True)


def _app(slow_start: bool) -> App:
    app = make_app()

    @asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[None]:
        if slow_start:
            _say("starting")
            await anyio.to_thread.run_sync(sys.stdin.readline)
        try:
            yield
        finally:
            _say("lifespan ended")

    app.lifespan = lifespan
    return app


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("backend", choices=["asyncio", "uvloop", "trio"])
    parser.add_argument("settings", type=json.loads)
    parser.add_argument("--listen-fds", type=int)
    parser.add_argument("--slow-start", action="store_true")
    given = parser.parse_args()
    if given.listen_fds is not None:
        os.dup2(given.listen_fds, 3)
        os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
    auth = {"type": "jwt", "options": {"algorithms": ["HS256"], "secret": SECRET}}
    settings = Settings.model_validate({"auth": auth, **given.settings})
    backend = "trio" if given.backend == "trio" else "asyncio"
    options = {} if backend == "trio" else {"use_uvloop": given.backend == "uvloop"}

    async def run() -> None:
        await serve(_app(given.slow_start), settings, on_ready=lambda addresses: _say(*addresses))

    try:
        anyio.run(run, backend=backend, backend_options=options)
    except ConfigError as error:
        sys.exit(f"ConfigError: {error}")
    _say("served")


if __name__ == "__main__":
    main()
