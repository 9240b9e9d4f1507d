"""Who may connect to NATS and what for: options, passwords, TLS, and the permissions that a node needs."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from pydantic import ValidationError

from roomwire.backplanes.contract import HistoryPolicy, Holder, Member
from roomwire.backplanes.nats import NatsBackplane, NatsOptions
from roomwire.core.errors import ConfigError, Unavailable
from tests.backplanes.on_nats import options_of, started
from tests.servers import NatsServer

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "nats.md"
CONFIGURATION = """
accounts: {
  chat: {
    jetstream: enabled
    users: [
      { user: node, password: "secret-of-node", %s }
      { user: deaf, password: "secret-of-deaf", permissions: {
        publish: [">"]
        subscribe: ["rw.tell.>", "_INBOX.>"]
      } }
      { user: mute, password: "secret-of-mute", permissions: {
        publish: ["$JS.API.>", "$KV.>"]
        subscribe: [">"]
      } }
    ]
  }
}
"""
POLICY = HistoryPolicy()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    directory = tmp_path_factory.mktemp("nats-users")
    told = re.search(r"```text\n(permissions: .*?)```", PAGE.read_text(), re.S)
    assert told is not None
    (directory / "nats.conf").write_text(CONFIGURATION % told[1])
    with NatsServer(directory, "-c", str(directory / "nats.conf")) as server:
        yield server


class Certificates:
    def __init__(self, directory: Path) -> None:
        authority = trustme.CA()
        self.server, self.key, self.ca = directory / "server.pem", directory / "key.pem", directory / "ca.pem"
        self.client = directory / "client.pem"
        issued = authority.issue_cert("nats.example")
        self.server.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        self.key.write_bytes(issued.private_key_pem.bytes())
        self.ca.write_bytes(authority.cert_pem.bytes())


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> Iterator[NatsServer]:
    files = ("--tls", "--tlscert", str(certificates.server), "--tlskey", str(certificates.key))
    with NatsServer(tmp_path_factory.mktemp("nats-tls"), *files) as server:
        yield server


@pytest.mark.anyio
class TestPermissions:
    async def test_those_of_the_page_are_enough_for_a_node(self, guarded: NatsServer) -> None:
        options = options_of(guarded.port, "rw", user="node", password="secret-of-node")
        backplane = NatsBackplane(options)
        backplane.configure({"": POLICY}, lambda room: POLICY)
        async with started(backplane, "a") as sink:
            start = await backplane.subscribe("r")
            await backplane.publish("r", b"1", key="k", policy=POLICY)
            await backplane.publish("r", b"2", key="k2", policy=POLICY, window=5.0)
            await backplane.publish_ephemeral("r", b"3")
            await sink.until(lambda: len(sink.of("r")) == 2 and sink.ephemerals)
            assert len((await backplane.history("r", start, 10)).entries) == 2
            await backplane.positions(["r"])
            await backplane.enter("r", Member("ann", "c", "1"))
            assert len(await backplane.members("r")) == 1
            assert (await backplane.claim("ann", Holder("c", "1", "a"), 1, evict=False)).granted
            await backplane.refresh([("r", Member("ann", "c", "1"))], [("ann", Holder("c", "1", "a"))], limit=1)
            await backplane.leave("r", Member("ann", "c", "1"), 0)
            await backplane.tell(None, b"all")
            await sink.until(lambda: sink.control == [b"all"])
            assert not backplane._link._denials

    async def test_who_may_not_hear_a_room_is_told_so(self, guarded: NatsServer) -> None:
        backplane = NatsBackplane(options_of(guarded.port, "rw", user="deaf", password="secret-of-deaf"))
        async with started(backplane, "a"):
            with pytest.raises(Unavailable, match="does not permit a subscription"):
                await backplane.subscribe("r")

    async def test_who_may_not_publish_is_told_so_at_once(self, guarded: NatsServer) -> None:
        backplane = NatsBackplane(options_of(guarded.port, "rw", user="mute", password="secret-of-mute"))
        async with started(backplane, "a"):
            with pytest.raises(Unavailable, match="does not permit it") as caught:
                await backplane.publish("r", b"", key=None, policy=POLICY)
            assert caught.value.stored is False

    @pytest.mark.parametrize("given", [{}, {"user": "node", "password": "wrong"}, {"token": "wrong"}])
    async def test_a_wrong_password_refuses_the_start_and_is_not_shown(
        self, guarded: NatsServer, given: dict[str, Any]
    ) -> None:
        with pytest.raises(ConfigError, match=r"(?i)authorization violation") as caught:
            async with started(NatsBackplane(options_of(guarded.port, "rw", **given)), "a"):
                pass
        assert "wrong" not in str(caught.value)


@pytest.mark.anyio
class TestTls:
    async def test_the_certificate_is_checked(self, encrypted: NatsServer, certificates: Certificates) -> None:
        given = {"tls_ca": str(certificates.ca), "tls_hostname": "nats.example"}
        async with started(NatsBackplane(options_of(encrypted.port, "rw", **given)), "a") as sink:
            assert sink.availability == [True]

    @pytest.mark.parametrize("given", [{}, {"tls": True}, {"tls_hostname": "nats.example"}])
    async def test_an_unknown_authority_is_refused(self, encrypted: NatsServer, given: dict[str, Any]) -> None:
        with pytest.raises(ConfigError, match=r"(?i)certificate verify failed"):
            async with started(NatsBackplane(options_of(encrypted.port, "rw", **given)), "a"):
                pass

    async def test_another_name_is_refused(self, encrypted: NatsServer, certificates: Certificates) -> None:
        given = {"tls_ca": str(certificates.ca), "tls_hostname": "other.example"}
        with pytest.raises(ConfigError, match=r"(?i)hostname mismatch"):
            async with started(NatsBackplane(options_of(encrypted.port, "rw", **given)), "a"):
                pass

    @pytest.mark.parametrize("scheme", ["tls", "nats"])
    async def test_a_server_without_tls_gets_no_password(self, guarded: NatsServer, scheme: str) -> None:
        given: dict[str, Any] = {"user": "node", "password": "secret-of-node"}
        given |= {"servers": [f"{scheme}://127.0.0.1:{guarded.port}"], "tls": scheme == "nats"}
        with pytest.raises(ConfigError, match="offers no TLS"):
            async with started(NatsBackplane(options_of(guarded.port, "rw", **given)), "a"):
                pass


class TestOptions:
    @pytest.mark.parametrize(
        ("given", "says"),
        [
            ({"url": "nats://h"}, "Extra inputs"),
            ({"servers": []}, "at least 1"),
            ({"servers": "http://user:hidden@h"}, "expected nats://HOST:PORT"),
            ({"servers": ["nats://h:99999"]}, "expected nats://HOST:PORT"),
            ({"prefix": "a.b"}, "match pattern"),
            ({"replicas": 2}, "1, 3 or 5"),
            ({"partitions": 0}, "greater than or equal to 1"),
            ({"user": "ann"}, "user and password belong together"),
            ({"tls_cert": "c"}, "tls_cert and tls_key belong together"),
            ({"user": "ann", "password": "p", "token": "t"}, "give one of user, token, credentials and nkey_seed"),
            ({"request_timeout": 0}, "greater than 0"),
        ],
    )
    def test_what_is_wrong_is_said(self, given: dict[str, Any], says: str) -> None:
        with pytest.raises(ValidationError) as caught:
            NatsOptions.model_validate(given)
        assert says in str(caught.value)

    def test_several_servers_in_one_string(self) -> None:
        options = NatsOptions.model_validate({"servers": "nats://a:4222, nats://b:4222"})
        assert options.servers == ["nats://a:4222", "nats://b:4222"]
        assert not options.wants_tls
        assert NatsOptions(servers=["nats://a", "tls://b"]).wants_tls

    def test_secrets_are_not_shown(self) -> None:
        shown = repr(NatsOptions.model_validate({"user": "u", "password": "hidden"}))
        assert "hidden" not in shown

    @pytest.mark.parametrize("name", ["tls_ca", "credentials"])
    def test_a_file_that_is_missing_is_named(self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("roomwire.backplanes.nats.options.find_spec", lambda name: ssl)
        options = NatsOptions.model_validate({name: tmp_path / "missing"})
        with pytest.raises(ConfigError, match=f"backplane.options.{name}: there is no file"):
            options.check_files()

    def test_what_reads_a_seed_is_asked_for(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("roomwire.backplanes.nats.options.find_spec", lambda name: None)
        with pytest.raises(ConfigError, match=r'nkey_seed: it needs nkeys: pip install "nats-py\[nkeys\]"'):
            NatsOptions(nkey_seed=tmp_path / "seed").check_files()
