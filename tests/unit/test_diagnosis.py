"""What a person sees first: is it fine, and if not what, since when and what to do."""

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest

from dispatcher.core.findings.needs import Need, level_of
from dispatcher.core.findings.troubles import QUEUE_HOLDER
from dispatcher.core.latencies import Latencies
from dispatcher.core.process_state import (
    ENDED,
    DeadGroups,
    EndedDispatcher,
    HeldCount,
    HeldHead,
    PastTrouble,
    ProcessState,
    RetryCount,
    RunningDispatcher,
    Sample,
    SnapshotHolder,
    Trouble,
    TroubleKind,
    merged,
)
from dispatcher.sidecar.diagnosis import diagnose
from dispatcher.sidecar.history import RecentWindow

NOW = 10_000.0
ROOT = Path(__file__).parents[2]
CALM = ProcessState(("a",), 0.0, Latencies((1.0,), (0, 0), 0.0), sample=Sample(0, 0.0, 0.0, 10, {}, at=NOW - 5))


def dead(n: int, *, at: float = NOW, newest: float | None = None) -> Sample:
    return Sample(0, 0.0, 0.0, 10, {}, dead=n, newest_dead_at=newest, at=at)


def found(reading: ProcessState, lately: RecentWindow | None = None) -> list[tuple[str, str, float | None]]:
    return [(each.level, each.kind, each.since) for each in diagnose(reading, lately or RecentWindow(), NOW)]


def test_nothing_to_say_is_fine():
    assert found(CALM) == []
    assert level_of([]) == "fine"


@pytest.mark.parametrize("kind", get_args(TroubleKind))
def test_every_trouble_says_since_when_and_what_to_do(kind):
    [said] = diagnose(replace(CALM, troubles=(Trouble(kind, "the reason", 9_000.0),)), RecentWindow(), NOW)
    assert (said.kind, said.since) == (kind, 9_000.0)
    assert said.do
    assert "{" not in said.what + said.do
    [unknown] = diagnose(replace(CALM, troubles=(Trouble(kind, None, 9_000.0),)), RecentWindow(), NOW)
    assert "{" not in unknown.what
    assert "None" not in unknown.what


def test_the_worst_comes_first_then_the_oldest():
    troubles = (Trouble("audit", "x", 1.0), Trouble("listener", "x", 2.0), Trouble("redis", "OOM", 4.0))
    reading = replace(CALM, troubles=(*troubles, Trouble("database", "x", 3.0)))
    assert [kind for _, kind, _ in found(reading)] == ["database", "redis", "audit"]
    assert level_of(diagnose(reading, RecentWindow(), NOW)) == "bad"


def test_what_stands_in_the_way_comes_before_what_came_of_it():
    reading = replace(CALM, troubles=(Trouble("backpressure", "billing", NOW - 5),))
    lately = RecentWindow(buried=1, buried_since=NOW - 60)
    assert [kind for _, kind, _ in found(reading, lately)] == ["backpressure", "buried"]


def test_of_several_processes_it_says_how_many():
    reading = replace(CALM, processes=4, troubles=(Trouble("redis", "OOM", 1.0, of=2),))
    assert (
        diagnose(reading, RecentWindow(), NOW)[0].what
        == "Redis is out of memory and takes no entries (2 of 4 processes)"
    )


def test_dead_events_are_bad_for_fifteen_minutes_then_a_warning_until_each_is_decided():
    left = replace(CALM, buried_at=NOW - 50, buried_error="redis: ERR", sample=dead(1200))
    fresh = RecentWindow(buried=1200, buried_since=NOW - 60)
    assert found(left, fresh) == [("bad", "buried", NOW - 60)]
    [said] = diagnose(left, fresh, NOW)
    assert said.what == "1,200 events are dead and wait for a decision; the latest error: redis: ERR"
    assert (said.link, said.page) == ("dead", "dead-letters")
    assert found(left) == [("warn", "dead", None)]
    assert level_of(diagnose(left, RecentWindow(), NOW)) == "warn"
    assert found(replace(left, sample=Sample(0, 0.0, 0.0, 10, {}, at=NOW - 60))) == []
    retried = replace(left, sample=dead(0, at=NOW - 10))
    assert found(retried, fresh) == [("note", "buried", NOW - 60)]
    assert found(replace(retried, sample=dead(0, at=NOW - 55)), fresh)[0][0] == "bad"  # it looked before


def test_the_number_of_deaths_is_explained_where_it_is_not_that_of_the_dead():
    left = replace(CALM, buried_at=NOW - 50, buried_error="redis: ERR", sample=dead(591))
    [said] = diagnose(left, RecentWindow(buried=641, buried_since=NOW - 60), NOW)
    assert said.what.startswith("591 events are dead")
    assert "there were 641 deaths: an event that is retried and dies again counts twice" in said.what
    again = replace(left, buried_at=NOW, sample=dead(31, at=NOW - 3))  # the same 31 died four times
    [said] = diagnose(again, RecentWindow(buried=124, buried_since=NOW - 60), NOW)
    assert said.what.startswith("31 events are dead")
    [said] = diagnose(
        replace(again, sample=dead(0, at=NOW + 0.5)), RecentWindow(buried=124, buried_since=NOW - 60), NOW + 1
    )
    assert (said.kind, said.what.partition(";")[0]) == ("buried", "Events died in the last 15 minutes (124 deaths)")
    [said] = diagnose(replace(again, sample=dead(0, at=NOW - 3)), RecentWindow(buried=31, buried_since=NOW), NOW)
    assert (said.level, said.what) == (
        "bad",
        "Events died a moment ago and are being counted; the latest error: redis: ERR",
    )
    [said] = diagnose(replace(CALM, sample=dead(10_001)), RecentWindow(), NOW)
    assert said.what.startswith("more than 10,000 events are dead")


def test_the_largest_group_of_dead_events_is_named_not_the_latest_error():
    groups = DeadGroups(NOW - 5000, 3, 300, "KeyError: 'template'")
    sample = replace(dead(500, newest=NOW - 100), newest_dead_error="redis: ERR", dead_groups=groups)
    [said] = diagnose(replace(CALM, sample=sample), RecentWindow(), NOW)
    wanted = "500 events are dead and wait for a decision, of 3 errors; most (300) of: KeyError: 'template'"
    assert said.what == wanted


def test_events_that_died_by_another_dispatcher_or_before_a_restart_have_a_number_and_an_error():
    sample = replace(dead(3, newest=NOW - 100), newest_dead_error="KeyError: 'x'")
    assert found(replace(CALM, sample=sample)) == [("bad", "buried", NOW - 100)]
    said = diagnose(replace(CALM, sample=sample), RecentWindow(), NOW)[0].what
    assert said == "3 events are dead and wait for a decision; the latest error: KeyError: 'x'"
    assert found(replace(CALM, sample=dead(3, newest=NOW - 1000))) == [("warn", "dead", NOW - 1000)]


def test_lateness_is_judged_by_the_present_and_is_said_with_enough_digits():
    slow = RecentWindow(p95=2.0, p95_now=1.504, count=100, slow_since=9_000.0)
    assert found(CALM, slow) == [("bad", "slow", 9_000.0)]
    assert "p95 is 1.51 s now, the promise is 1.5 s" in diagnose(CALM, slow, NOW)[0].what
    over = replace(slow, p95=54.9, p95_now=0.093, p95_now_s=10.0)
    assert found(CALM, over) == [("note", "slow", None)]
    was = "late from 02:30:00 UTC on, and are not any more, for 10 s: p95 of the last minute is 54.9 s"
    assert was in diagnose(CALM, over, NOW)[0].what
    assert found(CALM, replace(over, count=3)) == []
    just_started = replace(CALM, started_at=NOW - 10)
    assert found(just_started, slow) == []


def test_who_must_act_first_comes_first():
    """The worst; of equals the cause before the symptom, then what works at a cost, then what is over."""
    late = Sample(
        9,
        61.0,
        0.0,
        10,
        {"search": 7},
        dead=5,
        newest_dead_at=NOW - 9_000,
        group_read_age_s={"search": 7200.0},
        at=NOW - 1,
    )
    reading = replace(CALM, sample=late, troubles=(Trouble("listener", "x", 1.0), Trouble("audit", "x", 1.0)))
    over = RecentWindow(p95=54.9, p95_now=0.093, count=100, slow_since=9_000.0)
    kinds = [kind for _, kind, _ in found(reading, over)]
    assert kinds == ["late", "dead", "unread", "listener", "slow", "audit"]
    paused = replace(reading, troubles=(Trouble("paused", "by ada", NOW - 5),))
    assert [kind for _, kind, _ in found(paused, over)] == ["paused", "dead", "unread"]


def test_a_group_that_nobody_reads_is_named_long_before_it_holds_publishing_back():
    sample = Sample(0, 0.0, 0.0, 10, {"web-1": 1200, "new": 3, "idle": 0, "busy": 5}, at=NOW - 1)
    ages = {"web-1": 3600.0, "new": float("inf"), "idle": 9999.0, "busy": 1.0}
    reading = replace(CALM, sample=replace(sample, group_read_age_s=ages))
    assert found(reading) == [("warn", "unread", NOW - 3601), ("note", "unread", None)]
    [first, never] = diagnose(reading, RecentWindow(), NOW)
    assert "the consumer group web-1: 1,200 entries unread" in first.what
    assert "Nobody has ever read the consumer group new" in never.what


@pytest.mark.parametrize(("age", "level"), [(1.0, None), (6.0, "warn"), (61.0, "bad")])
def test_events_that_wait_without_a_reason(age, level):
    reading = replace(CALM, sample=Sample(9, age, 0.0, 10, {}, at=NOW - 1))
    assert found(reading) == ([(level, "late", NOW - 1 - age)] if level else [])


@pytest.mark.parametrize("kind", ["database", "redis", "backpressure", "disabled", "paused", "starting"])
def test_a_known_reason_explains_why_events_wait(kind):
    reading = replace(CALM, sample=Sample(9, 500.0, 0.0, 10, {}, at=NOW - 1), troubles=(Trouble(kind, None, 1.0),))
    slow = RecentWindow(p95=60.0, p95_now=60.0, count=100, slow_since=9_000.0)
    assert [each for _, each, _ in found(reading, slow)] == [kind]
    assert "is 60 s or more now" in diagnose(CALM, slow, NOW)[0].what


def test_figures_of_long_ago_are_said_to_be_so_unless_postgres_is_known_to_be_away():
    stale = replace(CALM, sample=Sample(9, 500.0, 0.0, 10, {}, at=NOW - 100))
    assert found(stale) == [("warn", "stale", NOW - 100)]
    away = replace(stale, troubles=(Trouble("database", None, 1.0),))
    assert [kind for _, kind, _ in found(away)] == ["database"]


def test_turns_that_fail_without_a_known_outage():
    lately = RecentWindow(error_share=0.05)
    assert found(CALM, lately) == [("warn", "errors", None)]
    away: Any = replace(CALM, troubles=(Trouble("redis", None, 1.0),))
    assert [kind for _, kind, _ in found(away, lately)] == ["redis"]


def test_a_dispatcher_that_is_alive_is_no_finding():
    alive = (RunningDispatcher("a", None, None, None, 0.0),)
    assert found(replace(CALM, sample=Sample(0, 0.0, 0.0, 10, {}, dispatchers=alive, at=NOW - 5))) == []


def test_held_aggregates_are_worse_the_longer_and_need_a_person_when_a_dead_event_holds_one():
    def said(held: HeldCount) -> list[tuple[str, str, float | None]]:
        return found(replace(CALM, sample=Sample(9, 0.0, 0.0, 10, {}, held=held, at=NOW - 5)))

    assert said(HeldCount()) == []
    assert said(HeldCount(3, 0, 30.0, "ERR")) == [("note", "held", NOW - 35)]
    assert said(HeldCount(3, 0, 61.0, "ERR")) == [("warn", "held", NOW - 66)]
    assert said(HeldCount(3, 0, 601.0)) == [("bad", "held", NOW - 606)]
    [dead] = diagnose(
        replace(CALM, sample=Sample(9, 0.0, 0.0, 10, {}, held=HeldCount(1, 1, 1.0, "ERR x"), at=NOW)),
        RecentWindow(),
        NOW,
    )
    assert (dead.level, dead.link, dead.page) == ("bad", "held", "held-aggregates")
    assert dead.what == (
        "1 aggregate is held: later events wait for one that fails; 1 by a dead event, until somebody decides; "
        "the error: ERR x"
    )


def test_who_must_act_on_a_held_aggregate_comes_after_what_stops_all_and_before_what_only_costs():
    sample = Sample(9, 0.0, 0.0, 10, {}, held=HeldCount(1, 1, 1.0), at=NOW)
    troubles = (Trouble("listener", "x", 1.0), Trouble("redis", "OOM", 2.0))
    reading = replace(CALM, troubles=troubles, sample=sample)
    assert [kind for _, kind, _ in found(reading)] == ["redis", "held", "listener"]


def test_a_pause_comes_first_then_the_worst_whatever_its_kind():
    sample = replace(dead(1, newest=NOW - 10), group_lag={"g": 5}, group_read_age_s={"g": 1000.0})
    reading = replace(CALM, sample=sample, troubles=(Trouble("listener", "x", 1.0), Trouble("paused", "by ada", 2.0)))
    assert [(level, kind) for level, kind, _ in found(reading)] == [
        ("bad", "paused"),
        ("bad", "buried"),
        ("warn", "unread"),
        ("warn", "listener"),
    ]


def test_an_event_that_is_tried_again_is_one_finding_and_makes_nothing_overdue():
    failing = RetryCount(1, 7, "mail.order_confirmed", "KeyError: 'template'", NOW + 60, 0.0)
    reading = replace(CALM, sample=Sample(1, 900.0, 0.0, 10, {}, retrying=failing, at=NOW - 5))
    [said] = diagnose(reading, RecentWindow(), NOW, max_attempts=10)
    assert (said.level, said.kind, said.link, said.page) == ("warn", "retrying", "retry", "high-retries")
    assert said.what == (
        "1 event fails and is tried again: mail.order_confirmed, KeyError: 'template', 7 attempts failed, 3 left, "
        "next 02:47:40 UTC. Nothing else waits for it"
    )
    late = replace(reading, sample=Sample(9, 900.0, 0.0, 10, {}, retrying=replace(failing, overdue_s=61.0), at=NOW - 5))
    assert [kind for _, kind, _ in found(late)] == ["late", "retrying"]


def test_a_dead_event_that_holds_its_aggregate_is_one_finding():
    head = HeldHead(1, "order.paid", "order", "42", "dead", 5, "KeyError: 'template'")
    sample = replace(dead(1, newest=NOW - 9), held=HeldCount(1, 1, 9.0, "x", head), retrying=RetryCount(overdue_s=0.0))
    [said] = diagnose(replace(CALM, sample=replace(sample, backlog=5, oldest_age_s=500.0)), RecentWindow(), NOW)
    assert said.what == (
        "Event 1 (order.paid) is dead and holds order 42: 5 later events wait for it, other aggregates do not. "
        "KeyError: 'template'"
    )
    assert "`dispatcher held retry 1`" in said.do
    more = replace(sample, dead=2)
    assert [kind for _, kind, _ in found(replace(CALM, sample=more))] == ["held", "buried"]


def test_a_disabled_dispatcher_is_bad_when_no_other_one_takes_what_waits():
    off = (Trouble("disabled", None, 1.0),)
    sample = Sample(441, 30.0, 0.0, 10, {}, at=NOW - 1)
    waits = replace(CALM, troubles=off, sample=sample)
    [said] = diagnose(waits, RecentWindow(), NOW)
    assert (said.level, said.what) == ("bad", "a is disabled, and no other dispatcher runs: 441 events wait")
    other = (RunningDispatcher("a", None, None, None, 0.0),)
    [late, said] = diagnose(replace(waits, sample=replace(sample, dispatchers=other)), RecentWindow(), NOW)
    assert (late.kind, late.needs_somebody, said.needs_somebody) == ("late", "by morning", "no")
    assert (said.level, said.what) == ("note", "a is disabled and takes no event; others do")


def test_what_an_outage_left_behind_is_over():
    past = PastTrouble("redis", NOW - 137, NOW - 20)
    reading = replace(CALM, past=past)
    [said] = diagnose(reading, RecentWindow(), NOW)
    assert (said.level, said.kind) == ("note", "over")
    assert said.what == "Redis took no entries from 02:44:23 UTC to 02:46:20 UTC; events waited until then"
    behind = replace(reading, published_at=NOW - 1, sample=Sample(413, 27.0, 0.0, 10, {}, at=NOW - 1))
    found = diagnose(behind, RecentWindow(p95=60.0, p95_now=60.0, count=99, slow_since=NOW - 30), NOW)
    assert [(each.level, each.kind) for each in found] == [("warn", "catching-up"), ("note", "over")]
    assert found[0].what == "Catching up: 413 events wait, the oldest 27 s"
    stands = replace(behind, published_at=NOW - 60)
    assert next(each.kind for each in diagnose(stands, RecentWindow(), NOW)) == "late"
    assert diagnose(replace(CALM, past=replace(past, until=NOW - 400)), RecentWindow(), NOW) == []


def test_a_group_that_nobody_reads_says_when_it_stops_publishing_for_all():
    sample = Sample(0, 0.0, 0.0, 10, {"g": 800}, group_read_age_s={"g": 1000.2}, at=NOW - 1)
    reading = replace(CALM, sample=sample)
    [said] = diagnose(reading, RecentWindow(lag_rates={"g": 0.1}), NOW, maxlen=1000)
    assert (said.level, said.since) == ("bad", 8999.0)
    assert said.what.endswith("800 entries unread; stops publishing for all in about 17 min")
    [said] = diagnose(reading, RecentWindow(lag_rates={"g": 0.01}), NOW, maxlen=1000)
    assert (said.level, "in about 3 h" in said.what) == ("warn", True)
    [said] = diagnose(reading, RecentWindow(lag_rates={"g": 0.0}), NOW, maxlen=1000)
    assert (said.level, "stops publishing for all in" in said.what) == ("warn", False)


def test_handlers_that_do_not_end_explain_why_their_events_wait():
    stuck = Trouble("handlers", "all 4 places are taken", NOW - 90)
    reading = replace(CALM, sample=Sample(20, 61.0, 0.0, 10, {}, at=NOW - 1), troubles=(stuck,))
    assert found(reading) == [("bad", "handlers", NOW - 90)]
    [said] = diagnose(reading, RecentWindow(), NOW)
    assert (said.needs_somebody, said.page) == ("now", "handlers-stuck")
    sample = Sample(20, 0.0, 0.0, 10, {}, retrying=RetryCount(2, 2, "invoice.pdf", "TimeoutError", NOW - 1), at=NOW - 1)
    both = diagnose(replace(reading, sample=sample), RecentWindow(), NOW)
    assert [(each.kind, each.needs_somebody) for each in both] == [("handlers", "now"), ("retrying", "now")]


@pytest.mark.parametrize(("usage", "level", "when"), [(0.3, "warn", "by morning"), (0.6, "bad", "now")])
def test_a_notification_queue_that_fills_names_the_remedy_and_is_worse_when_writers_ring_no_more(usage, level, when):
    sample = replace(CALM.sample or Sample(0, 0.0, 0.0, 10, {}, at=NOW), notification_queue_usage=usage)
    reading = replace(CALM, sample=sample, troubles=(Trouble("notify-queue", f"{usage:.0%} full", NOW - 90),))
    [said] = diagnose(reading, RecentWindow(), NOW)
    assert (said.level, said.kind, said.since, said.needs_somebody) == (level, "notify-queue", NOW - 90, when)
    assert f"is {usage:.0%} full" in said.what
    assert "pg_terminate_backend" in said.do
    page = (ROOT / "docs" / "runbook" / "notification-queue-filling.md").read_text(encoding="utf-8")
    assert QUEUE_HOLDER in " ".join(page.split())
    assert f'psql OWNER_URL -c "{QUEUE_HOLDER}"' in said.do
    assert "pg_read_all_stats" in said.do


def test_a_doorbell_that_does_not_ring_says_since_when_it_was_seen():
    sample = replace(CALM.sample or Sample(0, 0.0, 0.0, 10, {}, at=NOW), doorbell="dropped")
    reading = replace(CALM, sample=sample, troubles=(Trouble("doorbell", "dropped", NOW - 90),))
    assert found(reading) == [("warn", "doorbell", NOW - 90)]
    [said] = diagnose(reading, RecentWindow(), NOW, tick_s=5.0)
    assert (said.level, said.needs_somebody, said.page) == ("bad", "now", "doorbell-trigger")
    [said] = diagnose(reading, RecentWindow(), NOW, tick_s=0.1)
    assert (said.level, said.needs_somebody) == ("warn", "by morning")


def test_what_keeps_writers_from_ringing_is_why_events_are_late_and_as_bad():
    """Else the first line would tell a person to start another dispatcher, which helps nothing."""
    sample = replace(CALM.sample or Sample(0, 0.0, 0.0, 10, {}, at=NOW), doorbell="dropped")
    reading = replace(CALM, sample=sample, troubles=(Trouble("doorbell", "dropped", NOW - 90),))
    slow = RecentWindow(p95=4.7, p95_now=4.69, count=100, slow_since=NOW - 80)
    [said] = diagnose(reading, slow, NOW, tick_s=5.0)
    assert (said.level, said.kind, said.since, said.needs_somebody) == ("bad", "doorbell", NOW - 90, "now")
    assert "events go out late by up to 5 s" in said.what
    assert said.what.endswith("Events are late: p95 is 4.69 s now, the promise is 1.5 s")
    assert "`dispatcher migrate --database-url OWNER_URL`" in said.do
    absent = replace(reading, sample=replace(sample, doorbell="absent"))
    assert [each.kind for each in diagnose(absent, slow, NOW)] == ["slow", "doorbell"]


def test_a_backlog_says_whether_it_falls():
    """A person at the console must not have to watch a chart to learn whether to wait."""
    reading = replace(CALM, sample=Sample(165_143, 22.0, 0.0, 10, {}, at=NOW - 1))
    slow = RecentWindow(p95=29.0, p95_now=29.0, count=100, slow_since=NOW - 20)
    [said] = diagnose(reading, replace(slow, backlog_rate=-1_900.0), NOW)
    assert (said.kind, said.needs_somebody) == ("catching-up", "no")
    assert said.what.endswith("165,143 events wait, the oldest 22 s; 1,900 fewer each second, gone in about 87 s")
    for rate, word in ((300.0, "grows by 300 events a second"), (0.0, "does not fall"), (-1.0, "does not fall")):
        late = next(each for each in diagnose(reading, replace(slow, backlog_rate=rate), NOW) if each.kind == "late")
        assert word in late.do


REPORT = SnapshotHolder("session", "13168", "ada", "monthly-report", "idle in transaction", NOW - 30, 24_828)


@pytest.mark.parametrize("rate", [None, -923.0, 40.0])
def test_who_holds_an_old_snapshot_is_the_cause_of_late_events_and_does_not_pass_by_itself(rate):
    sample = Sample(90_000, 25.0, 0.0, 10, {}, snapshot=REPORT, at=NOW - 1)
    troubles = (Trouble("late", None, NOW - 24), Trouble("snapshot", "13168", NOW - 30))
    slow = RecentWindow(p95=20.0, p95_now=20.0, count=100, slow_since=NOW - 20, backlog_rate=rate)
    [said] = diagnose(replace(CALM, sample=sample, troubles=troubles), slow, NOW)
    assert (said.level, said.kind, said.since, said.needs_somebody) == ("bad", "snapshot", NOW - 30, "now")
    assert said.what.startswith(
        "The session 13168 (user ada, monthly-report, idle in transaction) holds the oldest snapshot for 30 s, "
        "24,828 transactions ago"
    )
    assert "`psql OWNER_URL -c 'SELECT pg_terminate_backend(13168)'`" in said.do
    assert "by itself" not in said.do
    unseen = replace(sample, snapshot=replace(REPORT, since=None))  # a role without pg_read_all_stats
    [said] = diagnose(replace(CALM, sample=unseen, troubles=troubles), slow, NOW)
    assert (said.kind, said.since, "13168 (user ada, monthly-report" in said.what) == ("snapshot", NOW - 30, True)


def test_a_snapshot_is_said_while_nothing_is_late_only_when_it_is_old():
    sample = Sample(0, 0.0, 0.0, 10, {}, snapshot=REPORT, at=NOW - 1)
    trouble = (Trouble("snapshot", "13168", NOW - 30),)
    assert found(replace(CALM, sample=sample, troubles=trouble)) == []
    old = replace(sample, snapshot=replace(REPORT, since=NOW - 400))
    assert found(replace(CALM, sample=old, troubles=trouble)) == [("warn", "snapshot", NOW - 400)]


def test_since_when_events_are_late_is_not_the_age_of_the_oldest_one():
    """Which is another one at each look."""
    sample = Sample(90_000, 25.0, 0.0, 10, {}, at=NOW - 1)
    reading = replace(CALM, sample=sample, troubles=(Trouble("late", None, NOW - 300),))
    assert found(reading) == [("warn", "late", NOW - 300)]
    [said] = diagnose(reading, RecentWindow(backlog_rate=-50.0), NOW)
    assert (said.since, "falls by 50 events a second" in said.do) == (NOW - 300, True)
    fast = RecentWindow(p95=20.0, p95_now=20.0, count=100, slow_since=NOW - 20, backlog_rate=40.0)
    [said] = diagnose(CALM, fast, NOW)
    assert (said.kind, "grows by 40 events a second" in said.do) == ("slow", True)


def test_a_right_that_is_missing_is_told_with_the_command_that_gives_it():
    refused = Trouble("refused", "claim: InsufficientPrivilege 42501: permission denied for table message_outbox", 9.0)
    [said] = diagnose(replace(CALM, troubles=(refused,)), RecentWindow(), NOW)
    assert "`dispatcher sql roles | psql OWNER_URL`" in said.do
    assert said.do.endswith("Once that is done, publishing goes on without a restart.")
    assert said.page == "rights"  # not the page about any refusal


def test_a_refusal_of_postgres_that_is_over_explains_what_was_late():
    refused = replace(CALM, troubles=(Trouble("refused", "claim: 42501", NOW - 90),))
    assert [each.kind for each in diagnose(refused, RecentWindow(error_share=0.1), NOW)] == ["refused"]
    over = replace(CALM, past=PastTrouble("refused", NOW - 90, NOW - 20))
    [said] = diagnose(over, RecentWindow(), NOW)
    assert said.what.startswith("Postgres refused a statement from ")


def test_a_dispatcher_that_another_one_took_over_from_is_said_once():
    gone = EndedDispatcher("vm-2", NOW - 60, 3, died=True)
    sample = replace(CALM.sample or Sample(0, 0.0, 0.0, 10, {}, at=NOW), ended=(gone,))
    [said] = diagnose(replace(CALM, sample=sample), RecentWindow(), NOW)
    assert (said.level, said.kind) == ("note", "ended")
    assert said.what.startswith("The dispatcher vm-2 ended without signing off; its 3 rows were taken over")
    [said] = diagnose(replace(CALM, sample=sample, ended=(gone,)), RecentWindow(), NOW)  # our own note is among them
    assert "its 3 rows were" in said.what


def test_of_the_largest_group_that_is_too_large_the_limit_is_named():
    groups = DeadGroups(
        NOW - 50, 3, 300, "payload is 27112 bytes, DISPATCH_MAX_PAYLOAD_BYTES allows 20000", "payload is #"
    )
    [said] = diagnose(replace(CALM, sample=replace(dead(500), dead_groups=groups)), RecentWindow(), NOW)
    assert said.do.startswith("Retrying does not help until the limit is raised")
    assert "set DISPATCH_MAX_PAYLOAD_BYTES above 27112, " in said.do
    several = replace(groups, greatest=31000)  # as the card of the group has it
    [said] = diagnose(replace(CALM, sample=replace(dead(500), dead_groups=several)), RecentWindow(), NOW)
    assert "set DISPATCH_MAX_PAYLOAD_BYTES above 31000, " in said.do


def test_a_dispatcher_that_died_is_not_to_be_started_again_once_another_was():
    died = [EndedDispatcher(f"vm-{n}", NOW - 60 * n, 0, died=True) for n in (1, 2)]

    def said(*started: float) -> list[str]:
        dispatchers = tuple(RunningDispatcher("new", "h", 1, "0.1.0", at) for at in started)
        sample = replace(CALM.sample or Sample(0, 0.0, 0.0, 10, {}, at=NOW), ended=tuple(died), dispatchers=dispatchers)
        return [each.do.partition(",")[0] for each in diagnose(replace(CALM, sample=sample), RecentWindow(), NOW)]

    assert said(NOW - 900) == ["Start it again"] * 2
    assert sorted(said(NOW - 900, NOW - 30)) == ["Nothing to do.", "Start it again"]
    assert said(NOW - 40, NOW - 30) == ["Nothing to do."] * 2


def test_dispatchers_that_end_again_and_again_need_somebody():
    """Each for itself was a note with "Nothing to do", for another one had been started: it died as well."""
    started = tuple(RunningDispatcher("new", "h", 1, "0.1.0", NOW - 1) for _ in range(9))

    def said(*ages: float) -> list[Need]:
        died = tuple(EndedDispatcher(f"vm-{age}", NOW - age, 2, died=True) for age in ages)
        sample = replace(CALM.sample or Sample(0, 0.0, 0.0, 10, {}, at=NOW), ended=died, dispatchers=started)
        return diagnose(replace(CALM, sample=sample), RecentWindow(), NOW)

    assert {each.level for each in said(6, 12, 18, 700, 800)} == {"note"}
    [again] = said(18, 6, 12, 24, 700)
    assert (again.level, again.needs_somebody, again.page) == ("warn", "by morning", "restarting")
    assert again.what.startswith("Dispatchers end again and again: 4 or more since ")
    assert "the last one vm-6 at " in again.what
    assert again.since == NOW - 24


def test_of_many_that_ended_in_turn_the_newest_are_kept():
    """A supervisor keeps what its dead workers told: it grew with each of them."""
    reading = CALM
    for turn in range(100):
        reading = merged([reading, replace(CALM, ended=(EndedDispatcher(f"w-{turn}", NOW + turn, 0, died=True),))])
    assert [each.name for each in reading.ended] == [f"w-{turn}" for turn in range(100 - ENDED, 100)]


def test_postgres_away_is_said_once():
    reason = "Postgres at db:5432/shop cannot be reached: connection refused"
    [said] = diagnose(replace(CALM, troubles=(Trouble("database", reason, 1.0),)), RecentWindow(), NOW)
    assert said.what == reason
    assert "Your applications most likely cannot commit either" in said.do
