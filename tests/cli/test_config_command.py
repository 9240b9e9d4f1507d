"""``roomwire config``: the effective settings without secrets, and the schema."""

from __future__ import annotations

import json

import pytest

from tests.cli.conftest import CONFIG, SECRET, Project


class TestShow:
    def test_table(self, project: Project) -> None:
        result = project.call("config", "show")
        rows = {line.split()[0]: line.split(maxsplit=2)[1:] for line in result.stdout.splitlines()}
        assert rows["KEY"] == ["VALUE", "SOURCE"]
        assert rows["server.port"] == ["0", "roomwire.toml: server.port"]
        assert rows["server.host"] == ['"127.0.0.1"', "default"]
        assert rows["server.uds"] == ["-", "default"]
        assert '"env:CHAT_SECRET (set)"' in result.stdout

    def test_json(self, project: Project) -> None:
        found = json.loads(project.call("config", "show", "--json", env={"ROOMWIRE_LIMITS__ROOMS": "3"}).stdout)
        assert found["limits.rooms"] == {"value": 3, "source": "environment: ROOMWIRE_LIMITS__ROOMS"}
        assert found["auth.options.algorithms"]["value"] == ["HS256"]

    @pytest.mark.parametrize("arguments", [[], ["--json"]])
    @pytest.mark.parametrize(
        "secret",
        ['secret = "env:CHAT_SECRET"', 'secret = "file:secret.txt"', f'secret = "{SECRET}"'],
    )
    def test_no_secret(self, project: Project, arguments: list[str], secret: str) -> None:
        project.write("secret.txt", SECRET)
        project.write("roomwire.toml", CONFIG.replace('secret = "env:CHAT_SECRET"', secret))
        result = project.call("config", "show", *arguments)
        assert result.exit_code == 0
        assert SECRET not in result.output

    def test_what_a_plugin_declares_as_secret_is_one(self, project: Project) -> None:
        project.write(
            "chatapp_plugin.py",
            "from pydantic import BaseModel, SecretStr\n"
            "from roomwire.auth.none import AnonymousAuthenticator\n"
            "class Odd(AnonymousAuthenticator):\n"
            "    class Options(BaseModel):\n        motto: SecretStr\n        plain: str\n",
        )
        toml = f'[auth]\ntype = "chatapp_plugin:Odd"\n[auth.options]\nmotto = "{SECRET}"\nplain = "seen"\n'
        project.write("roomwire.toml", toml)
        found = json.loads(project.call("config", "show", "--json").stdout)
        assert found["auth.options.plain"]["value"] == "seen"
        assert found["auth.options.motto"]["value"] == "***"

    def test_options_of_an_adapter_that_cannot_be_asked_are_all_secret(self, project: Project) -> None:
        project.write("roomwire.toml", f'[auth]\ntype = "nowhere:Odd"\n[auth.options]\nmotto = "{SECRET}"\n')
        result = project.call("config", "show")
        assert result.exit_code == 0
        assert SECRET not in result.output

    def test_an_adapter_that_does_not_exist_is_shown(self, project: Project) -> None:
        result = project.call("config", "show", env={"ROOMWIRE_BACKPLANE__TYPE": "nowhere"})
        assert result.exit_code == 0
        assert '"nowhere"' in result.stdout

    def test_a_variable_that_nobody_reads(self, project: Project) -> None:
        result = project.call("config", "show", env={"ROOMWIRE_PROT": "1"})
        assert result.stderr == "Warning: environment: ROOMWIRE_PROT is set and nothing reads it\n"

    def test_a_fault(self, project: Project) -> None:
        project.write(".env", "")
        result = project.call("config", "show")
        assert result.exit_code == 2
        assert result.stderr == (
            "Error: roomwire.toml: auth.options.secret: the environment variable CHAT_SECRET is not set\n"
        )


def test_schema(project: Project) -> None:
    result = project.call("config", "schema")
    schema = json.loads(result.stdout)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["additionalProperties"] is False
    server = schema["$defs"]["ServerSettings"]["properties"]
    assert (server["port"]["minimum"], server["port"]["maximum"]) == (0, 65535)
    assert server["drain_timeout"]["description"].startswith("Seconds")
    assert schema["$defs"]["Limits"]["additionalProperties"] is False
    assert "description" in schema["$defs"]["RoomPolicy"]["properties"]["history_size"]
