"""``roomwire check``: what is wrong, and what is unsafe."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trustme

from roomwire.cli._advice import limits, machine
from roomwire.core.limits import Limits
from tests.cli.conftest import SECRET, Project

JWKS = '[auth.options]\nalgorithms = ["RS256"]\nissuer = "https://id.example.com"\naudience = "chat"\n'
URL = 'jwks_url = "https://id.example.com/keys"\n'
SHARED = '[auth.options]\nalgorithms = ["HS256"]\nsecret = "env:CHAT_SECRET"\n'
PROXY = "[server]\nproxy_headers = true\n"
MEASURED = "[metrics]\nenabled = true\n"
PRESENCE = '[rooms."chat:*"]\npresence = true\n'
BUS = '[backplane]\ntype = "chatbus:Bus"\n[backplane.options]\n'


REST = 'algorithms = ["HS256"]\nsecret = "env:CHAT_SECRET"\n'


class Case(NamedTuple):
    """A setting that is warned of, the beginning of what is said, and lines without that warning."""

    key: str
    unsafe: str
    text: str
    safe: str


def limit(name: str, unsafe: object, text: str, safe: object, more: str = "") -> Case:
    return Case(
        f"limits.{name}",
        f"[limits]\n{name} = {unsafe}\n{more}",
        f"{unsafe}{text}",
        f"[limits]\n{name} = {safe}\n{more}",
    )


ACCESS = [
    Case(
        "server.sse_path",
        SHARED + 'sources = ["subprotocol"]\n',
        "nobody gets an event stream",
        '[server]\nsse_path = ""\n' + SHARED + 'sources = ["subprotocol"]\n',
    ),
    Case("auth.type", '[auth]\ntype = "anonymous"\n', "anybody may connect", ""),
    Case(
        "server.allowed_origins",
        '[server]\nallowed_origins = ["*"]\n',
        "any web page may connect",
        '[server]\nallowed_origins = ["https://app.example.com"]\n',
    ),
    Case(
        "server.allowed_origins",
        '[server]\nallowed_origins = ["http://app.example.com"]\n',
        "http://app.example.com comes without TLS",
        '[server]\nallowed_origins = ["http://localhost:3000", "http://127.0.0.1:3000", "capacitor://localhost"]\n',
    ),
    Case(
        "auth.options.sources",
        PROXY,
        "tokens may stand in the query string",
        PROXY + SHARED + 'sources = ["header"]\n',
    ),
    Case(
        "auth.options.sources",
        '[server]\nuds = "roomwire.sock"\n',
        "tokens may stand in the query string",
        '[server]\nuds = "roomwire.sock"\n' + SHARED + 'sources = ["header", "subprotocol"]\n',
    ),
    Case(
        "auth.options.secret",
        '[auth.options]\nalgorithms = ["HS256"]\nsecret = "env:CHAT_WEAK"\n',
        "it has few different characters",
        SHARED,
    ),
    Case(
        "auth.options.secret",
        f'[auth.options]\nalgorithms = ["HS256"]\nsecret = "{SECRET}"\n',
        "the secret stands in roomwire.toml",
        SHARED,
    ),
    Case(
        "auth.options.audience",
        JWKS.replace('audience = "chat"\n', "") + URL,
        "a token without an audience is accepted",
        JWKS + URL,
    ),
    Case("auth.options.user_claim", SHARED + 'user_claim = "email"\n', "email can be changed", SHARED),
    Case(
        "auth.options.jwks_url",
        JWKS + URL.replace("https:", "http:"),
        "keys that come without TLS can be replaced",
        JWKS + 'jwks_url = "http://127.0.0.1:9/keys"\n',
    ),
    *(
        Case(f"auth.options.{name}", f"{JWKS}{URL}{name} = {unsafe}\n", text, f"{JWKS}{URL}{name} = {safe}\n")
        for name, unsafe, text, safe in (
            ("jwks_refresh", 90_000, "90000 seconds: a key that the issuer has withdrawn", 3600),
            ("jwks_max_stale", 1e6, "1e+06 seconds: so long can who keeps us from the issuer", 604_800),
            ("jwks_min_gap", 0.5, "0.5 seconds: anybody can make us ask the issuer", 1),
            ("jwks_timeout", 10, "the handshake that waits for the keys is over", 9.5),
        )
    ),
]

NETWORK = [
    Case(
        "server.host",
        '[server]\nhost = "0.0.0.0"\n',
        "every interface is served without TLS",
        '[server]\nhost = "127.0.0.2"\n',
    ),
    Case(
        "server.host",
        '[server]\nhost = "192.0.2.1"\n',
        "192.0.2.1 is served without TLS",
        '[server]\nhost = "192.0.2.1"\nssl_certfile = "good.pem"\nssl_keyfile = "good.pem"\n',
    ),
    Case("server.host", '[server]\nhost = "::"\n', "every interface is served without TLS", f'{PROXY}host = "::"\n'),
    Case("server.host", '[server]\nhost = "::1"\nuds = "x"\n', "nothing listens there", '[server]\nuds = "x"\n'),
    Case("server.port", "[server]\nport = 80\nfd = 3\n", "nothing listens there, since fd", "[server]\nfd = 3\n"),
    Case("server.backlog", "[server]\nbacklog = 100\n", "with 100 places in the kernel's", "[server]\nbacklog = 128\n"),
    Case(
        "server.uds",
        '[server]\nuds = "everybodys/chat.sock"\n',
        "anybody on this machine may write to",
        '[server]\nuds = "ours/chat.sock"\n',
    ),
    Case(
        "server.ssl_keyfile",
        '[server]\nssl_certfile = "good.pem"\nssl_keyfile = "readable.pem"\n',
        "anybody on this machine may read the private key",
        '[server]\nssl_certfile = "good.pem"\nssl_keyfile = "good.pem"\n',
    ),
    Case(
        "server.forwarded_allow_ips",
        f'{PROXY}forwarded_allow_ips = ["*"]\n',
        "every client may say that it comes from anywhere",
        f'{PROXY}forwarded_allow_ips = ["10.0.0.1"]\n',
    ),
    Case(
        "server.forwarded_allow_ips",
        f'{PROXY}forwarded_allow_ips = ["10.0.0.0/8", "::/0"]\n',
        "every client may say that it comes from anywhere",
        f'{PROXY}forwarded_allow_ips = ["10.0.0.0/8"]\n',
    ),
    Case(
        "server.forwarded_allow_ips",
        f'{PROXY}host = "0.0.0.0"\n',
        "only proxies on this machine are believed, and every interface is served",
        f'{PROXY}host = "0.0.0.0"\nforwarded_allow_ips = ["10.0.0.0/8"]\n',
    ),
    Case(
        "server.forwarded_allow_ips",
        '[server]\nforwarded_allow_ips = ["10.0.0.1"]\n',
        "no proxy is believed, since proxy_headers is off",
        f'{PROXY}forwarded_allow_ips = ["10.0.0.1"]\n',
    ),
    Case(
        "limits.max_pending_per_ip",
        f"{PROXY}[limits]\nmax_pending_per_ip = 1000\n",
        "one address may take all places at the door",
        f"{PROXY}[limits]\nmax_pending_per_ip = 200\n",
    ),
    Case("server.compression", "[server]\ncompression = true\n", "it costs memory and CPU", ""),
    Case("server.drain_timeout", "[server]\ndrain_timeout = 30\n", "Kubernetes kills after 30 seconds", ""),
    Case("server.drain_timeout", "[server]\ndrain_timeout = 0\n", "0 seconds are little: handlers are cut", ""),
    Case("server.reconnect_spread", "[server]\nreconnect_spread = 0\n", "0 seconds are little: after a restart", ""),
    Case("server.reconnect_spread", "[server]\nreconnect_spread = 90\n", "90 seconds are a lot: after a restart", ""),
    Case(
        "backplane.options.url",
        BUS + 'url = "redis://redis.internal:6379"\npassword = "env:CHAT_SECRET"\n',
        "the way to redis.internal is without TLS",
        BUS + 'url = "rediss://redis.internal:6379"\npassword = "env:CHAT_SECRET"\n',
    ),
    Case(
        "backplane.options.servers",
        BUS + 'servers = ["tls://bus:4222"]\n',
        "bus asks for no password",
        BUS + 'servers = ["nats://127.0.0.1:4222"]\n',
    ),
    Case(
        "backplane.options.url",
        BUS + 'url = "rediss://chat:7h1s15n07h1ng@redis.internal"\n',
        "the secret stands in roomwire.toml",
        BUS + 'url = "env:CHAT_URL"\n',
    ),
    Case("logging.level", '[logging]\nlevel = "debug"\n', "a record for nearly everything", ""),
    Case("logging.level", '[logging]\nlevel = "critical"\n', "faults of handlers are logged as errors", ""),
    Case("metrics.enabled", "[metrics]\nport = 9400\n", "off, so that nobody gets", f"{MEASURED}port = 9400\n"),
    Case(
        "metrics.token",
        f'{MEASURED}[server]\nhost = "0.0.0.0"\n',
        "every client can read /metrics",
        f'{MEASURED}port = 9400\n[server]\nhost = "0.0.0.0"\n',
    ),
    Case("metrics.token", f"{MEASURED}{PROXY}", "every client can read /metrics", MEASURED),
    Case(
        "metrics.token",
        f'{MEASURED}port = 9400\nhost = "10.0.0.7"\n',
        "whoever reaches 10.0.0.7 port 9400 can read",
        f'{MEASURED}port = 9400\nhost = "10.0.0.7"\ntoken = "env:CHAT_SECRET"\n',
    ),
    Case(
        "metrics.token",
        f'{MEASURED}token = "0123456789"\n',
        "of less than 16 characters",
        f'{MEASURED}token = "env:CHAT_SECRET"\n',
    ),
    Case(
        "metrics.token",
        f'{MEASURED}token = "a token that is long enough"\n',
        "the secret stands in roomwire.toml",
        f'{MEASURED}token = "env:CHAT_SECRET"\n',
    ),
]

LIMITS = [
    limit("handshake_timeout", 60, " seconds are a lot: a socket that says nothing holds", 30),
    limit("handshake_timeout", 0.5, " seconds are little: clients on a slow network", 2),
    limit("max_pending_handshakes", 1_000_000, " is a lot: sockets that nobody knows", 100_000),
    limit("max_message_size", 2_000_000, " is a lot: every connection may", 1_048_576, "byte_burst = 2000000\n"),
    limit("max_event_size", 5_000_000, " is a lot: every event may", 4_194_304, "outbox_bytes = 8388608\n"),
    limit("max_state_size", 33_554_432, " is a lot: every join may", 16_777_216),
    limit("max_fragments", 100_000, " is a lot: empty fragments", 65_536, "frame_burst = 100000\n"),
    limit("connections_per_user", 100_000, " is a lot: one user may take them all", 5),
    limit("rooms", 100_000, " is a lot: every join costs", 10_000),
    limit("heartbeat_timeout", 600, " seconds are a lot: who is gone stays", 180),
    limit("close_timeout", 60, " seconds are a lot: a peer that does not answer", 30),
    limit("max_read_pause", 3600, " seconds are a lot: a peer that is not read", 300),
    limit("max_read_pause", 1, " seconds are little: one slow handler", 5),
    limit("byte_rate_grace", 300, " seconds are a lot: a message may trickle in", 60),
    limit("min_byte_rate", 0, " is little: a message may trickle in for ever", 64),
    limit("messages_per_second", 1_000_000, " is a lot: one client may keep a core busy", 10_000),
    limit("messages_per_second", 0.5, " is little: clients that only answer", 1),
    limit("message_burst", 1_000_000, " is a lot: one client may keep a core busy", 100_000),
    limit("bytes_per_second", 1_000_000_000, " is a lot: one client may fill the line", 104_857_600),
    limit("byte_burst", 1_000_000_000, " is a lot: one client may fill the line", 268_435_456),
    limit("frames_per_second", 1_000_000, " is a lot: one client may keep a core busy", 50_000),
    limit("frame_burst", 1_000_000, " is a lot: one client may keep a core busy", 500_000),
    limit("max_errors", 100_000, " is a lot: a client that sends nothing but rubbish", 1000),
    limit("outbox_bytes", 33_554_432, " is a lot: every slow reader may", 16_777_216),
    limit("outbox_messages", 1_000_000, " is a lot: every slow reader may", 100_000),
    limit("write_timeout", 600, " seconds are a lot: a reader that takes nothing", 120),
    limit("write_timeout", 1, " seconds are little: a phone that changes", 5),
    limit("replay_events", 1_000_000, " is a lot: clients that come back at once", 100_000),
    limit("replay_bytes", 268_435_456, " is a lot: clients that come back at once", 67_108_864),
    limit("reply_bytes", 1_000_000_000, " is a lot: every user may", 268_435_456),
    limit("snapshot_timeout", 120, " seconds are a lot: a client shows nothing", 30),
    limit("idempotency_window", 1_000_000, " seconds are a lot: every reply", 86_400),
    limit("idempotency_window", 60, " seconds are little: after a break", 120),
    limit("resume_timeout", 300, " seconds are a lot: a connection that never says", 60),
    limit("handler_warning", 60, " seconds are a lot: a handler that holds up", 30),
    limit("heartbeat_interval", 1, " seconds are little: it wakes phones", 5),
    Case(
        "limits.heartbeat_interval",
        "[limits]\nheartbeat_interval = 60\nheartbeat_timeout = 180\n",
        "proxies close",
        "[limits]\nheartbeat_interval = 59\nheartbeat_timeout = 180\n",
    ),
    Case(
        "limits.heartbeat_timeout",
        "[limits]\nheartbeat_timeout = 40\n",
        "a single lost heartbeat",
        "[limits]\nheartbeat_timeout = 60\n",
    ),
    limit("idle_timeout", 20, " seconds are little: who only reads is closed", 0),
    Case(
        "limits.idle_timeout",
        "[limits]\nidle_timeout = 600\n",
        "it closes no event stream",
        '[limits]\nidle_timeout = 600\n[server]\nsse_path = ""\n',
    ),
    Case(
        "limits.inbox_messages",
        "[limits]\ninbox_messages = 2048\n",
        "while its handler hangs, a connection may have 128 MiB waiting",
        "[limits]\ninbox_messages = 1024\n",
    ),
    Case(
        "limits.min_byte_rate",
        "[limits]\nmin_byte_rate = 100000\n",
        "nearly as much as bytes_per_second",
        "[limits]\nmin_byte_rate = 1024\n",
    ),
]

ROOMS = [
    Case(
        'rooms."chat:*".history_size',
        '[rooms."chat:*"]\nhistory_size = 100000\n',
        "each of these rooms may keep 12.2 GiB of events",
        '[rooms."chat:*"]\nhistory_size = 100000\n[limits]\nmax_event_size = 10000\n',
    ),
    Case(
        'rooms."chat:*".history_ttl',
        '[rooms."chat:*"]\nhistory_ttl = 31536000\n',
        "what people wrote is kept for 365 days",
        '[rooms."chat:*"]\nhistory_ttl = 2592000\n',
    ),
    Case(
        'rooms."chat:*".conflate_rate',
        '[rooms."chat:*"]\nconflate_rate = 500\n',
        "500 updates a second are more than a screen shows",
        '[rooms."chat:*"]\nconflate_rate = 60\n',
    ),
    Case(
        'rooms."chat:*".latest',
        '[rooms."chat:*"]\nlatest = true\nhistory_size = 20000\n[limits]\nmax_event_size = 10000\n',
        "the first who joins a room waits until a node has read 20,000 events",
        '[rooms."chat:*"]\nlatest = true\nhistory_size = 10000\n[limits]\nmax_event_size = 10000\n',
    ),
    Case(
        'rooms."*".presence',
        '[rooms."*"]\npresence = true\n',
        "who is where is told in every room",
        PRESENCE,
    ),
    Case(
        'rooms."chat:*".leave_grace',
        PRESENCE + "leave_grace = 0\n",
        "every reload of a page is told",
        '[rooms."chat:*"]\nleave_grace = 0\n',
    ),
    Case(
        'rooms."chat:*".leave_grace',
        PRESENCE + "leave_grace = 600\n",
        "who has left is shown for 600 seconds more",
        PRESENCE + "leave_grace = 60\n",
    ),
]

API = '[api]\nkeys = ["env:CHAT_SECRET"]\n'

PUBLISHING = [
    Case("api.keys", '[api]\nkeys = ["env:CHAT_SECRET", "env:CHAT_WEAK"]\n', "number 2 is short or of few", API),
    Case("api.keys", '[api]\nkeys = ["env:CHAT_SHORT"]\n', "number 1 is short or of few", API),
    Case("api.keys", '[api]\nkeys = ["7h1s15n07h1ngandtoolong"]\n', "the secret stands in roomwire.toml", API),
    Case(
        "api.keys",
        API + '[server]\nhost = "0.0.0.0"\n',
        "they come to 0.0.0.0 without TLS",
        API + '[server]\nhost = "0.0.0.0"\nproxy_headers = true\n',
    ),
    Case("api.max_body", API + "max_body = 131072\n", "an event may have 131072 bytes", API),
    Case("api.max_body", API + "max_body = 16777217\n", "16777217 bytes are a lot", API + "max_body = 16777216\n"),
    Case("api.max_batch", API + "max_batch = 10001\n", "10001 are a lot", API + "max_batch = 10000\n"),
]

CASES = [*ACCESS, *NETWORK, *PUBLISHING, *LIMITS, *ROOMS]


BUS_MODULE = """
from pydantic import BaseModel, ConfigDict, SecretStr

from roomwire.backplanes.memory import MemoryBackplane


class Options(BaseModel):
    model_config = ConfigDict(extra="forbid")

    url: str = ""
    servers: list[str] = []
    password: SecretStr | None = None


class Bus(MemoryBackplane):
    Options = Options

    def __init__(self, options: Options) -> None:
        super().__init__()
"""


def configured(project: Project, toml: str) -> None:
    options = "" if "[auth.options]" in toml or "anonymous" in toml else SHARED
    project.write("roomwire.toml", 'app = "chatapp:app"\n' + toml + options)


def warnings_of(project: Project, *arguments: str, env: dict[str, str] | None = None) -> list[dict[str, Any]]:
    result = project.call("check", "--json", *arguments, env=env)
    assert result.exit_code == 0, result.stderr
    warnings: list[dict[str, Any]] = json.loads(result.stdout)["warnings"]
    return warnings


@pytest.fixture
def furnished(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project with what the cases name: a certificate, folders, secrets and a backplane."""
    certificate = trustme.CA().issue_cert("localhost")
    for name, mode in (("good.pem", 0o640), ("readable.pem", 0o644)):
        path = project.folder / name
        path.write_bytes(certificate.private_key_and_cert_chain_pem.bytes())
        path.chmod(mode)
    for name, mode in (("ours", 0o755), ("everybodys", 0o777)):
        (project.folder / name).mkdir()
        (project.folder / name).chmod(mode)
    project.write("chatbus.py", BUS_MODULE)
    monkeypatch.setenv("CHAT_WEAK", "123" * 20)
    monkeypatch.setenv("CHAT_SHORT", "0123456789abcde")
    monkeypatch.setenv("CHAT_URL", "rediss://chat:7h1s15n07h1ng@redis.internal")
    return project


class TestNothingToSay:
    def test_text(self, project: Project) -> None:
        result = project.call("check")
        assert (result.exit_code, result.stderr) == (0, "")
        assert result.stdout.splitlines() == [
            "chatapp:app: application and adapters load",
            "roomwire.toml: correct",
            "no warnings",
        ]

    def test_json(self, project: Project) -> None:
        assert json.loads(project.call("check", "--json").stdout) == {"app": "chatapp:app", "warnings": []}

    def test_strict(self, project: Project) -> None:
        assert project.call("check", "--strict").exit_code == 0

    @pytest.mark.parametrize(
        "toml",
        [
            '[server]\nhost = "0.0.0.0"\nproxy_headers = true\n',
            '[server]\nhost = "0.0.0.0"\nfd = 3\n',
        ],
    )
    def test_somebody_else_ends_tls(self, project: Project, toml: str) -> None:
        configured(project, toml)
        assert not [item for item in warnings_of(project) if "served without TLS" in item["warning"]]

    @pytest.mark.parametrize("flag", [["--uds", "chat.sock"], ["--fd", "3"]])
    def test_a_flag_that_overrides_the_file(self, project: Project, flag: list[str]) -> None:
        configured(project, '[server]\nhost = "127.0.0.1"\nport = 8000\n[auth.options]\nsources = ["header"]\n' + REST)
        assert warnings_of(project, *flag) == []

    def test_limits_that_are_raised_for_a_benchmark_and_are_not_hostile(self, project: Project) -> None:
        configured(project, "[limits]\nmessages_per_second = 1000\nmessage_burst = 2000\nmax_connections = 100\n")
        assert warnings_of(project) == []


class TestWarnings:
    @pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.key}: {case.text[:24]}")
    def test_each_is_raised_and_silenced(self, furnished: Project, case: Case) -> None:
        configured(furnished, case.unsafe)
        found = [
            item for item in warnings_of(furnished) if (item["key"], item["warning"][: len(case.text)]) == case[::2]
        ]
        assert len(found) == 1
        assert found[0]["change"]
        configured(furnished, case.safe)
        warned = [(item["key"], item["warning"][: len(case.text)]) for item in warnings_of(furnished)]
        assert (case.key, case.text) not in warned

    def test_every_limit_that_can_be_unsafe_is_covered(self) -> None:
        covered = {case.key for case in CASES}
        assert {f"limits.{name}" for name in (*limits._MOST, *limits._LEAST)} <= covered

    def test_the_page_has_every_setting(self) -> None:
        page = (Path(__file__).parents[2] / "docs" / "how-to" / "check.md").read_text()
        names = {case.key.rpartition(".")[2] for case in CASES} - {
            "url",
            "servers",
        }  # options of the tests' own backplane
        assert [name for name in sorted(names) if f"`{name}`" not in page and f"`options.{name}`" not in page] == []

    def test_the_defaults_are_well_inside(self) -> None:
        for name, (most, _) in limits._MOST.items():
            assert getattr(Limits(), name) <= most / 2
        for name, (least, _) in limits._LEAST.items():
            assert getattr(Limits(), name) >= least * 2

    def test_the_line_to_change_stands_below(self, project: Project) -> None:
        configured(project, "[server]\ncompression = true\n")
        lines = project.call("check").stdout.splitlines()
        assert lines[2].startswith("warning: server.compression: ")
        assert lines[3].strip() == "[server] compression = false"
        assert lines[4] == "1 warning"

    def test_tokens_in_the_access_log_of_a_proxy(self, project: Project) -> None:
        configured(project, "[server]\nproxy_headers = true\n")
        assert "warning: auth.options.sources: " in project.call("check").stdout
        project.write(
            "roomwire.toml",
            'app = "chatapp:app"\n[server]\nproxy_headers = true\n[auth.options]\n'
            'sources = ["header"]\nalgorithms = ["HS256"]\nsecret = "env:CHAT_SECRET"\n',
        )
        assert project.call("check").stdout.endswith("no warnings\n")

    def test_a_secret_in_the_file(self, project: Project) -> None:
        project.configure(f'secret = "{SECRET}"', replace='secret = "env:CHAT_SECRET"')
        result = project.call("check")
        assert "warning: auth.options.secret: the secret stands in roomwire.toml" in result.stdout
        assert SECRET not in result.output

    def test_a_variable_that_nobody_reads(self, project: Project) -> None:
        result = project.call("check", env={"ROOMWIRE_PORT": "1"})
        assert "warning: environment: ROOMWIRE_PORT is set and nothing reads it" in result.stdout

    def test_where_a_setting_is_overridden_stands_beside_the_line(self, project: Project) -> None:
        (found,) = warnings_of(project, env={"ROOMWIRE_SERVER__COMPRESSION": "1"})
        assert found["change"] == "[server] compression = false (set by environment: ROOMWIRE_SERVER__COMPRESSION)"
        (found,) = warnings_of(project, "--log-level", "debug")
        assert found["change"] == '[logging] level = "info" (set by --log-level)'

    def test_strict(self, project: Project) -> None:
        project.configure("compression = true\nport = 0", replace="port = 0")
        assert project.call("check").exit_code == 0
        assert project.call("check", "--strict").exit_code == 1


class TestThisMachine:
    def test_fewer_files_than_connections(self, project: Project) -> None:
        configured(project, "[limits]\nmax_connections = 800\n")
        with open_files(864):
            assert warnings_of(project) == []
        with open_files(863):
            (found,) = warnings_of(project)
        assert found["key"] == "limits.max_connections"
        assert found["warning"] == "a process may open 863 files here, and a connection is one"
        assert found["change"].startswith("ulimit -n 864, or LimitNOFILE=864 in the service; or [limits] max_conn")

    def test_the_portable_shell_needs_two_for_each(self, project: Project) -> None:
        configured(project, '[server]\nshell = "portable"\n[limits]\nmax_connections = 400\n')
        with open_files(863):
            (found,) = warnings_of(project)
        assert found["change"].endswith("[limits] max_connections = 399")
        with open_files(864):
            assert warnings_of(project) == []

    def test_the_default_is_a_ceiling_and_no_plan(self, project: Project) -> None:
        with open_files(1024):
            assert warnings_of(project) == []

    def test_more_memory_for_one_user_than_there_is(self, project: Project) -> None:
        most = (machine._memory() - Limits().reply_bytes) // machine.worst_connection(Limits())
        assert most > 5, "the tests need more memory"
        text = "one user may make the node hold"
        for count, warned in ((most, False), (most + 1, True)):
            configured(project, f"[limits]\nconnections_per_user = {count}\n")
            found = [item for item in warnings_of(project) if item["warning"].startswith(text)]
            assert bool(found) is warned
        assert found[0]["key"] == "limits.connections_per_user"
        assert found[0]["change"].startswith(f"[limits] connections_per_user = {most}; or less of inbox_messages")

    def test_without_accounts_everybody_is_one_user(self, project: Project) -> None:
        most = machine._memory() // (machine.worst_connection(Limits()) + Limits().reply_bytes)
        for count, warned in ((most, False), (most + 1, True)):
            configured(project, f'[auth]\ntype = "anonymous"\n[limits]\nmax_connections = {count}\n')
            found = [item for item in warnings_of(project) if item["warning"].startswith("anybody may make the node")]
            assert bool(found) is warned
        assert found[0]["key"] == "limits.max_connections"

    def test_each_worker_has_as_many_of_anybody_and_a_user_has_his_in_all(self, project: Project) -> None:
        worst, replies = machine.worst_connection(Limits()), Limits().reply_bytes
        each = machine._memory() // (worst + replies) // 2
        cluster = '[server]\nworkers = 2\n[backplane]\ntype = "redis"\n'
        for count, warned in ((each, False), (each + 1, True)):
            configured(project, f'{cluster}[auth]\ntype = "anonymous"\n[limits]\nmax_connections = {count}\n')
            found = [item for item in warnings_of(project) if item["warning"].startswith("anybody may make the 2 work")]
            assert bool(found) is warned
        assert found[0]["change"].startswith(f"[limits] max_connections = {each}; or less of inbox_messages")
        user = (machine._memory() - replies) // worst
        for count, warned in ((user, False), (user + 1, True)):
            configured(project, f"{cluster}[limits]\nconnections_per_user = {count}\n")
            found = [
                item for item in warnings_of(project) if item["warning"].startswith("one user may make the 2 work")
            ]
            assert bool(found) is warned

    def test_the_memory_of_this_machine(self) -> None:
        total = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal:"))
        assert 0 < machine._memory() <= int(total.split()[1]) * 1024


@contextmanager
def open_files(count: int) -> Iterator[None]:
    """So many files may be open in this process."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


class TestFaults:
    """They are those of `run`: exit code 2, one message, no traceback."""

    @pytest.mark.parametrize(
        ("arguments", "toml", "message"),
        [
            (["nowhere:app"], "", 'app "nowhere:app": there is no module nowhere in'),
            ([], "[sever]\n", 'roomwire.toml: sever: unknown key; did you mean "server"?'),
            (["--port", "-1"], "", "--port: expected a number greater than or equal to 0, found -1"),
            (["--backplane", "memori"], "", 'backplane.type = "memori": there is no backplane of that name'),
            (["--transport", "carrier:Pigeon"], "", 'server.transport = "carrier:Pigeon": there is no module carrier'),
            (["--workers", "2"], "", '--workers: the backplane "memory" joins no processes, found 2 workers'),
            ([], '[backplane.options]\nurl = "x"\n', "roomwire.toml: backplane.options.url: unknown key"),
            ([], "[server]\n", "roomwire.toml: not correct TOML: "),
            (["--config", "nope.toml"], "", "there is no configuration file nope.toml"),
            (["--env-file", "nope"], "", "--env-file: there is no file nope"),
        ],
    )
    def test_each(self, project: Project, arguments: list[str], toml: str, message: str) -> None:
        project.configure(toml)
        result = project.call("check", *arguments)
        assert result.exit_code == 2
        assert result.stderr.startswith(f"Error: {message}")
        assert "Traceback" not in result.output

    def test_an_origin_that_is_none(self, project: Project) -> None:
        project.configure('allowed_origins = ["example.com"]\nport = 0', replace="port = 0")
        result = project.call("check")
        assert (result.exit_code, result.stderr.partition(":")[0]) == (2, "Error")
        assert "server.allowed_origins: 'example.com' is not an origin" in result.stderr
