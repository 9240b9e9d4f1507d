"""Log lines: their form, their fields, and no token in them."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable

import jwt
import pytest

from roomwire.logs import JsonFormatter, RedactTokens, TextFormatter, redact_tokens

TOKEN = jwt.encode({"sub": "ann"}, "k" * 32, algorithm="HS256")


def record(
    message: str = "join", fields: dict[str, object] | None = None, *args: object, level: int = logging.INFO
) -> logging.LogRecord:
    made = logging.LogRecord("roomwire.access", level, __file__, 1, message, args, None)
    made.created = 1_795_492_966.25
    if fields is not None:
        made.roomwire = fields
    return made


def failed(message: str) -> logging.LogRecord:
    made = record("it failed")
    try:
        raise ValueError(message)
    except ValueError:
        made.exc_info = sys.exc_info()
    return made


class TestText:
    def test_a_line(self) -> None:
        fields: dict[str, object] = {"event": "join", "user": "ann", "recovered": None, "presence": True, "code": 4001}
        assert TextFormatter().format(record(fields=fields)) == (
            "2026-11-24 04:02:46.250Z INFO     roomwire.access: join user=ann recovered=- presence=true code=4001"
        )

    def test_an_event_beside_a_message_is_kept(self) -> None:
        line = TextFormatter().format(record("draining", {"event": "drain"}))
        assert line.endswith("roomwire.access: draining event=drain")

    def test_without_fields(self) -> None:
        assert TextFormatter().format(record("%s up", None, "redis")).endswith("roomwire.access: redis up")

    @pytest.mark.parametrize(
        ("value", "shown"),
        [
            ("two words", '"two words"'),
            ("a=b", '"a=b"'),
            ('a"b', '"a\\"b"'),
            ("", '""'),
            ("grüße", "grüße"),
            ("x\n2026-11-24 INFO forged", '"x\\\\n2026-11-24 INFO forged"'),
            ("\u2028\x9b31m", "\\u2028\\x9b31m"),
        ],
    )
    def test_values_cannot_forge_a_line(self, value: str, shown: str) -> None:
        line = TextFormatter().format(record(fields={"user": value}))
        assert line.endswith(f" user={shown}")
        assert len(line.splitlines()) == 1

    def test_a_message_cannot_forge_a_line(self) -> None:
        assert len(TextFormatter().format(record("one\r\ntwo")).splitlines()) == 1

    def test_a_traceback_is_indented(self) -> None:
        first, *rest = TextFormatter().format(failed("x")).splitlines()
        assert first.endswith("it failed")
        assert rest[-1] == "    ValueError: x"
        assert all(line.startswith("    ") for line in rest)

    def test_a_stack(self) -> None:
        made = record()
        made.stack_info = "Stack (most recent call last):"
        assert TextFormatter().format(made).splitlines()[1] == "    Stack (most recent call last):"

    def test_colour(self) -> None:
        assert "\x1b[33mWARNING \x1b[0m" in TextFormatter(colour=True).format(record(level=logging.WARNING))
        assert "\x1b" not in TextFormatter().format(record(level=logging.WARNING))


class TestJson:
    def test_a_line(self) -> None:
        fields: dict[str, object] = {"event": "join", "user": "ann", "recovered": None, "duration": 0.5}
        assert json.loads(JsonFormatter().format(record(fields=fields))) == {
            "time": "2026-11-24T04:02:46.250Z",
            "level": "info",
            "logger": "roomwire.access",
            "message": "join",
            "event": "join",
            "user": "ann",
            "recovered": None,
            "duration": 0.5,
        }

    def test_a_field_takes_no_place_of_ours(self) -> None:
        found = json.loads(JsonFormatter().format(record(fields={"level": "x", "message": "y"})))
        assert (found["level"], found["message"]) == ("info", "join")

    def test_one_line_whatever_it_holds(self) -> None:
        made = failed("a\nb")
        made.roomwire = {"user": "a\nb", "odd": {1, 2}}
        line = JsonFormatter().format(made)
        assert "\n" not in line
        assert json.loads(line)["exception"].endswith("ValueError: a\nb")


class TestRedaction:
    @pytest.mark.parametrize(
        ("text", "redacted"),
        [
            (TOKEN, "[token]"),
            (f"GET /ws?token={TOKEN}&x=1", "GET /ws?token=[token]&x=1"),
            (
                f"Sec-WebSocket-Protocol: roomwire.v1, bearer.{TOKEN}",
                "Sec-WebSocket-Protocol: roomwire.v1, bearer.[token]",
            ),
            (f"%3D{TOKEN}", "%3D[token]"),
            (f"{TOKEN} and {TOKEN}", "[token] and [token]"),
            ("eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIn0.", "[token]"),
            ("eyJ is a prefix, eyJ.x is no token", "eyJ is a prefix, eyJ.x is no token"),
            ("a.b.c", "a.b.c"),
            ("eyJ" * 1000, "eyJ" * 1000),
        ],
    )
    def test_text(self, text: str, redacted: str) -> None:
        assert redact_tokens(text) == redacted

    @pytest.mark.parametrize("formatter", [TextFormatter, JsonFormatter])
    @pytest.mark.parametrize(
        "made",
        [
            lambda: record(f"token {TOKEN}"),
            lambda: record("token %s", None, TOKEN),
            lambda: record(fields={"url": f"/ws?token={TOKEN}"}),
            lambda: record(fields={"deep": {"list": [TOKEN]}}),
            lambda: failed(TOKEN),
        ],
        ids=["message", "argument", "field", "nested", "exception"],
    )
    def test_every_part_of_a_record(
        self, formatter: Callable[[], logging.Formatter], made: Callable[[], logging.LogRecord]
    ) -> None:
        line = formatter().format(made())
        assert "[token]" in line
        assert not [part for part in TOKEN.split(".") if part in line]

    def test_the_filter_serves_any_formatter(self) -> None:
        made = failed(TOKEN)
        made.msg, made.args = "token %s", (TOKEN,)
        made.roomwire = {"url": f"/ws?token={TOKEN}", "code": 1000}
        assert RedactTokens().filter(made) is True
        line = logging.Formatter("%(message)s %(roomwire)s").format(made)
        assert line.count("[token]") == 3
        assert TOKEN not in line

    def test_the_filter_leaves_other_records_alone(self) -> None:
        made = record("%s up", None, "redis")
        assert RedactTokens().filter(made) is True
        assert (made.msg, made.args) == ("%s up", ("redis",))
