"""``server.fallback`` from the command line: what is wrong with it, and the processes that serve it."""

from __future__ import annotations

import json
import signal
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Process, Project, running
from tests.cli.workers import READY, project_with_workers

# Without a framework, whose import would be most of the time of these tests; `tests.fallback` has the frameworks.
MAIN = """
import json
import chatapp

number = 3

class Api:
    async def __call__(self, scope, receive, send):
        assert scope["type"] == "http"
        found = {"page": "of the fallback"}
        if scope["path"] == "/told":
            found = {"id": (await chatapp.app.publish("lobby", "said", "from a route")).id}
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(found).encode()})

api = Api()

def make():
    return api

def wsgi(environ, start_response):
    return []
"""


STUCK = """
import asyncio, sys

async def api(scope, receive, send):
    await receive()
    print("it starts", file=sys.stderr, flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        print("it is cancelled", file=sys.stderr, flush=True)
"""


@pytest.fixture
def rest(project: Project) -> Project:
    project.write("chatapp_rest.py", MAIN)
    return project


def fetch(address: str, path: str) -> Any:
    with urllib.request.urlopen(address.replace("ws://", "http://").replace("/ws", "") + path, timeout=20) as response:
        body = response.read()
    return json.loads(body) if body.startswith(b"{") else body


def configure(project: Project, fallback: str) -> None:
    text = (project.folder / "roomwire.toml").read_text()
    (project.folder / "roomwire.toml").write_text(text.replace("[server]\n", f'[server]\nfallback = "{fallback}"\n'))


class TestCheck:
    def test_it_is_loaded_and_shown(self, rest: Project) -> None:
        configure(rest, "chatapp_rest:api")
        assert rest.call("check").exit_code == 0
        (shown,) = [line for line in rest.call("config", "show").stdout.splitlines() if "server.fallback" in line]
        assert shown.split()[:3] == ["server.fallback", '"chatapp_rest:api"', "roomwire.toml:"]
        assert rest.call("check", env={"ROOMWIRE_SERVER__FALLBACK": "chatapp_rest:nothing"}).exit_code == 2

    @pytest.mark.parametrize(
        ("target", "problem"),
        [
            ("chatapp_rest", 'expected "module:attribute"'),
            ("chatapp_nowhere:api", "there is no module chatapp_nowhere in"),
            ("chatapp_rest:apy", 'the module chatapp_rest has no attribute apy; did you mean "api"?'),
            ("chatapp_rest:number", "number is a int, which cannot be called"),
            ("chatapp_rest:make", "make does not take scope, receive and send"),
            ("chatapp_rest:Api", "Api does not take scope, receive and send"),
            ("chatapp_rest:wsgi", "wsgi does not take scope, receive and send"),
        ],
    )
    def test_each_error_names_the_key(self, rest: Project, target: str, problem: str) -> None:
        configure(rest, target)
        for command in (["check"], ["run"]):
            result = rest.call(*command)
            assert result.exit_code == 2
            assert "roomwire.toml: server.fallback" in result.stderr
            assert problem in result.stderr

    def test_one_that_raises_is_told_with_its_line(self, rest: Project) -> None:
        rest.write("chatapp_bad.py", "import json\n\nraise OSError('no database')\n")
        configure(rest, "chatapp_bad:api")
        result = rest.call("check")
        assert result.exit_code == 2
        assert "importing chatapp_bad failed: OSError: no database" in result.stderr
        assert "chatapp_bad.py, line 3" in result.stderr

    def test_an_asgi_host_has_its_own(self, rest: Project) -> None:
        configure(rest, "chatapp_nowhere:api")
        assert rest.call("check", env={"ROOMWIRE_SERVER__TRANSPORT": "asgi"}).exit_code == 0

    def test_another_transport_that_cannot_serve_it_refuses_it(self, rest: Project) -> None:
        rest.write("chatapp_other.py", "from roomwire.transports.asgi import AsgiTransport as Other\n")
        configure(rest, "chatapp_rest:api")
        result = rest.call("check", env={"ROOMWIRE_SERVER__TRANSPORT": "chatapp_other:Other"})
        assert result.exit_code == 2
        assert 'server.fallback: the transport "chatapp_other:Other" answers nothing but' in result.stderr


class TestServing:
    def test_run(self, rest: Project) -> None:
        configure(rest, "chatapp_rest:api")
        with running(rest.start("run")) as process:
            address = process.read_until(r"on (\S+)$")[1]
            assert fetch(address, "/") == {"page": "of the fallback"}
            assert fetch(address, "/told")["id"]
            assert b"never reached" not in fetch(address, "/roomwire.js")
            process.read_until("request .*GET.*/told")
            process.interrupt()
            assert process.wait() == 0

    def test_a_startup_that_fails_is_exit_code_3(self, rest: Project) -> None:
        rest.write(
            "chatapp_down.py",
            "async def api(scope, receive, send):\n    await receive()\n    raise OSError('no database')\n",
        )
        configure(rest, "chatapp_down:api")
        with running(rest.start("run")) as process:
            assert process.wait() == 3
            assert "server.fallback: the application did not start: OSError: no database" in process.seen

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_startup_that_never_completes_ends_at_the_first_signal(
        self, rest: Project, number: signal.Signals
    ) -> None:
        rest.write("chatapp_stuck.py", STUCK)
        configure(rest, "chatapp_stuck:api")
        with running(rest.start("run")) as process:
            process.read_until("it starts")
            process.popen.send_signal(number)
            assert process.wait() == 0
        assert "it is cancelled" in process.seen
        assert "ended while it started" in process.seen

    def test_the_pages_of_dev_come_first_and_it_starts_anew_when_the_application_changes(self, rest: Project) -> None:
        configure(rest, "chatapp_rest:api")
        rest.write("index.html", "<h1>chat</h1>")
        with running(rest.start("dev", "--reload")) as process:
            site = _site_of(process)
            assert fetch(site, "/") == b"<h1>chat</h1>"
            assert fetch(site, "/told")["id"]
            assert fetch(site, "/page") == {"page": "of the fallback"}
            rest.write("chatapp_rest.py", MAIN.replace("of the fallback", "another one"))
            process.read_until("chatapp_rest.py changed")
            assert fetch(_site_of(process), "/page") == {"page": "another one"}
            process.interrupt()
            assert process.wait() == 0


def _site_of(process: Process) -> str:
    return process.read_until(r"page +(http\S+)/$")[1]


def test_each_worker_serves_it(tmp_path: Path, project: Project) -> None:
    workers = project_with_workers(project.folder, workers=2)
    workers.write(
        "main.py",
        "import os\n\nasync def api(scope, receive, send):\n    assert scope['type'] == 'http'\n"
        "    body = b'{\"pid\": %d}' % os.getpid()\n"
        "    await send({'type': 'http.response.start', 'status': 200, 'headers': []})\n"
        "    await send({'type': 'http.response.body', 'body': body})\n",
    )
    configure(workers, "main:api")
    with running(workers.start("run")) as process:
        address = process.read_until(READY)[1]
        pids: set[int] = set()
        while len(pids) < 2:  # connections go to the worker with the fewest
            pids.add(fetch(address, "/")["pid"])
        process.interrupt()
        assert process.wait() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_whose_startup_never_completes_ends_at_the_first_signal(
    tmp_path: Path, project: Project, number: int
) -> None:
    workers = project_with_workers(project.folder, workers=2)
    workers.write("main.py", STUCK)
    configure(workers, "main:api")
    with running(workers.start("run")) as process:
        process.read_until("it starts")
        process.popen.send_signal(number)
        assert process.wait() == 0
    assert "it is cancelled" in process.seen
    assert "a worker hangs" not in process.seen  # nor was it killed
