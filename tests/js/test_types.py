"""The declarations of the JavaScript client, held against tsc and against the module itself."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.js.node_client import HERE
from tests.servers import NODE, MissingToolError

DECLARATIONS = HERE.parents[1] / "src" / "roomwire" / "client" / "js" / "roomwire.d.ts"

# tsc reads the declarations of the browser and of node as well; on a busy machine that takes its time.
pytestmark = pytest.mark.timeout(180)


def run_tsc(directory: Path) -> tuple[int, str]:
    """What tsc says of a copy of tests/js/types; its exit code and its complaints."""
    tsc = HERE / "node_modules" / "typescript" / "bin" / "tsc"
    if not tsc.is_file():
        raise MissingToolError("npm's typescript is not there; run: make setup (or: npm install --prefix tests/js)")
    command = [str(NODE.require()), str(tsc), "--pretty", "false", "--project", str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_right_uses_are_accepted_and_wrong_ones_are_not() -> None:
    assert run_tsc(HERE / "types") == (0, "")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The folders as they are, to be changed."""
    types = tmp_path / "tests" / "js" / "types"
    shutil.copytree(HERE / "types", types)
    for name in ("node_modules", "package.json"):
        (types.parent / name).symlink_to(HERE / name)
    client = tmp_path / "src" / "roomwire" / "client" / "js"
    shutil.copytree(DECLARATIONS.parent, client)
    return tmp_path


def test_a_wrong_type_and_a_mistake_that_is_none_are_found(copy: Path) -> None:
    """The test above can fail: in a use, in the declarations, and where a mistake is accepted."""
    types = copy / "tests" / "js" / "types"
    with (types / "uses.ts").open("a") as uses:
        uses.write("\nexport const wrong: number = chat.id;\n")
    with (types / "mistakes.ts").open("a") as mistakes:
        mistakes.write("\n// @ts-expect-error\nchat.close();\n")
    declarations = copy / "src" / "roomwire" / "client" / "js" / "roomwire.d.ts"
    broken = declarations.read_text().replace("whenOpen(): Promise<void>", "whenOpen(): Promise<Missing>", 1)
    declarations.write_text(broken)
    code, report = run_tsc(types)
    assert code != 0
    found = set(re.findall(r"(uses|mistakes|roomwire\.d)\.ts\(\d+,\d+\): error (TS\d+)", report))
    assert found == {("uses", "TS2322"), ("mistakes", "TS2578"), ("roomwire.d", "TS2304")}, report


def test_the_module_has_what_is_declared_and_nothing_else() -> None:
    command = [str(NODE.require()), str(HERE / "members.js")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert [part["name"] for part in report] == ["exports", "Client", "Room"]
    for part in report:
        assert sorted(part["module"]) == sorted(part["declared"]), part["name"]
