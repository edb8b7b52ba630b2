"""The figures of the tables: numbers as short text."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.cli.top.page import Histogram
from tidegate.cli.top.tables import milliseconds, number, rows, shorten, sparkline, whole


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"), (0, "0"), (0.5, "0.50"), (9.994, "9.99"), (9.996, "10.0"), (99.94, "99.9"),
        (99.96, "100"), (12_345.4, "12,345"), (999_999.4, "999,999"), (999_999.6, "1.00M"),
        (2_345_678, "2.35M"), (5e9, "5.00G"),
    ],
)  # fmt: skip
def test_numbers_keep_about_three_digits(value: float | None, text: str) -> None:
    assert number(value) == text


@given(st.floats(0, 1e14))
def test_numbers_fit_their_column(value: float) -> None:
    assert len(number(value)) <= 7 and len(whole(value)) <= 7


def test_percentiles_beyond_the_last_bound_are_shown_as_such() -> None:
    slow = Histogram((0.5, 2.5, math.inf), (0, 9, 1), 20.0)
    assert milliseconds(slow, 95) == ">2500"
    assert milliseconds(slow, 45) == "1500"
    assert milliseconds(None, 50) == "-"
    runs = Histogram((1.0, 2.0, 4.0, math.inf), (1, 1, 1, 1), 20.0)
    assert [rows(runs, percent) for percent in (25, 50, 75, 100)] == ["1", "2", "<=4", ">4"]


def test_a_sparkline_runs_from_nothing_to_the_greatest_with_gaps() -> None:
    assert sparkline([9, 0, None, 4, 8], 4) == "▁ ▅█"
    assert sparkline([0, 0], 9) == "▁▁"
    assert sparkline([1, 2], 0) == ""


@given(st.text(min_size=1, max_size=60), st.integers(6, 40))
def test_shortened_text_fits_and_keeps_both_ends(text: str, width: int) -> None:
    short = shorten(text, width)
    assert len(short) <= width
    assert short == text or (short[:2] == text[:2] and short[-2:] == text[-2:] and ".." in short)
