"""Batches stay within a budget of memory, pauses within the tick, and the way of being woken follows the rate."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.core.pacing import Arrivals, BatchPacer, Doze

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


def steady(arrivals: Arrivals, per_second: float, seconds: float, start: float = 0.0) -> float:
    """One row at a time at that rate; returns when the last came."""
    now = start
    for number in range(1, round(per_second * seconds) + 1):
        now = start + number / per_second
        arrivals.saw(1, now)
    return now


@pytest.mark.parametrize("rate", [50.0, 500.0, 5000.0])
def test_the_rate_is_what_comes(rate: float) -> None:
    arrivals = Arrivals()
    assert arrivals.rate(0.0) == 0.0
    assert arrivals.rate(steady(arrivals, rate, 2.0)) == pytest.approx(rate, rel=0.15)


@pytest.mark.parametrize(("rate", "keeps", "polls"), [(20, True, False), (500, False, False), (5000, False, True)])
def test_few_ring_more_let_the_key_go_many_are_polled(rate: float, keeps: bool, polls: bool) -> None:
    arrivals = Arrivals()
    now = steady(arrivals, rate, 1.0)
    assert (arrivals.keep_key(now), arrivals.polling) == (keeps, polls)


def test_a_rate_between_the_two_marks_does_not_flap() -> None:
    arrivals = Arrivals()
    now, said = 0.0, []
    for rate in (1250, 3000, 1250, 1250, 800, 1250):
        now = steady(arrivals, rate, 1.0, now)
        said.append(arrivals.polling)
    assert said == [False, True, True, True, False, False]


def test_quiet_ends_the_polling_whatever_the_rate_was() -> None:
    arrivals = Arrivals()
    arrivals.saw(100_000, 0.0)
    said = []
    for now in (0.02, 0.03):
        arrivals.saw(0, now)
        assert arrivals.rate(now) > arrivals.poll_above
        said.append(arrivals.polling)
    assert said == [True, False]


@given(st.lists(st.tuples(st.integers(0, 10_000), st.floats(0, 100)), max_size=60))
def test_a_rate_is_never_negative_and_fades_to_nothing(seen: list[tuple[int, float]]) -> None:
    arrivals, now = Arrivals(), 0.0
    for rows, later in seen:
        now += later
        arrivals.saw(rows, now)
        assert arrivals.rate(now) >= 0
    assert arrivals.rate(now + 3600) < 1e-9
    assert arrivals.keep_key(now + 3600)
