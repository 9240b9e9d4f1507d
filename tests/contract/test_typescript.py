"""`roomwire types`: what it writes is TypeScript, and holds a client to the application's declarations."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from roomwire import App
from roomwire.cli import main
from roomwire.contract.model import contract_of
from roomwire.contract.printer import Printer, comment, identifier, key
from roomwire.contract.typescript import typescript
from tests.contract import application
from tests.js.node_client import HERE as JS
from tests.js.test_types import DECLARATIONS, run_tsc

# tsc reads the declarations of the browser as well; on a busy machine that takes its time.
pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def types(tmp_path: Path) -> Path:
    """The folder of uses, with the contract that was made, beside the client's declarations."""
    types = tmp_path / "tests" / "contract" / "types"
    shutil.copytree(Path(__file__).parent / "types", types)
    shutil.copytree(DECLARATIONS.parent, tmp_path / "src" / "roomwire" / "client" / "js")
    for name in ("node_modules", "package.json"):
        (tmp_path / "tests" / name).symlink_to(JS / name)
    return types


def test_right_uses_are_accepted_and_wrong_ones_are_not(types: Path) -> None:
    (types / "contract.ts").write_text(typescript(contract_of(application.app)))
    assert run_tsc(types) == (0, "")


def test_a_declaration_that_changed_is_found_in_the_client(types: Path) -> None:
    """The test above can fail: a field that has another name now, and a mistake that is none any more."""
    text = typescript(contract_of(application.app))
    (types / "contract.ts").write_text(text.replace("content: string;", "text: string;"))
    code, report = run_tsc(types)
    assert code != 0
    assert {"TS2353", "TS2578"} <= set(re.findall(r"uses\.ts\(\d+,\d+\): error (TS\d+)", report)), report


def test_the_order_of_declarations_does_not_matter() -> None:
    assert typescript(contract_of(application.make())) == typescript(contract_of(application.make(backwards=True)))


def test_an_application_without_anything(types: Path) -> None:
    text = typescript(contract_of(App()))
    assert "export interface ServerEvents {\n}" in text
    (types / "uses.ts").write_text('import type { Rooms } from "./contract.js";\nexport const rooms: Rooms = [];\n')
    (types / "contract.ts").write_text(text)
    assert run_tsc(types) == (0, "")


def test_the_command_writes_and_checks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "roomwire.toml").write_text("")

    def call(*arguments: str) -> int:
        target = ["types", "--app", "tests.contract.application:make", "--factory", *arguments]
        return CliRunner().invoke(main, target, prog_name="roomwire").exit_code

    assert (call("-o", "contract.ts"), call("--check", "contract.ts")) == (0, 0)
    Path("contract.ts").write_text("old")
    assert (call("--check", "contract.ts"), call("--check", "a", "-o", "b")) == (1, 2)


@pytest.mark.parametrize(
    ("schema", "printed"),
    [
        ({}, "unknown"),
        (True, "unknown"),
        (False, "never"),
        ({"type": "string", "format": "date-time"}, "string"),
        ({"type": ["integer", "null"]}, "number | null"),
        ({"const": 'a`"b'}, '"a`\\"b"'),
        ({"enum": [1, "a", None, True]}, '1 | "a" | null | true'),
        ({"anyOf": [{"type": "integer"}, {"type": "number"}, {"type": "null"}]}, "number | null"),
        ({"anyOf": [{"type": "string"}, {}]}, "unknown"),
        ({"oneOf": [{"$ref": "#/x/A"}, {"$ref": "#/x/B-b"}], "discriminator": {}}, "A | B"),
        ({"allOf": [{"$ref": "#/x/A"}, {"anyOf": [{"const": 1}, {"const": 2}]}]}, "A & (1 | 2)"),
        ({"type": "array", "items": {"type": ["string", "null"]}}, "(string | null)[]"),
        ({"type": "array"}, "unknown[]"),
        ({"type": "array", "maxItems": 0}, "[]"),
        ({"type": "array", "prefixItems": [{"type": "string"}], "minItems": 1, "maxItems": 1}, "[string]"),
        ({"type": "array", "prefixItems": [{}, {"type": "null"}], "minItems": 1}, "[unknown, (null)?, ...unknown[]]"),
        ({"type": "object"}, "{ [key: string]: unknown }"),
        ({"type": "object", "additionalProperties": {"type": "number"}}, "{ [key: string]: number }"),
        ({"type": "object", "additionalProperties": False}, "{ [key: string]: never }"),
        ({"type": "object", "patternProperties": {"^a": {"type": "null"}}}, "{ [key: string]: null }"),
        (
            {"type": "object", "properties": {"a-b": {}, "c": {}}, "required": ["c"], "additionalProperties": True},
            '{\n  "a-b"?: unknown;\n  c: unknown;\n  [key: string]: unknown;\n}',
        ),
    ],
)
def test_a_schema_as_a_type(schema: Any, printed: str) -> None:
    assert Printer({"A": "A", "B-b": "B"}).type_of(schema) == printed


def test_names_are_safe() -> None:
    taken = {"Rooms"}
    names = ["Page[int]", "Page_int_", "Rooms", "class", "1st", "", "Message-Input", "é"]
    assert [identifier(name, taken) for name in names] == [
        "PageInt",
        "PageInt2",
        "Rooms2",
        "class_",
        "_1st",
        "_",
        "MessageInput",
        "_2",
    ]
    assert (key("a_1"), key("a.b")) == ("a_1", '"a.b"')
    assert comment("a */ b") == ["/** a *\\/ b */"]
