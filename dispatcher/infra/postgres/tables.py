"""Whether the tables are there, and are what the statements take them for: plain tables without children."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import psycopg

from dispatcher.core.errors import Misconfigured
from dispatcher.infra import sqlfiles
from dispatcher.infra.sqlfiles import load

_RELATIONS = """
SELECT c.relname::text FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = 'messaging' AND c.relkind IN ('r', 'p', 'i')
UNION ALL
SELECT c.relname || ' replicated' FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = 'messaging' AND c.relkind = 'r' AND c.relreplident = 'f'
UNION ALL
SELECT c.relname || ' view' FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = 'messaging' AND c.relkind = 'v'
UNION ALL
SELECT p.proname || '()' FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
WHERE n.nspname = 'messaging'
UNION ALL
SELECT c.relname || '.' || a.attname
FROM pg_catalog.pg_attribute AS a
JOIN pg_catalog.pg_class AS c ON c.oid = a.attrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = 'messaging' AND c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped
UNION ALL
SELECT c.relname || '.' || a.attname || ' constant'
FROM pg_catalog.pg_attrdef AS d
JOIN pg_catalog.pg_attribute AS a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
JOIN pg_catalog.pg_class AS c ON c.oid = d.adrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = 'messaging' AND d.adbin::text LIKE '{CONST %' -- pg_get_expr would wait for a lock on the table
"""
# A child in inheritance that is on another server (relkind f), or partitioned (p), is one too.
_SHAPES = """
SELECT
    c.relname::text,
    c.relkind::text,
    ARRAY(
        SELECT i.inhrelid::regclass::text FROM pg_catalog.pg_inherits AS i WHERE i.inhparent = c.oid
        ORDER BY i.inhrelid LIMIT 5
    ),
    c.relkind = 'r' AND pg_catalog.row_security_active(c.oid),
    pg_catalog.pg_has_role(c.relowner, 'USAGE'),
    pg_catalog.quote_ident(current_user)
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = 'messaging'
  AND (c.relkind IN ('p', 'v', 'm', 'f') OR (c.relkind = 'r' AND (c.relhassubclass OR c.relrowsecurity)))
ORDER BY c.relname
"""
_KINDS = {"p": "partitioned", "v": "a view", "m": "a materialized view", "f": "a foreign table"}


class Fetches(Protocol):
    """What asks: a session, or a plain connection through `_ask`."""

    async def fetch(self, sql: str, params: Mapping[str, object] | None = None, /) -> list[tuple[Any, ...]]:
        """Run one statement and return its rows."""
        ...


Queryable = Fetches | psycopg.AsyncConnection[tuple[Any, ...]]


async def missing(connection: Queryable) -> list[str]:
    """The migrations of which a table, column or function is not there, in order. Needs no right but to connect."""
    there = {name for (name,) in await _ask(connection, _RELATIONS)}
    return [m.name for m in sqlfiles.migrations() if not (made_by(m.sql) - _indexes(m.sql)) <= there]


def what_lacks(where: str, gone: Sequence[str]) -> str:
    """The message for a database of which migrations are `missing`, and who brings them. `where`: the database."""
    if len(gone) == len(sqlfiles.migrations()):
        found, ours = f"there is no outbox in {where}", "that makes it"
    else:
        found, ours = f"{where} lacks {', '.join(gone)}", "to this release"
    return f"{found}: run `dispatcher migrate` first, or the application's own migration {ours} (Alembic, Django)"


async def complete(connection: Queryable, sql: str) -> bool:
    """Whether each table, column, index and function that a migration makes is there."""
    return made_by(sql) <= {name for (name,) in await _ask(connection, _RELATIONS)}


async def why_copy(connection: Fetches, *, settle: bool) -> str | None:
    """Why this outbox is a copy that waits for a person's word, and what to do; None: it is at home.

    `settle`: one that brought no event along becomes an outbox of its own.
    """
    try:
        subscriptions = await connection.fetch(load("subscriptions"))
    except psycopg.errors.InsufficientPrivilege:
        subscriptions = []  # a server where not everybody may read that
    for (name,) in subscriptions:
        return (
            f"this outbox is a copy: its rows come from another one by logical replication (subscription {name}). "
            f"Nothing is claimed, or events would be published twice. When this database takes over: "
            f"DROP SUBSCRIPTION {name}"
        )
    [(why,)] = await connection.fetch(load("why_copy"), {"settle": settle})
    if why is None:
        return None
    return (
        f"this outbox is a copy: {why}. Nothing is claimed, or events would be published twice. If applications write "
        "to it now, and nothing else publishes its events: `dispatcher accept-copy`"
    )


async def unfit(connection: Queryable, *, children: bool = True) -> list[tuple[str, str]]:
    """What no dispatcher can work on, and the remedy of each.

    Our tables that are partitioned, or views, or have children, or from which a policy may hide rows.
    A row is named by its place (ctid), which is its own in one plain table only. A child's rows are left alone by every
    statement (ONLY), so what runs already may go on: `children` False.
    """
    ours = set[str]().union(*(_tables(m.sql) for m in sqlfiles.migrations()))
    found: list[tuple[str, str]] = []
    for name, kind, has, filtered, is_owner, role in await _ask(connection, _SHAPES):
        if name not in ours:
            continue
        if kind in _KINDS:
            found.append(
                (
                    f"messaging.{name} is {_KINDS[kind]}, and a dispatcher works on plain tables only",
                    f"make it a plain table again: CREATE SCHEMA IF NOT EXISTS messaging_old, "
                    f"ALTER {'TABLE' if kind == 'p' else _KINDS[kind][2:].upper()} messaging.{name} SET SCHEMA "
                    "messaging_old, `dispatcher migrate`, then copy the rows (docs/how-to/plain-table.md)",
                )
            )
            continue
        if filtered:
            off = f"ALTER TABLE messaging.{name} {'NO FORCE' if is_owner else 'DISABLE'} ROW LEVEL SECURITY"
            found.append(
                (
                    f"row-level security of messaging.{name} may hide rows from {role}: they would wait unseen",
                    f"as a superuser ALTER ROLE {role} BYPASSRLS, or as the table's owner {off}",
                )
            )
        if children and has:
            found.append(
                (
                    f"messaging.{name} has children in inheritance ({', '.join(has)}): "
                    "their rows seem to be in it, and no dispatcher sees them",
                    "; ".join(f"ALTER TABLE {child} NO INHERIT messaging.{name}" for child in has),
                )
            )
    return found


async def refuse_unfit(connection: Queryable, where: str, *, children: bool = True) -> None:
    """Raises Misconfigured for all that is `unfit`. `where`: the server and database, for the message."""
    if found := await unfit(connection, children=children):
        raise Misconfigured(f"{where}: " + "; ".join(f"{what}. Remedy: {remedy}" for what, remedy in found))


async def _ask(connection: Queryable, sql: str) -> list[tuple[Any, ...]]:
    if isinstance(connection, psycopg.AsyncConnection):
        return await (await connection.execute(sql.encode())).fetchall()
    return await connection.fetch(sql)


def made_by(sql: str) -> set[str]:
    """What a migration makes: tables, indexes, functions with () behind their names, columns as table.column.

    "table.column constant": it has a default that is no expression. "name view": so that no view passes for a table.
    "table replicated": its replica identity is FULL.
    """
    made = re.findall(r"^CREATE OR REPLACE (?:FUNCTION|PROCEDURE) messaging\.(\w+)", sql, re.MULTILINE)
    return (
        _tables(sql)
        | _indexes(sql)
        | {f"{name}()" for name in made}
        | _columns(sql)
        | _constants(sql)
        | _views(sql)
        | _replicated(sql)
    )


def _tables(sql: str) -> set[str]:
    return set(re.findall(r"^CREATE (?:UNLOGGED )?TABLE IF NOT EXISTS messaging\.(\w+)", sql, re.MULTILINE))


def _indexes(sql: str) -> set[str]:
    return set(re.findall(r"^CREATE (?:UNIQUE )?INDEX IF NOT EXISTS (\w+)", sql, re.MULTILINE))


def _views(sql: str) -> set[str]:
    return {f"{name} view" for name in re.findall(r"^CREATE OR REPLACE VIEW messaging\.(\w+)", sql, re.MULTILINE)}


def _replicated(sql: str) -> set[str]:
    found = re.findall(r"^ALTER TABLE ONLY messaging\.(\w+) REPLICA IDENTITY FULL", sql, re.MULTILINE)
    return {f"{table} replicated" for table in found}


def _constants(sql: str) -> set[str]:
    found = re.findall(r"^ALTER TABLE ONLY messaging\.(\w+) ALTER COLUMN (\w+) SET DEFAULT '", sql, re.MULTILINE)
    return {f"{table}.{column} constant" for table, column in found}


def _columns(sql: str) -> set[str]:
    altered = re.findall(r"^ALTER TABLE messaging\.(\w+)\n([^;]*);", sql, re.MULTILINE)
    return {
        f"{table}.{column}" for table, body in altered for column in re.findall(r"ADD COLUMN IF NOT EXISTS (\w+)", body)
    }
