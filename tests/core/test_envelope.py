"""The envelope, docs/reference/protocol.md section 2: each rule by its name, then against the json module."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from roomwire.core.envelope import (
    BINARY_HEADER_MAX,
    MAX_DEPTH,
    MAX_DIGITS,
    Envelope,
    dump,
    encode,
    encode_binary,
    is_message_id,
    parse,
    parse_binary,
    quote,
    read_common,
)
from roomwire.core.errors import InvalidMessage
from roomwire.core.events import is_event_name
from roomwire.core.positions import is_room_name

FIELDS = {"event", "data", "id", "room"}

# A message whose fields stand in the order of our own clients, and the same in another order: the
# first takes the short way, the second the long one. Every rule holds on both.
COMMON = '{"event":"e","room":"r","id":"i","data":%s}'
OTHER = '{ "data" : %s , "id" : "i" , "room" : "r" , "event" : "e" }'
both = pytest.mark.parametrize("template", [COMMON, OTHER], ids=["common", "other"])


def refusal(text: str) -> InvalidMessage:
    with pytest.raises(InvalidMessage) as caught:
        parse(text)
    assert caught.value.__context__ is None, "what a library said stays out of it"
    return caught.value


def nested(levels: int) -> str:
    return "[" * levels + "]" * levels


class TestFields:
    def test_all_of_them(self) -> None:
        envelope = parse(
            '{"event":"message.send","room":"chat:general","id":"0123456789abcdef","data":{"content":"hi"}}'
        )
        assert envelope == Envelope(
            "message.send", "chat:general", "0123456789abcdef", '{"content":"hi"}', {"content": "hi"}
        )
        assert not envelope.binary

    @pytest.mark.parametrize("text", ['{"event":"e"}', '{ "event" : "e" }', '\t{\n"event"\r:"e"} '])
    def test_only_the_event_is_required(self, text: str) -> None:
        assert parse(text) == Envelope("e", None, None, "null", None)

    @pytest.mark.parametrize(
        "text",
        [
            '{"event":"e","room":"r","id":"i","data":[1]}',
            '{"event":"e","id":"i","room":"r","data":[1]}',
            '{"event": "e", "id": "i", "room": "r", "data": [1]}',
        ],
    )
    def test_the_usual_orders_of_the_fields_take_the_short_way(self, text: str) -> None:
        assert read_common(text) == ("e", "r", "i", "[1]", [1])

    def test_an_id_on_both_sides_of_the_room_stands_there_twice(self) -> None:
        text = '{"event":"e","id":"i","room":"r","id":"i","data":1}'
        assert read_common(text) is None
        assert refusal(text).message == "the field id stands there twice"

    @both
    def test_data_is_kept_as_it_was_written(self, template: str) -> None:
        raw = '{"b": 1.10, "a" :[ 1e2,"\\u0041/" ] }'
        envelope = parse(template % raw)
        assert envelope.data == raw
        assert envelope.value == {"b": 1.1, "a": [100.0, "A/"]}

    @pytest.mark.parametrize(
        ("raw", "value"),
        [("null", None), ("true", True), ("-0", 0), ('"x"', "x"), ('""', ""), ("[]", []), ("{}", {}), ("1e2", 100.0)],
    )
    @both
    def test_data_is_any_json_value(self, template: str, raw: str, value: object) -> None:
        envelope = parse(template % raw)
        assert (envelope.data, envelope.value, envelope.room, envelope.id) == (raw, value, "r", "i")

    def test_names_may_be_written_with_escapes(self) -> None:
        envelope = parse('{"\\u0065vent":"\\u0065","r\\u006fom":"\\u0072","id":"\\u0069","data":"\\u0064"}')
        assert envelope == Envelope("e", "r", "i", '"\\u0064"', "d")

    @pytest.mark.parametrize("text", ["{}", " { } ", '{"data":1}', '{"room":"r","id":"i"}'])
    def test_a_missing_event(self, text: str) -> None:
        assert "event is required" in refusal(text).message

    @pytest.mark.parametrize("name", ["x", "Event", "user", "event ", "", "\\u0065vent2"])
    def test_an_unknown_field(self, name: str) -> None:
        error = refusal(f'{{"event":"e","id":"i","{name}":1}}')
        assert "unknown field" in error.message
        assert error.id == "i"

    @pytest.mark.parametrize("name", ["event", "data", "id", "room"])
    @pytest.mark.parametrize("second", ["event", "escaped"])
    def test_a_field_that_stands_there_twice(self, name: str, second: str) -> None:
        again = name if second == "event" else f"\\u{ord(name[0]):04x}{name[1:]}"
        text = f'{{"event":"e","room":"r","id":"i","data":"d","{again}":"e"}}'
        assert refusal(text).message == f"the field {name} stands there twice"

    def test_names_inside_data_are_not_fields(self) -> None:
        assert parse('{"event":"e","data":{"event":1,"x":2,"x":3}}').value == {"event": 1, "x": 3}

    @pytest.mark.parametrize("value", ["1", "null", "true", '["e"]', '{"e":1}', '""', '"a b"', '"\\u00e9"', '"a\\n"'])
    def test_a_wrong_event(self, value: str) -> None:
        assert "event is required" in refusal(f'{{"event":{value}}}').message

    def test_the_length_of_an_event(self) -> None:
        assert parse(f'{{"event":"{"e" * 128}"}}').event == "e" * 128
        assert "1 to 128" in refusal(f'{{"event":"{"e" * 129}"}}').message

    def test_the_characters_of_an_event(self) -> None:
        every = "AZaz09._:-"
        assert parse(f'{{"event":"{every}"}}').event == every

    @pytest.mark.parametrize("value", ["1", "null", "[]", '""', '"é"', '"\\u0000"', '"\\u007f"', '"a\\tb"'])
    @pytest.mark.parametrize("template", ['{"event":"e","id":%s}', '{"id":%s,"event":"e"}'])
    def test_a_wrong_id(self, template: str, value: str) -> None:
        error = refusal(template % value)
        assert "id is printable ASCII" in error.message
        assert error.id is None

    def test_the_length_of_an_id(self) -> None:
        assert parse(f'{{"event":"e","id":"{"~" * 64}"}}').id == "~" * 64
        assert "1 to 64" in refusal(f'{{"event":"e","id":"{"~" * 65}"}}').message

    def test_every_printable_character_in_an_id(self) -> None:
        for code in range(0x20, 0x7F):
            id_ = chr(code)
            assert parse(f'{{"event":"e","id":{json.dumps(id_)}}}').id == id_

    @pytest.mark.parametrize("value", ["1", "null", "{}", '""', '"a\\u0000"', '"\\u0085"', '"\\n"', '"\x7f"', '"\x9f"'])
    @pytest.mark.parametrize("template", ['{"event":"e","room":%s,"id":"i"}', '{"id":"i","room":%s,"event":"e"}'])
    def test_a_wrong_room(self, template: str, value: str) -> None:
        error = refusal(template % value)
        assert "room is 1 to 128 bytes" in error.message
        assert error.id == "i"

    @pytest.mark.parametrize("character", ["r", "ü", "€", "\U0001f600"])
    @pytest.mark.parametrize("template", ['{"event":"e","room":"%s"}', '{"room":"%s","event":"e"}'])
    def test_a_room_is_measured_in_bytes(self, template: str, character: str) -> None:
        longest = character * (128 // len(character.encode()))
        assert parse(template % longest).room == longest
        assert "128 bytes" in refusal(template % (longest + character)).message

    def test_a_room_is_not_normalised(self) -> None:
        composed, decomposed = "caf\u00e9", "cafe\u0301"
        assert parse(f'{{"event":"e","room":"{decomposed}"}}').room == decomposed != composed


class TestStrictness:
    @pytest.mark.parametrize(
        "text",
        ["", " ", "null", "1", '"e"', "[]", '[{"event":"e"}]', "event", "\ufeff" + '{"event":"e"}', "\x00{}", "}"],
    )
    def test_the_top_level_is_an_object(self, text: str) -> None:
        assert refusal(text).message == "a message is one JSON object"

    @pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
    @pytest.mark.parametrize("place", ["%s", "[1,%s]", '{"a":{"b":%s}}'])
    @both
    def test_nan_and_the_infinities(self, template: str, place: str, number: str) -> None:
        error = refusal(template % (place % number))
        assert error.message == f"{number} is not JSON"
        assert error.id == "i"

    @pytest.mark.parametrize(
        "number", ["nan", "inf", "Inf", "+1", "01", ".5", "1.", "1e", "0x1", "1_0", "--1", "-", "\u0661"]
    )
    @both
    def test_numbers_that_json_does_not_have(self, template: str, number: str) -> None:
        assert refusal(template % number).message == "not JSON as RFC 8259 has it"

    @pytest.mark.parametrize(
        "text",
        [
            "{",
            '{"event"',
            '{"event":',
            '{"event":"e"',
            '{"event":"e",',
            '{"event":"e",}',
            '{"event":"e"}}',
            '{"event":"e"} x',
            '{"event":"e"}{"event":"e"}',
            '{"event":"e","data":}',
            '{"event":"e","data":1',
            '{"event":"e","data":1}]',
            '{"event":"e","data":1 "id":"i"}',
            '{"event":"e","data":[1,]}',
            '{"event":"e","data":{"a":1,}}',
            '{"event":"e","data":"a\nb"}',
            '{"event":"e","data":"\x00"}',
            '{"event":"e","data":"\\x41"}',
            '{"event":"e","data":"\\u12"}',
            '{"event":"e","data":"\\u 123"}',
            '{"event":"e","data":\'a\'}',
            '{"event":"e","data":tru}',
            '{"event":"e","data":True}',
            '{"event" "e"}',
            '{"event"="e"}',
            "{event:1}",
            "{'event':1}",
            '{1:"e"}',
            '{null:"e"}',
            '{["event"]:"e"}',
            '{,"event":"e"}',
            '{"event":"e"\x0b}',
            '{"event":"e"\xa0}',
            '{"event":"e","data":1 /* c */}',
            '{"event":"e"} // c',
        ],
    )
    def test_what_is_not_json(self, text: str) -> None:
        assert refusal(text).message == "not JSON as RFC 8259 has it"

    @pytest.mark.parametrize("levels", [1, MAX_DEPTH - 1])
    @both
    def test_nesting_up_to_the_limit(self, template: str, levels: int) -> None:
        assert parse(template % nested(levels)).data == nested(levels)

    @pytest.mark.parametrize("levels", [MAX_DEPTH, MAX_DEPTH + 1, 500, 30_000])
    @both
    def test_nesting_over_the_limit(self, template: str, levels: int) -> None:
        error = refusal(template % nested(levels))
        assert error.message == "nested deeper than 64 levels"
        assert error.id == ("i" if template == COMMON or levels <= 500 else None)

    def test_objects_and_arrays_count_alike(self) -> None:
        inner, outer = '{"a":[' * 32, "]}" * 32
        assert parse(f'{{"event":"e","data":[{inner[6:]}1{outer[2:]}]}}').event == "e"
        assert refusal(f'{{"event":"e","data":{inner}1{outer}}}').message == "nested deeper than 64 levels"

    @pytest.mark.parametrize("raw", ['"' + "[{" * 500 + '"', "[" + "[]," * 300 + "[]]", '["' + '\\"[' * 200 + '"]'])
    @both
    def test_many_brackets_are_not_deep(self, template: str, raw: str) -> None:
        assert parse(template % raw).data == raw

    @pytest.mark.parametrize(
        "number",
        [
            "1" * MAX_DIGITS,
            "-" + "1" * MAX_DIGITS,
            "1" * 16 + "." + "1" * 16,
            "-" + "1" * 10 + "." + "1" * 20 + "e-" + "1" * 2,
            "1E+" + "0" * 31,
            "0." + "0" * 31,
        ],
    )
    @both
    def test_numbers_of_32_digits(self, template: str, number: str) -> None:
        assert parse(template % f"[{number}]").data == f"[{number}]"

    @pytest.mark.parametrize(
        "number",
        [
            "1" * (MAX_DIGITS + 1),
            "-" + "1" * (MAX_DIGITS + 1),
            "1" * 17 + "." + "1" * 16,
            "-" + "1" * 10 + "." + "1" * 20 + "e-" + "1" * 3,
            "1E+" + "0" * 32,
            "0." + "0" * 32,
            "1" * 5000,
            "1" * 60_000 + ".5",
        ],
    )
    @both
    def test_numbers_of_33_digits(self, template: str, number: str) -> None:
        error = refusal(template % f"[{number}]")
        assert error.message == "a number of more than 32 digits"
        assert error.id == ("i" if template == COMMON or len(number) < 4000 or "." in number else None)

    @pytest.mark.parametrize("digits", ["1" * 33, "1" * 500, "-1.5e10" * 20, '\\"' + "1" * 40, "1" * 40 + "\\\\"])
    @both
    def test_digits_in_strings_are_text(self, template: str, digits: str) -> None:
        assert parse(template % f'{{"{digits}":"{digits}"}}').data == f'{{"{digits}":"{digits}"}}'

    @pytest.mark.parametrize(
        "escapes",
        [
            "\\ud800",
            "\\uDFFF",
            "\\ud800x",
            "\\ud800\\ud800",
            "\\udc00\\ud800",
            "\\ud83d\\u0041",
            "\\ud83d\\n",
            "\\\\\\ud800",
            "\\ud83d\\ude00\\ude00",
            "\\ud83d\\\\ude00",
        ],
    )
    @pytest.mark.parametrize("place", ['"%s"', '{"%s":1}', '[{"a":["%s"]}]', '{"a":"%s","a":1}'])
    @both
    def test_a_lone_surrogate(self, template: str, place: str, escapes: str) -> None:
        error = refusal(template % (place % escapes))
        assert error.message == "a lone surrogate"
        assert error.id == "i"

    @pytest.mark.parametrize("raw", ['"\ud800"', '{"\udfff":1}', '["\ud83d\\ude00"]'])
    @both
    def test_a_lone_surrogate_without_an_escape(self, template: str, raw: str) -> None:
        assert refusal(template % raw).message == "a lone surrogate"

    @pytest.mark.parametrize(
        ("escapes", "value"),
        [
            ("\\ud83d\\ude00", "\U0001f600"),
            ("\\uD83D\\uDE00\\ud83d\\ude00", "\U0001f600" * 2),
            ("\\\\ud800", "\\ud800"),
            ("\\\\\\\\udfff", "\\\\udfff"),
            ("\\ud7ff\\ue000\\\\ud800", "\ud7ff\ue000\\ud800"),
            ("\\n\\u00e9\\\\ud800", "\né\\ud800"),
        ],
    )
    @both
    def test_pairs_and_what_only_looks_like_a_surrogate(self, template: str, escapes: str, value: str) -> None:
        assert parse(template % f'"{escapes}"').value == value

    @pytest.mark.parametrize("value", ["\\ud800", "\ud800"])
    @pytest.mark.parametrize("template", ['{"event":"%s"}', '{"event":"e","room":"%s"}', '{"event":"e","id":"%s"}'])
    def test_a_lone_surrogate_in_every_other_field(self, template: str, value: str) -> None:
        field = template.split('"')[-4]
        error = refusal(template % value)
        assert error.message == "a lone surrogate" or error.message.startswith(field)
        assert error.id is None


class TestTheIdOfARefusedMessage:
    @pytest.mark.parametrize(
        "text",
        [
            '{"event":"e","id":"i","data":NaN}',
            '{"event":"e","data":NaN,"id":"i"}',
            '{"id":"i"}',
            '{"id":"i","event":1}',
            '{"x":1,"id":"i"}',
            '{"id":"i","id":"j"}',
            '{"event":"e","event":"e","id":"i"}',
            '{"event":"e","id":"i","data":1}]',
            '{"event":"e","id":"i","data":',
        ],
    )
    def test_is_told_where_it_can_be_read(self, text: str) -> None:
        assert refusal(text).id == "i"

    @pytest.mark.parametrize(
        "text",
        [
            '{"event":1}',
            '{"event":1,"id":7}',
            '{"event":1,"id":""}',
            '{"event":1,"id":"é"}',
            '{"x":1,"id":"' + "i" * 65 + '"}',
            '{"event":"e","data":tru,"id":"i"}',
            '["id"]',
            '"id"',
            '[{"id":"i"}]',
            '{"x":1}',
            "7",
        ],
    )
    def test_is_not_guessed(self, text: str) -> None:
        assert refusal(text).id is None


class TestBinary:
    @staticmethod
    def message(header: str | bytes, payload: bytes = b"payload", size: int | None = None) -> bytes:
        encoded = header.encode() if isinstance(header, str) else header
        return (len(encoded) if size is None else size).to_bytes(4, "big") + encoded + payload

    def refusal(self, message: bytes) -> InvalidMessage:
        with pytest.raises(InvalidMessage) as caught:
            parse_binary(message)
        return caught.value

    def test_header_and_payload(self) -> None:
        envelope = parse_binary(self.message('{"event":"e","room":"r","id":"i"}', b"\x00\xff"))
        assert envelope == Envelope("e", "r", "i", b"\x00\xff", b"\x00\xff")
        assert envelope.binary

    def test_an_empty_payload(self) -> None:
        assert parse_binary(self.message('{"event":"e"}', b"")).data == b""

    @pytest.mark.parametrize("size", [0, BINARY_HEADER_MAX + 1, 2**32 - 1])
    def test_a_header_of_a_wrong_length(self, size: int) -> None:
        message = self.message('{"event":"e"}' + " " * BINARY_HEADER_MAX, size=size)
        assert "header length of 1 to 4096" in self.refusal(message).message

    def test_a_header_of_4096_bytes(self) -> None:
        header = '{"event":"e"}'.ljust(BINARY_HEADER_MAX)
        assert parse_binary(self.message(header)).data == b"payload"

    def test_a_header_of_one_byte(self) -> None:
        assert self.refusal(self.message("{")).message == "not JSON as RFC 8259 has it"

    @pytest.mark.parametrize("message", [b"", b"\0", b"\0\0\0", b"\0\0\0\x0d", b'\0\0\0\x0e{"event":"e"}'])
    def test_a_message_that_ends_before_its_header(self, message: bytes) -> None:
        assert "header length" in self.refusal(message).message

    @pytest.mark.parametrize("data", ["null", "1"])
    def test_data_in_the_header(self, data: str) -> None:
        error = self.refusal(self.message(f'{{"event":"e","id":"i","data":{data}}}'))
        assert error.message == "the header of a binary message has no data"
        assert error.id == "i"

    @pytest.mark.parametrize(
        "header", [b'{"event":"\xff"}', b'{"event":"e"}\x80', b'{"room":"\xed\xa0\x80"}', b"\xc0\x80"]
    )
    def test_bad_utf_8_in_the_header(self, header: bytes) -> None:
        assert self.refusal(self.message(header)).message == "the header of a binary message is UTF-8"

    def test_bad_utf_8_in_the_payload_is_no_matter(self) -> None:
        assert parse_binary(self.message('{"event":"e"}', b"\xff\xfe")).data == b"\xff\xfe"

    @pytest.mark.parametrize("header", ["[]", "{}", '{"event":"e","x":1}', '{"event":"e","event":"e"}', '{"event":""}'])
    def test_a_header_keeps_the_rules_of_text(self, header: str) -> None:
        assert self.refusal(self.message(header)).message == refusal(header).message

    @given(st.binary())
    @example(b'\0\0\0\x0d{"event":"e"}')
    def test_no_other_error_leaves_it(self, message: bytes) -> None:
        try:
            envelope = parse_binary(message)
        except InvalidMessage:
            return
        assert is_event_name(envelope.event)

    @given(st.data())
    def test_no_other_error_leaves_it_for_a_mutated_message(self, data: st.DataObject) -> None:
        message = bytearray(self.message('{"event":"e","room":"chat:ü","id":"i"}'))
        for _ in range(data.draw(st.integers(1, 4))):
            message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
        try:
            envelope = parse_binary(bytes(message))
        except InvalidMessage:
            return
        assert is_event_name(envelope.event)
        assert isinstance(envelope.data, bytes)


# --- against the json module -------------------------------------------------------------------


@dataclass
class Model:
    """What `parse` has to say: the fields, or None."""

    fields: dict[str, Any]


def constant(name: str) -> None:
    raise ValueError(name)


def model(text: str) -> Model | None:
    """The rules once more, in the plainest way."""
    numbers: list[str] = []

    def number(convert: Callable[[str], Any]) -> Callable[[str], Any]:
        def note(digits: str) -> object:
            numbers.append(digits)
            return convert(digits)

        return note

    objects: list[list[tuple[str, Any]]] = []

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        objects.append(items)
        return dict(items)

    try:
        value = json.loads(
            text,
            parse_constant=constant,
            parse_int=number(int),
            parse_float=number(float),
            object_pairs_hook=pairs,
        )
        text.encode()
        json.dumps(objects, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or len(objects[-1]) != len(value) or not value.keys() <= FIELDS:
        return None
    correct = (
        isinstance(value.get("event"), str)
        and is_event_name(value["event"])
        and ("id" not in value or is_message_id(value["id"]))
        and ("room" not in value or is_room_name(value["room"]))
        and all(sum(character.isdigit() for character in digits) <= 32 for digits in numbers)
        and depth(value) <= 64
    )
    return Model(value) if correct else None


def depth(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth, value), default=0)
    return 0


def outcome(text: str) -> Envelope | InvalidMessage:
    try:
        return parse(text)
    except InvalidMessage as error:
        return error


def agrees(text: str) -> None:
    expected, found = model(text), outcome(text)
    if expected is None:
        assert isinstance(found, InvalidMessage), f"accepted: {found}"
        assert found.id is None or is_message_id(found.id)
        return
    assert isinstance(found, Envelope), f"refused: {found}"
    fields = expected.fields
    assert (found.event, found.room, found.id) == (fields["event"], fields.get("room"), fields.get("id"))
    assert equal(found.value, fields.get("data"))
    assert isinstance(found.data, str)
    assert equal(json.loads(found.data), fields.get("data"))


def equal(one: object, other: object) -> bool:
    """Equal in type too: 1 and 1.0 are two values, as are 0.0 and -0.0."""
    return repr(one) == repr(other)


texts = st.text(st.characters(exclude_categories=[]), max_size=12)  # surrogates too
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
names = st.text("abcXYZ019._:-", min_size=1, max_size=8)
ids = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=8)
rooms = st.text(min_size=1, max_size=10).filter(is_room_name)
blanks = st.text(" \t\r\n", max_size=2)
DUMPS: list[Callable[[object], str]] = [
    json.dumps,
    lambda value: json.dumps(value, ensure_ascii=False),
    lambda value: json.dumps(value, separators=(",", ":")),
    lambda value: json.dumps(value, indent=1),
]


@st.composite
def envelopes(draw: st.DrawFn) -> str:
    """The text of an object that is an envelope, or nearly one."""
    fields = {"event": draw(names)}
    optional: dict[str, st.SearchStrategy[Any]] = {"room": rooms, "id": ids, "data": values}
    for name in draw(st.permutations(sorted(optional))):
        if draw(st.booleans()):
            fields[name] = draw(optional[name])
    items = draw(st.permutations(list(fields.items()))) if draw(st.booleans()) else list(fields.items())
    if draw(st.integers(0, 9)) == 0:
        items.append(draw(st.tuples(st.sampled_from([*FIELDS, "x"]), values)))
    encode_ = draw(st.sampled_from(DUMPS))
    gap = draw(blanks) if draw(st.booleans()) else ""
    inner = f",{gap}".join(f"{encode_(name)}{gap}:{gap}{encode_(value)}" for name, value in items)
    return f"{gap}{{{gap}{inner}{gap}}}{gap}"


PIECES = [
    '"', "\\", "\\u", "\\ud83d", "\\ude00", "\\u0041", "{", "}", "[", "]", ",", ":", " ", "\n", "1", "0", "-", "e", ".",
    "1" * 31, "NaN", "Infinity", "null", "true", '"event":', '"id":', '"room":', '"data":', '"e"', "\x00", "é",
    "[" * 64, "]" * 64, '{"a":' * 63, "}" * 63,
]  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn) -> str:
    text = draw(envelopes())
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(text)))
        end = min(len(text), at + draw(st.integers(0, 4)))
        text = text[:at] + draw(st.sampled_from(PIECES) | texts) + text[end:]
    return text


class TestAgainstTheJsonModule:
    @given(envelopes())
    @example('{"event":"e","data":1e400}')
    @example('{"event":"e","data":-0.0}')
    def test_envelopes(self, text: str) -> None:
        agrees(text)

    @given(mutated())
    def test_mutated_envelopes(self, text: str) -> None:
        agrees(text)

    @given(st.text(st.sampled_from('{}[]:," \\u0de1+-.tnN') | st.characters(exclude_categories=[]), max_size=40))
    def test_any_text(self, text: str) -> None:
        agrees(text)

    @given(st.lists(st.sampled_from(PIECES), max_size=16).map("".join))
    def test_pieces_as_data(self, raw: str) -> None:
        for template in (COMMON, OTHER):
            agrees(template.replace("%s", raw))

    @given(envelopes())
    def test_both_ways_of_reading_say_the_same(self, text: str) -> None:
        # A blank before the object leads to the long way.
        one, other = outcome(text), outcome(" " + text)
        if isinstance(one, InvalidMessage) and isinstance(other, InvalidMessage):
            assert (one.message, one.id) == (other.message, other.id)
        else:
            assert one == other


# --- writing -----------------------------------------------------------------------------------


class TestWriting:
    @given(names, st.none() | rooms, st.none() | ids, st.none() | values)
    def test_a_message_is_read_as_it_was_written(
        self, event: str, room: str | None, id_: str | None, value: object
    ) -> None:
        try:
            data = dump(value)
        except ValueError:  # a lone surrogate, or an integer that is too long
            return
        text = encode(event, room=room, id=id_, data=data).decode()
        assert json.loads(text)["event"] == event
        if model(text) is None:  # a number of too many digits
            return
        envelope = parse(text)
        assert (envelope.event, envelope.room, envelope.id, envelope.data) == (event, room, id_, data.decode())
        assert envelope.value == value

    @given(names, st.none() | rooms, st.none() | ids, st.binary(max_size=40))
    def test_a_binary_message_is_read_as_it_was_written(
        self, event: str, room: str | None, id_: str | None, payload: bytes
    ) -> None:
        message = encode_binary(event, payload, room=room, id=id_)
        assert parse_binary(message) == Envelope(event, room, id_, payload, payload)

    def test_every_field(self) -> None:
        encoded = encode("e", room='a"b', id="E:1", user="ü\\", data=b"[1]")
        assert encoded == '{"event":"e","room":"a\\"b","id":"E:1","user":"ü\\\\","data":[1]}'.encode()

    def test_no_data(self) -> None:
        assert encode("e") == b'{"event":"e"}'

    def test_a_binary_header_that_is_too_long(self) -> None:
        room = "u" * (BINARY_HEADER_MAX - len(encode("e", user="")))
        assert len(encode_binary("e", b"", user=room)) == 4 + BINARY_HEADER_MAX
        with pytest.raises(ValueError, match="at most 4096 bytes"):
            encode_binary("e", b"", user=room + "u")

    @given(st.text())
    @example('"\\\x00\x1f\x7f\u2028')
    def test_quote(self, text: str) -> None:
        assert json.loads(quote(text)) == text

    @pytest.mark.parametrize("text", ["\ud800", '"\ud800'])
    def test_quote_refuses_a_lone_surrogate(self, text: str) -> None:
        with pytest.raises(ValueError, match="surrogate"):
            quote(text)

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_dump_has_no_word_for_nan(self, value: float) -> None:
        assert dump({"a": [value]}) == b'{"a":[null]}'

    @pytest.mark.parametrize("value", [object(), "\ud800", b"\xff", {"a": [object()]}])
    def test_dump_of_what_is_not_json(self, value: object) -> None:
        with pytest.raises(ValueError, match="serializ"):
            dump(value)

    @pytest.mark.parametrize(
        ("value", "valid"),
        [
            ("i", True),
            (" ", True),
            ("~" * 64, True),
            ("~" * 65, False),
            ("", False),
            ("é", False),
            (7, False),
            ("i\n", False),
        ],
    )
    def test_message_ids(self, value: object, valid: bool) -> None:
        assert is_message_id(value) is valid


# --- the cost of hostile texts -----------------------------------------------------------------

SIZE = 65_536


def hostile() -> dict[str, str]:
    """Texts of `SIZE` characters that make a careless reader do much."""
    bodies = {
        "brackets": "[" * SIZE,
        "closed brackets": "[" * (SIZE // 2) + "]" * (SIZE // 2),
        "objects": '{"a":' * (SIZE // 5),
        "empty arrays": "[" + "[]," * (SIZE // 3) + "[]]",
        "numbers": "[" + "1," * (SIZE // 2) + "1]",
        "long numbers": "[" + ("1" * 4300 + ",") * (SIZE // 4301) + "1]",
        "one number": "1" * SIZE,
        "one fraction": "0." + "1" * SIZE,
        "exponents": "[" + "1e308," * (SIZE // 6) + "1]",
        "digits in a string": '"' + "1" * SIZE + '"',
        "quotes": '"' * SIZE,
        "empty strings": "[" + '"",' * (SIZE // 3) + '""]',
        "backslashes": '"' + "\\" * SIZE,
        "escaped backslashes": '"' + "\\\\" * (SIZE // 2) + '"',
        "surrogates": '"' + "\\ud800" * (SIZE // 6) + '"',
        "pairs": '"' + "\\ud83d\\ude00" * (SIZE // 12) + '"',
        "escapes": '"' + "\\u0041" * (SIZE // 6) + '"',
        "blanks": " " * SIZE,
        "blanks in data": "[" + " " * SIZE + "]",
        "keys": "{" + '"a":1,' * (SIZE // 6) + '"a":1}',
        "keys that differ": "{" + ",".join(f'"{number}":1' for number in range(SIZE // 8)) + "}",
        "commas": "," * SIZE,
        "nothing but text": "a" * SIZE,
        "non-ASCII": '"' + "é" * SIZE + '"',
        "deep and long": "[" * 60 + '"[",' * (SIZE // 4) + "1" + "]" * 60,
    }
    return {name: COMMON.replace("%s", raw) for name, raw in bodies.items()} | {
        "blanks before": " " * SIZE + '{"event":"e"}',
        "blanks between": '{"event"' + " " * SIZE + ':"e"}',
        "blanks after": '{"event":"e"' + " " * SIZE,
        "blanks at the end": '{"event":"e"}' + " " * SIZE + "x",
        "a long event": '{"event":"' + "e" * SIZE + '"}',
        "a long room": '{"event":"e","room":"' + "r" * SIZE + '"}',
        "a long id": '{"event":"e","id":"' + "i" * SIZE + '"}',
        "a long name": '{"' + "n" * SIZE + '":1}',
        "fields": "{" + '"event":"e",' * (SIZE // 12) + "}",
        "an id at the end": '{"event":"e","x":[' + "1," * (SIZE // 2) + '1],"id":"i"}',
    }


@pytest.mark.parametrize("text", hostile().values(), ids=hostile())
def test_hostile_texts_are_read_in_linear_time(text: str) -> None:
    # The suite's time-out bounds it: what grows with the square of the length would take minutes.
    found = [outcome(text) for _ in range(10)]
    if isinstance(found[0], Envelope):
        assert json.loads(text)["event"] == found[0].event
