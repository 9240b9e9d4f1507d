"""`roomwire asyncapi`: a document that AsyncAPI's own parser takes, the same for the same declarations."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from roomwire import App
from roomwire.cli import main
from roomwire.contract.asyncapi import asyncapi
from roomwire.contract.model import contract_of
from roomwire.contract.text import as_yaml
from tests.contract import application, hostile
from tests.js.node_client import HERE as JS
from tests.servers import NODE

INFO = {"title": "test", "version": "1"}
CONFIG = 'app = "tests.contract.application:app"\n[auth.options]\nalgorithms = ["HS256"]\nsecret = "%s"\n' % ("x" * 40)


def document_of(app: App) -> dict[str, Any]:
    return asyncapi(contract_of(app), info=INFO, servers={}, security={}, path="/ws", stream="/sse")


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


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """What AsyncAPI's parser says of each document, in one run."""
    folder = tmp_path_factory.mktemp("asyncapi")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        (folder / "roomwire.toml").write_text(CONFIG)
        for name in ("a.json", "a.yaml"):
            assert call("asyncapi", "--format", name[2:], "-o", name).exit_code == 0
    document = json.loads((folder / "a.json").read_text())
    document["operations"]["send.heartbeat"]["messages"][0]["$ref"] = "#/channels/nowhere"
    (folder / "wrong.json").write_text(json.dumps(document))
    (folder / "hostile.json").write_text(json.dumps(document_of(hostile.make()), allow_nan=False))
    names = ["a.json", "a.yaml", "wrong.json", "hostile.json"]
    return dict(zip(names, parsed(*(folder / name for name in names)), strict=True))


def test_the_official_parser_takes_it_as_json_and_as_yaml_and_refuses_a_wrong_one(reports: Mapping[str, Any]) -> None:
    report = reports["a.json"]
    assert report["errors"] == []
    assert report == reports["a.yaml"]
    assert reports["wrong.json"]["errors"] != []
    assert report["channels"] == ["/ws", "board:{a}:{b}", "chat:lobby", "chat:{channel}", "/sse"]
    assert ["receive.client.ping", "receive"] in report["operations"]
    assert ["send.server.message.new", "send"] in report["operations"]
    assert ["send.stream", "send"] in report["operations"]
    assert {f"send.{event}" for event in ("session.welcome", "room.state", "presence.join", "heartbeat")} <= {
        name for name, _ in report["operations"]
    }


def test_the_order_of_declarations_does_not_matter() -> None:
    assert json.dumps(document_of(application.make())) == json.dumps(document_of(application.make(backwards=True)))
    assert len({json.dumps(document_of(hostile.make(seed))) for seed in range(5)}) == 1


class TestNamesThatAreHardToWriteDown:
    DOCUMENT = document_of(hostile.make())

    def test_the_official_parser_takes_them(self, reports: Mapping[str, Any]) -> None:
        assert reports["hostile.json"]["errors"] == []

    def test_two_that_differ_in_what_a_key_cannot_have_are_both_there(self) -> None:
        messages = self.DOCUMENT["components"]["messages"]
        names = [message["name"] for key, message in messages.items() if key.startswith("server.")]
        data = len(hostile.DATA) + len(hostile.TYPES)
        assert sorted({*hostile.EVENTS, "in.room"}) == sorted({*names} & {*hostile.EVENTS, "in.room"})
        assert len(names) == data + len(hostile.EVENTS) + len(hostile.ROOMS)
        addresses = {channel["address"] for channel in self.DOCUMENT["channels"].values()}
        assert {"a`b:{x}", "a_b:{x}", "x-{part1}-{part2}", "{part1}:{part2}"} <= addresses
        assert len(addresses) == len(hostile.ROOMS) + 2

    def test_an_event_that_is_called_like_the_reply_to_another(self) -> None:
        messages = self.DOCUMENT["components"]["messages"]
        names = [message["name"] for key, message in messages.items() if key.startswith("client.x")]
        assert sorted(names) == ["ack", "ack", "x", "x.ack"]

    def test_fields_that_are_called_like_words_of_json_schema(self) -> None:
        fields = self.DOCUMENT["components"]["schemas"]["Fields-Input"]["properties"]
        assert "items" in fields["default"]
        assert {"discriminator", "examples"} <= fields.keys()

    def test_no_field_is_required_that_is_not_there(self) -> None:
        schemas = self.DOCUMENT["components"]["schemas"]
        assert "hidden" in schemas["Fields-Input"]["properties"]
        for schema in schemas.values():
            assert set(schema.get("required", ())) <= schema.get("properties", {}).keys()

    def test_an_infinite_default_is_left_out(self) -> None:
        fields = self.DOCUMENT["components"]["schemas"]["Fields-Input"]["properties"]
        assert "default" not in fields["endless"]
        assert fields["rank"] == {"$ref": "#/components/schemas/Rank"}


def test_of_rooms_the_pattern_with_names_is_told() -> None:
    app = App()
    app.event("one", int, room="chat:*")
    app.event("other", int, room="chat:{channel}")
    app.event("third", int, room="chat:{a}")
    document = document_of(app)
    assert [channel["address"] for channel in document["channels"].values()] == ["/ws", "chat:{a}", "/sse"]


class TestStreams:
    DOCUMENT = document_of(application.app)

    def test_have_what_is_sent_in_a_room_and_no_replies(self) -> None:
        channel, operation = self.DOCUMENT["channels"]["stream"], self.DOCUMENT["operations"]["send.stream"]
        assert (channel["address"], operation["action"]) == ("/sse", "send")
        keys = set(channel["messages"])
        assert {"session.welcome", "room.state", "heartbeat", "server.message.new", "room.state.chat_channel"} <= keys
        assert not {key for key in keys if key.startswith("client.") or key.endswith("ack")} | keys & {"error"}
        assert len(operation["messages"]) == len(keys)
        assert operation["bindings"]["http"]["query"]["required"] == ["room"]

    def test_bytes_are_base64_there(self) -> None:
        assert "server.file.part" not in self.DOCUMENT["channels"]["stream"]["messages"]
        payload = self.DOCUMENT["components"]["messages"]["stream.file.part"]["payload"]
        assert payload["properties"]["encoding"] == {"const": "base64"}
        assert {"data", "encoding"} <= set(payload["required"])

    def test_none_where_they_are_switched_off_or_nobody_gets_in(self, folder: Path) -> None:
        for lines in ('sources = ["subprotocol"]\n', '[server]\nsse_path = ""\n'):
            (folder / "roomwire.toml").write_text(CONFIG + lines)
            document = json.loads(call("asyncapi").stdout)
            assert "stream" not in document["channels"]
            assert list(document["servers"]) == ["main"]


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


class TestServersAndSecurity:
    def test_are_the_configuration_s(self, folder: Path) -> None:
        document = json.loads(call("asyncapi").stdout)
        assert document["servers"]["main"]["host"] == "127.0.0.1:8000"
        assert document["servers"]["streams"]["protocol"] == "http"
        assert list(document["components"]["securitySchemes"]) == ["bearer", "query", "subprotocol"]
        assert [len(server["security"]) for server in document["servers"].values()] == [3, 2]
        assert document["channels"]["stream"]["servers"] == [{"$ref": "#/servers/streams"}]
        assert document["channels"]["room.chat_channel"]["servers"] == [{"$ref": "#/servers/main"}]

    @pytest.mark.parametrize(
        ("url", "socket", "stream"),
        [
            ("wss://chat.example/live", "/live", "/sse"),
            ("wss://chat.example/chat/ws", "/chat/ws", "/chat/sse"),
            ("wss://chat.example", "/", "/sse"),
        ],
    )
    def test_or_the_flag_s(self, folder: Path, url: str, socket: str, stream: str) -> None:
        (folder / "roomwire.toml").write_text(CONFIG + 'sources = ["header"]\n')
        document = json.loads(call("asyncapi", "--url", url).stdout)
        servers = [(server["host"], server["protocol"]) for server in document["servers"].values()]
        assert servers == [("chat.example", "wss"), ("chat.example", "https")]
        assert document["channels"]["connection"]["address"] == socket
        assert document["channels"]["stream"]["address"] == stream
        assert list(document["components"]["securitySchemes"]) == ["bearer"]

    def test_a_url_that_is_none(self, folder: Path) -> None:
        assert call("asyncapi", "--url", "https://chat.example").exit_code == 2

    @pytest.mark.parametrize(
        ("kind", "text"),
        [
            ("anonymous", "Anybody may connect"),
            ("roomwire.auth.none:AnonymousAuthenticator", "decided by the authenticator roomwire.auth.none:Anonymous"),
        ],
    )
    def test_of_other_authenticators_no_more_is_said_than_is_known(self, folder: Path, kind: str, text: str) -> None:
        (folder / "roomwire.toml").write_text(f'app = "tests.contract.application:app"\n[auth]\ntype = "{kind}"\n')
        document = json.loads(call("asyncapi").stdout)
        assert text in document["servers"]["main"]["description"]
        assert "security" not in document["servers"]["main"]
        assert "securitySchemes" not in document["components"]


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
