"""``roomwire check``: what is wrong, and what is unsafe."""

from __future__ import annotations

import json

import pytest

from tests.cli.conftest import SECRET, Project

TEXTS = [
    ("auth.type", '[auth]\ntype = "anonymous"\n', "anybody may connect"),
    ("server.allowed_origins", '[server]\nallowed_origins = ["*"]\n', "any web page may connect"),
    ("server.host", '[server]\nhost = "0.0.0.0"\n', "every interface is served without TLS"),
    ("server.host", '[server]\nhost = "192.0.2.1"\n', "192.0.2.1 is served without TLS"),
    ("server.compression", "[server]\ncompression = true\n", "it costs memory and CPU"),
    (
        "server.forwarded_allow_ips",
        '[server]\nproxy_headers = true\nforwarded_allow_ips = ["*"]\n',
        "every client may say that it comes from anywhere",
    ),
    ("limits.heartbeat_interval", "[limits]\nheartbeat_interval = 60\nheartbeat_timeout = 180\n", "proxies close"),
    ("limits.heartbeat_timeout", "[limits]\nheartbeat_timeout = 40\n", "a single lost heartbeat"),
    ("limits.connections_per_user", "[limits]\nconnections_per_user = 100000\n", "100000 is a lot"),
    ("limits.rooms", "[limits]\nrooms = 100000\n", "100000 is a lot"),
]


def configured(project: Project, toml: str, *, auth: bool = True) -> None:
    options = '[auth.options]\nalgorithms = ["HS256"]\nsecret = "env:CHAT_SECRET"\n' if auth else ""
    project.write("roomwire.toml", 'app = "chatapp:app"\n' + toml + options)


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
            '[server]\nhost = "0.0.0.0"\nuds = "/run/chat.sock"\n',
        ],
    )
    def test_somebody_else_ends_tls(self, project: Project, toml: str) -> None:
        configured(project, toml)
        keys = [item["key"] for item in json.loads(project.call("check", "--json").stdout)["warnings"]]
        assert "server.host" not in keys


class TestWarnings:
    @pytest.mark.parametrize(("key", "toml", "text"), TEXTS)
    def test_each(self, project: Project, key: str, toml: str, text: str) -> None:
        configured(project, toml, auth="anonymous" not in toml)
        found = {item["key"]: item for item in json.loads(project.call("check", "--json").stdout)["warnings"]}
        assert found[key]["warning"].startswith(text)
        assert found[key]["change"]

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

    def test_strict(self, project: Project) -> None:
        project.configure("compression = true\nport = 0", replace="port = 0")
        assert project.call("check").exit_code == 0
        assert project.call("check", "--strict").exit_code == 1


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
