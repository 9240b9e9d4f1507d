"""The reference pages say what the code says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from scripts.reference import DOCS, PAGES

import roomwire
from roomwire import plugins
from roomwire.config import Settings


@pytest.mark.parametrize("name", PAGES)
def test_a_page_that_is_made_from_the_code_is_up_to_date(name: str) -> None:
    assert (DOCS / name).read_text() == PAGES[name](), (
        f"docs/reference/{name} is not what the code says: run `python scripts/reference.py`"
    )


def test_every_setting_is_on_the_page() -> None:
    page = PAGES["configuration.md"]()
    models = Settings.model_json_schema()["$defs"].values()
    keys = {key for model in models for key in model["properties"]}
    assert len(keys) > 60
    assert [key for key in sorted(keys) if f"\n| `{key}` | " not in page] == []


@pytest.mark.parametrize("group", [plugins.BACKPLANES, plugins.AUTHENTICATORS], ids=lambda group: group.noun)
def test_every_option_of_every_adapter_is_on_the_page(group: plugins.Group) -> None:
    page = PAGES["configuration.md"]()
    for name in group.builtin:
        model = getattr(plugins.load_class(plugins.find(group, name)), "Options", None)
        if model is not None:
            text = page.partition(f'.options]` of `type = "{name}"`\n')[2].partition("\n#")[0]
            rows = re.findall(r"^\| `(\w+)` \|[^|]*\|[^|]*\| (.*) \|$", text, re.M)
            assert [key for key, told in rows if told] == list(model.model_fields)


@pytest.mark.parametrize("name", roomwire.__all__)
def test_every_public_name_is_in_the_map_of_the_api(name: str) -> None:
    assert f"`{name}`" in (DOCS / "api.md").read_text()


def test_a_stale_page_is_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scripts import reference

    folder = tmp_path / "docs" / "reference"
    folder.mkdir(parents=True)
    (folder / "cli.md").write_text("old")
    monkeypatch.setattr(reference, "DOCS", folder)
    assert reference.main() == 0
    assert {page.name: page.read_text() == PAGES[page.name]() for page in folder.iterdir()} == dict.fromkeys(
        PAGES, True
    )
