"""What needs somebody, of what `status` read: the findings of `core/findings/needs.py`, as the console has them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from dispatcher.core.findings import ended_needs, group_needs, needs, snapshot_needs, wake_needs
from dispatcher.core.findings.causes import judged
from dispatcher.core.findings.condition import Condition, holds_up, is_exempt
from dispatcher.core.findings.needs import FRESH_DEAD_S, LATE_S, Need
from dispatcher.core.findings.runbook import PAGES, page_of_trouble
from dispatcher.core.findings.troubles import TROUBLES, Severity, group_of, remedy
from dispatcher.core.known_groups import gone_groups, latest_loss
from dispatcher.core.process_state import TroubleKind
from dispatcher.core.timestamps import iso_of, seconds_of
from dispatcher.infra.redis.info import GroupInfo
from dispatcher.ops.status import OutboxStatus, Status

COUNTED = needs.COUNTED
POSTGRES_AWAY = (
    "Bring Postgres back. Your applications most likely cannot commit either. What is committed is kept; the "
    "dispatcher connects again by itself within seconds. Since when exactly: its console or /ready says it."
)

OURS_DO = "Give this command the Redis, the stream and the user of the dispatchers: they do not say that they trouble."


@dataclass(frozen=True, slots=True)
class Attention:
    """One thing that needs somebody. `since`: RFC 3339; None: not known; of dead events, when the latest died.

    `do`: the next step; `page`: the page of the runbook, without `.md`; `needs_somebody`: now, by morning, or no.
    """

    level: Severity
    kind: str
    what: str
    since: str | None
    do: str
    page: str | None = None
    needs_somebody: needs.When = "no"


def attention(found: Status) -> list[Attention]:
    """The worst first, then the cause before what comes of it; empty: all is well."""
    return [each for each in findings(found) if each.level != "note"]


def findings(found: Status) -> list[Attention]:
    """With the notes, which need nobody: at the end."""
    ranked = judged([*_all(found)])
    return [
        Attention(
            each.level,
            "dead" if each.kind == "buried" else each.kind,
            each.what,
            None if each.since is None else iso_of(each.since),
            each.do,
            each.page,
            each.needs_somebody,
        )
        for each in ranked
    ]


def _all(found: Status) -> Iterator[Need]:
    outbox = found.outbox
    groups = found.stream.groups if found.stream else ()
    said = [] if outbox is None else waits([each.condition for each in outbox.living], groups)
    yield from said
    redis_said = any(each.kind == "redis" for each in said)  # since when, too
    for problem in found.problems:
        if problem.startswith("Postgres"):
            yield Need("bad", "database", problem + _until(found), None, POSTGRES_AWAY, page=PAGES["database"])
        elif found.misconfigured and not redis_said:
            yield Need("warn", "unreachable", problem, None, OURS_DO, page=PAGES["unreachable"])
        elif not redis_said:
            yield Need("bad", "unreachable", problem, None, remedy("redis", problem), page=PAGES["redis"])
    if outbox is not None:
        yield from _of_outbox(outbox)
        yield from _lost(found, outbox)
    groups = found.stream.groups if found.stream else ()
    dead = {group.name: group.dead for group in groups if group.dead}
    last = {group.name: group.put_away for group in groups if group.put_away}
    since = None if outbox is None else _first_said(outbox, "put-away")
    yield from group_needs.put_away(dead, since, last, found.now)
    yield from _half_read(found)
    yield from _unread(found)


def _until(found: Status) -> str:
    """Nobody could note since when Postgres is away; what the groups have read says until when events went out."""
    if found.stream is None or found.stream.read_to is None:
        return ""
    moment = needs.clock(found.stream.read_to, found.now)
    return f"; since about {moment} or later: then the newest event that a consumer has read went out"


def _of_outbox(outbox: OutboxStatus) -> Iterator[Need]:
    if outbox.copy:
        yield Need("bad", "copy", outbox.copy, None, "`dispatcher accept-copy`, when it is the outbox now.", None,
                   PAGES["copy"])  # fmt: skip
    if outbox.pause.paused:
        why = f" ({outbox.pause.reason})" if outbox.pause.reason else ""
        since = outbox.pause.changed_at.timestamp() if outbox.pause.changed_at else None
        what = f"Paused by {outbox.pause.changed_by}{why}: no event is taken"
        yield Need(TROUBLES["paused"].level, "paused", what, since, TROUBLES["paused"].do, page=PAGES["paused"])
    if not outbox.living:
        yield _nobody(outbox)
    elif outbox.disabled:
        yield needs.disabled(None, None, alone=False, name=", ".join(outbox.disabled))
    retrying = outbox.retrying
    if (overdue_s := outbox.overdue_s) > LATE_S:
        since = _first_said(outbox, "late") or outbox.now - overdue_s
        yield replace(needs.late(overdue_s, since), what=f"Events wait: the oldest is {overdue_s:.0f} s overdue")
    if outbox.snapshot is not None and snapshot_needs.slows(outbox.snapshot, outbox.now):
        yield snapshot_needs.snapshot(outbox.snapshot, outbox.now, _first_said(outbox, "snapshot"))
    by_dead = outbox.held.by_dead if outbox.held else 0
    if outbox.dead > by_dead:  # else the finding of what is held names the dead event
        newest = outbox.newest_dead_at
        fresh = newest is not None and outbox.now - newest < FRESH_DEAD_S
        yield needs.dead(outbox.dead, newest, outbox.newest_dead_error, outbox.dead_groups, fresh=fresh)
    if outbox.held is not None and outbox.held.aggregates:
        yield needs.held(outbox.held, outbox.now)
    elif retrying is not None and retrying.events:
        most = next((each.condition.max_attempts for each in outbox.living if each.condition.max_attempts), None)
        yield needs.retrying(retrying, most, outbox.now)
    tick_s = max((each.condition.tick_s for each in outbox.living if each.condition.tick_s), default=None)
    if outbox.doorbell != "installed":
        yield wake_needs.doorbell(outbox.doorbell, _first_said(outbox, "doorbell"), tick_s)
    queue = wake_needs.notify_queue(outbox.notification_queue_usage, _first_said(outbox, "notify-queue"), tick_s)
    yield from [] if queue is None else [queue]
    living = {each.name for each in outbox.living}
    died = (each for one in outbox.living for each in one.condition.ended)
    yield from ended_needs.ended(died, living, outbox.now, [each.started_at.timestamp() for each in outbox.dispatchers])
    ended = [past for past in (each.condition.past for each in outbox.living) if past is not None]
    last = max(ended, key=lambda each: each.until, default=None)
    if last is not None and (over := needs.over(last, outbox.now)) is not None:
        yield over


def _first_said(outbox: OutboxStatus, kind: TroubleKind) -> float | None:
    """Since when a dispatcher has known of what this command sees too."""
    said = (
        seconds_of(trouble.since) for each in outbox.living for trouble in each.condition.told if trouble.kind == kind
    )
    return min((at for at in said if at is not None), default=None)


def _nobody(outbox: OutboxStatus) -> Need:
    """No enabled dispatcher lives. One that is disabled may run."""
    waiting, oldest_s = outbox.waiting, outbox.oldest_unsettled_age_s
    if outbox.disabled:
        since = outbox.now - oldest_s if waiting and oldest_s else None
        return needs.disabled(waiting, since, alone=True, name=outbox.disabled[0])
    return needs.nobody(waiting, oldest_s, outbox.last_seen, outbox.now)


def waits(conditions: Sequence[Condition], groups: Sequence[GroupInfo] = ()) -> list[Need]:
    """What the dispatchers say of themselves, each once, since the first of them has it."""
    said: dict[tuple[str, str | None, str | None], list[tuple[str, str, str]]] = {}
    tick_s = max((each.tick_s for each in conditions if each.tick_s), default=None)
    for each in conditions:
        for trouble in each.told:
            if trouble.looked_up:
                continue
            what = trouble.what
            if trouble.kind == "backpressure":
                what += f" of stream {each.stream} (MAXLEN {each.maxlen})"
                read = next((one for one in groups if one.name == group_of(trouble.reason or "")), None)
                what += group_needs.reads(read.last_read_age_s, read.lag, read.consumers, read.reader) if read else ""
            if trouble.kind == "listener":
                what += f"; {wake_needs.late_by(each.tick_s)}"
            said.setdefault((trouble.kind, trouble.reason, each.stream), []).append((trouble.since, what, trouble.do))
    found = []
    for (kind, reason, _), the_same in said.items():
        since, what, do = min(the_same)
        many = f" ({len(the_same)} of {len(conditions)} dispatchers)" if len(conditions) > 1 else ""
        level: Severity = "bad" if holds_up(kind) else wake_needs.unheard(tick_s) if kind == "listener" else "warn"
        if kind == "layout" and sum(len(each) for (of, *_), each in said.items() if of == kind) < len(conditions):
            level, what = "warn", f"Some dispatchers claim nothing for the streams, the others do: {reason}"
        found.append(Need(level, kind, what + many, seconds_of(since), do, page=page_of_trouble(kind, reason)))
    return found


def _lost(found: Status, outbox: OutboxStatus) -> Iterator[Need]:
    """A loss in Redis, and the groups that went with it; while Redis does not answer nobody knows which are back."""
    loss = latest_loss((each.at.timestamp(), each.rows) for each in outbox.losses)
    here = {group.name for group in found.stream.groups} if found.stream else set[str]()
    gone = gone_groups(outbox.known_groups, here, outbox.now)
    if (need := group_needs.lost(loss, gone, outbox.now)) is not None:
        yield need


def _half_read(found: Status) -> Iterator[Need]:
    exempt, shards = _exempt(found), dict[str, group_needs.SeenShard]()
    for key, info in (found.streams or {}).items():
        groups = [group for group in info.groups if not is_exempt(group.name, exempt)]
        reading = [group.name for group in groups if group.last_read_age_s is not None or not group.lag]
        shards[key] = group_needs.SeenShard(info.length, [group.name for group in groups], reading, info.oldest)
    yield from group_needs.half_read(shards)


def _exempt(found: Status) -> tuple[str, ...]:
    return next((each.condition.exempt for each in found.outbox.living), ()) if found.outbox else ()


def _unread(found: Status) -> Iterator[Need]:
    living = found.outbox.living if found.outbox else ()
    exempt = _exempt(found)
    maxlen = next((each.condition.maxlen for each in living if each.condition.maxlen), None)
    for group in found.stream.groups if found.stream else ():
        age_s = group.last_read_age_s
        if group.lag and not is_exempt(group.name, exempt) and age_s is not None and age_s > group_needs.UNREAD_S:
            yield group_needs.unread(group.name, group.lag, age_s, maxlen, found.now, None, group.reader)
