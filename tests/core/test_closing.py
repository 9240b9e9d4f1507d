"""Close codes, docs/reference/protocol.md section 6."""

from __future__ import annotations

import pytest

from roomwire.core.closing import REASONS, CloseCode, Closing, is_sendable, reconnects

STAYS_AWAY = {1000, 1002, 1003, 1007, 1008, 1009, *range(4500, 5000)}


def test_whether_a_client_comes_back_is_a_matter_of_ranges() -> None:
    assert {code for code in range(65_536) if not reconnects(code)} == STAYS_AWAY


def test_which_codes_may_be_sent() -> None:
    # RFC 6455 section 7.4.1 reserves 1004, 1005, 1006 and 1015; 1012 to 1014 are in the IANA registry.
    allowed = {*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)}
    assert {code for code in range(-1, 70_000) if is_sendable(code)} == allowed


@pytest.mark.parametrize("code", [code for code in CloseCode if code != CloseCode.ABNORMAL])
def test_every_code_of_our_own_has_a_reason_that_fits_into_a_frame(code: CloseCode) -> None:
    closing = Closing.of(code)
    assert (closing.code, closing.reason, closing.retry_after) == (code, REASONS[code], 0.0)
    assert is_sendable(code)
    assert len(closing.reason.encode()) <= 123
    assert closing.reason or code == CloseCode.NORMAL
    assert closing.reconnect is (code not in STAYS_AWAY)


def test_a_broken_link_has_no_reason_to_send() -> None:
    assert not is_sendable(CloseCode.ABNORMAL)
    assert CloseCode.ABNORMAL not in REASONS
    assert reconnects(CloseCode.ABNORMAL)


@pytest.mark.parametrize(
    ("code", "value"),
    [
        (CloseCode.HEARTBEAT_MISSED, 4001),
        (CloseCode.TOO_SLOW, 4002),
        (CloseCode.TOKEN_EXPIRED, 4003),
        (CloseCode.RATE_LIMITED, 4004),
        (CloseCode.NOT_RESUMABLE, 4005),
        (CloseCode.REPLACED, 4501),
        (CloseCode.REVOKED, 4502),
        (CloseCode.REMOVED, 4503),
    ],
)
def test_the_numbers_of_the_protocol(code: CloseCode, value: int) -> None:
    assert code == value


def test_what_is_never_announced() -> None:
    silent = {code for code in range(1000, 5000) if not Closing(code).announced}
    assert silent == {1002, 1007, 1009, 4002}


def test_a_restart_says_when_to_come_back() -> None:
    closing = Closing.of(CloseCode.RESTART, 2.5)
    assert (closing.retry_after, closing.reconnect, closing.announced) == (2.5, True, True)
