"""What goes on in Postgres: old snapshots, the notification queue, who dispatches, and what waits."""

from dispatcher.core.finding import Finding, bad, ok, unknown, warning
from dispatcher.infra.postgres.session import Session
from dispatcher.infra.sqlfiles import load
from dispatcher.ops.pause import read_acknowledgements, read_switch

OLD_TRANSACTIONS = 1_000_000  # where no time is to be had
QUEUE_WARNING, QUEUE_BAD = 0.1, 0.5  # of the notification queue
LATE_WARNING_S, LATE_BAD_S = 10.0, 60.0


async def snapshot(session: Session, *, warning_s: float, bad_s: float) -> Finding:
    """Who holds the oldest snapshot, which keeps dead rows from being removed."""
    held = await session.fetch(load("doctor_snapshots"))
    if not held:
        return ok("snapshot", "nobody holds one")
    [(kind, name, user, application, state, held_s, transactions)] = held
    facts = [f"user {user}" if user else "", application or "", state or "", f"{transactions} transactions ago"]
    who = f"{kind} {name} ({', '.join(filter(None, facts))})"
    since = f" for {held_s:.0f} s" if held_s is not None else ""
    said = f"{who} holds the oldest{since}"
    remedies = {
        "session": f"end it when it is not wanted: SELECT pg_terminate_backend({name})",
        "prepared transaction": f"COMMIT PREPARED '{name}' or ROLLBACK PREPARED '{name}'",
        "replication slot": f"start its consumer, or SELECT pg_drop_replication_slot('{name}')",
    }
    remedy = f"{remedies[kind]}; until then dead rows stay, and every look at the outbox walks past them"
    if held_s is None and transactions < OLD_TRANSACTIONS:
        if kind == "session":
            return unknown("snapshot", f"{said}, since when may not be seen", "GRANT pg_read_all_stats to this role")
        return ok("snapshot", said)
    if held_s is not None and held_s >= bad_s:
        return bad("snapshot", said, remedy)
    if held_s is None or held_s >= warning_s:
        return warning("snapshot", said, remedy)
    return ok("snapshot", said)


async def notify_queue(session: Session) -> Finding:
    """How full the queue is in which notifications wait for their listeners."""
    [(usage,)] = await session.fetch("SELECT pg_notification_queue_usage()")
    said = f"{usage:.1%} full"
    if usage < QUEUE_WARNING:
        return ok("notify-queue", said)
    remedy = (
        "end the session that LISTENs and sits in a transaction: SELECT pid, xact_start, query FROM pg_stat_activity "
        "WHERE state LIKE 'idle in transaction%' ORDER BY xact_start"
    )
    if usage >= QUEUE_BAD:
        return bad("notify-queue", f"{said}; when it is full, commits that ring fail", remedy)
    return warning("notify-queue", said, remedy)


async def dispatchers(session: Session) -> Finding:
    """Who takes rows."""
    alive = await read_acknowledgements(session)
    if not alive:
        return warning("dispatchers", "none takes rows", "start one with DISPATCHER_ENABLED=true")
    versions = sorted({str(word.version) for word in alive})
    said = f"{len(alive)} alive, version {', '.join(versions)}"
    if deaf := [word.name for word in alive if not word.registered]:
        remedy = "give them a direct connection (DISPATCH_LISTEN_URL), see listen"
        return warning("dispatchers", f"{said}; without a listener, so on their tick: {', '.join(deaf)}", remedy)
    if len(versions) > 1:
        return warning("dispatchers", said, "finish the rollout: they should be of one version")
    return ok("dispatchers", said)


async def pause(session: Session) -> Finding:
    """Whether somebody holds all dispatchers back."""
    switch = await read_switch(session)
    if not switch.paused:
        return ok("pause", "nobody paused")
    why = f": {switch.reason}" if switch.reason else ""
    said = f"paused since {switch.changed_at:%Y-%m-%d %H:%M:%S%z} by {switch.changed_by}{why}"
    return warning("pause", said, "`dispatcher resume`, when it is not wanted any more")


async def backlog(session: Session) -> Finding:
    """How late the oldest row is."""
    [(_, oldest_s, _)] = await session.fetch(load("sample"), {"bound": 1, "now": None})
    if oldest_s < LATE_WARNING_S:
        return ok("backlog", f"the oldest unsettled row is {oldest_s:.1f} s overdue")
    said = f"the oldest unsettled row is {oldest_s:.0f} s overdue"
    remedy = "see the other findings; with none bad, start another dispatcher"
    return (bad if oldest_s >= LATE_BAD_S else warning)("backlog", said, remedy)
