"""The histogram's promises: a bounded relative error, and exact extremes."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.demo.histogram import RELATIVE_ERROR, Histogram, bucket_of, highest_in

VALUES = st.integers(min_value=0, max_value=2**60)
MANY = st.lists(VALUES, min_size=1, max_size=200)


@given(VALUES, VALUES)
def test_buckets_are_ordered_as_their_values(a: int, b: int) -> None:
    low, high = sorted((a, b))
    assert bucket_of(low) <= bucket_of(high)


@given(VALUES)
def test_a_bucket_ends_where_the_next_begins(value: int) -> None:
    end = highest_in(bucket_of(value))
    assert value <= end <= value * (1 + RELATIVE_ERROR)
    assert bucket_of(end) == bucket_of(value)
    assert bucket_of(end + 1) == bucket_of(value) + 1


@given(MANY, st.floats(min_value=0, max_value=1))
def test_a_quantile_is_never_below_the_true_one_and_at_most_one_part_in_128_above(values: list[int], q: float) -> None:
    true = sorted(values)[max(1, math.ceil(q * len(values))) - 1]
    found = Histogram(values).quantile(q)
    assert true <= found <= true * (1 + RELATIVE_ERROR)


@given(MANY)
def test_extremes_and_count_are_exact(values: list[int]) -> None:
    histogram = Histogram(values)
    assert (histogram.minimum, histogram.maximum, histogram.count) == (min(values), max(values), len(values))
    assert histogram.quantile(1.0) == max(values)


@given(MANY)
def test_its_json_has_all_counts_and_exact_figures(values: list[int]) -> None:
    saved = json.loads(json.dumps(Histogram(values).as_dict()))
    assert sum(saved["buckets"].values()) == saved["count"] == len(values)
    assert (saved["total"], saved["minimum"], saved["maximum"]) == (sum(values), min(values), max(values))


def test_nothing_recorded_reads_as_zero() -> None:
    assert Histogram().quantile(0.99) == 0


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="from 0"):
        Histogram([-1])
    with pytest.raises(ValueError, match="between 0 and 1"):
        Histogram([1]).quantile(1.5)
