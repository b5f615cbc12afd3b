"""The migrations as SQL for others to run: a DBA, Alembic, Django. `dispatcher migrate` knows them as applied then."""

import hashlib
from collections.abc import Iterable

from dispatcher.core.errors import Misconfigured
from dispatcher.infra import sqlfiles

# Checksums of files that were replaced before anything was released. Where one of them is recorded the file is applied
# once more, and adds what is missing. Until commit d2f425b it was the first of six files; then all six in one, with the
# columns of the outbox in another order.
_REPLACED = {
    "20250203_message_outbox": (
        "5c237bccd76824694645fdea73e44083b9c929b21e00e884b32338d4f3907c3b",
        "3cf30bd13237a461faf27cfc05df0cb0571f7df2b4302d5763c7c3fd39c11ff9",
    )
}

LOCK = "1869968482, 2"  # advisory: one process migrates
TURN = f"SELECT pg_advisory_xact_lock({LOCK})"
TRIGGER = "doorbell"  # its name in the bookkeeping; unlike a migration it may change from release to release

BOOKKEEPING = """
DO $$
BEGIN
    IF to_regnamespace('messaging') IS NULL THEN
        CREATE SCHEMA messaging;
    END IF;
    IF to_regclass('messaging.schema_migration') IS NULL THEN
        CREATE TABLE messaging.schema_migration (
            name       text        NOT NULL,
            checksum   text        NOT NULL,
            applied_at timestamptz NOT NULL DEFAULT clock_timestamp(),
            CONSTRAINT schema_migration_pkey PRIMARY KEY (name)
        );
    END IF;
END
$$
"""
RECORDED = "SELECT name, checksum FROM messaging.schema_migration"

_HEAD = """-- The tables of outbox-dispatcher. Run it as the owner of the schema messaging, or with CREATE on the
-- database, any number of times: psql -v ON_ERROR_STOP=1 -f this.sql "$DATABASE_URL"
-- Each file is a transaction. One that cannot lock a busy table within 10 seconds fails: run all of it again.
"""


def checksum_of(sql: str) -> str:
    """What the bookkeeping keeps of a file."""
    return hashlib.sha256(sql.encode()).hexdigest()


def verify(name: str, recorded: str, checksum: str) -> None:
    """Raise Misconfigured when the file was applied with other contents than it has here."""
    if recorded != checksum and recorded not in _REPLACED.get(name, ()):
        raise Misconfigured(
            f"migration {name} was applied to this database with other contents "
            f"(sha256 {recorded[:12]} there, {checksum[:12]} here): a released migration must not change. "
            "Install the release that wrote it, or restore the file"
        )


def steps(*, trigger: bool = True) -> list[tuple[str, str]]:
    """Name and SQL of each file, in order."""
    found = [(each.name, each.sql) for each in sqlfiles.migrations()]
    return [*found, (TRIGGER, sqlfiles.trigger())] if trigger else found


def pending(recorded: Iterable[tuple[str, str]], *, trigger: bool = True) -> list[tuple[str, str]]:
    """What is to be run where these names and checksums are recorded: the first file that is missing and all after it,
    because an older file puts its own functions over those of later ones. Nothing, where a newer release migrated.

    Raises Misconfigured for a file that was applied with other contents.
    """
    known = dict(recorded)
    files = steps(trigger=False)
    if any(name[:8].isdigit() and name > files[-1][0] for name in known):
        return []
    sums = [(name, checksum_of(sql)) for name, sql in files]
    for name, checksum in sums:
        verify(name, known.get(name, checksum), checksum)
    missing = next((place for place, (name, checksum) in enumerate(sums) if known.get(name) != checksum), len(files))
    found = files[missing:]
    if trigger and (found or known.get(TRIGGER) != checksum_of(sqlfiles.trigger())):
        found.append((TRIGGER, sqlfiles.trigger()))
    return found


def noted(name: str, sql: str) -> str:
    """The SQL of a file, and after it what notes that it was run."""
    return (
        f"{sql.rstrip()}\n\n"
        f"INSERT INTO messaging.schema_migration AS m (name, checksum) VALUES ('{name}', '{checksum_of(sql)}')\n"
        "ON CONFLICT (name) DO UPDATE SET checksum = excluded.checksum, applied_at = clock_timestamp();\n"
    )


def script(*, trigger: bool = True) -> str:
    """All of it, for psql."""
    parts = [_HEAD, f"{BOOKKEEPING.strip()};\n"]
    for name, sql in steps(trigger=trigger):
        parts.append(f"BEGIN;\nSET LOCAL lock_timeout = '10s';\n{noted(name, sql)}COMMIT;\n")
    return "\n".join(parts)
