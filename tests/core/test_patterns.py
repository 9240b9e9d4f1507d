"""Room patterns: what they match, which one wins, and which pairs are refused."""

from __future__ import annotations

import itertools
import re
from functools import cache

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from roomwire.core.errors import DeclarationError
from roomwire.core.patterns import Pattern, PatternTable


class TestMatching:
    @pytest.mark.parametrize(
        ("pattern", "room", "parameters"),
        [
            ("lobby", "lobby", {}),
            ("lobby", "lobby2", None),
            ("lobby", "Lobby", None),
            ("chat:{channel}", "chat:general", {"channel": "general"}),
            ("chat:{channel}", "chat:", None),
            ("chat:{channel}", "chat:a:b", None),
            ("chat:{channel}", "xchat:a", None),
            ("chat:*", "chat:general", {}),
            ("*", "general", {}),
            ("*", "", None),
            ("*", "a:b", None),
            ("{a}:{b}", "x:y", {"a": "x", "b": "y"}),
            ("{a}:{b}", "x:", None),
            ("team-{team}:*:{thread}", "team-7:x:y", {"team": "7", "thread": "y"}),
            ("a{x}b", "ab", None),
            ("a{x}b", "a\nb", {"x": "\n"}),
            ("a{x}b", "aübb", {"x": "üb"}),
            ("a::b", "a::b", {}),
            ("a:", "a:", {}),
            ("a.b+(c)[d]^$|?\\", "a.b+(c)[d]^$|?\\", {}),
            ("a.b", "axb", None),
            ("{_x1}", "v", {"_x1": "v"}),
        ],
    )
    def test_a_room(self, pattern: str, room: str, parameters: dict[str, str] | None) -> None:
        assert Pattern(pattern).match(room) == parameters

    @pytest.mark.parametrize(
        ("pattern", "room", "parameters"),
        [
            ("{a}-{b}", "x-y-z", {"a": "x", "b": "y-z"}),
            ("{a}-{b}-{c}", "1-2-3-4", {"a": "1", "b": "2", "c": "3-4"}),
            ("{a}-{b}", "--x", {"a": "-", "b": "x"}),
            ("{a}-{b}", "---", {"a": "-", "b": "-"}),
            ("{a}ab{b}ab", "xabyabab", {"a": "x", "b": "yab"}),
            ("*-{b}", "x-y-z", {"b": "y-z"}),
            ("{a}-{b}", "x-", None),
            ("{a}-{b}", "-x", None),
        ],
    )
    def test_a_parameter_takes_as_little_as_it_can(
        self, pattern: str, room: str, parameters: dict[str, str] | None
    ) -> None:
        assert Pattern(pattern).match(room) == parameters

    def test_the_names_in_their_order(self) -> None:
        pattern = Pattern("{b}:*:x-{a}")
        assert pattern.names == ("b", "a")
        assert pattern.text == "{b}:*:x-{a}"
        assert pattern.segments == ["{b}", "*", "x-{a}"]

    @pytest.mark.parametrize("parameters", [2, 8, 30])
    def test_a_match_does_not_try_all_ways_to_part_a_room(self, parameters: int) -> None:
        pattern = Pattern("-".join(f"{{p{number}}}" for number in range(parameters)) + "!")
        # With backtracking the number of ways is the binomial of 128 over `parameters`.
        assert pattern.match("-" * 128) is None
        assert pattern.match("-" * 127 + "!") is not None


class TestMalformed:
    @pytest.mark.parametrize(
        ("pattern", "reason"),
        [
            ("", "cannot be empty"),
            ("{a}:{a}", "names a parameter twice"),
            ("{a}{b}", "two parameters side by side"),
            ("{a}*", "two parameters side by side"),
            ("x:**", "two parameters side by side"),
            ("x{a}*{b}", "two parameters side by side"),
            ("{", "stray brace"),
            ("}", "stray brace"),
            ("{}", "stray brace"),
            ("{1a}", "stray brace"),
            ("{a-b}", "stray brace"),
            ("{größe}", "stray brace"),
            ("{a:b}", "stray brace"),
            ("{{a}}", "stray brace"),
            ("{a }", "stray brace"),
        ],
    )
    def test_is_refused(self, pattern: str, reason: str) -> None:
        with pytest.raises(DeclarationError, match=reason) as caught:
            Pattern(pattern)
        assert not pattern or repr(pattern) in str(caught.value)


class TestTable:
    @staticmethod
    def table(*patterns: str) -> PatternTable[str]:
        table: PatternTable[str] = PatternTable()
        for pattern in patterns:
            table.add(Pattern(pattern), pattern)
        return table

    def test_an_empty_one(self) -> None:
        table = self.table()
        assert not table
        assert table.match("a") is None
        assert self.table("a")

    def test_its_items_are_the_most_specific_first(self) -> None:
        found = self.table("chat:*", "chat:general").items()
        assert [(pattern.text, value) for pattern, value in found] == [
            (text, text) for text in ("chat:general", "chat:*")
        ]

    @pytest.mark.parametrize(
        ("room", "winner"),
        [
            ("chat:general", "chat:general"),
            ("chat:gen", "chat:g{x}"),
            ("chat:genus", "chat:gen{x}"),
            ("chat:ge1", "chat:g{x}"),
            ("chat:other", "chat:{x}"),
            ("news:general", "{kind}:general"),
            ("news:other", "*:{x}"),
            ("other", "*"),
        ],
    )
    def test_the_most_specific_pattern_wins_in_any_order_of_declaration(self, room: str, winner: str) -> None:
        patterns = ["chat:general", "chat:gen{x}", "chat:g{x}", "chat:{x}", "{kind}:general", "*:{x}", "*"]
        for order in (patterns, patterns[::-1], patterns[3:] + patterns[:3]):
            found = self.table(*order).match(room)
            assert found is not None
            assert found[0] == winner
            assert found[1] == Pattern(winner).match(room)

    def test_an_earlier_segment_decides(self) -> None:
        found = self.table("{a}:x", "a:{b}").match("a:x")
        assert found == ("a:{b}", {"b": "x"})

    def test_no_pattern_matches(self) -> None:
        assert self.table("a", "b:{c}").match("b") is None

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ("a", "a"),
            ("{x}", "{y}"),
            ("{x}", "*"),
            ("a:{x}", "a:*"),
            ("a{x}", "{x}b"),
            ("a{x}c", "{x}bc"),
            ("a{x}", "{x}a"),
            ("{x}a{y}", "{x}b{y}"),
            ("a{x}b", "a{y}b"),
            ("a{x}b:*", "{y}ab:*"),
        ],
    )
    def test_a_tie_is_refused(self, one: str, other: str) -> None:
        table = self.table(one)
        with pytest.raises(DeclarationError, match="nothing decides between them") as caught:
            table.add(Pattern(other), other)
        assert repr(one) in str(caught.value)
        assert repr(other) in str(caught.value)
        assert table.match("zzz") == self.table(one).match("zzz"), "the table is as it was"

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ("a", "b"),
            ("a", "{x}"),
            ("a", "a:a"),
            ("{x}:a", "{x}:b"),
            ("a{x}", "b{x}"),
            ("{x}a", "{x}b"),
            ("ab{x}", "a{x}"),
            ("a{x}:b", "{x}a:c"),
            ("a::{x}", "a:b:{x}"),
        ],
    )
    def test_no_tie(self, one: str, other: str) -> None:
        assert self.table(one, other)


class TestOverlaps:
    @pytest.mark.parametrize(
        ("one", "other", "meet"),
        [
            ("ab", "ab", True),
            ("ab", "a{x}", True),
            ("ab", "ab{x}", False),
            ("ab", "{x}ab", False),
            ("aab", "a{x}b", True),
            ("ab", "a{x}b", False),
            ("axbxc", "a{x}b{y}c", True),
            ("axc", "a{x}b{y}c", False),
            ("a{x}", "a{x}:b", False),
            ("a::b", "a:{x}:b", False),
        ],
    )
    def test_a_pair(self, one: str, other: str, meet: bool) -> None:
        assert Pattern(one).overlaps(Pattern(other)) is meet
        assert Pattern(other).overlaps(Pattern(one)) is meet


# --- against brute force -----------------------------------------------------------------------

LETTERS = "ab"
SEGMENTS = ["".join(letters) for length in range(1, 10) for letters in itertools.product(LETTERS, repeat=length)]


@st.composite
def segment_patterns(draw: st.DrawFn) -> str:
    """Literals of a's and b's with up to two stars between them.

    Two of them that meet do so in a name of nine letters at most: two at each end, one for each
    literal between stars, and one for each star.
    """
    ends = st.text(LETTERS, max_size=2)
    parts = [draw(ends), *draw(st.lists(st.sampled_from(LETTERS), max_size=1)), draw(ends)]
    pattern = draw(st.sampled_from(["*".join(parts), "*".join(parts[1:]), parts[0]]))
    assume(pattern)
    return pattern


@cache
def names_of(pattern: str) -> frozenset[str]:
    """The names that it matches, as the definition has it."""
    regex = re.compile("[^:]+".join(map(re.escape, pattern.split("*"))))
    return frozenset(name for name in SEGMENTS if regex.fullmatch(name))


def meet(one: str, other: str) -> bool:
    return not names_of(one).isdisjoint(names_of(other))


@given(segment_patterns())
def test_a_segment_matches_what_the_definition_says(pattern: str) -> None:
    compiled = Pattern(pattern)
    assert {name for name in SEGMENTS if compiled.match(name) is not None} == names_of(pattern)


@given(segment_patterns(), segment_patterns())
@example("a*", "*a")
@example("ab", "ab*")
@example("a*b*a", "a*a*a")
def test_overlap_is_what_brute_force_finds(one: str, other: str) -> None:
    assert Pattern(one).overlaps(Pattern(other)) is meet(one, other)
    assert Pattern(other).overlaps(Pattern(one)) is meet(one, other)


@given(st.lists(st.tuples(segment_patterns(), segment_patterns()), min_size=1, max_size=3))
def test_patterns_of_several_segments(pairs: list[tuple[str, str]]) -> None:
    one, other = (":".join(segments) for segments in zip(*pairs, strict=True))
    assert Pattern(one).overlaps(Pattern(other)) is all(meet(*pair) for pair in pairs)
    assert not Pattern(one).overlaps(Pattern(f"{other}:*"))


@given(st.lists(segment_patterns(), min_size=1, max_size=6))
def test_a_table_never_has_to_choose(patterns: list[str]) -> None:
    """Whatever a table takes, the winner for each room is one, whatever the order of declaration."""
    table: PatternTable[str] = PatternTable()
    taken: list[str] = []
    for pattern in patterns:
        tie = any(Pattern(known).rank == Pattern(pattern).rank and meet(known, pattern) for known in taken)
        try:
            table.add(Pattern(pattern), pattern)
        except DeclarationError:
            assert tie
        else:
            assert not tie
            taken.append(pattern)
    backwards: PatternTable[str] = PatternTable()
    for pattern in reversed(taken):
        backwards.add(Pattern(pattern), pattern)
    for name in SEGMENTS[:254]:
        found = table.match(name)
        assert found == backwards.match(name)
        best = min(
            (pattern for pattern in taken if name in names_of(pattern)),
            key=lambda pattern: Pattern(pattern).rank,
            default=None,
        )
        assert (None if found is None else found[0]) == best


@given(st.text(st.sampled_from("ab{}*:-_1 ü"), max_size=12))
def test_no_other_error_leaves_a_pattern(text: str) -> None:
    try:
        pattern = Pattern(text)
    except DeclarationError:
        return
    pattern.match("a:b")
