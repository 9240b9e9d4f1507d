"""What a peer is told is written here, word by word: nothing of an exception, a library or a request gets into it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import roomwire

SOURCE = Path(roomwire.__file__).parent
FOLDERS = ("core", "node", "transports", "auth", "protocols", "backplanes")
TELLING = {
    "Refusal", "_refuse", "_Refused", "_bad_request", "unavailable", "_unavailable", "Failed", "EventError",
    "InvalidMessage", "InvalidCursor", "Closing", "ProtocolViolation",
}  # fmt: skip
"""Calls whose arguments reach a peer."""

# Expressions whose values are ours: numbers of the configuration, names that we know, literal texts.
OURS = {
    "BINARY_HEADER_MAX", "MAX_DEPTH", "MAX_DIGITS", "max_rooms", "name", "name.decode().title()", "', '.join(known)",
    "expected", "envelope.event", "limits.connections_per_user", "self._node.limits.rooms", "' and '.join(known)",
    "self.event", "wanted", "got", "str(max(1, round(retry_after)))", "error", "max_size", "_MAX_CHUNKS", "where",
    "unhandled", "call.event",
}  # fmt: skip
# InvalidCursor, whose texts are among those that are looked at here.
CAUGHT = {("node/admission.py", "error"), ("core/eventstream.py", "error"), ("protocols/native.py", "str(error)")}


def calls() -> Iterator[tuple[str, ast.Call]]:
    """The calls that tell a peer something, with their files."""
    for folder in FOLDERS:
        for path in sorted((SOURCE / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call):
                    function = node.func
                    name = function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")
                    if name in TELLING:
                        yield str(path.relative_to(SOURCE)), node


def interpolated(call: ast.Call) -> Iterator[str]:
    """Expressions within the call's texts, and exceptions that are made one. What stays in a log is left out."""
    told = [*call.args, *(keyword.value for keyword in call.keywords if keyword.arg != "cause")]
    for argument in told:
        for node in ast.walk(argument):
            if isinstance(node, ast.FormattedValue):
                yield ast.unparse(node.value)
            elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("str", "repr", "format"):
                yield ast.unparse(node)


def test_every_text_is_made_of_literals_and_of_what_is_ours() -> None:
    found = [(file, text) for file, call in calls() for text in interpolated(call)]
    assert len(found) > 5
    foreign = [(file, text) for file, text in found if text not in OURS and (file, text) not in CAUGHT]
    assert foreign == []
    # An exception's text is told in three places, where it is a cursor's, and ours.
    assert {(file, text) for file, text in found if "error" in text} <= CAUGHT


def test_the_calls_are_found() -> None:
    files = {file for file, _ in calls()}
    assert {"core/http.py", "core/handshake.py", "core/envelope.py", "node/workers.py", "auth/origin.py"} <= files
    assert len(list(calls())) > 60


def test_the_raw_transport_says_the_same_in_one_place() -> None:
    found = [
        (file, ast.unparse(argument))
        for file, call in calls()
        if file.startswith("transports/anyio/")
        for argument in (*call.args, *(keyword.value for keyword in call.keywords))
        if isinstance(argument, ast.Constant) and " " in str(argument.value)
    ]
    assert {"transports/anyio/opening.py", "transports/anyio/refusals.py"} <= {file for file, _ in found}
    assert sorted({text for _, text in found}) == sorted(text for _, text in found)
