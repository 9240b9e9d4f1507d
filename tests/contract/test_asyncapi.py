"""`roomwire asyncapi`: a document that AsyncAPI's own parser takes, the same for the same declarations."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from roomwire import App
from roomwire.cli import main
from roomwire.contract.asyncapi import asyncapi
from roomwire.contract.model import contract_of
from roomwire.contract.text import as_yaml
from tests.contract import application
from tests.js.node_client import HERE as JS
from tests.servers import NODE

INFO = {"title": "test", "version": "1"}
CONFIG = 'app = "tests.contract.application:app"\n[auth.options]\nalgorithms = ["HS256"]\nsecret = "%s"\n' % ("x" * 40)


def document_of(app: App) -> dict[str, Any]:
    return asyncapi(contract_of(app), info=INFO, servers={}, security={}, path="/ws")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "roomwire.toml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments), prog_name="roomwire")


def parsed(*files: Path) -> list[Any]:
    command = [str(NODE.require()), str(JS / "asyncapi.js"), *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    report: list[Any] = json.loads(done.stdout)
    return report


def test_the_official_parser_takes_it_as_json_and_as_yaml_and_refuses_a_wrong_one(folder: Path) -> None:
    for name in ("a.json", "a.yaml"):
        assert call("asyncapi", "--format", name[2:], "-o", name).exit_code == 0
    document = json.loads((folder / "a.json").read_text())
    document["operations"]["send.heartbeat"]["messages"][0]["$ref"] = "#/channels/nowhere"
    (folder / "wrong.json").write_text(json.dumps(document))
    as_json_, as_yaml_, wrong = parsed(folder / "a.json", folder / "a.yaml", folder / "wrong.json")
    assert as_json_["errors"] == []
    assert as_json_ == as_yaml_
    assert wrong["errors"] != []
    assert as_json_["channels"] == ["/ws", "board:{a}:{b}", "chat:lobby", "chat:{channel}"]
    assert ["receive.client.ping", "receive"] in as_json_["operations"]
    assert ["send.server.message.new", "send"] in as_json_["operations"]
    assert {f"send.{event}" for event in ("session.welcome", "room.state", "presence.join", "heartbeat")} <= {
        name for name, _ in as_json_["operations"]
    }


def test_the_order_of_declarations_does_not_matter() -> None:
    assert json.dumps(document_of(application.make())) == json.dumps(document_of(application.make(backwards=True)))


def test_every_reference_leads_somewhere() -> None:
    document = document_of(application.app)
    references: list[str] = []

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            references.extend([value["$ref"]] if isinstance(value.get("$ref"), str) else [])
            value = list(value.values())
        for item in value if isinstance(value, list) else []:
            walk(item)

    walk(document)
    assert len(references) > 50
    for reference in references:
        found: Any = document
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]


class TestMessages:
    MESSAGES = document_of(application.app)["components"]["messages"]
    SCHEMAS = document_of(application.app)["components"]["schemas"]

    def test_a_handler_has_its_data_and_its_ack(self) -> None:
        payload = self.MESSAGES["client.message.send.chat_channel"]["payload"]
        assert payload["required"] == ["event", "room", "data"]
        assert payload["properties"]["data"] == {"$ref": "#/components/schemas/SendMessage"}
        ack = self.MESSAGES["client.message.send.chat_channel.ack"]["payload"]["properties"]["data"]
        assert ack == {"$ref": "#/components/schemas/Sent"}
        assert self.MESSAGES["client.message.send.chat_channel"]["summary"] == "Say something."

    def test_an_event_is_described_as_it_is_written(self) -> None:
        message = self.SCHEMAS["MessageNew"]
        assert message["required"] == ["from", "at", "mood", "pet", "tags"]
        assert self.MESSAGES["server.file.part"]["contentType"] == "application/octet-stream"

    def test_schemas_are_of_draft_7(self) -> None:
        assert self.SCHEMAS["Dog"]["properties"]["place"] == {
            "title": "Place",
            "type": "array",
            "minItems": 2,
            "maxItems": 2,
            "items": [{"type": "integer"}, {"type": "string"}],
            "additionalItems": False,
        }
        text = json.dumps(self.SCHEMAS)
        assert "prefixItems" not in text
        assert "discriminator" not in text

    def test_a_snapshot_is_the_state(self) -> None:
        state = self.MESSAGES["room.state.chat_channel"]["payload"]["properties"]["data"]["properties"]["state"]
        assert state["anyOf"][0]["items"] == {"$ref": "#/components/schemas/MessageNew"}


def test_check_tells_a_file_that_differs(folder: Path) -> None:
    assert call("asyncapi", "-o", "a.json").exit_code == 0
    assert call("asyncapi", "--check", "a.json").exit_code == 0
    (folder / "a.json").write_text((folder / "a.json").read_text().replace("Say something", "Say nothing"))
    for name in ("a.json", "missing.json"):
        result = call("asyncapi", "--check", name)
        assert (result.exit_code, result.output) == (1, f"{name} differs from what the application declares\n")


def test_servers_and_security_are_the_configuration_s_or_the_flag_s(folder: Path) -> None:
    document = json.loads(call("asyncapi").stdout)
    assert document["servers"]["main"]["host"] == "127.0.0.1:8000"
    assert list(document["components"]["securitySchemes"]) == ["bearer", "query", "subprotocol"]
    (folder / "roomwire.toml").write_text(CONFIG + 'sources = ["header"]\n')
    document = json.loads(call("asyncapi", "--url", "wss://chat.example/live").stdout)
    assert (document["servers"]["main"]["host"], document["servers"]["main"]["protocol"]) == ("chat.example", "wss")
    assert document["channels"]["connection"]["address"] == "/live"
    assert list(document["components"]["securitySchemes"]) == ["bearer"]
    assert call("asyncapi", "--url", "https://chat.example").exit_code == 2


def test_yaml_quotes_what_it_would_read_as_something_else() -> None:
    assert as_yaml({"a": "no", "b": "1", "c": [{"d": []}, "x: y"], "e": "\x85", "😀": None}) == (
        'a: "no"\nb: "1"\nc:\n  - d: []\n  - "x: y"\ne: "\\u0085"\n"😀": null\n'
    )


def test_help_imports_none_of_it() -> None:
    program = (
        "import sys\nfrom roomwire.cli import main\nmain(['--help'], standalone_mode=False)\n"
        "print([name for name in sys.modules if name.startswith('roomwire.contract')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.endswith("[]\n")
