"""The sources of settings, their precedence, references, and what is shown of them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from roomwire.config import Loaded, Settings, load
from roomwire.core.errors import ConfigError
from roomwire.core.limits import Limits
from roomwire.core.policy import RoomPolicy

SECRET = "correct-horse-battery-staple-0123456789"

Load = Callable[..., Loaded]


@pytest.fixture
def load_here(tmp_path: Path) -> Load:
    """`load` in an empty folder, with `toml` as its roomwire.toml and `env` as its .env."""

    def load_with(
        toml: str | None = None,
        *,
        env: str | None = None,
        environ: Mapping[str, str] | None = None,
        overrides: Mapping[str, object] | None = None,
        **rest: object,
    ) -> Loaded:
        if toml is not None:
            (tmp_path / "roomwire.toml").write_text(toml)
        if env is not None:
            (tmp_path / ".env").write_text(env)
        return load(environ=environ or {}, overrides=overrides, cwd=tmp_path, **rest)  # type: ignore[arg-type]

    return load_with


class TestDefaults:
    def test_nothing_configured(self, load_here: Load) -> None:
        loaded = load_here()
        settings = loaded.settings
        assert (loaded.source, loaded.warnings, dict(loaded.origins)) == (None, [], {})
        assert settings.app is None
        assert (settings.server.host, settings.server.port, settings.server.path) == ("127.0.0.1", 8000, "/ws")
        assert (settings.backplane.type, settings.auth.type) == ("memory", "jwt")
        assert settings.limits == Limits()
        assert settings.rooms == {}
        assert (settings.logging.level, settings.logging.format) == ("info", "text")

    def test_in_code(self) -> None:
        assert Settings().server.compression is False
        assert Settings().server.drain_timeout == 25.0

    def test_every_node_has_a_name_of_its_own(self, load_here: Load) -> None:
        one, other = load_here().settings.server.node, load_here().settings.server.node
        assert one != other

    def test_a_room_policy_is_the_core_s(self, load_here: Load) -> None:
        loaded = load_here('[rooms."chat:*"]\npresence = true\nhistory_ttl = 60\n[rooms.lobby]\n')
        assert loaded.settings.rooms == {
            "chat:*": RoomPolicy(presence=True, history_ttl=60.0),
            "lobby": RoomPolicy(),
        }

    def test_limits_are_the_core_s(self, load_here: Load) -> None:
        loaded = load_here("[limits]\nrooms = 7\nheartbeat_interval = 20\n")
        assert loaded.settings.limits == Limits(rooms=7, heartbeat_interval=20.0)


class TestPrecedence:
    """Flag, environment, .env, file, default: the first that sets a key wins."""

    @pytest.mark.parametrize(
        ("given", "port", "where"),
        [
            ("flag environment .env file", 5, "--port"),
            ("environment .env file", 4, "environment: ROOMWIRE_SERVER__PORT"),
            ("flag .env", 5, "--port"),
            (".env file", 3, ".env: ROOMWIRE_SERVER__PORT"),
            ("environment file", 4, "environment: ROOMWIRE_SERVER__PORT"),
            ("file", 2, "roomwire.toml: server.port"),
            ("", 8000, "server.port (or ROOMWIRE_SERVER__PORT)"),
        ],
    )
    def test_table(self, load_here: Load, given: str, port: int, where: str) -> None:
        sources = given.split()
        loaded = load_here(
            "[server]\nport = 2\n" if "file" in sources else "[server]\n" if sources else None,
            env="ROOMWIRE_SERVER__PORT=3\n" if ".env" in sources else None,
            environ={"ROOMWIRE_SERVER__PORT": "4"} if "environment" in sources else {},
            overrides={"server.port": 5 if "flag" in sources else None},
        )
        assert loaded.settings.server.port == port
        assert loaded.where("server", "port") == where

    def test_keys_are_merged_not_sections(self, load_here: Load) -> None:
        loaded = load_here(
            '[server]\nhost = "::1"\nport = 1\n[backplane.options]\na = 1\nb = 2\n',
            environ={"ROOMWIRE_SERVER__PORT": "9", "ROOMWIRE_BACKPLANE__OPTIONS__B": "3"},
        )
        assert (loaded.settings.server.host, loaded.settings.server.port) == ("::1", 9)
        assert loaded.settings.backplane.options == {"a": 1, "b": "3"}

    def test_a_whole_table_replaces_the_keys_below_it(self, load_here: Load) -> None:
        loaded = load_here("[backplane.options]\na = 1\nb = 2\n", environ={"ROOMWIRE_BACKPLANE__OPTIONS": '{"c": [1]}'})
        assert loaded.settings.backplane.options == {"c": [1]}

    def test_another_adapter_leaves_the_options_of_the_first_one(self, load_here: Load) -> None:
        loaded = load_here(
            '[backplane]\ntype = "acme:Backplane"\n[backplane.options]\nurl = "acme://"\n',
            overrides={"backplane.type": "memory"},
        )
        assert loaded.settings.backplane.options == {}
        assert loaded.warnings == ['roomwire.toml: backplane.options is left out, since --backplane chooses "memory"']

    def test_the_same_adapter_keeps_them(self, load_here: Load) -> None:
        loaded = load_here(
            '[backplane]\ntype = "memory"\n[backplane.options]\na = 1\n', overrides={"backplane.type": "memory"}
        )
        assert (loaded.settings.backplane.options, loaded.warnings) == ({"a": 1}, [])

    def test_options_of_the_same_source_stay_with_its_type(self, load_here: Load) -> None:
        environ = {"ROOMWIRE_BACKPLANE__TYPE": "b:B", "ROOMWIRE_BACKPLANE__OPTIONS__URL": "b://"}
        loaded = load_here('[backplane]\ntype = "a:A"\n[backplane.options]\nurl = "a://"\n', environ=environ)
        assert loaded.settings.backplane.options == {"url": "b://"}


class TestFiles:
    def test_pyproject(self, tmp_path: Path) -> None:
        (tmp_path / "pyproject.toml").write_text("[project]\n[tool.roomwire.server]\nport = 1\n")
        loaded = load(environ={}, cwd=tmp_path)
        assert loaded.settings.server.port == 1
        assert loaded.where("server", "port") == "pyproject.toml: tool.roomwire.server.port"

    def test_a_pyproject_without_our_table_is_no_source(self, tmp_path: Path) -> None:
        (tmp_path / "pyproject.toml").write_text("[tool.ruff]\n")
        assert load(environ={}, cwd=tmp_path).source is None

    def test_a_pyproject_that_is_asked_for_must_have_our_table(self, tmp_path: Path) -> None:
        (tmp_path / "pyproject.toml").write_text("[tool.ruff]\n")
        with pytest.raises(ConfigError, match=r"^pyproject\.toml: there is no table \[tool\.roomwire\]$"):
            load(Path("pyproject.toml"), environ={}, cwd=tmp_path)

    def test_our_own_file_goes_first(self, tmp_path: Path) -> None:
        (tmp_path / "pyproject.toml").write_text("[tool.roomwire.server]\nport = 1\n")
        (tmp_path / "roomwire.toml").write_text("[server]\nport = 2\n")
        assert load(environ={}, cwd=tmp_path).settings.server.port == 2

    @pytest.mark.parametrize("by", ["flag", "variable"])
    def test_another_file(self, tmp_path: Path, by: str) -> None:
        (tmp_path / "roomwire.toml").write_text("[server]\nport = 2\n")
        (tmp_path / "prod.toml").write_text("[server]\nport = 3\n")
        if by == "flag":
            loaded = load(Path("prod.toml"), environ={}, cwd=tmp_path)
        else:
            loaded = load(environ={"ROOMWIRE_CONFIG": "prod.toml"}, cwd=tmp_path)
        assert (loaded.settings.server.port, loaded.source) == (3, tmp_path / "prod.toml")
        assert loaded.warnings == []

    @pytest.mark.parametrize(
        ("path", "environ", "message"),
        [
            (Path("nope.toml"), {}, "there is no configuration file nope.toml"),
            (None, {"ROOMWIRE_CONFIG": "nope.toml"}, "ROOMWIRE_CONFIG: there is no configuration file nope.toml"),
        ],
    )
    def test_missing(self, tmp_path: Path, path: Path | None, environ: dict[str, str], message: str) -> None:
        with pytest.raises(ConfigError) as caught:
            load(path, environ=environ, cwd=tmp_path)
        assert str(caught.value) == message

    def test_bad_syntax_names_the_line(self, load_here: Load) -> None:
        with pytest.raises(ConfigError, match=r"^roomwire\.toml: not correct TOML: .*line 2"):
            load_here("[server]\nport = = 3\n")

    def test_bad_utf_8_names_the_byte(self, tmp_path: Path) -> None:
        (tmp_path / "roomwire.toml").write_bytes(b"app = '\xff'")
        with pytest.raises(ConfigError, match=r"^roomwire\.toml: not UTF-8: invalid start byte at byte 7$"):
            load(environ={}, cwd=tmp_path)

    def test_paths_of_a_file_are_meant_from_it(self, tmp_path: Path) -> None:
        folder = tmp_path / "etc"
        folder.mkdir()
        (folder / "roomwire.toml").write_text('[server]\nssl_certfile = "c.pem"\nssl_keyfile = "/abs/k.pem"\n')
        server = load(Path("etc/roomwire.toml"), environ={}, cwd=tmp_path).settings.server
        assert (server.ssl_certfile, server.ssl_keyfile) == (str(folder / "c.pem"), "/abs/k.pem")

    def test_paths_of_flags_are_meant_from_the_working_directory(self, load_here: Load) -> None:
        loaded = load_here(overrides={"server.uds": "run/chat.sock"})
        assert loaded.settings.server.uds == "run/chat.sock"


class TestEnvFile:
    def test_beside_the_configuration(self, tmp_path: Path) -> None:
        folder = tmp_path / "etc"
        folder.mkdir()
        (folder / "roomwire.toml").write_text("")
        (folder / ".env").write_text("ROOMWIRE_SERVER__PORT=5\n")
        (tmp_path / ".env").write_text("ROOMWIRE_SERVER__PORT=6\n")
        assert load(Path("etc/roomwire.toml"), environ={}, cwd=tmp_path).settings.server.port == 5

    def test_another_one(self, tmp_path: Path) -> None:
        (tmp_path / ".env").write_text("ROOMWIRE_SERVER__PORT=6\n")
        (tmp_path / "dev.env").write_text('# development\nexport ROOMWIRE_SERVER__PORT="7"\nOTHER=a$b\n')
        loaded = load(environ={}, cwd=tmp_path, env_file=Path("dev.env"))
        assert loaded.settings.server.port == 7
        assert loaded.where("server", "port") == "dev.env: ROOMWIRE_SERVER__PORT"
        assert loaded.env_file["OTHER"] == "a$b"

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"^--env-file: there is no file nope$"):
            load(environ={}, cwd=tmp_path, env_file=Path("nope"))

    def test_it_leaves_this_process_alone(self, load_here: Load) -> None:
        load_here(env="ROOMWIRE_SERVER__PORT=5\nSOME_NAME_OF_NOBODY=1\n")
        assert "SOME_NAME_OF_NOBODY" not in os.environ


class TestText:
    """Variables and flags are text: their key says what is meant."""

    @pytest.mark.parametrize(
        ("variable", "text", "value"),
        [
            ("SERVER__PORT", "0", 0),
            ("SERVER__FD", "3", 3),
            ("SERVER__UDS", "/run/chat", "/run/chat"),
            ("SERVER__DRAIN_TIMEOUT", "1.5", 1.5),
            ("SERVER__COMPRESSION", "TRUE", True),
            ("SERVER__COMPRESSION", "off", False),
            (
                "SERVER__ALLOWED_ORIGINS",
                "https://a.example, https://b.example",
                ["https://a.example", "https://b.example"],
            ),
            ("SERVER__ALLOWED_ORIGINS", '["https://a.example"]', ["https://a.example"]),
            ("SERVER__ALLOWED_ORIGINS", "", []),
            ("SERVER__FORWARDED_ALLOW_IPS", "10.0.0.0/8,::1", ["10.0.0.0/8", "::1"]),
            ("LOGGING__LEVEL", "DEBUG", "debug"),
        ],
    )
    def test_value(self, load_here: Load, variable: str, text: str, value: object) -> None:
        settings = load_here(environ={f"ROOMWIRE_{variable}": text}).settings
        section, key = variable.lower().split("__")
        assert getattr(getattr(settings, section), key) == value

    def test_limits(self, load_here: Load) -> None:
        environ = {"ROOMWIRE_LIMITS__HEARTBEAT_INTERVAL": "5", "ROOMWIRE_LIMITS__ON_CONNECTION_LIMIT": "evict"}
        limits = load_here(environ=environ).settings.limits
        assert (limits.heartbeat_interval, limits.on_connection_limit) == (5.0, "evict")

    def test_app(self, load_here: Load) -> None:
        assert load_here(environ={"ROOMWIRE_APP": "chat:app"}).settings.app == "chat:app"

    def test_options_may_be_json(self, load_here: Load) -> None:
        environ = {"ROOMWIRE_AUTH__OPTIONS__ALGORITHMS": '["HS256"]', "ROOMWIRE_AUTH__OPTIONS__ISSUER": "[not json"}
        options = load_here(environ=environ).settings.auth.options
        assert options == {"algorithms": ["HS256"], "issuer": "[not json"}

    def test_bytes_that_are_no_text(self, load_here: Load) -> None:
        with pytest.raises(ConfigError, match=r"^environment: ROOMWIRE_APP: its value is not UTF-8$"):
            load_here(environ={"ROOMWIRE_APP": "\udc80"})


class TestReferences:
    def test_env(self, load_here: Load) -> None:
        toml = '[auth.options]\nsecret = "env:JWT"\nissuer = ["a", "env:ISSUER"]\nmore = {x = "env:ISSUER"}\n'
        loaded = load_here(toml, environ={"JWT": SECRET, "ISSUER": "b"})
        assert loaded.settings.auth.options == {"secret": SECRET, "issuer": ["a", "b"], "more": {"x": "b"}}
        assert loaded.origin("auth", "options", "secret").reference == "env:JWT"

    def test_env_of_the_env_file(self, load_here: Load) -> None:
        loaded = load_here('[auth.options]\nsecret = "env:JWT"\n', env=f"JWT={SECRET}\n")
        assert loaded.settings.auth.options == {"secret": SECRET}

    def test_the_environment_goes_before_the_env_file(self, load_here: Load) -> None:
        loaded = load_here('app = "env:WHICH"\n', env="WHICH=a:app\n", environ={"WHICH": "b:app"})
        assert loaded.settings.app == "b:app"

    def test_text_from_elsewhere_becomes_what_the_key_wants(self, load_here: Load) -> None:
        assert load_here('[server]\nport = "env:PORT"\n', environ={"PORT": "81"}).settings.server.port == 81

    @pytest.mark.parametrize("content", [SECRET, SECRET + "\n", SECRET + "\r\n"])
    def test_file(self, load_here: Load, tmp_path: Path, content: str) -> None:
        (tmp_path / "secret.txt").write_bytes(content.encode())
        loaded = load_here('[auth.options]\nsecret = "file:secret.txt"\n')
        assert loaded.settings.auth.options == {"secret": SECRET}

    def test_file_in_a_variable(self, load_here: Load, tmp_path: Path) -> None:
        (tmp_path / "secret.txt").write_text(SECRET)
        environ = {"ROOMWIRE_AUTH__OPTIONS__SECRET": f"file:{tmp_path}/secret.txt"}
        assert load_here(environ=environ).settings.auth.options == {"secret": SECRET}

    @pytest.mark.parametrize(
        ("reference", "message"),
        [
            ("env:NOPE", "the environment variable NOPE is not set"),
            ("env:NO PE", "expected env: and the name of an environment variable, such as env:REDIS_URL"),
            ("file:nope", "the file {folder}/nope cannot be read: No such file or directory"),
            ("file:.", "the file {folder} cannot be read: Is a directory"),
            ("file:binary", "the file {folder}/binary is not UTF-8"),
            ("file:\0", "expected file: and a path, without a null character"),
            ("env:BYTES", "its value is not UTF-8"),
            ("file:huge", "the file {folder}/huge is larger than 1048576 bytes"),
        ],
    )
    def test_faults(self, load_here: Load, tmp_path: Path, reference: str, message: str) -> None:
        (tmp_path / "binary").write_bytes(b"\xff")
        (tmp_path / "huge").write_bytes(b"x" * 1_048_577)
        with pytest.raises(ConfigError) as caught:
            load_here(f"[auth.options]\nsecret = {json.dumps(reference)}\n", environ={"BYTES": "a\udc80"})
        assert str(caught.value) == "roomwire.toml: auth.options.secret: " + message.format(folder=tmp_path)

    def test_a_fallback_is_for_a_variable_that_is_not_set(self, load_here: Load) -> None:
        toml = '[auth.options]\nsecret = "env:JWT"\n'
        fallbacks = {"auth.options.secret": "made up", "server.host": "never"}
        assert load_here(toml, fallbacks=fallbacks).settings.auth.options == {"secret": "made up"}
        loaded = load_here(toml, fallbacks=fallbacks, environ={"JWT": SECRET})
        assert loaded.settings.auth.options == {"secret": SECRET}
        assert loaded.settings.server.host == "127.0.0.1"


class TestShown:
    def test_every_key_with_its_source(self, load_here: Load) -> None:
        loaded = load_here("[server]\nport = 1\n", environ={"ROOMWIRE_LIMITS__ROOMS": "3"})
        shown = {setting.key: (setting.value, setting.source) for setting in loaded.shown()}
        assert shown["server.port"] == (1, "roomwire.toml: server.port")
        assert shown["limits.rooms"] == (3, "environment: ROOMWIRE_LIMITS__ROOMS")
        assert shown["server.host"] == ("127.0.0.1", "default")
        assert shown["server.node"] == ("(made at the start)", "default")
        assert {f"limits.{name}" for name in Limits.__dataclass_fields__} <= shown.keys()

    def test_a_room_s_key_is_quoted_as_in_toml(self, load_here: Load) -> None:
        shown = {setting.key for setting in load_here('[rooms."chat:*"]\npresence = true\n').shown()}
        assert 'rooms."chat:*".presence' in shown

    @pytest.mark.parametrize(
        ("toml", "environ"),
        [
            (f'[auth.options]\nsecret = "{SECRET}"\n', {}),
            ('[auth.options]\nsecret = "env:JWT"\n', {"JWT": SECRET}),
            ('[auth.options]\nharmless_name = "env:JWT"\n', {"JWT": SECRET}),
            ('[auth.options]\nlist = ["env:JWT"]\n', {"JWT": SECRET}),
            (f'[api]\nkeys = ["{SECRET}"]\n', {}),
            ('[api]\nkeys = ["env:JWT"]\n', {"JWT": SECRET}),
            ("", {"ROOMWIRE_API__KEYS": f"first,{SECRET}"}),
            ("", {"ROOMWIRE_AUTH__OPTIONS__API_TOKEN": SECRET}),
            (f'[backplane.options]\nurl = "redis://user:{SECRET}@host"\n', {}),
            (f'[backplane.options]\nurls = ["redis://user:{SECRET}@host"]\n', {}),
            (
                f'[server]\nssl_certfile = "c"\nssl_keyfile = "k"\nssl_keyfile_password = "{SECRET}"\n',
                {},
            ),
        ],
    )
    def test_no_secret(self, load_here: Load, toml: str, environ: dict[str, str]) -> None:
        loaded = load_here(toml, environ=environ)
        assert SECRET not in repr(loaded.shown())
        assert SECRET not in repr(loaded)

    def test_a_reference_is_shown_as_such(self, load_here: Load) -> None:
        loaded = load_here('[auth.options]\nsecret = "env:JWT"\n', environ={"JWT": SECRET})
        shown = {setting.key: setting.value for setting in loaded.shown()}
        assert shown["auth.options.secret"] == "env:JWT (set)"
