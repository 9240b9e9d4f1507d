"""``roomwire bench``: measure a server, one of ours that is started for it or one that runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from roomwire.bench.figures import Figures
from roomwire.bench.framing import Framing, measure_framing
from roomwire.bench.load import Connect, Echo, Fanout, Idle, Workload
from roomwire.bench.native import ECHO, ECHO_WITHOUT_ID, SAY
from roomwire.cli._bench import Place, run_workload
from roomwire.cli._options import as_json, config_options
from roomwire.cli._output import print_json, print_table
from roomwire.cli._progress import progress

__all__ = ["command"]

Command = TypeVar("Command", bound=Callable[..., Any])

_COUNT = click.IntRange(min=1)
_SECONDS = click.FloatRange(min=0, min_open=True)

_PLACE_OPTIONS = (
    click.option("-n", "--connections", type=_COUNT, default=1000, show_default=True, help="Connections to open."),
    click.option("--concurrency", type=_COUNT, default=64, show_default=True, help="Handshakes at one time."),
    click.option("--url", help="Measure this running server, ws://HOST:PORT/PATH, in place of one of our own."),
    click.option("--pid", "pids", type=_COUNT, multiple=True, help="Its process, for CPU and memory; may be repeated."),
    click.option(
        "--tokens",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        metavar="FILE",
        help="A token for each connection, one a line, beginning anew at the end.",
    ),
    click.option("--room", help="Join this room too."),
)

_FLOW_OPTIONS = (
    click.option("--size", type=_COUNT, default=128, show_default=True, help="Bytes of a message to the server."),
    click.option("--seconds", type=_SECONDS, default=3.0, show_default=True, help="How long to measure."),
    click.option(
        "--warmup", type=click.FloatRange(min=0), default=0.5, show_default=True, help="Seconds before, not counted."
    ),
    click.option("--messages", type=_COUNT, help="Send just so many, and count them all."),
    click.option("--message", metavar="TEMPLATE", help="What to send; @@$stamp must be in it, $pad fills it up."),
)


def _options(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def _workload_options(command: Command) -> Command:
    return _options(*_PLACE_OPTIONS)(config_options(as_json(command)))


@click.group("bench")
def command() -> None:
    """Measure a server: what a delivery, an echo, a handshake and a connection cost it.

    A server process is started for it on 127.0.0.1, with an application that has a token for each user,
    messages that are validated, and a history; and ended afterwards. --config takes your settings for it,
    the limits among them. --url measures one that runs `roomwire run roomwire.bench.app:app`, or any
    other with --message.

    CPU and memory of the server are read from /proc, hence on Linux alone.
    """


@command.command("framing")
@click.option("--seconds", type=_SECONDS, default=3.0, show_default=True, help="For all of it.")
@as_json
def framing(*, seconds: float, as_json: bool) -> None:
    """Read and write frames, without a server and a socket."""
    with progress() as report:
        found = list(measure_framing(seconds, report))
    if as_json:
        print_json([{"what": row.what, "bytes": row.size, "us_per_frame": row.seconds * 1e6} for row in found])
    else:
        print_table([_framing_row(row) for row in found], ("FRAME", "BYTES", "MICROSECONDS", "A SECOND"))


def _framing_row(row: Framing) -> tuple[str, str, str, str]:
    return row.what, f"{row.size:,}", f"{row.seconds * 1e6:.2f}", f"{1 / row.seconds:,.0f}"


@command.command("fanout")
@click.option("--window", type=_COUNT, default=1, show_default=True, help="Messages outstanding.")
@click.option("--rate", type=_SECONDS, help="Messages a second in place of a window.")
@_options(*_FLOW_OPTIONS)
@_workload_options
def fanout(*, window: int, rate: float | None, as_json: bool, message: str | None, **options: Any) -> None:
    """One connection publishes to a room, and all get it."""
    flow = _flow(options)
    workload = Fanout(**flow, window=window, rate=rate)
    pace = f"{window:,} outstanding" if rate is None else f"{rate:g} messages a second"
    title = f"fan-out to {workload.connections:,} connections, {workload.size:,} bytes, {pace}"
    _run(title, workload, options, message or SAY, as_json=as_json)


@command.command("echo")
@click.option("--pipeline", type=_COUNT, default=1, show_default=True, help="Messages of a connection outstanding.")
@click.option("--no-id", is_flag=True, help="Messages without an id: the reply is an event, and nothing remembers it.")
@_options(*_FLOW_OPTIONS)
@_workload_options
def echo(*, pipeline: int, no_id: bool, as_json: bool, message: str | None, **options: Any) -> None:
    """Each connection sends a message and gets its reply."""
    workload = Echo(**_flow(options), pipeline=pipeline)
    kind = "without id" if no_id else "with id and ack"
    title = f"echo on {workload.connections:,} connections, {workload.size:,} bytes, {pipeline:,} outstanding, {kind}"
    _run(title, workload, options, message or (ECHO_WITHOUT_ID if no_id else ECHO), as_json=as_json)


@command.command("connect")
@_workload_options
def connect(*, as_json: bool, **options: Any) -> None:
    """Open connections, token and welcome included."""
    workload = Connect(connections=options.pop("connections"), concurrency=options.pop("concurrency"))
    title = f"{workload.connections:,} handshakes, {workload.concurrency:,} at a time"
    _run(title, workload, options, SAY, as_json=as_json)


@command.command("idle")
@click.option("--hold", type=_SECONDS, default=2.0, show_default=True, help="Seconds for which nothing is sent.")
@_workload_options
def idle(*, hold: float, as_json: bool, **options: Any) -> None:
    """Hold connections, and see what memory each takes."""
    workload = Idle(connections=options.pop("connections"), concurrency=options.pop("concurrency"), hold=hold)
    _run(f"{workload.connections:,} idle connections", workload, options, SAY, as_json=as_json)


def _flow(options: dict[str, Any]) -> dict[str, Any]:
    names = ("connections", "concurrency", "size", "seconds", "warmup", "messages")
    return {name: options.pop(name) for name in names}


def _run(title: str, workload: Workload, options: dict[str, Any], message: str, *, as_json: bool) -> None:
    with progress() as report:
        figures = run_workload(workload, Place(**options), message, report)
    if as_json:
        print_json({"workload": title, **figures.as_json()})
    else:
        click.secho(title, bold=True)
        print_table(list(_rows(figures)), ("FIGURE", "VALUE"))


def _rows(figures: Figures) -> list[tuple[str, str]]:
    opened, traffic = figures.opened, figures.traffic
    rows = []
    if traffic is not None:
        rows += [
            ("messages", f"{traffic.messages:,}"),
            ("deliveries", f"{traffic.deliveries:,}"),
            ("deliveries a second", f"{traffic.deliveries / traffic.seconds:,.0f}"),
            ("server CPU for a delivery", _told(figures.delivery_us, "µs")),
            ("latency, median", _told(traffic.p50 * 1e6, "µs")),
            ("latency, 99th percentile", _told(traffic.p99 * 1e6, "µs")),
            ("server busy", _busy(traffic.cpu, traffic.seconds)),
            ("generator busy", _busy(traffic.own_cpu, traffic.seconds)),
        ]
    return [
        *rows,
        ("connections", f"{opened.connections:,}"),
        ("connections a second", f"{opened.connections / opened.seconds:,.0f}"),
        ("server CPU for a connection", _told(figures.accept_us, "µs")),
        ("server memory for a connection", _told(figures.memory_kib, "KiB")),
    ]


def _told(value: float | None, unit: str) -> str:
    return "not known" if value is None else f"{value:,.1f} {unit}"


def _busy(cpu: float | None, seconds: float) -> str:
    return "not known" if cpu is None else f"{cpu / seconds:.0%}"
