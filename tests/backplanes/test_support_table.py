"""The support table says what the classes say."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from roomwire.backplanes.contract import Capabilities
from roomwire.plugins import BACKPLANES, Plugin, load_class

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "backplanes.md"
FLAGS = [field.name for field in dataclasses.fields(Capabilities)]


def table() -> list[list[str]]:
    rows = re.findall(r"^\| (.+) \|$", PAGE.read_text(), re.M)
    return [[cell.strip("` ") for cell in row.split(" | ")] for row in rows]


def test_it_has_every_backplane_and_every_flag() -> None:
    head, *rows = table()
    assert head == ["flag", *BACKPLANES.builtin, "what it means"]
    assert [row[0] for row in rows] == FLAGS


@pytest.mark.parametrize(("name", "target"), BACKPLANES.builtin.items())
def test_a_column_is_what_the_class_says(name: str, target: str) -> None:
    head, *rows = table()
    column = head.index(name)
    capabilities = load_class(Plugin(BACKPLANES, name, target, "built-in")).capabilities
    assert {row[0]: row[column] for row in rows} == {
        flag: "yes" if getattr(capabilities, flag) else "no" for flag in FLAGS
    }
