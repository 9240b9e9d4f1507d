"""Log lines: their form, their fields, and no token in them."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jwt
import pytest

from roomwire.logs import JsonFormatter, RedactTokens, TextFormatter, redact_tokens, written_by_default

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


@contextmanager
def nobody_logs() -> Iterator[logging.Logger]:
    """As in a process whose host has set up nothing; gives the logger ``roomwire``."""
    root, logger = logging.getLogger(), logging.getLogger("roomwire")
    kept = root.handlers, logger.handlers, logger.level
    root.handlers, logger.handlers = [], []
    logger.setLevel(logging.NOTSET)
    try:
        yield logger
    finally:
        root.handlers, logger.handlers = kept[0], kept[1]
        logger.setLevel(kept[2])


def refuse() -> None:
    """As the journal does."""
    fields = {"event": "refuse", "status": 401, "cause": "no token"}
    logging.getLogger("roomwire.security").warning("refuse", extra={"roomwire": fields})


class TestByDefault:
    def test_a_record_has_its_fields(self, capsys: pytest.CaptureFixture[str]) -> None:
        with nobody_logs(), written_by_default("info", "text"):
            refuse()
            logging.getLogger("roomwire.access").info("connect", extra={"roomwire": {"user": "ann"}})
            logging.getLogger("roomwire.access").debug("decline")
        lines = [line.split("Z ", 1)[1] for line in capsys.readouterr().err.splitlines()]
        assert lines == [
            'WARNING  roomwire.security: refuse status=401 cause="no token"',
            "INFO     roomwire.access: connect user=ann",
        ]

    def test_level_and_format_are_the_configurations(self, capsys: pytest.CaptureFixture[str]) -> None:
        with nobody_logs(), written_by_default("error", "json"):
            refuse()
            logging.getLogger("roomwire").error("it failed")
        (line,) = capsys.readouterr().err.splitlines()
        assert json.loads(line)["message"] == "it failed"

    def test_it_is_undone_however_it_ends(self) -> None:
        with nobody_logs() as logger:
            for _ in range(3):
                with pytest.raises(ZeroDivisionError), written_by_default("debug", "text"):
                    assert (len(logger.handlers), logger.level) == (1, logging.DEBUG)
                    raise ZeroDivisionError
                assert (logger.handlers, logger.level) == ([], logging.NOTSET)

    @pytest.mark.parametrize("name", [None, "roomwire"])
    def test_a_handler_of_the_hosts_is_enough(self, name: str | None, capsys: pytest.CaptureFixture[str]) -> None:
        with nobody_logs() as logger:
            hosts = logging.NullHandler()
            logging.getLogger(name).addHandler(hosts)
            with written_by_default("debug", "text"):
                refuse()
                assert (logger.handlers, logger.level) == ([hosts] if name else [], logging.NOTSET)
        assert capsys.readouterr().err == ""

    def test_one_that_comes_later_takes_over(self, capsys: pytest.CaptureFixture[str]) -> None:
        with nobody_logs(), written_by_default("info", "text"):
            logging.getLogger().addHandler(logging.NullHandler())
            refuse()
        assert capsys.readouterr().err == ""

    def test_a_level_that_somebody_set_stays(self) -> None:
        with nobody_logs() as logger:
            logger.setLevel(logging.ERROR)
            with written_by_default("debug", "text"):
                assert logger.level == logging.ERROR
            assert logger.level == logging.ERROR
