"""The overview, the exit codes, and the modest commands."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from importlib.metadata import version

import click
import pytest
from click.testing import CliRunner

from roomwire.cli import main
from roomwire.cli._group import LazyGroup
from roomwire.core.errors import Unavailable
from tests.cli.conftest import Project

COMMANDS = [
    "init",
    "dev",
    "run",
    "check",
    "config",
    "token",
    "connect",
    "publish",
    "bench",
    "asyncapi",
    "types",
    "plugins",
    "version",
]
ALL = [[name] for name in COMMANDS] + [["config", "show"], ["config", "schema"], ["token", "new"], ["token", "inspect"]]
ALL += [["bench", name] for name in ("framing", "fanout", "echo", "connect", "idle")]


class TestHelp:
    def test_the_overview_names_every_command_with_a_line(self, project: Project) -> None:
        result = project.call("--help")
        assert result.exit_code == 0
        listed = result.stdout.partition("Commands:\n")[2].splitlines()
        assert [line.split()[0] for line in listed] == COMMANDS
        assert all(len(line.split()) > 1 for line in listed)

    @pytest.mark.parametrize("command", ALL, ids=" ".join)
    def test_of_every_command(self, project: Project, command: list[str]) -> None:
        result = project.call(*command, "-h")
        assert (result.exit_code, result.stderr) == (0, "")
        assert result.stdout.startswith(f"Usage: roomwire {' '.join(command)} ")

    def test_run_has_uvicorn_s_spelling(self, project: Project) -> None:
        told = project.call("run", "--help").stdout
        options = (
            "host port uds fd workers reload factory app-dir env-file config log-level log-format proxy-headers "
            "forwarded-allow-ips ssl-certfile ssl-keyfile backlog transport backplane node"
        )
        assert [name for name in options.split() if f"--{name}" not in told] == []

    def test_a_command_that_does_not_exist(self, project: Project) -> None:
        result = project.call("rum")
        assert result.exit_code == 2
        assert "No such command 'rum'" in result.stderr


class TestVersion:
    def test_alone(self, project: Project) -> None:
        result = project.call("version")
        assert result.stdout.splitlines()[0] == f"roomwire {version('roomwire')}"
        assert any(line.startswith("  anyio ") for line in result.stdout.splitlines())

    def test_as_json(self, project: Project) -> None:
        assert json.loads(project.call("version", "--json").stdout)["roomwire"] == version("roomwire")

    def test_as_a_flag(self, project: Project) -> None:
        assert project.call("--version").stdout == f"roomwire, version {version('roomwire')}\n"

    def test_what_is_not_installed(self, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("roomwire.cli.version._PARTS", ("a-package-that-is-nowhere",))
        assert "  a-package-that-is-nowhere (not installed)\n" in project.call("version").stdout


class TestPlugins:
    def test_table(self, project: Project) -> None:
        heading, *rows = project.call("plugins").stdout.splitlines()
        assert heading.split() == ["GROUP", "NAME", "SETTING", "CLASS", "FROM", "STATE"]
        assert ["roomwire.backplanes", "memory", "backplane.type"] in [row.split()[:3] for row in rows]
        assert all(row.endswith(" ok") for row in rows)

    def test_json(self, project: Project) -> None:
        found = json.loads(project.call("plugins", "--json").stdout)
        assert {"roomwire.transports", "roomwire.backplanes", "roomwire.authenticators", "roomwire.protocols"} == {
            row["group"] for row in found
        }

    def test_one_that_cannot_be_used_says_why(self, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
        info = project.folder / "acme-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[roomwire.backplanes]\nacme = nowhere:Acme\n")
        monkeypatch.syspath_prepend(project.folder)
        result = project.call("plugins")
        assert result.exit_code == 0
        assert 'acme 1.0  backplane.type = "acme": there is no module nowhere' in result.stdout


class TestErrors:
    def test_a_fault_of_the_neighbours_is_one(self) -> None:
        @click.command()
        def fail() -> None:
            raise Unavailable("the store is away")

        class Group(LazyGroup):
            def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
                return fail

        result = CliRunner().invoke(Group("test"), ["fail"])
        assert (result.exit_code, result.stderr) == (1, "Error: the store is away\n")

    def test_no_colour(self, project: Project) -> None:
        project.configure("", replace='secret = "env:CHAT_SECRET"')
        arguments = ["config", "show"]
        warned = {"ROOMWIRE_ODD": "1"}
        coloured = CliRunner(env=warned).invoke(main, arguments, color=True)
        plain = CliRunner(env={"NO_COLOR": "1", **warned}).invoke(main, arguments, color=True)
        assert "\x1b" in coloured.stderr
        assert "\x1b" not in plain.stderr
        assert "ROOMWIRE_ODD is set and nothing reads it" in plain.stderr

    def test_an_import_of_it_runs_nothing(self) -> None:
        """A process that multiprocessing spawns imports the main module of the one that it comes from."""
        importlib.import_module("roomwire.__main__")

    @pytest.mark.parametrize("module", ["roomwire", "roomwire.cli"])
    def test_as_a_module(self, module: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", module, "nope"], capture_output=True, text=True, check=False, timeout=50
        )
        assert done.returncode == 2
        assert done.stderr.startswith("Usage: roomwire ")
