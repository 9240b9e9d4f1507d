"""What the pages on deployment show, tried: the proxies by their files, manifests and units by what they name."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import ssl
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import pytest
import trustme
import yaml  # type: ignore[import-untyped]

from roomwire import App, Connection
from roomwire.auth.jwt import JwtOptions, issue
from roomwire.client import ConnectionRefused, Event, connect
from roomwire.config import AuthSettings, ServerSettings, Settings, load
from roomwire.core.limits import Limits
from roomwire.metrics import FAMILIES
from roomwire.serving import build_node
from tests.pages import blocks_of, option_faults
from tests.servers import CADDY, HAPROXY, NGINX, Server

HOW_TO = Path(__file__).parents[1] / "docs" / "how-to"
AUTH = {"algorithms": ["HS256"], "secret": "a secret of the tests, of 32 bytes or more"}
PATIENCE = 50.0
"""Seconds; reached only where a test fails."""

app = App()
peers: list[str] = []


@app.on_connect
async def told(connection: Connection) -> None:
    peers.append(connection.peer)


@app.room("board:{name}")
async def may_join(connection: Connection, name: str) -> bool:
    return True


@app.on("note.add", room="board:{name}")
async def add(connection: Connection, text: str, name: str) -> None:
    await app.publish(f"board:{name}", "note.new", text)


def file_of(page: str, name: str) -> str:
    """A file that a page shows."""
    [block] = [block for block in blocks_of((HOW_TO / page).read_text()) if block.file == name]
    return block.text


class Proxy(Server):
    """A proxy with the page's own file, in which addresses and places alone are changed: each must be there."""

    file: str
    scheme = "https"

    def changes(self, port: int) -> dict[str, str]:
        raise NotImplementedError

    def configured(self, port: int) -> str:
        text = file_of("proxies.md", self.file)
        for old, new in {
            **self.changes(port),
            "/run/chat": str(self.directory),
            "/etc/chat": str(self.directory),
        }.items():
            assert old in text, old
            text = text.replace(old, new)
        (self.directory / self.file).write_text(text)
        return str(self.directory / self.file)

    def answers(self, port: int, pid: int) -> bool:
        return _listens(port)


def _listens(port: int) -> bool:
    import socket

    with socket.create_connection(("127.0.0.1", port), timeout=1.0):
        return True


class Nginx(Proxy):
    tool = NGINX
    file = "nginx.conf"

    def changes(self, port: int) -> dict[str, str]:
        here = self.directory
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        own = "".join(f"    {kind}_temp_path {here}/{kind};\n" for kind in kinds)
        return {"http {\n": "http {\n" + own, "listen 443": f"listen 127.0.0.1:{port}", "/var/log/nginx": str(here)}

    def command(self, port: int) -> Sequence[str]:
        user = "user root; " if os.geteuid() == 0 else ""
        here = ("-p", str(self.directory), "-e", "stderr", "-c", self.configured(port))
        return (*here, "-g", f"daemon off; pid {self.directory}/pid; {user}")


class Haproxy(Proxy):
    tool = HAPROXY
    file = "haproxy.cfg"

    def changes(self, port: int) -> dict[str, str]:
        return {"bind :443": f"bind 127.0.0.1:{port}"}

    def command(self, port: int) -> Sequence[str]:
        return ("-db", "-f", self.configured(port))


class Caddy(Proxy):
    tool = CADDY
    file = "Caddyfile"

    def changes(self, port: int) -> dict[str, str]:
        # Nothing but the one port: not that of its API, nor 80 for whoever does not speak TLS.
        alone = ("admin off", "auto_https disable_redirects", f"storage file_system {self.directory}", "log {\n")
        return {"log {\n": "\n    ".join(alone), "chat.example.com": f"https://127.0.0.1:{port}"}

    def command(self, port: int) -> Sequence[str]:
        return ("run", "--config", self.configured(port), "--adapter", "caddyfile")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.anyio
@pytest.mark.parametrize("kind", [Nginx, Haproxy, Caddy])
async def test_a_proxy_with_the_pages_file_passes_everything_on(kind: type[Proxy], tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "both.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "certificate.pem")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    server = ServerSettings(uds=str(tmp_path / "roomwire.sock"), proxy_headers=True)
    node = build_node(app, Settings(server=server, auth=AuthSettings(options=AUTH)))
    token = issue(JwtOptions.model_validate(AUTH), "ann", ttl=3600)
    peers.clear()

    async def serve(*, task_status: anyio.abc.TaskStatus[Sequence[str]]) -> None:
        await node.serve(ready=task_status.started)

    proxy = kind(tmp_path)
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            await tasks.start(serve)
            await anyio.to_thread.run_sync(proxy.start)
            try:
                await converse(proxy.port, token, context)
                await node.drain.run()
                status = await asked(proxy.port, f"/sse?room=board:team&token={token}", context, token)
                assert status in (502, 503)  # nobody is there, which a proxy may log
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(proxy.stop)
                    await node.drain.run()
    assert {peer.rpartition(":")[0] or peer for peer in peers} == {"127.0.0.1"}  # and not "unix"
    assert whose_log_has(token, tmp_path) == []


async def converse(port: int, token: str, context: ssl.SSLContext) -> None:
    url, origin = f"wss://127.0.0.1:{port}/ws", f"https://127.0.0.1:{port}"
    async with connect(url, token=token, ssl_context=context, headers=[("Origin", origin)]) as ann:
        room = await ann.join("board:team")
        async with await anyio.connect_tcp(
            "127.0.0.1", port, ssl_context=context, tls_standard_compatible=False
        ) as stream:
            head = f"GET /sse?room=board:team&token={token} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n"
            await stream.send(head.encode())
            read = await until(stream, b"session.welcome")
            assert read.startswith(b"HTTP/1.1 200")
            await room.send("note.add", "hello")
            note = await ann.receive()
            assert isinstance(note, Event)
            assert (note.name, note.data) == ("note.new", "hello")
            await until(stream, b"note.new")  # while the answer goes on
    with pytest.raises(ConnectionRefused) as refused:
        async with connect(url, token=token, ssl_context=context, headers=[("Origin", "https://other.example")]):
            pass
    assert refused.value.status == 403
    for path in ("healthz", "readyz", "metrics", "api/publish"):
        assert await asked(port, f"/{path}", context) == 404


def whose_log_has(token: str, folder: Path) -> list[str]:
    logs = {path.name: path.read_text() for path in folder.glob("*log")}
    assert "log" in logs
    return [name for name, text in logs.items() if token in text]


async def asked(port: int, target: str, context: ssl.SSLContext, token: str = "-") -> int:
    """The status of the answer; the token stands wherever a client may put it."""
    head = f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nSec-WebSocket-Protocol: roomwire.v1, {token}\r\n"
    async with await anyio.connect_tcp("127.0.0.1", port, ssl_context=context, tls_standard_compatible=False) as stream:
        await stream.send(f"{head}Authorization: Bearer {token}\r\nCookie: token={token}\r\n\r\n".encode())
        return int((await until(stream, b"\r\n")).split()[1])


async def until(stream: anyio.abc.ByteReceiveStream, wanted: bytes) -> bytes:
    read = b""
    while wanted not in read:
        read += await stream.receive()
    return read


@pytest.mark.parametrize(
    ("file", "pattern", "count"),
    [
        ("nginx.conf", r"proxy_(?:read|send)_timeout (\d+)s;", 2),
        ("haproxy.cfg", r"timeout (?:client|server|tunnel) +(\d+)s", 3),
    ],
)
def test_a_proxys_time_outs_are_longer_than_two_heartbeats(file: str, pattern: str, count: int) -> None:
    found = [int(seconds) for seconds in re.findall(pattern, file_of("proxies.md", file))]
    assert len(found) == count
    assert min(found) > 2 * Limits().heartbeat_interval


class TestKubernetes:
    @pytest.fixture
    def objects(self) -> dict[str, Any]:
        return {found["kind"]: found for found in yaml.safe_load_all(file_of("kubernetes.md", "chat.yaml"))}

    @pytest.fixture
    def container(self, objects: dict[str, Any]) -> dict[str, Any]:
        [container] = objects["Deployment"]["spec"]["template"]["spec"]["containers"]
        found: dict[str, Any] = container
        return found

    @pytest.fixture
    def settings(self, container: dict[str, Any], tmp_path: Path) -> Settings:
        """As the container's process has them."""
        environ = {entry["name"]: entry.get("value", AUTH["secret"]) for entry in container["env"]}
        return load(environ=environ, cwd=tmp_path).settings

    def test_the_command_and_the_settings_exist(self, container: dict[str, Any], settings: Settings) -> None:
        from roomwire import plugins
        from roomwire.cli import main

        assert option_faults(" ".join(container["command"]), main) == []
        assert all(entry["name"].startswith("ROOMWIRE_") for entry in container["env"])
        plugins.make_backplane(settings)
        plugins.make_authenticator(settings)
        assert settings.backplane.type == "redis"
        assert settings.metrics.enabled

    def test_the_probes_are_answered(self, container: dict[str, Any], settings: Settings) -> None:
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        assert ports == {"http": ServerSettings().port, "metrics": settings.metrics.port}
        probes = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")}
        assert {probe["port"] for probe in probes.values()} == {"http"}
        assert [probe["path"] for probe in probes.values()] == ["/readyz", "/readyz", "/healthz"]

    def test_the_grace_period_holds_what_has_to_fit_in_it(self, objects: dict[str, Any], settings: Settings) -> None:
        pod = objects["Deployment"]["spec"]["template"]["spec"]
        command = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
        assert command[0] == "sleep"
        assert pod["terminationGracePeriodSeconds"] >= int(command[1]) + settings.server.drain_timeout + 5

    def test_what_points_at_something_points_at_what_is_there(self, objects: dict[str, Any]) -> None:
        spec = objects["Deployment"]["spec"]
        labels = spec["template"]["metadata"]["labels"]
        selectors = [spec["selector"]["matchLabels"], objects["Service"]["spec"]["selector"]]
        assert [*selectors, objects["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"]] == [labels] * 3
        scaler = objects["HorizontalPodAutoscaler"]["spec"]
        assert scaler["scaleTargetRef"]["name"] == objects["Deployment"]["metadata"]["name"]
        assert scaler["metrics"][0]["pods"]["metric"]["name"] in {family.name for family in FAMILIES}


class TestSystemd:
    @pytest.fixture
    def units(self, tmp_path: Path) -> Path:
        """The page's units, with a program that is here."""
        for name in ("chat.socket", "chat.service"):
            text = file_of("deploy.md", name)
            program = Path(sys.executable).parent / "roomwire"
            (tmp_path / name).write_text(text.replace("/opt/chat/venv/bin/roomwire", str(program)))
        return tmp_path

    def test_the_service_waits_for_the_drain_and_the_readiness(self, units: Path) -> None:
        unit = configparser.ConfigParser(interpolation=None)
        unit.optionxform = str  # type: ignore[method-assign, assignment]
        unit.read(units / "chat.service")
        assert unit["Service"]["Type"] == "notify"
        assert float(unit["Service"]["TimeoutStopSec"]) >= ServerSettings().drain_timeout + 5
        assert int(unit["Service"]["LimitNOFILE"]) > Limits().max_connections
        assert unit["Unit"]["Requires"] == "chat.socket"

    def test_systemd_finds_nothing_wrong(self, units: Path) -> None:
        verify = shutil.which("systemd-analyze")
        if verify is None:  # no systemd, no unit: the test above still holds
            return
        done = subprocess.run(
            [verify, "verify", str(units / "chat.socket"), str(units / "chat.service")],
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
        assert not re.findall(r"^.*chat\.(?:socket|service).*$", done.stderr, re.M), done.stderr
