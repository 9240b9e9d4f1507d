"""``roomwire token``: made and inspected with the configured keys."""

from __future__ import annotations

import json

import jwt
import pytest

from tests.cli.conftest import SECRET, Project


def claims_of(token: str) -> dict[str, object]:
    claims: dict[str, object] = jwt.decode(token.strip(), SECRET, algorithms=["HS256"])
    return claims


class TestNew:
    def test_it_is_printed_alone(self, project: Project) -> None:
        result = project.call("token", "new", "ann")
        assert (result.exit_code, result.stderr, result.stdout.count("\n")) == (0, "", 1)
        assert claims_of(result.stdout)["sub"] == "ann"

    @pytest.mark.parametrize(("ttl", "seconds"), [("90", 90), ("90s", 90), ("15m", 900), ("2h", 7200), ("7d", 604_800)])
    def test_ttl(self, project: Project, ttl: str, seconds: int) -> None:
        claims = claims_of(project.call("token", "new", "ann", "--ttl", ttl).stdout)
        exp, iat = claims["exp"], claims["iat"]
        assert isinstance(exp, int)
        assert isinstance(iat, int)
        assert exp - iat in (seconds, seconds + 1)  # rounded to whole seconds, in favour of the token

    @pytest.mark.parametrize("ttl", ["0", "x", "1y", "-1", "1.5h", ""])
    def test_a_ttl_that_is_none(self, project: Project, ttl: str) -> None:
        result = project.call("token", "new", "ann", "--ttl", ttl)
        assert result.exit_code == 2
        assert "expected a duration such as 90s, 15m, 1h or 7d" in result.stderr

    def test_claims(self, project: Project) -> None:
        arguments = ["--claim", "role=admin", "--claim", "level=3", "--claim", 'teams=["a"]']
        claims = claims_of(project.call("token", "new", "ann", *arguments).stdout)
        assert (claims["role"], claims["level"], claims["teams"]) == ("admin", 3, ["a"])

    def test_a_claim_without_value(self, project: Project) -> None:
        result = project.call("token", "new", "ann", "--claim", "role")
        assert (result.exit_code, "expected NAME=VALUE, found 'role'" in result.stderr) == (2, True)

    def test_json(self, project: Project) -> None:
        found = json.loads(project.call("token", "new", "ann", "--json").stdout)
        assert (found["user"], found["expires_in"], claims_of(found["token"])["sub"]) == ("ann", 3600.0, "ann")

    def test_without_jwt(self, project: Project) -> None:
        project.write("roomwire.toml", '[auth]\ntype = "anonymous"\n')
        result = project.call("token", "new", "ann")
        assert result.exit_code == 2
        assert result.stderr == 'Error: roomwire.toml: auth.type: tokens are made for "jwt", found "anonymous"\n'

    def test_a_short_secret(self, project: Project) -> None:
        project.write(".env", "CHAT_SECRET=hunter2\n")
        result = project.call("token", "new", "ann")
        assert result.exit_code == 2
        assert result.stderr.startswith("Error: roomwire.toml: auth.options.secret: the secret has 7 bytes")
        assert "hunter2" not in result.output


class TestInspect:
    def test_accepted(self, project: Project) -> None:
        token = project.call("token", "new", "ann").stdout.strip()
        result = project.call("token", "inspect", token)
        assert result.exit_code == 0
        assert result.stdout.splitlines()[-1] == "accepted as ann"
        assert '  alg: "HS256"' in result.stdout
        assert " UTC)" in result.stdout

    @pytest.mark.parametrize("arguments", [[], ["-"]])
    def test_from_stdin(self, project: Project, arguments: list[str]) -> None:
        token = project.call("token", "new", "ann").stdout
        result = project.call("token", "inspect", *arguments, input=token)
        assert (result.exit_code, "accepted as ann" in result.stdout) == (0, True)

    @pytest.mark.parametrize(
        ("claims", "secret", "cause"),
        [
            ({"sub": "ann", "exp": 1}, SECRET, "expired"),
            ({"sub": "ann", "exp": 9_999_999_999}, "x" * 32, "bad signature"),
            ({"sub": "ann"}, SECRET, "missing claim: exp"),
            ({"sub": "ann", "exp": 10**30}, SECRET, "bad time claim"),
        ],
    )
    def test_refused(self, project: Project, claims: dict[str, object], secret: str, cause: str) -> None:
        result = project.call("token", "inspect", jwt.encode(claims, secret, algorithm="HS256"))
        assert result.exit_code == 1
        assert result.stdout.splitlines()[-1] == f"refused: {cause}"

    def test_garbage(self, project: Project) -> None:
        result = project.call("token", "inspect", "nonsense")
        assert result.exit_code == 1
        assert result.stdout.splitlines() == ["header: cannot be read", "claims: cannot be read", "refused: malformed"]

    def test_json(self, project: Project) -> None:
        token = jwt.encode({"sub": "ann", "exp": 1}, SECRET, algorithm="HS256")
        result = project.call("token", "inspect", token, "--json")
        found = json.loads(result.stdout)
        assert (found["accepted"], found["cause"], found["user"]) == (False, "expired", None)
        assert found["claims"] == {"sub": "ann", "exp": 1}
        assert token not in result.output
