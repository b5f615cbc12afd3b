"""Whether there is room for the sessions of a dispatcher, and which one a running dispatcher goes without."""

from collections.abc import Iterable

from dispatcher.core.counted import counted
from dispatcher.core.findings.finding import Finding, ok, warning
from dispatcher.infra.postgres.session import Session
from dispatcher.infra.sqlfiles import load

WANTED = 6  # sessions of a dispatcher without handlers
LANES = frozenset({"lane-0", "lane-1", "lane-2"})
ALWAYS = frozenset({"control", "upkeep", "chores"})
REMEDY = (
    "raise the limit (ALTER ROLE ... CONNECTION LIMIT, ALTER DATABASE ... CONNECTION LIMIT, max_connections), or end "
    "sessions of others; a dispatcher works with fewer lanes, but writers wake it through control, and chores prunes"
)


async def sessions(session: Session) -> Finding:
    """Check the limits of role, database and server, and the sessions of the dispatchers that run."""
    [(role, database, server, of_role, of_database, of_server, names)] = await session.fetch(load("doctor_sessions"))
    said = []
    for what, limit, used in (
        ("this role", role, of_role),
        ("this database", database, of_database),
        ("the server", server, of_server),
    ):
        if 0 <= limit < WANTED:
            said.append(f"{what} may have {counted(limit, 'connection')}, a dispatcher opens {WANTED} or 7")
        elif 0 <= limit <= used:
            said.append(f"{what} has as many connections as it may have: {limit}")
    if not session.pooled:  # behind a transaction pooler a session has the name of whoever used it last
        said += [f"dispatcher {token} goes without {', '.join(purposes)}" for token, purposes in _missing(names)]
    if said:
        return warning("sessions", "; ".join(said), REMEDY)
    return ok("sessions", f"{of_server} of {counted(server, 'connection')} in use")


def _missing(names: Iterable[str]) -> list[tuple[str, list[str]]]:
    """The token of each dispatcher with what it has no session for. `names`: `dispatcher <purpose> <token> ...`."""
    held: dict[str, set[str]] = {}
    for name in names:
        words = name.split(" ")
        if len(words) > 3:
            held.setdefault(words[2], set()).add(words[1])
    found = []
    for token, purposes in sorted(held.items()):
        if purposes <= {"chores", "api"}:
            continue  # disabled
        wanted = ALWAYS | (LANES if purposes & LANES or "handlers" not in purposes else set())
        if missing := sorted(wanted - purposes):
            found.append((token, missing))
    return found
