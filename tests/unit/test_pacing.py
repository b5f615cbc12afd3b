"""Batches stay within a budget of memory; pauses grow to the tick and start short again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.core.pacing import BatchPacer, Doze

BUDGET = 16 * 1024 * 1024
batches = st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 2**31)), max_size=50)


@given(st.integers(1, 10_000), batches)
def test_a_limit_is_at_least_one_and_at_most_the_batch(batch_size: int, seen: list[tuple[int, int]]) -> None:
    pacer = BatchPacer(batch_size)
    for rows, size in seen:
        pacer.saw(rows, size)
        assert 1 <= pacer.limit() <= batch_size


@given(st.integers(1, 10_000), st.integers(1, 5000), st.integers(0, 2**31))
def test_as_many_more_such_rows_stay_within_the_budget(batch_size: int, rows: int, size: int) -> None:
    pacer = BatchPacer(batch_size)
    pacer.saw(rows, size)
    limit, mean = pacer.limit(), size / rows
    assert limit == 1 or limit * mean <= BUDGET * (1 + 1e-9)
    assert limit == batch_size or (limit + 1) * mean > BUDGET  # and no smaller than need be


def test_large_payloads_shrink_it_at_once_and_small_ones_grow_it_slowly() -> None:
    pacer = BatchPacer(256)
    pacer.saw(256, 256 * 1024 * 1024)
    assert pacer.limit() == 16
    pacer.saw(16, 16)
    assert 16 <= pacer.limit() < 20
    for _ in range(40):
        pacer.saw(16, 16)
    assert pacer.limit() == 256


def test_an_empty_claim_teaches_nothing() -> None:
    pacer = BatchPacer(256)
    pacer.saw(1, BUDGET)
    pacer.saw(0, 0)
    assert pacer.limit() == 1


def test_pauses_double_up_to_the_tick() -> None:
    doze = Doze(0.1)
    assert [doze.pause_s() for _ in range(8)] == pytest.approx([0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.1, 0.1])


def test_after_a_reset_they_are_short_again() -> None:
    doze = Doze(0.1)
    for _ in range(5):
        doze.pause_s()
    doze.reset()
    assert doze.pause_s() == 0.002


@given(st.floats(0.001, 60.0), st.lists(st.booleans(), max_size=60))
def test_a_pause_is_never_nothing_and_never_above_the_tick(tick_s: float, resets: list[bool]) -> None:
    doze = Doze(tick_s)
    for reset in resets:
        if reset:
            doze.reset()
        assert 0 < doze.pause_s() <= tick_s
