"""Activity in Postgres: old snapshots, the notification queue, running dispatchers, the pause, the backlog."""

import json
from collections.abc import Sequence

from dispatcher.core.counted import counted
from dispatcher.core.findings import snapshot_needs
from dispatcher.core.findings.condition import Condition
from dispatcher.core.findings.finding import LEVEL_OF, Finding, bad, ok, warning
from dispatcher.core.findings.troubles import TROUBLES
from dispatcher.core.findings.wake_needs import QUEUE_BAD, QUEUE_WARN
from dispatcher.core.layout import Layout
from dispatcher.core.timestamps import iso_of
from dispatcher.infra.postgres.session import Session
from dispatcher.infra.sqlfiles import load
from dispatcher.ops import attention
from dispatcher.ops.layout import has_layout
from dispatcher.ops.pause import read_acknowledgements, read_switch
from dispatcher.ops.snapshots import read_snapshot

UNSEEN_TRANSACTIONS = 10_000  # the limit for a session whose age in seconds is not visible
LATE_WARNING_S, LATE_BAD_S = 10.0, 60.0
DEAD_COUNTED = 10_000
BACKLOG_DO = "see the other findings and the log of a dispatcher; if neither names a cause, start another one"


async def snapshot(session: Session, *, warning_s: float, bad_s: float, piled_up: bool = False) -> Finding:
    """Find the oldest snapshot: autovacuum cannot remove rows that died after it. Limits in seconds.

    `piled_up`: dead row versions are there, and who keeps them is named whatever its age.
    """
    holder = await read_snapshot(session.fetch)
    if holder is None:
        return ok("snapshot", "no transaction holds an old one")
    [(now,)] = await session.fetch("SELECT date_part('epoch', clock_timestamp())")
    need = snapshot_needs.snapshot(holder, now, old_s=warning_s, very_old_s=bad_s)
    # Those that may not see its age have the number of transactions.
    unseen = holder.since is None and holder.kind == "session" and holder.transactions >= UNSEEN_TRANSACTIONS
    if need.level == "bad":
        return bad("snapshot", need.what, need.do)
    if need.level == "warn" or unseen or (piled_up and holder.transactions >= snapshot_needs.SLOWS_TRANSACTIONS):
        return warning("snapshot", need.what, need.do)
    return ok("snapshot", need.what.partition(":")[0])


async def notify_queue(session: Session) -> Finding:
    """Check how full Postgres's notification queue is: a full one fails commits that ring."""
    [(usage,)] = await session.fetch("SELECT pg_notification_queue_usage()")
    said = f"{usage:.1%} full"
    if usage < QUEUE_WARN:
        return ok("notify-queue", said)
    remedy = TROUBLES["notify-queue"].do  # as `status` and the runbook have it
    if usage >= QUEUE_BAD:
        return bad("notify-queue", f"{said}; when it is full, commits that notify fail", remedy)
    return warning("notify-queue", said, remedy)


async def dispatchers(session: Session) -> Finding:
    """Check that a dispatcher runs, that each has a listener, and that all are of one version."""
    alive = await read_acknowledgements(session.fetch)
    if not alive:
        return warning("dispatchers", "none runs enabled", "start one with DISPATCHER_ENABLED=true")
    versions = sorted({str(each.version) for each in alive})
    said = f"{len(alive)} alive, version {', '.join(versions)}"
    if deaf := [each.name for each in alive if not each.registered]:
        remedy = "give them a direct connection (DISPATCH_LISTEN_URL), see listen"
        return warning("dispatchers", f"{said}; without a listener, so on their tick: {', '.join(deaf)}", remedy)
    if len(versions) > 1:
        return warning("dispatchers", said, "finish the rollout: they should be of one version")
    return ok("dispatchers", said)


async def layout(session: Session, ours: Layout, used: bool) -> Finding:
    """Check that the streams of these settings are those that stand in Postgres."""
    [(fingerprint, _, keys, former, seen, *_)] = await session.fetch(load("layout_state"))
    if used and ours.plain and fingerprint != ours.fingerprint and await has_layout(session):
        return ok("layout", "dispatchers that run have the one that stands; this environment names none")
    if used and fingerprint != ours.fingerprint:
        said = f"other streams stand in Postgres than in these settings ({ours}): a dispatcher with them claims nothing"
        do = "`dispatcher layout` shows both; give it the settings that stand, or set these there"
        if ours.plain:  # a shell names none most often; what the dispatchers say is in `waits`
            return Finding("layout", "warning", said, do, needs_somebody="no")
        return bad("layout", said, do)
    before = [key for key in dict.fromkeys([*former, *seen]) if key not in keys] if keys else []
    return ok("layout", f"{ours}{f'; keys before: {len(before)}, see `dispatcher layout`' if before else ''}")


async def pause(session: Session) -> Finding:
    switch = await read_switch(session.fetch)
    if not switch.paused:
        return ok("pause", "nobody paused")
    return bad("pause", f"paused {switch}", "`dispatcher resume`, when the pause has served its purpose")


async def dead_events(session: Session) -> Finding:
    """Check whether somebody has to decide about dead events."""
    [(dead, died_last)] = await session.fetch(load("count_dead"), {"bound": DEAD_COUNTED + 1})
    if not dead:
        return ok("dead-events", "none is dead")
    newest = json.loads(died_last) if died_last else {}
    many = f"more than {DEAD_COUNTED}" if dead > DEAD_COUNTED else f"{dead}"
    when = f", the newest since {iso_of(newest['at'])}" if newest.get("at") else ""
    error = f": {newest['error']}" if newest.get("error") else ""
    remedy = "`dispatcher dlq stats` has the commands of each error; mend the cause first"
    return warning("dead-events", f"{many} dead, and nobody has decided{when}{error}", remedy)


def waits(conditions: Sequence[Condition]) -> list[Finding]:
    """What the dispatchers themselves say that they wait for, each once."""
    said = attention.waits(conditions)
    if not said:
        return [ok("waits", "no dispatcher says that it waits for anything")]
    return [
        Finding(
            "waits",
            LEVEL_OF[need.level],
            need.what if need.since is None else f"{need.what}; since {iso_of(need.since)}",
            need.do,
            need.page,
        )
        for need in said
    ]


async def losses(session: Session) -> Finding:
    """Check whether Redis lost entries within the last day."""
    found = await session.fetch(load("status_losses"))
    recent = [
        f"'{stream}' at {at:%Y-%m-%d %H:%M:%S %z}: put back {counted(rows, 'row')}; {why}"
        for stream, at, rows, why, recent in found
        if recent
    ]
    if not recent:
        return ok("losses", "no audit found entries lost within the last day")
    remedy = "find out who or what did it; what was lost before DISPATCH_AUDIT_WINDOW_S: `dispatcher replay`"
    return warning("losses", f"Redis lost entries: {'; '.join(recent)}", remedy)


async def backlog(session: Session) -> Finding:
    """Check how overdue the oldest unsettled row is, and whether the clock went back and left rows in the future."""
    [(_, oldest_s, _)] = await session.fetch(load("sample"), {"bound": 1, "now": None})
    [(stranded, wait_s)] = await session.fetch(load("doctor_stranded"))
    if stranded and oldest_s < LATE_BAD_S:
        rows = counted(stranded, "row")
        said = f"{rows} in the future, by up to {wait_s:.0f} s: written or put back before Postgres's clock went back"
        remedy = (
            "a running dispatcher mends most retries; for what is not meant to wait: UPDATE messaging.message_outbox "
            "SET next_run_at = '1970-01-01 00:00:00+00' WHERE status IN ('pending', 'retry') AND next_run_at > now() "
            "AND next_run_at < 'infinity' AND (occurred_at > now() OR picked_at > now() "
            "OR (status = 'pending' AND picked_at IS NOT NULL) "
            "OR id IN (SELECT outbox_id FROM messaging.message_history WHERE at > now()))"
        )
        return (bad if wait_s >= LATE_BAD_S else warning)("backlog", said, remedy)
    if oldest_s < LATE_WARNING_S:
        return ok("backlog", f"the oldest unsettled row is {oldest_s:.1f} s overdue")
    said = f"the oldest unsettled row is {oldest_s:.0f} s overdue"
    if (await read_switch(session.fetch)).paused:
        return warning("backlog", f"{said}: everything is paused", "see pause")
    if any(each.condition.stops for each in await read_acknowledgements(session.fetch)):
        return (bad if oldest_s >= LATE_BAD_S else warning)(
            "backlog", said, "see waits: another dispatcher would wait too"
        )
    return (bad if oldest_s >= LATE_BAD_S else warning)("backlog", said, BACKLOG_DO)
