"""Who keeps dead row versions of the outbox by an old snapshot, so that every claim reads past them. Pure."""

from shlex import quote

from dispatcher.core.counted import counted
from dispatcher.core.findings.needs import Need, lasting
from dispatcher.core.findings.runbook import PAGES
from dispatcher.core.findings.troubles import Severity
from dispatcher.core.process_state import SnapshotHolder

OLD_S, VERY_OLD_S = 300.0, 3600.0  # a snapshot older than this is a warning; bad
OLD_TRANSACTIONS = 1_000_000  # a warning whatever the age, which is not always visible
# Younger ones, or with fewer transactions since then, are not why events are late.
SLOWS_S, SLOWS_TRANSACTIONS = 10.0, 200
_END = {
    "session": ("SELECT pg_terminate_backend({})", "end it when it is not wanted"),
    "prepared transaction": ("ROLLBACK PREPARED '{}'", "COMMIT PREPARED it, or"),
    "replication slot": ("SELECT pg_drop_replication_slot('{}')", "start its consumer, or"),
}


def slows(holder: SnapshotHolder | None, now: float) -> bool:
    """Whether claims may be slower for it. Where its age is not visible the transactions since then decide."""
    if holder is None or holder.transactions < SLOWS_TRANSACTIONS:
        return False
    return holder.since is None or now - holder.since >= SLOWS_S


def snapshot(
    holder: SnapshotHolder,
    now: float,
    seen: float | None = None,
    *,
    old_s: float = OLD_S,
    very_old_s: float = VERY_OLD_S,
) -> Need:
    """A note, unless it is old: whether events are late for it is decided in `causes`. `seen`: since when a dispatcher
    sees it, for a role that may not see when it began.
    """
    since = seen if holder.since is None else holder.since
    facts = [f"user {holder.user}" if holder.user else "", holder.application or "", holder.state or ""]
    who = ", ".join(filter(None, facts))
    what = f"The {holder.kind} {holder.name}{f' ({who})' if who else ''} holds the oldest snapshot"
    what += f" for {lasting(max(0.0, now - since))}" if since is not None else ""
    what += (
        f", {counted(holder.transactions, 'transaction')} ago: dead row versions stay, and every claim reads past them"
    )
    age_s = -1.0 if since is None else now - since
    level: Severity = "bad" if age_s >= very_old_s else "warn" if age_s >= old_s else "note"
    if level == "note" and holder.transactions >= OLD_TRANSACTIONS:
        level = "warn"
    return Need(level, "snapshot", what, since, remedy(holder), page=PAGES["snapshot"])


def remedy(holder: SnapshotHolder) -> str:
    """The commands that end the session or drop what holds the snapshot, whole, and how claims get fast again."""
    statement, how = _END[holder.kind]
    do = f"Ask whose it is, and {how}: `psql OWNER_URL -c {quote(statement.format(holder.name))}`, as the owner or a "
    do += "superuser. Claims are fast again once autovacuum has worked; at once: "
    return do + "`psql OWNER_URL -c 'VACUUM (ANALYZE) messaging.message_outbox'`."
