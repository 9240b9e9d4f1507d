"""Hooks of the site that `mkdocs.yml` describes: what is done to pages that read well without it.

- README.md, CONTRIBUTING.md, SECURITY.md, CHANGELOG.md, LICENSE and the examples' READMEs stand outside of docs/. They
  are pages of the site all the same, under project/, and links lead from and to them.
- The name of a file in the first line of a code block becomes the block's title.
- The search finds a page that says how before a decision that says why.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from urllib.parse import urlsplit

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

__all__ = ["address_of", "on_files", "on_page_markdown", "outside", "titled"]

ROOT = Path(__file__).parents[1]
DECISIONS = 0.2
"""How much a word counts in a decision record, where it counts 1 elsewhere."""

_FENCE = re.compile(
    r"^(?P<indent> *)(?P<fence>`{3,})(?P<language>[\w-]*)\n(?P<text>.*?)^ *(?P=fence)[ ]*$", re.M | re.S
)
_SPAN = re.compile(r"`[^`\n]+`")
_LINK = re.compile(r"(?P<open>!?\[[^\]]*\]\()(?P<target>[^)\s]+)(?P<close>\))")
_TITLE = re.compile(r" *(?:#|//|<!--) (?P<name>[\w./-]+\.\w+|\.env)(?: -->)?\n")


def outside() -> dict[str, str]:
    """The pages outside of docs/: address in the site to path in the project."""
    names = {f"project/{name}.md": f"{name.upper()}.md" for name in ("readme", "contributing", "security", "changelog")}
    names["project/license.md"] = "LICENSE"
    for readme in sorted(ROOT.glob("examples/*/README.md")):
        names[f"project/{readme.parent.name}.md"] = readme.relative_to(ROOT).as_posix()
    return names


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages outside of docs/."""
    for address, path in outside().items():
        content = (ROOT / path).read_text()
        if path == "LICENSE":
            content = f"# License\n\n```text\n{content}```\n"
        files.append(File.generated(config, address, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Prepare a page's text."""
    here = page.file.src_uri
    if here.startswith("adr/"):
        page.meta["search"] = {"boost": DECISIONS}
    path = outside().get(here, f"docs/{here}")
    parts, end = [], 0
    for match in _FENCE.finditer(markdown):
        parts += [_links(markdown[end : match.start()], path, here), titled(match)]
        end = match.end()
    return "".join(parts) + _links(markdown[end:], path, here)


def titled(match: re.Match[str]) -> str:
    """A block of code whose first line names a file, with that name as its title."""
    title = _TITLE.match(match["text"])
    if title is None or not match["language"]:
        return match[0]
    head = f'{match["indent"]}{match["fence"]}{match["language"]} title="{title["name"]}"\n'
    return head + match["text"][title.end() :] + match["indent"] + match["fence"]


def _links(text: str, path: str, here: str) -> str:
    spans = [span.span() for span in _SPAN.finditer(text)]

    def changed(match: re.Match[str]) -> str:
        if any(start <= match.start() < end for start, end in spans):
            return match[0]
        return match["open"] + address_of(match["target"], path, here) + match["close"]

    return _LINK.sub(changed, text)


def address_of(target: str, path: str, here: str) -> str:
    """A link's target as the site has it, where it leads from or to a page outside of docs/.

    Args:
        target: as the page has it.
        path: the page's path in the project.
        here: its address in the site.
    """
    parts = urlsplit(target)
    if parts.scheme or not parts.path:
        return target
    place = posixpath.normpath(posixpath.join(posixpath.dirname(path), parts.path))
    there = {path: address for address, path in outside().items()}.get(place)
    if there is None and place.startswith("docs/"):
        there = place.removeprefix("docs/")
    if there is None:
        return target
    address = posixpath.relpath(there, posixpath.dirname(here) or ".")
    return f"{address}#{parts.fragment}" if parts.fragment else address
