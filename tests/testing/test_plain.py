"""The fixtures under their plain names, in one run of a user's project whose tests do what users do, right and wrong.

Without async, on anyio's two backends and under pytest-asyncio; several applications, limits and an authenticator of
its own; failures, which have to say what happened.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.testing.project import INI, Project, Run

FOLDER = Path(__file__).parent / "users"
"""The user's test files; `.txt`, since they are not this project's."""

TALKS = ["test_messages", "test_refusals", "test_coming_back", "test_the_failure_of_a_handler_is_the_cause"]
ENDS = ["test_one_server", "test_has_ended_after_its_test"]
THREADS = ["test_one_connection_in_two_threads", "test_a_drop_wakes_another_thread"]
CALLS = ["test_a_call_that_hangs", "test_a_call_in_the_servers_thread"]
LOOPS = ["test_asyncio_one", "test_asyncio_left_open", "test_asyncio_other_loop"]
ANYIO = [f"{name}[{backend}]" for name in ("test_anyio", "test_at_once") for backend in ("asyncio", "trio")]
OTHERS = ["TestSecondApp::test_it", "test_the_first_app_is_as_it_was", "TestBothApps::test_it", "TestLimits::test_it"]
OTHERS_MODULE = """
from pydantic import BaseModel

from roomwire.core.identity import Identity


class Others:
    class Options(BaseModel):
        pass

    def __init__(self, options):
        pass

    async def start(self):
        pass

    async def aclose(self):
        pass

    async def authenticate(self, head):
        key = head.header(b"authorization").removeprefix(b"Bearer ").decode()
        if not key.startswith("key-of-"):
            raise RuntimeError("the authenticator broke")
        return Identity(key.removeprefix("key-of-"))
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    project = Project(tmp_path_factory.mktemp("plain"))
    project.write("pytest.ini", INI + "asyncio_default_fixture_loop_scope = function\n")
    for name in ("blocking", "loops", "others", "failing"):
        project.write(f"test_{name}.py", (FOLDER / f"{name}.py.txt").read_text())
    project.write("others.py", OTHERS_MODULE)
    project.write("own/conftest.py", "import pytest\n\n\n@pytest.fixture\ndef client():\n    return 'mine'\n")
    project.write(
        "own/test_own.py", "def test_a_conftest_goes_before_it(client, server):\n    assert client == 'mine'\n"
    )
    return project.run("--showlocals", "--show-capture=all", exit_code=1, asyncio=True)


@pytest.mark.parametrize(
    "name", [*TALKS, *ENDS, *THREADS, *CALLS, *LOOPS, *ANYIO, *OTHERS, "TestOwnTokens::test_it",
             "test_a_conftest_goes_before_it"]
)  # fmt: skip
def test_it_passes(run: Run, name: str) -> None:
    assert run.outcomes.get(name) == "PASSED", run.report(name.replace("::", ".")) or run.output


def test_nothing_else_fails(run: Run) -> None:
    failed = {name: outcome for name, outcome in run.outcomes.items() if outcome != "PASSED"}
    assert failed == {
        "test_late": "FAILED",
        "test_next": "FAILED",
        "test_the_teardown_fails": "ERROR PASSED",
        "TestNoDatabase::test_no_database": "ERROR",
        "TestOwnTokens::test_no_token": "FAILED",
        "TestOwnTokens::test_the_authenticator_fails": "FAILED",
    }


class TestFailures:
    def test_a_failure_has_the_transcript(self, run: Run) -> None:
        """Both directions, all clients, the server's log with the handler's traceback; and no token anywhere."""
        report = run.report("test_late")
        assert "NotReceived: ben#2: note.new did not come within 0.1 s; what came and is unread:" in report
        for line in (
            r"ann#1 +-> GET /ws Authorization: Bearer \[token\]",
            r"ben#2 +-> GET /ws\?token=\[token\]",
            r"ann#1 +<- 101 roomwire\.v1",
            r'ben#2 +-> \{"event":"room\.join"',
            r'ben#2 +<- \{"event":"ack"',
            r'ann#1 +-> \{"event":"boom"',
            r"server +ERROR +roomwire: boom failed",
            r"RuntimeError: the handler broke",
            # Nobody read it: it is there all the same.
            r'ann#1 +<- \{"event":"error"',
        ):
            assert re.search(line, report), line
        printed = re.search(r"SECRET (\S+)", run.output)
        assert printed is not None
        assert run.output.count(printed[1]) == 1, "only what the test printed itself"
        assert "_sockets.py" not in report, "the report shows the test's lines"

    def test_the_transcript_is_the_tests_own(self, run: Run) -> None:
        report = run.report("test_next")
        assert "zoe#1" in report
        assert "ann#1" not in report

    def test_a_teardown_has_it_too(self, run: Run) -> None:
        report = run.report("test_the_teardown_fails")
        assert "unknown_event: nobody handles this event" in report
        assert re.search(r'ann#1 +-> \{"event":"nope"', report)

    def test_a_server_that_does_not_start_is_the_failure(self, run: Run) -> None:
        assert "RuntimeError: no database" in run.report("TestNoDatabase.test_no_database")

    def test_whoever_has_other_tokens_is_told_what_to_do(self, run: Run) -> None:
        report = run.report("TestOwnTokens.test_no_token")
        assert 'auth.type = "others:Others" takes no JWTs: override the fixture `token`' in report

    def test_the_cause_of_a_refusal(self, run: Run) -> None:
        report = run.report("TestOwnTokens.test_the_authenticator_fails")
        assert "RuntimeError: the authenticator broke" in report.partition("Refused: 503")[0]
