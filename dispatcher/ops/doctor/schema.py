"""The schema against that of this release: tables, rights, trigger, indexes."""

import re

from dispatcher.core.counted import counted
from dispatcher.core.findings.finding import Finding, bad, ok, unknown, warning
from dispatcher.core.findings.remedies import GIVE_RIGHTS
from dispatcher.core.findings.troubles import MIGRATE
from dispatcher.core.findings.wake_needs import ENABLE_TRIGGER
from dispatcher.infra import sqlfiles
from dispatcher.infra.postgres.session import Session
from dispatcher.infra.postgres.tables import missing, unfit, why_copy
from dispatcher.infra.sqlfiles import load
from dispatcher.ops.trials import run_trials

# A claim writes these: an index on one ends heap-only updates, and each claim costs every index an entry.
WRITTEN_BY_A_CLAIM = {"status", "picked_at", "picked_by", "claim_id", "stream_id"}


async def tables(session: Session) -> Finding:
    """Check that every migration was applied, and that the tables are plain ones without children."""
    if wrong := await unfit(session):
        return bad("tables", "; ".join(what for what, _ in wrong), "; ".join(remedy for _, remedy in wrong))
    gone = await missing(session)
    if gone:
        none = len(gone) == len(sqlfiles.migrations())
        found = "there is no outbox in this database" if none else f"not migrated: {', '.join(gone)}"
        do = f"as the owner {MIGRATE}, or the application's own migration (Alembic, Django)"
        return bad("tables", found, do)
    return ok("tables", f"{counted(len(sqlfiles.migrations()), 'migration')} applied")


async def trials(session: Session) -> list[Finding]:
    """Run the statements of a dispatcher in a transaction that is rolled back: one finding each."""
    found = []
    for tried in await run_trials(session):
        check = f"try-{tried.trial.name}"
        if tried.result == "ok":
            found.append(ok(check, "Postgres does it, as this role"))
        elif tried.result == "refused":
            found.append(bad(check, tried.words, tried.remedy))
        else:
            first = "mend what `try-insert` or `try-claim` says, then " if tried.result == "skipped" else ""
            found.append(unknown(check, f"not tried: {tried.words}", f"{first}run it again"))
    return found


async def home(session: Session) -> Finding:
    """Check that the outbox is no copy of another one."""
    if why := await why_copy(session, settle=False):
        said, _, remedy = why.partition(". Nothing is claimed")
        return bad("home", said, f"nothing is claimed{remedy}")
    return ok("home", "the outbox is no copy of another one")


async def rights(session: Session) -> Finding:
    """Check this role's rights for all that a dispatcher does."""
    denied = [what for (what,) in await session.fetch(load("rights"))]
    if denied:
        return bad("rights", f"this role lacks {'; '.join(denied)}", GIVE_RIGHTS)
    return ok("rights", "this role may do what a dispatcher does")


async def trigger(session: Session, *, wanted: bool) -> Finding:
    """Check the doorbell trigger. `wanted`: it should be installed."""
    found = await session.fetch(load("doctor_trigger"))
    if not found:
        if not wanted:
            return ok("trigger", "the doorbell is not installed, as --no-trigger says: events go out on the tick")
        said = "the doorbell is not installed: events go out on the tick only"
        return Finding("trigger", "bad", said, f"as the owner of the table: {MIGRATE}", needs_somebody="by morning")
    [(fires, deferred, sources)] = found
    if fires not in ("O", "A"):
        said = "disabled" if fires == "D" else "enabled for replication only"
        said = f"the doorbell is {said}: events go out on the tick only"
        return Finding("trigger", "bad", said, ENABLE_TRIGGER, needs_somebody="by morning")  # as `status` has it
    again = (
        f"as the owner of the table `DROP TRIGGER message_outbox_doorbell ON messaging.message_outbox`, then {MIGRATE}"
    )
    if not deferred:
        said = "the doorbell rings at the insert, not at the commit: one open transaction keeps others from ringing"
        return warning("trigger", said, again)
    ours = sqlfiles.trigger()
    if len(sources) != 1 or not all(source.strip() in ours for source in sources):
        return warning("trigger", "the doorbell is not that of this release", again)
    return ok("trigger", "the doorbell is installed and enabled")


async def sequences(session: Session) -> Finding:
    """Check that no sequence gives ids that are taken, as after a restore or a logical upgrade."""
    outbox = "messaging.message_outbox_id_seq"
    # The dispatchers' own statements need neither of the other two.
    behind = [each for each in await session.fetch(load("sequences_behind")) if each[0] == outbox or each[3]]
    if not behind:
        return ok("sequences", "none gives ids that are taken")
    said = "; ".join(f"{name} is at {value}, though {highest} is taken" for name, value, highest, _ in behind)
    remedy = f"{MIGRATE} as the owner, or " + "; ".join(
        f"SELECT setval('{name}', {highest + 1000})" for name, _, highest, _ in behind
    )
    if any(name == outbox and taken for name, *_, taken in behind):
        return bad("sequences", f"{said}: INSERTs of applications are refused as duplicate keys", remedy)
    return warning("sequences", f"{said}: INSERTs are refused as duplicate keys when it comes there", remedy)


async def indexes(session: Session) -> Finding:
    """Check that every index exists and is valid, and that none makes claims more costly."""
    there = {
        name: (valid, kind, of, columns)
        for name, valid, kind, of, columns in await session.fetch(load("doctor_indexes"))
    }
    makers = _makers()
    gone = [name for name in makers if name not in there]
    if gone:
        return bad("indexes", f"missing: {', '.join(gone)}", "; ".join(makers[name] for name in gone))
    broken = [name for name, (valid, *_) in there.items() if not valid]
    if broken:
        remedy = "; ".join(f"REINDEX INDEX CONCURRENTLY messaging.{name}" for name in broken)
        return bad("indexes", f"not valid, so not used: {', '.join(broken)}", remedy)
    costly = [
        name
        for name, (_, kind, of, columns) in there.items()
        if of == "message_outbox" and kind != "brin" and WRITTEN_BY_A_CLAIM & set(columns)
    ]
    if costly:
        said = f"{', '.join(costly)} reads a column that every claim writes: claims are not heap-only any more"
        return warning("indexes", said, "; ".join(f"DROP INDEX CONCURRENTLY messaging.{name}" for name in costly))
    return ok("indexes", f"{len(makers)} are there and valid")


def _makers() -> dict[str, str]:
    """The statement that creates each index of the migrations, by its name."""
    makers: dict[str, str] = {}
    for migration in sqlfiles.migrations():
        for unique, name, rest in re.findall(
            r"^CREATE (UNIQUE )?INDEX IF NOT EXISTS (\w+)([^;]+);", migration.sql, re.MULTILINE
        ):
            makers[name] = f"CREATE {unique}INDEX CONCURRENTLY {name}" + re.sub(r"\s+", " ", rest)
        for table, body in re.findall(
            r"^CREATE TABLE IF NOT EXISTS (messaging\.\w+) \((.*?)^\)", migration.sql, re.MULTILINE | re.DOTALL
        ):
            for name, what in re.findall(r"CONSTRAINT (\w+) ((?:PRIMARY KEY|UNIQUE)[^\n]*?),?(?: --[^\n]*)?\n", body):
                makers[name] = f"ALTER TABLE {table} ADD CONSTRAINT {name} {what}"
    return makers
