"""The server under test: the user's application on a free port, in a thread of its own.

Its event loop is not the test's: a test without async needs none, one on trio or asyncio has its own, and a
handler that blocks holds up no deadline.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.abc

from roomwire.app import App
from roomwire.config import AuthSettings, Loaded, Settings, load
from roomwire.core.errors import LocalError
from roomwire.node.node import Node
from roomwire.node.scope import Scope
from roomwire.serving import build_node
from roomwire.testing._thread import ServerThread
from roomwire.testing._transcript import Transcript

__all__ = ["Server", "TokenMaker", "configured", "running_server"]

__tracebackhide__ = True  # pytest shows the test's own line

_T = TypeVar("_T")
_START = 30.0
"""Seconds that a server has to start: its application's lifespan may have something to do."""
_END = 10.0
"""Seconds that a server has to end."""
_POLL = 0.002
_HASTE = {"drain_timeout": 3.0, "reconnect_spread": 0.0}


class Server:
    """A running server.

    Attributes:
        node: the node; it belongs to the server's thread, reach it by `call`.
        app: the application.
        settings: what the node was made of.
        port: on 127.0.0.1.
        url: of the WebSocket.
        http_url: of the server's root, without a slash at the end.
    """

    def __init__(self, node: Node, settings: Settings, port: int, thread: ServerThread, timeout: float) -> None:
        self.node = node
        self.app: App = node.app
        self.settings = settings
        self.port = port
        self.path = settings.server.path
        self.url = f"ws://127.0.0.1:{port}{self.path}"
        self.http_url = f"http://127.0.0.1:{port}"
        self._thread = thread
        self._timeout = timeout

    def __repr__(self) -> str:
        return f"<Server {self.url}>"

    def call(self, function: Callable[..., Awaitable[_T]], *arguments: Any, **options: Any) -> _T:
        """Call an async function of the application's in the server's loop, as a handler would, and wait for it.

        ``server.call(app.publish, "chat:general", "told", {"text": "hi"})``. In an async test it holds the test's loop
        up for so long; the server's goes on.

        Raises:
            LocalError: it took longer than the ``roomwire_timeout``, and was cancelled.
        """

        async def run() -> _T:
            with Scope(self.node):
                return await function(*arguments, **options)

        name = getattr(function, "__qualname__", repr(function))
        return self._thread.call(run, self._timeout, f"{name} did not return")

    def forget(self, sessions: Collection[str]) -> None:
        """Wait until the server has noticed that these connections ended: the next test meets nobody of this one.

        Args:
            sessions: their ``session``, as the welcome has it.
        """

        async def gone() -> None:
            while not self.node.connections.keys().isdisjoint(sessions):  # noqa: ASYNC110  a node tells nobody of an end
                await anyio.sleep(_POLL)

        self._thread.call(gone, self._timeout, "the server did not notice that connections ended")


@contextmanager
def running_server(app: App, settings: Settings, transcript: Transcript, timeout: float = 5.0) -> Iterator[Server]:
    """Serve until the end of the block; what makes the node fail is raised there.

    Args:
        app: the application.
        settings: such as those of `configured`.
        transcript: what the server logs goes there too.
        timeout: seconds that a `Server.call` may take.

    Raises:
        LocalError: the server did not start within 30 seconds, or did not end within 10.
    """
    node = build_node(app, settings)
    addresses: Future[Sequence[str]] = Future()

    async def serve() -> None:
        try:
            await node.serve(ready=addresses.set_result)
        except BaseException as error:
            if not addresses.done():
                addresses.set_exception(error)
            raise

    transcript.listen()
    thread = ServerThread()
    try:
        ended = thread.start(serve)
        found = thread.result(addresses, _START, "the server did not start")
        try:
            yield Server(node, settings, int(found[0].rpartition(":")[2]), thread, timeout)
        finally:
            if not ended.done():
                drained = thread.start(node.drain.run)
                thread.result(drained, _END, "the server did not drain")
            thread.result(ended, _END, "the server did not end")
    finally:
        transcript.ignore()
        thread.end(_END)


def configured(config: Path | None, *, environ: Mapping[str, str], cwd: Path) -> Loaded:
    """The user's configuration, as a test's server has it.

    It listens on a free port of 127.0.0.1 without TLS, as one process, has the memory backplane, and ends soon. Tokens
    are verified by a secret of its own in place of the configured keys; what they have to claim stays.

    Args:
        config: the configuration file; None for the defaults.
        environ: the environment, for the ``env:`` references of the file.
        cwd: the working directory.

    Raises:
        ConfigError: the file cannot be read, or is wrong.
    """
    secret = secrets.token_urlsafe(48)
    loaded = Loaded(Settings(), None)
    if config is not None:
        # Of the variables that production sets, and that nobody needs here.
        keys = ("ssl_certfile", "ssl_keyfile", "ssl_keyfile_password", "host")
        unset = {f"server.{key}": "127.0.0.1" for key in keys} | {"server.port": "0"}
        unset |= {f"auth.options.{key}": secret for key in ("secret", "public_key", "jwks_url")}
        loaded = load(
            config,
            environ=environ,
            cwd=cwd,
            overrides={"server.workers": 1},
            fallbacks=unset,
            without=("backplane", "metrics", "api"),
        )
    settings = loaded.settings
    nowhere = {"uds": None, "fd": None, "ssl_certfile": None, "ssl_keyfile": None, "ssl_keyfile_password": None}
    server = settings.server.model_copy(
        update={"transport": "anyio", "host": "127.0.0.1", "port": 0, "workers": 1, **nowhere, **_HASTE}
    )
    return replace(
        loaded, settings=settings.model_copy(update={"server": server, "auth": _with_secret(settings.auth, secret)})
    )


def _with_secret(auth: AuthSettings, secret: str) -> AuthSettings:
    if auth.type != "jwt":
        return auth
    kept = {name: value for name, value in auth.options.items() if not name.startswith(("jwks_", "public_key"))}
    return auth.model_copy(update={"options": {**kept, "algorithms": ["HS256"], "secret": secret}})


class TokenMaker:
    """Makes tokens for the server under test: ``token("ann", role="admin")``.

    Args:
        settings: the server's.
        transcript: it is told of every token, so that none is shown.
    """

    def __init__(self, settings: Settings, transcript: Transcript) -> None:
        self._auth = settings.auth
        self._transcript = transcript

    def __call__(self, user: str, *, expires_in: float = 3600.0, **claims: object) -> str:
        """A token that the server accepts.

        Args:
            user: the user's id.
            expires_in: seconds.
            claims: further claims.

        Raises:
            LocalError: the server's authenticator takes other tokens than JWTs.
        """
        return self._issued(self._auth.options, user, expires_in, claims)

    def expired(self, user: str, **claims: object) -> str:
        """A token that was good until a minute ago."""
        return self._issued(self._auth.options, user, -60.0, claims)

    def forged(self, user: str, **claims: object) -> str:
        """A token that somebody signed who does not know the secret."""
        return self._issued({**self._auth.options, "secret": secrets.token_urlsafe(48)}, user, 3600.0, claims)

    def _issued(self, options: dict[str, Any], user: str, expires_in: float, claims: dict[str, object]) -> str:
        if self._auth.type != "jwt":
            raise LocalError(
                f'auth.type = "{self._auth.type}" takes no JWTs: override the fixture `token` with a function'
                " (user, **claims) -> str that makes what it takes"
            )
        from roomwire.auth.jwt import JwtOptions, issue

        token = issue(JwtOptions.model_validate(options), user, ttl=expires_in, claims=claims)
        self._transcript.hide(token)
        return token
