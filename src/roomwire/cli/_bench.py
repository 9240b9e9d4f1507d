"""Where `roomwire bench` measures: a server of its own, or one that runs."""

from __future__ import annotations

import os
import signal
import ssl
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from roomwire.bench.figures import Figures
from roomwire.bench.load import Report, Workload, measure, run_loop
from roomwire.bench.native import APP, CONFIG, SECRET_VARIABLE, native_target, user_of
from roomwire.bench.processes import allow_open_files
from roomwire.bench.server import ServerProcess
from roomwire.bench.target import BenchFailed, Target
from roomwire.cli._demo import fresh_secret, token_maker
from roomwire.cli._options import load_config, warn
from roomwire.client.endpoint import Endpoint
from roomwire.config import Loaded
from roomwire.core.errors import ConfigError

__all__ = ["Place", "run_workload"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where to measure, from the options.

    Attributes:
        url: a running server; None to start one.
        pids: its processes.
        tokens: a file with one token a line.
        room: a room to join.
        config: the settings of a server of our own; None for those that lift the limits.
        env_file: variables for it.
    """

    url: str | None
    pids: tuple[int, ...]
    tokens: Path | None
    room: str | None
    config: Path | None
    env_file: Path | None


def run_workload(workload: Workload, place: Place, message: str, report: Report) -> Figures:
    """Run a workload at a place; what was started for it is ended, whatever happens.

    Raises:
        BenchFailed: nothing could be measured.
        LocalError: an option, a template or the configuration is wrong.
    """
    # Before a server is started, which inherits it.
    allow_open_files(workload.connections)
    if place.url is not None:
        return run_loop(measure(_running(place, message), workload, report))
    with _terminating_like_interrupting(), _server(place) as (server, loaded):
        settings = loaded.settings
        target = native_target(
            server.host,
            server.port,
            settings.server.path,
            message=message,
            tokens=_tokens(place, loaded, workload.connections),
            room=place.room,
            tls=None if settings.server.ssl_certfile is None else _trusting(),
            pids=(server.pid,),
        )
        try:
            return run_loop(measure(target, workload, report))
        except BenchFailed as error:
            raise server.explain(error) from error


def _running(place: Place, message: str) -> Target:
    endpoint = Endpoint.parse(str(place.url))
    if "?" in endpoint.target:
        raise ConfigError("--url: leave out the query; tokens come from --tokens")
    return native_target(
        endpoint.host,
        endpoint.port,
        endpoint.target,
        message=message,
        tokens=_read_tokens(place.tokens) if place.tokens is not None else (),
        room=place.room,
        tls=ssl.create_default_context() if endpoint.tls else None,
        pids=place.pids,
    )


@contextmanager
def _server(place: Place) -> Iterator[tuple[ServerProcess, Loaded]]:
    if place.pids:
        raise ConfigError("--pid names the process of a server at --url; one of our own needs none")
    config, quiet = place.config, []
    if config is None:
        config, quiet = Path(CONFIG), ["--log-level", "warning"]
        os.environ[SECRET_VARIABLE] = fresh_secret()
    loaded = load_config(config, place.env_file, {"app": APP})
    warn(loaded)
    arguments = ["run", APP, "--fd", "{fd}", "--config", str(config), *quiet]
    if place.env_file is not None:
        arguments += ["--env-file", str(place.env_file)]
    with ServerProcess([sys.executable, "-m", "roomwire.cli._child", "{lifeline}", *arguments]) as server:
        yield server, loaded


def _tokens(place: Place, loaded: Loaded, connections: int) -> list[str]:
    if place.tokens is not None:
        return _read_tokens(place.tokens)
    if loaded.settings.auth.type == "anonymous":
        return []
    make = token_maker(loaded.settings)
    if make is None:
        raise ConfigError("the configuration is not enough to make tokens with; give them by --tokens FILE")
    return [make(user_of(index)) for index in range(connections)]


def _read_tokens(file: Path) -> list[str]:
    tokens = file.read_text().split()
    if not tokens:
        raise ConfigError(f"--tokens: {file} is empty")
    return tokens


def _trusting() -> ssl.SSLContext:
    """For a process of our own, on loopback, whatever its certificate names."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@contextmanager
def _terminating_like_interrupting() -> Iterator[None]:
    """SIGTERM takes the way of Ctrl-C, so that it leaves no server behind."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        signal.raise_signal(signal.SIGINT)

    before: Callable[[int, FrameType | None], object] | int | None = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
