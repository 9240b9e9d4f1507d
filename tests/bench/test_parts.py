"""Templates, figures, processes and framing."""

from __future__ import annotations

import json
import os
import resource
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from roomwire.bench.figures import Figures, Opened, Traffic, percentile
from roomwire.bench.framing import SIZES, measure_framing
from roomwire.bench.native import CONFIG, ECHO, ECHO_WITHOUT_ID, SAY, native_target
from roomwire.bench.processes import Processes, allow_open_files
from roomwire.bench.server import ServerProcess
from roomwire.bench.target import Message, fill
from roomwire.config import Settings, load
from roomwire.core.errors import LocalError
from roomwire.core.frames import Received, Role, take_simple_frames


class TestMessages:
    @pytest.mark.parametrize("text", [SAY, ECHO, ECHO_WITHOUT_ID, '{"a":"$pad","b":"@@$stamp$pad"}'])
    @pytest.mark.parametrize("size", [160, 4096])
    def test_have_their_size(self, text: str, size: int) -> None:
        payload = Message(text, size, 3, "t").payload(0x1234)
        assert size - 1 <= len(payload) <= size  # two pads share what is missing
        assert b"@@0000000000001234x" in payload
        json.loads(payload)

    def test_fields(self) -> None:
        message = Message("$index $token $$ @@$stamp", 0, 12, "secret")
        assert message.payload(255) == b"12 secret $ @@00000000000000ff"
        received: list[Received] = []
        frame = message.frame(1)
        assert take_simple_frames(frame, 0, 1000, received, Role.SERVER) == len(frame)
        assert received == ["12 secret $ @@0000000000000001"]

    @pytest.mark.parametrize("text", ["$stemp", "$", "${stamp"])
    def test_a_wrong_template(self, text: str) -> None:
        with pytest.raises(LocalError, match="a dollar sign itself is"):
            fill(text, 0, "")

    def test_a_message_without_its_mark(self) -> None:
        with pytest.raises(LocalError, match=r"expected @@\$stamp in it"):
            native_target("127.0.0.1", 1, "/ws", message="$stamp")

    def test_a_room_that_would_not_fit_in_a_message(self) -> None:
        with pytest.raises(LocalError, match="expected a room's name"):
            native_target("127.0.0.1", 1, "/ws", message=SAY, room='a"b')


class TestFigures:
    def test_percentiles(self) -> None:
        assert percentile([], 0.5) == 0
        assert percentile([7], 0.99) == 7
        assert [percentile(range(100), share) for share in (0, 0.5, 0.99, 1)] == [0, 50, 99, 99]

    def test_shares(self) -> None:
        opened = Opened(connections=10, seconds=2.0, cpu=0.5, memory=20_480)
        traffic = Traffic(messages=5, deliveries=50, seconds=1.0, cpu=0.5, own_cpu=0.25, p50=0.001, p99=0.002)
        table = Figures(opened=opened, traffic=traffic).as_json()
        assert table["server_cpu_us_per_accept"] == 50_000
        assert table["server_memory_kib_per_connection"] == 2
        assert table["server_cpu_us_per_delivery"] == 10_000
        assert (table["server_load"], table["generator_load"]) == (0.5, 0.25)
        assert (table["latency_p50_us"], table["latency_p99_us"]) == (1000, 2000)

    def test_what_is_not_known_is_none(self) -> None:
        opened = Opened(connections=10, seconds=2.0, cpu=None, memory=None)
        traffic = Traffic(messages=0, deliveries=0, seconds=1.0, cpu=None, own_cpu=0.25, p50=0, p99=0)
        table = Figures(opened=opened, traffic=traffic).as_json()
        names = ("accept", "delivery")
        assert [table[f"server_cpu_us_per_{name}"] for name in names] == [None, None]
        assert (table["server_memory_kib_per_connection"], table["server_load"]) == (None, None)


class TestProcesses:
    def test_of_this_process(self) -> None:
        own = Processes([os.getpid()])
        before = own.cpu()
        while own.cpu() == before:
            sum(range(100_000))
        assert own.memory() > 1_000_000

    def test_descendants_count(self) -> None:
        program = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1, flush=True); input()'])"
        with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
            assert parent.stdout is not None
            parent.stdout.readline()
            whole = Processes([parent.pid]).memory()
            (children,) = Path(f"/proc/{parent.pid}/task").glob("*/children")
            (child,) = children.read_text().split()
            assert whole >= Processes([int(child)]).memory() + 1_000_000
            parent.communicate(b"\n")

    def test_one_that_has_ended_costs_nothing(self) -> None:
        with subprocess.Popen(["true"]) as ended:
            pass
        gone = Processes([ended.pid])
        assert (gone.cpu(), gone.memory()) == (0, 0)

    def test_none(self) -> None:
        assert not Processes([]).known

    def test_more_connections_than_files(self) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with pytest.raises(LocalError, match=r"open files, and \d+ are allowed"):
            allow_open_files(hard)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 500), hard))
            allow_open_files(600)
            assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 600
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class TestServers:
    def test_one_that_does_not_end_is_killed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("roomwire.bench.server.PATIENCE", 0.1)
        program = (
            "import signal, socket, sys\n"
            "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
            "sock = socket.socket(fileno=int(sys.argv[1])).accept()[0]\n"
            "print('stubborn', flush=True); sock.sendall(b'up'); signal.pause()"
        )
        with ServerProcess([sys.executable, "-c", program, "{fd}"], cpus={min(os.sched_getaffinity(0))}) as server:
            with socket.create_connection((server.host, server.port)) as client:
                assert client.recv(2) == b"up"
            assert server.running
            assert server.output() == "stubborn"
            assert os.sched_getaffinity(server.pid) == {min(os.sched_getaffinity(0))}
        assert not server.running


class TestFraming:
    def test_each_kind_at_each_size(self) -> None:
        told: list[float] = []
        found = list(measure_framing(0.01, lambda what, share: told.append(share)))
        assert {(row.what, row.size) for row in found} == {
            (what, size) for what in ("read", "read in pieces", "write") for size in SIZES
        }
        assert all(row.seconds > 0 for row in found)
        assert told == sorted(told)
        assert told[-1] == 1


BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "server" / "roomwire.toml"


@pytest.mark.parametrize("file", [Path(CONFIG), BENCHMARK], ids=["roomwire bench", "make bench"])
def test_the_configuration_lifts_limits_and_nothing_else(file: Path) -> None:
    loaded = load(file, environ={"ROOMWIRE_BENCH_SECRET": "x" * 43}, cwd=file.parent)
    assert not loaded.warnings
    given, defaults = loaded.settings.model_dump(), Settings().model_dump()
    assert {key for key in defaults if given[key] != defaults[key]} - {"server"} == {"app", "auth", "limits"}
    lifted = {key for key, value in given["limits"].items() if value != defaults["limits"][key]}
    assert lifted == {
        "max_connections", "connections_per_user", "max_pending_handshakes", "max_pending_per_ip",
        "messages_per_second", "message_burst", "bytes_per_second", "byte_burst",
        "frames_per_second", "frame_burst", "max_fragments",
    }  # fmt: skip
    assert all(given["limits"][key] > defaults["limits"][key] for key in lifted)
    given["server"].pop("node"), defaults["server"].pop("node")  # made up at each start
    assert given["server"] == defaults["server"]
