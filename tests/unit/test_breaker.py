"""The breaker's transitions: one outage is one failure however many batches see it, and one trial ends it."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.core.backoff import Backoff
from dispatcher.core.breaker import Breaker

BACKOFF = Backoff(0.1, 0.5)


@pytest.fixture
def breaker() -> Breaker:
    return Breaker(BACKOFF, Random(1))


def opened(breaker: Breaker, *, connection_only: bool = False) -> float:
    """Open it at time 0; returns when a trial is due."""
    assert breaker.failed(0.0, "OOM", connection_only=connection_only)
    return breaker.wait_s(0.0)


def test_closed_lets_everything_through(breaker: Breaker) -> None:
    assert breaker.wait_s(5.0) == 0.0
    assert not breaker.begin_trial(5.0)
    assert not breaker.succeeded()


def test_a_failure_opens_it_for_a_while(breaker: Breaker) -> None:
    due = opened(breaker)
    assert (breaker.state, breaker.reason) == ("open", "OOM")
    assert 0.05 <= due <= 0.1
    assert not breaker.begin_trial(due * 0.9)
    assert breaker.state == "open"


def test_a_failure_after_the_wait_starts_another_though_no_trial_was_taken(breaker: Breaker) -> None:
    due = opened(breaker, connection_only=True)  # a connection that is refused: no row was tried
    assert not breaker.failed(due, "refused", connection_only=True)
    assert breaker.wait_s(due) > 0


def test_other_batches_of_the_same_outage_do_not_lengthen_the_wait(breaker: Breaker) -> None:
    due = opened(breaker)
    for _ in range(10):
        assert not breaker.failed(due * 0.9, "NOREPLICAS", connection_only=True)
    assert breaker.wait_s(0.0) == due
    assert (breaker.failures, breaker.reason, breaker.connection_only) == (1, "OOM", False)


def test_when_the_wait_is_over_there_is_a_trial_until_its_answer(breaker: Breaker) -> None:
    due = opened(breaker)
    assert breaker.wait_s(due) == 0.0
    assert breaker.begin_trial(due)
    assert breaker.state == "half_open"
    assert breaker.begin_trial(due + 1)
    assert breaker.wait_s(due) == 0.0


def test_a_trial_that_succeeds_closes_it(breaker: Breaker) -> None:
    due = opened(breaker, connection_only=True)
    breaker.begin_trial(due)
    assert breaker.succeeded()
    assert (breaker.state, breaker.reason, breaker.failures, breaker.connection_only) == ("closed", None, 0, False)
    assert not breaker.succeeded()
    assert not breaker.begin_trial(due)


def test_a_trial_that_fails_opens_it_again_without_saying_so_twice(breaker: Breaker) -> None:
    due = opened(breaker)
    breaker.begin_trial(due)
    assert not breaker.failed(due, "READONLY", connection_only=False)
    assert (breaker.state, breaker.reason, breaker.failures) == ("open", "READONLY", 2)
    assert breaker.wait_s(due) > 0


def test_it_remembers_whether_a_connection_alone_is_proof(breaker: Breaker) -> None:
    due = opened(breaker, connection_only=True)
    assert breaker.connection_only
    breaker.begin_trial(due)
    breaker.failed(due, "OOM", connection_only=False)
    assert not breaker.connection_only


@given(st.integers(min_value=1, max_value=2000), st.integers(min_value=0, max_value=2**32))
def test_an_outage_of_any_length_is_tried_at_least_every_cap(trials: int, seed: int) -> None:
    breaker, now = Breaker(BACKOFF, Random(seed)), 0.0
    for _ in range(trials):
        breaker.failed(now, "the connection broke", connection_only=True)
        wait = breaker.wait_s(now)
        assert 0 < wait <= BACKOFF.cap_s + 1e-9
        now += wait + 1e-9
        assert breaker.begin_trial(now)
    assert breaker.failures == trials
