"""Applies sql/migrations and the doorbell to a database, once each, from as many processes at once as there are.

Each file runs in a transaction of its own under an advisory lock and is recorded in messaging.schema_migration with its
checksum. The files may be run any number of times, so a database that was made with plain psql is adopted by running
them once more. Nothing is locked for the whole session: this works through a transaction pooler too.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random

import anyio
import psycopg

from dispatcher.core.backoff import Backoff
from dispatcher.core.errors import DispatcherError, Misconfigured, SessionLost, Unreachable
from dispatcher.infra import sqlfiles
from dispatcher.infra.migration_script import BOOKKEEPING, TRIGGER, TURN, checksum_of, verify
from dispatcher.infra.postgres.connect import connect
from dispatcher.infra.postgres.session import Session, describe
from dispatcher.infra.postgres.tables import complete, missing, refuse_unfit
from dispatcher.infra.postgres.target import PostgresTarget
from dispatcher.infra.sqlfiles import load

_TURN_S = 60.0  # how long one process waits for another one's migration
_LOCK_S = 1.0  # writers queue behind a waiting DDL statement, so it waits briefly and comes back
_LOCK_TRIES = 10
_STATEMENT_S = 600.0
_LEAP = 1000
_PAUSE = Backoff(base_s=0.2, cap_s=2.0)

_HAS_TRIGGER = """
SELECT 1 FROM pg_catalog.pg_trigger
WHERE tgrelid = 'messaging.message_outbox'::regclass AND tgname = 'message_outbox_doorbell'
"""
# Names begin with a date, but for the trigger's.
_NEWER = """
SELECT m.name FROM messaging.schema_migration AS m WHERE m.name ~ '^[0-9]{8}_' AND m.name > %(last)s ORDER BY m.name
"""
_INVALID = """
SELECT c.relname::text FROM pg_catalog.pg_index AS i JOIN pg_catalog.pg_class AS c ON c.oid = i.indexrelid
WHERE c.relnamespace = to_regnamespace('messaging') AND NOT i.indisvalid AND c.relname !~ '_cc(new|old)[0-9]*$'
ORDER BY c.relname
"""
_WHOSE = """
SELECT quote_ident(current_user), quote_ident(current_database()),
       (SELECT quote_ident(pg_get_userbyid(datdba)) FROM pg_catalog.pg_database WHERE datname = current_database()),
       to_regnamespace('messaging') IS NOT NULL,
       (
           SELECT min(quote_ident(pg_get_userbyid(owned.owner))) FROM (
               SELECT nspowner AS owner FROM pg_catalog.pg_namespace WHERE nspname = 'messaging'
               UNION
               SELECT relowner FROM pg_catalog.pg_class
               WHERE relnamespace = to_regnamespace('messaging') AND relkind = 'r'
           ) AS owned
           WHERE NOT pg_has_role(owned.owner, 'USAGE')
       )
"""
# Since PostgreSQL 17: a role's own limit would end the wait for our turn.
_NO_TRANSACTION_TIMEOUT = (
    "SELECT set_config(name, '0', true) FROM pg_catalog.pg_settings WHERE name = 'transaction_timeout'"
)
_RECORD = """
INSERT INTO messaging.schema_migration AS m (name, checksum) VALUES (%(name)s, %(checksum)s)
ON CONFLICT (name) DO UPDATE SET checksum = excluded.checksum, applied_at = clock_timestamp()
"""


async def migrate(
    conninfo: str,
    *,
    trigger: bool = True,
    connect_timeout_s: float = 10.0,
    lock_tries: int = _LOCK_TRIES,
    note: Callable[[str], object] = lambda text: None,
) -> list[str]:
    """Bring a database up to date; the names of what was applied, in order, none when there was nothing to do.

    `note(text)` is called for what a person should know: the tables are of a newer release, an index is not used.
    Raises Misconfigured (a right, the server's version, a changed file ...), Unreachable, or DispatcherError when the
    tables stay locked by somebody else.
    """
    target = PostgresTarget(conninfo, "dispatcher", connect_timeout_s=connect_timeout_s, query_timeout_s=_STATEMENT_S)
    session = await connect(target, "migrate")
    try:
        steps = [(m.name, m.sql) for m in sqlfiles.migrations()]
        if trigger:
            steps.append((TRIGGER, sqlfiles.trigger()))
        await refuse_unfit(session, f"Postgres at {target.address()}")
        if newer := await _newer(session):
            await _leave_alone(session, target, ", ".join(newer), note)
            return []
        applied: list[str] = []
        for name, sql in steps:
            # After a file that was applied again: it puts its own, older functions over those of the later ones.
            again = name != TRIGGER and bool(applied)
            if await _apply_patiently(session, name, sql, lock_tries, again=again):
                applied.append(name)
        for (name,) in await session.fetch(_INVALID):
            remedy = f"REINDEX INDEX CONCURRENTLY messaging.{name}"
            note(f"the index messaging.{name} is not valid, so it is not used: {remedy}")
        return applied + await _raise_sequences(session)
    except SessionLost as error:
        raise Unreachable(f"the connection to Postgres at {target.address()} broke while migrating ({error})") from None
    finally:
        await session.close()


async def _newer(session: Session) -> list[str]:
    """Migrations of a newer release that were applied already."""
    try:
        if await session.fetch("SELECT 1 WHERE to_regclass('messaging.schema_migration') IS NULL"):
            return []
        return [name for (name,) in await session.fetch(_NEWER, {"last": sqlfiles.migrations()[-1].name})]
    except psycopg.errors.InsufficientPrivilege:
        return []  # said better when it is written


async def _leave_alone(session: Session, target: PostgresTarget, newer: str, note: Callable[[str], object]) -> None:
    """Change nothing: our trigger and functions would replace those of a newer release. Raises Misconfigured."""
    if gone := await missing(session):
        raise Misconfigured(
            f"Postgres at {target.address()} was migrated by a newer release ({newer}), and lacks {', '.join(gone)}: "
            "run `dispatcher migrate` of that release"
        )
    note(f"the tables are those of a newer release ({newer}): nothing was changed")


async def _apply_patiently(session: Session, name: str, sql: str, tries: int, *, again: bool) -> bool:
    rng = Random()  # noqa: S311 -- jitter
    for attempt in range(1, tries + 1):
        try:
            return await _apply(session, name, sql, again=again)
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            if attempt < tries:
                await anyio.sleep(_PAUSE.reconnect_delay(attempt, rng))
        except psycopg.errors.InsufficientPrivilege as error:
            [whose] = await session.fetch(_WHOSE)
            raise _forbidden(name, error.diag.message_primary or "no right", *whose) from None
        except psycopg.Error as error:
            raise _explain(name, error) from None
    raise DispatcherError(
        f"{name} could not lock messaging.message_outbox in {tries} tries: a transaction holds it. "
        "Look for it in pg_stat_activity (state 'idle in transaction', oldest xact_start), end it, and migrate again"
    )


async def _apply(session: Session, name: str, sql: str, *, again: bool) -> bool:
    """Apply one file unless it is recorded, or `again` all the same. False: there was nothing to do."""
    checksum = checksum_of(sql)
    async with _turn(session):
        await session.script(BOOKKEEPING)
        recorded = await session.fetch(
            "SELECT checksum FROM messaging.schema_migration WHERE name = %(name)s", {"name": name}
        )
        if recorded and name != TRIGGER:
            verify(name, recorded[0][0], checksum)
        # What is recorded may have been dropped since; the files mend that.
        if not again and recorded and recorded[0][0] == checksum and await _is_there(session, name, sql):
            return False
        await session.script(sql)
        await session.fetch(_RECORD, {"name": name, "checksum": checksum})
    return True


async def _raise_sequences(session: Session) -> list[str]:
    """Set sequences that were left behind by a restore or a logical upgrade: the ids they would give are taken."""
    behind = await session.fetch(load("sequences_behind"))
    for sequence, _, highest, _ in behind:
        # Beyond the highest: until now others may have taken numbers between.
        await session.fetch("SELECT setval(%(of)s::regclass, %(to)s)", {"of": sequence, "to": highest + _LEAP})
    return [f"{sequence} = {highest + _LEAP} (it was left behind)" for sequence, _, highest, _ in behind]


async def _is_there(session: Session, name: str, sql: str) -> bool:
    if name == TRIGGER:
        return bool(await session.fetch(_HAS_TRIGGER))
    return await complete(session, sql)


@asynccontextmanager
async def _turn(session: Session) -> AsyncIterator[None]:
    """One transaction, alone among migrating processes. Undone when its body raises."""
    # One script: nothing is sent between BEGIN and the settings that could meet another isolation level or timeout.
    await session.script(
        "BEGIN ISOLATION LEVEL READ COMMITTED;"
        "SET LOCAL synchronous_commit = on;"
        f"SET LOCAL statement_timeout = '{_STATEMENT_S:.0f}s';"
        f"SET LOCAL lock_timeout = '{_TURN_S:.0f}s';"
        f"SET LOCAL idle_in_transaction_session_timeout = '60s'; {_NO_TRANSACTION_TIMEOUT}"
    )
    try:
        try:
            await session.fetch(TURN)
        except psycopg.errors.LockNotAvailable:
            raise DispatcherError(
                f"another process has been migrating this database for more than {_TURN_S:.0f} s; try again later"
            ) from None
        await session.script(f"SET LOCAL lock_timeout = '{_LOCK_S * 1000:.0f}ms'")
        yield
    except BaseException:
        if not session.closed:
            await session.script("ROLLBACK")
        raise
    await session.script("COMMIT")


def _explain(name: str, error: psycopg.Error) -> DispatcherError:
    primary = error.diag.message_primary or type(error).__name__
    match error:
        case psycopg.errors.ReadOnlySqlTransaction():
            return Misconfigured("this database is read-only (a replica?); point DATABASE_URL at the primary")
        case psycopg.errors.UndefinedColumn():
            return Misconfigured(
                f"{name} does not fit the tables that are there: {primary}. "
                "A table in the schema messaging was not made by these migrations; rename it and migrate again"
            )
        case _:
            return DispatcherError(f"{name} failed: {describe(error)}")


def _forbidden(
    name: str, refusal: str, role: str, database: str, its_owner: str, has_schema: bool, not_ours: str | None
) -> Misconfigured:
    """Which right is missing, and who has it or can give it."""
    if not has_schema:
        return Misconfigured(
            f"role {role} may not migrate: it lacks CREATE on the database ({refusal}). As {its_owner}, who owns it: "
            f"GRANT CREATE ON DATABASE {database} TO {role}; or let {its_owner} migrate"
        )
    if not_ours is not None:
        return Misconfigured(
            f"role {role} may not migrate: the schema messaging, or a table in it, belongs to {not_ours} ({refusal}). "
            f"Migrate as {not_ours}, or GRANT {not_ours} TO {role}. A dispatcher needs neither: its role is "
            "outbox_dispatcher (`dispatcher sql roles`)"
        )
    return Misconfigured(f"role {role} may not migrate: {refusal} (in {name})")
