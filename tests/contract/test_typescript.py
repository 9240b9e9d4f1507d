"""`roomwire types`: what it writes is TypeScript, and holds a client to the application's declarations.

tsc runs once, over all folders of uses and contracts; each test reads the complaints of one folder.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner

from roomwire import App
from roomwire.cli import main
from roomwire.contract.model import contract_of
from roomwire.contract.printer import Printer, comment, identifier, key
from roomwire.contract.typescript import typescript
from tests.contract import application, hostile
from tests.js.node_client import HERE as JS
from tests.js.test_types import DECLARATIONS, run_tsc
from tests.pages import blocks_of

# tsc reads the declarations of the browser as well; on a busy machine that takes its time.
pytestmark = pytest.mark.timeout(180)

USES = Path(__file__).parent / "types"
PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "typed-contract.md"


def page_uses() -> tuple[str, str]:
    """The contract of the page's application, and the page's TypeScript."""
    blocks = blocks_of(PAGE.read_text())
    shop = ModuleType("shop")
    source = next(block.text for block in blocks if block.file == "shop.py")
    exec(compile(source, "shop.py", "exec", dont_inherit=True), vars(shop))
    return typescript(contract_of(shop.app)), next(block.text for block in blocks if block.language == "ts")


@pytest.fixture(scope="module")
def complaints(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """What tsc says of each folder; "" where it is content."""
    root = tmp_path_factory.mktemp("typescript")
    shutil.copytree(DECLARATIONS.parent, root / "src" / "roomwire" / "client" / "js")
    right = typescript(contract_of(application.app))
    uses = (USES / "right.ts").read_text()
    shop, page = page_uses()
    folders = {
        "right": (right, uses),
        # The test of it can fail: a field that has another name now, and a mistake that is none any more.
        "changed": (right.replace("content: string;", "text: string;"), uses),
        "empty": (
            typescript(contract_of(App())),
            'import type { Rooms } from "./contract.js";\nexport const rooms: Rooms = [];\n',
        ),
        "hostile": (typescript(contract_of(hostile.make())), (USES / "hostile.ts").read_text()),
        "page": (shop, page),
        "wrong_page": (shop, page.replace('"message.send", {', '"message.sent", {')),
    }
    tests = root / "tests"
    for name, (contract, text) in folders.items():
        folder = tests / "contract" / name
        folder.mkdir(parents=True)
        (folder / "contract.ts").write_text(contract)
        (folder / "uses.ts").write_text(text)
        # As the page has it: beside the contract.
        shutil.copy(DECLARATIONS, folder / "roomwire.d.ts")
    for name in ("node_modules", "package.json"):
        (tests / name).symlink_to(JS / name)
    shutil.copy(USES / "tsconfig.json", tests / "contract")
    code, report = run_tsc(tests / "contract")
    assert code != 0  # of the wrong ones
    found: dict[str, list[str]] = {name: [] for name in folders}
    for line in report.splitlines():
        # A complaint without a file, or about one that is shared, is everybody's.
        match = re.search(r"([a-z_]+)/(?:uses|contract|roomwire\.d)\.ts\(", line)
        for name in [match[1]] if match is not None and match[1] in found else [] if line.startswith(" ") else found:
            found[name].append(line)
    return {name: "\n".join(lines) for name, lines in found.items()}


def codes_of(complaints: str) -> set[str]:
    return set(re.findall(r"/uses\.ts\(\d+,\d+\): error (TS\d+)", complaints))


def test_right_uses_are_accepted_and_wrong_ones_are_not(complaints: Mapping[str, str]) -> None:
    assert complaints["right"] == ""


def test_a_declaration_that_changed_is_found_in_the_client(complaints: Mapping[str, str]) -> None:
    assert {"TS2353", "TS2578"} <= codes_of(complaints["changed"]), complaints["changed"]


def test_an_application_without_anything(complaints: Mapping[str, str]) -> None:
    assert complaints["empty"] == ""
    assert "export interface ServerEvents {\n}" in typescript(contract_of(App()))


def test_types_events_and_rooms_that_are_hard_to_write_down(complaints: Mapping[str, str]) -> None:
    assert complaints["hostile"] == ""


def test_what_the_page_shows_compiles(complaints: Mapping[str, str]) -> None:
    assert complaints["page"] == ""
    assert codes_of(complaints["wrong_page"]) == {"TS2345"}, complaints["wrong_page"]


def test_the_order_of_declarations_does_not_matter() -> None:
    assert typescript(contract_of(application.make())) == typescript(contract_of(application.make(backwards=True)))
    assert len({typescript(contract_of(hostile.make(seed))) for seed in range(5)}) == 1


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
        ({"$ref": "https://example.com/of-somebody-else.json"}, "unknown"),
        ({"enum": [float("inf"), 1.5]}, "null | 1.5"),
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
