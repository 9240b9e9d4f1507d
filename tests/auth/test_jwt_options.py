from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from roomwire.auth.jwt import JwtAuthenticator, JwtOptions
from roomwire.core.errors import ConfigError
from tests.auth.support import EC_KEY, ED_KEY, RSA_KEY, SECRET, WEAK_RSA_KEY, private_pem, public_pem

SHARED: dict[str, Any] = {"algorithms": ["HS256"], "secret": SECRET}
PEM = public_pem(RSA_KEY)
URL = "https://issuer.example/keys.json"


class TestAccepted:
    @pytest.mark.parametrize(
        "options",
        [
            {"algorithms": ["HS256"], "secret": "s" * 32},
            {"algorithms": ["HS384"], "secret": "s" * 48, "public_key": None, "jwks_url": None},
            {"algorithms": ["HS256", "HS512", "HS256"], "secret": "s" * 64},
            {"algorithms": ["RS256", "RS512", "PS256"], "public_key": PEM},
            {"algorithms": ["ES256"], "public_key": public_pem(EC_KEY)},
            {"algorithms": ["EdDSA"], "public_key": public_pem(ED_KEY)},
            {"algorithms": ["RS256", "ES256"], "jwks_url": URL, "issuer": "https://issuer.example"},
            {**SHARED, "issuer": ["a", "b"], "audience": "c", "leeway": 30, "sources": ["header"]},
        ],
    )
    def test_these(self, options: dict[str, Any]) -> None:
        JwtAuthenticator(JwtOptions.model_validate(options))

    def test_one_text_is_a_list_of_one(self) -> None:
        options = JwtOptions.model_validate({**SHARED, "issuer": "a", "audience": "b"})
        assert (options.issuer, options.audience) == (["a"], ["b"])

    def test_the_class_knows_its_options(self) -> None:
        assert JwtAuthenticator.Options is JwtOptions


class TestRefused:
    @pytest.mark.parametrize(
        ("change", "where", "message"),
        [
            ({"algorithms": []}, "algorithms", "at least 1 item"),
            ({"algorithms": ["none"]}, "algorithms.0", "Input should be 'HS256'"),
            ({"algorithms": ["None"]}, "algorithms.0", "Input should be 'HS256'"),
            ({"algorithms": ["hs256"]}, "algorithms.0", "Input should be 'HS256'"),
            ({"algorithms": ["HS256", "RS256"]}, "", "a secret works with HS256, HS384 and HS512 alone"),
            ({"algorithms": ["RS256"]}, "", "a secret works with HS256, HS384 and HS512 alone"),
            ({"secret": None}, "", "exactly one of secret, public_key and jwks_url, found none"),
            ({"public_key": PEM}, "", "found secret and public_key"),
            ({"jwks_url": URL, "issuer": "i"}, "", "found secret and jwks_url"),
            ({"secret": None, "public_key": PEM}, "", "HS256 works with a secret alone; with public_key"),
            ({"secret": None, "jwks_url": URL, "issuer": "i"}, "", "HS256 works with a secret alone; with jwks_url"),
            ({"algorithms": ["RS256"], "secret": None, "jwks_url": URL}, "", "jwks_url needs issuer"),
            ({"secret": "s" * 31}, "secret", "the secret has 31 bytes, HS256 needs at least 32"),
            (
                {"algorithms": ["HS512"], "secret": "é" * 31},
                "secret",
                "the secret has 62 bytes, HS512 needs at least 64",
            ),
            ({"secret": ""}, "secret", "the secret has 0 bytes"),
            ({"secret": PEM}, "secret", "put a public key into public_key"),
            ({"secret": json.dumps({"kty": "oct", "k": "s" * 40})}, "secret", "not a shared secret"),
            ({"jwks_url": "file:///etc/passwd"}, "jwks_url", "expected an http or https URL"),
            ({"jwks_url": "issuer.example/keys"}, "jwks_url", "expected an http or https URL"),
            ({"jwks_url": "https://user:pw@issuer.example/"}, "jwks_url", "without user name"),
            ({"jwks_url": "https:///keys"}, "jwks_url", "expected an http or https URL"),
            ({"jwks_url": "https://issuer.example:https/"}, "jwks_url", "Port could not be cast"),
            ({"leeway": 31}, "leeway", "less than or equal to 30"),
            ({"leeway": -1}, "leeway", "greater than or equal to 0"),
            ({"leeway": float("nan")}, "leeway", "less than or equal to 30"),
            ({"user_claim": ""}, "user_claim", "at least 1 character"),
            ({"sources": []}, "sources", "at least 1 item"),
            ({"sources": ["cookie"]}, "sources.0", "'header', 'subprotocol' or 'query'"),
            ({"issuer": ""}, "issuer.0", "at least 1 character"),
            ({"audience": [1]}, "audience.0", "valid string"),
            ({"algorithm": "HS256"}, "algorithm", "Extra inputs"),
            ({"verify": False}, "verify", "Extra inputs"),
        ],
    )
    def test_these(self, change: dict[str, Any], where: str, message: str) -> None:
        with pytest.raises(ValidationError) as caught:
            JwtOptions.model_validate({**SHARED, **change})
        places = {".".join(map(str, error["loc"])): error["msg"] for error in caught.value.errors()}
        assert message in places[where]
        assert SECRET not in str(caught.value)
        assert "BEGIN" not in str(caught.value)

    @pytest.mark.parametrize(
        ("algorithms", "key", "message"),
        [
            (["RS256"], "not a key", "is not a public key for RS256"),
            (["RS256"], public_pem(EC_KEY), "is not a public key for RS256"),
            (["RS256", "ES256"], PEM, "is not a public key for ES256"),
            (["ES384"], public_pem(EC_KEY), "is not a public key for ES384"),
            (["ES256"], public_pem(ED_KEY), "is not a public key for ES256"),
            (["EdDSA"], PEM, "is not a public key for EdDSA"),
            (
                ["RS256"],
                "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
                "is not a public key for RS256",
            ),
            (["RS256"], private_pem(RSA_KEY), "is a private key"),
            (["ES256"], private_pem(EC_KEY), "is a private key"),
            (["EdDSA"], private_pem(ED_KEY), "is a private key"),
            (["RS256"], public_pem(WEAK_RSA_KEY), "1024 bits"),
        ],
    )
    def test_a_key_that_does_not_fit(self, algorithms: list[str], key: str, message: str) -> None:
        options = JwtOptions.model_validate({"algorithms": algorithms, "public_key": key})
        with pytest.raises(ConfigError, match=r"^auth\.options\.public_key: ") as caught:
            JwtAuthenticator(options)
        assert message in str(caught.value)
        assert "BEGIN" not in str(caught.value)


class TestTheSecretIsNotShown:
    def test_nowhere(self) -> None:
        options = JwtOptions.model_validate(SHARED)
        shown = [repr(options), str(options), options.model_dump_json(), repr(JwtAuthenticator(options))]
        assert all(SECRET not in text for text in shown)


class TestWithoutCryptography:
    """In a process of its own, from which the package is hidden."""

    PROGRAM = """
import sys
sys.modules["cryptography"] = None
from roomwire.auth.jwt import JwtAuthenticator, JwtOptions
from roomwire.core.errors import ConfigError
JwtAuthenticator(JwtOptions(algorithms=["HS256"], secret="s" * 32))
for options in (
    {"algorithms": ["RS256"], "public_key": "PEM"},
    {"algorithms": ["RS256"], "jwks_url": "https://issuer.example/", "issuer": "i"},
):
    try:
        JwtAuthenticator(JwtOptions(**options))
    except ConfigError as error:
        print(error)
"""

    def test_the_message_says_what_to_install(self) -> None:
        done = subprocess.run([sys.executable, "-c", self.PROGRAM], capture_output=True, text=True, check=False)
        line = "auth.options.algorithms: RS256 needs the package cryptography: pip install roomwire[jwks]\n"
        assert (done.stdout, done.stderr) == (line * 2, "")
