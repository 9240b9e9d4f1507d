"""Adapters by name, by entry point and by class; their contracts and their options."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import trustme

from roomwire import plugins
from roomwire.auth.jwt import JwtAuthenticator
from roomwire.auth.none import AnonymousAuthenticator
from roomwire.backplanes.memory import MemoryBackplane
from roomwire.config import ServerSettings, Settings, load
from roomwire.core.errors import ConfigError, PluginError
from roomwire.plugins import AUTHENTICATORS, BACKPLANES, GROUPS, PROTOCOLS, TRANSPORTS, Group
from roomwire.transports.contract import ListenOptions

SECRET = "correct-horse-battery-staple-0123456789"

ADAPTERS = """
from pydantic import BaseModel, SecretStr
from roomwire.backplanes.memory import MemoryBackplane

class Good(MemoryBackplane):
    class Options(BaseModel):
        model_config = {"extra": "forbid"}
        url: str = "acme://"
        pin: SecretStr = SecretStr("")
        size: int = 1

    def __init__(self, options):
        super().__init__()
        self.options = options

class NoOptions(MemoryBackplane):
    Options = None

    def __init__(self):
        super().__init__()

class OddOptions(MemoryBackplane):
    Options = dict

class Empty:
    pass

class NotAsync(MemoryBackplane):
    def publish(self, room, body, *, key, policy): ...

class TooAsync:
    async def new_codec(self): ...
    def broadcast(self, publication): ...
    name: str
    liveness: object

class OtherParameters(MemoryBackplane):
    async def subscribe(self, topic): ...
    async def unsubscribe(self, room, reason): ...
    async def tell(self, *args, **kwargs): ...

class NoMethod(MemoryBackplane):
    publish = 3

class PropertyAsMethod(MemoryBackplane):
    def capabilities(self): ...

class OtherArguments(MemoryBackplane):
    Options = None
    def __init__(self, *, url): ...

class TakesNoOptions(Good):
    def __init__(self): ...

class Failing(MemoryBackplane):
    Options = None
    def __init__(self): raise RuntimeError("no disk")

function = lambda: None
"""


@pytest.fixture
def acme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path, with a module of adapters and an installed distribution that offers two of them."""
    (tmp_path / "acme_adapters.py").write_text(ADAPTERS)
    (tmp_path / "acme_broken.py").write_text("1 / 0\n")
    (tmp_path / "acme_poor.py").write_text("import a_package_that_is_nowhere.part\n")
    (tmp_path / "acme_keys.py").write_text("raise ModuleNotFoundError('no', name='cryptography.hazmat')\n")
    info = tmp_path / "acme-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(
        "[roomwire.backplanes]\nacme = acme_adapters:Good\nmemory = acme_adapters:Empty\nhollow = acme_adapters:Empty\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("acme_")]:
        del sys.modules[name]


def fault(group: Group, name: str) -> str:
    with pytest.raises(PluginError) as caught:
        plugins.load_class(plugins.find(group, name))
    return str(caught.value)


class TestTheTable:
    @pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.noun)
    def test_every_built_in_adapter_keeps_its_contract(self, group: Group) -> None:
        names = [plugin.name for plugin in plugins.plugins_of(group) if plugin.distribution == "built-in"]
        assert set(names) == set(group.builtin)
        for name in names:
            assert isinstance(plugins.load_class(plugins.find(group, name)), type)

    def test_a_command_line_imports_no_adapter(self) -> None:
        program = (
            "import sys\nfrom click.testing import CliRunner\nfrom roomwire.cli import main\n"
            "assert CliRunner().invoke(main, ['--help']).exit_code == 0\n"
            "unwanted = ('redis', 'nats', 'jwt', 'wsproto', 'h11', 'roomwire.backplanes.memory')\n"
            "print([name for name in unwanted if name in sys.modules])"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=50)
        assert (done.stdout, done.stderr) == ("[]\n", "")

    def test_importing_this_module_imports_no_adapter(self) -> None:
        program = (
            "import sys, roomwire.plugins\n"
            "print([name for name in ('redis', 'nats', 'jwt', 'roomwire.auth.jwt') if name in sys.modules])"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=50)
        assert (done.stdout, done.stderr) == ("[]\n", "")


class TestEntryPoints:
    def test_a_distribution_s_adapter_is_found(self, acme: Path) -> None:
        plugin = plugins.find(BACKPLANES, "acme")
        assert (plugin.target, plugin.distribution) == ("acme_adapters:Good", "acme 1.2")
        assert plugins.load_class(plugin).__name__ == "Good"

    def test_listed_after_ours(self, acme: Path) -> None:
        assert [plugin.name for plugin in plugins.plugins_of(BACKPLANES)] == [
            "memory",
            "redis",
            "nats",
            "acme",
            "hollow",
        ]

    def test_our_names_cannot_be_taken_over(self, acme: Path) -> None:
        assert plugins.load_class(plugins.find(BACKPLANES, "memory")) is MemoryBackplane


class TestFinding:
    @pytest.mark.parametrize(
        ("group", "name", "message"),
        [
            (
                BACKPLANES,
                "memori",
                'backplane.type = "memori": there is no backplane of that name; did you mean "memory"?',
            ),
            (
                BACKPLANES,
                "kafka",
                'backplane.type = "kafka": there is no backplane of that name; known: memory, nats, redis',
            ),
            (
                TRANSPORTS,
                "anyo",
                'server.transport = "anyo": there is no transport of that name; did you mean "anyio"?',
            ),
            (AUTHENTICATORS, "x", 'auth.type = "x": there is no authenticator of that name; known: anonymous, jwt'),
            (PROTOCOLS, "x", 'wire protocol "x": there is no wire protocol of that name; known: native'),
            (BACKPLANES, "a b:C", 'backplane.type = "a b:C": expected "package.module:Class"'),
            (BACKPLANES, "a:", 'backplane.type = "a:": expected "package.module:Class"'),
        ],
    )
    def test_no_such_name(self, group: Group, name: str, message: str) -> None:
        assert fault(group, name) == message

    @pytest.mark.parametrize(
        ("target", "message"),
        [
            ("nowhere:X", "there is no module nowhere"),
            ("nowhere.at.all:X", "there is no module nowhere"),
            ("roomwire.backplanes.nowhere:X", "there is no module roomwire.backplanes.nowhere"),
            ("acme_broken:X", "importing acme_broken failed: ZeroDivisionError: division by zero"),
            ("acme_poor:X", "it needs the package a_package_that_is_nowhere, which is not installed"),
            ("acme_keys:X", 'it needs cryptography: pip install "roomwire[jwks]"'),
            ("acme_adapters:Goood", 'the module acme_adapters has no Goood; did you mean "Good"?'),
            ("acme_adapters:Good.Nope", "the module acme_adapters has no Nope"),
            ("acme_adapters:function", "acme_adapters:function is no class"),
        ],
    )
    def test_cannot_be_imported(self, acme: Path, target: str, message: str) -> None:
        assert fault(BACKPLANES, target) == f'backplane.type = "{target}": {message}'


class TestTheContract:
    def test_missing_methods_are_all_named(self, acme: Path) -> None:
        text = fault(BACKPLANES, "hollow")
        start = (
            'backplane.type = "hollow": acme_adapters:Empty does not keep roomwire.backplanes.contract.Backplane:'
            " the attribute capabilities is missing; the method start is missing;"
        )
        assert text.startswith(start)
        methods = [name for name in vars(BACKPLANES.contract) if not name.startswith("_") and name != "capabilities"]
        assert re.findall(r"the method (\w+) is missing", text) == methods

    @pytest.mark.parametrize(
        ("group", "name", "faults"),
        [
            (BACKPLANES, "NotAsync", "publish must be an async method"),
            (BACKPLANES, "NoMethod", "publish is no method"),
            (BACKPLANES, "PropertyAsMethod", "capabilities is a method, and has to be an attribute or a property"),
            (PROTOCOLS, "TooAsync", "new_codec must not be async"),
            (
                BACKPLANES,
                "OtherParameters",
                "subscribe lacks the parameter room; subscribe wants a parameter that nobody gives it: topic;"
                " unsubscribe wants a parameter that nobody gives it: reason",
            ),
        ],
    )
    def test_fault(self, acme: Path, group: Group, name: str, faults: str) -> None:
        contract = f"{group.contract.__module__}.{group.contract.__name__}"
        assert fault(group, f"acme_adapters:{name}").endswith(f"does not keep {contract}: {faults}")


def settings(**sections: Mapping[str, Any]) -> Settings:
    return Settings.model_validate(sections)


class TestOptions:
    def test_validated_by_the_adapter_s_model(self, acme: Path) -> None:
        made: Any = plugins.make_backplane(settings(backplane={"type": "acme", "options": {"size": 3}}))
        assert (made.options.size, made.options.url) == (3, "acme://")

    def test_every_wrong_option_is_named(self, acme: Path) -> None:
        options = {"sise": 1, "size": "many"}
        with pytest.raises(ConfigError) as caught:
            plugins.make_backplane(settings(backplane={"type": "acme", "options": options}))
        assert str(caught.value).splitlines() == [
            "2 settings are wrong:",
            '  backplane.options.size: expected a valid integer, unable to parse string as an integer, found "many"',
            '  backplane.options.sise: unknown key; did you mean "size"?',
        ]

    def test_with_its_source(self, tmp_path: Path, acme: Path) -> None:
        (tmp_path / "roomwire.toml").write_text('[backplane]\ntype = "acme"\n[backplane.options]\nsize = "many"\n')
        environ = {"ROOMWIRE_BACKPLANE__OPTIONS__URI": "x"}
        loaded = load(environ=environ, cwd=tmp_path)
        with pytest.raises(ConfigError) as caught:
            plugins.make_backplane(loaded.settings, loaded)
        assert [line.partition(": ")[0] for line in str(caught.value).splitlines()[1:]] == [
            "  roomwire.toml",
            "  environment",
        ]

    @pytest.mark.parametrize("options", [{"pin": [SECRET]}, {"size": f"redis://u:{SECRET}@h"}])
    def test_a_secret_is_not_shown(self, acme: Path, options: dict[str, object]) -> None:
        with pytest.raises(ConfigError) as caught:
            plugins.make_backplane(settings(backplane={"type": "acme", "options": options}))
        assert SECRET not in str(caught.value)

    def test_a_referenced_value_is_not_shown(self, tmp_path: Path, acme: Path) -> None:
        (tmp_path / "roomwire.toml").write_text('[backplane]\ntype = "acme"\n[backplane.options]\nsize = "env:S"\n')
        loaded = load(environ={"S": SECRET}, cwd=tmp_path)
        with pytest.raises(ConfigError, match=r"found the value of env:S, which is not shown$"):
            plugins.make_backplane(loaded.settings, loaded)

    def test_an_adapter_without_options(self, acme: Path) -> None:
        made = plugins.make_backplane(settings(backplane={"type": "acme_adapters:NoOptions"}))
        assert type(made).__name__ == "NoOptions"
        with pytest.raises(ConfigError, match=r'^backplane\.options: the backplane "acme_adapters:NoOptions" takes no'):
            plugins.make_backplane(settings(backplane={"type": "acme_adapters:NoOptions", "options": {"a": 1}}))

    def test_options_that_are_no_model(self, acme: Path) -> None:
        with pytest.raises(PluginError, match=r"acme_adapters:OddOptions\.Options is no pydantic model$"):
            plugins.make_backplane(settings(backplane={"type": "acme_adapters:OddOptions"}))

    def test_an_adapter_that_cannot_be_made(self, acme: Path) -> None:
        with pytest.raises(PluginError, match=r"acme_adapters:Failing could not be made: RuntimeError: no disk$"):
            plugins.make_backplane(settings(backplane={"type": "acme_adapters:Failing"}))

    @pytest.mark.parametrize(
        ("name", "call", "reason"),
        [
            ("OtherArguments", r"OtherArguments\(\)", "missing a required argument: 'url'"),
            ("TakesNoOptions", r"TakesNoOptions\(options\)", "too many positional arguments"),
        ],
    )
    def test_an_adapter_that_is_made_in_another_way(self, acme: Path, name: str, call: str, reason: str) -> None:
        message = rf"acme_adapters:{name}\": it is made by {call}, which its __init__ does not take: {reason}$"
        with pytest.raises(PluginError, match=message):
            plugins.make_backplane(settings(backplane={"type": f"acme_adapters:{name}"}))

    def test_which_are_secret(self, acme: Path) -> None:
        assert plugins.secret_options(plugins.load_class(plugins.find(BACKPLANES, "acme"))) == {"pin"}
        assert plugins.secret_options(JwtAuthenticator) == {"secret"}
        assert plugins.secret_options(int) == frozenset()


class TestInstances:
    def test_backplane(self) -> None:
        assert isinstance(plugins.make_backplane(Settings()), MemoryBackplane)

    def test_authenticators(self) -> None:
        options = {"algorithms": ["HS256"], "secret": SECRET}
        assert isinstance(plugins.make_authenticator(settings(auth={"options": options})), JwtAuthenticator)
        anonymous = plugins.make_authenticator(settings(auth={"type": "anonymous"}))
        assert isinstance(anonymous, AnonymousAuthenticator)

    def test_no_authentication_configured(self) -> None:
        with pytest.raises(ConfigError, match=r"^auth\.options\.algorithms: required, but not set$"):
            plugins.make_authenticator(Settings())

    def test_a_short_secret_says_so_without_showing_it(self) -> None:
        options = {"algorithms": ["HS256"], "secret": "hunter2"}
        with pytest.raises(ConfigError, match=r"^auth\.options\.secret: the secret has 7 bytes") as caught:
            plugins.make_authenticator(settings(auth={"options": options}))
        assert "hunter2" not in str(caught.value)

    def test_transport(self) -> None:
        assert type(plugins.make_transport(Settings())).__name__ == "AnyioTransport"

    def test_protocols_have_the_native_one_first(self) -> None:
        assert plugins.make_protocols()[0].name == "roomwire.v1"


class TestListening:
    def test_every_setting_reaches_the_transport(self) -> None:
        server = ServerSettings(
            host="::1", port=1, fd=3, backlog=7, shell="portable", compression=True, proxy_headers=True
        )
        assert plugins.listen_options(server) == ListenOptions(
            host="::1", port=1, fd=3, backlog=7, shell="portable", compression=True, proxy_headers=True
        )

    def test_tls(self, tmp_path: Path) -> None:
        certificate = trustme.CA().issue_cert("localhost")
        certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "both.pem")
        path = str(tmp_path / "both.pem")
        context = plugins.listen_options(ServerSettings(ssl_certfile=path, ssl_keyfile=path)).ssl
        assert context is not None

    @pytest.mark.parametrize(
        ("certfile", "keyfile", "message"),
        [
            ("nope", "garbage", "server.ssl_certfile: there is no file {folder}/nope"),
            ("garbage", "nope", "server.ssl_keyfile: there is no file {folder}/nope"),
            (
                "garbage",
                "garbage",
                "server.ssl_certfile, server.ssl_keyfile: {folder}/garbage and {folder}/garbage cannot be loaded:",
            ),
        ],
    )
    def test_bad_files(self, tmp_path: Path, certfile: str, keyfile: str, message: str) -> None:
        (tmp_path / "garbage").write_text("not PEM")
        server = ServerSettings(ssl_certfile=str(tmp_path / certfile), ssl_keyfile=str(tmp_path / keyfile))
        with pytest.raises(ConfigError) as caught:
            plugins.listen_options(server)
        assert str(caught.value).startswith(message.format(folder=tmp_path))
