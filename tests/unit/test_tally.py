"""The tally finds what was lost and what came twice, in whatever order the two processes report."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.demo.tally import Tally
from dispatcher.demo.verdict import judge, late

A, B, C = b"a", b"b", b"c"


def test_a_latency_is_from_commit_to_receipt() -> None:
    tally = Tally()
    tally.add_committed([(1_000_000, A)])
    tally.add_received([(3_000_000, [A])])
    assert tally.quantile_ms(0.5) == 2.0
    assert (tally.matched, tally.lost, tally.duplicated, tally.early) == (1, 0, 0, 0)


def test_an_entry_that_arrives_before_its_commit_returned_counts_as_zero_and_as_early() -> None:
    tally = Tally()
    tally.add_received([(900, [A])])
    tally.add_committed([(1_000, A)])
    assert (tally.latency.maximum, tally.early, tally.matched) == (0, 1, 1)


def test_the_warm_up_is_counted_but_not_timed() -> None:
    tally = Tally(measure_from_ns=500)
    tally.add_committed([(400, A), (600, B)])
    tally.add_received([(700, [A, B])])
    assert (tally.matched, tally.latency.count) == (2, 1)


@pytest.mark.parametrize("commit_first", [True, False])
def test_a_second_copy_is_a_duplicate_before_and_after_its_commit_is_known(commit_first: bool) -> None:
    tally = Tally()
    if commit_first:
        tally.add_committed([(1, A)])
    tally.add_received([(2, [A, A])])
    if not commit_first:
        tally.add_committed([(1, A)])
    assert (tally.matched, tally.duplicated, tally.lost) == (1, 1, 0)


def test_an_entry_nobody_committed_is_foreign() -> None:
    tally = Tally()
    tally.add_received([(2, [C])])
    assert (tally.foreign, tally.matched, tally.duplicated) == (1, 0, 0)


@given(st.lists(st.integers(min_value=0, max_value=3), max_size=60), st.randoms(use_true_random=False))
def test_any_order_of_reports_gives_the_same_counts(copies: list[int], rng: Random) -> None:
    reports: list[tuple[str, bytes]] = []
    for number, count in enumerate(copies):
        event = str(number).encode()
        reports += [("commit", event)] + [("receipt", event)] * count
    rng.shuffle(reports)
    tally = Tally()
    for kind, event in reports:
        if kind == "commit":
            tally.add_committed([(1, event)])
        else:
            tally.add_received([(2, [event])])
    assert tally.committed == len(copies)
    assert tally.lost == copies.count(0)
    assert tally.matched == len(copies) - copies.count(0)
    assert tally.duplicated == sum(max(0, count - 1) for count in copies)
    assert tally.foreign == 0


def perfect() -> Tally:
    tally = Tally()
    tally.add_committed([(0, A), (0, B)])
    tally.add_received([(1_000_000, [A, B])])
    return tally


def test_the_promise_is_met_when_all_arrived_once_and_in_time() -> None:
    assert judge(perfect(), 2, 0, late(perfect().latency)).passed


def slow() -> Tally:
    tally = Tally()
    tally.add_committed([(0, A)])
    tally.add_received([(1_500_000_000, [A])])
    return tally


def lossy() -> Tally:
    tally = perfect()
    tally.add_committed([(0, C)])
    return tally


def doubled() -> Tally:
    tally = perfect()
    tally.add_received([(2_000_000, [A])])
    return tally


@pytest.mark.parametrize(
    ("tally", "sent", "exit_code", "reason"),
    [
        (Tally(), 0, 0, "nothing was committed"),
        (slow(), 1, 0, "p95 is 1,500 ms"),
        (lossy(), 3, 0, "1 committed event never reached"),
        (doubled(), 2, 0, "1 entry reached the consumer a second time"),
        (perfect(), 1, 0, "marked sent: 1 row; committed: 2"),
        (perfect(), 2, 137, "exit code 137"),
    ],
)
def test_each_broken_promise_is_named(tally: Tally, sent: int, exit_code: int, reason: str) -> None:
    verdict = judge(tally, sent, exit_code, late(tally.latency))
    assert not verdict.passed
    assert reason in " ".join(verdict.reasons)
