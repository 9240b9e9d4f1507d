"""The sum of an Autobahn report: what counts as good, and what does not."""

from __future__ import annotations

from scripts.autobahn import SETS, tally


def test_what_is_good_and_what_is_not() -> None:
    words = {
        "10.1.1": ("OK", "OK"),
        "2.11": ("OK", "FAILED"),
        "2.2": ("NON-STRICT", "OK"),
        "7.1.6": ("INFORMATIONAL", "INFORMATIONAL"),
        "12.1.1": ("UNIMPLEMENTED", "OK"),
        "9.1.1": ("OK", "UNCLEAN"),
    }
    cases = {number: {"behavior": case, "behaviorClose": close} for number, (case, close) in words.items()}
    found = tally(cases)
    assert found.bad == ["2.2 NON-STRICT/OK", "2.11 FAILED/OK", "9.1.1 OK/UNCLEAN", "12.1.1 OK/UNIMPLEMENTED"]
    assert found.passed == 2
    assert found.counts == {"OK": 3, "NON-STRICT": 1, "INFORMATIONAL": 1, "UNIMPLEMENTED": 1}


def test_all_is_everything() -> None:
    assert set(SETS["all"]) == {f"{section}.*" for section in (1, 2, 3, 4, 5, 6, 7, 9, 10, 12, 13)}
