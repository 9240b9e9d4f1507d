"""How the generator talks to a roomwire server that runs `roomwire.bench.app`."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from importlib.resources import files

from roomwire.bench.target import Expect, Send, Target
from roomwire.core.errors import LocalError

__all__ = ["APP", "CONFIG", "ECHO", "ECHO_WITHOUT_ID", "SAY", "SECRET_VARIABLE", "native_target", "user_of"]

APP = "roomwire.bench.app:app"
CONFIG = str(files("roomwire.bench").joinpath("roomwire.toml"))
SECRET_VARIABLE = "ROOMWIRE_BENCH_SECRET"  # noqa: S105  its name

_DATA = '"room":"bench:room","data":{"content":"@@$stamp$pad"}}'
SAY = '{"event":"say",' + _DATA
"""Published to all members; without an ``id`` there is no ack."""
ECHO = '{"event":"echo","id":"$stamp",' + _DATA
"""Answered by an ack, and remembered for a second copy."""
ECHO_WITHOUT_ID = '{"event":"whisper",' + _DATA
"""Answered by an event to the sender alone, since a message without ``id`` has no ack."""


def user_of(index: int) -> str:
    """The user of a connection."""
    return f"user-{index}"


def native_target(
    host: str,
    port: int,
    path: str,
    *,
    message: str,
    tokens: Sequence[str] = (),
    room: str | None = None,
    tls: ssl.SSLContext | None = None,
    pids: tuple[int, ...] = (),
) -> Target:
    """A roomwire server: each connection has its own token and client id, and is ready with its welcome.

    Args:
        host: name or address.
        port: TCP port.
        path: of the WebSocket endpoint.
        message: a template; its stamp stands behind ``@@``.
        tokens: one for each connection; none where the server takes anonymous users.
        room: join this one too, since the application does not put clients into it.
        tls: how to verify the server, for ``wss``.
        pids: the server's processes.
    """
    if "@@$stamp" not in message:
        raise LocalError(f"{message!r}: expected @@$stamp in it, by which a delivery is known")
    query = "?client=client-$index" + ("&token=$token" if tokens else "")
    steps: tuple[Send | Expect, ...] = (Expect('"session.welcome"'),)
    if room is not None:
        if not room.isascii() or not room.replace(":", "").replace("-", "").replace("_", "").isalnum():
            raise LocalError(f"{room!r}: expected a room's name of letters, digits and :-_")
        steps += (Send(f'{{"event":"room.join","room":"{room}","id":"bench-join"}}'), Expect('"ack"'))
    return Target(
        host=host, port=port, path=path + query, message=message, steps=steps, tokens=tokens, tls=tls, pids=pids
    )
