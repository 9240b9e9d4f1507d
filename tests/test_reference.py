"""The reference pages say what the code says."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
from scripts.reference import DOCS, PAGES

import roomwire
import roomwire.client
from roomwire.config import Settings

API = (DOCS / "api.md").read_text()
CLIENTS = (DOCS / "clients.md").read_text()


def public_members(owner: type) -> list[str]:
    return [name for name, _ in inspect.getmembers(owner) if not name.startswith("_")]


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


@pytest.mark.parametrize("name", roomwire.__all__)
def test_every_public_name_is_on_the_page(name: str) -> None:
    assert f"`{name}" in API or f"\n## {name}\n" in API or f"`@{name}" in API


@pytest.mark.parametrize("name", roomwire.client.__all__)
def test_every_name_of_the_client_is_on_the_page(name: str) -> None:
    assert f"`{name}" in CLIENTS


@pytest.mark.parametrize(
    ("owner", "page", "left_out"),
    [
        # What the node reads of an application's declarations.
        (roomwire.App, API, {"rooms", "told"}),
        (roomwire.Router, API, set()),
        # What its link and its node call.
        (
            roomwire.Connection,
            API,
            {"failed", "lost", "next_deadline", "opened", "overflowed", "poll", "received", "starved"},
        ),
        (roomwire.client.Client, CLIENTS, set()),
        (roomwire.client.Room, CLIENTS, set()),
    ],
)
def test_every_method_is_on_its_page(owner: type, page: str, left_out: set[str]) -> None:
    missing = [name for name in public_members(owner) if name not in left_out and not named(name, page)]
    assert missing == []


def named(name: str, page: str) -> bool:
    return any(f"{before}{name}{after}" in page for before in ("`", ".", "await ") for after in ("`", "(", ","))


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
