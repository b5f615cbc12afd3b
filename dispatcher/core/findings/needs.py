"""What needs a person: one table and one ranking for the console, `status` and `doctor`. Pure; asks no server.

First the worst, then the cause before what comes of it, then the oldest. A finding that another one explains is left
out: a person who reads both looks for two causes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil, floor
from typing import Literal

from dispatcher.core.counted import counted
from dispatcher.core.findings.remedies import dead_do, held_do
from dispatcher.core.findings.runbook import PAGES
from dispatcher.core.findings.troubles import HELD_S, VERY_HELD_S, Severity
from dispatcher.core.process_state import DeadGroups, HeldCount, PastTrouble, RetryCount
from dispatcher.core.timestamps import moment_of

LEVELS: tuple[Severity, ...] = ("fine", "note", "warn", "bad")
PROMISED_S = 1.5  # p95 from the commit to the stream: the SLA
LATE_S, VERY_LATE_S = 5.0, 60.0  # the oldest event is overdue for longer: a warning; bad
FRESH_DEAD_S = 900.0  # dead events younger than this are bad, older ones a warning, until somebody decides
OVER_S = 300.0  # what is over is said for so long
SOON_EMPTY_S = 900.0  # a backlog that is gone in less needs nobody
COUNTED = 10_000  # dead events are counted no further
EVENTS_COUNTED = 1_000_000  # events that wait are counted no further


# When a finding needs somebody: at once, in the morning, or not at all. By its level, but for these kinds.
When = Literal["now", "by morning", "no"]
BY_LEVEL: dict[Severity, When] = {"bad": "now", "warn": "by morning", "note": "no", "fine": "no"}
_BY_KIND: dict[str, When] = {"catching-up": "no", "starting": "no", "stopping": "no"}

Link = Literal["dead", "groups", "events", "retry", "held"]


@dataclass(frozen=True, slots=True)
class Need:
    """One thing a person should know. `since`: Unix seconds; None: not known. `do`: the next step.

    `link`: the part of the console where one acts on it; `page`: the page of the runbook, without `.md`.
    """

    level: Severity
    kind: str
    what: str
    since: float | None
    do: str
    link: Link | None = None
    page: str | None = None

    @property
    def needs_somebody(self) -> When:
        """By the level, for `doctor` too (finding.py); what passes by itself needs nobody."""
        return _BY_KIND.get(self.kind, BY_LEVEL[self.level])


_PLACES = {kind: place for place, kind in enumerate(PAGES)}
# With one of these events have to wait: that they do is no finding of its own.
STOPPED = frozenset(
    {"copy", "database", "redis", "unreachable", "refused", "layout", "nobody", "disabled", "paused", "backpressure",
     "handlers", "starting"}
)  # fmt: skip


def ranked(found: Iterable[Need]) -> list[Need]:
    """The worst first, then the cause before the symptom, then the oldest."""
    return sorted(found, key=_rank)


def level_of(found: Iterable[Need]) -> Severity:
    return max((each.level for each in found), key=LEVELS.index, default="fine")


def _rank(need: Need) -> tuple[int, int, float]:
    oldest = need.since if need.since is not None else float("inf")
    return -LEVELS.index(need.level), _PLACES.get(need.kind, len(_PLACES)), oldest


def nobody(waiting: int | None, oldest_s: float, last: tuple[str, float] | None, now: float) -> Need:
    """No dispatcher is alive. `last`: name of the one that was heard last, and when; `waiting` None: not counted."""
    if not waiting and not oldest_s:
        said, level, since = "No dispatcher is alive; no event waits", "warn", None
    else:
        many = "events wait" if waiting is None else f"{_events(waiting)} wait{'s' if waiting == 1 else ''}"
        said, level, since = f"No dispatcher is alive, and {many}", "bad", now - oldest_s
    if last is not None:
        said, since = f"{said}; the last one ({last[0]}) was seen at {clock(last[1], now)}", last[1]
    do = "Start one: `DISPATCHER_ENABLED=true dispatcher run`. The log of the last one says why it ended."
    return Need(level, "nobody", said, since, do, page=PAGES["nobody"])  # type: ignore[arg-type]


def disabled(waiting: int | None, since: float | None, *, alone: bool | None, name: str | None = None) -> Need:
    """A dispatcher runs with DISPATCHER_ENABLED false. `alone`: no other one takes events, None: that is not known;
    `waiting`: how many wait; `name`: of the dispatcher.
    """
    do = "Set DISPATCHER_ENABLED=true and restart it, when it is meant to run."
    who = f"{name or 'This dispatcher'} is disabled"
    if alone and waiting:
        what = f"{who}, and no other dispatcher runs: {_events(waiting)} wait{'s' if waiting == 1 else ''}"
        return Need("bad", "disabled", what, since, do, page=PAGES["disabled"])
    if alone is False:
        what, level = f"{who} and takes no event; others do", "note"
    else:
        level, what = "warn", f"{who} and takes no event" + (", and no other dispatcher runs" if alone else "")
    return Need(level, "disabled", what, since, do, page=PAGES["disabled"])  # type: ignore[arg-type]


def retrying(found: RetryCount, most: int | None, now: float) -> Need:
    """Events that failed and are tried again. `most`: attempts of an event; None: not known."""
    one = found.events == 1
    what = f"{_events(found.events)} {'fails and is' if one else 'fail and are'} tried again: "
    what += f"{'' if one else 'the one nearest to its end is '}{found.event_type}"
    what += f", {found.error}" if found.error else ""
    left = "" if most is None else f", {max(0, most - found.attempts)} left"
    what += f", {counted(found.attempts, 'attempt')} failed{left}"
    if found.next_at is not None:
        what += f", next {clock(found.next_at, now)}" if found.next_at > now else ", next now"
    do = "Mend the cause before the last attempt; then it goes out by itself"
    do += "." if found.id is None else f", or at once: `dispatcher events retry {found.id}`."
    do += "" if one else " All of them: `dispatcher events list --status retry`."
    return Need("warn", "retrying", f"{what}. Nothing else waits for it", found.since, do, "retry", PAGES["retrying"])


def held(count: HeldCount, now: float) -> Need:
    """Aggregates of which later events wait for one that failed. There must be one at least."""
    level: Severity = "note"
    if count.by_dead or count.oldest_s > VERY_HELD_S:
        level = "bad"
    elif count.oldest_s > HELD_S:
        level = "warn"
    since = floor(now - count.oldest_s)
    head, one = count.head, count.aggregates == 1
    if head is None:
        what = f"{counted(count.aggregates, 'aggregate')} {'is' if one else 'are'} held: "
        what += "later events wait for one that fails"
        what += f"; {count.by_dead:,} by a dead event, until somebody decides" if count.by_dead else ""
        what += f"; the error: {count.error}" if count.error else ""
        do = "`dispatcher held list`; mend the cause, then `dispatcher held retry ID`; or "
        do += "`dispatcher held skip ID --reason 'WHY'`, and the others go out."
        return Need(level, "held", what, float(since), do, "held", PAGES["held"])
    state = "is dead and" if head.state == "dead" else "is parked and" if head.state == "parked" else "fails and"
    what = f"Event {head.id} ({head.event_type}) {state} holds {head.aggregate_type} {head.aggregate_id}: "
    what += f"{head.waiting:,} later event{' waits' if head.waiting == 1 else 's wait'}"
    what += " for it, other aggregates do not" if one else ""
    if not one:
        dead = f", {count.by_dead:,} of them by a dead event" if count.by_dead else ""
        what = f"{count.aggregates:,} aggregates are held{dead}. The first: {what[0].lower()}{what[1:]}"
    what += f". {head.error}" if head.error else ""
    do = held_do(head.id, head.error)
    return Need(level, "held", what, float(since), do, "held", PAGES["held"])


def dying(error: str | None, since: float | None) -> Need:
    """Events died since the dead ones were counted."""
    what = "Events died a moment ago and are being counted" + (f"; the latest error: {error}" if error else "")
    return Need("bad", "buried", what, since, dead_do(None), "dead", PAGES["dead"])


def dead(
    number: int, newest: float | None, error: str | None, groups: DeadGroups | None, *, fresh: bool, more: str = ""
) -> Need:
    """Dead events need a decision until each is retried or discarded, however old they are."""
    many = f"more than {counted(COUNTED, 'event')}" if number > COUNTED else counted(number, "event")
    what = f"{many} {'is' if number == 1 else 'are'} dead and {'waits' if number == 1 else 'wait'} for a decision"
    if groups and groups.errors > 1:
        what += f", of {groups.errors} errors; most ({groups.most:,}) of: {groups.error or 'no error noted'}"
    else:
        what += f"; the latest error: {error}" if error else ""
    what += more
    do = dead_do(groups)
    return Need("bad" if fresh else "warn", "buried" if fresh else "dead", what, newest, do, "dead", PAGES["dead"])


def by_rate(rate: float | None) -> str:
    """What to do about events that are late. `rate`: events a second by which the backlog grows; None: not known."""
    if rate is None:
        falls = "If the backlog falls, wait. If it grows, start another dispatcher."
        return f"{falls} If it stands still: `dispatcher doctor`."
    if rate >= 1:
        return f"The backlog grows by {rate:,.0f} events a second: start another dispatcher, or `dispatcher doctor`."
    falls = f"The backlog falls by {-rate:,.0f} events a second" if rate < -1 else "The backlog does not fall"
    return f"{falls}: `dispatcher doctor`. If it names no cause, start another dispatcher."


def late(age_s: float, since: float, rate: float | None = None) -> Need:
    """Events wait, and nothing explains it. `rate`: as in by_rate."""
    do = by_rate(rate)
    what = "Events are overdue and still wait"
    return Need("bad" if age_s > VERY_LATE_S else "warn", "late", what, since, do, "events", PAGES["late"])


def empty_in_s(backlog: int | None, rate: float | None) -> float | None:
    """In how many seconds a backlog that falls is gone; None: it does not fall, or that takes too long."""
    left_s = backlog / -rate if backlog and rate and rate < 0 else None
    return left_s if left_s is not None and left_s <= SOON_EMPTY_S else None


def catching_up(backlog: int, age_s: float, since: float, rate: float | None = None) -> Need:
    """What waited goes out: after an outage, a pause or a start, or because the backlog falls by `rate` a second."""
    many = f"{_events(backlog)} wait{'s' if backlog == 1 else ''}"
    what = f"Catching up: {many}, the oldest {age_s:.0f} s"
    if rate is not None and (left_s := empty_in_s(backlog, rate)) is not None:
        what += f"; {-rate:,.0f} fewer each second, gone in about {lasting(max(1.0, left_s))}"
    return Need("warn", "catching-up", what, since, "Wait: it passes by itself.", "events", PAGES["catching-up"])


def over(past: PastTrouble, now: float) -> Need | None:
    """An outage or a pause because of which turns failed or events were late; None: it ended long ago."""
    if now - past.until >= OVER_S:
        return None
    kind, since, until = past.kind, past.since, past.until
    names = {
        "database": "Postgres was away",
        "redis": "Redis took no entries",
        "paused": "All was paused",
        "refused": "Postgres refused a statement",
        "layout": "Nothing was claimed, for the layout of the streams",
        "handlers": "No handler was free",
    }
    waited = f"the consumer group {past.reason}" if past.reason else "a consumer group"
    said = names.get(kind, f"Publishing waited for {waited}")
    ends = "events waited until then"
    what = f"{said} from {clock(since, now)} to {clock(until, now)}; {ends}"
    return Need("note", "over", what, since, "Nothing to do.")


def clock(moment: float, now: float | None = None) -> str:
    """`07:59:18 UTC` of Unix seconds; with the date when it is more than half a day from `now`."""
    day = "" if now is None or abs(moment - now) < 43_200 else "%Y-%m-%d "
    return moment_of(moment).strftime(f"{day}%H:%M:%S UTC")


def lasting(seconds: float) -> str:
    """`95 s`, `12 min`, `5 h`, `3 days`."""
    return f"{seconds:.0f} s" if seconds < 120 else about(seconds)


def about(seconds: float) -> str:
    if seconds < 7200:
        return f"{max(1, ceil(seconds / 60))} min"
    return f"{seconds / 3600:.0f} h" if seconds < 172_800 else f"{seconds / 86_400:.0f} days"


def _events(number: int) -> str:
    return f"more than {counted(EVENTS_COUNTED, 'event')}" if number > EVENTS_COUNTED else counted(number, "event")


def without_explained(found: Sequence[Need]) -> list[Need]:
    """Without those that are there only because of another one."""
    kinds = {each.kind for each in found}
    hidden: set[str] = set()
    if {each.kind for each in found if each.level != "note" or each.kind == "starting"} & STOPPED:
        hidden |= {"late", "slow", "catching-up"}
    if "database" in kinds:  # without Postgres nobody listens: that is the same trouble
        hidden |= {"listener", "session", "stale", "doorbell", "notify-queue"}
    if kinds & {"database", "redis", "refused"}:
        hidden.add("errors")
    if "catching-up" in kinds:
        hidden |= {"late", "slow"}
    if "disabled" in kinds:
        hidden.add("nobody")
    if level_of(found) == "bad":
        hidden.add("over")
    return [each for each in found if each.kind not in hidden]
