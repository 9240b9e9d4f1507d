"""The threat model says where each defence is and what proves it: both are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "explanation" / "threat-model.md").read_text()
PROOFS = sorted(set(re.findall(r"`([a-z_/]+\.py)::(\w+)`", PAGE)))
CODE = sorted(set(re.findall(r"`([a-z_/]+\.py)`", PAGE)))


def test_every_row_has_its_proof() -> None:
    rows = re.findall(r"^\| (B\d+) \|.*\| ([^|]*) \|$", PAGE, re.MULTILINE)
    assert [number for number, _ in rows] == [f"B{number}" for number in range(1, 26)]
    assert all("::" in proof for _, proof in rows)
    section = PAGE.partition("## Threat, defence, proof")[2].partition("## What is not defended")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ") and "::" not in line]
    assert [line for line in lines if "| proof |" not in line] == []


@pytest.mark.parametrize(("file", "name"), PROOFS)
def test_every_proof_is_there(file: str, name: str) -> None:
    text = (ROOT / "tests" / file).read_text()
    assert re.search(rf"^\s*(?:async )?(?:def|class) {name}\b", text, re.MULTILINE)


@pytest.mark.parametrize("file", CODE)
def test_every_defence_is_there(file: str) -> None:
    assert (ROOT / "src" / "roomwire" / file).is_file() or (ROOT / file).is_file()


def test_the_proofs_of_this_folder_are_named() -> None:
    own = {path.name for path in Path(__file__).parent.glob("test_*.py")} - {Path(__file__).name}
    assert own == {file.removeprefix("hardening/") for file, _ in PROOFS if file.startswith("hardening/")}
