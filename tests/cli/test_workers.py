"""``roomwire run --workers``: from the start to the exit code, on every kind of address. Processes, not messages."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket

import pytest

from roomwire.app import App
from roomwire.cli._application import put_on_path
from roomwire.cli._workers.role import Worker
from roomwire.cli._workers.supervisor import pause_before
from roomwire.config import Settings, load
from roomwire.config.settings import ServerSettings
from roomwire.core.errors import ConfigError, PluginError
from roomwire.plugins import make_transport
from roomwire.serving import build_node
from tests.cli.conftest import Project, running
from tests.cli.workers import READY, Peer, await_end, project_with_workers, spread, spread_of, who, workers_of
from tests.servers import RedisServer


@pytest.fixture
def workers(project: Project) -> Project:
    return project_with_workers(project.folder, workers=2)


class TestAddresses:
    def test_tcp_and_the_log_and_the_names(self, project: Project, redis_server: RedisServer) -> None:
        options = f'type = "redis"\n[backplane.options]\nurl = "{redis_server.url}"\nkey_prefix = "workers-drain:"'
        workers = project_with_workers(project.folder, backplane=options, workers=2)
        with running(workers.start("run", "--node", "alpha", "--log-format", "json")) as process:
            address = process.read_until(READY)[1]

            async def use() -> None:
                peers = await who(address, 10)
                assert spread(peers) == [5, 5]
                assert {peer.node for peer in peers} == {"alpha-1", "alpha-2"}
                process.popen.send_signal(signal.SIGTERM)
                assert {await peer.close_code() for peer in peers} == {1012}
                for peer in peers:
                    peer.close()

            asyncio.run(use())
            assert process.wait() == 0
            assert process.stdout == ""
        records = [json.loads(line) for line in process.seen.splitlines() if line.startswith("{")]
        connects = [record["worker"] for record in records if record["message"] == "connect"]
        assert sorted(connects) == [1] * 5 + [2] * 5
        assert "Traceback" not in process.seen

    def test_a_unix_socket_and_a_second_signal_which_ends_at_once(self, workers: Project) -> None:
        """A worker that hangs, too."""
        text = (workers.folder / "roomwire.toml").read_text()
        text = text.replace("port = 0", "drain_timeout = 1000") + "close_timeout = 1000\n"
        workers.write("roomwire.toml", text)
        path = workers.folder / "chat.sock"
        stopped: list[int] = []
        with running(workers.start("run", "--uds", str(path))) as process:
            address = process.read_until(READY)[1]
            assert address == f"unix:{path}/ws"

            async def use() -> None:
                peers = await who(address, 10)
                assert spread(peers) == [5, 5]
                process.interrupt()
                for peer in peers:  # none of them answers the close, so the drain would wait
                    assert await peer.closing() == 1012
                assert not path.exists()
                stopped.append(peers[0].pid)
                os.kill(peers[0].pid, signal.SIGSTOP)
                process.interrupt()
                assert await asyncio.to_thread(process.wait) == 0
                for peer in peers:
                    peer.close()

            asyncio.run(use())
        assert re.findall(r"a worker hangs .*pid=(\d+)", process.seen) == [str(pid) for pid in stopped]

    def test_an_inherited_descriptor_and_a_word_to_the_service_manager(self, workers: Project) -> None:
        """READY comes once, when all are ready, and from the process that the manager started."""
        with (
            socket.create_server(("127.0.0.1", 0)) as listening,
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
        ):
            manager.bind(str(workers.folder / "notify"))
            manager.settimeout(30)
            descriptor = listening.fileno()
            environ = {"NOTIFY_SOCKET": str(workers.folder / "notify")}
            command = ("run", "--fd", str(descriptor))
            with running(workers.start(*command, env=environ, pass_fds=[descriptor])) as process:
                assert manager.recv(100) == b"READY=1"
                process.read_until("worker ready")
                process.read_until("worker ready")
                address = process.read_until(READY)[1]
                assert f":{listening.getsockname()[1]}/" in address
                assert asyncio.run(spread_of(address, 10)) == [5, 5]
                process.interrupt()
                assert manager.recv(100) == b"STOPPING=1"
                assert process.wait() == 0
            manager.setblocking(False)
            with pytest.raises(BlockingIOError):
                manager.recv(100)


class TestTheEnd:
    def test_whoever_kills_the_parent_kills_the_workers(self, workers: Project) -> None:
        with running(workers.start("run")) as process:
            address = process.read_until(READY)[1]
            pids = workers_of(process)
            assert len(pids) == 2
            process.popen.kill()
            for pid in pids:
                await_end(pid)
            with pytest.raises(ConnectionRefusedError):
                asyncio.run(Peer.connect(address))


class TestTheStart:
    def test_3_where_a_worker_cannot_start(self, workers: Project) -> None:
        workers.write("chatapp.py", LIFESPAN)
        with running(workers.start("run")) as process:
            assert process.wait() == 3
        assert process.seen.count("Error: the server could not start: RuntimeError: no database") == 1
        assert "Error: worker 1 ended before it was ready, with exit code 3" in process.seen
        assert "Traceback" not in process.seen

    def test_2_where_a_worker_refuses_the_configuration(self, workers: Project) -> None:
        with running(workers.start("run", "chatapp:nope")) as process:
            assert process.wait() == 2
        assert process.seen.count("the module chatapp has no attribute nope") == 1

    def test_3_where_the_port_is_taken(self, workers: Project) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            with running(workers.start("run", "--port", str(port))) as process:
                assert process.wait() == 3
        assert f"Error: the server could not start: server.host = '127.0.0.1', server.port = {port}" in process.seen

    def test_a_worker_that_ends_at_once_is_waited_for_longer_each_time(self) -> None:
        assert [pause_before(failures) for failures in range(10)] == [0, 0, 0.5, 1, 2, 4, 8, 16, 30, 30]


LIFESPAN = """
from contextlib import asynccontextmanager

from roomwire import App

@asynccontextmanager
async def lifespan(app):
    raise RuntimeError("no database")
    yield

app = App(lifespan=lifespan)
"""


class TestRefusals:
    @pytest.mark.parametrize(
        ("arguments", "env", "where", "backplane"),
        [
            (("run", "--workers", "2"), {}, "--workers", "memory"),
            (("run",), {"ROOMWIRE_SERVER__WORKERS": "2"}, "environment: ROOMWIRE_SERVER__WORKERS", "memory"),
            (("check", "--workers", "2", "--backplane", "acme:Modest"), {}, "--workers", "acme:Modest"),
        ],
    )
    def test_a_backplane_that_joins_nothing(
        self, project: Project, arguments: tuple[str, ...], env: dict[str, str], where: str, backplane: str
    ) -> None:
        project_with_workers(project.folder, backplane='type = "memory"', workers=1)
        result = project.call(*arguments, env=env)
        assert result.exit_code == 2
        assert result.stderr == (
            f'Error: {where}: the backplane "{backplane}" joins no processes, found 2 workers: set workers = 1,'
            f' or change the line type = "{backplane}" of [backplane] to a backplane that joins nodes\n'
        )

    def test_a_worker_is_one_of_several_whatever_the_file_says_by_now(self, project: Project) -> None:
        """SIGHUP reads it anew: memory for each of them would be as many chats."""
        loaded = load(project.folder / "roomwire.toml", environ={}, cwd=project.folder)
        found = Worker(number=1, serial=3, handover=0, status=0).configured(loaded)
        with pytest.raises(ConfigError, match=r"^server\.workers: .* joins no processes"):
            build_node(App(), found.settings)

    @pytest.mark.parametrize(
        ("arguments", "what"),
        [(("run", "--reload"), "--reload"), (("dev",), "roomwire dev"), (("dev", "--no-reload"), "roomwire dev")],
    )
    def test_where_there_is_one_process(self, workers: Project, arguments: tuple[str, ...], what: str) -> None:
        result = workers.call(*arguments, "--workers", "2")
        assert result.exit_code == 2
        assert result.stderr == (
            f"Error: --workers: {what} serves in one process: leave out --workers, or use `roomwire run`\n"
        )

    def test_a_transport_that_cannot_take_over(self, project: Project) -> None:
        project.write(
            "chatapp_pigeon.py",
            "from roomwire.transports.anyio import AnyioTransport\n"
            "from roomwire.transports.contract import Capabilities\n"
            "class Pigeon(AnyioTransport):\n    capabilities = Capabilities()\n",
        )
        put_on_path(project.folder)
        settings = Settings(server=ServerSettings(transport="chatapp_pigeon:Pigeon"))
        assert make_transport(settings) is not None
        with pytest.raises(PluginError) as caught:
            make_transport(settings, handover=3)
        assert str(caught.value) == (
            'server.transport = "chatapp_pigeon:Pigeon": it takes no connections over from another process,'
            " as workers do: set server.workers = 1"
        )

    @pytest.mark.parametrize("command", [("run", "--reload"), ("dev", "--no-reload")])
    def test_what_the_configuration_says_of_workers_is_left_out_there(
        self, workers: Project, command: tuple[str, ...]
    ) -> None:
        with running(workers.start(*command)) as process:
            process.read_until("Ctrl-C drains" if "dev" in command else r"^roomwire serves chatapp:app on \S+$")
            process.interrupt()
            assert process.wait() == 0
        assert "worker" not in process.seen
