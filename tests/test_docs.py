"""The pages are true: what they show runs, what they link to is there."""

from __future__ import annotations

import configparser
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

import click
import pytest
import yaml  # type: ignore[import-untyped]

from tests.pages import (
    Block,
    blocks_of,
    commands_of,
    headings_of,
    install_faults,
    links_of,
    make_faults,
    option_faults,
    run_console,
    run_python,
    slugs_of,
)

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*/*.md")])
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
RUNNING = [name for name, page in zip(NAMES, PAGES, strict=True) if blocks_of(page.read_text())]

# A link that leaves the project goes to what lasts: standards, and the conventions that we name.
HOSTS = {
    "www.rfc-editor.org",
    "www.iana.org",
    "html.spec.whatwg.org",
    "keepachangelog.com",
    "semver.org",
    "docs.python.org",
    "anyio.readthedocs.io",
    "asgi.readthedocs.io",
    "cheatsheetseries.owasp.org",
    "cwe.mitre.org",
}

FORBIDDEN = {
    r"\b(?:TODO|FIXME|XXX|TBD)\b": "unfinished work",
    r"(?i)lorem ipsum|coming soon|under construction": "an empty promise",
    r"(?<![\w.:/])/(?:home|root|Users|work)/": "a path of somebody's machine",
}


@pytest.mark.parametrize("name", NAMES)
class TestEachPage:
    def test_its_links_lead_somewhere(self, name: str) -> None:
        page = ROOT / name
        broken = [f"{name}:{line}: {target}" for line, target in links_of(page.read_text()) if not leads(page, target)]
        assert broken == []

    def test_it_has_one_title_and_it_comes_first(self, name: str) -> None:
        text = (ROOT / name).read_text()
        titles = [heading for level, heading in headings_of(text) if level == 1]
        assert len(titles) == 1
        assert text.startswith(f"# {titles[0]}")

    def test_it_has_no_forbidden_words(self, name: str) -> None:
        text = (ROOT / name).read_text()
        found = [f"{name}: {match[0]!r}: {why}" for what, why in FORBIDDEN.items() for match in re.finditer(what, text)]
        assert found == []


@pytest.mark.parametrize("name", RUNNING)
class TestTheCodeOfEachPage:
    def test_it_runs(self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        blocks = blocks_of((ROOT / name).read_text())
        write_files(blocks, tmp_path)
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(str(tmp_path))
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        run_python([block for block in blocks if block.language == "python" and block.file is None], str(ROOT / name))
        for block in blocks:
            if block.language == "console":
                run_console(block, tmp_path, environment)

    def test_its_python_files_are_typed(self, name: str, tmp_path: Path) -> None:
        files = write_files(blocks_of((ROOT / name).read_text()), tmp_path)
        sources = [str(file.relative_to(tmp_path)) for file in files if file.suffix == ".py"]
        if not sources:
            return
        command = [sys.executable, "-m", "mypy", "--strict", "--config-file", "", *sources]
        environment = {**os.environ, "MYPYPATH": str(ROOT / "src")}
        cache = ["--cache-dir", str(ROOT / ".mypy_cache" / "docs")]
        done = subprocess.run(
            [*command, *cache], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def test_its_data_parses_and_its_commands_exist(self, name: str) -> None:
        faults = []
        for block in blocks_of((ROOT / name).read_text()):
            if block.language == "json":
                json.loads(block.text)
            elif block.language == "toml":
                tomllib.loads(block.text)
            elif block.language == "yaml":
                list(yaml.safe_load_all(block.text))
            elif block.language == "ini":
                configparser.ConfigParser(interpolation=None, strict=False).read_string(block.text)
            elif block.language in ("sh", "bash", "console"):
                faults += [
                    f"{name}:{block.line}: {f}" for command, _ in commands_of(block) for f in command_faults(command)
                ]
        assert faults == []


def leads(page: Path, target: str) -> bool:
    """Whether a link's target is there; outside the project, whether its host is one that we name."""
    parts = urlsplit(target)
    if parts.scheme or parts.netloc:
        return parts.scheme == "https" and parts.netloc in HOSTS
    path = (page.parent / parts.path).resolve() if parts.path else page
    if not path.exists() or not path.is_relative_to(ROOT):
        return False
    return not parts.fragment or path.suffix != ".md" or parts.fragment in slugs_of(path.read_text())


def write_files(blocks: list[Block], directory: Path) -> list[Path]:
    files = []
    for block in blocks:
        if block.file is not None:
            file = directory / block.file
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.text)
            files.append(file)
    return files


def command_faults(command: str) -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    match command.split(maxsplit=1)[:1]:
        case ["roomwire"]:
            from roomwire.cli import main

            return option_faults(command, main)
        case ["make"]:
            return make_faults(command, re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
        case ["pip" | "uv"]:
            return install_faults(command, project["name"], project["optional-dependencies"])
        case _:
            return []


def test_pages_that_the_code_cites_exist() -> None:
    cited = {
        (str(path.relative_to(ROOT)), cite)
        for path in [*ROOT.glob("src/**/*.py"), *ROOT.glob("src/**/*.js"), *ROOT.glob("tests/**/*.py")]
        if "node_modules" not in path.parts
        for cite in re.findall(r"\bdocs/[\w/.-]+\.md\b", path.read_text())
    }
    assert [(path, cite) for path, cite in sorted(cited) if not (ROOT / cite).exists()] == []


def test_decisions_are_numbered_dated_and_have_a_status() -> None:
    records = sorted((ROOT / "docs" / "adr").glob("0*.md"))
    assert [record.name[:4] for record in records] == [f"{number:04}" for number in range(1, len(records) + 1)]
    for record in records:
        text = record.read_text()
        assert re.match(rf"# {record.name[:4]}\. \S", text), record.name
        assert re.search(r"^Status: (Accepted|Superseded by \[)", text, re.M), record.name
        assert re.search(r"^Date: \d{4}-\d{2}-\d{2}$", text, re.M), record.name


class TestTheReader:
    """The checks above can fail."""

    def test_blocks_have_language_line_and_file(self) -> None:
        page = "# A\n\n```python\n# app.py\nx = 1\n```\n\n- item\n\n  ```sh\n  ls\n  ```\n\n```\nplain\n```\n"
        assert blocks_of(page) == [
            Block("python", "# app.py\nx = 1\n", 4),
            Block("sh", "ls\n", 11),
            Block("", "plain\n", 15),
        ]
        assert [block.file for block in blocks_of(page)] == ["app.py", None, None]

    def test_links_in_code_are_not_links(self) -> None:
        page = "[a](b.md)\n`[c](d)`\n```\n[e](f)\n```\n![g](h.png)\n[i\nj](k.md)"
        assert list(links_of(page)) == [(1, "b.md"), (6, "h.png"), (7, "k.md")]

    def test_slugs(self) -> None:
        assert slugs_of("# One, two\n## `x` & y\n## Same\n## Same\n```\n# not\n```") == {
            "one-two",
            "x--y",
            "same",
            "same-1",
        }

    @pytest.mark.parametrize(
        "target",
        ["missing.md", "README.md#missing", "../outside.md", "http://semver.org", "https://example.org", "#missing"],
    )
    def test_a_broken_link_is_found(self, target: str) -> None:
        assert not leads(ROOT / "README.md", target)

    def test_python_blocks_share_a_namespace_and_may_await(self) -> None:
        blocks = [Block("python", "import anyio\nx = 1", 1), Block("python", "await anyio.sleep(0)\nx += 1", 5)]
        assert run_python(blocks, "page")["x"] == 2
        assert run_python(blocks[:1], "page")["x"] == 1

    def test_a_fault_names_the_line_of_the_page(self) -> None:
        with pytest.raises(ZeroDivisionError) as caught:
            run_python([Block("python", "x = 1\nx / 0", 10)], "page.md")
        last = caught.traceback[-1]
        assert (str(last.path).endswith("page.md"), last.lineno + 1) == (True, 11)

    def test_commands_with_their_output(self) -> None:
        block = Block("console", "$ one \\\n    --two\nout\n$ three\n", 1)
        assert list(commands_of(block)) == [("one --two", ["out"]), ("three", [])]
        assert list(commands_of(Block("sh", "one\n$ two\n", 1))) == [("one", []), ("two", [])]

    def test_a_console_that_shows_what_comes_out_passes(self, tmp_path: Path) -> None:
        run_console(Block("console", "$ echo one two three; echo four\none ... three\nfour\n", 1), tmp_path, os.environ)

    @pytest.mark.parametrize("text", ["$ false\n", "$ echo one\ntwo\n", "$ printf 'a\\nb\\n'\nb\na\n"])
    def test_a_console_that_shows_something_else_fails(self, text: str, tmp_path: Path) -> None:
        with pytest.raises(AssertionError):
            run_console(Block("console", text, 1), tmp_path, os.environ)

    @pytest.mark.parametrize(
        ("command", "faults"),
        [
            ("tool run app --port 1 --quick", []),
            ("tool run --port=1 app  # why", []),
            ("tool run --prot 1", ["run has no option --prot"]),
            ("tool rnu", ["tool has no command rnu"]),
        ],
    )
    def test_options_are_held_against_the_program(self, command: str, faults: list[str]) -> None:
        options = [click.Option(["--port"]), click.Option(["--quick"], is_flag=True), click.Argument(["app"])]
        program = click.Group("tool", commands={"run": click.Command("run", params=options)})
        assert option_faults(command, program) == faults

    def test_targets_and_extras(self) -> None:
        assert make_faults("make -j demo PORT=1 dmeo", {"demo"}) == ["the Makefile has no target dmeo"]
        assert install_faults('pip install "wire[a,b]"', "wire", {"a"}) == ["wire has no extra b"]
