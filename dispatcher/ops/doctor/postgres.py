"""The Postgres server as a whole: its version, and whether it takes writes."""

from dispatcher.core.findings.finding import Finding, bad, ok
from dispatcher.infra.postgres.session import Session
from dispatcher.infra.postgres.target import PostgresTarget
from dispatcher.infra.sqlfiles import load


async def check_server(session: Session, target: PostgresTarget) -> list[Finding]:
    """Two findings: the version, address and role; and whether the server takes writes."""
    [(version, standby, read_only, role, _)] = await session.fetch(load("doctor_server"))
    pooler = ", through a transaction pooler" if session.pooled else ""
    if session.behind_pooler and not session.pooled:
        pooler = ", through a pooler that keeps sessions"
    found = [ok("postgres", f"PostgreSQL {version} at {target.address()} as {role}{pooler}")]
    if standby:
        remedy = "point DATABASE_URL at the primary (with several hosts in it: target_session_attrs=read-write)"
        found.append(bad("primary", "it is a standby and takes no writes", remedy))
    elif read_only:
        remedy = (
            "find out who made it read-only: SHOW default_transaction_read_only; it may be set for the database or the "
            "role (ALTER DATABASE ... RESET default_transaction_read_only)"
        )
        found.append(bad("primary", "transactions are read-only", remedy))
    else:
        found.append(ok("primary", "it takes writes"))
    return found
