"""Batches stay within a budget of memory, pauses within the tick, and the way of being woken follows the rate."""

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.core.pacing import (
    CLAIM_BYTES,
    ArrivalRate,
    BatchSizer,
    FilteredScan,
    FreshLimit,
    PollBackoff,
    PrefetchLimit,
)
from dispatcher.infra.sqlfiles import load
from dispatcher.stages.claim import TRUNCATED_AT

BUDGET = CLAIM_BYTES
batches = st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 2**31)), max_size=50)


@given(st.integers(1, 10_000), batches, st.booleans())
def test_a_limit_is_at_least_one_and_at_most_the_batch(
    batch_size: int, seen: list[tuple[int, int]], full: bool
) -> None:
    pacer = BatchSizer(batch_size)
    for rows, size in seen:
        pacer.note(rows, size, full=full)
        assert 1 <= pacer.limit() <= batch_size


@given(st.integers(1, 10_000), st.integers(1, 5000), st.integers(0, 2**31))
def test_as_many_more_such_rows_stay_within_the_budget(batch_size: int, rows: int, size: int) -> None:
    pacer = BatchSizer(batch_size)
    for _ in range(8):
        pacer.note(rows, size, full=True)
    limit, mean = pacer.limit(), size / rows
    assert limit == 1 or limit * mean <= BUDGET * (1 + 1e-9)
    assert limit <= 256 or limit * mean <= BUDGET / 4 * (1 + 1e-9)


def grown(batch_size: int) -> BatchSizer:
    """After a backlog of small rows."""
    pacer = BatchSizer(batch_size)
    for _ in range(20):
        pacer.note(pacer.limit(), pacer.limit() * 16, full=True)
    return pacer


def test_it_grows_with_a_backlog_and_shrinks_with_it() -> None:
    pacer, limits = BatchSizer(1000), []
    for rows, full in [(64, True), (128, True), (256, True), (512, True), (1000, True), (300, False), (20, False)]:
        limits.append(pacer.limit())
        pacer.note(rows, rows * 16, full=full)
    assert limits == [64, 128, 256, 512, 1000, 1000, 600]
    assert pacer.limit() == 64
    assert BatchSizer(20).limit() == 20
    pacer.note(1, 16, full=True)  # the one row that tries out whether Redis is back
    assert pacer.limit() == 64


def test_large_payloads_shrink_it_at_once_and_small_ones_grow_it_slowly() -> None:
    pacer = grown(256)
    pacer.note(256, 256 * 1024 * 1024, full=True)
    assert pacer.limit() == 4
    pacer.note(16, 16)
    assert 4 <= pacer.limit() < 6
    for _ in range(40):
        pacer.note(pacer.limit(), 16, full=True)
    assert pacer.limit() == 256


def test_an_empty_claim_teaches_nothing_of_sizes() -> None:
    pacer = BatchSizer(256)
    pacer.note(1, BUDGET)
    pacer.note(0, 0)
    assert pacer.limit() == 1


def test_pauses_double_up_to_the_tick() -> None:
    doze = PollBackoff(0.1)
    assert [doze.pause_s() for _ in range(8)] == pytest.approx([0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.1, 0.1])


def test_after_a_reset_they_are_short_again() -> None:
    doze = PollBackoff(0.1)
    for _ in range(5):
        doze.pause_s()
    doze.reset()
    assert doze.pause_s() == 0.002


@given(st.floats(0.001, 60.0), st.lists(st.booleans(), max_size=60))
def test_a_pause_is_never_nothing_and_never_above_the_tick(tick_s: float, resets: list[bool]) -> None:
    doze = PollBackoff(tick_s)
    for reset in resets:
        if reset:
            doze.reset()
        assert 0 < doze.pause_s() <= tick_s


def steady(arrivals: ArrivalRate, per_second: float, seconds: float, start: float = 0.0) -> float:
    """One row at a time at that rate; returns when the last came."""
    now = start
    for number in range(1, round(per_second * seconds) + 1):
        now = start + number / per_second
        arrivals.note(1, now)
    return now


@pytest.mark.parametrize("rate", [50.0, 500.0, 5000.0])
def test_the_rate_is_what_comes(rate: float) -> None:
    arrivals = ArrivalRate()
    assert arrivals.rate(0.0) == 0.0
    assert arrivals.rate(steady(arrivals, rate, 2.0)) == pytest.approx(rate, rel=0.15)


@pytest.mark.parametrize(("rate", "polls"), [(20, False), (90, False), (200, True), (500, True), (5000, True)])
def test_few_ring_many_are_polled(rate: float, polls: bool) -> None:
    arrivals = ArrivalRate()
    steady(arrivals, rate, 1.0)
    assert arrivals.polling == polls


def test_a_rate_between_the_two_marks_does_not_flap() -> None:
    arrivals = ArrivalRate()
    now, said = 0.0, []
    for rate in (130, 300, 130, 130, 80, 130):
        now = steady(arrivals, rate, 1.0, now)
        said.append(arrivals.polling)
    assert said == [False, True, True, True, False, False]


@pytest.mark.parametrize(("rows", "still", "no_more"), [(20, 0.024, 0.026), (100_000, 0.004, 0.006)])
def test_quiet_ends_the_polling_sooner_after_many_rows_at_once(rows: int, still: float, no_more: float) -> None:
    arrivals = ArrivalRate()
    arrivals.note(rows, 0.0)
    said = []
    for now in (still, no_more):
        arrivals.note(0, now)
        assert arrivals.rate(now) > arrivals.poll_above
        said.append(arrivals.polling)
    assert said == [True, False]


@pytest.mark.parametrize(
    ("rate", "pause_ms"), [(200, 1.5), (2000, 1.5), (9000, 1.5), (10_000, 2), (12_000, 4), (100_000, 8)]
)
def test_polls_are_a_millisecond_and_a_half_apart_until_writers_fill_the_machine(rate: float, pause_ms: float) -> None:
    arrivals = ArrivalRate()
    now = steady(arrivals, rate, 1.0)
    assert arrivals.poll_s(now) * 1000 == pytest.approx(pause_ms, rel=0.2)
    assert arrivals.poll_s(now, 0.005) >= 0.005


def test_where_commits_wait_for_one_another_nobody_rings_for_a_while() -> None:
    arrivals = ArrivalRate()
    now = steady(arrivals, 5.0, 1.0)
    assert not arrivals.commits_may_queue(now)
    now = steady(arrivals, 30.0, 1.0, now)
    assert arrivals.commits_may_queue(now)
    arrivals.note_rings_wait(now)
    assert not arrivals.commits_may_queue(now)
    assert arrivals.poll_s(now) == 0.005
    later = steady(arrivals, 30.0, arrivals.no_ring_for_s - 0.1, now)
    arrivals.note(0, later + 0.09)  # quiet, which ends the polling at other times
    assert arrivals.polling
    steady(arrivals, 30.0, 0.2, later)
    assert not arrivals.polling


@given(st.lists(st.tuples(st.integers(0, 10_000), st.floats(0, 100)), max_size=60))
def test_a_rate_is_never_negative_and_fades_to_nothing(seen: list[tuple[int, float]]) -> None:
    arrivals, now = ArrivalRate(), 0.0
    for rows, later in seen:
        now += later
        arrivals.note(rows, now)
        assert arrivals.rate(now) >= 0
    assert arrivals.rate(now + 3600) < 1e-9
    assert arrivals.poll_s(now) <= 0.008


@given(st.integers(1, 100), st.integers(1, 1000), st.integers(0, 3000), st.lists(st.floats(0, 60), max_size=30))
def test_no_more_is_in_hand_than_has_a_slot_or_is_done_soon(
    parallel: int, most: int, in_flight: int, took: list[float]
) -> None:
    appetite = PrefetchLimit(parallel, most)
    for seconds in took:
        appetite.note(seconds)
    limit = appetite.limit(in_flight)
    assert 0 <= limit <= most
    assert limit == 0 or in_flight + limit <= parallel + most
    assert appetite.limit(in_flight, stuck=parallel) == 0


def test_slow_handlers_get_no_more_than_their_slots() -> None:
    appetite = PrefetchLimit(10, 256)
    assert appetite.limit(0) == 10  # nothing is known yet
    appetite.note(10.0)
    assert [appetite.limit(in_flight) for in_flight in (0, 9, 10)] == [10, 1, 0]


def test_quick_handlers_get_some_ahead_and_in_whole_batches() -> None:
    appetite = PrefetchLimit(10, 256)
    for _ in range(200):
        appetite.note(0.01)
    assert appetite.limit(0) == 110  # ten at once for a tenth of a second
    assert appetite.limit(109) == 0  # one would not be worth a claim
    appetite.note(5.0)  # a slow one is believed at once
    assert appetite.limit(0) == 10


def test_a_short_way_is_walked_from_the_start_each_time() -> None:
    detour = FilteredScan()
    detour.note_scan(100.0, 0.002, to_the_end=True)
    assert not detour.wants_highest_id
    assert detour.since(100.01) is None


def looks_back(detour: FilteredScan, now: float) -> list[float]:
    return list(detour.since(now) or ())


def test_a_long_way_is_not_walked_again_for_twenty_times_as_long() -> None:
    detour = FilteredScan()
    detour.note_scan(100.0, 0.5, to_the_end=True)
    assert detour.wants_highest_id
    assert detour.since(104.0) is None  # nobody knows yet what is newer than that
    detour.note_highest(104.0, 7)
    detour.note_scan(104.0, 0.5, to_the_end=True)
    assert looks_back(detour, 108.0) == [7, pytest.approx(5.0)]  # since then, and a second before
    assert detour.since(114.0) is None
    detour.note_highest(114.0, 9)
    detour.note_scan(114.0, 0.5, to_the_end=True)
    # What was inserted a second before it may be committed later.
    assert looks_back(detour, 114.1) == [7, pytest.approx(1.1)]
    detour.reset()
    assert detour.since(114.1) is None


def test_what_was_inserted_long_before_a_walk_is_not_passed_again() -> None:
    detour = FilteredScan()
    for at, highest in [(100.0, 1), (101.0, 2), (102.0, 3), (102.9, 4), (103.5, 5)]:
        detour.note_highest(at, highest)
        detour.note_scan(at, 0.01, to_the_end=True)
    assert looks_back(detour, 103.6) == [3, pytest.approx(1.1)]


def test_a_walk_that_ended_early_leaves_nothing_out() -> None:
    detour = FilteredScan()
    detour.note_highest(100.0, 7)
    detour.note_scan(100.0, 0.5, to_the_end=False)
    assert detour.since(100.1) is None
    assert detour.rest_s == 10.0  # but the next one goes on where it ended


def test_a_backlog_that_lasts_for_days_is_no_list_that_grows() -> None:
    detour = FilteredScan()
    for second in range(10_000):  # no scan comes to the end
        detour.note_highest(float(second), second)
        detour.note_scan(float(second), 0.5, to_the_end=False)
    assert len(detour._highest) < 10
    detour.note_highest(10_000.0, 10_000)
    detour.note_scan(10_000.0, 0.5, to_the_end=True)
    assert looks_back(detour, 10_000.1) == [9_999, pytest.approx(1.1)]


def claims(fresh_limit: FreshLimit, rows: int, fresh: float, scheduled: float, count: int) -> tuple[int, int, int]:
    """So many claims of so many rows, of backlogs of fresh and scheduled rows: what was taken, what stayed empty."""
    took_fresh = took_scheduled = unused = 0
    for _ in range(count):
        limit = fresh_limit.limit(rows)
        of_fresh = int(min(limit, fresh - took_fresh))
        of_scheduled = int(min(rows - of_fresh, scheduled - took_scheduled))
        fresh_limit.note(rows, limit, of_fresh, of_scheduled)
        took_fresh, took_scheduled, unused = (
            took_fresh + of_fresh,
            took_scheduled + of_scheduled,
            unused + rows - of_fresh - of_scheduled,
        )
    return took_fresh, took_scheduled, unused


@pytest.mark.parametrize("rows", [1, 2, 3, 10, 256, 1000])
def test_fresh_and_scheduled_rows_starve_each_other_in_no_backlog(rows: int) -> None:
    took_fresh, took_scheduled, unused = claims(FreshLimit(), rows, inf, inf, 400)
    assert unused == 0
    assert took_scheduled >= 0.2 * rows * 400
    assert took_fresh >= 0.6 * rows * 400


@pytest.mark.parametrize("rows", [1, 7, 256])
@pytest.mark.parametrize(("fresh", "scheduled"), [(inf, 0), (0, inf)])
def test_a_backlog_of_one_kind_has_nearly_all_rows(rows: int, fresh: float, scheduled: float) -> None:
    took_fresh, took_scheduled, _ = claims(FreshLimit(), rows, fresh, scheduled, 900)
    assert took_fresh + took_scheduled >= (0.96 if rows > 3 else 0.88) * rows * 900


def test_a_scheduled_row_that_fell_due_waits_for_few_claims() -> None:
    fresh_limit = FreshLimit()
    claims(fresh_limit, 256, inf, 0, 100)
    assert claims(fresh_limit, 256, inf, 1, 9)[1] == 1


def test_the_statements_have_the_budget_of_a_claim() -> None:
    assert f"{CLAIM_BYTES} / %(limit)s" in load("claim")
    assert f"{CLAIM_BYTES // 4} / %(limit)s" in load("claim")
    assert f"<= {CLAIM_BYTES}" in load("read_row")
    assert f"::varchar({TRUNCATED_AT})" in load("claim")
