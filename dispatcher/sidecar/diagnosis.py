"""The diagnoses that the console shows first: what is wrong, since when, and what to do. Asks no server."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from dispatcher.core.process_state import ProcessState, Trouble, TroubleKind
from dispatcher.sidecar.history import SLA_S, RecentWindow

Severity = Literal["fine", "note", "warn", "bad"]
LEVELS: tuple[Severity, ...] = ("fine", "note", "warn", "bad")

LATE_S = 5.0  # the oldest event is overdue for longer: a warning
VERY_LATE_S = 60.0  # for longer: bad
BURIED_LATELY_S = 900.0  # dead letters younger than this are bad, older ones a note
STALE_S = 60.0  # a sample older than this
ERROR_SHARE = 0.02  # of the turns of a minute; as in the alerts
FEW_EVENTS = 20  # a quantile of fewer is chance


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One thing a person should know. `since`: Unix seconds; None: not known.

    A Finding of `dispatcher doctor` is something else: it asks the servers, and has other levels.
    """

    level: Severity
    kind: str
    what: str
    since: float | None
    do: str


# kind: level, what it is ({} is the reason: a group's name, an error, a person), what to do
_TROUBLES: dict[TroubleKind, tuple[Severity, str, str]] = {
    "database": (
        "bad",
        "Postgres cannot be reached: {}",
        "Bring Postgres back, or do what the reason says. Nothing is lost: what producers commit waits in the outbox, "
        "and the dispatcher connects again by itself within about two seconds.",
    ),
    "redis": (
        "bad",
        "Redis takes no entries: {}",
        "Bring Redis back, or give it memory if it says OOM. Nothing is lost and no attempt is used up: "
        "events wait in Postgres and go out within about a second of its return.",
    ),
    "backpressure": (
        "bad",
        "Publishing waits for the consumer group {}",
        "Start or repair the consumers of that group. If nobody needs it any more, XGROUP DESTROY it. Publishing has "
        "stopped, and goes on by itself once the slowest group has less than 80 % of REDIS_STREAM_MAXLEN to read.",
    ),
    "layout": (
        "bad",
        "Nothing is claimed for the streams: {}",
        "Two dispatchers with different streams would split the events between them. Give all of them the settings "
        "that stand in Postgres (dispatcher layout), or change those there (dispatcher layout set). It goes on by "
        "itself.",
    ),
    "stopping": ("warn", "Stopping: {}", "Nothing, if a rollout or a person asked for it; another takes over."),
    "disabled": (
        "warn",
        "Disabled: no event is taken",
        "Set DISPATCHER_ENABLED=true and restart, when it is meant to run.",
    ),
    "paused": (
        "warn",
        "Paused, so no event is taken: {}",
        "dispatcher resume, when whoever paused it agrees. Events wait in Postgres.",
    ),
    "listener": (
        "warn",
        "Writers cannot wake the dispatcher: {}",
        "Events go out on the tick, a little late. Behind a transaction pooler set DISPATCH_LISTEN_URL to a direct "
        "connection. Else run dispatcher doctor: its check `listen` says why the session hears nothing.",
    ),
    "session": (
        "warn",
        "Postgres has no connection left for: {}",
        "Raise the limit (ALTER ROLE ... CONNECTION LIMIT, max_connections), or end sessions of others. "
        "dispatcher doctor says how many there are (its check `sessions`).",
    ),
    "refused": (
        "bad",
        "Postgres refuses to {}",
        "dispatcher doctor tries it (its checks `try-...`) and says what to do. What was published stays claimed.",
    ),
    "audit": (
        "note",
        "A loss inside Redis would go unnoticed: {}",
        "Allow this user INFO and XINFO on the stream (docs/runbook/rights.md).",
    ),
    "starting": ("note", "Starting", "Nothing; it is opening its connections."),
}

# With one of these, events have to wait: that they do is no finding of its own.
_EXPLAINS_WAITING: frozenset[str] = frozenset(
    {"database", "redis", "backpressure", "disabled", "paused", "starting", "refused", "layout"}
)


def diagnose(reading: ProcessState, lately: RecentWindow, now: float) -> list[Diagnosis]:
    """All findings, the worst first; empty: all is fine."""
    away = any(trouble.kind == "database" for trouble in reading.troubles)
    # Without Postgres nobody listens: that is the same trouble.
    found = [_of_trouble(trouble, reading) for trouble in reading.troubles if not (away and trouble.kind == "listener")]
    found += _computed(reading, lately, now)

    def first(finding: Diagnosis) -> tuple[int, bool, float]:
        # What stands in the way comes before what came of it.
        return -LEVELS.index(finding.level), finding.kind not in _TROUBLES, finding.since or now

    return sorted(found, key=first)


def _of_trouble(trouble: Trouble, reading: ProcessState) -> Diagnosis:
    level, what, do = _TROUBLES[trouble.kind]
    if trouble.reason is None:
        what = what.replace(": {}", "").replace(" {}", "")
    what = what.replace("{}", trouble.reason or "")
    if reading.processes > 1:
        what += f" ({trouble.of} of {reading.processes} processes)"
    return Diagnosis(level, trouble.kind, what, trouble.since, do)


def _computed(reading: ProcessState, lately: RecentWindow, now: float) -> Iterator[Diagnosis]:
    kinds = {trouble.kind for trouble in reading.troubles}
    waits = bool(kinds & _EXPLAINS_WAITING)
    yield from _dead(reading, lately, now)
    if lately.slow_since is not None and lately.p95 is not None and lately.count >= FEW_EVENTS and not waits:
        yield Diagnosis(
            "bad",
            "slow",
            f"Events are late: p95 of the last minute is {_seconds(lately.p95)}, the promise is {SLA_S} s",
            lately.slow_since,
            "After an outage this passes by itself. If not: is the backlog falling? If it grows, start another "
            "dispatcher; if there is none, look at how busy Postgres and Redis are.",
        )
    sample = reading.sample
    if sample and "database" not in kinds:
        if now - sample.at > STALE_S:
            yield Diagnosis(
                "warn",
                "stale",
                "Backlog and lag could not be looked at for more than a minute",
                sample.at,
                "Postgres is slow or refuses: look at its load and at the log of the dispatcher.",
            )
        elif (age := sample.oldest_age_s or 0.0) > LATE_S and not waits:
            yield Diagnosis(
                "bad" if age > VERY_LATE_S else "warn",
                "late",
                "Events are overdue and still wait",
                sample.at - age,
                "If the backlog falls, wait. If it grows, start another dispatcher. If it stands still, "
                "somebody holds these rows, or no enabled dispatcher takes their share (DISPATCH_CANARY_PERCENT).",
            )
    if lately.error_share > ERROR_SHARE and not kinds & {"database", "redis"}:
        yield Diagnosis(
            "warn",
            "errors",
            f"{lately.error_share:.0%} of the turns of the last minute failed",
            None,
            "Look for dispatcher_tick_error in the log: it has the error.",
        )


def _dead(reading: ProcessState, lately: RecentWindow, now: float) -> Iterator[Diagnosis]:
    sample = reading.sample
    newest = sample.newest_dead_at if sample else None
    mend = "Look at the errors under dead letters, mend the cause, then retry them there."
    if lately.buried:
        events = "1 event was" if lately.buried == 1 else f"{lately.buried:,} events were"
        what = f"{events} given up" + (f", the latest with: {reading.buried_error}" if reading.buried_error else "")
        if sample and not sample.dead and sample.at > (reading.buried_at or now):
            yield Diagnosis(
                "note", "buried", f"{what}; none is left", lately.buried_since, "Nothing: they were retried."
            )
        else:
            yield Diagnosis("bad", "buried", what, lately.buried_since, mend)
    elif newest is not None and now - newest < BURIED_LATELY_S:
        # By another process; or by this one's predecessor.
        yield Diagnosis("bad", "buried", "Events were given up", newest, mend)
    elif sample and sample.dead:
        yield Diagnosis(
            "note",
            "dead",
            "Dead letters wait for a decision; none is younger than 15 minutes",
            newest,
            "When there is time: look at them below, mend the cause, retry them.",
        )


def _seconds(s: float) -> str:
    return "60 s or more" if s >= 60 else f"{s:.1f} s"


def level_of(findings: list[Diagnosis]) -> Severity:
    return max((finding.level for finding in findings), key=LEVELS.index, default="fine")
