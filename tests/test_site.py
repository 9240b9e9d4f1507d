"""The site of the documentation: it builds without a warning, holds together, and needs no other host."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from scripts.site import address_of, outside, titled

import roomwire
import roomwire.client

ROOT = Path(__file__).parents[1]
LEFT_OUT = {
    # What the node reads of an application's declarations.
    roomwire.App: {"rooms", "told"},
    # What a connection's link and its node call.
    roomwire.Connection: {
        "failed", "lost", "next_deadline", "opened", "overflowed", "poll", "received", "starved",
    },
}  # fmt: skip


class Document(HTMLParser):
    """The ids of a page, where it leads, and what a browser fetches for it."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.targets: list[str] = []
        self.fetched: list[str] = []
        self.feed(file.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.ids |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.targets.append(values["href"])
        if tag == "link" and values.get("rel") in ("stylesheet", "icon", "preload", "preconnect"):
            self.fetched.append(values["href"])
        if "src" in values:
            self.fetched.append(values["src"])


def dead_ends(site: Path) -> Iterator[str]:
    """Links of a site that lead nowhere, and what it would fetch from elsewhere."""
    documents = {file: Document(file) for file in sorted(site.rglob("*.html")) if file.name != "404.html"}
    for file, document in documents.items():
        name = file.relative_to(site)
        for target in [*document.targets, *document.fetched]:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                if target in document.fetched:
                    yield f"{name}: {target} is fetched from another host"
                continue
            there = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            there = there / "index.html" if there.is_dir() else there
            if not there.exists():
                yield f"{name}: {target}: there is no such page"
            elif parts.fragment and there in documents and unquote(parts.fragment) not in documents[there].ids:
                yield f"{name}: {target}: there is no such place on the page"


def undocumented(ids: set[str]) -> list[str]:
    """Public names, and public members of classes, that no page of the API has."""
    wanted = [f"roomwire.{name}" for name in roomwire.__all__]
    wanted += [f"roomwire.client.{name}" for name in roomwire.client.__all__ if not hasattr(roomwire, name)]
    for owner in (roomwire.App, roomwire.Connection, roomwire.Publisher, roomwire.client.Client, roomwire.client.Room):
        module = "roomwire" if hasattr(roomwire, owner.__name__) else "roomwire.client"
        members = [name for name, _ in inspect.getmembers(owner) if not name.startswith("_")]
        # Instance attributes of slots are in the text of the class, not members of the page.
        members = [name for name in members if not inspect.ismemberdescriptor(getattr(owner, name))]
        wanted += [f"{module}.{owner.__name__}.{name}" for name in members if name not in LEFT_OUT.get(owner, ())]
    return [name for name in wanted if name not in ids]


def test_it_builds_holds_together_and_has_every_public_name(tmp_path: Path) -> None:
    """One test, since it is the build that costs."""
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    assert list(dead_ends(tmp_path)) == []
    ids = set().union(*(Document(file).ids for file in tmp_path.glob("reference/api/*.html")))
    assert undocumented(ids) == []
    hidden = {
        f"{owner.__module__.partition('.')[0]}.{owner.__name__}.{name}"
        for owner in LEFT_OUT
        for name in LEFT_OUT[owner]
    }
    assert ids & hidden == set()
    assert undocumented(ids - {"roomwire.App.publish"}) == ["roomwire.App.publish"]
    found = json.loads((tmp_path / "search" / "search_index.json").read_text())["docs"]
    lowered = {entry["location"].partition("/")[0] for entry in found if entry.get("boost", 1) < 1}
    assert lowered == {"adr"}


def test_every_page_is_in_the_navigation_once() -> None:
    navigation = re.findall(r"([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2], re.M)
    pages = [page.relative_to(ROOT / "docs").as_posix() for page in ROOT.glob("docs/**/*.md")]
    assert sorted(navigation) == sorted([*pages, *outside()])


class TestWhatIsDoneToAPage:
    @pytest.mark.parametrize(
        ("target", "path", "here", "address"),
        [
            ("../README.md#status", "docs/index.md", "index.md", "project/readme.md#status"),
            ("docs/how-to/redis.md", "README.md", "project/readme.md", "../how-to/redis.md"),
            ("../../examples/backplane-plugin/README.md", "docs/how-to/backplane.md", "how-to/backplane.md",
             "../project/backplane-plugin.md"),
            ("LICENSE", "README.md", "project/readme.md", "license.md"),
            ("nats.md#urls", "docs/how-to/redis.md", "how-to/redis.md", "nats.md#urls"),
            ("https://semver.org", "CHANGELOG.md", "project/changelog.md", "https://semver.org"),
            ("#here", "README.md", "project/readme.md", "#here"),
        ],
    )  # fmt: skip
    def test_links_lead_out_of_the_folder_and_into_it(self, target: str, path: str, here: str, address: str) -> None:
        assert address_of(target, path, here) == address

    def test_the_name_of_a_file_is_the_title_of_its_block(self) -> None:
        fence = re.compile(r"(?P<indent> *)(?P<fence>```)(?P<language>\w*)\n(?P<text>.*?)^ *```", re.S | re.M)

        def shown(page: str) -> str:
            return fence.sub(titled, page)

        assert shown("```python\n# app.py\nx = 1\n```\n") == '```python title="app.py"\nx = 1\n```\n'
        assert shown("```python\n# why\nx = 1\n```\n") == "```python\n# why\nx = 1\n```\n"


@pytest.mark.parametrize(
    ("page", "fault"),
    [
        ('<a href="b.html">', "a.html: b.html: there is no such page"),
        ('<a href="#b">', "a.html: #b: there is no such place on the page"),
        ('<script src="https://cdn.example/x.js">', "a.html: https://cdn.example/x.js is fetched from another host"),
        ('<h1 id="b"><a href="#b"><a href="https://semver.org">', None),
    ],
)
def test_a_dead_end_is_found(page: str, fault: str | None, tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(page)
    assert list(dead_ends(tmp_path)) == ([fault] if fault else [])
