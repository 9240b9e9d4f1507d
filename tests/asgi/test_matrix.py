"""Every row of the support matrix is asked for by a test, so that none is only a claim."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.asgi.support import COLUMNS, matrix

TESTS = "\n".join(
    path.read_text() for path in Path(__file__).parent.glob("test_*.py") if path.name != Path(__file__).name
)


def test_the_page_has_the_columns() -> None:
    assert len(matrix()) > 10
    assert all(set(cells) == set(COLUMNS) for cells in matrix().values())


@pytest.mark.parametrize("feature", list(matrix()))
def test_a_row_is_asked_for_by_a_test(feature: str) -> None:
    assert f'says("{feature}"' in TESTS
