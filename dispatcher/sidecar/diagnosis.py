"""The diagnoses that the console shows first: what is wrong, since when, and what to do. Asks no server.

The table of findings and their ranking are those of `status`: `core/findings/needs.py`.
"""

from collections.abc import Iterator
from math import inf

from dispatcher.core.counted import counted
from dispatcher.core.findings import ended_needs, group_needs, needs, snapshot_needs, wake_needs
from dispatcher.core.findings.causes import judged
from dispatcher.core.findings.needs import FRESH_DEAD_S, LATE_S, Need
from dispatcher.core.findings.runbook import PAGES, page_of_trouble
from dispatcher.core.findings.troubles import TROUBLES, group_of, remedy, words
from dispatcher.core.known_groups import gone_groups
from dispatcher.core.pacing import GO_ON_BELOW
from dispatcher.core.process_state import ProcessState, Sample, Trouble
from dispatcher.sidecar.history import FEW_EVENTS, SLA_S, RecentWindow, caught_up, shards_of

STALE_S = 60.0  # a sample older than this
ERROR_SHARE = 0.02  # of the turns of a minute; as in the alerts
SETTLING_S = 15.0  # after a start, or the end of an outage, what waited is worked off: that it was late is no news
GOING_S = 10.0  # an event went out within so long: the backlog is worked off
WAITS_S = 1.0  # the oldest event is overdue for longer: events wait


def diagnose(
    reading: ProcessState,
    lately: RecentWindow,
    now: float,
    *,
    maxlen: int | None = None,
    max_attempts: int | None = None,
    tick_s: float | None = None,
) -> list[Need]:
    """All findings, first the one that needs somebody now; empty: all is fine. The settings are our own."""
    found = [
        need for trouble in reading.troubles for need in _of_trouble(trouble, reading, lately, now, maxlen, tick_s)
    ]
    sample = reading.sample
    found += _dead(reading, lately, now)
    found += _slow(reading, lately, now)
    if sample is not None:
        found += _of_sample(sample, reading, lately, now)
        found += _unread(sample, lately, maxlen)
        if sample.held is not None and sample.held.aggregates:
            found.append(needs.held(sample.held, sample.at))
        elif sample.retrying is not None and sample.retrying.events:
            found.append(needs.retrying(sample.retrying, max_attempts, now))
        found += group_needs.half_read(shards_of(sample))
        here = sample.group_lag if sample.stream_length is not None else ()
        gone = gone_groups(sample.known_groups, here, now)
        if (lost := group_needs.lost(sample.loss, gone, now)) is not None:
            found.append(lost)
    if lately.error_share > ERROR_SHARE:
        found.append(
            Need(
                "warn",
                "errors",
                f"{lately.error_share:.0%} of the turns of the last minute failed",
                None,
                "Look for dispatcher_tick_error in the log: it has the error.",
                page=PAGES["errors"],
            )
        )
    living = {each.name for each in sample.dispatchers} if sample else set[str]()
    ours = {each.name for each in reading.ended}
    others = [each for each in sample.ended if each.name not in ours] if sample else []
    started = [each.started_at for each in sample.dispatchers] if sample else []
    found += ended_needs.ended([*reading.ended, *others], living, now, started)
    if reading.past is not None and (over := needs.over(reading.past, now)) is not None:
        found.append(over)
    return judged(found)


def _of_trouble(
    trouble: Trouble,
    reading: ProcessState,
    lately: RecentWindow,
    now: float,
    maxlen: int | None,
    tick_s: float | None,
) -> Iterator[Need]:
    sample = reading.sample
    if trouble.kind == "doorbell" and sample is not None and sample.doorbell != "installed":
        yield wake_needs.doorbell(sample.doorbell, trouble.since, tick_s)
        return
    if trouble.kind == "put-away" and sample is not None and sample.group_dead:
        rates = lately.put_away_rates
        yield from group_needs.put_away(sample.group_dead, trouble.since, sample.group_put_away, now, rates)
        return
    if trouble.kind == "late" and sample is not None and sample.overdue_s > LATE_S:
        return  # _of_sample says it
    if trouble.kind == "snapshot" and sample is not None and sample.snapshot is not None:
        yield snapshot_needs.snapshot(sample.snapshot, now, trouble.since)
        return
    usage = sample.notification_queue_usage if sample else 0.0
    if trouble.kind == "notify-queue" and (need := wake_needs.notify_queue(usage, trouble.since, tick_s)):
        yield need
        return
    if trouble.kind == "disabled":
        alone = None if sample is None else not sample.dispatchers
        waiting = sample.backlog if sample and sample.overdue_s >= WAITS_S else None
        yield needs.disabled(waiting, trouble.since, alone=alone, name=", ".join(reading.names) or None)
        return
    what = words(trouble.kind, trouble.reason)
    if reading.processes > 1:
        what += f" ({trouble.of} of {reading.processes} processes)"
    link: needs.Link | None = "groups" if trouble.kind == "backpressure" else None
    level, do = TROUBLES[trouble.kind].level, remedy(trouble.kind, trouble.reason)
    if trouble.kind == "listener":
        what, level = f"{what}; {wake_needs.late_by(tick_s)}", wake_needs.unheard(tick_s)
    if trouble.kind == "backpressure" and maxlen is not None:
        share = "80 % of REDIS_STREAM_MAXLEN"
        do = do.replace(share, f"{counted(int(GO_ON_BELOW * maxlen), 'entry')} ({share})")
    group = group_of(trouble.reason or "")
    if trouble.kind == "backpressure" and sample is not None and group in sample.group_lag:
        age_s = sample.group_read_age_s.get(group, inf)
        reader = sample.group_reader.get(group)
        what += group_needs.reads(None if age_s == inf else age_s, sample.group_lag[group], None, reader)
    yield Need(level, trouble.kind, what, trouble.since, do, link, page_of_trouble(trouble.kind, trouble.reason))


def _of_sample(sample: Sample, reading: ProcessState, lately: RecentWindow, now: float) -> Iterator[Need]:
    if now - sample.at > STALE_S:
        yield Need(
            "warn",
            "stale",
            "Backlog and lag could not be looked at for more than a minute",
            sample.at,
            "Postgres is slow or refuses: look at its load and at the log of the dispatcher.",
            page=PAGES["stale"],
        )
        return
    age = sample.overdue_s
    if age <= LATE_S:
        return
    began = max(reading.started_at, reading.past.until if reading.past else 0.0)
    going = reading.published_at is not None and now - reading.published_at < GOING_S
    behind = sample.at - age <= began and (now - began < SETTLING_S or going)
    rate = lately.backlog_rate
    # Not that of the event which is the oldest now: at each look it is another one.
    since = next((each.since for each in reading.troubles if each.kind == "late"), sample.at - age)
    if behind and sample.backlog:
        yield needs.catching_up(sample.backlog, age, began, rate)
    elif not behind and sample.backlog and needs.empty_in_s(sample.backlog, rate) is not None:
        yield needs.catching_up(sample.backlog, age, since, rate)
    elif not behind:
        yield needs.late(age, since, rate)


def _slow(reading: ProcessState, lately: RecentWindow, now: float) -> Iterator[Need]:
    """By the present: lateness that is over needs nobody."""
    began = max(reading.started_at, reading.past.until if reading.past else 0.0)
    if now - began < SETTLING_S or not caught_up(reading, reading):
        return
    if lately.p95_now is not None and lately.p95_now > SLA_S:
        yield Need(
            "bad",
            "slow",
            f"Events are late: p95 is {_seconds(lately.p95_now)} now, the promise is {SLA_S} s",
            lately.slow_since,
            f"{needs.by_rate(lately.backlog_rate)} If nothing waits, look at how busy Postgres and Redis are.",
            page=PAGES["slow"],
        )
    elif lately.slow_since is not None and lately.p95 is not None and lately.count >= FEW_EVENTS:
        yield Need(
            "note",
            "slow",
            f"Events were late from {needs.clock(lately.slow_since, now)} on, and are not any more{_good(lately)}: "
            f"p95 of the last minute is {_seconds(lately.p95)}",
            None,  # it does not go on
            "Nothing: it is over.",
        )


def _unread(sample: Sample, lately: RecentWindow, maxlen: int | None) -> Iterator[Need]:
    """Groups that nobody reads any more, long before they hold publishing back."""
    for group, age_s in sample.group_read_age_s.items():
        lag = sample.group_lag.get(group, 0)
        if lag and age_s > group_needs.UNREAD_S:
            age = None if age_s == inf else age_s  # never read: it may have been made a moment ago
            rate, reader = lately.lag_rates.get(group), sample.group_reader.get(group)
            yield group_needs.unread(group, lag, age, maxlen, sample.at, rate, reader)


def _dead(reading: ProcessState, lately: RecentWindow, now: float) -> Iterator[Need]:
    """Dead events need a decision until each is retried or discarded, however old they are."""
    sample = reading.sample
    dead = sample.dead if sample else 0  # deaths since then are not added: the same events may have died again
    newest = sample.newest_dead_at if sample else None
    error = reading.buried_error or (sample.newest_dead_error if sample else None)
    if sample and sample.held and sample.held.by_dead and dead <= sample.held.by_dead:
        return  # the finding of what is held names the dead event, and says what to do
    uncounted = bool(lately.buried) and not (sample is not None and sample.at > (reading.buried_at or 0.0))
    if not dead and uncounted:
        yield needs.dying(error, newest or lately.buried_since)
        return
    if not dead:
        if lately.buried:
            what = f"Events died in the last 15 minutes ({counted(lately.buried, 'death')}); none is dead now"
            yield Need("note", "buried", what, lately.buried_since, "Nothing: they were retried or discarded.")
        return
    fresh = bool(lately.buried) or (newest is not None and now - newest < FRESH_DEAD_S)
    more = ""
    if lately.buried > dead:
        again = "an event that is retried and dies again counts twice"
        more = f". In 15 minutes there were {lately.buried:,} deaths: {again}"
    groups = sample.dead_groups if sample else None
    yield needs.dead(dead, newest or lately.buried_since, error, groups, fresh=fresh, more=more)


def _good(lately: RecentWindow) -> str:
    return "" if lately.p95_now_s is None else f", for {lately.p95_now_s:.0f} s"


def _seconds(s: float) -> str:
    """With so many digits that it is never the promise itself."""
    return "60 s or more" if s >= 60 else f"{s:.1f} s" if s >= 10 else f"{max(s, SLA_S + 0.01):.2f} s"
