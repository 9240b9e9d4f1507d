from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from itertools import count
from socket import socket
from threading import Event
from types import SimpleNamespace
from typing import Any, BinaryIO

import anyio
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ed448

from roomwire.auth import jwks
from roomwire.auth.jwks import MAX_DOCUMENT_SIZE, KeySet, parse_keys
from roomwire.auth.jwt import JwtAuthenticator, JwtOptions
from roomwire.auth.tokens import Cause, TokenError, unauthorized
from roomwire.core.errors import ConfigError, HandshakeRefused, Refusal
from tests.auth.support import (
    EC384_KEY,
    EC_KEY,
    ED_KEY,
    ISSUER,
    NOW,
    OTHER_RSA_KEY,
    RSA_KEY,
    SECRET,
    WEAK_RSA_KEY,
    Clock,
    KeyServer,
    PrivateKey,
    jwk,
    key_set,
    request,
)

REFRESH, MIN_GAP, MAX_STALE = 300.0, 10.0, 3600.0
FIRST = jwk(RSA_KEY, "RS256", kid="first")
SECOND = jwk(OTHER_RSA_KEY, "RS256", kid="second")

# A hang ends here. No test passes by waiting for it.
PATIENCE = 30.0


def keys_of(server: KeyServer, clock: Clock, **options: Any) -> KeySet:
    settings = {"refresh": REFRESH, "min_gap": MIN_GAP, "max_stale": MAX_STALE, "timeout": PATIENCE, **options}
    return KeySet(server.url, ["RS256"], clock=clock, **settings)


class TestParse:
    def test_keys_are_found_by_id_and_algorithm(self) -> None:
        document = key_set(jwk(RSA_KEY, "RS256", kid="a"), jwk(EC_KEY, "ES256", kid="b"), jwk(ED_KEY, "EdDSA", kid="c"))
        keys = parse_keys(document, ["RS256", "PS256", "ES256", "EdDSA"])
        # Each algorithm has one key that fits, which a token without an id may use.
        named = {("a", "RS256"), ("a", "PS256"), ("b", "ES256"), ("c", "EdDSA")}
        assert set(keys) == named | {(None, name) for _, name in named}

    def test_without_an_id_only_where_one_key_fits(self) -> None:
        two = key_set(jwk(RSA_KEY, "RS256", kid="a"), jwk(OTHER_RSA_KEY, "RS256"))
        assert set(parse_keys(two, ["RS256"])) == {("a", "RS256")}
        assert set(parse_keys(key_set(jwk(RSA_KEY, "RS256")), ["RS256"])) == {(None, "RS256")}

    def test_one_id_for_keys_of_two_kinds(self) -> None:
        keys = parse_keys(key_set(jwk(RSA_KEY, "RS256", kid="a"), jwk(EC_KEY, "ES256", kid="a")), ["RS256", "ES256"])
        assert keys["a", "RS256"] is not keys["a", "ES256"]

    def test_of_two_keys_with_one_id_the_first_holds(self) -> None:
        document = key_set(jwk(RSA_KEY, "RS256", kid="a"), jwk(OTHER_RSA_KEY, "RS256", kid="a"))
        assert parse_keys(document, ["RS256"])["a", "RS256"] == RSA_KEY.public_key()

    @pytest.mark.parametrize(
        "member",
        [
            jwk(RSA_KEY, "RS256", kid="a", alg="RS256", use="sig", key_ops=["verify"], x5c=["AAAA"]),
            jwk(RSA_KEY, "RS256", kid="a", key_ops=None),
        ],
    )
    def test_usable(self, member: Mapping[str, Any]) -> None:
        assert ("a", "RS256") in parse_keys(key_set(member), ["RS256"])

    @pytest.mark.parametrize(
        "member",
        [
            {},
            "text",
            {"kty": "oct", "k": "c2VjcmV0", "kid": "a", "alg": "RS256"},
            jwk(RSA_KEY, "RS256", kid="a", use="enc"),
            jwk(RSA_KEY, "RS256", kid="a", alg="RS512"),
            jwk(RSA_KEY, "RS256", kid="a", alg="RSA-OAEP"),
            jwk(RSA_KEY, "RS256", kid="a", key_ops=["encrypt"]),
            jwk(RSA_KEY, "RS256", kid="a", key_ops="verify"),
            jwk(RSA_KEY, "RS256", kid="a", n=None),
            jwk(RSA_KEY, "RS256", kid="a", n=5),
            jwk(RSA_KEY, "RS256", kid="a", n=""),
            jwk(RSA_KEY, "RS256", kid="a", e="A"),
            jwk(RSA_KEY, "RS256", kid="a", kty="EC"),
            jwk(WEAK_RSA_KEY, "RS256", kid="a"),
            {**jwt.get_algorithm_by_name("RS256").to_jwk(RSA_KEY, as_dict=True), "kid": "a", "key_ops": ["verify"]},
            jwk(EC384_KEY, "ES384", kid="a"),
            jwk(EC_KEY, "ES256", kid="a", crv="P-384"),
            jwk(EC_KEY, "ES256", kid="a", crv="P-999"),
            jwk(ED_KEY, "EdDSA", kid="a", crv="X25519"),
            jwk(ED_KEY, "EdDSA", kid="a", x="AA"),
        ],
    )
    def test_what_cannot_verify_is_passed_over(self, member: object) -> None:
        algorithms = ["RS256", "ES256", "EdDSA"]
        with pytest.raises(ValueError, match="none of the 1 keys can verify RS256, ES256, EdDSA"):
            parse_keys(json.dumps({"keys": [member]}).encode(), algorithms)
        beside = json.dumps({"keys": [member, jwk(OTHER_RSA_KEY, "RS256", kid="good")]}).encode()
        assert set(parse_keys(beside, algorithms)) == {("good", "RS256"), (None, "RS256")}

    def test_ed448(self) -> None:
        public = ed448.Ed448PrivateKey.generate().public_key()
        member = {**jwt.get_algorithm_by_name("EdDSA").to_jwk(public, as_dict=True), "kid": "a"}
        assert parse_keys(key_set(member), ["EdDSA"])["a", "EdDSA"] == public


def endless(stream: BinaryIO, pause: float, piece: bytes) -> None:
    """Pieces, for as long as somebody reads."""
    with suppress(OSError):
        while True:
            stream.write(piece)
            Event().wait(pause)


class TestStart:
    @pytest.mark.parametrize(
        ("document", "status", "message"),
        [
            (b"", 200, "not a JWK Set"),
            (b"<html>", 200, "not a JWK Set"),
            (b"\xff", 200, "not a JWK Set"),
            (b"[" * 100_000, 200, "not a JWK Set"),
            (b"[]", 200, "not a JWK Set"),
            (b"{}", 200, "not a JWK Set"),
            (b'{"keys":{}}', 200, "not a JWK Set"),
            (b'{"keys":[]}', 200, "none of the 0 keys can verify RS256"),
            (key_set(jwk(EC_KEY, "ES256", kid="a")), 200, "none of the 1 keys can verify RS256"),
            (key_set(FIRST), 201, "HTTP status 201"),
            (key_set(FIRST), 404, "HTTP status 404"),
            (key_set(FIRST), 500, "HTTP status 500"),
            (key_set(FIRST) + b" " * MAX_DOCUMENT_SIZE, 200, "larger than 262144 bytes"),
        ],
    )
    @pytest.mark.anyio
    async def test_a_wrong_answer(
        self, document: bytes, status: int, message: str, server: KeyServer, clock: Clock
    ) -> None:
        server.document, server.status = document, status
        keys = keys_of(server, clock)
        with pytest.raises(ConfigError) as caught:
            await keys.start()
        assert str(caught.value).startswith(f"auth.options.jwks_url: no keys from {server.url}: ")
        assert message in str(caught.value)

    @pytest.mark.anyio
    async def test_no_answer(self, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        with socket() as silent:
            silent.bind(("127.0.0.1", 0))  # nobody else gets the port, and nobody listens
            url = f"http://127.0.0.1:{silent.getsockname()[1]}/keys.json"
            with pytest.raises(ConfigError, match="refused"):
                await KeySet(url, ["RS256"], clock=clock).start()

    @pytest.mark.anyio
    async def test_a_redirect_is_not_followed(self, server: KeyServer, clock: Clock) -> None:
        with KeyServer(key_set(FIRST)) as elsewhere:
            server.status, server.headers = 302, {"Location": elsewhere.url}
            with pytest.raises(ConfigError, match="HTTP status 302"):
                await keys_of(server, clock).start()
            assert elsewhere.fetches == 0

    @pytest.mark.anyio
    async def test_an_answer_that_stops_in_the_middle(self, server: KeyServer, clock: Clock) -> None:
        server.document, server.headers = key_set(FIRST)[:-9], {"Content-Length": "9999"}
        with pytest.raises(ConfigError, match="not a JWK Set"):
            await keys_of(server, clock).start()

    @pytest.mark.anyio
    async def test_an_answer_that_never_comes(self, server: KeyServer, clock: Clock) -> None:
        server.gate.clear()
        with pytest.raises(ConfigError, match="timed out"):
            await keys_of(server, clock, timeout=0.05).start()

    @pytest.mark.anyio
    async def test_an_answer_without_end(self, server: KeyServer, clock: Clock) -> None:
        server.write = partial(endless, pause=0, piece=b" " * 10_000)
        with pytest.raises(ConfigError, match="larger than 262144 bytes"):
            await keys_of(server, clock).start()

    @pytest.mark.anyio
    async def test_an_answer_that_drips(self, server: KeyServer, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each byte comes in time, all of them never would: half a second goes by at each read."""
        reads = count()
        monkeypatch.setattr(jwks, "time", SimpleNamespace(monotonic=lambda: next(reads) / 2))
        server.write = partial(endless, pause=0.001, piece=b" ")
        with pytest.raises(ConfigError, match="takes too long"):
            await keys_of(server, clock).start()
        assert next(reads) > 2 * PATIENCE

    @pytest.mark.anyio
    async def test_a_url_that_is_none(self, clock: Clock) -> None:
        with pytest.raises(ConfigError, match="no keys from http://"):
            await KeySet("http://127.0.0.1:1/a b", ["RS256"], clock=clock).start()


@pytest.mark.anyio
class TestFind:
    async def test_fresh_keys_are_not_fetched_again(self, server: KeyServer, clock: Clock) -> None:
        server.document = key_set(FIRST)
        keys = keys_of(server, clock)
        await keys.start()
        clock.now += REFRESH - 1
        for _ in range(100):
            assert await keys.find("first", "RS256") == RSA_KEY.public_key()
        assert await keys.find(None, "RS256") == RSA_KEY.public_key()
        assert server.fetches == 1

    async def test_nobody_waits_for_stale_keys_to_be_fetched(self, server: KeyServer, clock: Clock) -> None:
        server.document = key_set(FIRST)
        keys = keys_of(server, clock)
        await keys.start()
        server.document = key_set(FIRST, SECOND)
        server.asked.clear()
        server.gate.clear()
        clock.now += REFRESH
        with anyio.fail_after(PATIENCE):
            for _ in range(100):
                assert await keys.find("first", "RS256") is not None
            await anyio.to_thread.run_sync(server.asked.wait)
        assert server.fetches == 2
        server.gate.set()
        await keys.settle()
        assert keys.lookup("second", "RS256") == OTHER_RSA_KEY.public_key()
        assert server.fetches == 2

    async def test_a_rotated_key_works_at_once(self, server: KeyServer, clock: Clock) -> None:
        server.document = key_set(FIRST)
        keys = keys_of(server, clock)
        await keys.start()
        server.document = key_set(SECOND)
        clock.now += MIN_GAP
        assert await keys.find("second", "RS256") == OTHER_RSA_KEY.public_key()
        assert await keys.find("first", "RS256") is None
        assert server.fetches == 2

    async def test_made_up_ids_make_one_fetch_in_a_gap(self, server: KeyServer, clock: Clock) -> None:
        server.document = key_set(FIRST)
        keys = keys_of(server, clock)
        await keys.start()
        for round_ in range(1, 4):
            clock.now += MIN_GAP
            async with anyio.create_task_group() as tasks:
                for number in range(300):
                    tasks.start_soon(self.expect_none, keys, f"made-up-{round_}-{number}")
            assert server.fetches == 1 + round_

    async def expect_none(self, keys: KeySet, kid: str) -> None:
        assert await keys.find(kid, "RS256") is None

    async def test_an_id_is_not_enough(self, server: KeyServer, clock: Clock) -> None:
        server.document = key_set(FIRST, jwk(EC_KEY, "ES256", kid="ec"))
        keys = keys_of(server, clock)
        await keys.start()
        assert await keys.find("first", "ES256") is None
        assert await keys.find("ec", "RS256") is None

    async def test_one_fetch_serves_all_who_wait_for_it(self, server: KeyServer, clock: Clock) -> None:
        """The first of them giving up takes nothing from the others."""
        server.document = key_set(FIRST)
        keys = keys_of(server, clock)
        await keys.start()
        server.document = key_set(SECOND)
        server.asked.clear()
        server.gate.clear()
        clock.now += MIN_GAP
        found: list[object] = []

        async def wait() -> None:
            found.append(await keys.find("second", "RS256"))

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                async with anyio.create_task_group() as first:
                    first.start_soon(wait)
                    await anyio.to_thread.run_sync(server.asked.wait)
                    tasks.start_soon(wait)
                    tasks.start_soon(wait)
                    await anyio.wait_all_tasks_blocked()
                    first.cancel_scope.cancel()
                assert not found
                server.gate.set()
        assert found == [OTHER_RSA_KEY.public_key()] * 2
        assert server.fetches == 2

    @pytest.mark.parametrize("fail", [lambda server: server.stop(), lambda server: setattr(server, "status", 500)])
    async def test_a_server_that_is_down_takes_no_keys_away(
        self, fail: Callable[[KeyServer], None], server: KeyServer, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        server.document = key_set(FIRST)
        keys = keys_of(server, clock)
        await keys.start()
        fail(server)
        clock.now += REFRESH
        assert await keys.find("first", "RS256") is not None
        await keys.settle()
        assert await keys.find("first", "RS256") is not None
        assert await keys.find("second", "RS256") is None
        records = [record for record in caplog.records if record.name == "roomwire.security"]
        assert [record.levelno for record in records] == [logging.WARNING]
        assert records[0].getMessage().startswith("the keys of 300 seconds ago stay in use, for at most 3600: ")

    async def test_keys_are_not_used_for_ever(self, server: KeyServer, clock: Clock) -> None:
        server.document = key_set(FIRST)
        keys = keys_of(server, clock)
        await keys.start()
        server.status = 500
        clock.now += MAX_STALE
        for _ in range(3):
            with pytest.raises(TokenError) as caught:
                await keys.find("first", "RS256")
            assert caught.value.cause is Cause.NO_KEYS
        assert server.fetches == 2
        server.status = 200
        clock.now += MIN_GAP
        assert await keys.find("first", "RS256") is not None

    async def test_a_wait_has_an_end(self, server: KeyServer, clock: Clock) -> None:
        server.gate.clear()
        with pytest.raises(TokenError, match="no current keys"):
            await keys_of(server, clock, timeout=0.05).find("first", "RS256")

    async def test_no_fetch_begins_after_the_close(self, server: KeyServer, clock: Clock) -> None:
        server.document = key_set(FIRST)
        keys = keys_of(server, clock)
        await keys.start()
        await keys.aclose()
        clock.now += REFRESH
        assert await keys.find("second", "RS256") is None
        assert server.fetches == 1


def authenticator(server: KeyServer, clock: Clock) -> JwtAuthenticator:
    options = JwtOptions(algorithms=["RS256", "ES256"], jwks_url=server.url, issuer=[ISSUER], jwks_timeout=PATIENCE)
    return JwtAuthenticator(options, clock=Clock(), monotonic=clock)


def token(key: PrivateKey, algorithm: str, kid: str | None, **claims: object) -> str:
    payload = {"sub": "alice", "exp": NOW + 60, "iss": ISSUER, **claims}
    return jwt.encode(payload, key, algorithm, headers={"kid": kid} if kid is not None else None)


@pytest.mark.anyio
class TestAuthenticator:
    async def test_tokens_of_all_keys(self, server: KeyServer, clock: Clock) -> None:
        server.document = key_set(FIRST, SECOND, jwk(EC_KEY, "ES256", kid="ec"))
        verifier = authenticator(server, clock)
        await verifier.start()
        good = [
            token(RSA_KEY, "RS256", "first"),
            token(OTHER_RSA_KEY, "RS256", "second"),
            token(EC_KEY, "ES256", "ec"),
            token(EC_KEY, "ES256", None),
        ]
        for each in good:
            assert (await verifier.authenticate(request(each))).user == "alice"
        await verifier.aclose()
        assert server.fetches == 1

    @pytest.mark.parametrize(
        ("forged", "cause"),
        [
            (token(RSA_KEY, "RS256", "second"), "bad signature"),
            (token(RSA_KEY, "RS256", "ec"), "unknown key"),
            (token(RSA_KEY, "RS256", "no such key"), "unknown key"),
            (token(RSA_KEY, "RS256", ""), "unknown key"),
            (token(RSA_KEY, "RS256", None), "unknown key"),
            (token(EC_KEY, "ES256", "first"), "unknown key"),
            (token(RSA_KEY, "PS256", "first"), "algorithm not allowed"),
            (jwt.encode({"sub": "alice"}, SECRET, "HS256", headers={"kid": "first"}), "algorithm not allowed"),
            (token(RSA_KEY, "RS256", "first", iss="https://evil.example"), "wrong issuer"),
        ],
    )
    async def test_forged(self, forged: str, cause: str, server: KeyServer, clock: Clock) -> None:
        server.document = key_set(FIRST, SECOND, jwk(EC_KEY, "ES256", kid="ec"))
        verifier = authenticator(server, clock)
        await verifier.start()
        with pytest.raises(HandshakeRefused) as caught:
            await verifier.authenticate(request(forged))
        assert caught.value.refusal == unauthorized("").refusal
        assert caught.value.refusal.cause == cause
        await verifier.aclose()

    async def test_without_current_keys_it_is_not_the_clients_fault(self, server: KeyServer, clock: Clock) -> None:
        server.document = key_set(FIRST)
        verifier = authenticator(server, clock)
        await verifier.start()
        server.stop()
        clock.now += 86_400
        with pytest.raises(HandshakeRefused) as caught:
            await verifier.authenticate(request(token(RSA_KEY, "RS256", "first")))
        await verifier.aclose()
        headers = (("Retry-After", "10"),)
        assert caught.value.refusal == Refusal(503, "unavailable", "tokens cannot be verified now", headers)
        assert caught.value.refusal.cause == "no current keys"
        assert caught.value.__context__ is None

    async def test_a_start_without_keys_fails(self, server: KeyServer, clock: Clock) -> None:
        server.status = 404
        with pytest.raises(ConfigError, match=r"^auth\.options\.jwks_url: .*HTTP status 404"):
            await authenticator(server, clock).start()
