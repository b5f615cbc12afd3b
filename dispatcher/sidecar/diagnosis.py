"""The diagnoses that the console shows first: what is wrong, since when, and what to do. Asks no server."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf
from typing import Literal

from dispatcher.core.counted import counted
from dispatcher.core.pacing import GO_ON_BELOW
from dispatcher.core.process_state import ProcessState, Trouble
from dispatcher.core.troubles import HELD_DO, TROUBLES, Severity, held_words, words
from dispatcher.sidecar.history import FEW_EVENTS, SLA_S, RecentWindow

LEVELS: tuple[Severity, ...] = ("fine", "note", "warn", "bad")

LATE_S = 5.0  # the oldest event is overdue for longer: a warning
VERY_LATE_S = 60.0  # for longer: bad
BURIED_LATELY_S = 900.0  # dead events younger than this are bad, older ones a warning, until somebody decides
STALE_S = 60.0  # a sample older than this
ERROR_SHARE = 0.02  # of the turns of a minute; as in the alerts
SETTLING_S = 15.0  # after a start what waited is worked off: that it was late is no news
UNREAD_S = 900.0  # a group with entries to read that nobody has read for so long is abandoned
DEAD_DO = "Look at the errors of the dead letters, mend the cause, then retry them; discard those that nobody needs."
COUNTED = 10_000  # dead events are counted no further


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One thing a person should know. `since`: Unix seconds; None: not known.

    `link`: the part of the console where one acts on it; `page`: the page of the runbook, without `.md`.

    A Finding of `dispatcher doctor` is something else: it asks the servers, and has other levels.
    """

    level: Severity
    kind: str
    what: str
    since: float | None
    do: str
    link: Literal["dead", "groups", "events", "held"] | None = None
    page: str | None = None


# With one of these, events have to wait: that they do is no finding of its own.
_EXPLAINS_WAITING: frozenset[str] = frozenset(
    {"database", "redis", "backpressure", "disabled", "paused", "starting", "refused", "layout"}
)
# Who must act first: nothing goes out; events are late now; dead ones wait for a decision; it works, at a cost. Then
# what is over.
_RANKS: tuple[frozenset[str], ...] = (
    frozenset({"database", "redis", "refused", "layout", "slots", "backpressure", "paused", "disabled"}),
    frozenset({"late", "slow"}),
    frozenset({"buried", "dead", "held"}),
    frozenset({"stopping", "listener", "session", "stale", "errors", "unread"}),
)
_PAGES: dict[str, str] = {
    "database": "postgres-away",
    "redis": "breaker-open",
    "refused": "nothing-goes-out",
    "backpressure": "backpressure",
    "slots": "slots-without-owner",
    "paused": "paused",
    "disabled": "start-and-stop",
    "listener": "listener-deaf",
    "session": "connections",
    "audit": "loss-unnoticed",
}


def diagnose(reading: ProcessState, lately: RecentWindow, now: float, maxlen: int | None = None) -> list[Diagnosis]:
    """All findings, first the one that needs somebody now; empty: all is fine. `maxlen`: REDIS_STREAM_MAXLEN."""
    away = any(trouble.kind == "database" for trouble in reading.troubles)
    # Without Postgres nobody listens: that is the same trouble.
    found = [
        _of_trouble(trouble, reading, maxlen)
        for trouble in reading.troubles
        if not (away and trouble.kind == "listener")
    ]
    found += _computed(reading, lately, now)

    def first(finding: Diagnosis) -> tuple[int, int, float]:
        ranks = (rank for rank, kinds in enumerate(_RANKS) if finding.kind in kinds and finding.level != "note")
        return next(ranks, len(_RANKS)), -LEVELS.index(finding.level), finding.since or now

    return sorted(found, key=first)


def _of_trouble(trouble: Trouble, reading: ProcessState, maxlen: int | None) -> Diagnosis:
    level, _, do = TROUBLES[trouble.kind]
    if trouble.kind == "backpressure" and maxlen is not None:
        share = "80 % of REDIS_STREAM_MAXLEN"
        do = do.replace(share, f"{counted(int(GO_ON_BELOW * maxlen), 'entry')} ({share})")
    what = words(trouble.kind, trouble.reason)
    if reading.processes > 1:
        what += f" ({trouble.of} of {reading.processes} processes)"
    link: Literal["groups"] | None = "groups" if trouble.kind == "backpressure" else None
    return Diagnosis(level, trouble.kind, what, trouble.since, do, link, _PAGES.get(trouble.kind))


def _computed(reading: ProcessState, lately: RecentWindow, now: float) -> Iterator[Diagnosis]:
    kinds = {trouble.kind for trouble in reading.troubles}
    waits = bool(kinds & _EXPLAINS_WAITING)
    yield from _dead(reading, lately, now)
    yield from _held(reading)
    waits = waits or now - reading.started_at < SETTLING_S
    if not waits:
        yield from _slow(lately)
    yield from _unread(reading, now)
    sample = reading.sample
    if sample and "database" not in kinds:
        if now - sample.at > STALE_S:
            yield Diagnosis(
                "warn",
                "stale",
                "Backlog and lag could not be looked at for more than a minute",
                sample.at,
                "Postgres is slow or refuses: look at its load and at the log of the dispatcher.",
                page="gauges-stale",
            )
        elif (age := sample.oldest_age_s or 0.0) > LATE_S and not waits:
            yield Diagnosis(
                "bad" if age > VERY_LATE_S else "warn",
                "late",
                "Events are overdue and still wait",
                sample.at - age,
                "If the backlog falls, wait. If it grows, start another dispatcher. If it stands still, "
                "somebody holds these rows, or no enabled dispatcher takes their share (DISPATCH_CANARY_PERCENT).",
                "events",
                "backlog-grows",
            )
    if lately.error_share > ERROR_SHARE and not kinds & {"database", "redis"}:
        yield Diagnosis(
            "warn",
            "errors",
            f"{lately.error_share:.0%} of the turns of the last minute failed",
            None,
            "Look for dispatcher_tick_error in the log: it has the error.",
            page="high-error-rate",
        )


def _slow(lately: RecentWindow) -> Iterator[Diagnosis]:
    """By the present: lateness that is over needs nobody."""
    if lately.p95_now is not None and lately.p95_now > SLA_S:
        yield Diagnosis(
            "bad",
            "slow",
            f"Events are late: p95 is {_seconds(lately.p95_now)} now, the promise is {SLA_S} s",
            lately.slow_since,
            "After an outage this passes by itself. If not: is the backlog falling? If it grows, start another "
            "dispatcher; if there is none, look at how busy Postgres and Redis are.",
            page="end-to-end-latency-high",
        )
    elif lately.slow_since is not None and lately.p95 is not None and lately.count >= FEW_EVENTS:
        yield Diagnosis(
            "note",
            "slow",
            f"Events were late, and are not any more: p95 of the last minute is {_seconds(lately.p95)}",
            lately.slow_since,
            "Nothing: it is over.",
        )


def _unread(reading: ProcessState, now: float) -> Iterator[Diagnosis]:
    """Groups that nobody reads any more, long before they hold publishing back."""
    sample = reading.sample
    for group, age_s in (sample.group_read_age_s if sample else {}).items():
        lag = sample.group_lag.get(group, 0) if sample else 0
        if not lag or age_s <= UNREAD_S:
            continue
        never = age_s == inf  # it may have been made a moment ago
        since = None if never else now - age_s
        nobody = "Nobody has ever read the consumer group" if never else "Nobody reads the consumer group"
        what = f"{nobody} {group}: {counted(lag, 'entry')} unread"
        yield Diagnosis(
            "note" if never else "warn",
            "unread",
            what,
            since,
            "Start its consumers. If nobody needs it any more, XGROUP DESTROY it, or exempt it "
            "(DISPATCH_BACKPRESSURE_EXCEPT): at nine tenths of REDIS_STREAM_MAXLEN it stops publishing for all.",
            "groups",
            "group-not-read",
        )


def _held(reading: ProcessState) -> Iterator[Diagnosis]:
    """Aggregates whose later events wait for one that fails, where there is an order."""
    sample = reading.sample
    if sample is not None and sample.held is not None and sample.held.aggregates:
        level, what = held_words(sample.held)
        yield Diagnosis(level, "held", what, sample.at - sample.held.oldest_s, HELD_DO, "held", "held-aggregates")


def _dead(reading: ProcessState, lately: RecentWindow, now: float) -> Iterator[Diagnosis]:
    """Dead events need a decision until each is retried or discarded, however old they are."""
    sample = reading.sample
    dead = sample.dead if sample else 0  # deaths since then are not added: the same events may have died again
    newest = sample.newest_dead_at if sample else None
    error = reading.buried_error or (sample.newest_dead_error if sample else None)
    uncounted = bool(lately.buried) and not (sample is not None and sample.at > (reading.buried_at or 0.0))
    if not dead and uncounted:
        what = "Events died a moment ago and are being counted" + (f"; the latest error: {error}" if error else "")
        yield Diagnosis("bad", "buried", what, newest or lately.buried_since, DEAD_DO, "dead", "dead-letters")
        return
    if not dead:
        if lately.buried:
            what = f"Events died in the last 15 minutes ({counted(lately.buried, 'death')}); none is dead now"
            yield Diagnosis("note", "buried", what, lately.buried_since, "Nothing: they were retried or discarded.")
        return
    fresh = bool(lately.buried) or (newest is not None and now - newest < BURIED_LATELY_S)
    what = f"{_events(dead)} {'is' if dead == 1 else 'are'} dead and {'waits' if dead == 1 else 'wait'} for a decision"
    groups = sample.dead_groups if sample else None
    if groups and groups.errors > 1:
        what += f", of {groups.errors} errors; most ({groups.most:,}) of: {groups.error or 'no error noted'}"
    else:
        what += f"; the latest error: {error}" if error else ""
    if lately.buried > dead:
        again = "an event that is retried and dies again counts twice"
        what += f". In 15 minutes there were {lately.buried:,} deaths: {again}"
    yield Diagnosis(
        "bad" if fresh else "warn",
        "buried" if fresh else "dead",
        what,
        newest or lately.buried_since,  # when the latest died
        DEAD_DO,
        "dead",
        "dead-letters",
    )


def _events(number: int) -> str:
    return f"more than {counted(COUNTED, 'event')}" if number > COUNTED else counted(number, "event")


def _seconds(s: float) -> str:
    """With so many digits that it is never the promise itself."""
    return "60 s or more" if s >= 60 else f"{s:.1f} s" if s >= 10 else f"{max(s, SLA_S + 0.01):.2f} s"


def level_of(findings: list[Diagnosis]) -> Severity:
    return max((finding.level for finding in findings), key=LEVELS.index, default="fine")
