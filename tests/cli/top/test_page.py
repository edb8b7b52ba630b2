"""Pages that are refused, and percentiles out of buckets, beside the values themselves."""

from __future__ import annotations

import math
from bisect import bisect_left

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.histograms import Weighted
from server.metrics import SECONDS
from tidegate.cli.top.page import Histogram, read_page

BOUNDS = (*SECONDS, math.inf)


def histogram(values: list[float]) -> Histogram:
    counted = Weighted(SECONDS)
    for value in values:
        counted.observe(value)
    buckets, total = counted.cumulative()
    return Histogram.of_page({float(bound): count for bound, count, *_ in buckets}, total)


def test_an_even_spread_comes_out_exactly_within_and_across_buckets() -> None:
    even = Histogram((0.1, 0.2, 0.4, math.inf), (10, 10, 20, 0), 8.0)  # 0 to 0.4
    assert even.percentile(50) == pytest.approx(0.2)
    assert even.percentile(90) == pytest.approx(0.36)
    assert even.percentile(12.5) == pytest.approx(0.05)
    assert even.percentile(100) == pytest.approx(0.4)
    assert (even.mean, even.count) == (0.2, 40)


def test_the_percentiles_of_a_known_distribution_are_near_the_true_ones() -> None:
    drawn = np.random.default_rng(3).uniform(0, 0.01, 20_000)
    found = histogram(drawn.tolist())
    for percent in (10, 50, 90, 99):
        assert found.percentile(percent) == pytest.approx(percent / 100 * 0.01, rel=0.03)
    assert found.mean == pytest.approx(drawn.mean())


def test_what_lies_above_every_bound_has_no_size_and_nothing_has_no_percentile() -> None:
    slow = histogram([0.3, 7.0, 9.0])
    assert slow.percentile(99) == math.inf and slow.percentile(50) == math.inf
    assert slow.percentile(10) is not None and slow.limit == 2.5
    assert histogram([9.0]).percentile(0) == math.inf
    nothing = histogram([])
    assert (nothing.percentile(50), nothing.mean, nothing.bound(50)) == (None, None, None)


def test_few_different_values_are_known_by_their_bucket_s_bound() -> None:
    rows = Histogram((1.0, 2.0, 4.0, math.inf), (3, 0, 5, 2), 30.0)
    assert [rows.bound(percent) for percent in (10, 30, 31, 80, 81)] == [1, 1, 4, 4, math.inf]


VALUES = st.lists(st.floats(0, 5), min_size=1, max_size=60)


@given(VALUES, st.floats(0.1, 100))
def test_a_percentile_lies_in_the_bucket_of_the_value_of_that_rank(
    values: list[float], percent: float
) -> None:
    # The rank as it is computed there: in floats, count * percent / 100 may round up to the next.
    rank = max(1, math.ceil(len(values) * percent / 100))
    bucket = bisect_left(BOUNDS, sorted(values)[rank - 1])
    found = histogram(values).percentile(percent)
    assert found is not None
    assert (0.0, *BOUNDS)[bucket] <= found <= BOUNDS[bucket]


@given(VALUES, VALUES)
def test_the_difference_of_two_scrapes_is_what_came_between(
    before: list[float], between: list[float]
) -> None:
    after = histogram(before + between)
    difference = after - histogram(before)
    assert difference.counts == histogram(between).counts
    assert difference.total == pytest.approx(sum(between), abs=1e-9)
    assert (histogram(before) + difference).counts == after.counts


@pytest.mark.parametrize("buckets", [{}, {1.0: 2.0}, {1.0: 3.0, math.inf: 2.0}])
def test_buckets_that_are_no_histogram_are_refused(buckets: dict[float, float]) -> None:
    with pytest.raises(ValueError, match="histogram"):
        Histogram.of_page(buckets, 1.0)


@pytest.mark.parametrize(
    "text", ["", "<html></html>", "# TYPE go_threads gauge\ngo_threads 3\n", "tidegate_x{ 1\n"]
)
def test_other_pages_are_refused(text: str) -> None:
    with pytest.raises(ValueError):
        read_page(text, 0.0)
