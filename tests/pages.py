"""Reads Markdown pages: their code blocks, headings and links; and runs what they show.

The conventions, which CONTRIBUTING.md tells writers:

- ``python`` runs, block after block in one namespace for each page; ``await`` may stand at the top.
- A block whose first line is a comment with a file's name (``# app.py``) is that file of the page's
  own folder instead; Python files are type-checked together.
- ``console`` runs: ``$ command``, then the lines that must come out, in order, ``...`` for anything.
- ``sh`` is not run, since it does not end or is not ours, but its ``roomwire``, ``make`` and ``pip``
  commands are held against the options, targets and extras that exist.
- ``json``, ``toml``, ``yaml`` and ``ini`` must parse; tests/test_deployment.py tries what deploys something.
"""

from __future__ import annotations

import ast
import inspect
import re
import shlex
import subprocess
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any

import anyio
import click

__all__ = [
    "Block",
    "blocks_of",
    "commands_of",
    "headings_of",
    "install_faults",
    "links_of",
    "make_faults",
    "option_faults",
    "prose_of",
    "run_console",
    "run_python",
    "slugs_of",
]

_FENCE = re.compile(
    r"^(?P<indent> *)(?P<fence>`{3,})(?P<language>[\w-]*)[^\n`]*\n(?P<text>.*?)^ *(?P=fence)[ ]*$", re.M | re.S
)
# The text of a link may go on in the next line.
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\((?P<target>[^)\s]+)\)|!\[[^\]]*\]\((?P<image>[^)\s]+)\)")
_FILE = re.compile(r"(?:#|//|<!--) (?P<name>[\w./-]+\.\w+|\.env|Caddyfile)(?: -->)?$")
_AWAITING = inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of code: its language, its text, and the line of the page on which the text begins."""

    language: str
    text: str
    line: int

    @property
    def file(self) -> str | None:
        """The name of the file that this block is, or None."""
        match = _FILE.match(self.text.partition("\n")[0])
        return match["name"] if match else None


def blocks_of(page: str) -> list[Block]:
    """The code blocks of a page."""
    return [
        Block(
            match["language"],
            re.sub(f"^{match['indent']}", "", match["text"], flags=re.M),
            page.count("\n", 0, match.start("text")) + 1,
        )
        for match in _FENCE.finditer(page)
    ]


def prose_of(page: str) -> str:
    """The page without blocks and spans of code, with its line numbers kept."""
    page = _FENCE.sub(lambda match: "\n" * match[0].count("\n"), page)
    return re.sub(r"`[^`\n]+`", "", page)


def links_of(page: str) -> Iterator[tuple[int, str]]:
    """The line and the target of each link and image."""
    prose = prose_of(page)
    for match in _LINK.finditer(prose):
        yield prose.count("\n", 0, match.start()) + 1, match["target"] or match["image"]


def headings_of(page: str) -> list[tuple[int, str]]:
    """The level and the text of each heading."""
    found = re.findall(r"^(#{1,6}) +(.+?) *#*$", _FENCE.sub("", page), re.M)
    return [(len(marks), text) for marks, text in found]


def slugs_of(page: str) -> set[str]:
    """The anchors of a page's headings, as the usual renderers make them."""
    slugs: set[str] = set()
    for _, heading in headings_of(page):
        base = slug = re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")
        count = 0
        while slug in slugs:
            count += 1
            slug = f"{base}-{count}"
        slugs.add(slug)
    return slugs


def run_python(blocks: Sequence[Block], name: str) -> dict[str, Any]:
    """Run a page's blocks in one new namespace, which is returned; tracebacks name the page's own lines."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    codes = [_compile(block, name) for block in blocks]
    if not any(code.co_flags & _AWAITING for code in codes):
        for code in codes:
            exec(code, namespace)
        return namespace

    async def run() -> None:
        for code in codes:
            result = eval(code, namespace)
            if code.co_flags & _AWAITING:
                await result

    anyio.run(run)
    return namespace


def _compile(block: Block, name: str) -> CodeType:
    source = "\n" * (block.line - 1) + block.text
    code: CodeType = compile(source, name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    return code


def commands_of(block: Block) -> Iterator[tuple[str, list[str]]]:
    """The commands of a ``console`` or ``sh`` block, each with the lines that follow it."""
    command: str | None = None
    output: list[str] = []
    for line in re.sub(r"\\\n\s*", "", block.text).splitlines():
        if block.language == "console" and not line.startswith("$ "):
            output.append(line)
            continue
        if command is not None:
            yield command, output
        command, output = line.removeprefix("$ "), []
    if command is not None:
        yield command, output


def run_console(block: Block, directory: Path, environment: Mapping[str, str]) -> None:
    """Run the commands of a ``console`` block.

    Raises:
        AssertionError: a command fails, or what the page shows does not come out.
    """
    for command, expected in commands_of(block):
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=directory,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=100,
        )
        assert done.returncode == 0, f"$ {command}\nexits with {done.returncode}:\n{done.stdout}"
        position = 0
        for line in filter(str.strip, expected):
            pattern = ".*?".join(re.escape(part) for part in line.strip().split("..."))
            match = re.compile(pattern).search(done.stdout, position)
            assert match, f"$ {command}\ndoes not print {line.strip()!r} (in this place), but:\n{done.stdout}"
            position = match.end()


def option_faults(command: str, program: click.Command) -> list[str]:
    """What `program`, a tree of click commands, does not know of a command line that begins with its name."""
    words = shlex.split(command, comments=True)[1:]
    current, context = program, click.Context(program)
    while words:
        word = words.pop(0)
        if word in ("|", "&&", ";", ">", "&"):
            break
        if word.startswith("-") and word != "-":
            name, equals, _ = word.partition("=")
            option = next((o for o in current.get_params(context) if name in (*o.opts, *o.secondary_opts)), None)
            if option is None:
                return [f"{current.name} has no option {name}"]
            if isinstance(option, click.Option) and not (option.is_flag or option.count or equals):
                del words[: option.nargs]
        elif isinstance(current, click.Group):
            found = current.get_command(context, word)
            if found is None:
                return [f"{current.name} has no command {word}"]
            current, context = found, click.Context(found, parent=context)
    return []


def make_faults(command: str, targets: Collection[str]) -> list[str]:
    """Targets of a ``make`` command that the Makefile does not have."""
    words = [word for word in shlex.split(command, comments=True)[1:] if "=" not in word and not word.startswith("-")]
    return [f"the Makefile has no target {word}" for word in words if word not in targets]


def install_faults(command: str, project: str, extras: Collection[str]) -> list[str]:
    """Extras of `project` that a ``pip install`` asks for and that do not exist."""
    asked = re.findall(rf"\b{project}\[([\w,-]+)\]", command)
    return [f"{project} has no extra {extra}" for group in asked for extra in group.split(",") if extra not in extras]
