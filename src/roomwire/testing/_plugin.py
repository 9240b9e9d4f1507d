"""The live half of the pytest plugin: registered where a project asks for it (`_roomwire_pytest`)."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Generator, Iterator
from typing import Literal, cast

import pytest

from roomwire.config import Loaded
from roomwire.core.errors import ConfigError, PluginError
from roomwire.testing._clients import AsyncClient, Client
from roomwire.testing._server import configured
from roomwire.testing._transcript import Transcript

__all__ = ["KIT", "NAMES", "Kit", "activate", "scope_of"]

NAMES = ("client", "async_client", "server", "token")
Scope = Literal["function", "class", "module", "package", "session"]
_SCOPES = ("function", "class", "module", "package", "session")
_SECTION = "roomwire transcript"
_NAMES_PLUGIN = "roomwire-names"


class Kit:
    """What the fixtures of one run share, and the hooks that report it.

    Attributes:
        transcript: of the test that runs.
        clients: what may hold frames that no test has read yet.
        timeout: seconds that an operation may take.
        outlives_tests: whether a server serves more tests than one.
        folder: where the application's modules are looked for first, as by `roomwire dev`.
    """

    def __init__(self, config: pytest.Config) -> None:
        self.transcript = Transcript()
        self.clients: list[Client | AsyncClient] = []
        self.timeout = _timeout(config)
        self.outlives_tests = scope_of("", config) != "function"
        self._root = config.rootpath
        self._file = config.getini("roomwire_config")
        self._target = config.getini("roomwire_app")
        self._prefixed = config.getini("roomwire_fixtures") == "prefixed"
        self._loaded: Loaded | None = None
        self._exported: dict[str, str | None] = {}
        self._reported = 0
        self.folder = ((self._root / self._file).parent if self._file else self._root).resolve()

    def loaded(self) -> Loaded:
        """The configuration, read once. Like `roomwire run` it gives the application the variables of ``.env``.

        The variable that the secret is taken from holds the tests' secret: an application that verifies tokens itself,
        on its routes, takes those of the fixture `token` too.

        Raises:
            ConfigError: the file cannot be read, or is wrong.
        """
        if self._loaded is None:
            path = self._root / self._file if self._file else None
            self._loaded = loaded = configured(path, environ=os.environ, cwd=self._root)
            for name, value in loaded.env_file.items():
                if name not in os.environ:
                    self._export(name, value)
            auth, reference = loaded.settings.auth, loaded.origin("auth", "options", "secret").reference
            if auth.type == "jwt" and reference.startswith("env:"):
                self._export(reference.removeprefix("env:"), auth.options["secret"])
        return self._loaded

    def _export(self, name: str, value: str) -> None:
        self._exported.setdefault(name, os.environ.get(name))
        os.environ[name] = value

    @contextlib.contextmanager
    def plainly(self) -> Iterator[None]:
        """What is wrong with the configuration fails a test by its text alone: it has what to do, and where."""
        try:
            yield
        except (ConfigError, PluginError, pytest.UsageError) as error:
            raise pytest.fail.Exception(str(error), pytrace=False) from None

    def target(self) -> str:
        """The import string of the application.

        Raises:
            pytest.UsageError: nothing names one.
        """
        target = self._target or self.loaded().settings.app
        if not target:
            raise pytest.UsageError(
                "no application: set roomwire_app = module:attribute in pytest's configuration, app in the file that"
                " roomwire_config names, or override the fixture roomwire_app"
            )
        return str(target)

    # --- hooks

    def pytest_report_header(self) -> str:
        """Say that the fixtures are on, and what they serve."""
        names = ", ".join(("roomwire_" if self._prefixed else "") + name for name in NAMES)
        return f"roomwire: {self._target or self._file or 'fixture roomwire_app'} ({names})"

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Refuse to take another plugin's names; and have the environment ready before a test imports anything."""
        if str(self.folder) not in sys.path:
            sys.path.insert(0, str(self.folder))
        if self._file:
            try:
                self.loaded()
            except ConfigError as error:
                raise pytest.UsageError(f"roomwire_config: {error}") from None
        if self._prefixed:
            return
        for name, plugin in session.config.pluginmanager.list_name_plugin():
            conftest = str(getattr(plugin, "__file__", "")).endswith("conftest.py")
            if plugin is None or conftest or name == _NAMES_PLUGIN:
                continue
            taken = sorted(_fixtures_of(plugin).intersection(NAMES))
            if taken:
                raise pytest.UsageError(
                    f"the fixtures {', '.join(taken)} are {name}'s as well as roomwire's: set roomwire_fixtures ="
                    " prefixed, and they are called roomwire_client, roomwire_async_client and so on; or"
                    " roomwire_fixtures = off"
                )

    def pytest_unconfigure(self) -> None:
        """Leave the process as it was."""
        for name, before in self._exported.items():
            if before is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = before
        if str(self.folder) in sys.path:
            sys.path.remove(str(self.folder))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self) -> Generator[None, object, object]:
        """Each test has a transcript of its own."""
        self.transcript.clear()
        self._reported = 0
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Put the transcript into the report of what failed."""
        report = yield
        for client in self.clients:
            client.glance()
        count = self.transcript.count
        if report.failed and count > self._reported:
            report.sections.append((_SECTION, self.transcript.text()))
            self._reported = count
        if report.failed:
            _redact(report, self.transcript)
        return report


def _redact(report: pytest.TestReport, transcript: Transcript) -> None:
    """Tokens stand in tracebacks too, among the arguments and variables of what failed."""
    tracebacks = [part[0] for part in getattr(report.longrepr, "chain", ())]
    for entry in (entry for traceback in tracebacks for entry in getattr(traceback, "reprentries", ())):
        for part in (entry, getattr(entry, "reprlocals", None)):
            lines = getattr(part, "lines", None)
            if lines is not None:
                lines[:] = [transcript.redacted(line) for line in lines]
        arguments = getattr(entry, "reprfuncargs", None)
        if arguments is not None:
            arguments.args[:] = [(name, transcript.redacted(value)) for name, value in arguments.args]


def activate(config: pytest.Config) -> None:
    """Register the hooks and the fixtures.

    Raises:
        pytest.UsageError: an option has a value that it cannot have.
    """
    wanted = config.getini("roomwire_fixtures") or "plain"
    if wanted not in ("plain", "prefixed"):
        raise pytest.UsageError(f"roomwire_fixtures: expected plain, prefixed or off, found {wanted!r}")
    scope_of("", config)
    kit = Kit(config)
    config.stash[KIT] = kit
    config.pluginmanager.register(kit, "roomwire-kit")
    from roomwire.testing import _fixtures

    config.pluginmanager.register(_fixtures, "roomwire-fixtures")
    # Modules, since pytest takes fixtures of a wide scope from functions only.
    module = importlib.import_module(f"roomwire.testing._fixtures_{wanted}")
    config.pluginmanager.register(module, _NAMES_PLUGIN)


KIT: pytest.StashKey[Kit] = pytest.StashKey()


def scope_of(fixture_name: str, config: pytest.Config) -> Scope:
    """The scope of the server and of what it is made of; for `pytest.fixture`.

    Raises:
        pytest.UsageError: there is no such scope.
    """
    scope = config.getini("roomwire_scope") or "function"
    if scope not in _SCOPES:
        raise pytest.UsageError(f"roomwire_scope: expected one of {', '.join(_SCOPES)}, found {scope!r}")
    return cast("Scope", scope)


def _timeout(config: pytest.Config) -> float:
    text = config.getini("roomwire_timeout") or "5"
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e6:
        raise pytest.UsageError(f"roomwire_timeout: expected a number of seconds, found {text!r}")
    return seconds


def _fixtures_of(plugin: object) -> set[str]:
    """The names of a plugin's fixtures. pytest has no public question for them; an unknown form of them is none."""
    found = set()
    for attribute, value in list(vars(plugin).items()) if hasattr(plugin, "__dict__") else ():
        if type(value).__name__ == "FixtureFunctionDefinition":
            found.add(str(getattr(value, "name", None) or attribute))
        elif hasattr(value, "_pytestfixturefunction"):  # before pytest 8.4
            found.add(attribute)
    return found
