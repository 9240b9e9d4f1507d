"""The options of the Redis backplane: every way to say where it is, and what is wrong is said with its key."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from roomwire.backplanes.redis.options import Endpoints, RedisOptions, read_url
from roomwire.config.problems import explain


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("redis://h", Endpoints("single", addresses=(("h", 6379),))),
        ("redis://h:1/3", Endpoints("single", addresses=(("h", 1),), db=3)),
        ("redis://[::1]:7", Endpoints("single", addresses=(("::1", 7),))),
        ("rediss://h", Endpoints("single", tls=True, addresses=(("h", 6379),))),
        ("redis://u:p%40%3A@h", Endpoints("single", addresses=(("h", 6379),), username="u", password="p@:")),
        ("redis://:p@h", Endpoints("single", addresses=(("h", 6379),), password="p")),
        ("unix:///run/r.sock", Endpoints("unix", path="/run/r.sock")),
        ("redis+sentinel://a,b:2/main", Endpoints("sentinel", False, (("a", 26379), ("b", 2)), service="main")),
        ("rediss+sentinel://a/main/4", Endpoints("sentinel", True, (("a", 26379),), service="main", db=4)),
        ("redis+cluster://a,b:2", Endpoints("cluster", False, (("a", 6379), ("b", 2)))),
        ("rediss+cluster://a", Endpoints("cluster", True, (("a", 6379),))),
    ],
)
def test_a_url_says_where(url: str, wanted: Endpoints) -> None:
    assert read_url(url) == wanted


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("localhost:6379", "begins with redis://"),
        ("http://h", "begins with redis://"),
        ("redis://", "HOST"),
        ("redis://h:0", "HOST"),
        ("redis://h:x", "HOST"),
        ("redis://h:70000", "HOST"),
        ("redis://a,b", "several are written as"),
        ("redis://h/x", "database's number"),
        ("redis://h/1/2", "too much"),
        ("redis://h?db=1", "options of their own"),
        ("redis+cluster://h/1", "no numbered databases"),
        ("redis+sentinel://h", "name of the master"),
        ("unix://run/r.sock", "absolute path"),
    ],
)
def test_a_wrong_url_is_explained_and_never_shown(url: str, wanted: str) -> None:
    secret = url.replace("://", "://user:s3cret@", 1)
    for text in (url, secret):
        with pytest.raises(ValidationError) as caught:
            RedisOptions.model_validate({"url": text})
        (line,) = explain(
            caught.value,
            where=lambda path: ".".join(("backplane.options", *map(str, path))),
            known=lambda path: list(RedisOptions.model_fields),
            hidden=lambda path: "a value that is not shown",
        )
        shown = str(line)
        assert wanted in shown
        assert "backplane.options.url" in shown
        assert "s3cret" not in shown


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"ssl_cafile": __file__}, "ssl_cafile needs TLS"),
        ({"url": "rediss://h", "ssl_cafile": "/nowhere"}, "there is no file /nowhere"),
        ({"url": "rediss://h", "ssl_keyfile": __file__}, "needs ssl_certfile"),
        ({"sentinel_password": "p"}, "needs Sentinels"),
        ({"key_prefix": "{x}"}, "letters, digits"),
        ({"max_connections": 1}, "greater than or equal to 2"),
        ({"command_timeout": 0}, "greater than 0"),
        ({"uri": "redis://h"}, "Extra inputs"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, object], wanted: str) -> None:
    with pytest.raises(ValidationError, match=wanted):
        RedisOptions.model_validate(options)


def test_options_come_before_the_url() -> None:
    options = RedisOptions.model_validate({"url": "redis://u:p@h", "username": "v", "password": "q"})
    assert options.credentials == ("v", "q")
    assert RedisOptions.model_validate({"url": "redis://u:p@h"}).credentials == ("u", "p")
    assert "p@h" not in repr(options)
