"""Storage of the outbox: durability, free room in its pages, autovacuum, dead row versions."""

from datetime import datetime

from dispatcher.core.counted import counted
from dispatcher.core.findings.finding import Finding, bad, ok, warning
from dispatcher.core.timestamps import iso
from dispatcher.infra.postgres.session import Session
from dispatcher.infra.sqlfiles import load

OUTBOX = "message_outbox"
FILLFACTOR = 44
ROOMY = 50  # up to here most claims find room in their page
# What sql/migrations sets; a test holds a fresh database to it.
SETTINGS = {
    "fillfactor": str(FILLFACTOR),
    "autovacuum_vacuum_scale_factor": "0.02",
    "autovacuum_vacuum_threshold": "5000",
    "autovacuum_vacuum_insert_scale_factor": "0.05",
    "autovacuum_analyze_scale_factor": "0.05",
    "autovacuum_vacuum_cost_delay": "0",
}
DEAD_SHARE = 0.5  # dead row versions for each live row

Table = tuple[dict[str, str], int, int, datetime | None]


async def settings(session: Session) -> Finding:
    """Check fillfactor and autovacuum settings against those of the migrations."""
    options = (await _tables(session))[OUTBOX][0]
    wrong = {name: value for name, value in SETTINGS.items() if options.get(name) != value}
    if not wrong:
        return ok("storage", f"fillfactor {FILLFACTOR}, autovacuum settings as migrated")
    remedy = f"ALTER TABLE messaging.{OUTBOX} SET ({', '.join(f'{name} = {value}' for name, value in wrong.items())})"
    said = ", ".join(f"{name} is {options.get(name, 'not set')} instead of {value}" for name, value in wrong.items())
    if int(options.get("fillfactor", "100")) > ROOMY:
        said += "; claims find no room in their page and cost every index an entry"
        remedy += "; it counts for pages written from then on"
    return warning("storage", said, remedy)


async def autovacuum(session: Session) -> Finding:
    """Check that autovacuum runs."""
    [(*_, runs)] = await session.fetch(load("doctor_server"))
    if not runs:
        return bad(
            "autovacuum",
            "autovacuum is off on this server",
            "ALTER SYSTEM SET autovacuum = on; SELECT pg_reload_conf()",
        )
    off = [
        name
        for name, (options, *_) in (await _tables(session)).items()
        if options.get("autovacuum_enabled") in ("false", "off", "0")
    ]
    if off:
        remedy = "; ".join(f"ALTER TABLE messaging.{name} RESET (autovacuum_enabled)" for name in off)
        return bad(
            "autovacuum",
            f"autovacuum is off for {', '.join(off)}: dead row versions pile up and every query gets slower",
            remedy,
        )
    return ok("autovacuum", "it runs")


async def durability(session: Session) -> Finding:
    """Check that a crash of Postgres keeps every event, and that it is noticed afterwards."""
    [(lost, kept, _)] = await session.fetch(load("doctor_durability"))
    if lost:
        remedy = "; ".join(f"ALTER TABLE messaging.{name} SET LOGGED" for name in lost)
        return bad("durability", f"unlogged: {', '.join(lost)}. A crash of Postgres empties it", remedy)
    if kept:
        said = "messaging.unbroken is logged: a crash of Postgres would go unnoticed, and events would be doubled"
        return bad("durability", said, "ALTER TABLE messaging.unbroken SET UNLOGGED")
    return ok("durability", "a crash of Postgres keeps the tables, and is noticed")


async def fsync(session: Session) -> Finding:
    """Check that a crash of the machine keeps what was committed."""
    [(*_, off)] = await session.fetch(load("doctor_durability"))
    if off:
        remedy = "; ".join(f"ALTER SYSTEM SET {name} = on" for name in off)
        said = f"{' and '.join(off)} off: a crash of the machine may lose or damage everything"
        return warning("fsync", said, f"{remedy}; SELECT pg_reload_conf()")
    return ok("fsync", "commits are on disk")


async def dead_rows(session: Session, *, few: int) -> Finding:
    """Check the number of dead row versions, by Postgres's statistics. Up to `few` are no problem."""
    said, much = [], []
    for name, (_, live, dead, vacuumed) in (await _tables(session)).items():
        when = f"vacuumed {iso(vacuumed, 'seconds')}" if vacuumed else "never vacuumed"
        said.append(f"{name} has {counted(dead, 'dead row version')} beside {counted(live, 'live row')}, {when}")
        if dead > max(few, DEAD_SHARE * live):
            much.append(name)
    if not much:
        return ok("dead-rows", "; ".join(said))
    remedy = "; ".join(f"VACUUM (ANALYZE) messaging.{name}" for name in much)
    return warning("dead-rows", "; ".join(said), f"{remedy}. When that removes few, end what `snapshot` names first")


async def _tables(session: Session) -> dict[str, Table]:
    found: dict[str, Table] = {}
    for name, options, live, dead, vacuumed in await session.fetch(load("doctor_storage")):
        found[name] = (dict(option.split("=", 1) for option in options), live, dead, vacuumed)
    return found
