"""The outbox of one of Django's databases: what is applied there, and the rest, as `dispatcher migrate` does it.

Both keep the same notes (messaging.schema_migration: names and checksums), so either may come first.
"""

import pkgutil
import time
from importlib import import_module
from typing import Any

from django.conf import settings
from django.db import OperationalError, connections, router, transaction
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder

from dispatcher.client.django.apps import LABEL
from dispatcher.core.outages import sqlstate_of
from dispatcher.infra import migration_script, sqlfiles

TURN_S = 60  # how long we wait for another process that migrates
LOCK_S = 1  # writers queue behind a waiting DDL statement, so it waits briefly and comes back
TRIES = 10
EVENTS = ("message_outbox", "message_dlq", "message_history")  # the tables of events; the rest is state of dispatchers

_LOCK_NOT_AVAILABLE, _DEADLOCK = "55P03", "40P01"


def hosts_outbox(alias: str) -> bool:
    """Whether the outbox may be in this database: it is Postgres, and the routers allow the app's migrations there."""
    return connections[alias].vendor == "postgresql" and bool(router.allow_migrate(alias, LABEL))


def recorded(connection: Any) -> dict[str, str] | None:
    """Names and checksums of what is applied; None: there is no outbox. Raises an error of the database."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass('messaging.schema_migration') IS NOT NULL")
        if not cursor.fetchone()[0]:
            return None
        cursor.execute(migration_script.RECORDED)
        return dict(cursor.fetchall())


def pending(known: dict[str, str]) -> list[tuple[str, str]]:
    """Name and SQL of what is missing. Raises Misconfigured for a file that was applied with other contents."""
    return migration_script.pending(known.items(), trigger=getattr(settings, "OUTBOX_TRIGGER", True))


def bring_up(connection: Any, upto: str | None = None) -> None:
    """Apply what is missing: all of it, or the files up to that one, without the doorbell.

    A busy table is waited for as `dispatcher migrate` does: its writers never queue behind us for more than a second.
    Not in a savepoint: the row of messaging.unbroken compares its xmin with the number of the transaction.
    """
    for left in reversed(range(TRIES)):
        try:
            with transaction.atomic(using=connection.alias), connection.cursor() as cursor:
                _bring_up(connection, cursor, upto)
            return
        except OperationalError as error:
            if not left or sqlstate_of(error) not in (_LOCK_NOT_AVAILABLE, _DEADLOCK):
                raise
        time.sleep(0.1 * (TRIES - left))


def _bring_up(connection: Any, cursor: Any, upto: str | None) -> None:
    cursor.execute(f"SET LOCAL lock_timeout = '{TURN_S}s'")
    cursor.execute(migration_script.TURN)
    cursor.execute(f"SET LOCAL lock_timeout = '{LOCK_S}s'")
    known = recorded(connection) or {}
    todo = pending(known)
    if upto is not None:
        # Files that are applied come again after one that was missing: it puts its older functions over theirs.
        todo = [
            (name, sql) for name, sql in todo if name != migration_script.TRIGGER and (name <= upto or name in known)
        ]
    if todo:
        cursor.execute(migration_script.BOOKKEEPING)
    for name, sql in todo:
        cursor.execute(migration_script.noted(name, sql))
    cursor.execute("SET LOCAL lock_timeout = DEFAULT")  # other operations of the migration have their own


def complete(alias: str) -> None:
    """After `manage.py migrate`, once all migrations of the app are applied: what is missing all the same.

    That is the doorbell, which may change in a release that has no new migration; all of it where the project has
    switched migrations off (MIGRATION_MODULES, `pytest --nomigrations`); and what was dropped by hand.
    """
    if not hosts_outbox(alias):
        return
    connection = connections[alias]
    module, _ = MigrationLoader.migrations_module(LABEL)
    if module is not None:
        names = {found.name for found in pkgutil.iter_modules(import_module(module).__path__)}
        applied = {name for label, name in MigrationRecorder(connection).applied_migrations() if label == LABEL}
        if not names <= applied:
            return
    if pending(recorded(connection) or {}):
        bring_up(connection)


def drop(connection: Any) -> None:
    """Drop the outbox, if it holds no event that somebody may need and no dispatcher runs on it: drop_outbox.sql."""
    with connection.cursor() as cursor:
        cursor.execute(sqlfiles.client("drop_outbox"))


def empty(alias: str) -> None:
    """Delete all events, their copies and their history. The tables, and the state of dispatchers, stay."""
    if not hosts_outbox(alias):
        return
    with connections[alias].cursor() as cursor:
        cursor.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = to_regnamespace('messaging') AND relkind = 'r'"
        )
        there = {name for (name,) in cursor.fetchall()}
        for name in EVENTS:
            if name in there:  # DELETE: a TRUNCATE of so few rows takes longer, and waits for a dispatcher
                cursor.execute(f"DELETE FROM messaging.{name}")  # noqa: S608 -- a constant
