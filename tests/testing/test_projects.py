"""The plugin in projects that are set up in other ways: a run for each, as a user starts it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.testing.project import INI, UNUSED, Project

TALK = (Path(__file__).parent / "users" / "loops.py.txt").read_text().partition("@pytest.mark")[0]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_without_a_word_in_the_configuration_it_does_nothing(project: Project) -> None:
    """Not even the package is imported, and the names are free."""
    project.write("pytest.ini", "[pytest]\n")
    project.write(
        "test_it.py",
        """
import sys


def test_nothing(request):
    assert not [name for name in sys.modules if name.startswith("roomwire")]
    assert "_roomwire_pytest" in sys.modules
    assert "roomwire" not in " ".join(request.fixturenames)


def test_no_client(client):
    pass
""",
    )
    run = project.run(exit_code=1)
    assert run.outcomes == {"test_nothing": "PASSED", "test_no_client": "ERROR"}
    assert "fixture 'client' not found" in run.output
    assert "roomwire:" not in run.output


def test_pytest_asyncio_in_auto_mode_in_two_processes(project: Project) -> None:
    project.write("pytest.ini", INI + "asyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n")
    project.write(
        "test_it.py",
        f"{TALK}\n\n@pytest.mark.parametrize('n', range(6))\nasync def test_it(async_client, n):\n"
        "    await talk(async_client)\n    assert n != 5\n",
    )
    run = project.run("-n", "2", exit_code=1, asyncio=True)
    assert run.outcomes == {f"test_it[{n}]": "PASSED" if n != 5 else "FAILED" for n in range(6)}
    assert "roomwire transcript" in run.output


def test_a_server_for_several_tests(project: Project) -> None:
    """Overrides and connections end with the test that made them; what a module's fixture put there stays."""
    project.write("pytest.ini", INI + "roomwire_scope = module\n")
    project.write(
        "test_it.py",
        """
import pytest

import board


@pytest.fixture(scope="module", autouse=True)
def for_the_module():
    board.app.overrides[board.stamp] = lambda: "module"
    yield
    del board.app.overrides[board.stamp]


@pytest.fixture
def for_the_test():
    board.app.overrides[board.stamp] = lambda: "test"


def mark(client):
    ann = client.connect("ann")
    ann.join("board:x")
    return ann.send("note.add", "hi", room="board:x")


ports = set()


def test_one(for_the_test, client, server):
    assert mark(client) == "test"
    ports.add(server.port)


def test_two(client, server):
    assert mark(client) == "module"
    ports.add(server.port)
    assert len(ports) == 1


@pytest.mark.parametrize("n", range(20))
def test_nobody_is_left_of_the_test_before(client, server, n):
    assert not server.node.connections
    for _ in range(5):
        client.connect("ann").join("board:x")
""",
    )
    run = project.run()
    assert set(run.outcomes.values()) == {"PASSED"}
    assert len(run.outcomes) == 22


def test_an_interrupt_ends_the_servers(project: Project) -> None:
    project.write(
        "conftest.py",
        """
import signal
import threading

signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_unconfigure():
    print("left:", [thread.name for thread in threading.enumerate()])
""",
    )
    project.write(
        "test_it.py",
        """
import signal
import threading


def test_it(client):
    ann = client.connect("ann")
    main = threading.main_thread().ident

    def interrupt():
        while not ann._socket._reading:
            pass
        signal.pthread_kill(main, signal.SIGINT)

    threading.Thread(target=interrupt).start()
    ann.expect("note.new", timeout=50)


def test_never(client):
    pass
""",
    )
    run = project.run(exit_code=2)
    assert "KeyboardInterrupt" in run.output
    assert "left: ['MainThread']" in run.output


def test_a_wrong_application_is_told_without_a_traceback(project: Project) -> None:
    """Each test that needs it fails by the text alone, and the others run."""
    project.write("pytest.ini", "[pytest]\nroomwire_app = ends:app\n")
    project.write("ends.py", "raise SystemExit('no settings')\n")
    project.write(
        "test_it.py",
        """
def test_app(roomwire_app):
    pass


def test_client(client):
    pass


def test_nothing():
    pass
""",
    )
    run = project.run(exit_code=1)
    assert run.outcomes == {
        "test_app": "ERROR",
        "test_client": "ERROR",
        "test_nothing": "PASSED",
    }
    app = 'roomwire_app "ends:app": importing ends ended with SystemExit: no settings\n'
    assert run.report("test_app") == "\n" + app
    assert run.report("test_client").startswith("\n" + app)


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("bord:app", 'there is no module bord in {folder}; did you mean "board"?'),
        ("board:ap", 'the module board has no attribute ap; did you mean "app"?'),
    ],
)
def test_a_slip_in_the_application_s_name_is_answered_with_the_name(project: Project, target: str, text: str) -> None:
    """As by `roomwire check`."""
    project.write("test_it.py", "def test_app(roomwire_app):\n    pass\n")
    run = project.run("-o", f"roomwire_app={target}", exit_code=1)
    assert run.report("test_app").startswith(f'\nroomwire_app "{target}": {text.format(folder=project.folder)}\n')


class TestNames:
    """Another plugin has a `client` too."""

    @pytest.fixture
    def crowded(self, project: Project) -> Project:
        project.write("other_plugin.py", "import pytest\n\n\n@pytest.fixture\ndef client():\n    return 'theirs'\n")
        return project

    def test_prefixed(self, crowded: Project) -> None:
        crowded.write("pytest.ini", INI + "roomwire_fixtures = prefixed\n")
        crowded.write(
            "test_it.py",
            "def test_it(client, roomwire_client, roomwire_server, roomwire_token, roomwire_async_client):\n"
            "    assert client == 'theirs'\n    ann = roomwire_client.connect(token=roomwire_token('ann'))\n"
            "    assert ann.user == 'ann'\n",
        )
        assert crowded.run("-p", "other_plugin").outcomes == {"test_it": "PASSED"}

    def test_off(self, crowded: Project) -> None:
        crowded.write("pytest.ini", INI + "roomwire_fixtures = off\n")
        crowded.write("test_it.py", "def test_it(client):\n    assert client == 'theirs'\n")
        assert crowded.run("-p", "other_plugin").outcomes == {"test_it": "PASSED"}


class TestUsage:
    """What stops a run before anything is collected; in this process."""

    @pytest.mark.parametrize(
        ("option", "text"),
        [
            ("roomwire_fixtures = some", "roomwire_fixtures: expected plain, prefixed or off, found 'some'"),
            ("roomwire_scope = galaxy", "roomwire_scope: expected one of function,"),
            ("roomwire_timeout = soon", "roomwire_timeout: expected a number of seconds, found 'soon'"),
        ],
    )
    def test_a_wrong_option(self, project: Project, capsys: pytest.CaptureFixture[str], option: str, text: str) -> None:
        project.write("pytest.ini", INI + option + "\n")
        assert text in stopped(project, capsys)

    @pytest.mark.parametrize(
        ("config", "text"),
        [
            ("roomwire.toml", 'roomwire_config: roomwire.toml: server.prot: unknown key; did you mean "port"?'),
            ("other.toml", "roomwire_config: there is no configuration file"),
        ],
    )
    def test_a_wrong_configuration(
        self, project: Project, capsys: pytest.CaptureFixture[str], config: str, text: str
    ) -> None:
        project.write("roomwire.toml", "[server]\nprot = 1\n")
        project.write("pytest.ini", f"[pytest]\nroomwire_config = {config}\n")
        assert text in stopped(project, capsys)

    def test_a_collision(
        self, project: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        project.write("crowd.py", "import pytest\n\n\n@pytest.fixture\ndef client():\n    return 'theirs'\n")
        monkeypatch.syspath_prepend(project.folder)
        output = stopped(project, capsys, "-p", "crowd")
        assert "the fixtures client are crowd's as well as roomwire's: set roomwire_fixtures = prefixed" in output


def stopped(project: Project, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What pytest prints before it gives up."""
    without = [word for name in ("xdist", "asyncio", "faulthandler", "timeout") for word in ("-p", f"no:{name}")]
    place = ["--rootdir", str(project.folder), "-c", str(project.folder / "pytest.ini"), str(project.folder)]
    code = pytest.main([*place, *UNUSED, *without, *arguments])
    assert code == pytest.ExitCode.USAGE_ERROR
    output = capsys.readouterr()
    return output.out + output.err
