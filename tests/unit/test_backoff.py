"""A wait is never negative, never above the cap, and no attempt is too many."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.core.backoff import Backoff

seconds = st.floats(min_value=0.001, max_value=3600.0)
backoffs = st.builds(lambda base, more: Backoff(base, base + more), seconds, seconds)
attempts = st.integers(min_value=-3, max_value=10**6)
seeds = st.integers(min_value=0, max_value=2**32)


@given(backoffs, attempts, seeds)
def test_a_delay_is_between_nothing_and_the_cap(backoff: Backoff, attempt: int, seed: int) -> None:
    assert 0.0 <= backoff.delay(attempt, Random(seed)) <= backoff.ceiling(attempt) <= backoff.cap_s


@given(backoffs, attempts, seeds)
def test_a_reconnect_is_never_a_busy_loop(backoff: Backoff, attempt: int, seed: int) -> None:
    ceiling = backoff.ceiling(attempt)
    assert 0.0 < ceiling / 2 <= backoff.reconnect_delay(attempt, Random(seed)) <= ceiling


@given(backoffs, attempts)
def test_the_ceiling_never_falls(backoff: Backoff, attempt: int) -> None:
    assert backoff.ceiling(attempt) <= backoff.ceiling(attempt + 1)


@pytest.mark.parametrize(("attempt", "ceiling"), [(0, 0.25), (1, 0.25), (2, 0.5), (3, 1.0), (8, 32.0), (9, 60.0)])
def test_it_doubles_from_the_base_up_to_the_cap(attempt: int, ceiling: float) -> None:
    assert Backoff(0.25, 60.0).ceiling(attempt) == ceiling


@pytest.mark.parametrize("attempt", [63, 1_025, 10**6, 2**31])
def test_no_attempt_overflows(attempt: int) -> None:
    assert Backoff(0.25, 60.0).ceiling(attempt) == 60.0
    assert Backoff(0.25, 60.0).delay(attempt, Random(1)) <= 60.0


def test_rows_that_failed_together_return_apart() -> None:
    rng = Random(7)
    delays = [Backoff(0.25, 60.0).delay(5, rng) for _ in range(100)]
    assert len(set(delays)) == 100
    assert min(delays) < 1.0 < 3.0 < max(delays)  # the whole of 0 to 4 seconds is used
