"""``roomwire bench``: real servers, counts and shapes; what is measured is nobody's assertion."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from tests.cli.conftest import SECRET, Process, Project, running
from tests.guards import leaked_children

OPENED = {
    "connections", "connect_seconds", "connects_per_second",
    "server_cpu_us_per_accept", "server_memory_kib_per_connection",
}  # fmt: skip
TRAFFIC = {
    "messages", "deliveries", "seconds", "deliveries_per_second", "server_cpu_us_per_delivery",
    "server_load", "generator_load", "latency_p50_us", "latency_p99_us",
}  # fmt: skip


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    before = leaked_children().keys()
    yield
    assert leaked_children().keys() - before == set()


def figures(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


class TestWorkloads:
    @pytest.mark.parametrize("pace", [["--window", "1"], ["--window", "3"], ["--rate", "1000"]], ids=" ".join)
    def test_fanout(self, project: Project, pace: list[str]) -> None:
        found = figures(project.call("bench", "fanout", "-n", "3", "--messages", "5", *pace, "--json"))
        assert found.keys() == {"workload"} | OPENED | TRAFFIC
        assert (found["connections"], found["messages"], found["deliveries"]) == (3, 5, 15)
        assert found["server_memory_kib_per_connection"] is not None

    def test_in_another_room(self, project: Project) -> None:
        message = '{"event":"say","room":"bench:other","data":{"content":"@@$stamp"}}'
        arguments = ["-n", "3", "--messages", "2", "--room", "bench:other", "--message", message, "--json"]
        assert figures(project.call("bench", "fanout", *arguments))["deliveries"] == 6

    @pytest.mark.parametrize("more", [[], ["--no-id"], ["--pipeline", "2", "--size", "2000"]], ids=" ".join)
    def test_echo(self, project: Project, more: list[str]) -> None:
        found = figures(project.call("bench", "echo", "-n", "3", "--messages", "12", *more, "--json"))
        assert found.keys() == {"workload"} | OPENED | TRAFFIC
        assert (found["connections"], found["messages"], found["deliveries"]) == (3, 12, 12)

    def test_connect(self, project: Project) -> None:
        found = figures(project.call("bench", "connect", "-n", "5", "--concurrency", "2", "--json"))
        assert found.keys() == {"workload"} | OPENED
        assert (found["workload"], found["connections"]) == ("5 handshakes, 2 at a time", 5)

    def test_idle(self, project: Project) -> None:
        found = figures(project.call("bench", "idle", "-n", "5", "--hold", "0.1", "--json"))
        assert found.keys() == {"workload"} | OPENED

    def test_framing(self, project: Project) -> None:
        result = project.call("bench", "framing", "--seconds", "0.01", "--json")
        rows = json.loads(result.stdout)
        assert {row["what"] for row in rows} == {"read", "read in pieces", "write"}
        assert all(row["us_per_frame"] > 0 for row in rows)

    def test_for_a_time(self, project: Project) -> None:
        found = figures(project.call("bench", "fanout", "-n", "2", "--seconds", "0.2", "--warmup", "0.1", "--json"))
        assert found["deliveries"] > 0


class TestForPeople:
    def test_a_table_on_stdout_and_the_progress_on_stderr(self, project: Project) -> None:
        result = project.call("bench", "fanout", "-n", "3", "--messages", "2")
        title, heading, *rows = result.stdout.splitlines()
        assert title == "fan-out to 3 connections, 128 bytes, 1 outstanding"
        assert heading.split() == ["FIGURE", "VALUE"]
        assert ["deliveries", "6"] in [row.split() for row in rows]
        assert result.stderr.splitlines() == ["waiting for the server", "opening 3 connections", "measuring"]

    def test_framing(self, project: Project) -> None:
        heading, *rows = project.call("bench", "framing", "--seconds", "0.01").stdout.splitlines()
        assert heading.split() == ["FRAME", "BYTES", "MICROSECONDS", "A", "SECOND"]
        assert len(rows) == 12

    @pytest.mark.parametrize("colour", [True, False])
    def test_a_bar_where_somebody_looks(self, project: Project, colour: bool) -> None:
        environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
        environment |= {"TERM": "xterm-256color", "COLUMNS": "80"} | ({} if colour else {"NO_COLOR": "1"})
        terminal, screen = pty.openpty()
        with os.fdopen(terminal, "rb", buffering=0) as reader:
            try:
                done = subprocess.run(
                    [sys.executable, "-m", "roomwire.cli", "bench", "framing", "--seconds", "0.01"],
                    env=environment,
                    stdout=subprocess.DEVNULL,
                    stderr=screen,
                    check=False,
                    timeout=50,
                )
                shown = reader.read(65_536)
            finally:
                os.close(screen)
        assert done.returncode == 0
        assert b"measuring" in shown
        assert "━".encode() in shown
        assert (re.search(rb"\x1b\[[0-9;]*3[0-9;]*m", shown) is not None) is colour


class TestItsServer:
    def test_settings_of_a_configuration_hold(self, project: Project) -> None:
        project.configure("[limits]\nmax_connections = 2\n")
        result = project.call("bench", "connect", "-n", "5", "--config", "roomwire.toml")
        assert result.exit_code == 1
        assert "the upgrade was refused: HTTP/1.1 503" in result.stderr
        assert "Traceback" not in result.output

    def test_tokens_are_made_by_a_configuration(self, project: Project) -> None:
        found = figures(
            project.call("bench", "echo", "-n", "2", "--messages", "2", "--config", "roomwire.toml", "--json")
        )
        assert found["deliveries"] == 2

    def test_anonymous_users_need_none(self, project: Project) -> None:
        project.write("roomwire.toml", '[auth]\ntype = "anonymous"\n')
        found = figures(project.call("bench", "connect", "-n", "2", "--config", "roomwire.toml", "--json"))
        assert found["connections"] == 2

    def test_a_configuration_that_makes_no_tokens(self, project: Project) -> None:
        project.write(
            "roomwire.toml",
            '[auth.options]\nalgorithms = ["HS256"]\nsecret = "env:CHAT_SECRET"\nrequired_claims = ["tenant"]\n',
        )
        result = project.call("bench", "connect", "-n", "2", "--config", "roomwire.toml")
        assert result.exit_code == 2
        assert result.stderr.splitlines()[-1].endswith("give them by --tokens FILE")

    def test_a_server_that_cannot_start_says_why(self, project: Project) -> None:
        project.configure("[backplane.options]\nnothing = 1\n")
        result = project.call("bench", "connect", "-n", "2", "--config", "roomwire.toml")
        assert result.exit_code == 1
        assert "connection 0 broke" in result.stderr
        assert "the server said:\nError: " in result.stderr
        assert "nothing" in result.stderr

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_it_ends_with_us(self, project: Project, number: signal.Signals) -> None:
        with running(project.start("bench", "idle", "-n", "2", "--hold", "1000")) as process:
            process.read_until("holding them")
            (server,) = children_of(process)
            assert b"--fd" in Path(f"/proc/{server}/cmdline").read_bytes()
            process.popen.send_signal(number)
            assert process.wait() == 1
            assert "Traceback" not in process.seen
            with pytest.raises(ProcessLookupError):
                os.kill(server, 0)

    def test_it_ends_with_us_even_where_we_are_killed(self, project: Project) -> None:
        with running(project.start("bench", "idle", "-n", "2", "--hold", "1000")) as process:
            process.read_until("holding them")
            (server,) = children_of(process)
            ended = os.pidfd_open(server)
            try:
                process.popen.kill()
                assert select.select([ended], [], [])[0] == [ended]
            finally:
                os.close(ended)


def children_of(process: Process) -> list[int]:
    listings = Path(f"/proc/{process.popen.pid}/task").glob("*/children")
    return [int(pid) for listing in listings for pid in listing.read_text().split()]


class TestARunningServer:
    def test_of_the_bench_s_own_application(self, project: Project) -> None:
        arguments = ["run", "roomwire.bench.app:app", "--config", "roomwire.toml"]
        with running(project.start(*arguments)) as process:
            url = process.read_until(r"^roomwire serves \S+ on (\S+)$")[1]
            tokens = tokens_of(project, "ann", "ben")
            pid = str(process.popen.pid)
            place = ["--url", url, "--tokens", tokens, "--pid", pid]
            found = figures(project.call("bench", "echo", "-n", "3", "--messages", "6", *place, "--json"))
            assert (found["connections"], found["deliveries"]) == (3, 6)
            assert found["server_cpu_us_per_delivery"] is not None
            found = figures(project.call("bench", "connect", "-n", "3", *place[:4], "--json"))
            assert found["server_cpu_us_per_accept"] is None
            told = project.call("bench", "connect", "-n", "3", *place[:4]).stdout
            assert re.search(r"server memory for a connection +not known\n", told)

    def test_of_another_application(self, project: Project) -> None:
        with running(project.start("run")) as process:
            url = process.read_until(r"^roomwire serves \S+ on (\S+)$")[1]
            message = '{"event":"say","room":"lobby","data":"@@$stamp$pad"}'
            place = ["--url", url, "--tokens", tokens_of(project, "ann")]
            found = figures(
                project.call("bench", "fanout", "-n", "2", "--messages", "3", "--message", message, *place, "--json")
            )
            assert (found["messages"], found["deliveries"]) == (3, 6)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--url", "ws://127.0.0.1:1/ws?a=1"], "--url: leave out the query"),
            (["--url", "http://127.0.0.1:1/ws"], "the URL begins with ws:// or wss://"),
            (["--url", "ws://127.0.0.1:1/ws", "--tokens", "empty"], "--tokens: empty is empty"),
            (["--pid", "1"], "--pid names the process of a server at --url"),
            (["-n", "100000000"], "open files, and"),
        ],
    )
    def test_wrong_input(self, project: Project, arguments: list[str], message: str) -> None:
        project.write("empty", "\n")
        result = project.call("bench", "connect", *arguments)
        assert result.exit_code == 2
        assert message in result.stderr

    def test_a_message_without_its_mark(self, project: Project) -> None:
        result = project.call("bench", "echo", "--url", "ws://127.0.0.1:1/ws", "--message", "{}")
        assert result.exit_code == 2
        assert "expected @@$stamp in it" in result.stderr


def tokens_of(project: Project, *users: str) -> str:
    from roomwire.auth.jwt import JwtOptions, issue

    options = JwtOptions.model_validate({"algorithms": ["HS256"], "secret": SECRET})
    return str(project.write("tokens", "\n".join(issue(options, user, ttl=60) for user in users)))
