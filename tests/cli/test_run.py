"""``roomwire run``: real processes, from the start to the exit code."""

from __future__ import annotations

import contextlib
import json
import logging
import signal
import socket
import ssl
from collections.abc import Iterator

import pytest
import trustme
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect, unix_connect

from roomwire.auth.jwt import JwtOptions, issue
from roomwire.cli._logging import set_up_logging
from roomwire.config import LoggingSettings
from roomwire.logs import JsonFormatter, TextFormatter
from tests.cli.conftest import SECRET, Process, Project, running

READY = r"^roomwire serves chatapp:app on (\S+)$"


def authorization(user: str = "ann") -> dict[str, str]:
    options = JwtOptions.model_validate({"algorithms": ["HS256"], "secret": SECRET})
    return {"Authorization": f"Bearer {issue(options, user, ttl=60)}"}


def welcome_of(connection: ClientConnection) -> dict[str, object]:
    message = json.loads(connection.recv())
    assert message["event"] == "session.welcome"
    welcome: dict[str, object] = message["data"]
    return welcome


def last_message_of(connection: ClientConnection) -> dict[str, object]:
    message: dict[str, object] = {}
    with contextlib.suppress(ConnectionClosed):
        while True:
            message = json.loads(connection.recv())
    return message


def serving(process: Process) -> str:
    return process.read_until(READY)[1]


class TestServing:
    def test_a_client_is_served_and_drained(self, project: Project) -> None:
        with running(project.start("run")) as process:
            url = serving(process)
            with connect(url, additional_headers=authorization()) as connection:
                assert welcome_of(connection)["user"] == "ann"
                process.interrupt()
                assert last_message_of(connection)["event"] == "session.closing"
                assert connection.close_code == 1012
            assert process.wait() == 0
            assert process.stdout == ""
            assert "Traceback" not in process.seen

    def test_sigterm_drains_too(self, project: Project) -> None:
        with running(project.start("run")) as process:
            serving(process)
            process.popen.send_signal(signal.SIGTERM)
            assert process.wait() == 0

    def test_a_second_interrupt_ends_at_once(self, project: Project) -> None:
        patience = "drain_timeout = 1000\nport = 0\n[limits]\nclose_timeout = 1000\n"
        project.configure(patience, replace="port = 0")
        with running(project.start("run", "--log-level", "debug")) as process:
            url_port = int(serving(process).rpartition(":")[2].removesuffix("/ws"))
            with socket.create_connection(("127.0.0.1", url_port)) as client:
                head = [
                    "GET /ws HTTP/1.1",
                    f"Host: 127.0.0.1:{url_port}",
                    "Connection: Upgrade",
                    "Upgrade: websocket",
                    "Sec-WebSocket-Version: 13",
                    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
                    f"Authorization: {authorization()['Authorization']}",
                ]
                client.sendall(("\r\n".join(head) + "\r\n\r\n").encode())
                assert client.recv(12) == b"HTTP/1.1 101"
                # It never answers the close, so the drain would wait for it.
                process.interrupt()
                process.read_until("draining")
                process.interrupt()
                assert process.wait() == 0

    def test_flags_reach_the_server(self, project: Project) -> None:
        arguments = ["run", "chatapp:make", "--factory", "--node", "alpha", "--log-format", "json"]
        with running(project.start(*arguments)) as process:
            url = process.read_until(r"^roomwire serves chatapp:make on (\S+)$")[1]
            with connect(url, additional_headers=authorization()) as connection:
                welcome_of(connection)
            process.interrupt()
            assert process.wait() == 0
            records = [json.loads(line) for line in process.seen.splitlines() if line.startswith("{")]
            (record,) = [record for record in records if record["message"] == "connect"]
            assert (record["user"], record["logger"], record["level"]) == ("ann", "roomwire.access", "info")

    def test_a_unix_socket(self, project: Project) -> None:
        with running(project.start("run", "--uds", "chat.sock")) as process:
            process.read_until("^roomwire serves chatapp:app on unix:")
            path = str(project.folder / "chat.sock")
            with unix_connect(path, "ws://localhost/ws", additional_headers=authorization()) as connection:
                welcome_of(connection)
            process.interrupt()
            assert process.wait() == 0
        assert not (project.folder / "chat.sock").exists()

    def test_tls(self, project: Project) -> None:
        authority = trustme.CA()
        certificate = authority.issue_cert("127.0.0.1")
        certificate.private_key_and_cert_chain_pem.write_to_path(project.folder / "both.pem")
        context = ssl.create_default_context()
        authority.configure_trust(context)
        with running(project.start("run", "--ssl-certfile", "both.pem", "--ssl-keyfile", "both.pem")) as process:
            url = serving(process)
            assert url.startswith("wss://")
            with connect(url, ssl=context, additional_headers=authorization()) as connection:
                welcome_of(connection)

    def test_the_application_gets_the_env_file(self, project: Project) -> None:
        source = "import os, roomwire\nassert os.environ['OTHER_SETTING'] == 'a$b'\napp = roomwire.App()\n"
        project.write("chatapp_env.py", source)
        project.write("dev.env", f"CHAT_SECRET={SECRET}\nOTHER_SETTING=a$b\n")
        result = project.call("check", "chatapp_env:app", "--env-file", "dev.env")
        assert (result.exit_code, result.stderr) == (0, "")

    def test_no_token_in_any_output(self, project: Project) -> None:
        with running(project.start("run", "--log-level", "debug")) as process:
            url = serving(process)
            token = authorization()["Authorization"].removeprefix("Bearer ")
            with connect(f"{url}?token={token}") as connection:
                welcome_of(connection)
            process.interrupt()
            assert process.wait() == 0
        assert [part for part in token.split(".") if part in process.seen] == []


class TestExitCodes:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--port", "70000"], "--port: expected a number less than or equal to 65535, found 70000"),
            (["chatapp:nope"], 'app "chatapp:nope": the module chatapp has no attribute nope'),
            (["--auth", "x"], "No such option"),
        ],
    )
    def test_2_for_wrong_input(self, project: Project, arguments: list[str], message: str) -> None:
        with running(project.start("run", *arguments)) as process:
            assert process.wait() == 2
            assert message in process.seen
            assert "Traceback" not in process.seen

    def test_2_where_there_is_no_configuration(self, project: Project) -> None:
        """The key alone would send a newcomer, who is in another folder, to the environment."""
        (project.folder / "roomwire.toml").unlink()
        required = "auth.options.algorithms (or ROOMWIRE_AUTH__OPTIONS__ALGORITHMS): required, but not set"
        absent = f"there is no roomwire.toml in {project.folder}"
        result = project.call("run", "chatapp:app")
        assert (result.exit_code, result.stderr) == (2, f"Error: {required} ({absent})\n")
        project.write("pyproject.toml", "[tool.other]\n")
        result = project.call("run", "chatapp:app")
        assert result.stderr == f"Error: {required} ({absent}, and no [tool.roomwire] in its pyproject.toml)\n"
        project.write("roomwire.toml", "[server]\nport = 0\n")
        assert project.call("run", "chatapp:app").stderr == f"Error: {required}\n"

    def test_3_where_the_port_is_taken(self, project: Project) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            with running(project.start("run", "--port", str(port))) as process:
                assert process.wait() == 3
        assert f"Error: the server could not start: server.host = '127.0.0.1', server.port = {port}" in process.seen
        assert "Traceback" not in process.seen

    def test_3_where_the_lifespan_fails(self, project: Project) -> None:
        project.write(
            "chatapp_lifespan.py",
            "from contextlib import asynccontextmanager\nfrom roomwire import App\n"
            "@asynccontextmanager\nasync def lifespan(app):\n    raise RuntimeError('no database')\n    yield\n"
            "app = App(lifespan=lifespan)\n",
        )
        with running(project.start("run", "chatapp_lifespan:app")) as process:
            assert process.wait() == 3
        assert "Error: the server could not start: RuntimeError: no database" in process.seen
        assert "chatapp_lifespan.py, line 5" in process.seen
        assert "Traceback" not in process.seen


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    root, asyncio = logging.getLogger(), logging.getLogger("asyncio")
    handlers, levels = root.handlers[:], (root.level, asyncio.level)
    yield root
    for handler in root.handlers[:]:
        root.removeHandler(handler)
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(levels[0])
    asyncio.setLevel(levels[1])


class TestLogging:
    def test_text(self, root_logger: logging.Logger) -> None:
        set_up_logging(LoggingSettings())
        (handler,) = root_logger.handlers
        assert isinstance(handler.formatter, TextFormatter)
        assert root_logger.level == logging.INFO

    def test_json(self, root_logger: logging.Logger) -> None:
        set_up_logging(LoggingSettings(level="debug", format="json"))
        set_up_logging(LoggingSettings(level="debug", format="json"))
        (handler,) = root_logger.handlers
        assert isinstance(handler.formatter, JsonFormatter)
        assert root_logger.level == logging.DEBUG
        assert logging.getLogger("asyncio").level == logging.INFO
