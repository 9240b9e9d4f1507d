from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Mapping
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roomwire.auth.contract import Authenticator
from roomwire.auth.jwt import JwtAuthenticator, JwtOptions, inspect, issue
from roomwire.auth.tokens import MAX_TOKEN_SIZE, unauthorized
from roomwire.core.errors import ConfigError, HandshakeRefused
from roomwire.core.identity import Identity
from tests.auth.support import (
    EC_KEY,
    ED_KEY,
    ISSUER,
    NOW,
    OTHER_RSA_KEY,
    RSA_KEY,
    SECRET,
    Clock,
    KeyServer,
    PrivateKey,
    b64,
    encoded,
    handmade,
    jwk,
    key_set,
    public_pem,
    request,
)

HEADER: dict[str, object] = {"alg": "HS256", "typ": "JWT"}
CLAIMS: dict[str, object] = {"sub": "alice", "exp": NOW + 60, "iss": ISSUER, "aud": "chat"}
OPTIONS: dict[str, Any] = {"algorithms": ["HS256"], "secret": SECRET, "issuer": ISSUER, "audience": "chat"}
PUBLIC: dict[str, Any] = {
    "algorithms": ["RS256"],
    "public_key": public_pem(RSA_KEY),
    "issuer": ISSUER,
    "audience": "chat",
}


def authenticator(change: Mapping[str, Any] = {}, base: Mapping[str, Any] = OPTIONS) -> JwtAuthenticator:
    return JwtAuthenticator(JwtOptions.model_validate({**base, **change}), clock=Clock())


def claims(**change: object) -> dict[str, object]:
    """`CLAIMS` with changes; a claim that is None is left out."""
    return {name: value for name, value in {**CLAIMS, **change}.items() if value is not None}


def signed(key: PrivateKey, algorithm: str = "RS256", header: Mapping[str, Any] = {}) -> str:
    return jwt.encode(claims(), key, algorithm, headers=dict(header))


def payload(**change: object) -> str:
    return handmade(HEADER, claims(**change))


def header(**change: object) -> str:
    return handmade({**HEADER, **change}, CLAIMS)


def number(name: str, literal: str) -> str:
    """A claim whose value is not of this world's JSON writers."""
    return handmade(HEADER, json.dumps(claims(**{name: "@"})).replace('"@"', literal))


GOOD = payload()
GOOD_HEADER, GOOD_PAYLOAD, GOOD_SIGNATURE = GOOD.split(".")

# A valid HMAC signature unless said otherwise: what is wrong is what the name says, and nothing else.
FORGED: list[tuple[str, str, str]] = [
    # --- the algorithm (RFC 8725 section 2.1)
    *((f"alg {alg!r}", header(alg=alg), "algorithm not allowed") for alg in ("none", "None", "NONE", "nOnE", "", " ")),
    ("alg none, no signature", f"{encoded({'alg': 'none'})}.{GOOD_PAYLOAD}.", "malformed"),
    ("alg none, a signature", f"{encoded({'alg': 'none'})}.{GOOD_PAYLOAD}.AA", "algorithm not allowed"),
    ("alg missing", handmade({"typ": "JWT"}, CLAIMS), "algorithm not allowed"),
    ("alg a list", header(alg=["HS256"]), "algorithm not allowed"),
    ("alg null", header(alg=None), "algorithm not allowed"),
    ("alg in lower case", header(alg="hs256"), "algorithm not allowed"),
    ("alg not in the list", handmade({"alg": "HS512"}, CLAIMS, hash_name="sha512"), "algorithm not allowed"),
    ("alg of another family", signed(RSA_KEY), "algorithm not allowed"),
    # --- the header
    ("crit unknown", header(crit=["exp"], exp=1), "critical header"),
    ("crit b64", header(crit=["b64"], b64=True), "critical header"),
    ("crit empty", header(crit=[]), "critical header"),
    ("crit null", header(crit=None), "critical header"),
    ("b64 false", header(b64=False), "malformed"),
    ("typ of another token", header(typ="logout+jwt"), "wrong token type"),
    ("typ JWE", header(typ="JWE"), "wrong token type"),
    ("typ a number", header(typ=1), "wrong token type"),
    ("kid a number", header(kid=7), "malformed"),
    ("kid an object", header(kid={"a": 1}), "malformed"),
    ("header with a duplicate name", handmade('{"alg":"none","alg":"HS256"}', CLAIMS), "malformed"),
    ("header a list", handmade('["HS256"]', CLAIMS), "malformed"),
    ("header not JSON", handmade("alg=HS256", CLAIMS), "malformed"),
    ("header empty", handmade("", CLAIMS), "malformed"),
    ("header with NaN", handmade('{"alg":"HS256","a":NaN}', CLAIMS), "malformed"),
    ("header nested too deeply", handmade('{"alg":"HS256","a":' + "[" * 3000 + "]" * 3000 + "}", "{}"), "malformed"),
    ("header of half a byte", "A." + GOOD_PAYLOAD + "." + GOOD_SIGNATURE, "malformed"),
    # --- the signature
    ("bad signature", f"{GOOD_HEADER}.{GOOD_PAYLOAD}.{b64(b'x' * 32)}", "bad signature"),
    ("other payload", f"{GOOD_HEADER}.{encoded(claims(sub='root'))}.{GOOD_SIGNATURE}", "bad signature"),
    ("other header", f"{encoded({'alg': 'HS256'})}.{GOOD_PAYLOAD}.{GOOD_SIGNATURE}", "bad signature"),
    ("other secret", handmade(HEADER, CLAIMS, "another secret of enough bytes, yes"), "bad signature"),
    ("empty secret", handmade(HEADER, CLAIMS, b""), "bad signature"),
    ("kid a path", handmade({**HEADER, "kid": "../../../../dev/null"}, CLAIMS, b""), "bad signature"),
    ("kid SQL", handmade({**HEADER, "kid": "' UNION SELECT 'k"}, CLAIMS, b"k"), "bad signature"),
    ("truncated", GOOD[:-3], "bad signature"),
    ("truncated to half a byte", GOOD[:-2], "malformed"),
    # --- the form (RFC 7515 section 7.1)
    ("one segment", GOOD_HEADER + GOOD_PAYLOAD, "malformed"),
    ("two segments", f"{GOOD_HEADER}.{GOOD_PAYLOAD}", "malformed"),
    ("four segments", GOOD + "." + GOOD_SIGNATURE, "malformed"),
    ("five segments, as JWE", GOOD + "." + GOOD_SIGNATURE + "." + GOOD_SIGNATURE, "malformed"),
    ("leading dot", "." + GOOD, "malformed"),
    ("no signature", f"{GOOD_HEADER}.{GOOD_PAYLOAD}.", "malformed"),
    ("padding", GOOD + "=", "malformed"),
    ("standard base64", f"{GOOD_HEADER}.{GOOD_PAYLOAD}.{'+/' * 21}A", "malformed"),
    ("not ASCII", GOOD + "é", "malformed"),
    ("full-width letters", GOOD.replace("e", "\uff45", 1), "malformed"),
    ("too large", handmade(HEADER, claims(pad="x" * MAX_TOKEN_SIZE)), "too large"),
    # --- the payload
    ("payload not JSON", handmade(HEADER, "sub=alice"), "malformed"),
    ("payload a list", handmade(HEADER, "[]"), "malformed"),
    ("payload not UTF-8", handmade(HEADER, json.dumps(CLAIMS).encode().replace(b"alice", b"al\xefce")), "malformed"),
    ("payload with a duplicate name", handmade(HEADER, json.dumps(CLAIMS)[:-1] + ',"sub":"root"}'), "malformed"),
    ("payload with an infinite number", number("level", "1e999"), "malformed"),
    ("payload nested too deeply", handmade(HEADER, '{"a":' + "[" * 3000 + "]" * 3000 + "}"), "malformed"),
    # --- the times
    ("expired", payload(exp=NOW - 1), "expired"),
    ("expires now", payload(exp=NOW), "expired"),
    ("exp zero", payload(exp=0), "expired"),
    ("exp missing", payload(exp=None), "missing claim: exp"),
    ("exp null", number("exp", "null"), "missing claim: exp"),
    ("exp a string", payload(exp=str(NOW + 60)), "bad time claim"),
    ("exp a whole number in a string", payload(exp="1800000060"), "bad time claim"),
    ("exp true", payload(exp=True), "bad time claim"),
    ("exp a list", payload(exp=[NOW + 60]), "bad time claim"),
    ("exp negative", payload(exp=-1), "bad time claim"),
    ("exp in milliseconds", payload(exp=(NOW + 60) * 1000), "bad time claim"),
    ("exp 1e300", number("exp", "1e300"), "bad time claim"),
    ("exp of 4000 digits", number("exp", "9" * 4000), "bad time claim"),
    ("exp of 4301 digits", number("exp", "9" * 4301), "malformed"),
    ("exp NaN", number("exp", "NaN"), "malformed"),
    ("exp Infinity", number("exp", "Infinity"), "malformed"),
    ("nbf in the future", payload(nbf=NOW + 1), "not yet valid"),
    ("nbf a string", payload(nbf="0"), "bad time claim"),
    ("nbf null", number("nbf", "null"), "bad time claim"),
    ("iat in the future", payload(iat=NOW + 1), "not yet valid"),
    ("iat a string", payload(iat="yesterday"), "bad time claim"),
    ("iat an object", payload(iat={}), "bad time claim"),
    # --- who made it, and for whom
    ("iss missing", payload(iss=None), "missing claim: iss"),
    ("iss of another", payload(iss="https://evil.example"), "wrong issuer"),
    ("iss with a slash more", payload(iss=ISSUER + "/"), "wrong issuer"),
    ("iss a list", payload(iss=[ISSUER]), "wrong issuer"),
    ("aud missing", payload(aud=None), "missing claim: aud"),
    ("aud null", number("aud", "null"), "missing claim: aud"),
    ("aud of another", payload(aud="billing"), "wrong audience"),
    ("aud with more letters", payload(aud="chat2"), "wrong audience"),
    ("aud a list of others", payload(aud=["billing", "cha"]), "wrong audience"),
    ("aud an empty list", payload(aud=[]), "wrong audience"),
    ("aud with a number", payload(aud=["chat", 1]), "wrong audience"),
    ("aud an object", payload(aud={"chat": True}), "wrong audience"),
    # --- the user
    ("sub missing", payload(sub=None), "missing claim: sub"),
    ("sub empty", payload(sub=""), "bad user"),
    ("sub a number", payload(sub=42), "bad claim"),
    ("sub a list", payload(sub=["alice"]), "bad claim"),
    ("sub too long", payload(sub="a" * 256), "bad user"),
    ("sub with a line break", payload(sub="alice\nroot"), "bad user"),
    ("sub with a lone surrogate", payload(sub="\ud800"), "bad user"),
    ("jti a number", payload(jti=1), "bad claim"),
]  # fmt: skip


# Against a public key: the attacker has everything but the private key.
FORGED_PUBLIC: list[tuple[str, str, str]] = [
    ("HS256 with the public key", handmade({"alg": "HS256"}, CLAIMS, PUBLIC["public_key"]), "algorithm not allowed"),
    ("the same, called RS256", handmade({"alg": "RS256"}, CLAIMS, PUBLIC["public_key"]), "bad signature"),
    ("other key", signed(OTHER_RSA_KEY), "bad signature"),
    ("PS256 with the right key", signed(RSA_KEY, "PS256"), "algorithm not allowed"),
    ("ES256", signed(EC_KEY, "ES256"), "algorithm not allowed"),
    ("EdDSA", signed(ED_KEY, "EdDSA"), "algorithm not allowed"),
    ("jwk in the header", signed(OTHER_RSA_KEY, header={"jwk": jwk(OTHER_RSA_KEY, "RS256")}), "bad signature"),
    ("x5c in the header", signed(OTHER_RSA_KEY, header={"x5c": [b64(b"certificate")]}), "bad signature"),
]  # fmt: skip


async def refusal_of(verifier: Authenticator, token: str) -> HandshakeRefused:
    with pytest.raises(HandshakeRefused) as caught:
        await verifier.authenticate(request(token))
    return caught.value


def traces_of(error: HandshakeRefused) -> str:
    """All that could be shown of an error, the local variables of our functions included."""
    assert error.__cause__ is None
    assert error.__context__ is None
    shown = [str(error), repr(error), repr(error.refusal), *traceback.format_exception(error)]
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if "/roomwire/" in frame.f_code.co_filename:
            shown += [repr(value) for value in frame.f_locals.values()]
    return "\n".join(shown)


def assert_hidden(token: str, text: str) -> None:
    for secret in {token, *token.split(".")}:
        # A segment of a few letters is a part of any text.
        assert len(secret) < 8 or secret not in text


class TestForged:
    @pytest.mark.parametrize(("token", "cause"), [pytest.param(*rest, id=name) for name, *rest in FORGED])
    @pytest.mark.anyio
    async def test_shared_secret(self, token: str, cause: str, caplog: pytest.LogCaptureFixture) -> None:
        await self.check(authenticator(), token, cause, caplog)

    @pytest.mark.parametrize(("token", "cause"), [pytest.param(*rest, id=name) for name, *rest in FORGED_PUBLIC])
    @pytest.mark.anyio
    async def test_public_key(self, token: str, cause: str, caplog: pytest.LogCaptureFixture) -> None:
        await self.check(authenticator(base=PUBLIC), token, cause, caplog)

    async def check(self, verifier: Authenticator, token: str, cause: str, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        error = await refusal_of(verifier, token)
        assert error.refusal == unauthorized("").refusal
        assert error.refusal.cause == cause
        assert_hidden(token, traces_of(error) + caplog.text)

    @pytest.mark.anyio
    async def test_all_get_one_answer_as_no_token_does(self) -> None:
        verifier = authenticator()
        refusals = {(await refusal_of(verifier, token)).refusal for _, token, _ in FORGED}
        with pytest.raises(HandshakeRefused) as caught:
            await verifier.authenticate(request())
        assert refusals == {caught.value.refusal}
        assert caught.value.refusal.cause == "no token"

    @pytest.mark.anyio
    async def test_what_they_are_made_from_is_good(self) -> None:
        assert (await authenticator().authenticate(request(GOOD))).user == "alice"
        assert (await authenticator(base=PUBLIC).authenticate(request(signed(RSA_KEY)))).user == "alice"

    @pytest.mark.anyio
    async def test_no_character_can_be_changed(self) -> None:
        verifier = authenticator()
        for place, letter in enumerate(GOOD):
            for other in {"A", "B", chr(ord(letter) ^ 1), "."} - {letter}:
                changed = GOOD[:place] + other + GOOD[place + 1 :]
                assert (await refusal_of(verifier, changed)).refusal == unauthorized("").refusal

    @pytest.mark.anyio
    async def test_no_url_in_a_token_is_opened(self, server: KeyServer) -> None:
        server.document = key_set(jwk(OTHER_RSA_KEY, "RS256", kid="k"))
        verifier = authenticator(base=PUBLIC)
        for name in ("jku", "x5u", "iss"):
            token = signed(OTHER_RSA_KEY, header={name: server.url, "kid": "k"})
            assert (await refusal_of(verifier, token)).refusal.cause == "bad signature"
        assert server.fetches == 0


class TestGood:
    @pytest.mark.parametrize(
        ("options", "token"),
        [
            (OPTIONS, payload(aud=["billing", "chat"])),
            (OPTIONS, payload(exp=int(NOW) + 60, iat=NOW, nbf=NOW - 1, jti="j")),
            (OPTIONS, handmade({"alg": "HS256"}, CLAIMS)),
            *((OPTIONS, header(typ=kind)) for kind in ("jwt", "at+jwt", "application/AT+JWT")),
            (OPTIONS, header(kid="any", jku="https://evil.example", cty="x")),
            ({**OPTIONS, "issuer": ["https://other.example", ISSUER]}, GOOD),
            ({**OPTIONS, "audience": ["billing", "chat"]}, GOOD),
            ({**OPTIONS, "issuer": []}, payload(iss=7)),
            ({**OPTIONS, "audience": []}, payload(aud=None)),
            ({**OPTIONS, "algorithms": ["HS256", "HS512"]}, handmade({"alg": "HS512"}, CLAIMS, hash_name="sha512")),
            ({**OPTIONS, "algorithms": ["HS384"]}, handmade({"alg": "HS384"}, CLAIMS, hash_name="sha384")),
            ({**PUBLIC, "algorithms": ["RS384", "PS256"]}, signed(RSA_KEY, "PS256")),
            ({**PUBLIC, "algorithms": ["ES256"], "public_key": public_pem(EC_KEY)}, signed(EC_KEY, "ES256")),
            ({**PUBLIC, "algorithms": ["EdDSA"], "public_key": public_pem(ED_KEY)}, signed(ED_KEY, "EdDSA")),
        ],
    )
    @pytest.mark.anyio
    async def test_these(self, options: dict[str, Any], token: str) -> None:
        assert (await authenticator(base=options).authenticate(request(token))).user == "alice"

    @pytest.mark.anyio
    async def test_the_identity(self) -> None:
        verifier: Authenticator = authenticator({"leeway": 5})
        await verifier.start()
        identity = await verifier.authenticate(request(payload(role="admin")))
        await verifier.aclose()
        assert identity == Identity("alice", claims(role="admin"), expires_in=65.0)

    @pytest.mark.parametrize("sources", [["header"], ["subprotocol"], ["query"]])
    @pytest.mark.anyio
    async def test_sources(self, sources: list[str]) -> None:
        verifier = authenticator({"sources": sources})
        requests = {
            "header": request(GOOD),
            "subprotocol": request(headers=[(b"sec-websocket-protocol", b"roomwire.v1, bearer." + GOOD.encode())]),
            "query": request(query="token=" + GOOD),
        }
        for source, head in requests.items():
            if source in sources:
                assert (await verifier.authenticate(head)).user == "alice"
            else:
                with pytest.raises(HandshakeRefused):
                    await verifier.authenticate(head)

    @pytest.mark.parametrize("leeway", [0, 30])
    @pytest.mark.anyio
    async def test_leeway_moves_both_ends(self, leeway: int) -> None:
        verifier = authenticator({"leeway": leeway})
        last = await verifier.authenticate(request(payload(exp=NOW - leeway + 0.5, nbf=NOW + leeway, iat=NOW + leeway)))
        assert last.expires_in == 0.5
        for late in (payload(exp=NOW - leeway), payload(nbf=NOW + leeway + 0.5), payload(iat=NOW + leeway + 0.5)):
            await refusal_of(verifier, late)

    @pytest.mark.anyio
    async def test_the_clock_is_the_wall_clock(self) -> None:
        verifier = JwtAuthenticator(JwtOptions.model_validate(OPTIONS))
        token = issue(JwtOptions.model_validate(OPTIONS), "alice", ttl=60)
        expires_in = (await verifier.authenticate(request(token))).expires_in
        assert expires_in is not None
        assert 0 < expires_in <= 61

    @pytest.mark.anyio
    async def test_an_audience_that_nobody_configured(self) -> None:
        error = await refusal_of(authenticator({"audience": []}), GOOD)
        assert error.refusal.cause == "audience not configured"

    @pytest.mark.anyio
    async def test_another_user_claim(self) -> None:
        verifier = authenticator({"user_claim": "email"})
        assert (await verifier.authenticate(request(payload(email="a@example.com", sub=None)))).user == "a@example.com"
        for token, cause in (
            (payload(), "missing claim: email"),
            (payload(email=7), "bad user"),
            (payload(email=""), "bad user"),
        ):
            assert (await refusal_of(verifier, token)).refusal.cause == cause

    @pytest.mark.anyio
    async def test_further_claims_that_are_required(self) -> None:
        verifier = authenticator({"required_claims": ["tenant"]})
        assert (await verifier.authenticate(request(payload(tenant="t")))).claims["tenant"] == "t"
        assert (await refusal_of(verifier, payload())).refusal.cause == "missing claim: tenant"


def damaged(token: str) -> st.SearchStrategy[str]:
    """The token with a piece replaced, possibly by itself."""
    places, letters = st.integers(0, len(token)), st.text("ABab01-_.=+/ é\0", max_size=8)
    return st.builds(lambda start, end, piece: token[:start] + piece + token[end:], places, places, letters)


@given(st.text() | damaged(GOOD) | st.builds(handmade, st.text(), st.text()))
def test_whatever_comes_is_the_good_token_or_refused(token: str) -> None:
    """`inspect` goes the same way as a request, and reads what it can of the token besides."""
    seen = inspect(JwtOptions.model_validate(OPTIONS), token, clock=Clock())
    assert (seen.identity is not None) == (token == GOOD) == (seen.cause == "")


VALUES = st.none() | st.booleans() | st.floats() | st.text()


@given(st.dictionaries(st.text(), st.recursive(VALUES, st.lists, max_leaves=5)))
def test_whatever_is_signed_is_an_identity_or_refused(said: dict[str, Any]) -> None:
    seen = inspect(JwtOptions.model_validate(OPTIONS), handmade(HEADER, {**CLAIMS, **said}), clock=Clock())
    assert (seen.identity is None) != (seen.cause == "")


class TestIssue:
    @pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
    @pytest.mark.anyio
    async def test_is_accepted(self, algorithm: str) -> None:
        options = JwtOptions.model_validate({**OPTIONS, "algorithms": [algorithm], "required_claims": ["tenant"]})
        token = issue(options, "älice", ttl=59.5, claims={"tenant": "t", "sub": "ignored"}, clock=Clock())
        identity = await JwtAuthenticator(options, clock=Clock()).authenticate(request(token))
        assert (identity.user, identity.claims["tenant"], identity.expires_in) == ("älice", "t", 60)

    def test_says_of_issuer_and_audience_what_is_configured(self) -> None:
        changes: list[dict[str, object]] = [{}, {"issuer": []}, {"audience": []}]
        for change in changes:
            options = JwtOptions.model_validate({**OPTIONS, **change})
            seen = inspect(options, issue(options, "alice", ttl=60, clock=Clock()), clock=Clock())
            assert seen.cause == ""
            assert seen.claims.get("iss") == (ISSUER if options.issuer else None)
            assert seen.claims.get("aud") == ("chat" if options.audience else None)

    def test_no_two_have_one_id(self) -> None:
        options = JwtOptions.model_validate(OPTIONS)
        tokens = [issue(options, "alice", ttl=60, clock=Clock()) for _ in range(10)]
        assert len({inspect(options, token, clock=Clock()).claims["jti"] for token in tokens}) == 10

    def test_only_with_a_secret(self) -> None:
        with pytest.raises(ConfigError, match="shared secret only"):
            issue(JwtOptions.model_validate(PUBLIC), "alice", ttl=60)

    @pytest.mark.parametrize("user", ["", "a" * 256, "a\n", "\ud800"])
    def test_only_for_users_that_are_accepted(self, user: str) -> None:
        with pytest.raises(ConfigError, match="user's id"):
            issue(JwtOptions.model_validate(OPTIONS), user, ttl=60)


class TestInspect:
    def test_a_good_token(self) -> None:
        seen = inspect(JwtOptions.model_validate(OPTIONS), GOOD, clock=Clock())
        assert (seen.header, seen.claims, seen.cause) == (HEADER, CLAIMS, "")
        assert seen.identity == Identity("alice", CLAIMS, 60.0)

    @pytest.mark.parametrize(("token", "cause"), [pytest.param(*rest, id=name) for name, *rest in FORGED])
    def test_says_why_a_token_is_refused(self, token: str, cause: str) -> None:
        seen = inspect(JwtOptions.model_validate(OPTIONS), token, clock=Clock())
        assert (seen.identity, seen.cause) == (None, cause)

    def test_shows_the_claims_of_a_token_that_is_refused(self) -> None:
        seen = inspect(JwtOptions.model_validate(OPTIONS), payload(exp=1), clock=Clock())
        assert (seen.header, seen.claims, seen.cause) == (HEADER, claims(exp=1), "expired")

    def test_with_keys_from_a_url(self, server: KeyServer) -> None:
        server.document = key_set(jwk(RSA_KEY, "RS256", kid="a"))
        options = JwtOptions.model_validate(
            {"algorithms": ["RS256"], "jwks_url": server.url, "issuer": ISSUER, "audience": "chat"}
        )
        assert inspect(options, signed(RSA_KEY, header={"kid": "a"}), clock=Clock()).cause == ""
        assert inspect(options, signed(RSA_KEY, header={"kid": "b"}), clock=Clock()).cause == "unknown key"
        assert server.fetches == 2
