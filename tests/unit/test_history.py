"""The ring of fifteen minutes, and what is judged of the last one."""

import json
from dataclasses import replace
from typing import Any

from dispatcher.core.latencies import Latencies
from dispatcher.core.process_state import PastTrouble, ProcessState, Sample, SentBy, Trouble, merged
from dispatcher.sidecar.history import FIELDS, POINTS, WINDOW, History, RecentWindow

EDGES = (0.001, 0.01, 2.0, 3.0)
NOTHING = Latencies(EDGES, (0, 0, 0, 0, 0), 0.0)


class Source:
    """A reading that a test changes, and a clock that it turns by two seconds a tick."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.reading = ProcessState(("a",), 1000.0, Latencies(EDGES, (0, 0, 0, 0, 0), 0.0))
        self.history = History(lambda: self.reading, clock=lambda: self.now, elapsed=lambda: self.now)

    def add_point(self, *, published: int = 0, bucket: int = 1, **changes: object) -> None:
        counts = list(self.reading.latency.counts)
        counts[bucket] += published
        self.reading = replace(
            self.reading,
            published=self.reading.published + published,
            latency=Latencies(EDGES, tuple(counts), 0.0),
            **changes,  # type: ignore[arg-type]
        )
        self.now += 2.0
        self.history.add_point()

    def points(self, after: int = 0) -> list[dict[str, Any]]:
        answer = json.loads(self.history.after(after))
        return [dict(zip(answer["fields"], point, strict=True)) for point in answer["points"]]


def lately(source: Source) -> RecentWindow:
    """As it is now; a function, since mypy holds an attribute for what it was."""
    return source.history.lately


def test_a_point_is_the_difference_of_two_readings():
    source = Source()
    source.add_point(published=10)
    source.add_point(published=40, failed=6, dead=2, sample=Sample(7, 1.25, 0.0, 100, {"a": 3, "b": 9}, at=1004.0))
    first, second = source.points()
    assert (first["at"], first["events"], first["backlog"], first["lag"]) == (1002.0, 5.0, None, None)
    assert (first["p50"], first["p99"]) == (0.0055, 0.00991)  # both within the bucket of 1 to 10 ms
    assert (second["events"], second["failed"], second["dead"]) == (20.0, 3.0, 2)
    assert (second["backlog"], second["oldest"], second["lag"]) == (7, 1.25, 9)


def test_what_other_dispatchers_send_is_of_two_notes_that_each_wrote():
    source = Source()

    def sampled(*sent: SentBy) -> float | None:
        source.add_point(sample=Sample(0, 0.0, 0.0, 100, {}, sent=sent, at=source.now + 2.0))
        return source.history.lately.others

    assert source.history.lately.others == 0.0
    assert sampled() == 0.0
    assert sampled(SentBy("a", 900, 0.1, 0.0)) == 0.0  # that is us
    assert sampled(SentBy("b", 100, 0.1, 1.0)) is None
    assert sampled(SentBy("b", 100, 0.1, 3.0)) is None  # the same note
    assert sampled(SentBy("b", 160, 0.1, 1.0), SentBy("a", 990, 0.1, 0.0)) == 15.0
    assert sampled(SentBy("b", 160, 2.1, 1.0), SentBy("c", 7, 0.1, 0.0)) == 10.0


def test_seconds_without_an_event_have_no_latency():
    source = Source()
    source.add_point(published=10)
    source.add_point()
    assert source.points()[-1]["p95"] is None
    assert source.history.lately.p95 is not None  # of the last minute


def test_the_ring_is_bounded_and_one_asks_for_what_is_new():
    source = Source()
    for _ in range(POINTS + 5):
        source.add_point(published=1)
    assert source.history.taken == POINTS + 5
    assert len(source.points()) == POINTS
    assert [point["at"] for point in source.points(POINTS + 3)] == [source.now - 2.0, source.now]
    assert source.points(POINTS + 5) == []
    assert len(source.points(10**9)) == POINTS  # numbered by a process of before
    assert json.loads(source.history.after(0))["next"] == POINTS + 5
    assert json.loads(source.history.after(0))["fields"] == list(FIELDS)


def test_the_promise_is_broken_since_the_minute_it_began_to_be():
    source = Source()
    source.add_point(published=100)
    assert lately(source).slow_since is None
    source.add_point(published=100, bucket=2)
    began = source.now
    source.add_point(published=100, bucket=2)
    assert lately(source).slow_since == began
    for _ in range(40):
        source.add_point(published=100)
    assert lately(source).slow_since is None


def test_a_rate_is_of_ten_seconds_and_a_share_of_errors_of_a_minute():
    source = Source()
    for _ in range(40):
        source.add_point(published=20, ticks=source.reading.ticks + 9, tick_errors=source.reading.tick_errors)
    source.add_point(published=0, ticks=source.reading.ticks + 9, tick_errors=27)
    assert source.history.lately.events == 8.0  # four of the five points
    assert source.history.lately.error_share == 0.1


def test_burials_are_counted_for_fifteen_minutes():
    source = Source()
    source.add_point(dead=3)
    first = source.now
    source.add_point()
    source.add_point(dead=5)
    assert (lately(source).buried, lately(source).buried_since) == (5, first)
    for _ in range(POINTS - 1):
        source.add_point()
    assert (lately(source).buried, lately(source).buried_since) == (2, first + 4)
    source.add_point()
    source.add_point()
    assert (lately(source).buried, lately(source).buried_since) == (0, None)


def test_a_process_that_began_anew_makes_no_rate_below_zero():
    source = Source()
    source.add_point(published=10)
    source.reading = replace(source.reading, published=0, failed=0)
    source.add_point(published=1)
    assert source.points()[-1]["events"] == 0


def test_the_ten_busiest_types_of_the_last_minute():
    source = Source()
    many = {f"type-{n}": Latencies(EDGES, (0, n, 0, 0, 0), 0.0) for n in range(1, 15)}
    source.add_point(types=many)
    busiest, more = lately(source).types, lately(source).more_types
    assert [(each.name, each.count) for each in busiest[:2]] == [("type-14", 14), ("type-13", 13)]
    assert more == 4
    assert (len(busiest), busiest[0].events_per_s, busiest[0].p50) == (10, 7.0, 0.0055)
    for _ in range(WINDOW + 1):
        source.add_point(types=many)
    assert lately(source).types == ()  # none in the last minute


def test_of_several_processes_the_types_are_added_up():
    a, b = (
        replace(Source().reading, types={"t": Latencies(EDGES, (0, n, 0, 0, 0), 0.0), str(n): NOTHING}) for n in (2, 3)
    )
    both = merged([a, replace(b, published_at=7.0)])
    assert (both.types["t"].total, sorted(both.types), both.published_at) == (5, ["2", "3", "t"], 7.0)


def test_turns_that_failed_and_events_that_waited_before_the_end_of_an_outage_are_over():
    source = Source()
    source.add_point(ticks=100)
    source.add_point(ticks=110, tick_errors=10, troubles=(Trouble("redis", "away", 1003.0),))
    past = PastTrouble("redis", 1003.0, 1005.0)
    source.add_point(ticks=130, tick_errors=20, troubles=(), past=past, sample=Sample(9, 3.0, 0.0, 0, {}, at=1005.5))
    assert lately(source).error_share == 0.0
    source.add_point(published=90, bucket=3, sample=Sample(0, 0.0, 0.0, 0, {}, at=1007.0))
    assert (lately(source).p95 or 0.0) > 1.5  # what waited has gone out, late
    assert lately(source).p95_now is None
    source.add_point(published=90, bucket=1)
    assert 0.0 < (lately(source).p95_now or 0.0) < 0.1
    source.add_point(published=90, bucket=3, ticks=140, tick_errors=25)
    assert (lately(source).p95_now or 0.0) > 1.5  # nothing explains it any more
    assert lately(source).error_share == 0.5


def test_how_fast_a_group_falls_behind():
    source = Source()
    for n in range(4):
        source.add_point(sample=Sample(0, 0.0, 0.0, 0, {"g": 100 + 10 * n, "new": 1}, at=1002.0 + 2 * n))
    assert lately(source).lag_rates == {"g": 5.0, "new": 0.0}


def test_whether_the_backlog_falls_is_of_the_last_quarter_of_a_minute():
    """What came in before that says nothing of now."""
    source = Source()
    for seconds, backlog in ((0, 0), (5, 200_000), (10, 190_000), (15, 180_000), (20, 170_000)):
        source.add_point(sample=Sample(backlog, 0.0, 0.0, 10, {}, at=1000.0 + seconds))
    assert lately(source).backlog_rate == -2_000.0
