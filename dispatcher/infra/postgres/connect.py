"""Opens a Postgres session with our settings, and says in plain words why it could not."""

import asyncio
import os
from contextlib import nullcontext
from typing import Any

import psycopg

from dispatcher.core.errors import Misconfigured, NoConnectionLeft, SessionLost, Unreachable
from dispatcher.infra.postgres.connect_errors import explain
from dispatcher.infra.postgres.dial import DialFailed, dial
from dispatcher.infra.postgres.session import Session, describe
from dispatcher.infra.postgres.target import PostgresTarget

MINIMUM_VERSION = 140000

_SET = "SELECT set_config(s.name, s.value, false) FROM unnest(%(names)s::text[], %(values)s::text[]) AS s (name, value)"
# A role or a database may name schemas before pg_catalog: a clock_timestamp() of somebody's there would be ours.
_POSTGRES_FIRST = (
    "SELECT pg_catalog.set_config('search_path', "
    "pg_catalog.concat('pg_catalog, ', pg_catalog.current_setting('search_path')), false) "
    "WHERE pg_catalog.array_position(pg_catalog.current_schemas(true), 'pg_catalog') OPERATOR(pg_catalog.>) 1"
)


async def connect(target: PostgresTarget, purpose: str) -> Session:
    """Open a session.

    Raises Misconfigured (wrong password, unknown database, server too old ...: waiting does not help) or Unreachable.
    """
    session, connection = await _open(target, purpose)
    gave_up = False

    def give_up() -> None:
        nonlocal gave_up
        gave_up = True
        session.cut()

    # A server that is silent from here on costs no more than one that does not answer at all.
    patience = asyncio.get_running_loop().call_later(target.connect_timeout_s, give_up)
    try:
        await _introduce(session, target, connection)
    except Unreachable:
        await session.close()
        if not gave_up:
            raise
        raise NoConnectionLeft(
            f"{_where(target)} took the connection, and answered nothing within {target.connect_timeout_s:g} s: it "
            "hangs, or is a pooler without a server connection left (default_pool_size)",
            silent=True,
        ) from None
    except BaseException:
        await session.close()
        raise
    finally:
        patience.cancel()
    return session


def _where(target: PostgresTarget) -> str:
    return f"Postgres at {target.address()}"


async def _open(target: PostgresTarget, purpose: str) -> tuple[Session, psycopg.AsyncConnection[tuple[Any, ...]]]:
    """A session as the server gives it, and its connection."""
    try:
        pgconn = await dial(target.full_conninfo(purpose), target.connect_timeout_s)
    except psycopg.ProgrammingError:
        raise Misconfigured(
            "DATABASE_URL is neither a postgresql:// URL nor libpq key/value pairs such as 'host=db dbname=app user=me'"
        ) from None
    except DialFailed as failed:
        raise explain(_where(target), failed, target.secrets()) from None
    connection = psycopg.AsyncConnection(pgconn)
    try:
        await connection.set_autocommit(True)  # it asks no server, and yet psycopg lets the loop run now and then
        return Session(connection, target.query_timeout_s + 2.0), connection
    except BaseException as error:
        await connection.close()
        if isinstance(error, OSError):
            raise Unreachable(f"{_where(target)}: {os.strerror(error.errno or 0)}") from None
        raise


async def _introduce(
    session: Session, target: PostgresTarget, connection: psycopg.AsyncConnection[tuple[Any, ...]]
) -> None:
    """Check the server, and give the session its settings where they last."""
    where = _where(target)
    version = connection.info.server_version
    if version < MINIMUM_VERSION:
        major = f"{version // 10000}.{version % 10000}" if version >= 100000 else str(version // 10000)
        raise Misconfigured(f"{where} runs PostgreSQL {major}; PostgreSQL 14 or later is needed")
    if connection.info.parameter_status("server_encoding") == "SQL_ASCII":
        raise Misconfigured(f"{where} has no encoding (SQL_ASCII); a database with ENCODING 'UTF8' is needed")
    try:
        if not await _owns(session, target):
            session.treat_as_pooled()
        else:
            session.refused = await _set(session, target.session_settings(version))
    except (SessionLost, psycopg.Error) as error:
        raise Unreachable(f"{where}: {describe(error)}") from None


async def _owns(session: Session, target: PostgresTarget) -> bool:
    """Whether the session stays with its server process, as without a pooler, or with one that keeps sessions."""

    async def other() -> Session:
        opened, _ = await _open(target, "trial")
        return opened

    check = None if target.pooled else target.pooler_check
    async with check.turn() if check is not None else nullcontext():
        [(pid,)] = await session.fetch("SELECT pg_backend_pid()", once=True)
        if target.pooled:
            return False
        if pid == session.backend_pid:  # a pooler invents the process id it announces
            if check is not None:
                check.met_none()
            return True
        if check is None:
            return False
        kept = await check.keeps(session, pid, other)
        session.pooler_full = check.no_room and not kept
    if kept:
        session.treat_as_kept(pid)
    return kept


async def _set(session: Session, settings: dict[str, str]) -> tuple[str, ...]:
    """Set all in one round trip; one by one where the server refuses one. Returns what it refused, by name."""
    refused: list[str] = []
    try:
        await session.fetch(_POSTGRES_FIRST, once=True)
    except psycopg.DatabaseError as error:
        if error.sqlstate is None:
            raise
        refused.append("search_path")
    try:
        await session.fetch(_SET, {"names": list(settings), "values": list(settings.values())}, once=True)
    except psycopg.DatabaseError as error:
        if error.sqlstate is None:
            raise
        for name, value in settings.items():
            try:
                await session.fetch(_SET, {"names": [name], "values": [value]}, once=True)
            except psycopg.DatabaseError:
                refused.append(name)
    return tuple(refused)
