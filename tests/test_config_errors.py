"""What is wrong, where, what was expected and found, and the remedy: each text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from pydantic import ValidationError

from roomwire.config import Loaded, ServerSettings, Settings, load
from roomwire.core.errors import ConfigError

SECRET = "correct-horse-battery-staple-0123456789"


def fault(
    tmp_path: Path,
    toml: str = "",
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, object] | None = None,
) -> str:
    (tmp_path / "roomwire.toml").write_text(toml)
    with pytest.raises(ConfigError) as caught:
        load(environ=environ or {}, overrides=overrides, cwd=tmp_path)
    return str(caught.value)


def loaded(tmp_path: Path, toml: str = "", environ: Mapping[str, str] | None = None) -> Loaded:
    (tmp_path / "roomwire.toml").write_text(toml)
    return load(environ=environ or {}, cwd=tmp_path)


class TestKeysOfAFile:
    @pytest.mark.parametrize(
        ("toml", "message"),
        [
            ("[server]\nprot = 1\n", 'server.prot: unknown key; did you mean "port"?'),
            ("[sever]\nport = 1\n", 'sever: unknown key; did you mean "server"?'),
            ("[limits]\nromms = 1\n", 'limits.romms: unknown key; did you mean "rooms"?'),
            ("[logging]\nzzz = 1\n", "logging.zzz: unknown key; known: format, level"),
            ("[backplane]\nurl = 1\n", "backplane.url: unknown key; known: options, type"),
            ('[rooms."a:*"]\npresense = true\n', 'rooms."a:*".presense: unknown key; did you mean "presence"?'),
            ('[server]\nport = "80"\n', 'server.port: expected a valid integer, found "80"'),
            ("[server]\nport = true\n", "server.port: expected a valid integer, found true"),
            ("[server]\nport = 70000\n", "server.port: expected a number less than or equal to 65535, found 70000"),
            ("[server]\nport = 1.5\n", "server.port: expected a valid integer, found 1.5"),
            ("[server]\nport = 2026-01-01\n", 'server.port: expected a valid integer, found "2026-01-01"'),
            ("[server]\nport = {a = 1}\n", "server.port: expected a valid integer, found a table"),
            ("server = 5\n", "server: expected a table, found 5"),
            ("[backplane]\noptions = 5\n", "backplane.options: expected a table, found 5"),
            ("[limits]\nrooms = 0\n", "limits.rooms: expected a number greater than 0, found 0"),
            ("[limits]\nheartbeat_interval = inf\n", "limits.heartbeat_interval: expected a finite number, found inf"),
            (
                '[limits]\non_connection_limit = "x"\n',
                "limits.on_connection_limit: expected 'refuse' or 'evict', found \"x\"",
            ),
            ('[server]\nallowed_origins = "*"\n', 'server.allowed_origins: expected an array, found "*"'),
            ("[server]\nallowed_origins = [1]\n", "server.allowed_origins.0: expected a valid string, found 1"),
            ('[rooms]\n"a:*" = 3\n', 'rooms."a:*": expected a table, found 3'),
            (
                '[rooms."a:*"]\nhistory_size = -1\n',
                'rooms."a:*".history_size: expected a number greater than or equal to 0, found -1',
            ),
            (
                '[rooms."a:*"]\nconflate_rate = 2000\n',
                'rooms."a:*".conflate_rate: expected a number less than or equal to 1000, found 2000',
            ),
            (
                '[server]\npath = "ws"\n',
                "server.path: expected a path that begins with / and has neither a query nor blanks, such as /ws",
            ),
            (
                '[server]\nforwarded_allow_ips = ["10.0.0.1/8"]\n',
                "server.forwarded_allow_ips.0: expected an IP address, a network such as 10.0.0.0/8, or '*':"
                " 10.0.0.1/8 has host bits set",
            ),
            (f"app = {'x' * 100!r}\n[logging]\nlevel = {'x' * 100!r}\n", None),
        ],
    )
    def test_text(self, tmp_path: Path, toml: str, message: str | None) -> None:
        text = fault(tmp_path, toml)
        if message is None:
            assert text.endswith('found "' + "x" * 56 + "...")
        else:
            assert text == "roomwire.toml: " + message

    def test_a_missing_half_is_named_in_the_file_of_the_other(self, tmp_path: Path) -> None:
        text = fault(tmp_path, '[server]\nssl_certfile = "c.pem"\n')
        assert text.startswith("roomwire.toml: server.ssl_keyfile: required with ssl_certfile;")

    def test_several_at_once(self, tmp_path: Path) -> None:
        text = fault(
            tmp_path,
            '[server]\nprot = 1\nport = "x"\n[auth.options]\nsecret = "env:NOPE"\n',
            environ={"ROOMWIRE_SEVER__PORT": "1", "ROOMWIRE_LIMITS__ROOMS": "many"},
        )
        assert text.splitlines() == [
            "5 settings are wrong:",
            '  environment: ROOMWIRE_SEVER__PORT: there is no section "sever"; did you mean ROOMWIRE_SERVER__PORT?',
            "  roomwire.toml: auth.options.secret: the environment variable NOPE is not set",
            '  roomwire.toml: server.port: expected a valid integer, found "x"',
            '  roomwire.toml: server.prot: unknown key; did you mean "port"?',
            '  environment: ROOMWIRE_LIMITS__ROOMS: expected a valid integer, found "many"',
        ]


class TestVariables:
    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("ROOMWIRE_SERVER__PROT", '"server" has no such key; did you mean ROOMWIRE_SERVER__PORT?'),
            ("ROOMWIRE_SEVER__PORT", 'there is no section "sever"; did you mean ROOMWIRE_SERVER__PORT?'),
            ("ROOMWIRE_ZZZ__QQQ", 'there is no section "zzz"'),
            ("ROOMWIRE_SERVER__PORT__X", '"server" has no tables of that name'),
            ("ROOMWIRE_ROOMS__LOBBY__PRESENCE", "policies of rooms stand in the configuration file only"),
            ("ROOMWIRE_ROOMS__LOBBY", "policies of rooms stand in the configuration file only"),
        ],
    )
    def test_an_unknown_setting_stops(self, tmp_path: Path, name: str, message: str) -> None:
        assert fault(tmp_path, environ={name: "1"}) == f"environment: {name}: {message}"

    def test_in_the_env_file_too(self, tmp_path: Path) -> None:
        (tmp_path / ".env").write_text("ROOMWIRE_SERVER__PROT=1\n")
        assert fault(tmp_path).startswith(".env: ROOMWIRE_SERVER__PROT: ")

    @pytest.mark.parametrize(
        ("name", "hint"),
        [
            ("ROOMWIRE_SERVER_PORT", "; did you mean ROOMWIRE_SERVER__PORT?"),
            ("ROOMWIRE_SOMETHING_OF_MY_OWN", ""),
            ("ROOMWIRE_HOME", ""),
            ("ROOMWIRE__", ""),
            ("roomwire_server__port", "; did you mean ROOMWIRE_SERVER__PORT?"),
        ],
    )
    def test_another_name_is_a_warning(self, tmp_path: Path, name: str, hint: str) -> None:
        assert loaded(tmp_path, environ={name: "1"}).warnings == [
            f"environment: {name} is set and nothing reads it{hint}"
        ]

    @pytest.mark.parametrize("name", ["ROOMWIRE_JWT_SECRET", "ROOMWIRE_JWT__SECRET"])
    def test_a_name_that_a_reference_reads_is_neither(self, tmp_path: Path, name: str) -> None:
        found = loaded(tmp_path, f'[auth.options]\nsecret = ["env:{name}"]\n', {name: SECRET})
        assert found.warnings == []

    def test_other_names_are_nobody_s_business(self, tmp_path: Path) -> None:
        assert loaded(tmp_path, environ={"ROOMWIRED": "1", "PATH": "/bin", "_ROOMWIRE_COMPLETE": "x"}).warnings == []

    def test_a_wrong_value_names_the_variable(self, tmp_path: Path) -> None:
        assert fault(tmp_path, environ={"ROOMWIRE_SERVER__PORT": "http"}) == (
            'environment: ROOMWIRE_SERVER__PORT: expected a valid integer, found "http"'
        )


class TestFlags:
    @pytest.mark.parametrize(
        ("key", "value", "message"),
        [
            ("server.port", -1, "--port: expected a number greater than or equal to 0, found -1"),
            (
                "server.ssl_keyfile",
                "k",
                "server.ssl_certfile (or ROOMWIRE_SERVER__SSL_CERTFILE): required with ssl_keyfile",
            ),
            (
                "logging.level",
                "loud",
                "--log-level: expected 'debug', 'info', 'warning', 'error' or 'critical', found \"loud\"",
            ),
            ("logging.format", "xml", "--log-format: expected 'text' or 'json', found \"xml\""),
            ("server.node", "a b", "--node: String should match pattern '^[A-Za-z0-9._-]{1,64}$'"),
        ],
    )
    def test_the_flag_is_named(self, tmp_path: Path, key: str, value: object, message: str) -> None:
        assert fault(tmp_path, overrides={key: value}) == message


class TestAcrossKeys:
    @pytest.mark.parametrize(
        ("toml", "message"),
        [
            (
                "[limits]\nheartbeat_timeout = 30\n",
                "limits.heartbeat_timeout: expected more seconds than heartbeat_interval (30), found 30",
            ),
            (
                "[limits]\nidempotency_window = 30\n",
                "limits.idempotency_window: expected more than 30 seconds, since clients stop sending a message again"
                " 30 seconds before its end, found 30",
            ),
            (
                "[limits]\nframe_burst = 1000\n",
                "limits.frame_burst: expected at least max_fragments (1024), found 1000",
            ),
            (
                "[limits]\nmax_message_size = 2000000\n",
                "limits.byte_burst: expected at least max_message_size (2000000), found 1048576",
            ),
            ("[limits]\noutbox_bytes = 9\n", "limits.outbox_bytes: expected at least max_event_size (131072), found 9"),
            (
                "[limits]\nmax_pending_handshakes = 9\n",
                "limits.max_pending_handshakes: expected at least max_pending_per_ip (200), found 9",
            ),
            (
                "[server]\nfd = 3\nuds = '/s'\n",
                "server.uds: a node listens on one socket: leave out either uds or fd",
            ),
            ("[server]\nssl_keyfile = '/k'\n", "server.ssl_certfile: required with ssl_keyfile"),
            (
                "[server]\nssl_certfile = '/c'\n",
                "server.ssl_keyfile: required with ssl_certfile; where one file holds both, name it in both settings",
            ),
            (
                f"[server]\nssl_keyfile_password = '{SECRET}'\n",
                "server.ssl_keyfile_password: there is no ssl_keyfile that it could open",
            ),
            (
                "[server]\nworkers = 4\n",
                'server.workers: the backplane "memory" joins no processes, found 4 workers: set workers = 1,'
                ' or change the line type = "memory" of [backplane] to a backplane that joins nodes',
            ),
            (
                f'[server]\nworkers = 4\nnode = "{"n" * 58}"\n[backplane]\ntype = "acme:Backplane"\n',
                "server.node: at most 57 characters where there are workers, which append a number to it",
            ),
            (
                "[server]\npath = '/api/publish'\n[api]\nkeys = ['k']\n",
                "server.path: the publish API has this path ([api] keys): choose another one",
            ),
            (
                "[server]\npath = '/sse'\n",
                "server.sse_path: the WebSocket endpoint has this path (server.path)"
                ': choose another one, or "" for no event streams',
            ),
            (
                "[server]\nsse_path = '/api/publish'\n[api]\nkeys = ['k']\n",
                "server.sse_path: the publish API has this path ([api] keys)"
                ': choose another one, or "" for no event streams',
            ),
            (
                "[server]\nsse_path = '/metrics'\n[metrics]\nenabled = true\n",
                "server.sse_path: metrics have this path ([metrics] enabled)"
                ': choose another one, or "" for no event streams',
            ),
            (
                "[server]\nsse_path = '/readyz'\n",
                'server.sse_path: health checks have this path: choose another one, or "" for no event streams',
            ),
            (
                '[rooms."a:{b"]\n',
                "rooms.\"a:{b\": the room pattern 'a:{b' has a stray brace; a parameter is {name}, and * has no name",
            ),
            (
                '[rooms."a:*"]\n[rooms."a:{b}"]\n',
                "rooms.\"a:{b}\": the room patterns 'a:*' and 'a:{b}' can match the same room,"
                " and nothing decides between them: make one more specific",
            ),
            (
                '[rooms."a:*"]\nconflate_rate = 0.001\n',
                'rooms."a:*".conflate_rate: expected 0, or at least 0.01 (one in 100 s), found 0.001',
            ),
            (
                '[rooms."a:*"]\nconflate_rate = 0\nconflate_key = "name"\n',
                'rooms."a:*".conflate_key: nothing is conflated: set conflate_rate or latest as well, or leave it out',
            ),
            (
                '[rooms."a:*"]\nhistory_size = 0\nlatest = true\n',
                'rooms."a:*".latest: the newest events are read from the history:'
                " set history_size to more than 0, or latest = false",
            ),
        ],
    )
    def test_text(self, tmp_path: Path, toml: str, message: str) -> None:
        text = fault(tmp_path, toml)
        assert text.removeprefix("roomwire.toml: ").replace(" (or ROOMWIRE_LIMITS__BYTE_BURST)", "") == message

    def test_in_code_too(self) -> None:
        with pytest.raises(ValidationError, match=r"server\.uds: a node listens on one socket"):
            Settings(server=ServerSettings(uds="/s", fd=3))


class TestSecretsInErrors:
    @pytest.mark.parametrize(
        ("toml", "environ", "end"),
        [
            ('[server]\nport = "env:P"\n', {"P": SECRET}, "found the value of env:P, which is not shown"),
            (
                '[server]\nallowed_origins = [1, "env:P"]\n',
                {"P": SECRET},
                "found the value of env:P, which is not shown",
            ),
            (f"[server]\nssl_keyfile_password = ['{SECRET}']\n", {}, "found a value that is not shown"),
            (f'[server]\nport = "redis://user:{SECRET}@host"\n', {}, 'found "redis://***@host"'),
            (f'[api]\nkeys = ["{SECRET} "]\n', {}, "since a header holds it"),
            (f'[api]\nkeys = "{SECRET}"\n', {}, "found a value that is not shown"),
            ('[api]\nkeys = ["env:P"]\n', {"P": SECRET + "\t"}, "since a header holds it"),
        ],
    )
    def test_are_not_shown(self, tmp_path: Path, toml: str, environ: dict[str, str], end: str) -> None:
        text = fault(tmp_path, toml, environ)
        assert SECRET not in text
        assert text.endswith(end)
