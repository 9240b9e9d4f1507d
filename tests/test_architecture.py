"""Who may import whom, what the core may do, and how large things may grow."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture import Layer, Module, Rules, core_faults, import_faults, modules_of, size_faults

ROOT = Path(__file__).parents[1]
MODULES = modules_of(ROOT / "src" / "roomwire")

MAX_MODULE = 450
MAX_FUNCTION = 60

IMPURE = "asyncio anyio trio time random socket logging os secrets threading ssl select subprocess"
CONTRACTS = "backplanes.contract transports.contract protocols.contract auth.contract"


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


RULES = Rules(
    layers={
        # The core imports nothing of ours.
        "core": Layer.of("core"),
        # A contract holds the contract and nothing else.
        "backplanes.contract": Layer.of("core"),
        "transports.contract": Layer.of("core"),
        "protocols.contract": Layer.of("core"),
        "auth.contract": Layer.of("core"),
        # What keeps a contract knows the core, and none of the others.
        "backplanes": Layer.of("core backplanes backplanes.contract"),
        "transports": Layer.of("core transports transports.anyio.listeners transports.contract"),
        # One module makes all listening sockets: the parent of workers has them without a transport.
        "transports.anyio.listeners": Layer.of("core transports.contract"),
        "protocols": Layer.of("core protocols protocols.contract"),
        "auth": Layer.of("core auth auth.contract"),
        # The rule of every node, whatever its authenticator.
        "auth.origin": Layer.of("core"),
        "client": Layer.of("core client"),
        # Settings, logging and the event loop, for what stands above.
        "config": Layer.of("core config"),
        "logs": Layer.of("core"),
        "runtime": Layer.of("core", lazily="transports.contract"),
        # Adapters are found by name: imported by `importlib`, never by a statement.
        "plugins": Layer.of(f"core config {CONTRACTS}"),
        # What import strings of the configuration name.
        "importing": Layer.of("core config"),
        # The node knows adapters by their contracts, and the user's declarations by the core's types.
        "node": Layer.of(f"core node config runtime plugins logs {CONTRACTS}", lazily="app"),
        # The user's door.
        "app": Layer.of(
            f"core app acting declaring event node config runtime {CONTRACTS}", lazily="plugins transports asgi"
        ),
        "acting": Layer.of("core node"),
        "event": Layer.of("core acting node"),
        "declaring": Layer.of("core acting event node"),
        # The application inside another one's.
        "asgi": Layer.of("core app node config logs serving transports transports.contract"),
        "publisher": Layer.of("core publisher config plugins backplanes.contract"),
        "": Layer.of("core app event node client publisher config serving"),
        # What a node counts, for Prometheus: imported where metrics are on.
        "metrics": Layer.of("core metrics node config plugins transports.contract"),
        # From settings to a serving node.
        "serving": Layer.of(
            f"core app node config plugins importing runtime logs auth.origin {CONTRACTS}", lazily="metrics"
        ),
        # On top.
        "testing": Layer.of(
            "core testing app node client publisher config plugins importing runtime logs serving backplanes "
            f"{CONTRACTS}",
            lazily="auth auth.origin transports protocols",
        ),
        # A load generator for any server, and the application that `roomwire bench` measures.
        # What an application declares, as documents.
        "contract": Layer.of("core app contract"),
        "bench": Layer.of("core bench"),
        "bench.app": Layer.of("app node"),
        "__main__": Layer.of("cli"),
        "cli": Layer.of(
            "core cli bench contract app node client publisher config plugins importing runtime logs serving testing "
            f"{CONTRACTS}",
            lazily="auth backplanes transports.anyio.listeners",
        ),
    },
    drivers={
        "redis": frozenset({"roomwire.backplanes.redis"}),
        "nats": frozenset({"roomwire.backplanes.nats"}),
        "jwt": frozenset({"roomwire.auth", "roomwire.cli", "roomwire.testing"}),
        "cryptography": frozenset({"roomwire.auth"}),
        "h11": frozenset({"roomwire.core"}),
        "wsproto": frozenset({"roomwire.core"}),
        "click": frozenset({"roomwire.cli"}),
        "rich": frozenset({"roomwire.cli"}),
        "watchfiles": frozenset({"roomwire.cli"}),
        "prometheus_client": frozenset({"roomwire.metrics"}),
    },
    # No clock, loop, socket, thread, log, environment or randomness: whatever is not named here.
    core_may=words(
        "__future__ abc array base64 binascii bisect codecs collections contextlib copy dataclasses enum functools "
        "hashlib heapq hmac http.HTTPStatus inspect ipaddress itertools json keyword math operator re string struct "
        "types typing unicodedata urllib.parse weakref zlib "
        "annotated_types h11 pydantic pydantic_core typing_extensions wsproto"
    ),
    core_never=frozenset({"open", "print", "input", "exec", "eval", "__import__"}),
)


class TestThePackage:
    def test_imports_keep_to_the_layers(self) -> None:
        assert import_faults(RULES, MODULES) == []

    def test_the_core_is_sans_io(self) -> None:
        assert core_faults(RULES, MODULES) == []

    def test_modules_and_functions_stay_small(self) -> None:
        assert [fault for module in MODULES for fault in size_faults(module, MAX_MODULE, MAX_FUNCTION)] == []

    @pytest.mark.parametrize("name", [module.name for module in MODULES if module.public])
    def test_all_names_what_is_there(self, name: str) -> None:
        module = importlib.import_module(name)
        if hasattr(module, "__path__") and not hasattr(module, "__all__"):
            return  # a package whose modules are the doors
        exported = module.__all__
        assert len(set(exported)) == len(exported)
        assert [missing for missing in exported if not hasattr(module, missing)] == []

    def test_drivers_are_not_imported_before_they_are_chosen(self) -> None:
        """Everything but the adapters themselves comes up without redis and nats."""
        drivers = ("roomwire.backplanes.redis", "roomwire.backplanes.nats")
        names = [m.name for m in MODULES if not m.name.startswith(drivers) and not m.name.endswith("__main__")]
        program = (
            "import importlib, sys\n"
            f"for name in {names!r}: importlib.import_module(name)\n"
            "print(sorted({'redis', 'nats'} & set(sys.modules)))"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=50)
        assert (done.stdout, done.stderr) == ("[]\n", "")


def made_up(**sources: str) -> list[Module]:
    """Modules by name below ``roomwire``, with ``_`` for the dots; ``core_x`` is ``roomwire.core.x``."""
    return [Module(f"roomwire.{name.replace('_', '.')}", source) for name, source in sources.items()]


class TestTheCheckerOfImports:
    @pytest.mark.parametrize(
        ("name", "source"),
        [
            ("core.a", "from roomwire.backplanes.contract import Backplane"),
            ("core.a", "def f():\n    import roomwire.node.rooms"),
            ("core.a", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from roomwire.app import App"),
            ("core.a", "from ..auth import jwt"),
            ("backplanes.memory", "from roomwire.transports.contract import Host"),
            ("auth.jwt", "import roomwire.protocols.native"),
            ("transports.anyio", "from roomwire.node import Node"),
            ("protocols.native", "from roomwire import app"),
            ("backplanes.contract", "from roomwire.backplanes.memory import MemoryBackplane"),
            ("node.node", "from roomwire.backplanes.memory import MemoryBackplane"),
            ("node.node", "def f():\n    from roomwire.auth.jwt import JwtAuthenticator"),
            ("plugins", "from roomwire.backplanes.memory import MemoryBackplane"),
            ("client.link", "from roomwire.node.node import Node"),
            ("config", "from roomwire.plugins import load"),
            ("testing.app", "from roomwire.cli import main"),
            ("node.node", "import redis.asyncio"),
            ("backplanes.memory", "from nats.aio.client import Client"),
            ("transports.anyio", "from wsproto.frame_protocol import Opcode"),
            ("unheard.of", "pass"),
        ],
    )
    def test_a_violation_is_found(self, name: str, source: str) -> None:
        neighbours = made_up(app="", auth_jwt="", backplanes_contract="", backplanes_memory="", node_rooms="")
        modules = [*neighbours, Module("roomwire", "", is_package=True), Module(f"roomwire.{name}", source)]
        faults = import_faults(RULES, modules)
        assert len(faults) == 1
        assert faults[0].startswith(f"roomwire.{name}:")

    @pytest.mark.parametrize(
        ("name", "source"),
        [
            ("core.a", "from roomwire.core import positions\nfrom .positions import Position"),
            ("backplanes.redis.scripts", "import redis.asyncio\nfrom roomwire.core.positions import Position"),
            ("backplanes.memory", "from roomwire.backplanes.contract import Sink\nfrom . import contract"),
            ("node.node", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from roomwire.app import App"),
            ("node.node", "from roomwire.backplanes.contract import Backplane\nimport anyio"),
            ("cli.run", "def f():\n    from roomwire.backplanes.memory import MemoryBackplane"),
        ],
    )
    def test_what_is_allowed_passes(self, name: str, source: str) -> None:
        neighbours = made_up(app="", core_positions="", backplanes_contract="")
        assert import_faults(RULES, [*neighbours, Module(f"roomwire.{name}", source)]) == []

    def test_lazy_is_told_apart_from_at_once(self) -> None:
        (fault,) = import_faults(RULES, made_up(node_node="from roomwire.app import App", app=""))
        assert fault == "roomwire.node.node:1: node may not import roomwire.app here"

    def test_a_relative_import_in_a_package_is_read_from_the_package(self) -> None:
        package = Module("roomwire.core", "from .errors import LocalError\nfrom ..auth import jwt", is_package=True)
        (fault,) = import_faults(RULES, [package, *made_up(core_errors="", auth_jwt="")])
        assert fault == "roomwire.core:2: core may not import roomwire.auth.jwt"


class TestTheCheckerOfTheCore:
    @pytest.mark.parametrize(
        "source",
        [
            *(f"import {name}" for name in sorted(words(IMPURE))),
            "from time import monotonic",
            "from urllib.request import urlopen",
            "import urllib",
            "from os import environ",
            "def f():\n    import datetime",
            "async def f(): ...",
            "def f():\n    print('x')",
            "open('file')",
        ],
    )
    def test_a_violation_is_found(self, source: str) -> None:
        assert len(core_faults(RULES, made_up(core_a=source))) == 1
        assert core_faults(RULES, made_up(node_a=source)) == []

    def test_pure_code_passes(self) -> None:
        source = (
            "from urllib.parse import quote\nfrom urllib import parse\nimport collections.abc\nimport wsproto.events"
        )
        assert core_faults(RULES, made_up(core_a=source + "\nfrom . import errors")) == []


class TestTheCheckerOfSizes:
    def test_a_long_module_is_found(self) -> None:
        module = Module("roomwire.core.a", "x = 1\n" * 11)
        assert size_faults(module, 10, 10) == ["roomwire.core.a: 11 lines, at most 10"]
        assert size_faults(module, 11, 10) == []

    def test_a_long_function_is_found_wherever_it_is(self) -> None:
        source = "class A:\n    async def f(self):\n" + "        x = 1\n" * 10
        assert size_faults(Module("roomwire.a", source), 99, 10) == ["roomwire.a:2: f has 11 lines, at most 10"]

    def test_a_docstring_does_not_count(self) -> None:
        source = 'def f():\n    """One.\n\n    Two.\n    """\n    return 1\n'
        assert size_faults(Module("roomwire.a", source), 99, 2) == []


def test_templates_are_nobodys_modules(tmp_path: Path) -> None:
    for name in ("core/__init__.py", "core/a.py", "cli/templates/chat/app.py"):
        path = tmp_path / "roomwire" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    assert [(m.name, m.is_package) for m in modules_of(tmp_path / "roomwire")] == [
        ("roomwire.core", True),
        ("roomwire.core.a", False),
    ]
